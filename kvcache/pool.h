/* pool.h: pools, the big arrays of the cache (the keys of one layer, one auxiliary pool of one
 * layer
 * ...), and where their memory comes from. */
#ifndef WN_POOL_H
#define WN_POOL_H

#include "winnow/ops.h"
#include "winnow/status.h"

/* Where memory comes from. The cache uses wn_memory_mapped; tests bring one that counts and fails.
 */
typedef struct wn_memory_source {
    /* bytes > 0, zeroed, 64-byte aligned; NULL: there is no more. */
    void *(*map)(uint64_t bytes);
    void (*unmap)(void *data, uint64_t bytes);
} wn_memory_source;

/* mmap: a system page that nobody has written to takes no memory. Pools of 32 MiB and more begin at
 * a multiple of 2 MiB and ask for huge pages. */
extern const wn_memory_source wn_memory_mapped;

/* A layer has one pool of each kind before WN_POOL_AUX, some of them empty. */
enum {
    WN_POOL_K = 0,
    WN_POOL_V = 1,
    WN_POOL_K_SCALE = 2,
    WN_POOL_V_SCALE = 3,
    WN_POOL_POSITION = 4,
    WN_POOL_AUX = 5,         /* page scope */
    WN_POOL_AUX_SEQUENCE = 6 /* sequence scope */
};

typedef struct wn_pool {
    void *data;          /* NULL: not mapped, or empty */
    uint64_t unit_bytes; /* of one page or, sequence scope, of one sequence; 0: an empty pool */
    uint64_t bytes;      /* of all pages or sequences */
    int64_t head_stride; /* WN_POOL_AUX: bytes between KV heads; 0: shared by the heads */
    uint32_t kind;
    uint32_t layer, group;
    uint32_t reserved;
} wn_pool;

/* "keys", "values" ... for error texts. */
const char *wn_pool_name(uint32_t kind);

/* Does a page's bundle have a part in this pool? */
static inline int wn_pool_is_paged(const wn_pool *pool)
{
    return pool->kind != WN_POOL_AUX_SEQUENCE && pool->unit_bytes != 0;
}

/* Maps pool->bytes; nothing for an empty pool. WN_ENOMEM. */
wn_status wn_pool_map(wn_pool *pool, const wn_memory_source *source, wn_error *error);
/* Harmless if it is not mapped. */
void wn_pool_unmap(wn_pool *pool, const wn_memory_source *source);

/* Copies the bundles of `count` pages of a group: their part of every pool of the group. No page is
 * both a source and a destination. */
wn_status wn_pools_copy_pages(const wn_pool *pools, uint64_t num_pools, uint32_t group,
                              const wn_ops *ops, const int32_t *source, const int32_t *destination,
                              uint32_t count, wn_error *error);

#endif
