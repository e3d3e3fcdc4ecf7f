/* test_landmark_scores.c: the choice of channels and of minimum or maximum, followed by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

enum { DIM = 3, LANDMARKS = 2 };

/* Two query heads on one KV head; landmarks of one slot in a page of two. */
typedef struct group {
    float q[2 * DIM], data[LANDMARKS * 2 * DIM], scores[LANDMARKS]; /* [landmark][min | max] */
    int32_t page, row, count;
    wn_landmark_scores_args args;
} group;

static void make(group *g, uint32_t topr)
{
    g->page = g->row = 0;
    g->count = LANDMARKS;
    g->scores[0] = g->scores[1] = 77;
    g->args = (wn_landmark_scores_args){.struct_size = WN_SIZEOF(wn_landmark_scores_args),
                                        .q = {.data = g->q,
                                              .shape = {1, 2, DIM},
                                              .stride = {2 * DIM, DIM, 1},
                                              .dtype = WN_F32,
                                              .ndim = 3},
                                        .q_row = &g->row,
                                        .landmarks = {.data = g->data,
                                                      .page_stride = LANDMARKS * 2 * DIM,
                                                      .head_stride = LANDMARKS * 2 * DIM,
                                                      .landmark_stride = 2 * DIM,
                                                      .max_offset = DIM,
                                                      .dtype = WN_F32,
                                                      .landmark_size = 1},
                                        .page_table = &g->page,
                                        .page_table_stride = 1,
                                        .count = &g->count,
                                        .batch = 1,
                                        .num_kv_heads = 1,
                                        .tokens_per_page = 2,
                                        .topr = topr,
                                        .softmax_scale = 1,
                                        .scores = {.data = g->scores,
                                                   .shape = {1, 1, LANDMARKS},
                                                   .stride = {2, 2, 1},
                                                   .dtype = WN_F32,
                                                   .ndim = 3}};
}

/* Sums of q: 2, -2, 0: maximum, minimum, minimum. */
static group typical(void)
{
    return (group){.q = {1, -3, 1, 1, 1, -1},
                   .data = {0, -1, 5, /* max */ 2, 100, 100, 0, 0, 4, /* max */ 1, 100, 100}};
}

static double mean_of_softmax(double a0, double a1, double b0, double b1)
{
    return (exp(a0) / (exp(a0) + exp(a1)) + exp(b0) / (exp(b0) + exp(b1))) / 2;
}

static void all_channels(void)
{
    group g = typical();
    make(&g, 128);
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_OK);
    /* head 0: 2 + 3 + 5 and 1 + 0 + 4; head 1: 2 - 1 - 5 and 1 + 0 - 4 */
    double expected = mean_of_softmax(10, 5, -4, -3);
    CU_ASSERT_DOUBLE_EQUAL(g.scores[0], expected, 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(g.scores[1], 1 - expected, 1e-6);
}

static void greatest_channels(void)
{
    group g = typical(); /* sums of |q|: 2, 4, 2: channel 1, then 0 before 2 */
    make(&g, 2);
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_OK);
    CU_ASSERT_DOUBLE_EQUAL(g.scores[0], mean_of_softmax(5, 1, 1, 1), 1e-6);
}

static void nobody_asks(void)
{
    group g = typical();
    make(&g, 2);
    g.row = -1;
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_OK);
    CU_ASSERT_EQUAL(g.scores[0], 77);
    g.row = 1;
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_EINVAL);
}

WN_SUITE("kernels.ref.landmark_scores", {"all channels", all_channels},
         {"greatest channels", greatest_channels}, {"nobody asks", nobody_asks})
