/* Lists of reasons and the error text of a thread. */
#include "tests/suite.h"

#include "core/reasons.h"
#include "winnow/winnow.h"

#include <pthread.h>
#include <string.h>

static void reasons_are_joined_by_newlines(void)
{
    wn_reason_list list = {0};
    wn_reason_add(&list, "first %d", 1);
    CU_ASSERT_STRING_EQUAL(list.text, "first 1");
    wn_reason_add(&list, "%s", "second");
    wn_reason_add(&list, "third");
    CU_ASSERT_STRING_EQUAL(list.text, "first 1\nsecond\nthird");
    CU_ASSERT_EQUAL(list.count, 3);
    CU_ASSERT_EQUAL(list.bytes, strlen(list.text));
    wn_reasons_clear(&list);
    CU_ASSERT_PTR_NULL(list.text);
    wn_reasons_clear(&list);
}

static void list_grows_at_every_length(void)
{
    wn_reason_list list = {0};
    char text[700];
    size_t expected = 0;
    for (int i = 1; i < 600; i++) {
        memset(text, 'a' + i % 26, (size_t)i);
        text[i] = '\0';
        wn_reason_add(&list, "%s", text);
        expected += (size_t)i + (i > 1);
        CU_ASSERT_EQUAL_FATAL(list.bytes, expected);
        CU_ASSERT_EQUAL_FATAL(strlen(list.text), expected);
    }
    wn_reasons_clear(&list);
}

static void adapter_prefixes_every_line(void)
{
    wn_reason_list list = {0};
    wn_reason_adapter adapter;
    wn_reason_adapter_init(&adapter, &list, "window: ");
    CU_ASSERT_EQUAL(adapter.reasons.struct_size, WN_SIZEOF(wn_reasons));
    adapter.reasons.add(adapter.reasons.context, "sinks < 0");
    adapter.reasons.add(adapter.reasons.context, "two\nlines\n");
    adapter.reasons.add(adapter.reasons.context, "");
    adapter.reasons.add(adapter.reasons.context, NULL);
    CU_ASSERT_STRING_EQUAL(list.text, "window: sinks < 0\nwindow: two\nwindow: lines");
    CU_ASSERT_EQUAL(list.count, 3);
    wn_reasons_clear(&list);
}

static void failing_moves_the_list_to_the_thread(void)
{
    wn_reason_list list = {0};
    wn_reason_add(&list, "a");
    wn_reason_add(&list, "b");
    CU_ASSERT_EQUAL(wn_fail_with_reasons(&list, WN_ECONFIG), WN_ECONFIG);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "a\nb");
    CU_ASSERT_PTR_NULL(list.text);
    CU_ASSERT_EQUAL(wn_fail_with_reasons(&list, WN_ENOMEM), WN_ENOMEM);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "out of memory");
}

static void lost_reasons_are_admitted(void)
{
    wn_reason_list list = {0};
    wn_reason_add(&list, "a");
    list.out_of_memory = 1;
    wn_fail_with_reasons(&list, WN_ECONFIG);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "a\n(out of memory: further reasons were lost)");
}

static void too_many_reasons_are_counted(void)
{
    wn_reason_list list = {0};
    for (int i = 0; i < 5000; i++)
        wn_reason_add(&list, "reason %04d", i);
    wn_fail_with_reasons(&list, WN_ECONFIG);
    const char *text = wn_error_text(), *last = strrchr(text, '\n');
    unsigned shown = 0, more = 0;
    for (const char *c = text; (c = strstr(c, "reason ")) != NULL; c++)
        shown++;
    CU_ASSERT_EQUAL(sscanf(last, "\n... and %u lines more", &more), 1);
    CU_ASSERT_EQUAL(shown + more, 5000);
    CU_ASSERT(strlen(text) < 16 * 1024);
    CU_ASSERT(strlen(text) > 15 * 1024);
}

static void one_endless_reason_is_cut(void)
{
    wn_reason_list list = {0};
    char *text = calloc(1, 40001);
    memset(text, 'x', 40000);
    wn_reason_add(&list, "%s", text);
    free(text);
    wn_fail_with_reasons(&list, WN_ECONFIG);
    CU_ASSERT(strlen(wn_error_text()) < 16 * 1024);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "\n... and 1 line more"));
}

static void *fail_elsewhere(void *seen)
{
    *(int *)seen = wn_error_text()[0] == '\0';
    wn_fail(wn_thread_error(), WN_EINVAL, "the other thread's");
    return NULL;
}

static void threads_have_texts_of_their_own(void)
{
    pthread_t thread;
    int began_empty = 0;
    wn_fail(wn_thread_error(), WN_EINVAL, "mine");
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, fail_elsewhere, &began_empty), 0);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(began_empty, 1);
    CU_ASSERT_STRING_EQUAL(wn_error_text(), "mine");
}

WN_SUITE("core.reasons", {"reasons are joined by newlines", reasons_are_joined_by_newlines},
         {"list grows at every length", list_grows_at_every_length},
         {"adapter prefixes every line", adapter_prefixes_every_line},
         {"failing moves the list to the thread", failing_moves_the_list_to_the_thread},
         {"lost reasons are admitted", lost_reasons_are_admitted},
         {"too many reasons are counted", too_many_reasons_are_counted},
         {"one endless reason is cut", one_endless_reason_is_cut},
         {"threads have texts of their own", threads_have_texts_of_their_own})
