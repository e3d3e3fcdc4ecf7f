/* test_replay.c: a made-up trace through real engines, held to what attention is. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/metrics.h"

#include <math.h>
#include <string.h>

static char text[16384];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

/* The replay under this configuration, or NULL with the text. */
static wn_replay *play(const wn_trace *trace, const char *yaml, int64_t chunk)
{
    wn_registry *registry;
    wn_config *config;
    wn_replay *replay = NULL;
    text[0] = '\0';
    CU_ASSERT_EQUAL_FATAL(wn_registry_open(WN_TEST_PLUGINS, &registry), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config), WN_OK);
    wn_status status = wn_replay_run(registry, config, "test", trace, chunk, &replay, &error);
    CU_ASSERT((status == WN_OK) == (replay != NULL));
    wn_config_free(config);
    wn_registry_close(registry);
    return replay;
}

static const char dense_yaml[] = "sparse_attention_config:\n  algorithm: dense\n";
static const char rocket_yaml[] =
    "sparse_attention_config:\n  algorithm: rocket\n  window_size: 8\n  kernel_size: 5\n"
    "  prompt_budget: 40\n  page_size: 4\n  topk: 5\n  kt_cache_dtype: bfloat16\n";

static void dense_is_exact(void)
{
    wn_trace *trace = check_replay_trace();
    wn_expected *expected;
    wn_replay *dense = play(trace, dense_yaml, 0);
    CU_ASSERT_PTR_NOT_NULL_FATAL(dense);
    CU_ASSERT_EQUAL_FATAL(wn_expected_open(check_small_trace_expected("e.safetensors", trace),
                                           trace, &expected, NULL),
                          WN_OK);
    CU_ASSERT(wn_check_dense(dense, expected).pass);
    CU_ASSERT_EQUAL(dense->layers[0].kept, CHECK_CONTEXT);
    CU_ASSERT_PTR_NULL(dense->layers[0].retain);
    CU_ASSERT_FALSE(dense->layers[0].selects);
    CU_ASSERT_DOUBLE_EQUAL(dense->token_bytes, 2.0 * CHECK_KV_HEADS * CHECK_DIM * sizeof(float),
                           1e-9);
    wn_replay *chunked = play(trace, dense_yaml, 7);
    CU_ASSERT_PTR_NOT_NULL_FATAL(chunked);
    CU_ASSERT(wn_check_dense(chunked, expected).pass);
    wn_expected_close(expected);
    wn_replay_free(chunked);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

/* Mass by LSE is mass by summing dense attention over what the replay says was visible: holds only
 * if positions, selections and metrics are all right. */
static void visible_is_what_was_attended_to(void)
{
    wn_trace *trace = check_replay_trace();
    wn_replay *dense = play(trace, dense_yaml, 0), *rocket = play(trace, rocket_yaml, 0);
    double mass[CHECK_TOKENS];
    uint8_t visible[CHECK_TOKENS];
    int64_t shown = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(rocket);
    CU_ASSERT_PTR_NOT_NULL_FATAL(dense);
    CU_ASSERT_EQUAL(rocket->layers[1].kept, 40);
    CU_ASSERT_PTR_NOT_NULL_FATAL(rocket->layers[1].retain);
    CU_ASSERT(rocket->layers[1].selects);
    for (uint32_t l = 0; l < 2; l++)
        for (int64_t row = CHECK_CONTEXT; row < CHECK_TOKENS; row++)
            for (uint32_t h = 0; h < CHECK_HEADS; h++) {
                double seen = 0;
                int64_t at = row * CHECK_HEADS + h;
                wn_dense_mass(trace, l, row, h, mass);
                wn_replay_visible(rocket, l, row - CHECK_CONTEXT, h / 2, visible);
                for (int64_t t = 0; t < CHECK_TOKENS; t++) {
                    seen += visible[t] ? mass[t] : 0;
                    shown += visible[t];
                    CU_ASSERT(!visible[t] || t <= row);
                }
                CU_ASSERT_DOUBLE_EQUAL(
                    exp((double)rocket->layers[l].lse[at] - dense->layers[l].lse[at]), seen, 1e-4);
            }
    CU_ASSERT(shown > 0 && shown <= 2 * 16 * CHECK_HEADS * 20);
    wn_replay_free(rocket);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

static void retained_positions_ascend(void)
{
    wn_trace *trace = check_replay_trace();
    wn_replay *rocket = play(trace, rocket_yaml, 16);
    CU_ASSERT_PTR_NOT_NULL_FATAL(rocket);
    CU_ASSERT_PTR_NOT_NULL_FATAL(rocket->layers[0].retain);
    for (int32_t i = 0; i < 2 * 40; i++) {
        int32_t t = rocket->layers[0].retain[i];
        CU_ASSERT(t >= 0 && t < CHECK_CONTEXT);
        CU_ASSERT(i % 40 == 0 || t > rocket->layers[0].retain[i - 1]);
    }
    CU_ASSERT_EQUAL(rocket->layers[0].retain[39], CHECK_CONTEXT - 1);
    wn_replay_free(rocket);
    wn_trace_close(trace);
}

static void refusals_have_a_text(void)
{
    wn_trace *trace = check_replay_trace();
    CU_ASSERT_PTR_NULL(play(trace, "sparse_attention_config:\n  algorithm: no_such_thing\n", 0));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "no_such_thing"));
    wn_trace_close(trace);
}

WN_SUITE("tools.replay", {"dense is exact, chunked or not", dense_is_exact},
         {"visible is what was attended to", visible_is_what_was_attended_to},
         {"retained positions ascend", retained_positions_ascend},
         {"refusals have a text", refusals_have_a_text})
