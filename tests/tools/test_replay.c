/* test_replay.c: a made-up trace through real engines, held to what attention is. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/metrics.h"

#include <math.h>
#include <string.h>

static char text[16384];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

/* The replay under this configuration, or NULL with the text. plugins: their directory. */
static wn_replay *play_with(const char *plugins, const wn_trace *trace, const char *yaml,
                            const wn_replay_options *options)
{
    wn_registry *registry;
    wn_config *config;
    wn_replay *replay = NULL;
    text[0] = '\0';
    CU_ASSERT_EQUAL_FATAL(wn_registry_open(plugins, &registry), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config), WN_OK);
    wn_status status = wn_replay_run(registry, config, "test", trace, options, &replay, &error);
    CU_ASSERT((status == WN_OK) == (replay != NULL));
    wn_config_free(config);
    wn_registry_close(registry);
    return replay;
}

static wn_replay *play(const wn_trace *trace, const char *yaml, int64_t chunk)
{
    return play_with(WN_TEST_PLUGINS, trace, yaml, &(wn_replay_options){.chunk = chunk});
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
    CU_ASSERT_FALSE(dense->layers[0].generation.any);
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
    CU_ASSERT(rocket->layers[1].generation.any);
    for (uint32_t l = 0; l < 2; l++)
        for (int64_t row = CHECK_CONTEXT; row < CHECK_TOKENS; row++)
            for (uint32_t h = 0; h < CHECK_HEADS; h++) {
                double seen = 0;
                int64_t at = row * CHECK_HEADS + h;
                wn_dense_mass(trace, l, row, h, mass);
                wn_replay_visible(rocket, l, row, h / 2, visible);
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

/* The same for every row of the prompt, under a method that selects the newest tokens in the form
 * that is named; separate: each KV head has a list. */
static void prompt_choices(const char *form, int separate, int64_t chunk)
{
    char yaml[128];
    double mass[CHECK_TOKENS];
    uint8_t visible[CHECK_TOKENS];
    wn_replay_options options = {.chunk = chunk, .keep_prompt_choices = 1};
    wn_trace *trace = check_replay_trace();
    snprintf(yaml, sizeof yaml,
             "sparse_attention_config:\n  algorithm: probe\n  select: 6\n  form: %s\n", form);
    wn_replay *dense = play(trace, dense_yaml, 0);
    wn_replay *probe = play_with(WN_TEST_PROBES, trace, yaml, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(dense);
    CU_ASSERT_PTR_NOT_NULL_FATAL(probe);
    CU_ASSERT(probe->layers[0].prompt.any);
    CU_ASSERT_EQUAL(probe->layers[0].prompt.separate, separate);
    CU_ASSERT_EQUAL(probe->layers[0].generation.separate, separate);
    for (int64_t row = 0; row < CHECK_TOKENS; row++)
        for (uint32_t h = 0; h < CHECK_HEADS; h++) {
            double seen = 0;
            int64_t at = row * CHECK_HEADS + h, count = 0;
            wn_dense_mass(trace, 1, row, h, mass);
            wn_replay_visible(probe, 1, row, h / 2, visible);
            for (int64_t t = 0; t <= row; t++) {
                seen += visible[t] ? mass[t] : 0;
                count += visible[t];
            }
            CU_ASSERT(count > 0 && count <= 12);
            CU_ASSERT_DOUBLE_EQUAL(exp((double)probe->layers[1].lse[at] - dense->layers[1].lse[at]),
                                   seen, 1e-4);
        }
    wn_replay_free(probe);
    wn_replay_free(dense);
    wn_trace_close(trace);
}

static void the_prompt_s_choices_are_kept(void)
{
    prompt_choices("csr", 1, 0);
    prompt_choices("fixed", 1, 30);
    prompt_choices("shared", 0, 7);
}

/* Tiles skipped inside the kernel leave a share below 1, and the counters agree in sum. */
static void tiles_are_counted_by_step(void)
{
    static const char yaml[] = "sparse_attention_config:\n  algorithm: skip_softmax\n"
                               "  threshold_scale_factor: {decode: 90.0}\n";
    wn_trace *trace = check_replay_trace();
    wn_replay *dense = play(trace, dense_yaml, 0), *skip = play(trace, yaml, 0);
    double skipped = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(skip);
    CU_ASSERT_PTR_NOT_NULL_FATAL(dense);
    for (int64_t i = 0; i < skip->steps * CHECK_KV_HEADS; i++) {
        CU_ASSERT_EQUAL(dense->layers[0].computed[i], 1);
        skipped += 2 * (1 - (double)skip->layers[0].computed[i]); /* of 2 tiles, 81..96 tokens */
    }
    const wn_counters *counters = &skip->layers[0].counters[WN_PHASE_GENERATION];
    CU_ASSERT_EQUAL(counters->tiles_seen, (uint64_t)(2 * skip->steps * CHECK_KV_HEADS));
    CU_ASSERT(counters->tiles_skipped > 0);
    CU_ASSERT_DOUBLE_EQUAL(skipped, (double)counters->tiles_skipped, 1e-3);
    wn_replay_free(skip);
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
         {"the prompt's choices are kept", the_prompt_s_choices_are_kept},
         {"tiles are counted by step", tiles_are_counted_by_step},
         {"retained positions ascend", retained_positions_ascend},
         {"refusals have a text", refusals_have_a_text})
