/* shape.h: what follows from a cache's shape: whether it makes sense, and the size of each pool. */
#ifndef WN_SHAPE_H
#define WN_SHAPE_H

#include "kvcache/kvcache.h"
#include "kvcache/pool.h"

/* WN_EINVAL with every contradiction, one per line. */
wn_status wn_shape_check(const wn_kvcache_shape *shape, wn_error *error);

/* Bytes of one element of a cache dtype; 0 for a dtype that no cache has. */
uint32_t wn_shape_element_bytes(uint32_t dtype);
/* Do codes of the dtype need a scale each token and head? */
int wn_shape_is_quantised(uint32_t dtype);
/* Is a token a record of WN_LAYOUT_MLA_FP8, with its scales inside? */
int wn_shape_has_records(const wn_kvcache_shape *shape);

/* All pools of a cache have a number: WN_POOL_AUX of each layer (K, V ... in the order of their
 * kinds), then the auxiliary ones in the order of shape->aux. Empty pools count. */
uint64_t wn_shape_num_pools(const wn_kvcache_shape *shape);
static inline uint64_t wn_shape_pool_number(uint32_t layer, uint32_t kind)
{
    return (uint64_t)layer * WN_POOL_AUX + kind;
}
/* Fills in everything but data, which becomes NULL. Sizes saturate. */
void wn_shape_pool(const wn_kvcache_shape *shape, uint64_t number, wn_pool *pool);

/* Greatest lookback of the group's page-scope pools. */
uint32_t wn_shape_lookback(const wn_kvcache_shape *shape, uint32_t group);

/* Adds bytes to the part of the plan that a pool's kind belongs to, and to the total. */
void wn_plan_add(wn_kvcache_plan *plan, uint32_t pool_kind, uint64_t bytes);

#endif
