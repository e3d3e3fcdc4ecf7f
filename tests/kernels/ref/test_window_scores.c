/* test_window_scores.c: how the last queries look back, followed by hand, and the limit of rows. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

enum { KEYS = 4, WINDOW = 2 };

/* One head, head_dim 1, queries of 1: a key is its score. */
typedef struct window {
    float q[WINDOW], k[KEYS], scores[KEYS];
    int32_t page, length;
    wn_window_scores_args args;
} window;

static void make(window *w, uint32_t normalise)
{
    w->q[0] = w->q[1] = 1;
    w->page = 0;
    w->length = KEYS;
    for (int j = 0; j < KEYS; j++)
        w->scores[j] = 77;
    w->args = (wn_window_scores_args){.struct_size = WN_SIZEOF(wn_window_scores_args),
                                      .q = {.data = w->q,
                                            .shape = {1, WINDOW, 1, 1},
                                            .stride = {WINDOW, 1, 1, 1},
                                            .dtype = WN_F32,
                                            .ndim = 4},
                                      .kv = {.k = {.data = w->k,
                                                   .page_stride = KEYS,
                                                   .head_stride = KEYS,
                                                   .token_stride = 1,
                                                   .dtype = WN_F32,
                                                   .layout = WN_LAYOUT_STRIDED,
                                                   .dim = 1,
                                                   .tensor_scale = 1},
                                             .page_table = &w->page,
                                             .page_table_stride = 1,
                                             .length = &w->length,
                                             .batch = 1,
                                             .tokens_per_page = KEYS,
                                             .num_kv_heads = 1},
                                      .softmax_scale = 1,
                                      .normalise = normalise,
                                      .scores = {.data = w->scores,
                                                 .shape = {1, 1, KEYS},
                                                 .stride = {KEYS, KEYS, 1},
                                                 .dtype = WN_F32,
                                                 .ndim = 3}};
}

static void prefix_sums_to_the_queries(void)
{
    window w = {.k = {0, (float)log(3), 5, 6}};
    make(&w, WN_SCORES_PREFIX);
    CU_ASSERT_EQUAL(wn_ref_window_scores(&w.args), WN_OK);
    CU_ASSERT_DOUBLE_EQUAL(w.scores[0], 0.5, 1e-6); /* two queries, 1/4 each */
    CU_ASSERT_DOUBLE_EQUAL(w.scores[1], 1.5, 1e-6);
    CU_ASSERT_EQUAL(w.scores[2], 77);
}

static void full_is_causal_in_the_window(void)
{
    window w = {.k = {0, 0, 0, 0}};
    make(&w, WN_SCORES_FULL);
    CU_ASSERT_EQUAL(wn_ref_window_scores(&w.args), WN_OK);
    CU_ASSERT_DOUBLE_EQUAL(w.scores[0], 1.0 / 3 + 1.0 / 4, 1e-6);
    CU_ASSERT_EQUAL(w.scores[2], 77);
}

static void a_prompt_inside_the_window(void)
{
    window w = {.k = {NAN, NAN, NAN, NAN}};
    make(&w, WN_SCORES_FULL);
    w.length = WINDOW;
    CU_ASSERT_EQUAL(wn_ref_window_scores(&w.args), WN_OK);
    CU_ASSERT_EQUAL(w.scores[0], 77);
}

static void too_many_rows(void)
{
    window w;
    make(&w, WN_SCORES_FULL);
    w.args.q.shape[1] = WN_MAX_WINDOW_ROWS + 1;
    CU_ASSERT_EQUAL(wn_ref_window_scores(&w.args), WN_EUNSUPPORTED);
}

WN_SUITE("kernels.ref.window_scores", {"prefix sums to the queries", prefix_sums_to_the_queries},
         {"full is causal in the window", full_is_causal_in_the_window},
         {"a prompt inside the window", a_prompt_inside_the_window},
         {"too many rows", too_many_rows})
