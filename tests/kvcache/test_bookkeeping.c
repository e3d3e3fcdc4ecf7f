/* test_bookkeeping.c: the arrays of the block follow one another, aligned, without overlap. */
#include "cache_reference.h"
#include "suite.h"

static void arrays_do_not_overlap(void)
{
    cache_fixture fixture;
    wn_bookkeeping measured, block;
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    wn_bookkeeping_lay_out(&fixture.shape, NULL, &measured);
    CU_ASSERT_PTR_NULL(measured.cache);
    CU_ASSERT_PTR_NULL(measured.copy_destination);
    uint8_t *base = wn_memory_mapped.map(measured.bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(base);
    wn_bookkeeping_lay_out(&fixture.shape, base, &block);
    CU_ASSERT_EQUAL(block.bytes, measured.bytes);
    /* Begin and least size of each, in their order. */
    const struct {
        void *begin;
        uint64_t bytes;
    } arrays[] = {
        {block.cache, sizeof(wn_kvcache)},
        {block.layer_group, 3 * 4},
        {block.group_evicts, 2},
        {block.pools, (3 * 5 + 4) * sizeof(wn_pool)},
        {block.layer_aux, 3 * 4},
        {block.group, 2 * sizeof(wn_cache_group)},
        {block.references, 2 * 40 * 4},
        {block.recycled, 2 * 40 * 4},
        {block.claims, 40 * 4},
        {block.sequence, 10 * sizeof(wn_cached_sequence)},
        {block.sequence_group, 10 * 2 * sizeof(wn_sequence_group)},
        {block.page_table, 10 * 2 * 16 * 4},
        {block.copy_source, 16 * 4},
        {block.copy_destination, 16 * 4},
    };
    const uint8_t *end = base;
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        const uint8_t *begin = arrays[i].begin;
        CU_ASSERT(begin >= end && begin < end + 64 && (uintptr_t)begin % 64 == 0);
        end = begin + arrays[i].bytes;
    }
    CU_ASSERT_PTR_EQUAL(end, base + block.bytes);
    wn_memory_mapped.unmap(base, block.bytes);
}

static void each_sequence_has_rows_of_its_own(void)
{
    cache_fixture fixture;
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    wn_kvcache *cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
    const int32_t *expected = cache->sequence[0].group[0].pages;
    for (int slot = 0; slot < 10; slot++)
        for (int group = 0; group < 2; group++, expected += 16)
            CU_ASSERT_PTR_EQUAL(cache->sequence[slot].group[group].pages, expected);
    CU_ASSERT_EQUAL(cache->group[0].lookback_tokens, 5);
    CU_ASSERT(cache->layer_aux[0] == 0 && cache->layer_aux[1] == 2 && cache->layer_aux[2] == 3);
    wn_kvcache_destroy(cache);
}

WN_SUITE("kvcache.bookkeeping", {"arrays do not overlap", arrays_do_not_overlap},
         {"each sequence has rows of its own", each_sequence_has_rows_of_its_own})
