/* test_gather_pages.c: page lists by hand: two requests of 146 and 195 tokens, four KV heads, pages
 * of 64 tokens, table entry p of request b being 1000 + 100 b + p. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <string.h>

enum { BATCH = 2, HEADS = 4, TABLE = 8, STRIDE = 5 };

typedef struct lists {
    int32_t pages[HEADS][BATCH][STRIDE], count[HEADS][BATCH], length[HEADS][BATCH];
} lists;

static int32_t table[BATCH][TABLE];
static const int32_t length[BATCH] = {146, 195};

static wn_status gather(wn_selection *selection, lists *out)
{
    for (int b = 0; b < BATCH; b++)
        for (int p = 0; p < TABLE; p++)
            table[b][p] = 1000 + 100 * b + p;
    memset(out, 0xff, sizeof *out);
    selection->struct_size = WN_SIZEOF(wn_selection);
    selection->index_space = WN_INDEX_PHYSICAL;
    selection->rows = BATCH;
    wn_gather_pages_args args = {.struct_size = WN_SIZEOF(wn_gather_pages_args),
                                 .selection = selection,
                                 .page_table = &table[0][0],
                                 .page_table_stride = TABLE,
                                 .length = length,
                                 .batch = BATCH,
                                 .num_kv_heads = HEADS,
                                 .tokens_per_page = 64,
                                 .pages = &out->pages[0][0][0],
                                 .pages_stride = STRIDE,
                                 .page_count = &out->count[0][0],
                                 .page_length = &out->length[0][0]};
    return wn_ref_gather_pages(&args);
}

/* Is the list of head h, request b the table's entries of these pages, the rest untouched? */
static void expect(const lists *l, int h, int b, int count, const int *pages, int tokens)
{
    CU_ASSERT_EQUAL(l->count[h][b], count);
    CU_ASSERT_EQUAL(l->length[h][b], tokens);
    for (int i = 0; i < STRIDE; i++)
        CU_ASSERT_EQUAL(l->pages[h][b][i], i < count ? 1000 + 100 * b + pages[i] : -1);
}

/* 14 tokens per head, in no order: six of request 0, eight of request 1. */
static void tokens_of_four_heads(void)
{
    static int32_t indices[HEADS][14] = {
        {70, 3, 5, 1, 64, 127, 190, 64, 66, 130, 192, 128, 194, 129},
        {145, 1, 144, 2, 0, 3, 64, 65, 128, 191, 130, 66, 67, 68},
        {128, 129, 145, 130, 144, 131, 0, 1, 2, 3, 4, 5, 6, 63},
        {-1, 146, 147, 500, -7, 64, 192, 193, 194, 195, 196, 197, 192, 193}};
    static int32_t offsets[] = {0, 6, 14};
    wn_selection selection = {.block_size = 1,
                              .head_stride = 14,
                              .indices = &indices[0][0],
                              .capacity = 56,
                              .offsets = offsets,
                              .offsets_capacity = 3};
    lists l;
    CU_ASSERT_EQUAL(gather(&selection, &l), WN_OK);
    expect(&l, 0, 0, 2, (int[]){0, 1}, 128);
    expect(&l, 0, 1, 3, (int[]){1, 2, 3}, 64 + 64 + 3);
    expect(&l, 1, 0, 2, (int[]){0, 2}, 64 + 18);
    expect(&l, 1, 1, 2, (int[]){1, 2}, 128);
    expect(&l, 2, 0, 1, (int[]){2}, 18);
    expect(&l, 2, 1, 1, (int[]){0}, 64);
    expect(&l, 3, 0, 1, (int[]){1}, 64);
    expect(&l, 3, 1, 1, (int[]){3}, 3);
}

/* Blocks of 100 tokens span up to three pages; one list serves all heads; -1 pads. */
static void blocks_wider_than_a_page(void)
{
    static int32_t indices[] = {1, -1, 0, 1};
    wn_selection selection = {.block_size = 100, .indices = indices, .width = 2, .capacity = 4};
    lists l;
    CU_ASSERT_EQUAL(gather(&selection, &l), WN_OK);
    for (int h = 0; h < HEADS; h++) {
        expect(&l, h, 0, 2, (int[]){1, 2}, 64 + 18);
        expect(&l, h, 1, 4, (int[]){0, 1, 2, 3}, 195);
    }
}

/* With integer division alone, block -1 of a size below the page's would be page 0. */
static void padding_selects_nothing(void)
{
    static int32_t indices[] = {-1, -1, -1, -1};
    wn_selection selection = {.block_size = 16, .indices = indices, .width = 2, .capacity = 4};
    lists l;
    CU_ASSERT_EQUAL(gather(&selection, &l), WN_OK);
    for (int h = 0; h < HEADS; h++)
        for (int b = 0; b < BATCH; b++)
            expect(&l, h, b, 0, NULL, 0);
}

/* More pages than one window of the mask, and a block that spans the border between two. */
static void many_pages(void)
{
    enum { PAGES = 10000 };
    static int32_t many[PAGES], pages[PAGES], count, tokens, indices[] = {9999, 4095, 4096, 0};
    static const int32_t one_length[] = {PAGES};
    wn_selection selection = {.struct_size = WN_SIZEOF(wn_selection),
                              .block_size = 1,
                              .index_space = WN_INDEX_PHYSICAL,
                              .rows = 1,
                              .indices = indices,
                              .width = 4,
                              .capacity = 4};
    wn_gather_pages_args args = {.struct_size = WN_SIZEOF(wn_gather_pages_args),
                                 .selection = &selection,
                                 .page_table = many,
                                 .page_table_stride = PAGES,
                                 .length = one_length,
                                 .batch = 1,
                                 .num_kv_heads = 1,
                                 .tokens_per_page = 1,
                                 .pages = pages,
                                 .pages_stride = PAGES,
                                 .page_count = &count,
                                 .page_length = &tokens};
    for (int32_t p = 0; p < PAGES; p++)
        many[p] = PAGES - p;
    CU_ASSERT_EQUAL(wn_ref_gather_pages(&args), WN_OK);
    CU_ASSERT_EQUAL(count, 4);
    CU_ASSERT(pages[0] == 10000 && pages[1] == 5905 && pages[2] == 5904 && pages[3] == 1);
    selection.block_size = 5000;
    indices[0] = indices[1] = indices[2] = indices[3] = 0;
    CU_ASSERT_EQUAL(wn_ref_gather_pages(&args), WN_OK);
    CU_ASSERT(count == 5000 && tokens == 5000 && pages[4999] == PAGES - 4999);
}

WN_SUITE("kernels.ref.gather_pages", {"tokens of four heads", tokens_of_four_heads},
         {"blocks wider than a page", blocks_wider_than_a_page},
         {"padding selects nothing", padding_selects_nothing}, {"many pages", many_pages})
