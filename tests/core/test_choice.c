/* test_choice.c: what plugins choose is checked, translated and counted. */
#include "core/choice.h"
#include "tests/suite.h"
#include "winnow/ops.h"

#include <string.h>

enum { HEADS = 2, PAGE = 4 };

/* Two requests of 10 and 5 slots, 3 and 1 query tokens; pages need not exist for indices. */
static int32_t table[2][3] = {{2, 0, 1}, {3, 4, -1}};
static int32_t lengths[2] = {10, 5}, q_lens[2] = {3, 1};
static int32_t positions[5][HEADS][PAGE];
static char text[1024];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
static int32_t indices[256], offsets[16], row_begin[2];
static const wn_selection_buffers buffers = {indices, 256, offsets, 16};

static wn_paged_kv view(void)
{
    return (wn_paged_kv){.page_table = table[0],
                         .page_table_stride = 3,
                         .length = lengths,
                         .position = &positions[0][0][0],
                         .position_page_stride = HEADS * PAGE,
                         .position_head_stride = PAGE,
                         .batch = 2,
                         .tokens_per_page = PAGE,
                         .num_kv_heads = HEADS};
}

/* Fixed form, one list for all heads, a row per query token: 4 rows of 4. */
static wn_selection shared(const int32_t rows[4][4], uint32_t block, uint32_t flags)
{
    wn_selection s = wn_selection_lend(&buffers);
    s.offsets = NULL;
    s.rows = 4;
    s.width = 4;
    s.query_block = 1;
    s.block_size = block;
    s.flags = flags;
    memcpy(indices, rows, 16 * sizeof(int32_t));
    return s;
}

static wn_status settle(wn_selection *s, uint32_t granularity, uint32_t kept,
                        wn_selection_count *count)
{
    wn_paged_kv kv = view();
    wn_selection_scope scope = {&kv, q_lens, kept, granularity, "probe"};
    text[0] = 0;
    return wn_selection_settle(s, &buffers, &scope, row_begin, count, &error);
}

static void lists_are_sorted_and_cleaned(void)
{
    static const int32_t rows[4][4] = {
        {5, 1, 5, -1}, {99, 0, 3, 2}, {-7, -1, -1, -1}, {4, 5, 3, 3}};
    static const int32_t wanted[4][4] = {
        {1, 5, -1, -1}, {0, 2, 3, -1}, {-1, -1, -1, -1}, {3, 4, -1, -1}};
    wn_selection_count count;
    wn_selection s = shared(rows, 1, 0);
    CU_ASSERT_EQUAL(settle(&s, WN_GRANULARITY_EXACT, 0, &count), WN_OK);
    CU_ASSERT(memcmp(indices, wanted, sizeof wanted) == 0);
    CU_ASSERT(row_begin[0] == 0 && row_begin[1] == 3);
    CU_ASSERT(s.flags & WN_SELECTION_SORTED);
    CU_ASSERT_EQUAL(count.selected, HEADS * (2 + 3 + 0 + 2));
}

/* Request 0 has 10 slots and 3 queries: query i sees slots 0 .. 7+i. */
static void counts_stop_at_causality(void)
{
    static const int32_t rows[4][4] = {
        {2, -1, -1, -1}, {2, -1, -1, -1}, {2, -1, -1, -1}, {1, -1, -1, -1}};
    wn_selection_count count;
    wn_selection s = shared(rows, 4, WN_SELECTION_SORTED); /* slots 8..9; request 1: slot 4 */
    CU_ASSERT_EQUAL(settle(&s, WN_GRANULARITY_EXACT, 0, &count), WN_OK);
    CU_ASSERT_EQUAL(count.selected, HEADS * (0 + 1 + 2 + 1));
    /* One row for a block of queries: the same keys, counted for each query. */
    s = shared(rows, 4, WN_SELECTION_SORTED);
    s.query_block = 3;
    s.rows = 2;
    memcpy(indices + 4, rows[3], sizeof rows[3]);
    CU_ASSERT_EQUAL(settle(&s, WN_GRANULARITY_EXACT, 0, &count), WN_OK);
    CU_ASSERT_EQUAL(count.selected, HEADS * (0 + 1 + 2 + 1));
    CU_ASSERT(row_begin[0] == 0 && row_begin[1] == 1);
}

static void pages_are_counted_once(void)
{
    static const int32_t rows[4][4] = {
        {0, 1, 2, -1}, {3, -1, -1, -1}, {0, 4, -1, -1}, {2, -1, -1, -1}};
    wn_selection_count count;
    wn_selection s = shared(rows, 2, WN_SELECTION_SORTED); /* slots 0..5; 6..7; 0..1, 8..9; 4 */
    CU_ASSERT_EQUAL(settle(&s, WN_GRANULARITY_PAGE, 0, &count), WN_OK);
    CU_ASSERT_EQUAL(count.selected, HEADS * (6 + 2 + 4 + 1));
    CU_ASSERT_EQUAL(count.attended, HEADS * (8 + 4 + 6 + 1));
}

static void logical_lists_become_slots(void)
{
    static const int32_t kept[2][5] = {{3, 8, 20, 21, 22}, {0, 8, 9, 21, 22}};
    wn_selection_count count;
    for (uint32_t b = 0; b < 2; b++)
        for (uint32_t h = 0; h < HEADS; h++)
            for (int32_t s = 0; s < lengths[b]; s++)
                positions[table[b][s / PAGE]][h][s % PAGE] = b == 1 ? kept[h][s] : s;
    wn_selection s = wn_selection_lend(&buffers);
    s.index_space = WN_INDEX_LOGICAL;
    s.query_block = 3;
    s.rows = 2;
    s.head_stride = 8;
    memcpy(offsets, (int32_t[]){0, 2, 6}, 12);
    memcpy(indices, (int32_t[]){1, 2, 8, 21, 3, 500, 0, 0, 0, 1, 22, 9, 20, 8}, 14 * 4);
    CU_ASSERT_EQUAL(settle(&s, WN_GRANULARITY_EXACT, 1, &count), WN_OK);
    CU_ASSERT(memcmp(indices + 2, (int32_t[]){0, 1, 3, -1}, 16) == 0);  /* 8 21 3 500 */
    CU_ASSERT(memcmp(indices + 10, (int32_t[]){1, 2, 4, -1}, 16) == 0); /* 22 9 20 8: 20 evicted */
    CU_ASSERT_EQUAL(s.index_space, WN_INDEX_PHYSICAL);
    /* Where a list cannot be translated in place. */
    static const int32_t rows[4][4];
    s = shared(rows, 1, 0);
    s.index_space = WN_INDEX_LOGICAL;
    CU_ASSERT_EQUAL(settle(&s, WN_GRANULARITY_EXACT, 1, &count), WN_EUNSUPPORTED);
}

static void broken_selections_are_refused(void)
{
    static const int32_t rows[4][4] = {{5, 1, -1, -1}};
    wn_selection_count count;
    wn_selection s = shared(rows, 1, WN_SELECTION_SORTED);
    CU_ASSERT_EQUAL(settle(&s, 0, 0, &count), WN_EPLUGIN); /* says sorted, is not */
    CU_ASSERT(strstr(text, "probe") != NULL && strstr(text, "ascend") != NULL);
#define REFUSED(change)                                                                            \
    s = shared(rows, 1, 0);                                                                        \
    change;                                                                                        \
    CU_ASSERT_EQUAL(settle(&s, 0, 0, &count), WN_EPLUGIN)
    REFUSED(s.rows = 3);
    REFUSED(s.rows = 5);
    REFUSED(s.block_size = 0);
    REFUSED(s.index_space = 7);
    REFUSED(s.flags = 8);
    REFUSED(s.query_block = 0);
    REFUSED(s.width = 65);
    REFUSED(s.width = INT64_MAX / 2);
    REFUSED(s.width = -1);
    REFUSED(s.head_stride = 250);
    REFUSED(s.head_stride = INT64_MAX);
    REFUSED(s.head_stride = -4);
    REFUSED(s.indices = indices + 1);
    REFUSED(s.capacity = 1000);
    REFUSED(s.struct_size = 8);
    REFUSED((s.offsets = offsets, memcpy(offsets, (int32_t[]){0, 4, 2, 4, 4}, 20)));
    REFUSED((s.offsets = offsets, memcpy(offsets, (int32_t[]){-1, 4, 4, 4, 4}, 20)));
    REFUSED((s.offsets = offsets, memcpy(offsets, (int32_t[]){0, 4, 4, 4, 300}, 20)));
    REFUSED((s.offsets = indices));
    REFUSED((s.offsets = offsets, s.rows = 40));
}

static void retained_lists_are_checked(void)
{
    static const int32_t kept[2] = {3, 2};
    static const int32_t good[10] = {0, 4, 9, 1, 4, 1, 2, 3, 0, 1};
    wn_paged_kv kv = view();
    wn_selection_scope scope = {&kv, q_lens, 1, 0, "probe"};
    static const struct {
        int32_t at, value;
    } broken[] = {{2, 10}, {1, 0}, {0, -1}, {9, 0}, {4, 5}};
    for (int32_t i = -1; i < 5; i++) {
        wn_selection s = wn_selection_lend(&buffers);
        s.rows = 2;
        s.head_stride = 5;
        memcpy(indices, good, sizeof good);
        memcpy(offsets, (int32_t[]){0, 3, 5}, 12);
        if (i >= 0)
            indices[broken[i].at] = broken[i].value;
        CU_ASSERT_EQUAL(wn_selection_check_retained(&s, &buffers, &scope, kept, &error),
                        i < 0 ? WN_OK : WN_EPLUGIN);
        if (i >= 0)
            continue;
        offsets[1] = 2; /* other counts than announced */
        CU_ASSERT_EQUAL(wn_selection_check_retained(&s, &buffers, &scope, kept, &error),
                        WN_EPLUGIN);
        offsets[1] = 3;
        s.block_size = 2;
        CU_ASSERT_EQUAL(wn_selection_check_retained(&s, &buffers, &scope, kept, &error),
                        WN_EPLUGIN);
    }
}

/* Long random lists against a bitmap. */
static void random_lists_against_a_bitmap(void)
{
    static int32_t many[2048];
    static const int32_t length = 500, queries = 1;
    static int32_t pages[125];
    const wn_selection_buffers big = {many, 2048, NULL, 0};
    uint64_t random = wn_test_seed();
    for (uint32_t round = 0; round < 200; round++) {
        uint8_t seen[700] = {0};
        uint32_t n = wn_random_below(&random, 2048), distinct = 0;
        wn_paged_kv kv = {.page_table = pages,
                          .page_table_stride = 125,
                          .length = &length,
                          .batch = 1,
                          .tokens_per_page = PAGE,
                          .num_kv_heads = 1};
        wn_selection_scope scope = {&kv, &queries, 0, 0, "probe"};
        wn_selection s = wn_selection_lend(&big);
        wn_selection_count count;
        s.rows = s.query_block = 1;
        s.width = n;
        for (uint32_t i = 0; i < n; i++) {
            many[i] = (int32_t)wn_random_below(&random, 700) - 100;
            if (many[i] >= 0 && many[i] < length)
                distinct += !seen[many[i]], seen[many[i]] = 1;
        }
        CU_ASSERT_EQUAL(wn_selection_settle(&s, &big, &scope, row_begin, &count, &error), WN_OK);
        CU_ASSERT_EQUAL(count.selected, distinct);
        for (uint32_t i = 0, at = 0; i < 500; i++)
            if (seen[i])
                CU_ASSERT_EQUAL(many[at++], (int32_t)i);
        CU_ASSERT(distinct == n || many[distinct] == -1);
    }
}

WN_SUITE("core.choice", {"lists are sorted and cleaned", lists_are_sorted_and_cleaned},
         {"counts stop at causality", counts_stop_at_causality},
         {"pages are counted once", pages_are_counted_once},
         {"logical lists become slots", logical_lists_become_slots},
         {"broken selections are refused", broken_selections_are_refused},
         {"retained lists are checked", retained_lists_are_checked},
         {"random lists against a bitmap", random_lists_against_a_bitmap})
