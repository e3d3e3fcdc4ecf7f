/* kvcache_internal.h: the cache's own structs, shared by the files of this folder and its tests.
 *
 * All bookkeeping lives in one block that is mapped at creation and laid out by bookkeeping.c:
 * nothing is allocated afterwards. A sequence occupies one of max_sequences slots, with room for a
 * page table of max_pages_per_sequence entries in each group. Its id is
 * generation * max_sequences + slot, where a slot's generation counts from 1 and grows with each
 * free: finding a sequence takes one division, an id is never 0 and never comes back.
 *
 * One mutex guards everything but the pools' contents. Copying pages happens under it: whoever
 * holds the last other reference to a page may write to it as soon as the copier has let go of it.
 */
#ifndef WN_KVCACHE_INTERNAL_H
#define WN_KVCACHE_INTERNAL_H

#include <pthread.h>

#include "kvcache/kvcache.h"
#include "kvcache/page_allocator.h"
#include "kvcache/pool.h"
#include "kvcache/position_runs.h"
#include "kvcache/shape.h"

/* What a sequence has in one group. Outside a step, num_pages is just what `length` needs. */
typedef struct wn_sequence_group {
    int32_t *pages; /* [max_pages_per_sequence] page ids, num_pages of them valid */
    uint32_t num_pages;
    int32_t length;        /* physical */
    int32_t length_before; /* the open step */
    uint32_t will_compact; /* was announced for the open step */
} wn_sequence_group;

typedef struct wn_cached_sequence {
    int64_t id;               /* 0: the slot is free */
    int64_t generation;       /* of the next id of this slot */
    wn_sequence_group *group; /* [num_groups] */
    wn_position_runs positions, positions_before;
    int32_t logical, logical_before;
    int32_t floor;      /* shortest length that truncate may cut to */
    int32_t next_free;  /* slot, or -1; of free slots */
    uint64_t step;      /* the step that it is busy in; 0: none */
    uint32_t compacted; /* in the open step */
    uint32_t reserved;
} wn_cached_sequence;

typedef struct wn_cache_group {
    wn_page_allocator allocator;
    uint32_t lookback_tokens;
    uint64_t pages_copied;
} wn_cache_group;

struct wn_kvcache {
    pthread_mutex_t mutex;
    wn_kvcache_shape shape; /* aux is NULL: what matters of it is in the pools */
    const wn_ops *ops;
    const wn_memory_source *source;
    wn_kvcache_plan allocated;
    uint64_t bookkeeping_bytes;
    uint64_t num_pools;
    wn_pool *pools;               /* [num_pools] numbered as in shape.h */
    uint32_t *layer_aux;          /* [num_layers] number of the layer's first auxiliary pool */
    wn_cache_group *group;        /* [num_groups] */
    wn_cached_sequence *sequence; /* [max_sequences] by slot */
    int32_t free_slot;            /* head of the list of free slots; -1: none */
    uint32_t num_sequences;
    uint64_t steps;       /* opened so far */
    uint32_t *claims;     /* [num_pages] copies planned of each page; zero between calls */
    int32_t *copy_source; /* [max_pages_per_sequence] scratch of one copy */
    int32_t *copy_destination;
};

/* The block: where each array starts. With base NULL all pointers are NULL and bytes is the size.
 */
typedef struct wn_bookkeeping {
    uint64_t bytes; /* saturates */
    wn_kvcache *cache;
    uint32_t *layer_group;
    uint8_t *group_evicts;
    wn_pool *pools;
    uint32_t *layer_aux;
    wn_cache_group *group;
    uint32_t *references; /* [num_groups, num_pages] */
    int32_t *recycled;    /* [num_groups, num_pages] */
    uint32_t *claims;
    wn_cached_sequence *sequence;
    wn_sequence_group *sequence_group; /* [max_sequences, num_groups] */
    int32_t *page_table;               /* [max_sequences, num_groups, max_pages_per_sequence] */
    int32_t *copy_source, *copy_destination;
} wn_bookkeeping;

void wn_bookkeeping_lay_out(const wn_kvcache_shape *shape, void *base, wn_bookkeeping *block);
/* Fills in a fresh, zeroed block; pools are described, not mapped. */
void wn_bookkeeping_fill(const wn_kvcache_shape *shape, const wn_bookkeeping *block);

/* wn_kvcache_create with memory from elsewhere. */
wn_status wn_kvcache_create_from(const wn_kvcache_shape *shape, const wn_ops *ops,
                                 const wn_memory_source *source, wn_kvcache **cache,
                                 wn_error *error);

/* The mutex guards const functions too. */
static inline void wn_kvcache_lock(const wn_kvcache *cache)
{
    pthread_mutex_lock(&((wn_kvcache *)cache)->mutex);
}
static inline void wn_kvcache_unlock(const wn_kvcache *cache)
{
    pthread_mutex_unlock(&((wn_kvcache *)cache)->mutex);
}

/* The rest is called with the mutex held. */

/* NULL if the id is no sequence. */
wn_cached_sequence *wn_kvcache_find(const wn_kvcache *cache, int64_t sequence);
/* The same for a sequence that must not be busy: WN_ENOTFOUND, WN_EBUSY with a text. */
wn_status wn_kvcache_find_idle(const wn_kvcache *cache, int64_t id, wn_cached_sequence **sequence,
                               wn_error *error);
/* Pages that hold `length` tokens. */
static inline uint64_t wn_kvcache_pages_for(const wn_kvcache *cache, int64_t length)
{
    uint64_t tokens = cache->shape.tokens_per_page;
    return ((uint64_t)length + tokens - 1) / tokens;
}
/* Frees the pages of each group beyond its length. */
void wn_kvcache_trim(wn_kvcache *cache, wn_cached_sequence *sequence);
/* Frees the pages and the slot. */
void wn_kvcache_remove(wn_kvcache *cache, wn_cached_sequence *sequence);

#endif
