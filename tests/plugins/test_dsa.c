/* test_dsa.c: the dsa plugin against its reference, indices exactly: every format and rotation,
 * lengths around index_topk, chunks, speculation, mixed steps, shared pages, stale memory, signs
 * and ties of scores, and layers that share a choice. */
#include "check_indexer.h"
#include "dsa_reference.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { SHARED = 16 }; /* first tokens that requests 2 and 3 have in common */

static check_plugin plugin;
static indexer_tokens tokens[INDEXER_LAYERS][INDEXER_REQUESTS];

static const indexer_shape usual = {
    .layers = 1, .heads = 3, .dim = 32, .topk = 10, .dtype = WN_BF16};
static const int32_t prompts[INDEXER_REQUESTS] = {60, 0, 33, 9};
static const int32_t ones[INDEXER_REQUESTS] = {1, 1, 1, 1};
static const int32_t generation[INDEXER_REQUESTS] = {0, 0, 0, 0};
static const int32_t only_first[INDEXER_REQUESTS] = {0, -1, -1, -1};

static indexer_host *open_host(const indexer_shape *shape, const check_setting *settings,
                               uint64_t seed)
{
    return indexer_host_create(shape, &plugin, settings, NULL,
                               (const indexer_tokens(*)[INDEXER_REQUESTS])tokens, seed);
}

static void must(const indexer_host *host, wn_status status)
{
    if (status != WN_OK)
        fprintf(stderr, "%s\n", host->error_text);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
}

/* ---------------------------------------------------------------- against the reference */

static const check_setting *find(const check_setting *settings, const char *name)
{
    for (; settings != NULL && settings->name != NULL; settings++)
        if (strcmp(settings->name, name) == 0)
            return settings;
    return NULL;
}

static double number(const check_setting *settings, const char *name)
{
    const check_setting *setting = find(settings, name);
    return setting != NULL ? setting->number : 0;
}

static int is_text(const check_setting *settings, const char *name, const char *text)
{
    const check_setting *setting = find(settings, name);
    return setting != NULL && strcmp(setting->text, text) == 0;
}

/* What the settings mean to the reference. */
static dsa_indexer indexer_of(const indexer_shape *shape, const check_setting *settings)
{
    dsa_indexer indexer = {
        .heads = (int32_t)shape->heads,
        .dim = (int32_t)shape->dim,
        .topk = (int32_t)shape->topk,
        .fp8 = find(settings, "indexer_k_dtype") == NULL,
        .int8 = is_text(settings, "indexer_k_dtype", "int8"),
        .raw = is_text(settings, "scale_format", "raw"),
        .hadamard = number(settings, "hadamard") != 0,
        .rope_dim = (int32_t)number(settings, "indexer_rope_dim"),
    };
    if (number(settings, "indexer_rope") != 0)
        indexer.rope =
            number(settings, "indexer_rope_interleave") != 0 ? DSA_INTERLEAVED : DSA_HALF_SPLIT;
    if (shape->frequency != NULL)
        indexer.rope_dim = 64;
    for (int32_t i = 0; i < indexer.rope_dim / 2; i++)
        indexer.frequency[i] =
            shape->frequency != NULL
                ? shape->frequency[i]
                : pow(number(settings, "indexer_rope_theta"), -2.0 * i / indexer.rope_dim);
    return indexer;
}

static void widen(const float *from, int64_t count, double *to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = from[i];
}

/* Every token that request b has had, on one layer. */
static void compare_request(const indexer_host *host, const dsa_indexer *indexer, uint32_t layer,
                            uint32_t b)
{
    static double keys[INDEXER_LONGEST * DSA_MAX_DIM], key_scale[INDEXER_LONGEST];
    const indexer_tokens *t = &host->tokens[layer][b];
    const int64_t width = indexer_host_width(host), heads = indexer->heads, dim = indexer->dim;
    int wrong = 0;
    for (int32_t i = 0; i < host->length[b]; i++) {
        double raw[DSA_MAX_DIM];
        widen(t->k + i * dim, dim, raw);
        key_scale[i] = dsa_reference_vector(indexer, raw, i, keys + i * dim);
    }
    for (int32_t i = 0; i < host->length[b]; i++) {
        double q[8 * DSA_MAX_DIM], weights[8];
        float scores[INDEXER_LONGEST];
        int32_t expected[INDEXER_LONGEST];
        const int32_t *row = host->chosen[layer][b] + i * width;
        if (row[0] == -1 && row[width - 1] == -1 && b == 3 && i < SHARED)
            continue; /* came with shared pages */
        widen(t->q + i * heads * dim, heads * dim, q);
        widen(t->weights + i * heads, heads, weights);
        dsa_reference_scores(indexer, q, weights, keys, key_scale, i + 1, scores);
        int32_t count = dsa_reference_choose(scores, i + 1, indexer->topk, expected);
        while (count < width)
            expected[count++] = -1;
        wrong += memcmp(row, expected, (size_t)width * sizeof *row) != 0;
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void compare(const indexer_host *host, const check_setting *settings)
{
    const dsa_indexer indexer = indexer_of(&host->shape, settings);
    for (uint32_t layer = 0; layer < host->shape.layers; layer++)
        for (uint32_t b = 0; b < INDEXER_REQUESTS && host->num_pools[layer] > 0; b++)
            compare_request(host, &indexer, layer, b);
}

/* Ragged prompts, single tokens, several at once, and a step of both phases. */
static indexer_host *play(const indexer_shape *shape, const check_setting *settings, uint64_t seed)
{
    static const int32_t several[INDEXER_REQUESTS] = {3, 1, 5, 2}, in_context[] = {0, 1, 0, 1};
    static const int32_t mixed[INDEXER_REQUESTS] = {4, 12, 1, 7};
    indexer_host *host = open_host(shape, settings, seed);
    must(host, indexer_host_step(host, prompts, NULL));
    must(host, indexer_host_step(host, ones, generation));
    must(host, indexer_host_step(host, several, generation));
    must(host, indexer_host_step(host, mixed, in_context));
    must(host, indexer_host_step(host, ones, generation));
    return host;
}

#define ROTATED(interleave)                                                                        \
    {"indexer_rope", 1, NULL}, {"indexer_rope_interleave", interleave, NULL},                      \
        {"indexer_rope_dim", 16, NULL},                                                            \
    {                                                                                              \
        "indexer_rope_theta", 100, NULL                                                            \
    }

static const check_setting half_split[] = {ROTATED(0), {NULL, 0, NULL}};
static const check_setting interleaved[] = {ROTATED(1), {NULL, 0, NULL}};
static const check_setting raw_scales[] = {{"scale_format", 0, "raw"}, {NULL, 0, NULL}};
static const check_setting hadamard_fp8[] = {{"hadamard", 1, NULL}, {NULL, 0, NULL}};
static const check_setting bf16_keys[] = {{"indexer_k_dtype", 0, "bf16"}, {NULL, 0, NULL}};
static const check_setting int8_keys[] = {{"indexer_k_dtype", 0, "int8"}, {NULL, 0, NULL}};
static const check_setting int8_hadamard[] = {
    {"indexer_k_dtype", 0, "int8"}, {"hadamard", 1, NULL}, {NULL, 0, NULL}};
static const check_setting everything[] = {{"hadamard", 1, NULL},
                                           {"indexer_max_chunk_size", 7, NULL},
                                           {"skip_indexer_for_short_seqs", 0, NULL},
                                           ROTATED(0),
                                           {NULL, 0, NULL}};
static const check_setting bf16_everything[] = {{"indexer_k_dtype", 0, "bf16"},
                                                {"hadamard", 1, NULL},
                                                {"indexer_max_chunk_size", 1, NULL},
                                                ROTATED(1),
                                                {NULL, 0, NULL}};

static void rows_equal_reference(void)
{
    static const check_setting *const all[] = {
        NULL,      half_split, interleaved,     raw_scales, hadamard_fp8,
        bf16_keys, everything, bf16_everything, int8_keys,  int8_hadamard};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        indexer_host *host = play(&usual, all[i], wn_test_seed());
        compare(host, all[i]);
        indexer_host_destroy(host);
    }
}

/* Without a theta of its own the indexer rotates as the model does, whatever its frequencies. */
static void model_frequencies(void)
{
    static const check_setting settings[] = {
        {"indexer_rope", 1, NULL}, {"indexer_rope_interleave", 1, NULL}, {NULL, 0, NULL}};
    float frequency[32];
    indexer_shape shape = usual;
    for (int i = 0; i < 32; i++)
        frequency[i] = 0.3f / (float)(i + 1);
    shape.frequency = frequency;
    shape.heads = 1; /* the tokens' numbers, seen as fewer and wider vectors */
    shape.dim = 64;
    indexer_tokens wide[1][INDEXER_REQUESTS];
    memcpy(wide, tokens, sizeof wide);
    for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
        wide[0][b].k = tokens[1][b].q;
    indexer_host *host = indexer_host_create(&shape, &plugin, settings, NULL,
                                             (const indexer_tokens(*)[INDEXER_REQUESTS])wide, 1);
    must(host, indexer_host_step(host, prompts, NULL));
    must(host, indexer_host_step(host, ones, generation));
    compare(host, settings);
    indexer_host_destroy(host);
}

static int same_choices(const indexer_host *a, const indexer_host *b, uint32_t request)
{
    return a->length[request] == b->length[request] &&
           memcmp(a->chosen[0][request], b->chosen[0][request],
                  (size_t)(a->length[request] * indexer_host_width(a)) * sizeof(int32_t)) == 0;
}

/* The error that no test with index_topk above the length can see. */
static void rotations_differ(void)
{
    indexer_host *half = play(&usual, half_split, wn_test_seed());
    indexer_host *inter = play(&usual, interleaved, wn_test_seed());
    CU_ASSERT(!same_choices(half, inter, 0));
    indexer_host_destroy(inter);
    indexer_host_destroy(half);
}

/* One request of n tokens and one more, n around index_topk and around a page. */
static void lengths_around_topk(void)
{
    static const int32_t lengths[] = {0, 1, 7, 8, 9, 10, 11, 12, 65};
    static const check_setting scored[] = {{"skip_indexer_for_short_seqs", 0, NULL},
                                           {NULL, 0, NULL}};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        const int32_t prompt[INDEXER_REQUESTS] = {lengths[i], -1, -1, -1};
        const int32_t one[INDEXER_REQUESTS] = {1, -1, -1, -1};
        indexer_host *skipping = open_host(&usual, NULL, 1), *not = open_host(&usual, scored, 2);
        must(skipping, indexer_host_step(skipping, prompt, NULL));
        must(skipping, indexer_host_step(skipping, one, only_first));
        must(not, indexer_host_step(not, prompt, NULL));
        must(not, indexer_host_step(not, one, only_first));
        compare(skipping, NULL);
        CU_ASSERT(same_choices(skipping, not, 0));
        for (int32_t t = 0; t < 10 && t <= lengths[i]; t++) /* all that it sees, then padding */
            for (int32_t j = 0; j < 10; j++)
                CU_ASSERT_EQUAL(skipping->chosen[0][0][t * 10 + j], j <= t ? j : -1);
        indexer_host_destroy(not );
        indexer_host_destroy(skipping);
    }
}

/* Keys are written while a request is short, one after another, and nothing else is. */
static void short_requests_write_keys(void)
{
    const int32_t five[INDEXER_REQUESTS] = {5, -1, -1, -1};
    indexer_host *host = open_host(&usual, NULL, wn_test_seed());
    must(host, indexer_host_step(host, five, NULL));
    const uint8_t *page = host->pages[0] + host->table[0][0] * host->page_stride;
    for (uint32_t place = 0; place < INDEXER_PAGE_TOKENS; place++) {
        int nan_codes = 0;
        for (uint32_t d = 0; d < usual.dim; d++)
            nan_codes += page[place * usual.dim + d] == 0x7f;
        CU_ASSERT_EQUAL(nan_codes, place < 5 ? 0 : (int)usual.dim);
    }
    const float *scales = (const float *)(const void *)(page + INDEXER_PAGE_TOKENS * usual.dim);
    for (int t = 0; t < 5; t++)
        CU_ASSERT(scales[t] > 0 && scales[t] < 1);
    indexer_host_destroy(host);
}

/* ---------------------------------------------------------------- what must be equal */

/* The first request's 60 tokens, some at a time. */
static indexer_host *in_pieces(const int32_t *pieces, const int32_t *phase)
{
    indexer_host *host = open_host(&usual, everything, wn_test_seed() + 7);
    for (; *pieces > 0; pieces++) {
        const int32_t count[INDEXER_REQUESTS] = {*pieces, -1, -1, -1};
        must(host, indexer_host_step(host, count, phase));
    }
    return host;
}

static void chunks_equal_one_shot(void)
{
    static const int32_t whole[] = {60, 0};
    indexer_host *once = in_pieces(whole, NULL);
    compare(once, everything);
    for (int32_t split = 1; split < 60; split++) {
        const int32_t pieces[] = {split, 60 - split, 0};
        indexer_host *host = in_pieces(pieces, NULL);
        CU_ASSERT(same_choices(once, host, 0));
        indexer_host_destroy(host);
    }
    indexer_host_destroy(once);
}

static void generation_equals_prompt(void)
{
    static const int32_t whole[] = {60, 0}, speculative[] = {3, 17, 5, 5, 5, 5, 5, 5, 5, 5, 0};
    int32_t one_by_one[61] = {0};
    for (int i = 0; i < 60; i++)
        one_by_one[i] = 1;
    indexer_host *prompt = in_pieces(whole, NULL);
    indexer_host *sequential = in_pieces(one_by_one, only_first);
    indexer_host *eager = in_pieces(speculative, only_first);
    CU_ASSERT(same_choices(prompt, sequential, 0));
    CU_ASSERT(same_choices(prompt, eager, 0));
    indexer_host_destroy(eager);
    indexer_host_destroy(sequential);
    indexer_host_destroy(prompt);
}

/* Rejected tokens are cut off and come again as others. */
static void truncation(void)
{
    const int32_t forty[INDEXER_REQUESTS] = {40, -1, -1, -1},
                  five[INDEXER_REQUESTS] = {5, -1, -1, -1};
    indexer_host *host = open_host(&usual, NULL, wn_test_seed());
    must(host, indexer_host_step(host, forty, NULL));
    host->tokens = (const indexer_tokens(*)[INDEXER_REQUESTS])tokens + 1; /* another story */
    must(host, indexer_host_step(host, five, only_first));
    host->tokens = (const indexer_tokens(*)[INDEXER_REQUESTS])tokens;
    host->length[0] -= 5;
    must(host, indexer_host_step(host, five, only_first));
    compare(host, NULL);
    indexer_host_destroy(host);
}

static void alone_equals_batch(void)
{
    indexer_host *together = open_host(&usual, NULL, wn_test_seed());
    must(together, indexer_host_step(together, prompts, NULL));
    must(together, indexer_host_step(together, ones, generation));
    for (uint32_t b = 0; b < INDEXER_REQUESTS; b++) {
        int32_t prompt[INDEXER_REQUESTS] = {-1, -1, -1, -1},
                one[INDEXER_REQUESTS] = {-1, -1, -1, -1};
        indexer_host *alone = open_host(&usual, NULL, wn_test_seed() + b);
        prompt[b] = prompts[b];
        one[b] = 1;
        must(alone, indexer_host_step(alone, prompt, NULL));
        must(alone, indexer_host_step(alone, one, generation));
        CU_ASSERT(same_choices(together, alone, b));
        indexer_host_destroy(alone);
    }
    indexer_host_destroy(together);
}

/* Where pages lie, and what lies in their unwritten slots, does not show. */
static void pages_do_not_matter(void)
{
    indexer_host *a = play(&usual, NULL, 1), *b = play(&usual, NULL, 2);
    CU_ASSERT(memcmp(a->table, b->table, sizeof a->table) != 0);
    for (uint32_t r = 0; r < INDEXER_REQUESTS; r++)
        CU_ASSERT(same_choices(a, b, r));
    indexer_host *clean = open_host(&usual, NULL, 3), *stale = open_host(&usual, NULL, 3);
    memset(clean->pages[0], 0, (size_t)clean->page_stride * INDEXER_REQUESTS * INDEXER_PAGES);
    must(clean, indexer_host_step(clean, prompts, NULL));
    must(stale, indexer_host_step(stale, prompts, NULL));
    for (uint32_t r = 0; r < INDEXER_REQUESTS; r++)
        CU_ASSERT(same_choices(clean, stale, r));
    indexer_host *all[] = {a, b, clean, stale};
    for (size_t i = 0; i < 4; i++)
        indexer_host_destroy(all[i]);
}

static void shared_prefix(void)
{
    const int32_t first[INDEXER_REQUESTS] = {-1, -1, SHARED, -1}, both[] = {-1, -1, 30, 40};
    indexer_host *host = open_host(&usual, NULL, wn_test_seed());
    must(host, indexer_host_step(host, first, NULL));
    indexer_host_share(host, 2, 3, SHARED);
    must(host, indexer_host_step(host, both, NULL));
    must(host, indexer_host_step(host, ones, generation));
    CU_ASSERT(host->table[2][0] == host->table[3][0] && host->table[2][2] != host->table[3][2]);
    compare(host, NULL);
    indexer_host_destroy(host);
}

/* Rows of the inputs that lie apart, and float32: the same vectors, the same choice. */
static void layout_of_inputs(void)
{
    indexer_host *plain = play(&usual, everything, 1);
    for (uint32_t i = 0; i < 3; i++) {
        indexer_shape shape = usual;
        shape.spread = i != 0;
        shape.dtype = i != 1 ? WN_F32 : WN_BF16;
        indexer_host *host = play(&shape, everything, 1);
        for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
            CU_ASSERT(same_choices(plain, host, b));
        indexer_host_destroy(host);
    }
    indexer_host_destroy(plain);
}

/* ---------------------------------------------------------------- scores */

/* The first request's weights, of all tokens, become `weight`; then its last row. */
static const int32_t *last_row_with_weight(float weight)
{
    static int32_t row[10];
    const int32_t prompt[INDEXER_REQUESTS] = {50, -1, -1, -1};
    const size_t n = INDEXER_LONGEST * usual.heads;
    float *kept = malloc(n * sizeof *kept);
    memcpy(kept, tokens[0][0].weights, n * sizeof *kept);
    for (size_t i = 0; i < n; i++)
        tokens[0][0].weights[i] = weight;
    indexer_host *host = open_host(&usual, NULL, wn_test_seed());
    must(host, indexer_host_step(host, prompt, NULL));
    compare(host, NULL);
    memcpy(row, host->chosen[0][0] + 49 * 10, sizeof row);
    indexer_host_destroy(host);
    memcpy(tokens[0][0].weights, kept, n * sizeof *kept);
    free(kept);
    return row;
}

static void signs_and_ties(void)
{
    int32_t by_value[10];
    const int32_t *zero = last_row_with_weight(0); /* all scores 0: the lowest slots */
    for (int32_t i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(zero[i], i);
    memcpy(by_value, last_row_with_weight(-0.0f), sizeof by_value);
    CU_ASSERT_EQUAL(by_value[9], 9);
    memcpy(by_value, last_row_with_weight(1), sizeof by_value);
    CU_ASSERT(memcmp(by_value, last_row_with_weight(-1), sizeof by_value) != 0);
}

/* All dot products negative: relu leaves 0 everywhere, whatever the weights. */
static void negative_products(void)
{
    const int32_t prompt[INDEXER_REQUESTS] = {50, -1, -1, -1};
    indexer_tokens *t = &tokens[0][0], kept = *t;
    uint64_t seed = wn_test_seed();
    *t = indexer_random_tokens(&usual, 1, &seed);
    for (size_t i = 0; i < INDEXER_LONGEST * usual.heads * usual.dim; i++)
        t->q[i] = fabsf(t->q[i]);
    for (size_t i = 0; i < INDEXER_LONGEST * usual.dim; i++)
        t->k[i] = -fabsf(t->k[i]);
    indexer_host *host = open_host(&usual, NULL, wn_test_seed());
    must(host, indexer_host_step(host, prompt, NULL));
    compare(host, NULL);
    CU_ASSERT_EQUAL(host->chosen[0][0][49 * 10 + 9], 9);
    indexer_host_destroy(host);
    indexer_free_tokens(t);
    *t = kept;
}

/* A NaN key is never chosen, and is reported when the instance ends. */
static void nan_is_reported(void)
{
    const int32_t prompt[INDEXER_REQUESTS] = {50, -1, -1, -1};
    const int logs = check_plugin_num_logs();
    float *k = tokens[0][0].k + 20 * usual.dim, kept = *k;
    *k = NAN;
    indexer_host *host = open_host(&usual, bf16_keys, wn_test_seed());
    must(host, indexer_host_step(host, prompt, NULL));
    for (int32_t i = 10 * 10; i < 50 * 10; i++) /* rows that are scored */
        CU_ASSERT(host->chosen[0][0][i] != 20);
    indexer_host_destroy(host);
    *k = kept;
    CU_ASSERT_EQUAL(check_plugin_num_logs(), logs + 1);
    CU_ASSERT_STRING_EQUAL(check_plugin_last_log(),
                           "2 dsa: 30 indexer scores were NaN and counted as -inf");
}

/* ---------------------------------------------------------------- a worked example */

enum { KEYS = 24, HEADS = 4, DIM = 128 };

/* The generator that the example's numbers come from: uniform in [-1/2, 1/2). */
static double draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 40) / (1 << 24) - 0.5;
}

static float to_bfloat16(double x)
{
    const float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    float rounded;
    memcpy(&rounded, &bits, sizeof rounded);
    return rounded;
}

/* Keys go through LayerNorm before they are rotated. */
static void normalise(float *x)
{
    double mean = 0, variance = 0;
    for (int i = 0; i < DIM; i++)
        mean += x[i] / (double)DIM;
    for (int i = 0; i < DIM; i++)
        variance += (x[i] - mean) * (x[i] - mean) / DIM;
    for (int i = 0; i < DIM; i++)
        x[i] = (float)((x[i] - mean) / sqrt(variance + 1e-6));
}

/* DeepSeek-V3.2's frequencies: 10000^(-i/32), stretched 40 times from pair 10 to pair 23 on. */
static void yarn(float *frequency)
{
    for (int i = 0; i < 32; i++) {
        const double plain = pow(1e4, -i / 32.0), ramp = fmin(fmax((i - 10) / 13.0, 0), 1);
        frequency[i] = (float)(plain / 40 * ramp + plain * (1 - ramp));
    }
}

/* 24 keys and a query at the last, weights of both signs, computed independently in Python with the
 * model's geometry: the six best in ascending order. */
static void worked_example(void)
{
    static const int32_t half[6] = {5, 6, 10, 12, 14, 22};
    float frequency[32], *const q = calloc(INDEXER_LONGEST, HEADS * DIM * sizeof *q);
    float *const k = calloc(INDEXER_LONGEST, DIM * sizeof *k);
    float *const weights = calloc(INDEXER_LONGEST, HEADS * sizeof *weights);
    const indexer_tokens example[1][INDEXER_REQUESTS] = {{{q, k, weights}}};
    const check_setting settings[] = {{"hadamard", 1, NULL},
                                      {"indexer_rope", 1, NULL},
                                      {"indexer_rope_interleave", 0, NULL},
                                      {NULL, 0, NULL}};
    const indexer_shape shape = {.layers = 1,
                                 .heads = HEADS,
                                 .dim = DIM,
                                 .topk = 6,
                                 .dtype = WN_F32,
                                 .frequency = frequency};
    const int32_t prompt[INDEXER_REQUESTS] = {KEYS, -1, -1, -1};
    uint64_t state = 2025;
    yarn(frequency);
    for (int i = 0; i < KEYS * DIM; i++)
        k[i] = to_bfloat16(4 * draw(&state));
    for (int i = 0; i < HEADS * DIM; i++)
        q[(KEYS - 1) * HEADS * DIM + i] = to_bfloat16(4 * draw(&state));
    for (int h = 0; h < HEADS; h++)
        weights[(KEYS - 1) * HEADS + h] = (float)(2 * draw(&state));
    for (int t = 0; t < KEYS; t++)
        normalise(k + t * DIM);
    indexer_host *host = indexer_host_create(&shape, &plugin, settings, NULL, example, 1);
    must(host, indexer_host_step(host, prompt, NULL));
    CU_ASSERT_EQUAL(memcmp(host->chosen[0][0] + (KEYS - 1) * 6, half, sizeof half), 0);
    indexer_host_destroy(host);
    free(weights);
    free(k);
    free(q);
}

/* ---------------------------------------------------------------- layers */

static const char *const roles[] = {"dense", "producer", "consumer", "full", "shared"};

static indexer_shape of_layers(void)
{
    indexer_shape shape = usual;
    shape.layers = 5;
    return shape;
}

static void consumers_follow_producers(void)
{
    const indexer_shape shape = of_layers();
    static const int32_t mixed[INDEXER_REQUESTS] = {4, 12, 1, 7}, in_context[] = {0, 1, 0, 1};
    indexer_host *host =
        indexer_host_create(&shape, &plugin, NULL, roles,
                            (const indexer_tokens(*)[INDEXER_REQUESTS])tokens, wn_test_seed());
    CU_ASSERT_EQUAL(host->num_pools[1] + host->num_pools[3], 2);
    CU_ASSERT_EQUAL(host->num_pools[0] + host->num_pools[2] + host->num_pools[4], 0);
    must(host, indexer_host_step(host, prompts, NULL));
    must(host, indexer_host_step(host, mixed, in_context));
    must(host, indexer_host_step(host, ones, generation));
    compare(host, NULL);
    for (uint32_t b = 0; b < INDEXER_REQUESTS; b++) {
        const size_t bytes = (size_t)(host->length[b] * indexer_host_width(host)) * sizeof(int32_t);
        CU_ASSERT_EQUAL(memcmp(host->chosen[1][b], host->chosen[2][b], bytes), 0);
        CU_ASSERT_EQUAL(memcmp(host->chosen[3][b], host->chosen[4][b], bytes), 0);
    }
    CU_ASSERT(memcmp(host->chosen[2][0], host->chosen[4][0], 60 * 10 * sizeof(int32_t)) != 0);
    indexer_host_destroy(host);
}

/* A consumer whose producer has not run in this step: an error, not old indices. */
static void consumer_without_choice(void)
{
    const indexer_shape shape = of_layers();
    indexer_host *host =
        indexer_host_create(&shape, &plugin, NULL, roles,
                            (const indexer_tokens(*)[INDEXER_REQUESTS])tokens, wn_test_seed());
    must(host, indexer_host_step(host, prompts, NULL));
    host->roles[3] = 0; /* the host leaves a producer out */
    CU_ASSERT_EQUAL(indexer_host_step(host, ones, generation), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "layer 3, whose choice this layer shares"));
    indexer_host_destroy(host);
}

static void lower_looks_for_the_producer(void)
{
    const indexer_shape shape = of_layers();
    indexer_host *host =
        indexer_host_create(&shape, &plugin, NULL, roles,
                            (const indexer_tokens(*)[INDEXER_REQUESTS])tokens, wn_test_seed());
    uint32_t claimed = 9;
    char why[100] = "";
    void *instance;
    must(host, plugin.config->lower(host->instance, 0, WN_PHASE_CONTEXT, &claimed, why, sizeof why,
                                    &host->error));
    CU_ASSERT_EQUAL(claimed, 0);
    CU_ASSERT_STRING_EQUAL(why, "dense in layer_roles");
    must(host, plugin.config->lower(host->instance, 2, WN_PHASE_GENERATION, &claimed, why,
                                    sizeof why, &host->error));
    CU_ASSERT_EQUAL(claimed, WN_ROLE_SELECT);
    must(host, plugin.config->create(&host->model, host->values, &instance, &host->error));
    CU_ASSERT_EQUAL(plugin.config->lower(instance, 2, WN_PHASE_CONTEXT, &claimed, why, sizeof why,
                                         &host->error),
                    WN_ECONFIG);
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "layer 2 is a consumer of layer 1"));
    plugin.config->destroy(instance);
    indexer_host_destroy(host);
}

/* ---------------------------------------------------------------- refusals */

static int is_refused(const check_setting *settings, const char *const *layer_roles,
                      const char *reason)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = 2,
                            .num_heads = 4,
                            .num_kv_heads = 1,
                            .head_dim = 16,
                            .max_position = 100};
    wn_value values[CHECK_MAX_FIELDS];
    indexer_values(&plugin, settings, layer_roles, 2, values);
    const char *reasons = check_plugin_reasons(&plugin, &model, values);
    return reason != NULL ? strstr(reasons, reason) != NULL : reasons[0] == '\0';
}

static void rules_are_checked(void)
{
    const check_setting no_pairs[] = {{"indexer_rope", 1, NULL}, {NULL, 0, NULL}};
    const check_setting theta_alone[] = {{"indexer_rope_theta", 1e4, NULL}, {NULL, 0, NULL}};
    const check_setting odd[] = {ROTATED(0), {"indexer_rope_dim", 7, NULL}, {NULL, 0, NULL}};
    const check_setting dim[] = {
        {"index_head_dim", 66, NULL}, {"hadamard", 1, NULL}, {NULL, 0, NULL}};
    const char *const good[] = {"full", "shared"}, *const orphan[] = {"consumer", "producer"};
    const char *const unknown[] = {"producer", "sparse"};
    CU_ASSERT(is_refused(NULL, NULL, NULL));
    CU_ASSERT(is_refused(half_split, good, NULL));
    CU_ASSERT(is_refused(no_pairs, NULL, "needs indexer_rope_interleave"));
    CU_ASSERT(is_refused(no_pairs, NULL, "needs indexer_rope_theta"));
    CU_ASSERT(is_refused(theta_alone, NULL, "nothing is rotated"));
    CU_ASSERT(is_refused(odd, NULL, "indexer_rope_dim must be even"));
    CU_ASSERT(is_refused(dim, NULL, "multiple of 4"));
    CU_ASSERT(is_refused(dim, NULL, "power of two"));
    CU_ASSERT(is_refused(NULL, orphan, "needs a producer before it"));
    CU_ASSERT(is_refused(NULL, unknown, "\"sparse\" is none of"));
}

static void roles_for_every_layer(void)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = 3,
                            .num_heads = 1,
                            .num_kv_heads = 1,
                            .head_dim = 16,
                            .max_position = 100};
    wn_value values[CHECK_MAX_FIELDS];
    indexer_values(&plugin, NULL, roles + 1, 2, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(&plugin, &model, values),
                           "layer_roles has 2 entries; the model has 3 layers, and each needs one");
}

/* Slots that another method moved cannot be followed. */
static void moved_tokens_are_refused(void)
{
    indexer_host *host = open_host(&usual, NULL, wn_test_seed());
    must(host, indexer_host_step(host, prompts, NULL));
    CU_ASSERT_EQUAL(indexer_host_observe(host, 0, 0, 0), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "slots 0 .. 59 changed"));
    CU_ASSERT_EQUAL(indexer_host_observe(host, 0, 0, 60), WN_OK); /* nothing new: nothing to do */
    indexer_host_destroy(host);
}

static void inputs_are_checked(void)
{
    const check_setting heads[] = {{"index_n_heads", 2, NULL}, {NULL, 0, NULL}};
    indexer_host *host = open_host(&usual, heads, wn_test_seed());
    CU_ASSERT_EQUAL(indexer_host_step(host, prompts, NULL), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "indexer.q is [102, 3, 32]"));
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "index_n_heads 2"));
    indexer_host_destroy(host);
}

/* Each stored format has a name of its own. */
static void formats_have_names(void)
{
    static const check_setting *const all[] = {
        NULL, raw_scales, hadamard_fp8, bf16_keys, bf16_everything, int8_keys, int8_hadamard};
    static const char *const names[] = {
        "dsa.indexer_keys.fp8.pow2",          "dsa.indexer_keys.fp8.raw",
        "dsa.indexer_keys.fp8.pow2.hadamard", "dsa.indexer_keys.bf16",
        "dsa.indexer_keys.bf16.hadamard",     "dsa.indexer_keys.int8",
        "dsa.indexer_keys.int8.hadamard"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        indexer_host *host = open_host(&usual, all[i], 1);
        CU_ASSERT_STRING_EQUAL(host->pool[0].layout, names[i]);
        CU_ASSERT_EQUAL(host->pool[0].bytes,
                        INDEXER_PAGE_TOKENS * (i == 3 || i == 4 ? 2 * 32u : 32u + 4));
        CU_ASSERT_EQUAL(host->bounds.step_bytes, 0);
        indexer_host_destroy(host);
    }
}

/* ---------------------------------------------------------------- */

static void open_plugin(void)
{
    uint64_t seed = wn_test_seed();
    plugin = check_plugin_open("dsa");
    CU_ASSERT(plugin.predictor != NULL && plugin.aux_pool != NULL && plugin.kernel_hook == NULL);
    CU_ASSERT_STRING_EQUAL(plugin.config->inputs[2], "indexer.weights");
    for (uint32_t layer = 0; layer < INDEXER_LAYERS; layer++)
        for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
            tokens[layer][b] = indexer_random_tokens(&usual, 3, &seed);
    memcpy(tokens[0][3].k, tokens[0][2].k, SHARED * usual.dim * sizeof(float));
}

static void close_plugin(void)
{
    for (uint32_t layer = 0; layer < INDEXER_LAYERS; layer++)
        for (uint32_t b = 0; b < INDEXER_REQUESTS; b++)
            indexer_free_tokens(&tokens[layer][b]);
    check_plugin_close(&plugin);
}

WN_SUITE("plugins.dsa", {"opens", open_plugin}, {"rules are checked", rules_are_checked},
         {"roles for every layer", roles_for_every_layer},
         {"formats have names", formats_have_names},
         {"rows equal the reference", rows_equal_reference},
         {"model frequencies", model_frequencies}, {"rotations differ", rotations_differ},
         {"lengths around index_topk", lengths_around_topk},
         {"short requests write keys", short_requests_write_keys},
         {"chunks equal one shot", chunks_equal_one_shot},
         {"generation equals prompt", generation_equals_prompt}, {"truncation", truncation},
         {"alone equals batch", alone_equals_batch}, {"pages do not matter", pages_do_not_matter},
         {"shared prefix", shared_prefix}, {"layout of inputs", layout_of_inputs},
         {"signs and ties", signs_and_ties}, {"negative products", negative_products},
         {"NaN is reported", nan_is_reported}, {"worked example", worked_example},
         {"consumers follow producers", consumers_follow_producers},
         {"a consumer without a choice", consumer_without_choice},
         {"lower looks for the producer", lower_looks_for_the_producer},
         {"moved tokens are refused", moved_tokens_are_refused},
         {"inputs are checked", inputs_are_checked}, {"closes", close_plugin})
