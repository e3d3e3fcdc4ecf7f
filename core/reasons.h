/* reasons.h: a growing list of lines, for places that report every error and not just the first;
 * and this thread's error text. */
#ifndef WN_REASONS_H
#define WN_REASONS_H

#include "winnow/config.h"
#include "winnow/status.h"

typedef struct wn_reason_list {
    char *text; /* lines joined by '\n', no newline at the end; NULL when empty */
    size_t bytes, capacity;
    uint32_t count;
    uint32_t out_of_memory;
} wn_reason_list;

void wn_reason_add(wn_reason_list *list, const char *format, ...) WN_PRINTF(2, 3);
void wn_reasons_clear(wn_reason_list *list);
/* The list as the table that plugins add to. prefix ("NAME: ") goes before each line. */
typedef struct wn_reason_adapter {
    wn_reasons reasons;
    wn_reason_list *list;
    const char *prefix;
} wn_reason_adapter;
void wn_reason_adapter_init(wn_reason_adapter *adapter, wn_reason_list *list, const char *prefix);

/* The buffer behind wn_error_text(), 16 KiB per thread. Public functions pass it down. */
wn_error *wn_thread_error(void);
/* Moves the list into this thread's error text, clears it, returns status. */
wn_status wn_fail_with_reasons(wn_reason_list *list, wn_status status);

#endif
