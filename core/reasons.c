/* reasons.c: the growing list of reasons, and the buffer that holds each thread's error text. A
 * list that cannot grow remembers that it lost something, so that a refusal is never reported as
 * complete when it is not. */
#include "core/reasons.h"

#include "winnow/winnow.h"

#include <stdlib.h>
#include <string.h>

enum { ERROR_BYTES = 16 * 1024, MORE_BYTES = 64 };

static _Thread_local char thread_text[ERROR_BYTES];
static _Thread_local wn_error thread_error;

wn_error *wn_thread_error(void)
{
    if (thread_error.text == NULL)
        thread_error = (wn_error){WN_SIZEOF(wn_error), ERROR_BYTES, thread_text};
    return &thread_error;
}

const char *wn_error_text(void)
{
    return thread_text;
}

/* Room for `more` further bytes and a NUL. */
static int reserve(wn_reason_list *list, size_t more)
{
    if (list->capacity - list->bytes > more)
        return 1;
    size_t capacity = list->capacity < 256 ? 256 : list->capacity;
    while (capacity - list->bytes <= more)
        capacity *= 2;
    char *text = realloc(list->text, capacity);
    if (text == NULL) {
        list->out_of_memory = 1;
        return 0;
    }
    list->text = text;
    list->capacity = capacity;
    return 1;
}

void wn_reason_add(wn_reason_list *list, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || !reserve(list, (size_t)length + 1))
        return;
    if (list->count > 0)
        list->text[list->bytes++] = '\n';
    va_start(arguments, format);
    vsnprintf(list->text + list->bytes, (size_t)length + 1, format, arguments);
    va_end(arguments);
    list->bytes += (size_t)length;
    list->count++;
}

void wn_reasons_clear(wn_reason_list *list)
{
    free(list->text);
    *list = (wn_reason_list){0};
}

/* A plugin's text may have several lines: each is a reason. */
static void add_prefixed(void *context, const char *text)
{
    const wn_reason_adapter *adapter = context;
    while (text != NULL && *text != '\0') {
        size_t length = strcspn(text, "\n");
        int shown = length > ERROR_BYTES ? ERROR_BYTES : (int)length;
        if (length > 0)
            wn_reason_add(adapter->list, "%s%.*s", adapter->prefix, shown, text);
        text += length + (text[length] == '\n');
    }
}

void wn_reason_adapter_init(wn_reason_adapter *adapter, wn_reason_list *list, const char *prefix)
{
    adapter->reasons = (wn_reasons){WN_SIZEOF(wn_reasons), 0, adapter, add_prefixed};
    adapter->list = list;
    adapter->prefix = prefix == NULL ? "" : prefix;
}

/* Bytes of the longest run of whole lines that leaves MORE_BYTES of the buffer free; a first line
 * that is too long by itself is cut. */
static size_t whole_lines(const char *text)
{
    size_t end = ERROR_BYTES - MORE_BYTES;
    while (end > 0 && text[end] != '\n')
        end--;
    return end > 0 ? end : ERROR_BYTES - MORE_BYTES;
}

static uint32_t lines_in(const char *text)
{
    uint32_t lines = 1;
    for (; *text != '\0'; text++)
        lines += *text == '\n';
    return lines;
}

wn_status wn_fail_with_reasons(wn_reason_list *list, wn_status status)
{
    wn_error *error = wn_thread_error();
    const char *lost = list->out_of_memory ? "\n(out of memory: further reasons were lost)" : "";
    if (list->text == NULL)
        wn_fail(error, status, "%s", wn_status_text(list->out_of_memory ? WN_ENOMEM : status));
    else if (list->bytes + MORE_BYTES < ERROR_BYTES)
        wn_fail(error, status, "%s%s", list->text, lost);
    else {
        size_t shown = whole_lines(list->text);
        const char *rest = list->text + shown;
        uint32_t more = lines_in(rest + (*rest == '\n'));
        wn_fail(error, status, "%.*s\n... and %u line%s more", (int)shown, list->text, more,
                more == 1 ? "" : "s");
    }
    wn_reasons_clear(list);
    return status;
}
