/* choice.h: checks what plugins chose, and brings it into the one form that the ops take:
 * slots, ascending, no duplicates. Private to core. */
#ifndef WN_CHOICE_H
#define WN_CHOICE_H

#include "winnow/cache_view.h"
#include "winnow/selection.h"
#include "winnow/status.h"

/* What the lists are judged against: the requests of one phase of one layer. */
typedef struct wn_selection_scope {
    const wn_paged_kv *kv;
    const int32_t *q_len;    /* [kv->batch] */
    uint32_t positions_kept; /* 1: kv->position must be used to read logical indices */
    uint32_t granularity;    /* WN_GRANULARITY_... */
    const char *algorithm;   /* whom to blame */
} wn_selection_scope;

typedef struct wn_selection_count {
    uint64_t selected; /* keys named, summed over query tokens and KV heads; not beyond causality */
    uint64_t attended; /* the same after widening to pages */
} wn_selection_count;

/* The buffers that the host lent to a plugin. */
typedef struct wn_selection_buffers {
    int32_t *indices;
    int64_t capacity;
    int32_t *offsets;
    int64_t offsets_capacity;
} wn_selection_buffers;

/* An empty selection over the buffers, for the plugin to fill. */
wn_selection wn_selection_lend(const wn_selection_buffers *buffers);

/* In place: checks, translates to slots, sorts, drops invalid entries and duplicates (lists are
 * then padded with -1). row_begin [kv->batch] is filled in: the first row of each request. */
wn_status wn_selection_settle(wn_selection *selection, const wn_selection_buffers *buffers,
                              const wn_selection_scope *scope, int32_t *row_begin,
                              wn_selection_count *count, wn_error *error);

/* Checks a retain result: one ascending list per KV head and request, of kept[b] slots. */
wn_status wn_selection_check_retained(const wn_selection *selection,
                                      const wn_selection_buffers *buffers,
                                      const wn_selection_scope *scope, const int32_t *kept,
                                      wn_error *error);

#endif
