/* test_compact.c: compaction, by hand: two pages of four tokens, one KV head, K of two numbers, V
 * of one, the token in slot s being (10 s, 10 s + 1) and (-s). */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <string.h>

enum { SLOTS = 8, TOKENS_PER_PAGE = 4 };

typedef struct cache {
    float k[2][TOKENS_PER_PAGE][2], v[2][TOKENS_PER_PAGE], k_scale[2][TOKENS_PER_PAGE];
    int32_t position[2][TOKENS_PER_PAGE];
    int32_t page_table[2], length;
} cache;

/* Slots 0 .. 3 are in page 1, slots 4 .. 7 in page 0. Positions are 100 + s, scales 1 + s. */
static cache filled(int32_t length)
{
    cache c = {.page_table = {1, 0}, .length = length};
    for (int s = 0; s < SLOTS; s++) {
        int page = 1 - s / TOKENS_PER_PAGE, place = s % TOKENS_PER_PAGE;
        c.k[page][place][0] = (float)(10 * s);
        c.k[page][place][1] = (float)(10 * s + 1);
        c.v[page][place] = (float)-s;
        c.k_scale[page][place] = (float)(1 + s);
        c.position[page][place] = 100 + s;
    }
    return c;
}

static wn_paged_kv view_of(cache *c)
{
    return (wn_paged_kv){.k = {.data = c->k,
                               .scale = &c->k_scale[0][0],
                               .page_stride = 8,
                               .head_stride = 8,
                               .token_stride = 2,
                               .scale_page_stride = TOKENS_PER_PAGE,
                               .scale_head_stride = TOKENS_PER_PAGE,
                               .dtype = WN_F32,
                               .layout = WN_LAYOUT_STRIDED,
                               .dim = 2,
                               .tensor_scale = 1},
                         .v = {.data = c->v,
                               .page_stride = 4,
                               .head_stride = 4,
                               .token_stride = 1,
                               .dtype = WN_F32,
                               .layout = WN_LAYOUT_STRIDED,
                               .dim = 1,
                               .tensor_scale = 1},
                         .page_table = c->page_table,
                         .page_table_stride = 2,
                         .length = &c->length,
                         .position = &c->position[0][0],
                         .position_page_stride = TOKENS_PER_PAGE,
                         .position_head_stride = TOKENS_PER_PAGE,
                         .batch = 1,
                         .tokens_per_page = TOKENS_PER_PAGE,
                         .num_kv_heads = 1};
}

static wn_status compact(cache *c, const int32_t *keep, int32_t count, const int32_t *destination,
                         wn_error *error)
{
    int32_t offsets[2] = {0, count};
    wn_compact_args args = {.struct_size = WN_SIZEOF(wn_compact_args),
                            .error = error,
                            .kv = view_of(c),
                            .indices = keep,
                            .offsets = offsets,
                            .destination = destination};
    return wn_ref_compact(&args);
}

/* Slot `at` holds what was in slot `was`. */
static int holds(const cache *c, int at, int was)
{
    int page = 1 - at / TOKENS_PER_PAGE, place = at % TOKENS_PER_PAGE;
    return c->k[page][place][0] == 10 * was && c->k[page][place][1] == 10 * was + 1 &&
           c->v[page][place] == -was && c->k_scale[page][place] == 1 + was &&
           c->position[page][place] == 100 + was;
}

static void to_the_front(void)
{
    static const int32_t keep[] = {1, 2, 5, 7};
    static const int expected[SLOTS] = {1, 2, 5, 7, 4, 5, 6, 7};
    cache c = filled(8);
    CU_ASSERT_EQUAL(compact(&c, keep, 4, NULL, NULL), WN_OK);
    for (int s = 0; s < SLOTS; s++)
        CU_ASSERT(holds(&c, s, expected[s]));
}

static void to_the_end(void)
{
    static const int32_t keep[] = {0, 1, 4}, destination[] = {4};
    static const int expected[SLOTS] = {0, 1, 2, 3, 0, 1, 4, 7};
    cache c = filled(7);
    CU_ASSERT_EQUAL(compact(&c, keep, 3, destination, NULL), WN_OK);
    for (int s = 0; s < SLOTS; s++)
        CU_ASSERT(holds(&c, s, expected[s]));
}

/* Tokens one apart overwrite each other unless they move in the right order. */
static void overlapping_moves(void)
{
    static const int32_t keep[] = {1, 2, 3, 4, 5, 6, 7}, last[] = {0, 1, 2, 3, 4, 5, 6},
                         one[] = {1};
    cache front = filled(8), back = filled(8);
    CU_ASSERT_EQUAL(compact(&front, keep, 7, NULL, NULL), WN_OK);
    CU_ASSERT_EQUAL(compact(&back, last, 7, one, NULL), WN_OK);
    for (int i = 0; i < 7; i++) {
        CU_ASSERT(holds(&front, i, i + 1));
        CU_ASSERT(holds(&back, i + 1, i));
    }
}

static void all_or_none_change_nothing(void)
{
    static const int32_t keep[] = {0, 1, 2, 3, 4, 5, 6, 7};
    cache c = filled(8);
    CU_ASSERT_EQUAL(compact(&c, keep, 8, NULL, NULL), WN_OK);
    CU_ASSERT_EQUAL(compact(&c, keep, 0, NULL, NULL), WN_OK);
    for (int s = 0; s < SLOTS; s++)
        CU_ASSERT(holds(&c, s, s));
}

static void both_directions_at_once_are_refused(void)
{
    static const int32_t keep[] = {0, 7}, middle[] = {3};
    char text[256] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    cache c = filled(8);
    CU_ASSERT_EQUAL(compact(&c, keep, 2, middle, &error), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "destination must be at most slot 0 or at least slot 6"));
    for (int s = 0; s < SLOTS; s++)
        CU_ASSERT(holds(&c, s, s));
}

/* MLA: K moves alone, as records too, which are moved whole. */
static void v_within_k(void)
{
    static const int32_t keep[] = {2, 5}, offsets[] = {0, 2};
    uint8_t record[2][TOKENS_PER_PAGE][WN_MLA_RECORD_BYTES];
    cache c = filled(6);
    for (int s = 0; s < SLOTS; s++)
        memset(record[1 - s / TOKENS_PER_PAGE][s % TOKENS_PER_PAGE], 10 + s, WN_MLA_RECORD_BYTES);
    wn_compact_args args = {.struct_size = WN_SIZEOF(wn_compact_args),
                            .kv = view_of(&c),
                            .indices = keep,
                            .offsets = offsets};
    args.kv.v = (wn_kv_view){0};
    CU_ASSERT_EQUAL(wn_ref_compact(&args), WN_OK);
    CU_ASSERT(c.k[1][0][0] == 20 && c.k[1][1][0] == 50 && c.k_scale[1][1] == 6);
    CU_ASSERT(c.v[1][0] == 0 && c.v[1][1] == -1);
    args.kv.k = (wn_kv_view){.data = record,
                             .page_stride = sizeof record[0],
                             .token_stride = WN_MLA_RECORD_BYTES,
                             .dtype = WN_U8,
                             .layout = WN_LAYOUT_MLA_FP8,
                             .dim = 576,
                             .tensor_scale = 1};
    CU_ASSERT_EQUAL(wn_ref_compact(&args), WN_OK);
    CU_ASSERT(record[1][0][0] == 12 && record[1][0][WN_MLA_RECORD_BYTES - 1] == 12);
    CU_ASSERT(record[1][1][0] == 15 && record[1][1][WN_MLA_RECORD_BYTES - 1] == 15);
    CU_ASSERT(record[1][2][0] == 12 && record[0][1][0] == 15);
}

WN_SUITE("kernels.ref.compact", {"to the front", to_the_front}, {"to the end", to_the_end},
         {"overlapping moves", overlapping_moves},
         {"all or none change nothing", all_or_none_change_nothing}, {"V within K", v_within_k},
         {"both directions at once are refused", both_directions_at_once_are_refused})
