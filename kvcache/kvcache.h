/* kvcache.h: who owns which page. Knows pages, page tables, sequences and auxiliary pools; knows no
 * algorithm, and no arithmetic but copying.
 *
 * A group is a set of layers that evict alike: per group a sequence has one page table and one
 * physical length. Page ids of different groups are unrelated; each group has num_pages of its own.
 * A page of a group is one bundle: on each of the group's layers its K, V, scales, positions and
 * page-scope auxiliary memory. They are shared, copied and freed together.
 *
 * Thread-safe, except that wn_kvcache_tables and the views of a sequence must not run beside calls
 * that change the same sequence. */
#ifndef WN_KVCACHE_H
#define WN_KVCACHE_H

#include "winnow/aux_pool.h"
#include "winnow/cache_view.h"
#include "winnow/ops.h"
#include "winnow/status.h"

enum { WN_CACHE_HND = 1, WN_CACHE_NHD = 2, WN_CACHE_VEC = 3 };

/* One auxiliary pool of one layer. */
typedef struct wn_kvcache_aux {
    uint32_t layer;
    wn_aux_pool pool;
} wn_kvcache_aux;

typedef struct wn_kvcache_shape {
    uint32_t num_layers, num_groups;
    const uint32_t *layer_group; /* [num_layers] */
    const uint8_t *group_evicts; /* [num_groups] 1: positions are kept beside the keys */
    uint32_t num_kv_heads, head_dim, v_head_dim;
    /* 1: there is no V pool; the view's v is the first v_head_dim channels of K. With dtype
     * F8_E4M3: records of WN_LAYOUT_MLA_FP8 (head_dim 576, v_head_dim 512), no scale pool. One KV
     * head, hnd or nhd (the same memory), not int8. Who compacts such a layer takes v out of the
     * view (data NULL): a token would be moved twice. */
    uint32_t mla;
    uint32_t dtype;  /* WN_F32, F16, BF16, F8_E4M3, I8 */
    uint32_t layout; /* WN_CACHE_... */
    uint32_t vec_x;  /* WN_CACHE_VEC: 16 bytes' worth of elements or 2 ...; else 0 */
    uint32_t tokens_per_page;
    uint32_t num_pages; /* per group */
    uint32_t max_sequences;
    uint32_t max_pages_per_sequence;
    const wn_kvcache_aux *aux; /* [num_aux], ordered by layer, then as declared */
    uint32_t num_aux;
} wn_kvcache_shape;

/* Bytes, to the byte, of everything the cache allocates for its pools and tables. */
typedef struct wn_kvcache_plan {
    uint64_t k_bytes, v_bytes, scale_bytes, position_bytes, page_table_bytes;
    uint64_t aux_bytes; /* all of them; of one: wn_kvcache_aux_bytes */
    uint64_t total_bytes;
} wn_kvcache_plan;

typedef struct wn_kvcache wn_kvcache;

/* Checks the shape (every contradiction named) and computes the plan. 64-bit throughout:
 * WN_ERANGE if a product overflows. */
wn_status wn_kvcache_plan_memory(const wn_kvcache_shape *shape, wn_kvcache_plan *plan,
                                 wn_error *error);
/* Bytes of one auxiliary pool over the whole cache. */
uint64_t wn_kvcache_aux_bytes(const wn_kvcache_shape *shape, uint32_t aux);

/* ops: for copying pages. Pools are mapped, not touched: memory is taken page by page on first
 * write. shape is copied. */
wn_status wn_kvcache_create(const wn_kvcache_shape *shape, const wn_ops *ops, wn_kvcache **cache,
                            wn_error *error);
void wn_kvcache_destroy(wn_kvcache *cache);
/* What was allocated in fact; equals the plan. */
void wn_kvcache_allocated(const wn_kvcache *cache, wn_kvcache_plan *plan);

/* Sequences. Ids are never reused. WN_ENOTFOUND for an id that is no sequence, WN_EBUSY for one
 * that is in a step. */
/* WN_ERANGE while max_sequences are alive; fork too. */
wn_status wn_kvcache_sequence_create(wn_kvcache *cache, int64_t *sequence, wn_error *error);
/* Shares all pages; copies sequence-scope auxiliary memory. */
wn_status wn_kvcache_sequence_fork(wn_kvcache *cache, int64_t parent, int64_t *child,
                                   wn_error *error);
/* To a length between what an eviction has chosen among and the present one, else WN_ERANGE. */
wn_status wn_kvcache_sequence_truncate(wn_kvcache *cache, int64_t sequence, int32_t length,
                                       wn_error *error);
wn_status wn_kvcache_sequence_free(wn_kvcache *cache, int64_t sequence, wn_error *error);
/* Any of the outputs may be NULL. next_position: one more than the last token's; a step's positions
 * count as consecutive when truncate cuts into it (position_runs.h). */
wn_status wn_kvcache_sequence_length(const wn_kvcache *cache, int64_t sequence, uint32_t group,
                                     int32_t *logical, int32_t *physical, int32_t *next_position,
                                     wn_error *error);
/* Place in sequence-scope pools, 0 .. max_sequences - 1; -1 if there is no such sequence. */
int32_t wn_kvcache_sequence_slot(const wn_kvcache *cache, int64_t sequence);

/* Steps. */
typedef struct wn_kvcache_item {
    int64_t sequence;
    int32_t num_tokens;    /* >= 0 */
    int32_t next_position; /* one more than the position of the last new token */
    uint32_t will_compact; /* bit g: group g will compact this sequence: make all its pages private.
                              Groups beyond 31 share bit 31 */
    uint32_t reserved;
} wn_kvcache_item;

/* Takes pages for the new tokens of all items, makes private every page that will be written
 * (copying the bundle), marks the sequences as busy, and advances their lengths. All or nothing:
 * WN_ENOPAGES, WN_EBUSY, WN_ENOTFOUND, WN_EINVAL (a sequence twice) and WN_ERANGE (more than
 * max_pages_per_sequence) leave everything as it was.
 * The error says how many pages of which group were missing. Allocates nothing in steady state. */
wn_status wn_kvcache_begin(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items,
                           wn_error *error);
/* A busy sequence's group now holds `length` tokens after a compaction of all the group's layers;
 * its surplus pages are freed by wn_kvcache_end. Tokens before that point can no longer be
 * truncated. WN_ESTATE unless begin was told (will_compact); WN_EINVAL for a group that keeps no
 * positions; WN_ERANGE for more tokens than there are. */
wn_status wn_kvcache_compacted(wn_kvcache *cache, int64_t sequence, uint32_t group, int32_t length,
                               wn_error *error);
/* Ends the step for these sequences: no longer busy, surplus pages freed. */
void wn_kvcache_end(wn_kvcache *cache, const wn_kvcache_item *items, uint32_t num_items);
/* Undoes wn_kvcache_begin for one item of it: lengths as before; pages that were made private stay
 * so. Not after wn_kvcache_compacted. */
void wn_kvcache_abort(wn_kvcache *cache, const wn_kvcache_item *item);
/* Frees a busy sequence: the only way out of a step that failed half-way through compacting. */
void wn_kvcache_abort_free(wn_kvcache *cache, int64_t sequence);

/* Views. */
/* Fills k, v, position, tokens_per_page, num_kv_heads; leaves page_table, length, batch alone.
 * Tensor scales are 1, and per-token scales are given for quantised dtypes (not for records, which
 * hold theirs). */
void wn_kvcache_view(const wn_kvcache *cache, uint32_t layer, wn_paged_kv *view);
/* View of the index-th auxiliary pool of a layer. */
void wn_kvcache_aux_view(const wn_kvcache *cache, uint32_t layer, uint32_t index,
                         wn_aux_view *view);
/* Copies page tables and physical lengths of sequences; an id that is no sequence has length 0. A
 * row has `stride` entries: the sequence's pages, then one -1; the rest of it is left as it was. */
void wn_kvcache_tables(const wn_kvcache *cache, uint32_t group, const int64_t *sequences,
                       uint32_t num_sequences, int32_t *page_table, int64_t stride,
                       int32_t *length);

typedef struct wn_kvcache_stats {
    uint32_t pages_used, pages_free, pages_shared; /* of one group */
    uint32_t sequences;
    uint64_t pages_copied; /* since creation */
} wn_kvcache_stats;
void wn_kvcache_group_stats(const wn_kvcache *cache, uint32_t group, wn_kvcache_stats *stats);

#endif
