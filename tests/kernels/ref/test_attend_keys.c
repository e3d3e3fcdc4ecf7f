/* test_attend_keys.c: the order in which a unit of attention meets its keys. */
#include "suite.h"
#include "tiny_attention.h"

/* Slots in the order of the walk, and the tile of each. */
typedef struct met {
    int64_t count, slot[TINY_KEYS], tile[TINY_KEYS];
} met;

static met walk_all(const tiny_attention *t, int64_t tile_k)
{
    wn_ref_unit unit = tiny_unit(t, tile_k);
    met m = {0};
    static wn_ref_strip strip;
    for (wn_ref_walk walk = wn_ref_walk_begin(&unit); wn_ref_walk_next(&walk, &strip);)
        for (int64_t j = 0; j < strip.count && m.count < TINY_KEYS; j++) {
            m.tile[m.count] = strip.tile;
            m.slot[m.count++] = strip.slot[j];
        }
    return m;
}

static void expect_slots(const met *m, int64_t count, const int64_t *slots)
{
    CU_ASSERT_EQUAL_FATAL(m->count, count);
    CU_ASSERT_EQUAL(memcmp(m->slot, slots, (size_t)count * sizeof *slots), 0);
}

static const float zeros[TINY_KEYS];

static void dense_goes_in_tiles(void)
{
    tiny_attention t;
    tiny_attention_make(&t, 10, zeros, 2);
    met m = walk_all(&t, 4);
    CU_ASSERT_EQUAL_FATAL(m.count, 10);
    for (int64_t j = 0; j < 10; j++) {
        CU_ASSERT_EQUAL(m.slot[j], j);
        CU_ASSERT_EQUAL(m.tile[j], j / 4);
    }
    t.args.kv.length = (const int32_t[]){0};
    wn_ref_unit unit = tiny_unit(&t, 4);
    static wn_ref_strip strip;
    unit.length = 0;
    unit.shift = -2;
    wn_ref_walk walk = wn_ref_walk_begin(&unit);
    CU_ASSERT_FALSE(wn_ref_walk_next(&walk, &strip));
}

static void selected_blocks(void)
{
    tiny_attention t;
    tiny_attention_make(&t, 10, zeros, 2);
    int32_t blocks[] = {-1, 0, 2, 4, 5, 1000000000};
    tiny_attention_select(&t, 2, blocks, 6);
    met m = walk_all(&t, 4);
    expect_slots(&m, 6, (const int64_t[]){0, 1, 4, 5, 8, 9});
    CU_ASSERT_EQUAL(m.tile[3], 0);
    CU_ASSERT_EQUAL(m.tile[4], 1); /* tiles count selected keys */
}

static void blocks_widen_to_pages(void)
{
    tiny_attention t;
    tiny_attention_make(&t, 10, zeros, 2);
    t.args.granularity = WN_GRANULARITY_PAGE;
    int32_t two_in_a_page[] = {1, 3, -1};
    tiny_attention_select(&t, 1, two_in_a_page, 3);
    met m = walk_all(&t, 4);
    expect_slots(&m, 4, (const int64_t[]){0, 1, 2, 3});
    int32_t across[] = {1}; /* slots 3, 4, 5: two pages */
    tiny_attention_select(&t, 3, across, 1);
    m = walk_all(&t, 4);
    expect_slots(&m, 8, (const int64_t[]){0, 1, 2, 3, 4, 5, 6, 7});
    int32_t last[] = {9};
    tiny_attention_select(&t, 1, last, 1);
    m = walk_all(&t, 4);
    expect_slots(&m, 2, (const int64_t[]){8, 9});
}

static void bad_lists_do_no_harm(void)
{
    tiny_attention t;
    tiny_attention_make(&t, 10, zeros, 2);
    int32_t blocks[] = {5, 5, 3, 2147483647, -2147483647 - 1, 9, 9, 0};
    tiny_attention_select(&t, 1, blocks, 8);
    met m = walk_all(&t, 4);
    expect_slots(&m, 2, (const int64_t[]){5, 9}); /* strictly ascending whatever comes */
    tiny_attention_select(&t, 2147483647, blocks, 8);
    m = walk_all(&t, 4);
    CU_ASSERT_EQUAL(m.count, 10);
}

static void who_sees_what(void)
{
    tiny_attention t;
    tiny_attention_make(&t, 10, zeros, 4); /* queries at slots 6 .. 9 */
    wn_ref_unit unit = tiny_unit(&t, 64);
    wn_ref_row row = wn_ref_row_of(&unit, 1);
    CU_ASSERT_EQUAL(row.last_slot, 7);
    CU_ASSERT_EQUAL(row.position, 7);
    CU_ASSERT_TRUE(wn_ref_sees(&unit, &row, 7, 7));
    CU_ASSERT_FALSE(wn_ref_sees(&unit, &row, 8, 8));
    t.args.window = 3;
    t.args.token_sinks = 2;
    CU_ASSERT_TRUE(wn_ref_sees(&unit, &row, 5, 5));
    CU_ASSERT_FALSE(wn_ref_sees(&unit, &row, 4, 4));
    CU_ASSERT_TRUE(wn_ref_sees(&unit, &row, 1, 1));
    CU_ASSERT_TRUE(wn_ref_sees(&unit, &row, 0, 7)); /* positions decide, not slots */
    t.args.causal = 0;
    row = wn_ref_row_of(&unit, 1);
    CU_ASSERT_TRUE(wn_ref_sees(&unit, &row, 9, 9));
}

WN_SUITE("kernels.ref.attend_keys", {"dense goes in tiles", dense_goes_in_tiles},
         {"selected blocks", selected_blocks}, {"blocks widen to pages", blocks_widen_to_pages},
         {"bad lists do no harm", bad_lists_do_no_harm}, {"who sees what", who_sees_what})
