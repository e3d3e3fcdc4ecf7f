/* test_metrics.c: figures of replays whose truth is known. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/metrics.h"

#include <math.h>
#include <string.h>

static void dense_loses_nothing(void)
{
    wn_trace *trace = check_replay_trace();
    wn_replay *dense = check_replay_make(trace, "dense", 0, 0);
    wn_quality quality = wn_quality_measure(dense, dense, -1, 0, CHECK_TOKENS);
    CU_ASSERT_EQUAL(quality.mass.mean, 1.0);
    CU_ASSERT_EQUAL(quality.mass.worst, 1.0);
    CU_ASSERT_EQUAL(quality.error.worst, 0.0);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

/* The mass that an eviction costs is the dense mass of what it dropped. */
static void mass_is_what_was_dropped(void)
{
    wn_trace *trace = check_replay_trace();
    wn_replay *dense = check_replay_make(trace, "dense", 0, 0);
    wn_replay *method = check_replay_make(trace, "method", 10, 30);
    double sum = 0, worst = 1, mass[CHECK_TOKENS];
    for (int64_t row = CHECK_CONTEXT; row < CHECK_TOKENS; row++)
        for (uint32_t h = 0; h < CHECK_HEADS; h++) {
            double kept = 1;
            wn_dense_mass(trace, 0, row, h, mass);
            for (int t = 10; t < 30; t++)
                kept -= mass[t];
            sum += kept;
            worst = fmin(worst, kept);
        }
    wn_quality quality = wn_quality_measure(method, dense, 0, CHECK_CONTEXT, CHECK_TOKENS);
    CU_ASSERT_DOUBLE_EQUAL(quality.mass.mean, sum / ((CHECK_TOKENS - CHECK_CONTEXT) * CHECK_HEADS),
                           1e-5);
    CU_ASSERT_DOUBLE_EQUAL(quality.mass.worst, worst, 1e-5);
    CU_ASSERT_EQUAL(quality.mass.head, 0); /* the head that reads the fact */
    CU_ASSERT(quality.error.worst > 0.1);
    quality = wn_quality_measure(method, dense, -1, 0, CHECK_CONTEXT);
    CU_ASSERT_EQUAL(quality.mass.worst, 1.0); /* the prompt's rows are dense */
    double least, mean = wn_quality_head(method, dense, 0, 0, CHECK_CONTEXT, CHECK_TOKENS, &least);
    CU_ASSERT(mean < 0.2 && least <= mean);
    wn_replay_free(method);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

static void nan_and_excess_are_seen(void)
{
    wn_trace *trace = check_replay_trace();
    wn_replay *dense = check_replay_make(trace, "dense", 0, 0);
    wn_replay *method = check_replay_make(trace, "method", 0, 0);
    method->layers[1].lse[90 * CHECK_HEADS + 2] += 0.5f;
    wn_quality quality = wn_quality_measure(method, dense, -1, 0, CHECK_TOKENS);
    CU_ASSERT_DOUBLE_EQUAL(quality.greatest_mass, exp(0.5), 1e-4);
    CU_ASSERT_EQUAL(quality.mass.worst, 1.0);
    CU_ASSERT_EQUAL(quality.mass.mean, 1.0); /* the excess does not make up for losses elsewhere */
    method->layers[1].lse[90 * CHECK_HEADS + 2] = NAN;
    ((float *)method->layers[0].out)[5] = NAN;
    quality = wn_quality_measure(method, dense, -1, 0, CHECK_TOKENS);
    CU_ASSERT_EQUAL(quality.mass.worst, 0.0);
    CU_ASSERT_EQUAL(quality.mass.row, 90);
    CU_ASSERT_EQUAL(quality.mass.layer, 1);
    CU_ASSERT(isinf(quality.error.worst));
    /* NaN on both sides is agreement: the trace had it. */
    ((float *)dense->layers[0].out)[5] = NAN;
    dense->layers[1].lse[90 * CHECK_HEADS + 2] = NAN;
    quality = wn_quality_measure(method, dense, -1, 0, CHECK_TOKENS);
    CU_ASSERT_EQUAL(quality.mass.worst, 1.0);
    CU_ASSERT_EQUAL(quality.error.worst, 0.0);
    wn_replay_free(method);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

static void cost(void)
{
    wn_trace *trace = check_replay_trace();
    wn_replay *method = check_replay_make(trace, "method", 0, 60);
    method->layers[0].counters[WN_PHASE_GENERATION].k_bytes_read = 1600;
    method->layers[1].counters[WN_PHASE_GENERATION].aux_bytes_read = 160;
    method->layers[1].counters[WN_PHASE_CONTEXT].tiles_seen = 8;
    method->layers[1].counters[WN_PHASE_CONTEXT].tiles_skipped = 2;
    wn_cost all = wn_cost_measure(method, -1), first = wn_cost_measure(method, 0);
    CU_ASSERT_DOUBLE_EQUAL(all.kept_share, 0.25, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(all.kept_bytes, 2 * 20 * method->token_bytes, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(all.read_bytes, 110, 1e-9); /* 16 steps */
    CU_ASSERT_DOUBLE_EQUAL(first.read_bytes, 100, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(all.context_skipped, 0.25, 1e-12);
    CU_ASSERT(isnan(first.context_skipped) && isnan(all.generation_skipped));
    wn_replay_free(method);
    wn_trace_close(trace);
}

static void check_against_the_expectation(void)
{
    wn_trace *trace = check_replay_trace();
    wn_expected *expected;
    wn_replay *dense = check_replay_make(trace, "dense", 0, 0);
    CU_ASSERT_EQUAL_FATAL(wn_expected_open(check_small_trace_expected("e.safetensors", trace),
                                           trace, &expected, NULL),
                          WN_OK);
    wn_check check = wn_check_dense(dense, expected);
    CU_ASSERT(check.pass);
    CU_ASSERT_EQUAL(check.rows, 2 * CHECK_TOKENS);
    dense->layers[1].lse[7] += 2e-4f;
    CU_ASSERT_FALSE(wn_check_dense(dense, expected).pass);
    dense->layers[1].lse[7] -= 2e-4f;
    ((float *)dense->layers[0].out)[100] += 1e-3f;
    CU_ASSERT_FALSE(wn_check_dense(dense, expected).pass);
    ((float *)dense->layers[0].out)[100] = NAN;
    CU_ASSERT_FALSE(wn_check_dense(dense, expected).pass);
    wn_expected_close(expected);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

WN_SUITE("tools.metrics", {"dense loses nothing", dense_loses_nothing},
         {"mass is what was dropped", mass_is_what_was_dropped},
         {"NaN and excess mass are seen", nan_and_excess_are_seen}, {"cost", cost},
         {"check against the expectation", check_against_the_expectation})
