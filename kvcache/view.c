/* view.c: how kernels see the pools. Views hold addresses that never change in the cache's life, so
 * they need no lock. */
#include "kvcache/kvcache_internal.h"

#include <string.h>

/* K or V: the first `dim` of the `stored` channels in each token of a pool. */
static void fill_view(const wn_kvcache *cache, const wn_pool *codes, const wn_pool *scales,
                      uint32_t stored, uint32_t dim, wn_kv_view *view)
{
    const wn_kvcache_shape *shape = &cache->shape;
    int64_t tokens = shape->tokens_per_page, heads = shape->num_kv_heads, width = stored;
    if (wn_shape_has_records(shape))
        width = WN_MLA_RECORD_BYTES;
    *view = (wn_kv_view){
        .data = codes->data,
        .scale = scales->data,
        .page_stride = heads * tokens * width,
        .head_stride = tokens * width,
        .token_stride = width,
        .dtype = shape->dtype,
        .layout = WN_LAYOUT_STRIDED,
        .vec_x = shape->vec_x,
        .dim = dim,
        .tensor_scale = 1.0f,
    };
    if (scales->data != NULL) {
        view->scale_page_stride = heads * tokens;
        view->scale_head_stride = tokens;
    }
    if (shape->layout == WN_CACHE_NHD) {
        view->head_stride = width;
        view->token_stride = heads * width;
    } else if (shape->layout == WN_CACHE_VEC) {
        view->layout = codes->kind == WN_POOL_K ? WN_LAYOUT_VEC_K : WN_LAYOUT_VEC_V;
        view->token_stride = 0; /* tokens interleave */
    }
    if (wn_shape_has_records(shape)) {
        view->layout = WN_LAYOUT_MLA_FP8;
        view->dtype = WN_U8;
    }
}

void wn_kvcache_view(const wn_kvcache *cache, uint32_t layer, wn_paged_kv *view)
{
    const wn_kvcache_shape *shape = &cache->shape;
    const wn_pool *pools = &cache->pools[wn_shape_pool_number(layer, 0)];
    const wn_pool *v = &pools[shape->mla ? WN_POOL_K : WN_POOL_V];
    fill_view(cache, &pools[WN_POOL_K], &pools[WN_POOL_K_SCALE], shape->head_dim, shape->head_dim,
              &view->k);
    fill_view(cache, v, &pools[WN_POOL_V_SCALE], shape->mla ? shape->head_dim : shape->v_head_dim,
              shape->v_head_dim, &view->v);
    view->position = pools[WN_POOL_POSITION].data;
    view->position_head_stride = view->position != NULL ? shape->tokens_per_page : 0;
    view->position_page_stride = view->position_head_stride * shape->num_kv_heads;
    view->tokens_per_page = shape->tokens_per_page;
    view->num_kv_heads = shape->num_kv_heads;
}

void wn_kvcache_aux_view(const wn_kvcache *cache, uint32_t layer, uint32_t index, wn_aux_view *view)
{
    uint64_t first = wn_shape_pool_number(cache->shape.num_layers, 0) + cache->layer_aux[layer];
    const wn_pool *pool = &cache->pools[first + index];
    *view = (wn_aux_view){pool->data, (int64_t)pool->unit_bytes, pool->head_stride};
}

void wn_kvcache_tables(const wn_kvcache *cache, uint32_t group, const int64_t *sequences,
                       uint32_t num_sequences, int32_t *page_table, int64_t stride, int32_t *length)
{
    wn_kvcache_lock(cache);
    for (uint32_t i = 0; i < num_sequences; i++) {
        const wn_cached_sequence *sequence = wn_kvcache_find(cache, sequences[i]);
        const wn_sequence_group *of = sequence != NULL ? &sequence->group[group] : NULL;
        int32_t *row = page_table + i * stride;
        const int64_t held = of != NULL ? of->num_pages : 0, pages = held < stride ? held : stride;
        if (pages > 0)
            memcpy(row, of->pages, (size_t)pages * sizeof *row);
        if (pages < stride) /* not all the others: rows are as long as the longest sequence */
            row[pages] = -1;
        length[i] = of != NULL ? of->length : 0;
    }
    wn_kvcache_unlock(cache);
}
