/* test_view.c: views address every element of every page once, inside the pool; page tables. */
#include <string.h>

#include "cache_reference.h"
#include "suite.h"

static cache_fixture fixture;
static wn_kvcache *cache;

static void open_cache(uint32_t layout, uint32_t dtype)
{
    cache_fixture_init(&fixture, layout, dtype);
    cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
}

/* Marks each element's bytes; all bytes of the pool are marked exactly once. */
static void check_view(const wn_kv_view *view, const wn_pool *pool)
{
    const wn_kvcache_shape *shape = &fixture.shape;
    CU_ASSERT(view->data == pool->data && view->dtype == shape->dtype);
    CU_ASSERT(view->tensor_scale == 1.0f && view->reserved == 0);
    uint8_t *marks = calloc(1, pool->bytes);
    uint64_t twice = 0, outside = 0, missed = 0;
    uint32_t size = wn_shape_element_bytes(shape->dtype);
    for (uint32_t page = 0; page < shape->num_pages; page++)
        for (uint32_t head = 0; head < shape->num_kv_heads; head++)
            for (uint32_t place = 0; place < shape->tokens_per_page; place++)
                for (uint32_t d = 0; d < view->dim; d++) {
                    uint64_t at =
                        (uint64_t)((uint8_t *)cache_element(view, shape->tokens_per_page,
                                                            (int32_t)page, head, place, d) -
                                   (uint8_t *)pool->data);
                    if (at + size > pool->bytes)
                        outside++;
                    else
                        for (uint32_t byte = 0; byte < size; byte++)
                            twice += marks[at + byte]++ != 0;
                }
    for (uint64_t i = 0; i < pool->bytes; i++)
        missed += marks[i] == 0;
    CU_ASSERT(twice == 0 && outside == 0 && missed == 0);
    free(marks);
}

static void check_layout(uint32_t layout, uint32_t dtype)
{
    open_cache(layout, dtype);
    for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++) {
        wn_paged_kv view = {.batch = 3, .page_table_stride = 4};
        const wn_pool *pools = &cache->pools[wn_shape_pool_number(layer, 0)];
        wn_kvcache_view(cache, layer, &view);
        check_view(&view.k, &pools[WN_POOL_K]);
        check_view(&view.v, &pools[WN_POOL_V]);
        CU_ASSERT(view.k.dim == 8 && view.v.dim == 4);
        CU_ASSERT(view.tokens_per_page == fixture.shape.tokens_per_page);
        CU_ASSERT(view.num_kv_heads == CACHE_HEADS);
        CU_ASSERT(view.batch == 3 && view.page_table_stride == 4); /* left alone */
    }
    wn_kvcache_destroy(cache);
}

static void each_element_has_its_place(void)
{
    static const uint32_t layouts[] = {WN_CACHE_HND, WN_CACHE_NHD, WN_CACHE_VEC};
    for (int i = 0; i < 3; i++) {
        check_layout(layouts[i], WN_F32);
        check_layout(layouts[i], WN_BF16);
        check_layout(layouts[i], WN_I8);
    }
}

/* K's view covers the pool; V's is the same memory with fewer channels; hnd is nhd. */
static void latent_values_are_the_front_of_the_keys(void)
{
    static const uint32_t dtypes[] = {WN_F32, WN_BF16, WN_F8_E4M3};
    for (int i = 0; i < 3; i++)
        for (uint32_t layout = WN_CACHE_HND; layout <= WN_CACHE_NHD; layout++) {
            wn_paged_kv view = {.batch = 3};
            int record = dtypes[i] == WN_F8_E4M3;
            cache_fixture_init_latent(&fixture, layout, dtypes[i]);
            cache = cache_fixture_create(&fixture);
            CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
            wn_kvcache_view(cache, 1, &view);
            CU_ASSERT(view.k.dim == (record ? 576u : 8u) && view.v.dim == (record ? 512u : 4u));
            CU_ASSERT(view.k.dtype == (record ? WN_U8 : dtypes[i]));
            CU_ASSERT(view.k.layout == (record ? WN_LAYOUT_MLA_FP8 : WN_LAYOUT_STRIDED));
            CU_ASSERT(view.k.token_stride == (record ? 656 : 8));
            CU_ASSERT(view.k.page_stride == 5 * view.k.token_stride);
            CU_ASSERT(view.k.scale == NULL && view.k.tensor_scale == 1 && view.num_kv_heads == 1);
            wn_kv_view front = view.k;
            front.dim = view.v.dim;
            CU_ASSERT(memcmp(&front, &view.v, sizeof front) == 0);
            const wn_pool *pool = &cache->pools[wn_shape_pool_number(1, WN_POOL_K)];
            CU_ASSERT_PTR_EQUAL(view.k.data, pool->data);
            CU_ASSERT_EQUAL(pool->bytes,
                            40u * 5 * cache_elements(&view.k) * cache_element_bytes(&view.k));
            CU_ASSERT_PTR_NULL(cache->pools[wn_shape_pool_number(1, WN_POOL_V)].data);
            wn_kvcache_destroy(cache);
        }
}

static void strides_by_hand(void)
{
    wn_paged_kv view;
    open_cache(WN_CACHE_HND, WN_F16);
    wn_kvcache_view(cache, 0, &view);
    CU_ASSERT(view.k.layout == WN_LAYOUT_STRIDED && view.k.vec_x == 0);
    CU_ASSERT(view.k.page_stride == 80 && view.k.head_stride == 40 && view.k.token_stride == 8);
    wn_kvcache_destroy(cache);
    open_cache(WN_CACHE_NHD, WN_F16);
    wn_kvcache_view(cache, 0, &view);
    CU_ASSERT(view.v.page_stride == 40 && view.v.head_stride == 4 && view.v.token_stride == 8);
    wn_kvcache_destroy(cache);
    open_cache(WN_CACHE_VEC, WN_F16);
    wn_kvcache_view(cache, 0, &view);
    CU_ASSERT(view.k.layout == WN_LAYOUT_VEC_K && view.v.layout == WN_LAYOUT_VEC_V);
    CU_ASSERT(view.k.vec_x == 2 && view.k.page_stride == 64 && view.k.head_stride == 32);
    wn_kvcache_destroy(cache);
}

static void scales_and_positions_where_due(void)
{
    wn_paged_kv view;
    open_cache(WN_CACHE_HND, WN_I8);
    wn_kvcache_view(cache, 0, &view);
    CU_ASSERT(view.k.scale != NULL && view.v.scale != NULL && view.k.scale != view.v.scale);
    CU_ASSERT(view.k.scale_page_stride == 10 && view.k.scale_head_stride == 5);
    CU_ASSERT_PTR_NOT_NULL(view.position);
    CU_ASSERT(view.position_page_stride == 10 && view.position_head_stride == 5);
    wn_kvcache_view(cache, 1, &view); /* its group does not evict */
    CU_ASSERT_PTR_NULL(view.position);
    CU_ASSERT(view.position_page_stride == 0 && view.position_head_stride == 0);
    wn_kvcache_destroy(cache);
    open_cache(WN_CACHE_HND, WN_BF16);
    wn_kvcache_view(cache, 2, &view);
    CU_ASSERT(view.k.scale == NULL && view.v.scale == NULL && view.k.scale_page_stride == 0);
    wn_kvcache_destroy(cache);
}

static void auxiliary_views(void)
{
    wn_aux_view views[4];
    open_cache(WN_CACHE_HND, WN_F32);
    wn_kvcache_aux_view(cache, 0, 0, &views[0]);
    wn_kvcache_aux_view(cache, 0, 1, &views[1]);
    wn_kvcache_aux_view(cache, 1, 0, &views[2]);
    wn_kvcache_aux_view(cache, 2, 0, &views[3]);
    CU_ASSERT(views[0].page_stride == 32 && views[0].head_stride == 16);
    CU_ASSERT(views[1].page_stride == 64 && views[1].head_stride == 0);
    CU_ASSERT(views[2].page_stride == 8 && views[2].head_stride == 0);
    CU_ASSERT(views[3].page_stride == 8 && views[3].head_stride == 4);
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL((uintptr_t)views[i].data % 64, 0);
        for (int j = 0; j < i; j++)
            CU_ASSERT_PTR_NOT_EQUAL(views[i].data, views[j].data);
    }
    wn_kvcache_destroy(cache);
}

static void tables_have_a_row_each(void)
{
    open_cache(WN_CACHE_HND, WN_F32);
    int64_t ids[3];
    int32_t table[3][6], length[3];
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(wn_kvcache_sequence_create(cache, &ids[i], NULL), WN_OK);
        CU_ASSERT_EQUAL(cache_append(cache, ids[i], 7 * i, NULL), WN_OK);
    }
    for (int i = 0; i < 18; i++)
        table[i / 6][i % 6] = 77;
    wn_kvcache_tables(cache, 1, ids, 3, table[0], 6, length);
    CU_ASSERT(length[0] == 0 && length[1] == 7 && length[2] == 14);
    CU_ASSERT(table[0][0] == -1 && table[1][2] == -1 && table[2][3] == -1);
    CU_ASSERT(table[0][1] == 77 && table[1][3] == 77 && table[2][5] == 77); /* left alone */
    int32_t pages[] = {table[1][0], table[1][1], table[2][0], table[2][1], table[2][2]};
    uint64_t seen = 0;
    for (int i = 0; i < 5; i++) {
        CU_ASSERT(pages[i] >= 0 && (seen >> pages[i] & 1) == 0);
        seen |= 1ULL << pages[i];
    }
    wn_kvcache_destroy(cache);
}

WN_SUITE("kvcache.view", {"each element has its place", each_element_has_its_place},
         {"latent values are the front of the keys", latent_values_are_the_front_of_the_keys},
         {"strides by hand", strides_by_hand},
         {"scales and positions where due", scales_and_positions_where_due},
         {"auxiliary views", auxiliary_views}, {"tables have a row each", tables_have_a_row_each})
