/* test_kvcache.c: the plan is what gets allocated, running out of memory leaks nothing, the cache
 * allocates only at creation, and pools above 4 GiB work. */
#include "kvcache/kvcache.h"

#include <string.h>

#include "cache_reference.h"
#include "suite.h"

static cache_fixture fixture;

static void the_plan_is_exact(void)
{
    static const uint32_t dtypes[] = {WN_F32, WN_BF16, WN_I8, WN_BF16, WN_F8_E4M3};
    for (int i = 0; i < 5; i++) {
        wn_kvcache *cache = NULL;
        wn_kvcache_plan plan, allocated;
        cache_fixture_init(&fixture, WN_CACHE_VEC, dtypes[i]);
        if (i >= 3)
            cache_fixture_init_latent(&fixture, WN_CACHE_HND, dtypes[i]);
        cache_memory = (cache_memory_count){.fail_at = -1};
        wn_status status = wn_kvcache_plan_memory(&fixture.shape, &plan, &fixture.error);
        CU_ASSERT_EQUAL(status, WN_OK);
        CU_ASSERT_EQUAL(cache_memory.maps, 0);
        status = wn_kvcache_create_from(&fixture.shape, cache_ops(), &cache_memory_source, &cache,
                                        &fixture.error);
        CU_ASSERT_EQUAL_FATAL(status, WN_OK);
        CU_ASSERT_EQUAL(cache_memory.bytes, plan.total_bytes);
        wn_kvcache_allocated(cache, &allocated);
        CU_ASSERT_EQUAL(memcmp(&plan, &allocated, sizeof plan), 0);
        wn_kvcache_destroy(cache);
        CU_ASSERT(cache_memory.pieces == 0 && cache_memory.bytes == 0);
    }
}

static void every_allocation_may_fail(void)
{
    wn_status status = WN_ENOMEM;
    int failures = 0;
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_I8);
    while (status == WN_ENOMEM) {
        wn_kvcache *cache = NULL;
        char bytes[32];
        cache_memory = (cache_memory_count){.fail_at = failures};
        status = wn_kvcache_create_from(&fixture.shape, cache_ops(), &cache_memory_source, &cache,
                                        &fixture.error);
        if (status == WN_ENOMEM) {
            failures++;
            snprintf(bytes, sizeof bytes, " %llu bytes",
                     (unsigned long long)cache_memory.refused_bytes);
            CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, bytes));
            CU_ASSERT_PTR_NULL(cache);
        }
        wn_kvcache_destroy(cache);
        CU_ASSERT(cache_memory.pieces == 0 && cache_memory.bytes == 0);
    }
    CU_ASSERT_EQUAL(status, WN_OK);
    /* Bookkeeping, K, V and two scales of 3 layers, positions of 2, 4 auxiliary pools. */
    CU_ASSERT_EQUAL(failures, 1 + 3 * 4 + 2 + 4);
}

static void nothing_is_allocated_later(void)
{
    wn_kvcache *cache = NULL;
    int64_t parent, child;
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    cache_memory = (cache_memory_count){.fail_at = -1};
    wn_status status = wn_kvcache_create_from(&fixture.shape, cache_ops(), &cache_memory_source,
                                              &cache, &fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    int maps = cache_memory.maps;
    CU_ASSERT_EQUAL(wn_kvcache_sequence_create(cache, &parent, NULL), WN_OK);
    CU_ASSERT_EQUAL(cache_append(cache, parent, 33, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, parent, &child, NULL), WN_OK);
    CU_ASSERT_EQUAL(cache_append(cache, child, 8, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, parent, NULL), WN_OK);
    CU_ASSERT_EQUAL(cache_memory.maps, maps);
    wn_kvcache_destroy(cache);
}

static void a_bad_op_table_or_shape_is_refused(void)
{
    wn_kvcache *cache = NULL;
    wn_ops empty = {.struct_size = WN_SIZEOF(wn_ops)};
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    CU_ASSERT_EQUAL(wn_kvcache_create(&fixture.shape, NULL, &cache, NULL), WN_EINVAL);
    wn_status status = wn_kvcache_create(&fixture.shape, &empty, &cache, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "copy_pages"));
    fixture.shape.num_pages = 0;
    CU_ASSERT_EQUAL(wn_kvcache_create(&fixture.shape, cache_ops(), &cache, NULL), WN_EINVAL);
    CU_ASSERT_PTR_NULL(cache);
    wn_kvcache_destroy(NULL);
}

static void the_shape_is_copied(void)
{
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    wn_kvcache *cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
    memset(&fixture.layer_group, 0xff, sizeof fixture.layer_group);
    memset(&fixture.group_evicts, 0, sizeof fixture.group_evicts);
    memset(&fixture.aux, 0xff, sizeof fixture.aux);
    memset(&fixture.shape, 0xff, sizeof fixture.shape);
    int64_t sequence;
    CU_ASSERT_EQUAL(wn_kvcache_sequence_create(cache, &sequence, NULL), WN_OK);
    CU_ASSERT_EQUAL(cache_append(cache, sequence, 12, NULL), WN_OK);
    wn_paged_kv view;
    wn_kvcache_view(cache, 0, &view);
    CU_ASSERT_PTR_NOT_NULL(view.position);
    wn_kvcache_destroy(cache);
}

/* One layer, keys of 128 KiB a page, 40000 pages: 4.9 GiB each for K and V, of which a few pages
 * are touched. */
static void pools_above_4_gib(void)
{
    static const uint32_t layer_group[] = {0};
    static const uint8_t evicts[] = {1};
    enum { PAGES = 40000, TOKENS = 32, HEADS = 8, DIM = 128 };
    wn_kvcache_shape shape = {.num_layers = 1,
                              .num_groups = 1,
                              .layer_group = layer_group,
                              .group_evicts = evicts,
                              .num_kv_heads = HEADS,
                              .head_dim = DIM,
                              .v_head_dim = DIM,
                              .dtype = WN_F32,
                              .layout = WN_CACHE_HND,
                              .tokens_per_page = TOKENS,
                              .num_pages = PAGES,
                              .max_sequences = 2,
                              .max_pages_per_sequence = PAGES};
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    wn_kvcache *cache = NULL;
    wn_status status = wn_kvcache_create(&shape, cache_ops(), &cache, &fixture.error);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    wn_kvcache_plan plan;
    wn_kvcache_allocated(cache, &plan);
    CU_ASSERT_EQUAL(plan.k_bytes, 40000ULL * 32 * 8 * 128 * 4);
    CU_ASSERT(plan.k_bytes > 1ULL << 32);

    int64_t parent, child;
    int32_t pages_of_parent[PAGES], pages_of_child[PAGES], length;
    CU_ASSERT_EQUAL(wn_kvcache_sequence_create(cache, &parent, NULL), WN_OK);
    CU_ASSERT_EQUAL(cache_append(cache, parent, (PAGES - 1) * TOKENS - 1, NULL), WN_OK);
    wn_kvcache_tables(cache, 0, &parent, 1, pages_of_parent, PAGES, &length);
    wn_paged_kv view;
    wn_kvcache_view(cache, 0, &view);
    int32_t low = pages_of_parent[0], high = pages_of_parent[PAGES - 2];
    CU_ASSERT(low == 0 && high == PAGES - 2);
    float *first = cache_element(&view.k, TOKENS, low, 0, 0, 0);
    float *last = cache_element(&view.k, TOKENS, high, HEADS - 1, TOKENS - 2, DIM - 1);
    CU_ASSERT((uint64_t)((uint8_t *)last - (uint8_t *)first) > 1ULL << 32);
    *first = 1.5f;
    *last = 2.5f;
    *(float *)cache_element(&view.v, TOKENS, high, 1, 1, 1) = 3.5f;
    view.position[high * view.position_page_stride + 7 * view.position_head_stride + 30] = 77;

    /* The last page is copied to the only free one. */
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, parent, &child, NULL), WN_OK);
    CU_ASSERT_EQUAL(cache_append(cache, child, 1, NULL), WN_OK);
    wn_kvcache_tables(cache, 0, &child, 1, pages_of_child, PAGES, &length);
    int32_t copy = pages_of_child[PAGES - 2];
    CU_ASSERT(copy == PAGES - 1 && pages_of_child[0] == low);
    CU_ASSERT_EQUAL(*(float *)cache_element(&view.k, TOKENS, copy, 7, 30, 127), 2.5f);
    CU_ASSERT_EQUAL(*(float *)cache_element(&view.v, TOKENS, copy, 1, 1, 1), 3.5f);
    CU_ASSERT_EQUAL(
        view.position[copy * view.position_page_stride + 7 * view.position_head_stride + 30], 77);
    CU_ASSERT_EQUAL(*first, 1.5f);
    wn_kvcache_destroy(cache);
}

WN_SUITE("kvcache.kvcache", {"the plan is exact", the_plan_is_exact},
         {"every allocation may fail", every_allocation_may_fail},
         {"nothing is allocated later", nothing_is_allocated_later},
         {"a bad op table or shape is refused", a_bad_op_table_or_shape_is_refused},
         {"the shape is copied", the_shape_is_copied}, {"pools above 4 GiB", pools_above_4_gib})
