/* test_pool.c: mapping is lazy, zeroed and aligned; a page's bundle is copied whole. */
#include "kvcache/pool.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache_reference.h"
#include "suite.h"

static void mapped_memory_is_zeroed_and_aligned(void)
{
    wn_pool pool = {.kind = WN_POOL_V, .unit_bytes = 10, .bytes = 10000};
    CU_ASSERT_EQUAL_FATAL(wn_pool_map(&pool, &wn_memory_mapped, NULL), WN_OK);
    const uint8_t *data = pool.data;
    CU_ASSERT_EQUAL((uintptr_t)data % 64, 0);
    for (uint64_t i = 0; i < pool.bytes; i++)
        CU_ASSERT_FATAL(data[i] == 0);
    wn_pool_unmap(&pool, &wn_memory_mapped);
    wn_pool_unmap(&pool, &wn_memory_mapped);
    CU_ASSERT_PTR_NULL(pool.data);
}

/* System pages of a pool that are in memory. */
static uint64_t resident(const wn_pool *pool)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (pool->bytes + page - 1) / page;
    unsigned char *present = malloc(pages);
    uint64_t bytes = 0;
    CU_ASSERT_EQUAL_FATAL(mincore(pool->data, pool->bytes, present), 0);
    for (size_t i = 0; i < pages; i++)
        bytes += (present[i] & 1) * page;
    free(present);
    return bytes;
}

/* Lazily mapped and wholly usable, to the last byte, whatever the size. */
static void a_large_pool_is_aligned_and_lazy(void)
{
    const uint64_t huge = 2 << 20, sizes[] = {32 << 20, (64 << 20) + 1, (40 << 20) + 12345};
    for (int i = 0; i < 3; i++) {
        wn_pool pool = {.kind = WN_POOL_K, .unit_bytes = 1, .bytes = sizes[i]};
        CU_ASSERT_EQUAL_FATAL(wn_pool_map(&pool, &wn_memory_mapped, NULL), WN_OK);
        uint8_t *data = pool.data;
        CU_ASSERT_EQUAL((uintptr_t)data % huge, 0);
        CU_ASSERT_EQUAL(resident(&pool), 0);
        data[5] = 1;
        CU_ASSERT(resident(&pool) > 0 && resident(&pool) <= huge);
        CU_ASSERT(data[pool.bytes - 1] == 0);
        data[pool.bytes - 1] = 1;
        CU_ASSERT(resident(&pool) <= 2 * huge);
        wn_pool_unmap(&pool, &wn_memory_mapped);
    }
}

/* Neighbours in address space stay whole when one of them goes. */
static void large_pools_do_not_share(void)
{
    wn_pool pools[4];
    for (int i = 0; i < 4; i++) {
        pools[i] = (wn_pool){.kind = WN_POOL_K, .unit_bytes = 1, .bytes = (32 << 20) + 4096 * i};
        CU_ASSERT_EQUAL_FATAL(wn_pool_map(&pools[i], &wn_memory_mapped, NULL), WN_OK);
        ((uint8_t *)pools[i].data)[0] = ((uint8_t *)pools[i].data)[pools[i].bytes - 1] = 1;
    }
    for (int i = 1; i >= 0; i--) {
        wn_pool_unmap(&pools[2 * i + 1], &wn_memory_mapped);
        const uint8_t *data = pools[2 * i].data;
        CU_ASSERT(data[0] == 1 && data[pools[2 * i].bytes - 1] == 1);
        wn_pool_unmap(&pools[2 * i], &wn_memory_mapped);
    }
}

static void an_empty_pool_is_not_mapped(void)
{
    wn_pool pool = {.kind = WN_POOL_POSITION};
    CU_ASSERT_EQUAL(wn_pool_map(&pool, &wn_memory_mapped, NULL), WN_OK);
    CU_ASSERT_PTR_NULL(pool.data);
    CU_ASSERT_FALSE(wn_pool_is_paged(&pool));
}

static void too_much_is_an_error(void)
{
    char text[200];
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    wn_pool pool = {.kind = WN_POOL_K, .layer = 3, .unit_bytes = 1, .bytes = 1ULL << 62};
    CU_ASSERT_EQUAL(wn_pool_map(&pool, &wn_memory_mapped, &error), WN_ENOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "4611686018427387904 bytes of keys of layer 3"));
    CU_ASSERT_PTR_NULL(pool.data);
}

/* Pools: two of group 0, one of group 1, one by sequence, one empty. */
static void a_bundle_is_the_groups_pages(void)
{
    uint8_t memory[4][40];
    wn_pool pools[5] = {{memory[0], 10, 40, 0, WN_POOL_K, 0, 0, 0},
                        {memory[1], 8, 32, 0, WN_POOL_AUX, 0, 0, 0},
                        {memory[2], 10, 40, 0, WN_POOL_K, 1, 1, 0},
                        {memory[3], 10, 40, 0, WN_POOL_AUX_SEQUENCE, 0, 0, 0},
                        {NULL, 0, 0, 0, WN_POOL_K_SCALE, 0, 0, 0}};
    int32_t source[] = {0, 3}, destination[] = {2, 1};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 40; j++)
            memory[i][j] = (uint8_t)(40 * i + j);
    wn_status status = wn_pools_copy_pages(pools, 5, 0, cache_ops(), source, destination, 2, NULL);
    CU_ASSERT_EQUAL(status, WN_OK);
    for (int j = 0; j < 10; j++) {
        CU_ASSERT(memory[0][20 + j] == j && memory[0][10 + j] == 30 + j);
        CU_ASSERT(memory[0][j] == j && memory[0][30 + j] == 30 + j);
    }
    for (int j = 0; j < 8; j++)
        CU_ASSERT(memory[1][16 + j] == 40 + j && memory[1][8 + j] == 40 + 24 + j);
    for (int i = 2; i < 4; i++)
        for (int j = 0; j < 40; j++)
            CU_ASSERT(memory[i][j] == 40 * i + j);
}

WN_SUITE("kvcache.pool",
         {"mapped memory is zeroed and aligned", mapped_memory_is_zeroed_and_aligned},
         {"a large pool is aligned and lazy", a_large_pool_is_aligned_and_lazy},
         {"large pools do not share", large_pools_do_not_share},
         {"an empty pool is not mapped", an_empty_pool_is_not_mapped},
         {"too much is an error", too_much_is_an_error},
         {"a bundle is the group's pages", a_bundle_is_the_groups_pages})
