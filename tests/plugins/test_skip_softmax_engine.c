/* test_skip_softmax_engine.c: skip_softmax in an engine, through winnow.h: which layers its rules
 * reach, and models with latent attention, in both phases. */
#include "check_host.h"
#include "check_tiles.h"
#include "skip_softmax_reference.h"
#include "suite.h"
#include "winnow/winnow.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 4, LENGTH = 264, PROMPT = 257, TILE = 64 };

static void must(wn_status status)
{
    if (status != WN_OK)
        fprintf(stderr, "%s: %s\n", wn_status_name(status), wn_error_text());
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
}

typedef struct world {
    wn_model model;
    wn_registry *registry;
    wn_engine *engine;
    wn_sequence sequence;
    check_tokens tokens; /* the same in every layer */
    int32_t length;
    float *out; /* [tokens of the step, heads, v_dim], of the latest layer */
} world;

static world open_world(const char *yaml, uint32_t mla)
{
    world w = {.model = {.struct_size = WN_SIZEOF(wn_model),
                         .num_layers = LAYERS,
                         .num_heads = 4,
                         .num_kv_heads = mla ? 1 : 2,
                         .head_dim = mla ? 24 : 16,
                         .v_head_dim = 16,
                         .dtype = WN_F32,
                         .max_position = 4096,
                         .softmax_scale = 0.25f,
                         .mla = mla}};
    const check_shape shape = {
        .num_heads = 4, .num_kv_heads = w.model.num_kv_heads, .head_dim = w.model.head_dim};
    uint64_t seed = wn_test_seed();
    wn_config *config;
    setenv("WINNOW_KERNELS", "ref", 1);
    w.tokens = check_random_tokens(&shape, LENGTH, 3, &seed);
    w.out = malloc(LENGTH * 4 * 16 * sizeof *w.out);
    must(wn_registry_open(WN_TEST_PLUGINS, &w.registry));
    must(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config));
    must(wn_engine_create(w.registry, config, &w.model,
                          WN_ARGS(wn_engine_options, .tokens_per_page = 16, .max_tokens = 512,
                                  .max_sequences = 1, .max_step_tokens = LENGTH),
                          &w.engine));
    wn_config_free(config);
    must(wn_sequence_create(w.engine, &w.sequence));
    return w;
}

static void close_world(world *w)
{
    must(wn_engine_free(w->engine));
    wn_registry_close(w->registry);
    check_free_tokens(&w->tokens, 1);
    free(w->out);
}

static wn_tensor rows_of(const float *data, int64_t rows, int64_t heads, int64_t dim)
{
    return wn_tensor_make((void *)data, WN_F32, 3, (const int64_t[]){rows, heads, dim});
}

/* `count` more tokens through all layers. */
static void step(world *w, int32_t count, uint32_t flags)
{
    const int64_t dim = w->model.head_dim, heads = 4, kv_heads = w->model.num_kv_heads;
    const wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                                .flags = flags,
                                .sequence = w->sequence,
                                .num_tokens = count};
    const int64_t at = w->length;
    wn_batch *batch;
    must(wn_batch_begin(w->engine, &item, 1, &batch));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        wn_attention_args args = {
            .struct_size = WN_SIZEOF(wn_attention_args),
            .q = rows_of(w->tokens.q + at * heads * dim, count, heads, dim),
            .k = rows_of(w->tokens.k + at * kv_heads * dim, count, kv_heads, dim),
            .out = rows_of(w->out, count, heads, 16)};
        if (!w->model.mla)
            args.v = rows_of(w->tokens.v + at * kv_heads * dim, count, kv_heads, dim);
        must(wn_attention(batch, layer, &args));
    }
    must(wn_batch_end(batch));
    w->length += count;
}

static wn_counters counters_of(const world *w, uint32_t layer, uint32_t phase)
{
    wn_counters counters = {.struct_size = WN_SIZEOF(wn_counters)};
    must(wn_engine_counters(w->engine, layer, phase, &counters));
    return counters;
}

/* ---------------------------------------------------------------- layers */

/* Layers with the rule are those of `expected`, a bit each, in both phases. */
static void reaches(const char *rules, uint32_t expected)
{
    char yaml[512];
    snprintf(yaml, sizeof yaml,
             "sparse_attention_config:\n  algorithm: skip_softmax\n"
             "  threshold: {prefill: 0.1, decode: 0.2}\n%s",
             rules);
    world w = open_world(yaml, 0);
    step(&w, PROMPT, WN_ITEM_CONTEXT);
    step(&w, 2, 0);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
            const wn_counters counters = counters_of(&w, layer, phase);
            CU_ASSERT_EQUAL(counters.tiles_skipped > 0, expected >> layer & 1);
        }
    close_world(&w);
}

static void layer_rules(void)
{
    reaches("", 0xf);
    reaches("  ignore: [\"model.layers.0.self_attn\", \"model.layers.3.self_attn\"]\n", 0x6);
    reaches("  layers: [\"layers.[1..2].*\"]\n", 0x6);
    reaches("  layers:\n    - \"*\"\n    - {pattern: \"layers.2.*\", enable: false}\n", 0xb);
}

/* Two entries on different layers and phases, each with its own threshold. */
static void entries(void)
{
    world w =
        open_world("sparse_attention_config:\n"
                   "  - {algorithm: skip_softmax, layers: \"layers.[0..1].*\", threshold: 0.2}\n"
                   "  - {algorithm: skip_softmax, layers: \"layers.2.*\", phases: [decode],\n"
                   "     target_sparsity: 0.5, coefficients: {a: 1, b: 6}}\n",
                   0);
    step(&w, PROMPT, WN_ITEM_CONTEXT);
    step(&w, 1, 0);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        CU_ASSERT_EQUAL(counters_of(&w, layer, WN_PHASE_CONTEXT).tiles_skipped > 0, layer < 2);
        CU_ASSERT_EQUAL(counters_of(&w, layer, WN_PHASE_GENERATION).tiles_skipped > 0, layer < 3);
    }
    close_world(&w);
}

/* Errors of the plugin's own rules come with those of the file. */
static void refusals(void)
{
    static const char yaml[] = "sparse_attention_config: {algorithm: skip_softmax, "
                               "threshold: 0.001, target_sparsity: {decode: 0.5}}\n";
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = 1,
                            .num_heads = 1,
                            .num_kv_heads = 1,
                            .head_dim = 16,
                            .dtype = WN_F32,
                            .max_position = 100,
                            .softmax_scale = 1};
    wn_registry *registry;
    wn_config *config;
    must(wn_registry_open(WN_TEST_PLUGINS, &registry));
    must(wn_config_parse(yaml, sizeof yaml - 1, "test.yaml", &config));
    CU_ASSERT_EQUAL(wn_engine_check(registry, config, &model, NULL, NULL, NULL), WN_ECONFIG);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "target_sparsity and threshold are both set for "
                                                   "the generation phase"));
    wn_config_free(config);
    wn_registry_close(registry);
}

/* ---------------------------------------------------------------- latent attention */

/* The latest step of `count` tokens against the references: one vector per token is the key of all
 * heads, and its first 16 channels are the value. */
static void compare_latent(world *w, uint32_t phase, int32_t count, float threshold, int two_pass)
{
    const int32_t dim = (int32_t)w->model.head_dim, old = w->length - count;
    const int32_t heads = phase == WN_PHASE_GENERATION ? 4 : 1;
    const int32_t tokens = phase == WN_PHASE_GENERATION ? count : TILE;
    wn_attend_counters expected = {0};
    for (int32_t head = 0; head < 4; head += heads)
        for (int32_t first = 0; first < count; first += tokens) {
            const int32_t some = count - first < tokens ? count - first : tokens;
            check_tiles unit = check_tiles_make(heads * some, w->length, dim);
            unit.v_dim = 16;
            unit.scale = 0.25;
            unit.threshold = threshold;
            unit.two_pass = two_pass;
            for (int32_t i = 0; i < w->length * dim; i++)
                unit.k[i] = unit.v[i] = w->tokens.k[i];
            for (int32_t r = 0; r < unit.rows; r++) {
                const int32_t i = first + r / heads, h = head + r % heads;
                unit.last[r] = old + i;
                unit.out[r] = w->out + (i * 4 + h) * 16;
                for (int32_t c = 0; c < dim; c++)
                    unit.q[r * dim + c] = w->tokens.q[((old + i) * 4 + h) * dim + c];
            }
            check_tiles_compare(&unit, &expected);
            check_tiles_free(&unit);
        }
    CU_ASSERT(expected.tiles_skipped > 0 || phase == WN_PHASE_GENERATION);
    const wn_counters before = counters_of(w, 0, phase);
    CU_ASSERT_EQUAL(before.tiles_seen, (uint64_t)expected.tiles_seen);
    CU_ASSERT_EQUAL(before.tiles_skipped, (uint64_t)expected.tiles_skipped);
}

static void latent_attention(void)
{
    uint64_t skipped[2];
    for (int two_pass = 0; two_pass < 2; two_pass++) {
        char yaml[256];
        snprintf(yaml, sizeof yaml,
                 "sparse_attention_config: {algorithm: skip_softmax, two_pass: %s, "
                 "threshold_scale_factor: {prefill: 100, decode: 150}}\n",
                 two_pass ? "true" : "false");
        world w = open_world(yaml, 1);
        for (int i = 0; i < TILE * 24; i++) /* a first tile that only two passes can do without */
            ((float *)w.tokens.k)[i] /= 8;
        step(&w, PROMPT, WN_ITEM_CONTEXT);
        compare_latent(&w, WN_PHASE_CONTEXT, PROMPT,
                       skip_softmax_reference_threshold(100, 0, PROMPT), 0);
        step(&w, 3, 0);
        compare_latent(&w, WN_PHASE_GENERATION, 3,
                       skip_softmax_reference_threshold(150, 0, PROMPT + 3), two_pass);
        skipped[two_pass] = counters_of(&w, 0, WN_PHASE_GENERATION).tiles_skipped;
        close_world(&w);
    }
    CU_ASSERT(skipped[1] > skipped[0]);
}

WN_SUITE("plugins.skip_softmax_engine", {"layer rules", layer_rules}, {"entries", entries},
         {"refusals", refusals}, {"latent attention", latent_attention})
