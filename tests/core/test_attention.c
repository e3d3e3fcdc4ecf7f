/* test_attention.c: the five steps through the host's door, against float64 over a shadow. */
#include "check_engine.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#define LAYERS 2
#define HEADS 6
#define DIM 8
#define ROW (HEADS * DIM)
#define BOUND 3e-6 /* float32 output of values up to 2: one rounding */

static const char probe_select[] = "sparse_attention_config:\n  algorithm: probe\n  select: 5\n";

/* Every row of a step on text tokens [begin, end) against dense attention. */
static void expect_dense(const check_engine *c, const check_text *text, uint32_t begin,
                         uint32_t end, const float *out, const float *lse)
{
    uint32_t n = end - begin;
    double o[ROW], l[HEADS], worst = 0, worst_lse = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t t = begin; t < end; t++) {
            check_dense(&c->model, text, layer, t, NULL, 0, CHECK_ALL_HEADS, o, l);
            size_t row = layer * n + (t - begin);
            worst = fmax(worst, check_distance(out + row * ROW, o, ROW));
            worst_lse = fmax(worst_lse, check_distance(lse + row * HEADS, l, HEADS));
        }
    CU_ASSERT(worst < BOUND);
    CU_ASSERT(worst_lse < 1e-5);
}

static void dense_prefill_and_generation(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {0};
    check_open(
        &c, "",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 7});
    check_text text = check_write(&c.model, 60, &random);
    float *out = malloc(LAYERS * 60 * ROW * 4), *lse = malloc(LAYERS * 60 * HEADS * 4);
    wn_sequence s;
    CU_ASSERT_EQUAL_FATAL(wn_sequence_create(c.engine, &s), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 50, WN_ITEM_CONTEXT, out, lse), WN_OK);
    expect_dense(&c, &text, 0, 50, out, lse);
    for (uint32_t t = 50; t < 58; t++) {
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, t, t + 1, 0, out, lse), WN_OK);
        expect_dense(&c, &text, t, t + 1, out, lse);
    }
    CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 58, 60, 0, out, lse), WN_OK); /* speculative */
    expect_dense(&c, &text, 58, 60, out, lse);
    int32_t logical, physical;
    wn_sequence_length(c.engine, s, 1, &logical, &physical);
    CU_ASSERT(logical == 60 && physical == 60);
    free(out);
    free(lse);
    check_erase(&text);
    check_close(&c);
}

static void chunks_equal_one_shot(void)
{
    uint64_t random = wn_test_seed() + 1;
    check_engine c = {0};
    check_open(&c, "", NULL);
    check_text text = check_write(&c.model, 40, &random);
    float whole[LAYERS * 40 * ROW], part[LAYERS * 40 * ROW];
    wn_sequence a, b;
    wn_sequence_create(c.engine, &a);
    wn_sequence_create(c.engine, &b);
    CU_ASSERT_EQUAL(check_step(&c, a, &text, 0, 40, WN_ITEM_CONTEXT, whole, NULL), WN_OK);
    const uint32_t cuts[] = {0, 1, 1, 14, 33, 40};
    for (uint32_t i = 0; i + 1 < sizeof cuts / sizeof cuts[0]; i++) {
        uint32_t n = cuts[i + 1] - cuts[i], more = cuts[i + 1] < 40 ? WN_ITEM_MORE : 0;
        CU_ASSERT_EQUAL(
            check_step(&c, b, &text, cuts[i], cuts[i + 1], WN_ITEM_CONTEXT | more, part, NULL),
            WN_OK);
        for (uint32_t l = 0; l < LAYERS; l++)
            CU_ASSERT(memcmp(part + l * n * ROW, whole + (l * 40 + cuts[i]) * ROW,
                             (size_t)n * ROW * 4) == 0);
    }
    check_erase(&text);
    check_close(&c);
}

/* A mixed step: a whole prompt, an empty request, a generated token, a chunk; padding rows after.
 */
static void mixed_step_equals_alone(void)
{
    uint64_t random = wn_test_seed() + 2;
    check_engine c = {0};
    check_open(&c, probe_select, NULL);
    enum { N = 4, PAD = 3 };
    const uint32_t before[N] = {0, 9, 21, 10}, now[N] = {17, 0, 1, 6};
    const uint32_t flags[N] = {WN_ITEM_CONTEXT, 0, 0, WN_ITEM_CONTEXT | WN_ITEM_MORE};
    check_text text[N];
    wn_sequence alone[N], together[N];
    wn_batch_item items[N];
    uint32_t total = 0;
    float expected[LAYERS][24 * ROW];
    for (uint32_t i = 0; i < N; i++) {
        text[i] = check_write(&c.model, 30, &random);
        wn_sequence_create(c.engine, &alone[i]);
        wn_sequence_create(c.engine, &together[i]);
        check_step(&c, alone[i], &text[i], 0, before[i], WN_ITEM_CONTEXT, NULL, NULL);
        check_step(&c, together[i], &text[i], 0, before[i], WN_ITEM_CONTEXT, NULL, NULL);
        float out[LAYERS * 24 * ROW];
        CU_ASSERT_EQUAL(
            check_step(&c, alone[i], &text[i], before[i], before[i] + now[i], flags[i], out, NULL),
            WN_OK);
        for (uint32_t l = 0; l < LAYERS; l++)
            memcpy(expected[l] + total * ROW, out + l * now[i] * ROW, now[i] * ROW * 4);
        items[i] = (wn_batch_item){WN_SIZEOF(wn_batch_item), flags[i], together[i],
                                   (int32_t)now[i],          0,        NULL};
        total += now[i];
    }
    /* One fused tensor with odd strides. */
    enum { WIDTH = (HEADS + 2 * 2) * DIM, STRIDE = WIDTH + 5 };
    float *qkv = calloc((total + PAD) * STRIDE, 4), *out = malloc((total + PAD) * ROW * 4);
    float lse[64 * HEADS];
    wn_batch *batch;
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, items, N, &batch), WN_OK);
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t row = 0;
        for (uint32_t i = 0; i < N; i++)
            for (uint32_t t = before[i]; t < before[i] + now[i]; t++, row++)
                for (uint32_t x = 0; x < WIDTH; x++) {
                    float f = 1.0f + 0.25f * (float)l;
                    qkv[row * STRIDE + x] =
                        f * (x < ROW             ? text[i].q[t * ROW + x]
                             : x < ROW + 2 * DIM ? text[i].k[t * 2 * DIM + x - ROW]
                                                 : text[i].v[t * 2 * DIM + x - ROW - 2 * DIM]);
                }
        memset(out, 0xff, (total + PAD) * ROW * 4);
        wn_tensor fused = wn_tensor_make(qkv, WN_F32, 2, (int64_t[]){total + PAD, WIDTH});
        fused.stride[0] = STRIDE;
        CU_ASSERT_EQUAL(
            wn_attention(
                batch, l,
                WN_ARGS(wn_attention_args, .qkv = fused,
                        .out = wn_tensor_make(out, WN_F32, 3, (int64_t[]){total + PAD, HEADS, DIM}),
                        .lse = wn_tensor_make(lse, WN_F32, 2, (int64_t[]){total + PAD, HEADS}))),
            WN_OK);
        CU_ASSERT(memcmp(out, expected[l], total * ROW * 4) == 0);
        for (uint32_t x = 0; x < PAD * ROW; x++)
            CU_ASSERT(out[total * ROW + x] == 0);
        for (uint32_t x = 0; x < PAD * HEADS; x++)
            CU_ASSERT(lse[total * HEADS + x] == -INFINITY);
    }
    CU_ASSERT_EQUAL(wn_batch_end(batch), WN_OK);
    for (uint32_t i = 0; i < N; i++)
        check_erase(&text[i]);
    free(qkv);
    free(out);
    check_close(&c);
}

/* Newest five keys, in every form that a selection can have. */
static void selections_attend_to_what_they_name(void)
{
    static const char *const forms[] = {"csr", "fixed", "shared", "logical", "unsorted"};
    for (uint32_t f = 0; f < 5; f++) {
        uint64_t random = wn_test_seed() + 3;
        char yaml[256];
        check_engine c = {0};
        snprintf(yaml, sizeof yaml,
                 "sparse_attention_config:\n  algorithm: probe\n  select: 5\n"
                 "  form: %s\n",
                 forms[f]);
        check_open(&c, yaml, NULL);
        check_text text = check_write(&c.model, 23, &random);
        float out[LAYERS * 20 * ROW];
        double o[ROW], l[HEADS], worst = 0;
        wn_sequence s;
        wn_sequence_create(c.engine, &s);
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 20, WN_ITEM_CONTEXT, out, NULL), WN_OK);
        for (uint32_t t = 0; t < 20; t++) {
            int32_t keys[5];
            uint32_t n = 0;
            for (int32_t k = (int32_t)t - 4; k <= (int32_t)t; k++)
                if (k >= 0 && !(strcmp(forms[f], "unsorted") == 0 && k == (int32_t)t - 1))
                    keys[n++] = k; /* unsorted names t twice and t - 1 never */
            check_dense(&c.model, &text, 1, t, keys, n, CHECK_ALL_HEADS, o, l);
            worst = fmax(worst, check_distance(out + (20 + t) * ROW, o, ROW));
        }
        CU_ASSERT(worst < BOUND);
        wn_counters counters;
        wn_engine_counters(c.engine, 0, WN_PHASE_CONTEXT, &counters);
        CU_ASSERT_EQUAL(counters.keys_visible, 2 * 20 * 21 / 2);
        uint64_t each =
            strcmp(forms[f], "unsorted") == 0 ? 1 + 1 + 2 + 3 + 16 * 4 : 1 + 2 + 3 + 4 + 16 * 5;
        CU_ASSERT_EQUAL(counters.keys_selected, 2 * each);
        CU_ASSERT_EQUAL(counters.keys_attended, counters.keys_selected);
        check_erase(&text);
        check_close(&c);
    }
}

/* granularity: page widens to whole pages, and counts both. */
static void pages_when_asked_for(void)
{
    uint64_t random = wn_test_seed() + 4;
    check_engine c = {0};
    check_open(
        &c, "granularity: page\nsparse_attention_config:\n  algorithm: probe\n  select: 5\n",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 4});
    check_text text = check_write(&c.model, 23, &random);
    float out[LAYERS * 22 * ROW];
    double o[ROW], l[HEADS];
    wn_sequence s;
    wn_sequence_create(c.engine, &s);
    check_step(&c, s, &text, 0, 22, WN_ITEM_CONTEXT, NULL, NULL);
    CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 22, 23, 0, out, NULL), WN_OK);
    const int32_t keys[] = {16, 17, 18, 19, 20, 21, 22}; /* 18..22 selected; pages 16..19, 20..23 */
    check_dense(&c.model, &text, 0, 22, keys, 7, CHECK_ALL_HEADS, o, l);
    CU_ASSERT(check_distance(out, o, ROW) < BOUND);
    wn_counters counters;
    wn_engine_counters(c.engine, 0, WN_PHASE_GENERATION, &counters);
    CU_ASSERT_EQUAL(counters.keys_selected, 2 * 5);
    CU_ASSERT_EQUAL(counters.keys_attended, 2 * 7);
    check_erase(&text);
    check_close(&c);
}

/* probe keeps the newest 12 of 30 (KV head 1: those before the newest). */
static void eviction_keeps_what_was_chosen(void)
{
    uint64_t random = wn_test_seed() + 5;
    check_engine c = {0};
    check_open(
        &c, "sparse_attention_config:\n  algorithm: probe\n  keep: 12\n",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 4});
    check_text text = check_write(&c.model, 40, &random);
    float out[LAYERS * 30 * ROW], lse[LAYERS * 30 * HEADS];
    wn_sequence s;
    wn_sequence_create(c.engine, &s);
    CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, 0, 30, WN_ITEM_CONTEXT, out, lse), WN_OK);
    expect_dense(&c, &text, 0, 30, out, lse); /* the prompt itself is attended densely */
    int32_t logical, physical, positions[64];
    wn_sequence_length(c.engine, s, 0, &logical, &physical);
    CU_ASSERT(logical == 30 && physical == 12);
    for (uint32_t t = 30; t < 36; t++) {
        double o[ROW], l[HEADS], worst = 0;
        CU_ASSERT_EQUAL_FATAL(check_step(&c, s, &text, t, t + 1, 0, out, lse), WN_OK);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t h = 0; h < 2; h++) {
                int32_t keys[64];
                uint32_t n = 0;
                for (; n < 12; n++)
                    keys[n] = (int32_t)(18 - h + n);
                for (uint32_t k = 30; k <= t; k++)
                    keys[n++] = (int32_t)k;
                check_dense(&c.model, &text, layer, t, keys, n, h, o, l);
                worst = fmax(worst, check_distance(out + layer * ROW + h * 3 * DIM, o + h * 3 * DIM,
                                                   3 * DIM));
                CU_ASSERT_EQUAL(wn_sequence_positions(c.engine, s, layer, h, positions, 64), WN_OK);
                CU_ASSERT(memcmp(positions, keys, n * sizeof(int32_t)) == 0);
            }
        CU_ASSERT(worst < BOUND);
    }
    /* What eviction chose among cannot be truncated; what came after can. */
    CU_ASSERT_EQUAL(wn_sequence_truncate(c.engine, s, 29), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_sequence_truncate(c.engine, s, 32), WN_OK);
    wn_sequence_length(c.engine, s, 0, &logical, &physical);
    CU_ASSERT(logical == 32 && physical == 14);
    wn_counters counters;
    wn_engine_counters(c.engine, 1, WN_PHASE_CONTEXT, &counters);
    CU_ASSERT_EQUAL(counters.tokens_dropped, 2 * 18);
    check_erase(&text);
    check_close(&c);
}

/* A fork shares its prompt; the parent's eviction must leave the child's pages whole. */
static void eviction_spares_forks(void)
{
    uint64_t random = wn_test_seed() + 6;
    check_engine c = {0};
    check_open(
        &c, "sparse_attention_config:\n  algorithm: probe\n  keep: 6\n",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 4});
    check_text text = check_write(&c.model, 30, &random);
    float out[LAYERS * 30 * ROW], lse[LAYERS * 30 * HEADS];
    wn_sequence parent, child;
    wn_sequence_create(c.engine, &parent);
    CU_ASSERT_EQUAL(check_step(&c, parent, &text, 0, 18, WN_ITEM_CONTEXT | WN_ITEM_MORE, out, lse),
                    WN_OK);
    CU_ASSERT_EQUAL(wn_sequence_fork(c.engine, parent, &child), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, parent, &text, 18, 20, WN_ITEM_CONTEXT, out, lse), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, child, &text, 18, 24, WN_ITEM_CONTEXT | WN_ITEM_MORE, out, lse),
                    WN_OK);
    expect_dense(&c, &text, 18, 24, out, lse);
    check_erase(&text);
    check_close(&c);
}

static wn_tensor tensor(float *data, int64_t n, int64_t heads)
{
    return wn_tensor_make(data, WN_F32, 3, (int64_t[]){n, heads, DIM});
}

static void append_apart_from_attend(void)
{
    uint64_t random = wn_test_seed() + 7;
    check_engine c = {0};
    check_open(&c, "", NULL);
    check_text text = check_write(&c.model, 10, &random);
    float out[10 * ROW];
    double o[ROW], l[HEADS];
    wn_sequence s;
    wn_batch *b;
    wn_sequence_create(c.engine, &s);
    wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 10, 0, NULL};
    wn_tensor q = tensor(text.q, 10, HEADS), k = tensor(text.k, 10, 2), v = tensor(text.v, 10, 2);
    wn_tensor to = tensor(out, 10, HEADS);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    CU_ASSERT_EQUAL(wn_attention(b, 0, WN_ARGS(wn_attention_args, .q = q, .out = to)), WN_ESTATE);
    CU_ASSERT_EQUAL(wn_attention(b, 0, WN_ARGS(wn_attention_args, .k = k, .v = v)), WN_OK);
    CU_ASSERT_EQUAL(wn_attention(b, 0, WN_ARGS(wn_attention_args, .k = k, .v = v)), WN_ESTATE);
    CU_ASSERT_EQUAL(wn_attention(b, 0, WN_ARGS(wn_attention_args, .q = q, .out = to)), WN_OK);
    CU_ASSERT_EQUAL(wn_attention(b, 0, WN_ARGS(wn_attention_args, .q = q, .out = to)), WN_ESTATE);
    check_dense(&c.model, &text, 0, 9, NULL, 0, CHECK_ALL_HEADS, o, l);
    CU_ASSERT(check_distance(out + 9 * ROW, o, ROW) < BOUND);
    /* Layer 1 was left out: the step is undone. */
    CU_ASSERT_EQUAL(wn_batch_end(b), WN_ESTATE);
    CU_ASSERT(strstr(wn_error_text(), "layer 1") != NULL);
    int32_t logical, physical;
    wn_sequence_length(c.engine, s, 0, &logical, &physical);
    CU_ASSERT(logical == 0 && physical == 0);
    /* Filling the cache without attending is a step too, where no method needs to look. */
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        CU_ASSERT_EQUAL(wn_attention(b, layer, WN_ARGS(wn_attention_args, .k = k, .v = v)), WN_OK);
    CU_ASSERT_EQUAL(wn_batch_end(b), WN_OK);
    wn_sequence_length(c.engine, s, 0, &logical, &physical);
    CU_ASSERT(logical == 10 && physical == 10);
    /* A dry run checks and writes nothing but zeros. */
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    CU_ASSERT_EQUAL(wn_attention(b, 0,
                                 WN_ARGS(wn_attention_args, .q = q, .k = k, .v = v, .out = to,
                                         .flags = WN_ATTENTION_DRY_RUN)),
                    WN_OK);
    for (uint32_t i = 0; i < 10 * ROW; i++)
        CU_ASSERT(out[i] == 0);
    CU_ASSERT_EQUAL(wn_batch_abort(b), WN_OK);
    check_erase(&text);
    check_close(&c);
}

/* A method that never saw the keys of a step must not be asked about them in the next. */
static void methods_must_see_every_step(void)
{
    check_engine c = {0};
    check_open(&c, probe_select, NULL);
    float data[4 * ROW] = {0};
    wn_sequence s;
    wn_batch *b;
    wn_sequence_create(c.engine, &s);
    wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 4, 0, NULL};
    wn_tensor kv = tensor(data, 4, 2);
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        CU_ASSERT_EQUAL(wn_attention(b, layer, WN_ARGS(wn_attention_args, .k = kv, .v = kv)),
                        WN_OK);
    CU_ASSERT_EQUAL(wn_batch_end(b), WN_ESTATE);
    CU_ASSERT(strstr(wn_error_text(), "layer 0") != NULL);
    check_close(&c);
}

static void bad_arguments_are_named(void)
{
    check_engine c = {0};
    check_open(&c, "", NULL);
    float data[10 * ROW] = {0};
    wn_sequence s;
    wn_batch *b;
    wn_sequence_create(c.engine, &s);
    wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 4, 0, NULL};
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    wn_tensor q = tensor(data, 4, HEADS), kv = tensor(data, 4, 2);
    wn_tensor few = tensor(data, 3, HEADS), half = q, heads = tensor(data, 4, 5), gaps = q;
    half.dtype = WN_F16;
    gaps.stride[2] = 2;
#define TRY(...) wn_attention(b, 0, WN_ARGS(wn_attention_args, __VA_ARGS__))
    CU_ASSERT_EQUAL(TRY(.q = few, .k = kv, .v = kv, .out = q), WN_EINVAL);
    CU_ASSERT(strstr(wn_error_text(), "at least 4") != NULL);
    CU_ASSERT_EQUAL(TRY(.q = half, .k = kv, .v = kv, .out = q), WN_EINVAL);
    CU_ASSERT(strstr(wn_error_text(), "float16") != NULL);
    CU_ASSERT_EQUAL(TRY(.q = heads, .k = kv, .v = kv, .out = q), WN_EINVAL);
    CU_ASSERT_EQUAL(TRY(.q = gaps, .k = kv, .v = kv, .out = q), WN_EINVAL);
    CU_ASSERT_EQUAL(TRY(.q = q, .k = kv, .out = q), WN_EINVAL);
    CU_ASSERT_EQUAL(TRY(.q = q), WN_EINVAL);
    CU_ASSERT_EQUAL(TRY(.q = q, .k = kv, .v = kv, .out = q, .softmax_scale = -1), WN_EINVAL);
    CU_ASSERT_EQUAL(TRY(.q = q, .k = kv, .v = kv, .out = q, .flags = 8), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_attention(b, 0, &(wn_attention_args){.q = q}), WN_EINVAL);
    CU_ASSERT(strstr(wn_error_text(), "WN_ARGS") != NULL);
    CU_ASSERT_EQUAL(wn_attention(b, 2, WN_ARGS(wn_attention_args, .q = q)), WN_EINVAL);
    /* None of these has spoilt the step. */
    CU_ASSERT_EQUAL(TRY(.q = q, .k = kv, .v = kv, .out = q), WN_OK);
    CU_ASSERT_EQUAL(wn_batch_abort(b), WN_OK);
    check_close(&c);
}

static wn_status run_with(const char *keys, uint32_t *fallbacks)
{
    uint64_t random = wn_test_seed() + 8;
    char yaml[256];
    check_engine c = {0};
    snprintf(yaml, sizeof yaml, "%s", keys);
    check_open(&c, yaml, NULL);
    check_text text = check_write(&c.model, 20, &random);
    float out[LAYERS * 20 * ROW], lse[LAYERS * 20 * HEADS];
    wn_sequence s;
    wn_sequence_create(c.engine, &s);
    wn_status status = check_step(&c, s, &text, 0, 20, WN_ITEM_CONTEXT, out, lse);
    if (status == WN_OK) {
        wn_counters counters;
        wn_engine_counters(c.engine, 0, WN_PHASE_CONTEXT, &counters);
        *fallbacks = (uint32_t)counters.dense_fallbacks;
        if (*fallbacks > 0) {
            CU_ASSERT_EQUAL(counters.keys_selected, counters.keys_visible);
            expect_dense(&c, &text, 0, 20, out, lse);
        }
    }
    check_erase(&text);
    check_close(&c);
    return status;
}

static void failures_fail_the_step_or_go_dense(void)
{
    static const char *const fails[] = {"select", "tile", "attend"};
    char yaml[256];
    uint32_t fallbacks = 0;
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(yaml, sizeof yaml,
                 "sparse_attention_config:\n  algorithm: probe\n  %s: %s\n"
                 "  fail: %s\n",
                 fails[i], i == 0 ? "4" : "true", fails[i]);
        CU_ASSERT_EQUAL(run_with(yaml, &fallbacks), WN_EUNSUPPORTED);
        CU_ASSERT(strstr(wn_error_text(), "told to fail") != NULL);
        CU_ASSERT(strstr(wn_error_text(), "probe") != NULL);
        strcat(yaml, "on_error: dense\n");
        CU_ASSERT_EQUAL(run_with(yaml, &fallbacks), WN_OK);
        CU_ASSERT_EQUAL(fallbacks, 1);
    }
    CU_ASSERT_EQUAL(run_with("sparse_attention_config:\n  algorithm: probe\n  keep: 4\n"
                             "  fail: retain\n",
                             &fallbacks),
                    WN_EUNSUPPORTED);
    CU_ASSERT_EQUAL(run_with("sparse_attention_config:\n  algorithm: probe\n  keep: 4\n"
                             "  fail: count\n",
                             &fallbacks),
                    WN_EPLUGIN);
    CU_ASSERT(strstr(wn_error_text(), "WN-P-21") != NULL);
    CU_ASSERT_EQUAL(run_with("sparse_attention_config:\n  algorithm: probe\n  select: 4\n"
                             "  fail: observe\n",
                             &fallbacks),
                    WN_EUNSUPPORTED);
    CU_ASSERT_EQUAL(run_with("sparse_attention_config:\n  algorithm: probe\n  select: 4\n"
                             "  form: lie\n",
                             &fallbacks),
                    WN_EPLUGIN);
    CU_ASSERT(strstr(wn_error_text(), "SORTED") != NULL);
    CU_ASSERT_EQUAL(run_with("sparse_attention_config:\n  algorithm: probe\n  select: 4\n"
                             "  form: outside\n",
                             &fallbacks),
                    WN_OK); /* ignored, per the rules */
}

static void the_attend_role_sees_everything(void)
{
    uint64_t random = wn_test_seed() + 9;
    check_engine plain = {0}, hooked = {0};
    check_open(&plain, probe_select, NULL);
    check_open(&hooked,
               "sparse_attention_config:\n  - {algorithm: probe, select: 5}\n"
               "  - {algorithm: other, attend: true}\n",
               NULL);
    check_text text = check_write(&plain.model, 20, &random);
    float a[LAYERS * 20 * ROW], b[LAYERS * 20 * ROW];
    wn_sequence s, t;
    wn_sequence_create(plain.engine, &s);
    wn_sequence_create(hooked.engine, &t);
    CU_ASSERT_EQUAL(check_step(&plain, s, &text, 0, 20, WN_ITEM_CONTEXT, a, NULL), WN_OK);
    CU_ASSERT_EQUAL(check_step(&hooked, t, &text, 0, 20, WN_ITEM_CONTEXT, b, NULL), WN_OK);
    CU_ASSERT(memcmp(a, b, sizeof a) == 0);
    check_erase(&text);
    check_close(&plain);
    check_close(&hooked);
}

static void extra_inputs_are_demanded(void)
{
    check_engine c = {0};
    const char *name = NULL;
    wn_tensor shape;
    check_open(&c, "sparse_attention_config: {algorithm: wanting, select: 3}\n", NULL);
    CU_ASSERT_EQUAL(wn_engine_input(c.engine, 0, 4, &name, &shape), WN_EUNSUPPORTED);
    CU_ASSERT_STRING_EQUAL(name, "probe.extra");
    CU_ASSERT_EQUAL(wn_engine_input(c.engine, 1, 4, &name, &shape), WN_ENOTFOUND);
    float data[4 * ROW] = {0};
    wn_sequence s;
    wn_batch *b;
    wn_sequence_create(c.engine, &s);
    wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 4, 0, NULL};
    CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
    wn_tensor q = tensor(data, 4, HEADS), kv = tensor(data, 4, 2);
    CU_ASSERT_EQUAL(TRY(.q = q, .k = kv, .v = kv, .out = q), WN_EINVAL);
    CU_ASSERT(strstr(wn_error_text(), "probe.extra") != NULL);
    wn_named_input extra = {"probe.extra", q};
#define TRY_EXTRA TRY(.q = q, .k = kv, .v = kv, .out = q, .inputs = &extra, .num_inputs = 1)
#define REFUSED(change, text)                                                                      \
    change;                                                                                        \
    CU_ASSERT_EQUAL(TRY_EXTRA, WN_EINVAL);                                                         \
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), text));                                         \
    extra = (wn_named_input){"probe.extra", q}
    REFUSED(extra.name = NULL, "0 (unnamed) has no name");
    REFUSED(extra.name = "probe.other", "probe.extra");
    REFUSED(extra.tensor.data = NULL, "0 (probe.extra) has no data");
    REFUSED(extra.tensor.shape[0] = 3, "3 rows: expected at least 4");
    REFUSED(extra.tensor.device = WN_DEVICE_CUDA, "device 2");
    REFUSED(extra.tensor.dtype = 99, "dtype 99");
    REFUSED(extra.tensor.ndim = 0, "0 dimensions");
    CU_ASSERT_EQUAL(TRY(.q = q, .k = kv, .v = kv, .out = q, .num_inputs = 1), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "inputs is NULL"));
    CU_ASSERT_EQUAL(TRY_EXTRA, WN_OK);
    wn_batch_abort(b);
    /* Apart: the call that attends must bring it, the one that appends may. */
    for (uint32_t brings = 0; brings < 2; brings++) {
        CU_ASSERT_EQUAL_FATAL(wn_batch_begin(c.engine, &item, 1, &b), WN_OK);
        extra.tensor.shape[0] = 3;
        CU_ASSERT_EQUAL(TRY(.k = kv, .v = kv, .inputs = &extra, .num_inputs = 1), WN_EINVAL);
        extra.tensor.shape[0] = 4;
        CU_ASSERT_EQUAL(TRY(.k = kv, .v = kv, .inputs = &extra, .num_inputs = brings), WN_OK);
        CU_ASSERT_EQUAL(TRY(.q = q, .out = q), WN_EINVAL);
        CU_ASSERT_EQUAL(TRY(.q = q, .out = q, .inputs = &extra, .num_inputs = 1), WN_OK);
        wn_batch_abort(b);
    }
    check_close(&c);
}

/* RoPE by the engine equals keys and queries rotated beforehand; positions may have gaps. */
static void rope_follows_positions(void)
{
    uint64_t random = wn_test_seed() + 10;
    const wn_engine_options keep = {.struct_size = WN_SIZEOF(wn_engine_options),
                                    .keep_positions = 1};
    check_engine plain = {0}, rotating = {0};
    rotating.model = check_model();
    rotating.model.rope = WN_ROPE_HALF_SPLIT;
    rotating.model.rope_theta = 100;
    check_open(&plain, "", &keep);
    check_open(&rotating, "", &keep);
    check_text text = check_write(&plain.model, 6, &random);
    check_text rotated = check_write(&plain.model, 6, &random);
    const int32_t positions[6] = {0, 1, 2, 7, 8, 100};
    memcpy(rotated.v, text.v, 6 * 2 * DIM * 4);
    for (uint32_t x = 0; x < 6 * (HEADS + 2); x++) {
        uint32_t t = x / (HEADS + 2), h = x % (HEADS + 2);
        const float *from =
            h < HEADS ? text.q + (t * HEADS + h) * DIM : text.k + (t * 2 + h - HEADS) * DIM;
        float *to =
            h < HEADS ? rotated.q + (t * HEADS + h) * DIM : rotated.k + (t * 2 + h - HEADS) * DIM;
        for (uint32_t i = 0; i < DIM / 2; i++) {
            double angle = positions[t] * pow(100, -2.0 * i / DIM);
            to[i] = (float)(from[i] * cos(angle) - from[i + DIM / 2] * sin(angle));
            to[i + DIM / 2] = (float)(from[i + DIM / 2] * cos(angle) + from[i] * sin(angle));
        }
    }
    float a[6 * ROW], b[6 * ROW];
    check_engine *engines[2] = {&plain, &rotating};
    check_text *texts[2] = {&rotated, &text};
    float *outs[2] = {a, b};
    for (uint32_t e = 0; e < 2; e++) {
        wn_sequence s;
        wn_batch *batch;
        wn_sequence_create(engines[e]->engine, &s);
        wn_batch_item item = {WN_SIZEOF(wn_batch_item), WN_ITEM_CONTEXT, s, 6, 0, positions};
        CU_ASSERT_EQUAL_FATAL(wn_batch_begin(engines[e]->engine, &item, 1, &batch), WN_OK);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            CU_ASSERT_EQUAL(
                wn_attention(batch, layer,
                             WN_ARGS(wn_attention_args, .q = tensor(texts[e]->q, 6, HEADS),
                                     .k = tensor(texts[e]->k, 6, 2), .v = tensor(texts[e]->v, 6, 2),
                                     .window = 50, .token_sinks = 1,
                                     .out = tensor(outs[e], 6, HEADS))),
                WN_OK);
        CU_ASSERT_EQUAL(wn_batch_end(batch), WN_OK);
    }
    double worst = 0;
    for (uint32_t i = 0; i < 6 * ROW; i++)
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    CU_ASSERT(worst < 1e-5);
    /* Position 100 sees the sink at 0 and itself alone. */
    const int32_t keys[] = {0, 5};
    double o[ROW], l[HEADS];
    check_dense(&plain.model, &rotated, 0, 5, keys, 2, CHECK_ALL_HEADS, o, l);
    CU_ASSERT(check_distance(a + 5 * ROW, o, ROW) < BOUND);
    check_erase(&text);
    check_erase(&rotated);
    check_close(&plain);
    check_close(&rotating);
}

/* Quantised caches: close to dense, scales per token and head. */
static void quantised_caches_are_close(void)
{
    static const struct {
        uint32_t dtype;
        double bound;
    } kinds[] = {{WN_I8, 0.05}, {WN_F8_E4M3, 0.35}, {WN_F16, 4e-3}, {WN_BF16, 3e-2}};
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t random = wn_test_seed() + 11;
        check_engine c = {0};
        check_open(&c, "",
                   &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options),
                                        .kv_dtype = kinds[i].dtype,
                                        .layout = i % 2 ? "nhd" : "vec"});
        check_text text = check_write(&c.model, 20, &random);
        float out[LAYERS * 20 * ROW];
        double o[ROW], l[HEADS], worst = 0;
        wn_sequence s;
        wn_sequence_create(c.engine, &s);
        CU_ASSERT_EQUAL(check_step(&c, s, &text, 0, 20, WN_ITEM_CONTEXT, out, NULL), WN_OK);
        for (uint32_t t = 0; t < 20; t++) {
            check_dense(&c.model, &text, 0, t, NULL, 0, CHECK_ALL_HEADS, o, l);
            worst = fmax(worst, check_distance(out + t * ROW, o, ROW));
        }
        CU_ASSERT(worst < kinds[i].bound);
        CU_ASSERT(worst > 0);
        check_erase(&text);
        check_close(&c);
    }
}

typedef struct worker {
    check_engine *c;
    check_text text;
    float out[LAYERS * ROW];
    uint32_t seed, failures;
} worker;

static void *generate(void *argument)
{
    worker *w = argument;
    wn_sequence s;
    for (uint32_t round = 0; round < 10; round++) {
        w->failures += wn_sequence_create(w->c->engine, &s) != WN_OK;
        w->failures += check_step(w->c, s, &w->text, 0, 20, WN_ITEM_CONTEXT, NULL, NULL) != WN_OK;
        for (uint32_t t = 20; t < 30; t++)
            w->failures += check_step(w->c, s, &w->text, t, t + 1, 0, w->out, NULL) != WN_OK;
        w->failures += wn_sequence_free(w->c->engine, s) != WN_OK;
    }
    return NULL;
}

/* Two threads, each with batches of its own, on one engine: same bits as alone. */
static void two_threads_on_one_engine(void)
{
    uint64_t random = wn_test_seed() + 12;
    check_engine c = {0};
    check_open(&c, "sparse_attention_config: {algorithm: probe, keep: 8, select: 5}\n", NULL);
    worker w[2], alone[2];
    pthread_t threads[2];
    for (uint32_t i = 0; i < 2; i++) {
        w[i] = (worker){.c = &c, .text = check_write(&c.model, 30, &random)};
        alone[i] = w[i];
        generate(&alone[i]);
    }
    for (uint32_t i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, generate, &w[i]);
    for (uint32_t i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(w[i].failures + alone[i].failures, 0);
        CU_ASSERT(memcmp(w[i].out, alone[i].out, sizeof w[i].out) == 0);
        check_erase(&w[i].text);
    }
    check_close(&c);
}

WN_SUITE("core.attention", {"dense prefill and generation", dense_prefill_and_generation},
         {"chunks equal one shot", chunks_equal_one_shot},
         {"a mixed step equals each request alone", mixed_step_equals_alone},
         {"selections attend to what they name", selections_attend_to_what_they_name},
         {"pages when asked for", pages_when_asked_for},
         {"eviction keeps what was chosen", eviction_keeps_what_was_chosen},
         {"eviction spares forks", eviction_spares_forks},
         {"append apart from attend", append_apart_from_attend},
         {"methods must see every step", methods_must_see_every_step},
         {"bad arguments are named", bad_arguments_are_named},
         {"failures fail the step or go dense", failures_fail_the_step_or_go_dense},
         {"the attend role sees everything", the_attend_role_sees_everything},
         {"extra inputs are demanded", extra_inputs_are_demanded},
         {"rope follows positions", rope_follows_positions},
         {"quantised caches are close", quantised_caches_are_close},
         {"two threads on one engine", two_threads_on_one_engine})
