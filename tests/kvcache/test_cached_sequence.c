/* test_cached_sequence.c: create, fork, truncate, free and the errors of each. Contents are
 * compared by test_random_operations.c. */
#include <string.h>

#include "cache_reference.h"
#include "suite.h"

static cache_fixture fixture;
static wn_kvcache *cache;

static void open_cache(void)
{
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32); /* 5 tokens a page */
    cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
}

static int64_t create(void)
{
    int64_t id = 0;
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_sequence_create(cache, &id, &fixture.error), WN_OK);
    return id;
}

static wn_kvcache_stats stats(uint32_t group)
{
    wn_kvcache_stats of;
    wn_kvcache_group_stats(cache, group, &of);
    return of;
}

static void expect_lengths(int64_t id, int32_t logical, int32_t physical, int32_t next)
{
    int32_t l, p, n;
    CU_ASSERT_EQUAL(wn_kvcache_sequence_length(cache, id, 0, &l, &p, &n, NULL), WN_OK);
    CU_ASSERT(l == logical && p == physical && n == next);
}

static void ids_never_come_back(void)
{
    open_cache();
    int64_t last = 0;
    for (int i = 0; i < 100; i++) {
        int64_t id = create();
        CU_ASSERT(id > last);
        CU_ASSERT_EQUAL(wn_kvcache_sequence_slot(cache, id), 0);
        CU_ASSERT_EQUAL(wn_kvcache_sequence_slot(cache, last), -1);
        CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, id, NULL), WN_OK);
        last = id;
    }
    wn_kvcache_destroy(cache);
}

static void slots_are_distinct_and_end(void)
{
    open_cache();
    uint32_t seen = 0;
    int64_t ids[10], one_more = 5;
    for (int i = 0; i < 10; i++) {
        ids[i] = create();
        seen |= 1u << wn_kvcache_sequence_slot(cache, ids[i]);
    }
    CU_ASSERT_EQUAL(seen, 0x3ff);
    wn_status status = wn_kvcache_sequence_create(cache, &one_more, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_ERANGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "max_sequences"));
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, ids[0], &one_more, NULL), WN_ERANGE);
    CU_ASSERT_EQUAL(one_more, 5);
    CU_ASSERT_EQUAL(stats(0).sequences, 10);
    wn_kvcache_destroy(cache);
}

static void unknown_ids_are_not_found(void)
{
    open_cache();
    const int64_t none[] = {0, -1, INT64_MIN, INT64_MAX, 10, 17};
    int64_t child;
    int32_t table[4], length;
    for (int i = 0; i < 6; i++) {
        CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, none[i], &fixture.error), WN_ENOTFOUND);
        CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, none[i], &child, NULL), WN_ENOTFOUND);
        CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, none[i], 0, NULL), WN_ENOTFOUND);
        CU_ASSERT_EQUAL(wn_kvcache_sequence_length(cache, none[i], 0, NULL, NULL, NULL, NULL),
                        WN_ENOTFOUND);
        wn_kvcache_tables(cache, 0, &none[i], 1, table, 4, &length);
        CU_ASSERT(length == 0 && table[0] == -1);
    }
    int64_t id = create();
    wn_status status = wn_kvcache_sequence_length(cache, id, 2, NULL, NULL, NULL, &fixture.error);
    CU_ASSERT_EQUAL(status, WN_EINVAL);
    wn_kvcache_destroy(cache);
}

static void busy_sequences_are_left_alone(void)
{
    open_cache();
    int64_t id = create(), child;
    wn_kvcache_item item = cache_item(cache, id, 6);
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_begin(cache, &item, 1, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, id, &child, &fixture.error), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 0, NULL), WN_EBUSY);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, id, NULL), WN_EBUSY);
    expect_lengths(id, 6, 6, 6); /* reading is fine, and counts the step's tokens */
    wn_kvcache_end(cache, &item, 1);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, id, NULL), WN_OK);
    wn_kvcache_destroy(cache);
}

static void a_fork_shares_until_freed(void)
{
    open_cache();
    int64_t parent = create(), child;
    CU_ASSERT_EQUAL(cache_append(cache, parent, 12, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, parent, &child, NULL), WN_OK);
    CU_ASSERT(stats(0).pages_used == 3 && stats(0).pages_shared == 3);
    CU_ASSERT(stats(1).pages_used == 3 && stats(1).pages_shared == 3);
    expect_lengths(child, 12, 12, 12);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, parent, NULL), WN_OK);
    CU_ASSERT(stats(0).pages_used == 3 && stats(0).pages_shared == 0);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, child, NULL), WN_OK);
    CU_ASSERT(stats(0).pages_used == 0 && stats(1).pages_free == 40);
    CU_ASSERT_EQUAL(stats(0).pages_copied, 0);
    wn_kvcache_destroy(cache);
}

static void truncate_frees_pages(void)
{
    open_cache();
    int64_t id = create();
    CU_ASSERT_EQUAL(cache_append(cache, id, 23, NULL), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 5);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 23, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 21, NULL), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 5);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 20, NULL), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 4);
    expect_lengths(id, 20, 20, 20);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 21, &fixture.error), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, -1, &fixture.error), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 0, NULL), WN_OK);
    CU_ASSERT(stats(0).pages_used == 0 && stats(1).pages_used == 0);
    expect_lengths(id, 0, 0, 0);
    wn_kvcache_destroy(cache);
}

/* 12 tokens, of which a compaction of group 0 leaves 3; then 6 more. */
static void truncate_stops_at_a_compaction(void)
{
    open_cache();
    int64_t id = create(), child;
    wn_kvcache_item item = cache_item(cache, id, 12);
    item.will_compact = 1;
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_begin(cache, &item, 1, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 3, NULL), WN_OK);
    wn_kvcache_end(cache, &item, 1);
    expect_lengths(id, 12, 3, 12);
    CU_ASSERT_EQUAL(cache_append(cache, id, 6, NULL), WN_OK);
    expect_lengths(id, 18, 9, 18);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, id, &child, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 11, &fixture.error), WN_ERANGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "cut to 12 or more"));
    expect_lengths(id, 18, 9, 18);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 13, NULL), WN_OK);
    expect_lengths(id, 13, 4, 13);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 12, NULL), WN_OK);
    expect_lengths(id, 12, 3, 12);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, child, 11, NULL), WN_ERANGE);
    expect_lengths(child, 18, 9, 18);
    wn_kvcache_destroy(cache);
}

static void truncate_goes_back_in_position(void)
{
    open_cache();
    int64_t id = create();
    CU_ASSERT_EQUAL(cache_append(cache, id, 4, NULL), WN_OK);
    wn_kvcache_item item = {.sequence = id, .num_tokens = 3, .next_position = 103};
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_begin(cache, &item, 1, NULL), WN_OK);
    wn_kvcache_end(cache, &item, 1);
    expect_lengths(id, 7, 7, 103);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 5, NULL), WN_OK);
    expect_lengths(id, 5, 5, 101);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 4, NULL), WN_OK);
    expect_lengths(id, 4, 4, 4);
    /* Growing again with the same gap elsewhere: the one that was cut off is forgotten. */
    CU_ASSERT_EQUAL(cache_append(cache, id, 6, NULL), WN_OK);
    item.num_tokens = 2;
    item.next_position = 17; /* tokens 10, 11 at 15, 16 */
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_begin(cache, &item, 1, NULL), WN_OK);
    wn_kvcache_end(cache, &item, 1);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 8, NULL), WN_OK);
    item.num_tokens = 4;
    item.next_position = 17; /* tokens 8 .. 11 at 13 .. 16 */
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_begin(cache, &item, 1, NULL), WN_OK);
    wn_kvcache_end(cache, &item, 1);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 9, NULL), WN_OK);
    expect_lengths(id, 9, 9, 14);
    wn_kvcache_destroy(cache);
}

/* Zeroed at creation though the slot was used before; copied by a fork. */
static void sequence_memory(void)
{
    open_cache();
    int64_t first = create(), child;
    wn_aux_view view;
    wn_kvcache_aux_view(cache, 0, 1, &view);
    CU_ASSERT(view.page_stride == 64 && view.head_stride == 0);
    memset(view.data + wn_kvcache_sequence_slot(cache, first) * view.page_stride, 7, 20);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_fork(cache, first, &child, NULL), WN_OK);
    const uint8_t *copy = view.data + wn_kvcache_sequence_slot(cache, child) * view.page_stride;
    for (int i = 0; i < 20; i++)
        CU_ASSERT_EQUAL(copy[i], 7);
    int32_t slot = wn_kvcache_sequence_slot(cache, child);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, child, NULL), WN_OK);
    int64_t next = create();
    CU_ASSERT_EQUAL(wn_kvcache_sequence_slot(cache, next), slot);
    for (int i = 0; i < 64; i++)
        CU_ASSERT_EQUAL(copy[i], 0);
    wn_kvcache_destroy(cache);
}

WN_SUITE("kvcache.cached_sequence", {"ids never come back", ids_never_come_back},
         {"slots are distinct and end", slots_are_distinct_and_end},
         {"unknown ids are not found", unknown_ids_are_not_found},
         {"busy sequences are left alone", busy_sequences_are_left_alone},
         {"a fork shares until freed", a_fork_shares_until_freed},
         {"truncate frees pages", truncate_frees_pages},
         {"truncate stops at a compaction", truncate_stops_at_a_compaction},
         {"truncate goes back in position", truncate_goes_back_in_position},
         {"sequence memory", sequence_memory})
