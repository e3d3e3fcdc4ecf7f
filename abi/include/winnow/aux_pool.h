/* aux_pool.h: interface winnow.aux_pool/1, for methods that keep memory of their own beside K and
 * V. The KV cache allocates, counts, shares, copies and frees it together with the pages. */
#ifndef WINNOW_AUX_POOL_H
#define WINNOW_AUX_POOL_H

#include "winnow/step.h"

#define WN_INTERFACE_AUX_POOL "winnow.aux_pool/1"

enum {
    WN_AUX_PAGE = 1,    /* one piece per page and KV head: lives and dies with the page */
    WN_AUX_SEQUENCE = 2 /* one piece per sequence: zeroed at begin, copied at fork */
};

enum {
    WN_AUX_SHARED_HEADS = 1, /* page scope: one piece per page, not per KV head */
    WN_AUX_RECOMPUTABLE = 2  /* observe() with dirty_begin = 0 rebuilds it from the keys */
};

#define WN_MAX_AUX_POOLS 8

typedef struct wn_aux_pool {
    uint32_t struct_size;
    uint32_t scope;          /* WN_AUX_PAGE, WN_AUX_SEQUENCE */
    uint32_t flags;          /* WN_AUX_SHARED_HEADS ... */
    uint32_t layout_version; /* with `layout`, the identity of the format */
    const char *name;        /* "landmarks" */
    const char *layout;      /* "rocket.landmarks"; static */
    uint64_t bytes;          /* of one piece, on one layer; > 0 */
    uint32_t alignment;      /* of a piece: a power of two up to 64 */
    /* Page scope: writing slot s may also rewrite what is stored for slots down to
     * s - lookback_tokens, in an earlier page. The cache then makes that page private too. */
    uint32_t lookback_tokens;
} wn_aux_pool;
WN_STRUCT(wn_aux_pool, lookback_tokens);

typedef struct wn_aux_pool_interface {
    uint32_t struct_size;
    uint32_t reserved;
    /* Writes up to WN_MAX_AUX_POOLS pools of this layer into pools[] (struct_size set by the host)
     * and their number into *count; 0 is fine. Layers of one engine may differ. [control] */
    wn_status (*declare)(void *instance, uint32_t layer, uint32_t tokens_per_page,
                         wn_aux_pool *pools, uint32_t *count, wn_error *error);
    /* Brings the pools up to date with slots [dirty_begin, kv.length) of each request: after every
     * append, and after a compaction with dirty_begin = 0. [step] & capture-safe & concurrent */
    wn_status (*observe)(void *instance, const wn_step_args *args);
} wn_aux_pool_interface;
WN_STRUCT(wn_aux_pool_interface, observe);

#endif
