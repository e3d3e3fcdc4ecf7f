/* test_end_to_end.c: the plugins at work in an engine, through winnow.h alone: prompts in chunks
 * and at once, batches, speculation, forks, eviction and selection together, and two methods
 * composed. Arithmetic is the reference's, so that what must be equal is equal bit for bit. */
#include "attention_reference.h"
#include "check_host.h"
#include "rocket_reference.h"
#include "suite.h"
#include "winnow/winnow.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 2, SEQUENCES = 3, LONGEST = 200, HEADS = 6, KV_HEADS = 2, GROUP = 3, DIM = 16 };
enum { ROW = HEADS * DIM, KV_ROW = KV_HEADS * DIM, STEP = 400 };

#define ROCKET                                                                                     \
    "{algorithm: rocket, window_size: 8, kernel_size: 7, prompt_budget: 48, page_size: 3, "        \
    "topk: 6, kt_cache_dtype: bfloat16"
static const char dense_yaml[] = "sparse_attention_config: {algorithm: dense}\n";
static const char rocket_yaml[] = "sparse_attention_config: " ROCKET "}\n";
static const char tokens_yaml[] =
    "sparse_attention_config: " ROCKET ", topk_unit: token, temperature: sparq}\n";
static const char turns_yaml[] = "sparse_attention_config: " ROCKET ", multi_turn: true}\n";
static const char skip_yaml[] =
    "sparse_attention_config: {algorithm: skip_softmax, phases: [context], "
    "threshold_scale_factor: 25}\n";
static const char both_yaml[] =
    "sparse_attention_config:\n"
    "  - {algorithm: skip_softmax, phases: [context], threshold_scale_factor: 25}\n"
    "  - " ROCKET "}\n";
static const char window_yaml[] =
    "sparse_attention_config: {algorithm: window, window_size: 9, sink_tokens: 2}\n";

static const int32_t prompts[SEQUENCES] = {120, 30, 77};

/* What the model would hand over, for each layer and sequence. */
static check_tokens tokens[LAYERS][SEQUENCES];

typedef struct world {
    wn_registry *registry;
    wn_engine *engine;
    wn_sequence sequence[SEQUENCES];
    int32_t length[SEQUENCES];     /* logical */
    float out[LAYERS][STEP * ROW]; /* of the latest step */
    int32_t first_row[SEQUENCES];  /* of each sequence in it */
} world;

static void must(wn_status status)
{
    if (status != WN_OK)
        fprintf(stderr, "%s: %s\n", wn_status_name(status), wn_error_text());
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
}

static world *open_world(const char *yaml)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = LAYERS,
                            .num_heads = HEADS,
                            .num_kv_heads = KV_HEADS,
                            .head_dim = DIM,
                            .dtype = WN_F32,
                            .max_position = LONGEST,
                            .softmax_scale = 0.25f};
    const wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                       .tokens_per_page = 8,
                                       .max_tokens = 2048,
                                       .max_sequences = 8,
                                       .max_step_tokens = STEP};
    world *w = calloc(1, sizeof *w);
    wn_config *config;
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    must(wn_registry_open(WN_TEST_PLUGINS, &w->registry));
    must(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config));
    must(wn_engine_create(w->registry, config, &model, &options, &w->engine));
    wn_config_free(config);
    for (int s = 0; s < SEQUENCES; s++)
        must(wn_sequence_create(w->engine, &w->sequence[s]));
    return w;
}

static void close_world(world *w)
{
    must(wn_engine_free(w->engine));
    wn_registry_close(w->registry);
    free(w);
}

static wn_tensor rows_of(float *data, int64_t rows, int64_t heads)
{
    return wn_tensor_make(data, WN_F32, 3, (const int64_t[]){rows, heads, DIM});
}

typedef void (*look)(world *w, const wn_batch *batch, uint32_t layer, const int32_t *count);

/* One step: count[s] more tokens of each sequence, all in one phase; negative: not in the step. */
static void step(world *w, const int32_t *count, uint32_t flags, look after_layer)
{
    static float q[STEP * ROW], k[STEP * KV_ROW], v[STEP * KV_ROW];
    wn_batch_item items[SEQUENCES];
    wn_batch *batch;
    uint32_t num_items = 0;
    int32_t rows = 0;
    for (int s = 0; s < SEQUENCES; s++) {
        w->first_row[s] = rows;
        if (count[s] < 0)
            continue;
        items[num_items++] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item),
                                             .flags = flags,
                                             .sequence = w->sequence[s],
                                             .num_tokens = count[s]};
        rows += count[s];
    }
    must(wn_batch_begin(w->engine, items, num_items, &batch));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (int s = 0; s < SEQUENCES; s++) {
            const size_t n = count[s] > 0 ? (size_t)count[s] : 0, to = (size_t)w->first_row[s];
            const size_t from = (size_t)w->length[s];
            const check_tokens *t = &tokens[layer][s];
            memcpy(q + to * ROW, t->q + from * ROW, n * ROW * sizeof *q);
            memcpy(k + to * KV_ROW, t->k + from * KV_ROW, n * KV_ROW * sizeof *k);
            memcpy(v + to * KV_ROW, t->v + from * KV_ROW, n * KV_ROW * sizeof *v);
        }
        must(wn_attention(batch, layer,
                          WN_ARGS(wn_attention_args, .q = rows_of(q, rows, HEADS),
                                  .k = rows_of(k, rows, KV_HEADS), .v = rows_of(v, rows, KV_HEADS),
                                  .out = rows_of(w->out[layer], rows, HEADS))));
        if (after_layer != NULL)
            after_layer(w, batch, layer, count);
    }
    must(wn_batch_end(batch));
    for (int s = 0; s < SEQUENCES; s++)
        w->length[s] += count[s] > 0 ? count[s] : 0;
}

/* The same rows in two worlds, bit for bit. */
static int same_rows(const world *a, const world *b, int s, int32_t count)
{
    for (int layer = 0; layer < LAYERS; layer++)
        if (memcmp(a->out[layer] + a->first_row[s] * ROW, b->out[layer] + b->first_row[s] * ROW,
                   (size_t)count * ROW * sizeof(float)) != 0)
            return 0;
    return 1;
}

static const int32_t one[SEQUENCES] = {1, 1, 1};

/* ---------------------------------------------------------------- against the references */

/* Keys or values of some tokens of one KV head, as doubles. */
static void load(const float *from, uint32_t h, const int32_t *which, int32_t n, double *to)
{
    for (int32_t i = 0; i < n; i++)
        for (int c = 0; c < DIM; c++)
            to[i * DIM + c] = from[(which != NULL ? which[i] : i) * KV_ROW + (int)h * DIM + c];
}

/* Output of the query heads of KV head h for token t, over those of its n stored tokens that
 * attended says. */
static void compare_output(const world *w, uint32_t layer, int s, uint32_t h, int32_t t,
                           const int32_t *stored, int32_t n, const uint8_t *attended)
{
    double k[LONGEST * DIM], v[LONGEST * DIM], q[DIM], wanted[DIM], worst = 0;
    load(tokens[layer][s].k, h, stored, n, k);
    load(tokens[layer][s].v, h, stored, n, v);
    for (int head = (int)h * GROUP; head < (int)(h + 1) * GROUP; head++) {
        const int32_t row = w->first_row[s] + t - w->length[s];
        for (int c = 0; c < DIM; c++)
            q[c] = tokens[layer][s].q[t * ROW + head * DIM + c];
        attention_reference(q, k, v, n, DIM, 0.25, attended, wanted);
        for (int c = 0; c < DIM; c++)
            worst = fmax(worst, fabs(wanted[c] - w->out[layer][row * ROW + head * DIM + c]));
    }
    CU_ASSERT(worst < 1e-5);
}

static int32_t kept_tokens[LAYERS][SEQUENCES][KV_HEADS][LONGEST];

/* After a generation step: the choice is the reference's on the tokens that are stored, and the
 * output is attention over it. */
static void look_at_rocket(world *w, const wn_batch *batch, uint32_t layer, const int32_t *count)
{
    const rocket_head head = {GROUP, DIM, 0.25};
    const rocket_stage2 stage = {3, 128, 6, 0, ROCKET_BFLOAT16, 0, 0};
    wn_choice choice = {.struct_size = WN_SIZEOF(wn_choice), .phase = WN_PHASE_GENERATION};
    must(wn_batch_choice(batch, &choice));
    CU_ASSERT_PTR_NOT_NULL_FATAL(choice.select);
    for (int s = 0; s < SEQUENCES; s++)
        for (uint32_t h = 0; h < KV_HEADS; h++) {
            double k[LONGEST * DIM], q[GROUP * DIM];
            int32_t stored[LONGEST], expected[LONGEST], n;
            uint8_t attended[LONGEST] = {0};
            CU_ASSERT_EQUAL(count[s], 1);
            must(wn_sequence_length(w->engine, w->sequence[s], layer, NULL, &n));
            for (int32_t i = 0; i < n; i++) /* what the prompt left, then one token per step */
                stored[i] = i < 48 && prompts[s] > 48 ? kept_tokens[layer][s][h][i]
                                                      : w->length[s] - (n - 1) + i;
            load(tokens[layer][s].k, h, stored, n, k);
            for (int i = 0; i < GROUP * DIM; i++)
                q[i] = tokens[layer][s].q[w->length[s] * ROW + (int)h * GROUP * DIM + i];
            const int32_t blocks = rocket_reference_select(&head, &stage, q, k, n, expected);
            for (int32_t i = 0; i < blocks; i++)
                for (int32_t slot = expected[i] * 3; slot < expected[i] * 3 + 3 && slot < n; slot++)
                    attended[slot] = 1;
            compare_output(w, layer, s, h, w->length[s], stored, n, attended);
        }
}

static void rocket_equals_reference(void)
{
    const rocket_head head = {GROUP, DIM, 0.25};
    const rocket_stage1 stage = {8, 7, 48, 0};
    world *w = open_world(rocket_yaml);
    step(w, prompts, WN_ITEM_CONTEXT, NULL);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (int s = 0; s < SEQUENCES; s++) {
            int32_t logical, physical;
            must(wn_sequence_length(w->engine, w->sequence[s], layer, &logical, &physical));
            CU_ASSERT_EQUAL(logical, prompts[s]);
            CU_ASSERT_EQUAL_FATAL(physical, prompts[s] < 48 ? prompts[s] : 48);
            for (uint32_t h = 0; h < KV_HEADS; h++) {
                double k[LONGEST * DIM], q[8 * GROUP * DIM];
                int32_t expected[48], *kept = kept_tokens[layer][s][h];
                must(wn_sequence_positions(w->engine, w->sequence[s], layer, h, kept, LONGEST));
                if (prompts[s] <= 48)
                    continue;
                load(tokens[layer][s].k, h, NULL, prompts[s], k);
                for (int i = 0; i < 8; i++)
                    for (int j = 0; j < GROUP * DIM; j++)
                        q[i * GROUP * DIM + j] =
                            tokens[layer][s]
                                .q[(prompts[s] - 8 + i) * ROW + (int)h * GROUP * DIM + j];
                rocket_reference_retain(&head, &stage, q, k, prompts[s], expected);
                CU_ASSERT_EQUAL(memcmp(kept, expected, sizeof expected), 0);
            }
        }
    for (int i = 0; i < 8; i++)
        step(w, one, 0, look_at_rocket);
    close_world(w);
}

static void look_at_window(world *w, const wn_batch *batch, uint32_t layer, const int32_t *count)
{
    (void)batch;
    for (int s = 0; s < SEQUENCES; s++)
        for (int32_t t = w->length[s]; t < w->length[s] + count[s]; t++)
            for (uint32_t h = 0; h < KV_HEADS; h++) {
                uint8_t attended[LONGEST];
                for (int32_t j = 0; j <= t; j++)
                    attended[j] = j < 2 || j > t - 9;
                compare_output(w, layer, s, h, t, NULL, t + 1, attended);
            }
}

static void window_equals_reference(void)
{
    const int32_t several[SEQUENCES] = {4, 1, 2};
    world *w = open_world(window_yaml);
    step(w, prompts, WN_ITEM_CONTEXT, NULL);
    step(w, one, 0, look_at_window);
    step(w, several, 0, look_at_window);
    close_world(w);
}

/* ---------------------------------------------------------------- what must be equal */

static void chunks_equal_one_shot(void)
{
    static const char *const configs[] = {rocket_yaml, tokens_yaml, turns_yaml};
    const int32_t first[SEQUENCES] = {50, 29, 0}, second[SEQUENCES] = {1, -1, 76};
    const int32_t last[SEQUENCES] = {69, 1, 1};
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
        world *whole = open_world(configs[c]), *chunked = open_world(configs[c]);
        step(whole, prompts, WN_ITEM_CONTEXT, NULL);
        step(chunked, first, WN_ITEM_CONTEXT | WN_ITEM_MORE, NULL);
        step(chunked, second, WN_ITEM_CONTEXT | WN_ITEM_MORE, NULL);
        step(chunked, last, WN_ITEM_CONTEXT, NULL);
        for (int i = 0; i < 6; i++) {
            step(whole, one, 0, NULL);
            step(chunked, one, 0, NULL);
            for (int s = 0; s < SEQUENCES; s++)
                CU_ASSERT(same_rows(whole, chunked, s, 1));
        }
        close_world(chunked);
        close_world(whole);
    }
}

static void alone_equals_batch(void)
{
    static const char *const configs[] = {both_yaml, tokens_yaml, turns_yaml, window_yaml};
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++)
        for (int s = 0; s < SEQUENCES; s++) {
            world *together = open_world(configs[c]), *alone = open_world(configs[c]);
            int32_t prompt[SEQUENCES] = {-1, -1, -1}, token[SEQUENCES] = {-1, -1, -1};
            prompt[s] = prompts[s];
            token[s] = 1;
            step(together, prompts, WN_ITEM_CONTEXT, NULL);
            step(alone, prompt, WN_ITEM_CONTEXT, NULL);
            CU_ASSERT(same_rows(together, alone, s, prompts[s]));
            for (int i = 0; i < 4; i++) {
                step(together, one, 0, NULL);
                step(alone, token, 0, NULL);
                CU_ASSERT(same_rows(together, alone, s, 1));
            }
            close_world(alone);
            close_world(together);
        }
}

/* Five tokens at once, of which two are taken back and come again. */
static void speculation_equals_sequential(void)
{
    static const char *const configs[] = {rocket_yaml, tokens_yaml, turns_yaml, window_yaml};
    const int32_t five[SEQUENCES] = {5, 5, 5}, two[SEQUENCES] = {2, 2, 2};
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
        world *sequential = open_world(configs[c]), *eager = open_world(configs[c]);
        step(sequential, prompts, WN_ITEM_CONTEXT, NULL);
        step(eager, prompts, WN_ITEM_CONTEXT, NULL);
        step(eager, five, 0, NULL);
        for (int i = 0; i < 5; i++) {
            step(sequential, one, 0, NULL);
            for (int s = 0; s < SEQUENCES; s++) {
                CU_ASSERT(same_rows(sequential, eager, s, 1));
                eager->first_row[s]++; /* to the next token's row */
            }
        }
        for (int s = 0; s < SEQUENCES; s++) {
            eager->length[s] -= 2;
            must(wn_sequence_truncate(eager->engine, eager->sequence[s], eager->length[s]));
        }
        step(eager, two, 0, NULL);
        for (int s = 0; s < SEQUENCES; s++) {
            eager->first_row[s]++;
            CU_ASSERT(same_rows(sequential, eager, s, 1));
        }
        close_world(eager);
        close_world(sequential);
    }
}

/* A step of a fork of sequence 0 with other tokens, after which it ends. */
static void step_stray(world *w, wn_sequence fork, const int32_t *count, uint32_t flags)
{
    const wn_sequence own = w->sequence[0];
    const int32_t length = w->length[0];
    w->sequence[0] = fork;
    w->length[0] = 1; /* it is fed tokens that it has seen before */
    step(w, count, flags, NULL);
    must(wn_sequence_free(w->engine, fork));
    w->sequence[0] = own;
    w->length[0] = length;
}

/* Forks go another way and end; nothing of their tokens may show in the sequence that goes on,
 * whether it takes its step before them or after. */
static void fork_all_the_way(const char *yaml)
{
    const int32_t whole[SEQUENCES] = {120, -1, -1}, token[SEQUENCES] = {1, -1, -1};
    const int32_t some[SEQUENCES] = {53, -1, -1}, rest[SEQUENCES] = {67, -1, -1};
    const int32_t again[SEQUENCES] = {20, -1, -1};
    world *fresh = open_world(yaml), *forked = open_world(yaml);
    step(fresh, whole, WN_ITEM_CONTEXT, NULL);
    step(forked, some, WN_ITEM_CONTEXT | WN_ITEM_MORE, NULL);
    wn_sequence fork;
    must(wn_sequence_fork(forked->engine, forked->sequence[0], &fork));
    step_stray(forked, fork, rest, WN_ITEM_CONTEXT);
    step(forked, rest, WN_ITEM_CONTEXT, NULL);
    for (int i = 0; i < 20; i++) { /* landmarks of 3 across pages of 8: every alignment */
        if (i == 10) {             /* a second turn, which a fork begins first */
            must(wn_sequence_fork(forked->engine, forked->sequence[0], &fork));
            step_stray(forked, fork, rest, WN_ITEM_CONTEXT);
            step(fresh, again, WN_ITEM_CONTEXT, NULL);
            step(forked, again, WN_ITEM_CONTEXT, NULL);
        }
        step(fresh, token, 0, NULL);
        must(wn_sequence_fork(forked->engine, forked->sequence[0], &fork));
        step(forked, token, 0, NULL);
        CU_ASSERT(same_rows(fresh, forked, 0, 1));
        step_stray(forked, fork, i % 2 == 0 ? token : again, i % 2 == 0 ? 0 : WN_ITEM_CONTEXT);
    }
    close_world(forked);
    close_world(fresh);
}

static void forks_equal_fresh_sequences(void)
{
    fork_all_the_way(rocket_yaml);
    fork_all_the_way(tokens_yaml);
    fork_all_the_way(turns_yaml);
}

/* How far two worlds' rows of sequence s are apart. */
static double distance(const world *a, const world *b, int s)
{
    double worst = 0;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < ROW; i++)
            worst = fmax(worst, fabs((double)a->out[layer][a->first_row[s] * ROW + i] -
                                     (double)b->out[layer][b->first_row[s] * ROW + i]));
    return worst;
}

/* In the first turn a view of what was kept is as good as having nothing else. In the second,
 * whoever evicted chooses from less. */
static void turns_keep_what_eviction_loses(void)
{
    const int32_t again[SEQUENCES] = {20, 20, 20};
    world *evicts = open_world(rocket_yaml), *views = open_world(turns_yaml);
    step(evicts, prompts, WN_ITEM_CONTEXT, NULL);
    step(views, prompts, WN_ITEM_CONTEXT, NULL);
    for (int i = 0; i < 5; i++) {
        step(evicts, one, 0, NULL);
        step(views, one, 0, NULL);
        for (int s = 0; s < SEQUENCES; s++)
            CU_ASSERT(distance(evicts, views, s) < 1e-6);
    }
    for (int s = 0; s < SEQUENCES; s++) {
        int32_t physical;
        must(wn_sequence_length(views->engine, views->sequence[s], 0, NULL, &physical));
        CU_ASSERT_EQUAL(physical, prompts[s] + 5);
    }
    step(evicts, again, WN_ITEM_CONTEXT, NULL);
    step(views, again, WN_ITEM_CONTEXT, NULL);
    step(evicts, one, 0, NULL);
    step(views, one, 0, NULL);
    CU_ASSERT(distance(evicts, views, 0) > 1e-3);
    close_world(views);
    close_world(evicts);
}

/* Skip softmax in the context phase with RocketKV: each does what it does alone. */
static void composition(void)
{
    world *skip = open_world(skip_yaml), *rocket = open_world(rocket_yaml);
    world *both = open_world(both_yaml), *dense = open_world(dense_yaml);
    wn_counters counters = {.struct_size = WN_SIZEOF(wn_counters)};
    step(skip, prompts, WN_ITEM_CONTEXT, NULL);
    step(rocket, prompts, WN_ITEM_CONTEXT, NULL);
    step(both, prompts, WN_ITEM_CONTEXT, NULL);
    step(dense, prompts, WN_ITEM_CONTEXT, NULL);
    for (int s = 0; s < SEQUENCES; s++) {
        CU_ASSERT(same_rows(skip, both, s, prompts[s]));
        CU_ASSERT(same_rows(rocket, dense, s, prompts[s]));
    }
    CU_ASSERT(!same_rows(skip, dense, 0, prompts[0]));
    must(wn_engine_counters(both->engine, 0, WN_PHASE_CONTEXT, &counters));
    CU_ASSERT(counters.tiles_skipped > 0);
    CU_ASSERT_EQUAL(counters.tokens_dropped, KV_HEADS * (120 - 48 + 77 - 48));
    for (int i = 0; i < 4; i++) {
        step(skip, one, 0, NULL);
        step(rocket, one, 0, NULL);
        step(both, one, 0, NULL);
        step(dense, one, 0, NULL);
        for (int s = 0; s < SEQUENCES; s++) {
            CU_ASSERT(same_rows(rocket, both, s, 1));
            CU_ASSERT(same_rows(skip, dense, s, 1));
        }
        CU_ASSERT(!same_rows(rocket, dense, 0, 1));
    }
    must(wn_engine_counters(both->engine, 0, WN_PHASE_GENERATION, &counters));
    CU_ASSERT(counters.keys_selected < counters.keys_visible);
    close_world(dense);
    close_world(both);
    close_world(rocket);
    close_world(skip);
}

/* Budgets above everything, a threshold of nothing: dense, bit for bit. */
static void dense_when_told_so(void)
{
    static const char *const configs[] = {
        "sparse_attention_config: {algorithm: rocket, prompt_budget: 100000, topk: 100000}\n",
        "sparse_attention_config: {algorithm: rocket, prompt_budget: 100000, topk: 100000, "
        "topk_unit: token, multi_turn: true}\n",
        "sparse_attention_config: {algorithm: window, window_size: 100000}\n",
        "sparse_attention_config: {algorithm: skip_softmax, threshold_scale_factor: 0}\n",
        "sparse_attention_config: {algorithm: skip_softmax, threshold_scale_factor: 199.5}\n"};
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
        world *told = open_world(configs[c]), *dense = open_world(dense_yaml);
        step(told, prompts, WN_ITEM_CONTEXT, NULL);
        step(dense, prompts, WN_ITEM_CONTEXT, NULL);
        for (int s = 0; s < SEQUENCES; s++)
            CU_ASSERT(same_rows(told, dense, s, prompts[s]));
        for (int i = 0; i < 3; i++) {
            step(told, one, 0, NULL);
            step(dense, one, 0, NULL);
            for (int s = 0; s < SEQUENCES; s++)
                CU_ASSERT(same_rows(told, dense, s, 1));
        }
        close_world(dense);
        close_world(told);
    }
}

static void write_tokens(void)
{
    const check_shape shape = {.num_heads = HEADS, .num_kv_heads = KV_HEADS, .head_dim = DIM};
    uint64_t seed = wn_test_seed();
    setenv("WINNOW_KERNELS", "ref", 1);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int s = 0; s < SEQUENCES; s++)
            tokens[layer][s] = check_random_tokens(&shape, LONGEST, 3, &seed);
    for (int layer = 0; layer < LAYERS; layer++) /* one tile that nobody cares for */
        for (int i = 64 * KV_ROW; i < 128 * KV_ROW; i++)
            ((float *)tokens[layer][0].k)[i] /= 64;
}

static void free_tokens(void)
{
    for (int layer = 0; layer < LAYERS; layer++)
        check_free_tokens(tokens[layer], SEQUENCES);
}

WN_SUITE("plugins.end_to_end", {"writes tokens", write_tokens},
         {"rocket equals the reference", rocket_equals_reference},
         {"window equals the reference", window_equals_reference},
         {"chunks equal one shot", chunks_equal_one_shot},
         {"alone equals batch", alone_equals_batch},
         {"speculation equals sequential", speculation_equals_sequential},
         {"forks equal fresh sequences", forks_equal_fresh_sequences},
         {"turns keep what eviction loses", turns_keep_what_eviction_loses},
         {"composition", composition}, {"dense when told so", dense_when_told_so},
         {"frees tokens", free_tokens})
