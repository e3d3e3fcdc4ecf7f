/* test_topk.c: the order of scores and its corners, followed by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { N = 8, K = 4 };

typedef struct topk {
    float scores[N];
    int32_t indices[K], count;
    int64_t nans;
    wn_topk_args args;
} topk;

static void run(topk *t)
{
    t->args = (wn_topk_args){
        .struct_size = WN_SIZEOF(wn_topk_args),
        .scores =
            {.data = t->scores, .shape = {1, N}, .stride = {N, 1}, .dtype = WN_F32, .ndim = 2},
        .indices =
            {.data = t->indices, .shape = {1, K}, .stride = {K, 1}, .dtype = WN_I32, .ndim = 2},
        .count = &t->count,
        .nan_count = &t->nans};
    CU_ASSERT_EQUAL_FATAL(wn_ref_topk(&t->args), WN_OK);
}

static void expect(const topk *t, int32_t a, int32_t b, int32_t c, int32_t d)
{
    CU_ASSERT_EQUAL(memcmp(t->indices, (int32_t[K]){a, b, c, d}, sizeof t->indices), 0);
}

static void greatest_first_then_ascending(void)
{
    topk t = {.scores = {3, -1, 9, 0, 7, -2, 8, 1}};
    run(&t);
    expect(&t, 0, 2, 4, 6);
    CU_ASSERT_EQUAL(t.count, 4);
}

static void ties_go_to_the_lower_index(void)
{
    topk t = {.scores = {1, 2, 1, 1, 2, 1, 1, 1}};
    run(&t);
    expect(&t, 0, 1, 2, 4);
    topk zeros = {.scores = {-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, 0.0f, 0.0f}};
    run(&zeros); /* -0 equals +0 */
    expect(&zeros, 0, 1, 2, 3);
}

static void negative_and_tiny(void)
{
    topk t = {.scores = {-1e-40f, -1, -1e30f, 1e-40f, -2, -3, -1e-45f, -1e38f}};
    run(&t);
    expect(&t, 0, 1, 3, 6);
}

static void what_is_never_chosen(void)
{
    topk t = {.scores = {NAN, -INFINITY, INFINITY, NAN, -INFINITY, -3.4e38f, -INFINITY, NAN},
              .nans = 10};
    run(&t);
    expect(&t, 2, 5, -1, -1);
    CU_ASSERT_EQUAL(t.count, 2);
    CU_ASSERT_EQUAL(t.nans, 13);
}

WN_SUITE("kernels.ref.topk", {"greatest first, then ascending", greatest_first_then_ascending},
         {"ties go to the lower index", ties_go_to_the_lower_index},
         {"negative and tiny", negative_and_tiny}, {"what is never chosen", what_is_never_chosen})
