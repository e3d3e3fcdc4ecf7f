/* test_landmark_update.c: landmarks that cross pages, followed by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { PAGES = 2, PAGE = 4 };

/* One head, head_dim 1; landmarks of 3 slots: landmark 0 (slots 0 .. 2) and 1 (3 .. 5) begin in the
 * first page, 2 (6, 7) in the second. Logical page 0 is page 1 of the pool. */
typedef struct landmarks {
    float k[PAGES * PAGE], data[PAGES * 2 * 2]; /* [page][place][minimum, maximum] */
    int32_t page_table[PAGES], length, begin;
    wn_landmark_update_args args;
} landmarks;

static void make(landmarks *l, const float *keys)
{
    l->page_table[0] = 1;
    l->page_table[1] = 0;
    memcpy(l->k + PAGE, keys, PAGE * sizeof *keys);
    memcpy(l->k, keys + PAGE, PAGE * sizeof *keys);
    for (int i = 0; i < PAGES * 2 * 2; i++)
        l->data[i] = 77;
    l->begin = 0;
    l->length = 8;
    l->args = (wn_landmark_update_args){.struct_size = WN_SIZEOF(wn_landmark_update_args),
                                        .kv = {.k = {.data = l->k,
                                                     .page_stride = PAGE,
                                                     .head_stride = PAGE,
                                                     .token_stride = 1,
                                                     .dtype = WN_F32,
                                                     .layout = WN_LAYOUT_STRIDED,
                                                     .dim = 1,
                                                     .tensor_scale = 1},
                                               .page_table = l->page_table,
                                               .page_table_stride = PAGES,
                                               .length = &l->length,
                                               .batch = 1,
                                               .tokens_per_page = PAGE,
                                               .num_kv_heads = 1},
                                        .begin = &l->begin,
                                        .landmarks = {.data = l->data,
                                                      .page_stride = 4,
                                                      .head_stride = 4,
                                                      .landmark_stride = 2,
                                                      .max_offset = 1,
                                                      .dtype = WN_F32,
                                                      .landmark_size = 3}};
}

static void expect(const landmarks *l, const float *data)
{
    CU_ASSERT_EQUAL(memcmp(l->data, data, sizeof l->data), 0);
}

static const float keys[] = {1, -2, 3, 9, 4, 5, 7, 6};

static void across_pages(void)
{
    landmarks l;
    make(&l, keys);
    CU_ASSERT_EQUAL(wn_ref_landmark_update(&l.args), WN_OK);
    expect(&l, (float[]){6, 7, 77, 77, -2, 3, 4, 9});
}

static void slot_by_slot(void)
{
    landmarks l;
    make(&l, keys);
    for (l.length = 1; l.length <= 8; l.length++) {
        l.begin = l.length - 1;
        CU_ASSERT_EQUAL(wn_ref_landmark_update(&l.args), WN_OK);
    }
    expect(&l, (float[]){6, 7, 77, 77, -2, 3, 4, 9});
}

static void zeros_have_no_sign_and_nan_no_say(void)
{
    static const float odd[] = {-0.0f, NAN, -0.0f, NAN, NAN, 2, 1, 1};
    landmarks l;
    make(&l, odd);
    CU_ASSERT_EQUAL(wn_ref_landmark_update(&l.args), WN_OK);
    expect(&l, (float[]){1, 1, 77, 77, 0, 0, 2, 2});
}

static void rounding_keeps_the_order(void)
{
    static const float tiny[] = {1e-9f, -1e-9f, 1, 70000, -70000, 1.1f, 1, 1};
    landmarks l;
    uint8_t *codes = (uint8_t *)l.data;
    make(&l, tiny);
    l.args.landmarks.dtype = WN_F8_E5M2;
    l.length = 6;
    CU_ASSERT_EQUAL(wn_ref_landmark_update(&l.args), WN_OK);
    CU_ASSERT_EQUAL(codes[4], 0);    /* -1e-9 rounds to 0, stored as +0 */
    CU_ASSERT_EQUAL(codes[5], 0x3c); /* 1 */
    CU_ASSERT_EQUAL(codes[6], 0xfb); /* -57344: saturates */
    CU_ASSERT_EQUAL(codes[7], 0x7b);
}

/* Landmarks over slots 7, 0, none, 2 | 5, in pages of one landmark of their own: page 1, then 0. */
static void of_a_list_of_slots(void)
{
    static const int32_t slots[] = {7, 0, -1, 2, 5}, pages[] = {1, 0};
    int32_t count = 5;
    landmarks l;
    make(&l, keys);
    l.args.gather = slots;
    l.args.count = &count;
    l.args.landmarks.landmark_size = 4;
    l.args.landmark_page_table = pages;
    l.args.landmark_page_table_stride = 2;
    l.args.landmark_tokens_per_page = 4;
    CU_ASSERT_EQUAL(wn_ref_landmark_update(&l.args), WN_OK);
    expect(&l, (float[]){5, 5, 77, 77, 1, 6, 77, 77});
    l.length = 7; /* slot 7 is no longer the request's */
    CU_ASSERT_EQUAL(wn_ref_landmark_update(&l.args), WN_EINVAL);
}

WN_SUITE("kernels.ref.landmark_update", {"across pages", across_pages},
         {"slot by slot", slot_by_slot},
         {"zeros have no sign and NaN no say", zeros_have_no_sign_and_nan_no_say},
         {"rounding keeps the order", rounding_keeps_the_order},
         {"of a list of slots", of_a_list_of_slots})
