/* test_attend_row.c: the softmax of a row at its edges. */
#include "suite.h"
#include "tiny_attention.h"

static void run(tiny_attention *t)
{
    CU_ASSERT_EQUAL_FATAL(wn_ref_context(&t->args), WN_OK);
}

static void one_key(void)
{
    static const float scores[] = {-3};
    tiny_attention t;
    tiny_attention_make(&t, 1, scores, 1);
    run(&t);
    CU_ASSERT_EQUAL(t.out[0], 0);
    CU_ASSERT_EQUAL(t.lse[0], -3);
}

static void two_keys(void)
{
    static const float scores[] = {0, 1};
    tiny_attention t;
    tiny_attention_make(&t, 2, scores, 1);
    run(&t);
    CU_ASSERT_DOUBLE_EQUAL(t.out[0], 0.7310585786, 1e-7); /* 1 / (1 + e^-1) */
    CU_ASSERT_DOUBLE_EQUAL(t.lse[0], 1.3132616875, 1e-7);
}

static void great_and_rising_scores(void)
{
    static const float scores[] = {-1e30f, 0, 1e30f, 2e30f};
    tiny_attention t;
    tiny_attention_make(&t, 4, scores, 1);
    run(&t);
    CU_ASSERT_EQUAL(t.out[0], 3);
    CU_ASSERT_EQUAL(t.lse[0], 2e30f);
}

static void a_sink_joins_once(void)
{
    static const float scores[] = {0, 0};
    float sinks[1] = {(float)log(2)};
    tiny_attention t;
    tiny_attention_make(&t, 2, scores, 1);
    t.args.sinks = sinks;
    run(&t);
    CU_ASSERT_DOUBLE_EQUAL(t.out[0], 0.25, 1e-7); /* (0 + 1) / (1 + 1 + 2) */
    CU_ASSERT_DOUBLE_EQUAL(t.lse[0], log(4), 1e-7);
    sinks[0] = 1000; /* above all scores: no overflow */
    run(&t);
    CU_ASSERT_DOUBLE_EQUAL(t.out[0], 0, 1e-30);
    CU_ASSERT_EQUAL(t.lse[0], 1000);
}

static void a_row_without_keys(void)
{
    static const float scores[] = {1, 2};
    float sinks[1] = {3};
    tiny_attention t;
    tiny_attention_make(&t, 2, scores, 4); /* queries 0 and 1 come before the first key */
    t.args.sinks = sinks;
    run(&t);
    CU_ASSERT_EQUAL(t.out[0], 0);
    CU_ASSERT_EQUAL(t.lse[0], -INFINITY);
    CU_ASSERT_EQUAL(t.lse[1], -INFINITY);
    CU_ASSERT_TRUE(isfinite(t.lse[2]));
    t.length = 0;
    run(&t);
    CU_ASSERT_EQUAL(t.lse[3], -INFINITY);
}

static void nan_stays_in_its_row(void)
{
    static const float scores[] = {1, 2, 3, 4};
    tiny_attention t;
    tiny_attention_make(&t, 4, scores, 3);
    t.q[1] = NAN;
    run(&t);
    CU_ASSERT_TRUE(isfinite(t.out[0]) && isfinite(t.lse[0]));
    CU_ASSERT_TRUE(isnan(t.out[1]) && isnan(t.lse[1]));
    CU_ASSERT_TRUE(isfinite(t.out[2]) && isfinite(t.lse[2]));
}

static void minus_infinity_has_no_weight(void)
{
    static const float scores[] = {-INFINITY, 2, -INFINITY};
    tiny_attention t;
    tiny_attention_make(&t, 3, scores, 3);
    t.v[tiny_place(2)] = NAN;
    run(&t);
    CU_ASSERT_EQUAL(t.lse[0], -INFINITY);
    CU_ASSERT_EQUAL(t.out[2], 1);
    CU_ASSERT_EQUAL(t.lse[2], 2);
}

WN_SUITE("kernels.ref.attend_row", {"one key", one_key}, {"two keys", two_keys},
         {"great and rising scores", great_and_rising_scores},
         {"a sink joins once", a_sink_joins_once}, {"a row without keys", a_row_without_keys},
         {"NaN stays in its row", nan_stays_in_its_row},
         {"-inf has no weight", minus_infinity_has_no_weight})
