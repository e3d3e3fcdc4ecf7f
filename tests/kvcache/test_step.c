/* test_step.c: begin takes exactly the pages that a step needs, or nothing; the ways out of a step.
 */
#include <string.h>

#include "cache_reference.h"
#include "suite.h"

static cache_fixture fixture;
static wn_kvcache *cache;

/* 5 tokens a page; group 0 looks back 5 tokens, group 1 none. */
static void open_cache(uint32_t num_pages)
{
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    fixture.shape.num_pages = num_pages;
    cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
}

static int64_t create(int32_t length)
{
    int64_t id = 0;
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_sequence_create(cache, &id, &fixture.error), WN_OK);
    CU_ASSERT_EQUAL_FATAL(cache_append(cache, id, length, &fixture.error), WN_OK);
    return id;
}

static int64_t fork_of(int64_t parent)
{
    int64_t id = 0;
    CU_ASSERT_EQUAL_FATAL(wn_kvcache_sequence_fork(cache, parent, &id, &fixture.error), WN_OK);
    return id;
}

static wn_kvcache_stats stats(uint32_t group)
{
    wn_kvcache_stats of;
    wn_kvcache_group_stats(cache, group, &of);
    return of;
}

static wn_status begin(const wn_kvcache_item *items, uint32_t count)
{
    fixture.text[0] = 0;
    return wn_kvcache_begin(cache, items, count, &fixture.error);
}

/* Page `index` of a sequence in a group. */
static int32_t page_of(int64_t id, uint32_t group, int index)
{
    int32_t table[16], length;
    wn_kvcache_tables(cache, group, &id, 1, table, 16, &length);
    return table[index];
}

static int32_t physical(int64_t id, uint32_t group)
{
    int32_t length = -1;
    wn_kvcache_sequence_length(cache, id, group, NULL, &length, NULL, NULL);
    return length;
}

static void appending_takes_pages_when_full(void)
{
    open_cache(40);
    int64_t id = create(4);
    CU_ASSERT_EQUAL(stats(0).pages_used, 1);
    CU_ASSERT_EQUAL(cache_append(cache, id, 1, NULL), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 1);
    CU_ASSERT_EQUAL(cache_append(cache, id, 1, NULL), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 2);
    CU_ASSERT_EQUAL(cache_append(cache, id, 0, NULL), WN_OK);
    CU_ASSERT_EQUAL(begin(NULL, 0), WN_OK);
    CU_ASSERT(physical(id, 0) == 6 && physical(id, 1) == 6);
    wn_kvcache_destroy(cache);
}

/* 12 tokens: pages of slots 0-4, 5-9, 10-11. Writing slot 12 touches the third page and, in group
 * 0, what belongs to slots from 7 on: the second. */
static void a_writer_copies_what_it_may_write(void)
{
    open_cache(40);
    int64_t parent = create(12), child = fork_of(parent);
    CU_ASSERT_EQUAL(cache_append(cache, child, 1, NULL), WN_OK);
    CU_ASSERT_EQUAL(page_of(child, 0, 0), page_of(parent, 0, 0));
    CU_ASSERT_NOT_EQUAL(page_of(child, 0, 1), page_of(parent, 0, 1));
    CU_ASSERT_NOT_EQUAL(page_of(child, 0, 2), page_of(parent, 0, 2));
    CU_ASSERT_EQUAL(page_of(child, 1, 1), page_of(parent, 1, 1));
    CU_ASSERT_NOT_EQUAL(page_of(child, 1, 2), page_of(parent, 1, 2));
    CU_ASSERT(stats(0).pages_copied == 2 && stats(1).pages_copied == 1);
    /* The parent is alone with its pages now: nothing more to copy. */
    CU_ASSERT_EQUAL(cache_append(cache, parent, 1, NULL), WN_OK);
    CU_ASSERT(stats(0).pages_copied == 2 && stats(1).pages_copied == 1);
    wn_kvcache_destroy(cache);
}

static void no_tokens_copy_nothing(void)
{
    open_cache(40);
    int64_t parent = create(12), child = fork_of(parent);
    CU_ASSERT_EQUAL(cache_append(cache, child, 0, NULL), WN_OK);
    CU_ASSERT(stats(0).pages_copied == 0 && stats(0).pages_shared == 3);
    wn_kvcache_destroy(cache);
}

static void compacting_copies_the_groups_pages(void)
{
    open_cache(40);
    int64_t parent = create(12), child = fork_of(parent);
    wn_kvcache_item item = cache_item(cache, child, 0);
    item.will_compact = 1;
    CU_ASSERT_EQUAL(begin(&item, 1), WN_OK);
    CU_ASSERT(stats(0).pages_copied == 3 && stats(0).pages_shared == 0);
    CU_ASSERT(stats(1).pages_copied == 0 && stats(1).pages_shared == 3);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, child, 0, 4, &fixture.error), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 6); /* not before the end */
    wn_kvcache_end(cache, &item, 1);
    CU_ASSERT_EQUAL(stats(0).pages_used, 4);
    CU_ASSERT(physical(child, 0) == 4 && physical(child, 1) == 12 && physical(parent, 0) == 12);
    wn_kvcache_destroy(cache);
}

/* Bit 31 of will_compact stands for group 32 too, and for no other. */
static void groups_beyond_31_share_a_bit(void)
{
    enum { GROUPS = 33 };
    uint32_t layer_group[GROUPS];
    uint8_t evicts[GROUPS];
    for (uint32_t i = 0; i < GROUPS; i++) {
        layer_group[i] = i;
        evicts[i] = 1;
    }
    cache_fixture_init(&fixture, WN_CACHE_HND, WN_F32);
    fixture.shape.num_layers = fixture.shape.num_groups = GROUPS;
    fixture.shape.layer_group = layer_group;
    fixture.shape.group_evicts = evicts;
    fixture.shape.num_aux = 0;
    cache = cache_fixture_create(&fixture);
    CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
    int64_t child = fork_of(create(12));
    wn_kvcache_item item = cache_item(cache, child, 0);
    item.will_compact = 1u << 31 | 1u << 3;
    CU_ASSERT_EQUAL(begin(&item, 1), WN_OK);
    for (uint32_t group = 0; group < GROUPS; group++)
        CU_ASSERT_EQUAL(stats(group).pages_copied, group == 3 || group >= 31 ? 3 : 0);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, child, 32, 1, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, child, 30, 1, NULL), WN_ESTATE);
    wn_kvcache_end(cache, &item, 1);
    wn_kvcache_destroy(cache);
}

/* Parent and child share pages and both append: one copy of the last page, not two. Group 1 has
 * 1 page left, so counting two would refuse. In group 0 both rewrite two pages. */
static void a_pair_that_appends_needs_one_copy(void)
{
    open_cache(5);
    int64_t parent = create(12), child = fork_of(parent);
    wn_kvcache_item pair[] = {cache_item(cache, parent, 1), cache_item(cache, child, 1)};
    CU_ASSERT_EQUAL(begin(pair, 2), WN_OK);
    CU_ASSERT(stats(0).pages_free == 0 && stats(0).pages_copied == 2);
    CU_ASSERT(stats(1).pages_free == 1 && stats(1).pages_copied == 1);
    CU_ASSERT_NOT_EQUAL(page_of(parent, 1, 2), page_of(child, 1, 2));
    wn_kvcache_end(cache, pair, 2);
    wn_kvcache_destroy(cache);
}

/* With a third holder that does not write, both writers need a copy. */
static void a_reader_keeps_the_original(void)
{
    open_cache(6);
    int64_t parent = create(12), one = fork_of(parent), two = fork_of(parent);
    wn_kvcache_item pair[] = {cache_item(cache, one, 1), cache_item(cache, two, 1)};
    CU_ASSERT_EQUAL(begin(pair, 2), WN_ENOPAGES);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "needs 4 pages of group 0, 3 of 6 are free, 1 are "
                                                "missing"));
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, parent, NULL), WN_OK);
    CU_ASSERT_EQUAL(begin(pair, 2), WN_OK);
    wn_kvcache_end(cache, pair, 2);
    wn_kvcache_destroy(cache);
}

/* The first item would fit alone. */
static void out_of_pages_changes_nothing(void)
{
    open_cache(6);
    int64_t one = create(12), two = create(4);
    wn_kvcache_item items[] = {cache_item(cache, one, 4), cache_item(cache, two, 7)};
    int32_t last = page_of(one, 0, 2);
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(begin(items, 2), WN_ENOPAGES);
        CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "free a sequence or raise max_tokens"));
        CU_ASSERT(stats(0).pages_free == 2 && stats(1).pages_free == 2);
        CU_ASSERT(physical(one, 0) == 12 && physical(two, 0) == 4 && page_of(one, 0, 2) == last);
        CU_ASSERT_EQUAL(page_of(one, 0, 3), -1);
    }
    CU_ASSERT_EQUAL(begin(items, 1), WN_OK); /* and neither is busy */
    wn_kvcache_end(cache, items, 1);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, two, NULL), WN_OK);
    wn_kvcache_destroy(cache);
}

static void bad_items_are_refused_whole(void)
{
    open_cache(40);
    int64_t one = create(3), two = create(3);
    wn_kvcache_item items[] = {cache_item(cache, one, 1), cache_item(cache, two, 1),
                               cache_item(cache, one, 2)};
    CU_ASSERT_EQUAL(begin(items, 3), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "twice"));
    items[2].sequence = 9999999;
    CU_ASSERT_EQUAL(begin(items, 3), WN_ENOTFOUND);
    items[1].num_tokens = -1;
    CU_ASSERT_EQUAL(begin(items, 2), WN_EINVAL);
    items[1] = cache_item(cache, two, 1);
    items[1].next_position = 0;
    CU_ASSERT_EQUAL(begin(items, 2), WN_EINVAL);
    items[1] = cache_item(cache, two, 16 * 5 - 3 + 1);
    CU_ASSERT_EQUAL(begin(items, 2), WN_ERANGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "take 17 pages, a sequence may have 16"));
    items[1].num_tokens = INT32_MAX;
    items[1].next_position = INT32_MAX;
    CU_ASSERT_EQUAL(begin(items, 2), WN_ERANGE);
    items[1] = cache_item(cache, two, 1);
    CU_ASSERT_EQUAL(begin(items, 2), WN_OK);
    CU_ASSERT_EQUAL(begin(items + 1, 1), WN_EBUSY);
    wn_kvcache_end(cache, items, 2);
    CU_ASSERT(physical(one, 0) == 4 && physical(two, 0) == 4);
    wn_kvcache_destroy(cache);
}

static void a_compaction_must_be_announced(void)
{
    open_cache(40);
    int64_t id = create(7);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 2, &fixture.error), WN_ESTATE);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, 99999, 0, 2, NULL), WN_ENOTFOUND);
    wn_kvcache_item item = cache_item(cache, id, 1);
    CU_ASSERT_EQUAL(begin(&item, 1), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 2, &fixture.error), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(fixture.text, "will_compact"));
    wn_kvcache_abort(cache, &item);
    item.will_compact = 3;
    CU_ASSERT_EQUAL(begin(&item, 1), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 1, 2, &fixture.error), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 2, 2, &fixture.error), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 9, &fixture.error), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, -1, &fixture.error), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 8, &fixture.error), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 0, &fixture.error), WN_OK);
    wn_kvcache_end(cache, &item, 1);
    CU_ASSERT(physical(id, 0) == 0 && stats(0).pages_used == 0 && stats(1).pages_used == 2);
    wn_kvcache_destroy(cache);
}

static void abort_restores_one_item(void)
{
    open_cache(40);
    int64_t one = create(4), two = create(4);
    wn_kvcache_item items[] = {{.sequence = one, .num_tokens = 9, .next_position = 50},
                               cache_item(cache, two, 9)};
    CU_ASSERT_EQUAL(begin(items, 2), WN_OK);
    CU_ASSERT_EQUAL(stats(0).pages_used, 6);
    wn_kvcache_abort(cache, &items[0]);
    CU_ASSERT_EQUAL(stats(0).pages_used, 4);
    int32_t logical, next;
    CU_ASSERT_EQUAL(wn_kvcache_sequence_length(cache, one, 0, &logical, NULL, &next, NULL), WN_OK);
    CU_ASSERT(logical == 4 && next == 4);
    CU_ASSERT_EQUAL(cache_append(cache, one, 1, NULL), WN_OK); /* not busy */
    CU_ASSERT_EQUAL(wn_kvcache_sequence_free(cache, two, NULL), WN_EBUSY);
    items[0].sequence = 12345678; /* neither end nor abort minds one that is gone */
    wn_kvcache_abort(cache, &items[0]);
    wn_kvcache_end(cache, items, 2);
    CU_ASSERT_EQUAL(physical(two, 0), 13);
    wn_kvcache_destroy(cache);
}

/* Positions that an aborted step left a gap before must not come back. */
static void abort_forgets_positions(void)
{
    open_cache(40);
    int64_t id = create(4);
    wn_kvcache_item item = {.sequence = id, .num_tokens = 2, .next_position = 12};
    CU_ASSERT_EQUAL(begin(&item, 1), WN_OK); /* token 4 at 10 */
    wn_kvcache_abort(cache, &item);
    CU_ASSERT_EQUAL(cache_append(cache, id, 3, NULL), WN_OK); /* token 4 at 4 */
    int32_t next = -1;
    CU_ASSERT_EQUAL(wn_kvcache_sequence_truncate(cache, id, 5, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_sequence_length(cache, id, 0, NULL, NULL, &next, NULL), WN_OK);
    CU_ASSERT_EQUAL(next, 5);
    CU_ASSERT_EQUAL(cache->sequence[wn_kvcache_sequence_slot(cache, id)].positions.count, 1);
    wn_kvcache_destroy(cache);
}

static void abort_free_ends_a_busy_sequence(void)
{
    open_cache(40);
    int64_t id = create(7);
    wn_kvcache_item item = cache_item(cache, id, 9);
    item.will_compact = 1;
    CU_ASSERT_EQUAL(begin(&item, 1), WN_OK);
    CU_ASSERT_EQUAL(wn_kvcache_compacted(cache, id, 0, 2, &fixture.error), WN_OK);
    wn_kvcache_abort_free(cache, id);
    CU_ASSERT(stats(0).pages_used == 0 && stats(1).pages_used == 0 && stats(0).sequences == 0);
    wn_kvcache_abort_free(cache, id);
    wn_kvcache_end(cache, &item, 1);
    CU_ASSERT_NOT_EQUAL(create(0), id); /* the slot is free and not busy */
    wn_kvcache_destroy(cache);
}

/* A copy that fails in any pool: lengths and counts as before, nobody busy, contents untouched. */
static void a_failing_copy_undoes_the_step(void)
{
    open_cache(40);
    int64_t one = create(12), two = fork_of(one), three = create(1);
    wn_kvcache_item items[] = {cache_item(cache, three, 9), cache_item(cache, two, 9)};
    wn_status status = WN_EUNSUPPORTED;
    for (int n = 0; status == WN_EUNSUPPORTED && n < 100; n++) {
        cache_ops_fail_copy(n);
        status = begin(items, 2);
        if (status == WN_OK)
            break;
        CU_ASSERT_EQUAL(status, WN_EUNSUPPORTED);
        CU_ASSERT_STRING_EQUAL(fixture.text, "copying fails on purpose");
        CU_ASSERT(physical(one, 0) == 12 && physical(two, 0) == 12 && physical(three, 0) == 1);
        CU_ASSERT(page_of(three, 0, 1) == -1 && page_of(two, 0, 3) == -1);
        CU_ASSERT_EQUAL(stats(1).pages_used, 4);
        CU_ASSERT_EQUAL(cache_append(cache, three, 0, NULL), WN_OK);
        CU_ASSERT_EQUAL(cache_append(cache, two, 0, NULL), WN_OK);
    }
    cache_ops_fail_copy(-1);
    CU_ASSERT_EQUAL(status, WN_OK);
    wn_kvcache_end(cache, items, 2);
    CU_ASSERT_EQUAL(physical(two, 0), 21);
    wn_kvcache_destroy(cache);
}

WN_SUITE("kvcache.step", {"appending takes pages when full", appending_takes_pages_when_full},
         {"a writer copies what it may write", a_writer_copies_what_it_may_write},
         {"no tokens copy nothing", no_tokens_copy_nothing},
         {"compacting copies the group's pages", compacting_copies_the_groups_pages},
         {"groups beyond 31 share a bit", groups_beyond_31_share_a_bit},
         {"a pair that appends needs one copy", a_pair_that_appends_needs_one_copy},
         {"a reader keeps the original", a_reader_keeps_the_original},
         {"out of pages changes nothing", out_of_pages_changes_nothing},
         {"bad items are refused whole", bad_items_are_refused_whole},
         {"a compaction must be announced", a_compaction_must_be_announced},
         {"abort restores one item", abort_restores_one_item},
         {"abort forgets positions", abort_forgets_positions},
         {"abort_free ends a busy sequence", abort_free_ends_a_busy_sequence},
         {"a failing copy undoes the step", a_failing_copy_undoes_the_step})
