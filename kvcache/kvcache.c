/* kvcache.c: planning, creating and destroying a cache. */
#include "kvcache/kvcache.h"

#include "kvcache/kvcache_internal.h"
#include "kvcache/size.h"

static wn_status refuse_size(const wn_kvcache_shape *shape, wn_error *error)
{
    return wn_fail(
        error, WN_ERANGE,
        "KV cache: %u pages of %u tokens, %u layers and %u sequences need more than 2^63 "
        "bytes: lower max_tokens or max_sequences",
        shape->num_pages, shape->tokens_per_page, shape->num_layers, shape->max_sequences);
}

wn_status wn_kvcache_plan_memory(const wn_kvcache_shape *shape, wn_kvcache_plan *plan,
                                 wn_error *error)
{
    wn_status status = wn_shape_check(shape, error);
    if (status != WN_OK)
        return status;
    wn_kvcache_plan sum = {0};
    for (uint64_t i = 0; i < wn_shape_num_pools(shape); i++) {
        wn_pool pool;
        wn_shape_pool(shape, i, &pool);
        wn_plan_add(&sum, pool.kind, pool.bytes);
    }
    wn_bookkeeping block;
    wn_bookkeeping_lay_out(shape, NULL, &block);
    sum.page_table_bytes = block.bytes;
    sum.total_bytes = wn_size_sum(sum.total_bytes, block.bytes);
    if (sum.total_bytes > WN_SIZE_MOST)
        return refuse_size(shape, error);
    *plan = sum;
    return WN_OK;
}

static wn_status map_bookkeeping(const wn_kvcache_shape *shape, const wn_memory_source *source,
                                 wn_kvcache **cache, wn_error *error)
{
    wn_bookkeeping block;
    wn_bookkeeping_lay_out(shape, NULL, &block);
    uint64_t bytes = block.bytes;
    void *base = source->map(bytes);
    if (base == NULL)
        return wn_fail(error, WN_ENOMEM,
                       "KV cache: no address space for %llu bytes of page tables: lower max_tokens "
                       "or max_sequences",
                       (unsigned long long)bytes);
    wn_bookkeeping_lay_out(shape, base, &block);
    if (pthread_mutex_init(&block.cache->mutex, NULL) != 0) {
        source->unmap(base, bytes);
        return wn_fail(error, WN_ENOMEM, "KV cache: no mutex of %zu bytes",
                       sizeof(pthread_mutex_t));
    }
    wn_bookkeeping_fill(shape, &block);
    block.cache->source = source;
    block.cache->allocated.page_table_bytes = bytes;
    block.cache->allocated.total_bytes = bytes;
    *cache = block.cache;
    return WN_OK;
}

wn_status wn_kvcache_create_from(const wn_kvcache_shape *shape, const wn_ops *ops,
                                 const wn_memory_source *source, wn_kvcache **cache,
                                 wn_error *error)
{
    wn_kvcache_plan plan;
    wn_kvcache *made = NULL;
    if (ops == NULL || !WN_HAS_FIELD(ops, wn_ops, copy_pages) || ops->copy_pages == NULL)
        return wn_fail(error, WN_EINVAL, "KV cache: the op table has no copy_pages");
    wn_status status = wn_kvcache_plan_memory(shape, &plan, error);
    if (status == WN_OK)
        status = map_bookkeeping(shape, source, &made, error);
    if (status != WN_OK)
        return status;
    made->ops = ops;
    for (uint64_t i = 0; i < made->num_pools; i++) {
        status = wn_pool_map(&made->pools[i], source, error);
        if (status != WN_OK) {
            wn_kvcache_destroy(made);
            return status;
        }
        wn_plan_add(&made->allocated, made->pools[i].kind, made->pools[i].bytes);
    }
    *cache = made;
    return WN_OK;
}

wn_status wn_kvcache_create(const wn_kvcache_shape *shape, const wn_ops *ops, wn_kvcache **cache,
                            wn_error *error)
{
    return wn_kvcache_create_from(shape, ops, &wn_memory_mapped, cache, error);
}

void wn_kvcache_destroy(wn_kvcache *cache)
{
    if (cache == NULL)
        return;
    const wn_memory_source *source = cache->source;
    for (uint64_t i = 0; i < cache->num_pools; i++)
        wn_pool_unmap(&cache->pools[i], source);
    pthread_mutex_destroy(&cache->mutex);
    source->unmap(cache, cache->bookkeeping_bytes);
}

void wn_kvcache_allocated(const wn_kvcache *cache, wn_kvcache_plan *plan)
{
    *plan = cache->allocated;
}

void wn_kvcache_group_stats(const wn_kvcache *cache, uint32_t group, wn_kvcache_stats *stats)
{
    wn_kvcache_lock(cache);
    const wn_cache_group *of = &cache->group[group];
    uint32_t num_free = wn_page_allocator_available(&of->allocator);
    *stats = (wn_kvcache_stats){
        .pages_used = of->allocator.num_pages - num_free,
        .pages_free = num_free,
        .pages_shared = of->allocator.num_shared,
        .sequences = cache->num_sequences,
        .pages_copied = of->pages_copied,
    };
    wn_kvcache_unlock(cache);
}
