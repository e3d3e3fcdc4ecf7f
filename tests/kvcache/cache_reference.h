/* cache_reference.h: what the suites of this folder share: a small cache with everything in it, an
 * op table of their own (written from the formulas of cache_view.h and ops.h), and memory that is
 * counted and can be made to run out. */
#ifndef WN_TESTS_CACHE_REFERENCE_H
#define WN_TESTS_CACHE_REFERENCE_H

#include "kvcache/kvcache_internal.h"

enum { CACHE_LAYERS = 3, CACHE_GROUPS = 2, CACHE_HEADS = 2, CACHE_AUX = 4 };

/* Layers 0 and 2 are group 0, which evicts; layer 1 is group 1, which does not. Auxiliary pools:
 * layer 0 one per page with a lookback of 5 tokens and one per sequence, layer 1 one per page
 * shared by its heads, layer 2 one per page with a lookback of 2. */
typedef struct cache_fixture {
    uint32_t layer_group[CACHE_LAYERS];
    uint8_t group_evicts[CACHE_GROUPS];
    wn_kvcache_aux aux[CACHE_AUX];
    wn_kvcache_shape shape; /* points into the fixture */
    char text[1024];
    wn_error error; /* over text */
} cache_fixture;

void cache_fixture_init(cache_fixture *fixture, uint32_t layout, uint32_t dtype);
/* The same for multi-head latent attention: one head, V the front of K; records for F8_E4M3. */
void cache_fixture_init_latent(cache_fixture *fixture, uint32_t layout, uint32_t dtype);
/* A cache of the fixture's shape over cache_ops(); NULL if it could not be created. */
wn_kvcache *cache_fixture_create(cache_fixture *fixture);

/* copy_pages and compact; the rest is NULL. */
const wn_ops *cache_ops(void);
/* Makes copy_pages fail with WN_EUNSUPPORTED at its n-th call from now (0: the next); -1: never. */
void cache_ops_fail_copy(int n);

/* What a token and head of a pool is made of: elements of some bytes; a record, of single bytes. */
uint32_t cache_elements(const wn_kv_view *view);
uint32_t cache_element_bytes(const wn_kv_view *view);
/* Element d of the token at a place of a page. */
void *cache_element(const wn_kv_view *view, uint32_t tokens_per_page, int32_t page, uint32_t head,
                    uint32_t place, uint32_t d);

/* Counts what is mapped; map number fail_at fails (-1: none). */
typedef struct cache_memory_count {
    int maps, fail_at;
    uint64_t pieces, bytes; /* alive */
    uint64_t refused_bytes; /* of the failed call */
} cache_memory_count;
extern cache_memory_count cache_memory;
extern const wn_memory_source cache_memory_source;

/* An item with consecutive positions. */
wn_kvcache_item cache_item(const wn_kvcache *cache, int64_t sequence, int32_t num_tokens);
/* begin and end of one sequence; the status of begin. */
wn_status cache_append(wn_kvcache *cache, int64_t sequence, int32_t num_tokens, wn_error *error);

#endif
