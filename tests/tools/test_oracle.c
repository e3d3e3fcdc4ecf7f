/* test_oracle.c: the best choice of a size, against sorting. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = CHECK_HEADS / CHECK_KV_HEADS };

static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Mean over heads [first, last) of the greatest mass that k tokens can have for all of them. */
static double best_of(const wn_trace *trace, uint32_t layer, int64_t row, uint32_t first,
                      uint32_t last, int64_t k)
{
    double mass[CHECK_TOKENS], total[CHECK_TOKENS] = {0}, sum = 0;
    for (uint32_t h = first; h < last; h++) {
        wn_dense_mass(trace, layer, row, h, mass);
        for (int64_t t = 0; t <= row; t++)
            total[t] += mass[t] / (last - first);
    }
    qsort(total, (size_t)row + 1, sizeof *total, falling);
    for (int64_t i = 0; i < k; i++)
        sum += total[i];
    return sum;
}

static double kept_of(wn_replay *const *replays, uint32_t layer, int64_t row, uint32_t first,
                      uint32_t last)
{
    double sum = 0;
    for (uint32_t h = first; h < last; h++) {
        int64_t at = row * CHECK_HEADS + h;
        sum += exp((double)replays[1]->layers[layer].lse[at] - replays[0]->layers[layer].lse[at]);
    }
    return sum / (last - first);
}

/* After the prompt 40 of its tokens are left to each KV head. */
static void beside_an_eviction(void)
{
    wn_trace *trace = check_replay_trace();
    wn_oracle *oracles;
    wn_replay *replays[2] = {check_replay_make(trace, "dense", 0, 0),
                             check_replay_make(trace, "method", 10, 50)};
    CU_ASSERT_EQUAL_FATAL(wn_oracle_measure(trace, replays, 2, &oracles, NULL), WN_OK);
    double best = 0, worst = 2, tokens = 0;
    for (int64_t row = CHECK_CONTEXT; row < CHECK_TOKENS; row++)
        for (uint32_t h = 0; h < CHECK_KV_HEADS; h++) {
            int64_t k = 40 + row + 1 - CHECK_CONTEXT;
            double one = best_of(trace, 0, row, h * GROUP, (h + 1) * GROUP, k);
            best += one;
            tokens += (double)k;
            worst = fmin(worst, kept_of(replays, 0, row, h * GROUP, (h + 1) * GROUP) / one);
        }
    double sets = (CHECK_TOKENS - CHECK_CONTEXT) * CHECK_KV_HEADS;
    wn_oracle *method = &oracles[(1 * 2 + 0) * WN_PHASE_COUNT + WN_PHASE_GENERATION];
    CU_ASSERT_EQUAL(method->sets, (int64_t)sets);
    CU_ASSERT_DOUBLE_EQUAL(method->tokens, tokens / sets, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(method->best.mean, best / sets, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(method->ratio.worst, worst, 1e-5);
    CU_ASSERT(method->ratio.mean < 1 && method->mass.worst < method->best.worst);
    CU_ASSERT_EQUAL(method[-1].sets, 0);                   /* its prompt is dense */
    CU_ASSERT_EQUAL(oracles[WN_PHASE_GENERATION].sets, 0); /* dense is not measured */
    wn_oracle both = *method;
    wn_oracle_merge(&both, &method[WN_PHASE_COUNT]);
    wn_oracle_merge(&both, &method[-1]);
    CU_ASSERT_EQUAL(both.sets, 2 * method->sets);
    CU_ASSERT_DOUBLE_EQUAL(both.ratio.mean,
                           (method->ratio.mean + method[WN_PHASE_COUNT].ratio.mean) / 2, 1e-12);
    free(oracles);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    wn_trace_close(trace);
}

/* One list of three tokens for all heads, in one step and in one row of the prompt. */
static void beside_a_shared_list(void)
{
    static const int32_t list[] = {3, 21, 22};
    wn_trace *trace = check_replay_trace();
    wn_oracle *oracles;
    wn_replay *replays[2] = {check_replay_make(trace, "dense", 0, 0),
                             check_replay_make(trace, "method", 0, 0)};
    wn_choices *choices[2] = {&replays[1]->layers[0].generation, &replays[1]->layers[0].prompt};
    choices[1]->span = calloc(CHECK_CONTEXT * CHECK_KV_HEADS, sizeof *choices[1]->span);
    choices[1]->chosen = calloc(CHECK_CONTEXT, 1);
    for (int i = 0; i < 2; i++) {
        int64_t row = i == 0 ? 4 : 60;
        choices[i]->position = malloc(sizeof list);
        memcpy(choices[i]->position, list, sizeof list);
        choices[i]->any = choices[i]->chosen[row] = 1;
        for (int h = 0; h < CHECK_KV_HEADS; h++)
            choices[i]->span[row * CHECK_KV_HEADS + h] = (wn_span){0, 3};
    }
    CU_ASSERT_EQUAL_FATAL(wn_oracle_measure(trace, replays, 2, &oracles, NULL), WN_OK);
    wn_oracle *context = &oracles[2 * WN_PHASE_COUNT], *generation = context + 1;
    /* A set in the row with the list, one for each KV head in the others. */
    CU_ASSERT_EQUAL(generation->sets, (CHECK_TOKENS - CHECK_CONTEXT - 1) * CHECK_KV_HEADS + 1);
    CU_ASSERT_EQUAL(context->sets, (CHECK_CONTEXT - 1) * CHECK_KV_HEADS + 1);
    CU_ASSERT_DOUBLE_EQUAL(generation->best.worst,
                           best_of(trace, 0, CHECK_CONTEXT + 4, 0, CHECK_HEADS, 3), 1e-9);
    CU_ASSERT_EQUAL(generation->best.row, CHECK_CONTEXT + 4);
    CU_ASSERT_DOUBLE_EQUAL(context->best.worst, best_of(trace, 0, 60, 0, CHECK_HEADS, 3), 1e-9);
    free(oracles);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    wn_trace_close(trace);
}

/* Half of the tiles computed: half of the tokens, rounded up. */
static void beside_skipped_tiles(void)
{
    wn_trace *trace = check_replay_trace();
    wn_oracle *oracles;
    wn_replay *replays[2] = {check_replay_make(trace, "dense", 0, 0),
                             check_replay_make(trace, "method", 0, 0)};
    double tokens = 0, steps = CHECK_TOKENS - CHECK_CONTEXT;
    for (int64_t i = 0; i < (int64_t)steps * CHECK_KV_HEADS; i++)
        replays[1]->layers[1].computed[i] = 0.5f;
    for (int64_t row = CHECK_CONTEXT; row < CHECK_TOKENS; row++)
        tokens += ceil((double)(row + 1) / 2);
    CU_ASSERT_EQUAL_FATAL(wn_oracle_measure(trace, replays, 2, &oracles, NULL), WN_OK);
    wn_oracle *method = &oracles[(1 * 2 + 1) * WN_PHASE_COUNT + WN_PHASE_GENERATION];
    CU_ASSERT_DOUBLE_EQUAL(method->tokens, tokens / steps, 1e-9);
    CU_ASSERT(method->best.mean < 1);
    free(oracles);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    wn_trace_close(trace);
}

WN_SUITE("tools.oracle", {"beside an eviction", beside_an_eviction},
         {"beside a list that all heads share", beside_a_shared_list},
         {"beside skipped tiles", beside_skipped_tiles})
