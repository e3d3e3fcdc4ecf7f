/* test_report.c: the page stands alone, is well formed, and survives hostile words. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/report.h"
#include "tools/report_parts.h"

#include <string.h>

/* Every element that is opened is closed, in order; void elements and self-closed ones aside. */
static int well_formed(const char *page)
{
    static const char *const voids[] = {"meta", "input", "br", "!doctype"};
    char open[64][16];
    int depth = 0;
    for (const char *at = strchr(page, '<'); at != NULL; at = strchr(at + 1, '<')) {
        char name[16];
        size_t length = strcspn(at + 1, " >/\n");
        if (at[1] == '/') {
            length = strcspn(at + 2, ">");
            if (depth == 0 || strlen(open[depth - 1]) != length ||
                strncmp(open[depth - 1], at + 2, length) != 0)
                return 0;
            depth--;
            continue;
        }
        snprintf(name, sizeof name, "%.*s", (int)length, at + 1);
        int is_void = 0;
        for (size_t i = 0; i < sizeof voids / sizeof voids[0]; i++)
            is_void |= strcmp(voids[i], name) == 0;
        const char *end = strchr(at, '>');
        if (end == NULL || depth == 64)
            return 0;
        if (!is_void && end[-1] != '/')
            strcpy(open[depth++], name);
    }
    return depth == 0;
}

static char *make_page(wn_trace *trace, size_t *bytes)
{
    wn_fact *fact;
    char path[256];
    wn_replay *replays[2] = {check_replay_make(trace, "dense", 0, 0),
                             check_replay_make(trace, "a<b>&\"c", 10, 50)};
    CU_ASSERT_EQUAL_FATAL(wn_fact_find(trace, &fact, NULL), WN_OK);
    wn_run run = {.trace = trace, .replays = replays, .count = 2, .fact = fact};
    snprintf(path, sizeof path, "%s", check_file_path("page.html"));
    CU_ASSERT_EQUAL_FATAL(wn_report_write(path, &run, NULL), WN_OK);
    char *page = check_file_read(path, bytes);
    wn_fact_free(fact);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    return page;
}

static void stands_alone(void)
{
    size_t bytes;
    wn_trace *trace = check_replay_trace();
    char *page = make_page(trace, &bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    CU_ASSERT_EQUAL(strlen(page), bytes);
    CU_ASSERT(well_formed(page));
    CU_ASSERT_PTR_NULL(strstr(page, "http"));
    CU_ASSERT_PTR_NULL(strstr(page, "<script"));
    CU_ASSERT_PTR_NULL(strstr(page, "src="));
    CU_ASSERT_PTR_NULL(strstr(page, "nan"));
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "a&lt;b&gt;&amp;&quot;c"));
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "prefers-color-scheme:dark"));
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "lost the fact"));
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "role=\"img\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "<mark title"));
    free(page);
    wn_trace_close(trace);
}

static void hostile_words(void)
{
    size_t bytes;
    wn_trace *trace = check_replay_trace();
    uint64_t state = wn_test_seed();
    uint8_t *text = (uint8_t *)(uintptr_t)trace->text;
    for (int32_t i = 0; i < trace->text_begin[CHECK_TOKENS]; i++)
        text[i] = (uint8_t)wn_random(&state);
    memcpy(text + 8, "<script>alert(1)</script>", 25);
    char *page = make_page(trace, &bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    CU_ASSERT_EQUAL(strlen(page), bytes); /* no NUL */
    CU_ASSERT(well_formed(page));
    CU_ASSERT_PTR_NULL(strstr(page, "<script"));
    free(page);
    wn_trace_close(trace);
}

static void no_words_no_generation(void)
{
    size_t bytes;
    wn_trace *trace = check_replay_trace();
    trace->text_begin = NULL;
    char *page = make_page(trace, &bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    CU_ASSERT(well_formed(page));
    CU_ASSERT_PTR_NULL(strstr(page, "class=\"words\""));
    free(page);
    wn_trace_close(trace);
}

static void escaping(void)
{
    static const char raw[] = "a<b>&\"\x01\xff\xc3\xa9\xed\xa0\x80\xf0\x9f\x8c\xbe\xc3";
    char *made = NULL;
    size_t bytes;
    FILE *to = open_memstream(&made, &bytes);
    wn_report_escape(to, raw, sizeof raw - 1);
    fclose(to);
    CU_ASSERT_STRING_EQUAL(made,
                           "a&lt;b&gt;&amp;&quot;\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9"
                           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x8c\xbe\xef\xbf\xbd");
    free(made);
}

static void path_that_cannot_be_written(void)
{
    wn_trace *trace = check_replay_trace();
    wn_run run = {.trace = trace};
    CU_ASSERT_EQUAL(wn_report_write("/nonexistent/page.html", &run, NULL), WN_EIO);
    wn_trace_close(trace);
}

WN_SUITE("tools.report", {"the page stands alone", stands_alone}, {"hostile words", hostile_words},
         {"a trace without words", no_words_no_generation}, {"escaping", escaping},
         {"a path that cannot be written", path_that_cannot_be_written})
