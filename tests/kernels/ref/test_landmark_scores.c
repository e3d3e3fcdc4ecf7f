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

/* Channel 1 alone counts: |q| is 3 of 5 and 1 of 3 there, and head_dim is 3. */
static void temperature_of_the_counted_channels(void)
{
    group g = typical();
    make(&g, 1);
    g.args.temperature = WN_TEMPERATURE_SPARQ;
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_OK);
    double t0 = sqrt(3 * 3 / 5.), t1 = sqrt(3 * 1 / 3.); /* minima -1 and 0 */
    CU_ASSERT_DOUBLE_EQUAL(g.scores[0], mean_of_softmax(3 / t0, 0, -1 / t1, 0), 1e-6);
    for (int i = 0; i < 2 * DIM; i++)
        g.q[i] = 0; /* no channel has any weight: all landmarks are alike */
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_OK);
    CU_ASSERT(g.scores[0] == 0.5f && g.scores[1] == 0.5f);
}

/* Landmarks of three tokens, of which the second has one: four tokens in the softmax. */
static void softmax_over_tokens(void)
{
    int32_t length = 4;
    group g = typical();
    make(&g, 128);
    g.args.landmarks.landmark_size = 3;
    g.args.tokens_per_page = 6;
    g.args.length = &length;
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_OK);
    double first = (exp(10) / (3 * exp(10) + exp(5)) + exp(-4) / (3 * exp(-4) + exp(-3))) / 2;
    CU_ASSERT_DOUBLE_EQUAL(g.scores[0], first, 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(g.scores[1], 1 - 3 * first, 1e-6);
    length = 3; /* one landmark's worth */
    CU_ASSERT_EQUAL(wn_ref_landmark_scores(&g.args), WN_EINVAL);
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
         {"greatest channels", greatest_channels},
         {"temperature of the counted channels", temperature_of_the_counted_channels},
         {"softmax over tokens", softmax_over_tokens}, {"nobody asks", nobody_asks})
