/* test_skip_softmax.c: the skip_softmax plugin: its thresholds, and what the attention kernels do
 * with them: which tiles go, what the output is then, what the counters say. */
#include "attention_reference.h"
#include "check_host.h"
#include "check_recording.h"
#include "check_tiles.h"
#include "skip_softmax_reference.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { BATCH = 3, TILE = 64 };

static check_plugin plugin;

static const check_shape random_shape = {.num_heads = 6,
                                         .num_kv_heads = 2,
                                         .head_dim = 16,
                                         .dtype = WN_F32,
                                         .batch = BATCH,
                                         .tokens_per_page = 16,
                                         .max_length = 420,
                                         .max_step_tokens = 800};

static check_host *make_two_pass_host(const check_shape *shape, double factor, int64_t min_seq_len,
                                      int two_pass, const check_tokens *tokens)
{
    const check_setting settings[] = {{"threshold_scale_factor", factor, NULL},
                                      {"min_seq_len", (double)min_seq_len, NULL},
                                      {"two_pass", two_pass, NULL},
                                      {NULL, 0, NULL}};
    return check_host_create(shape, &plugin, settings, tokens, wn_test_seed());
}

static check_host *make_host(const check_shape *shape, double factor, int64_t min_seq_len,
                             const check_tokens *tokens)
{
    return make_two_pass_host(shape, factor, min_seq_len, 0, tokens);
}

/* Random queries and keys of a size that makes softmax peaked: tiles differ in weight. */
static void make_tokens(check_tokens *tokens)
{
    uint64_t seed = wn_test_seed() + 1;
    for (uint32_t b = 0; b < BATCH; b++)
        tokens[b] = check_random_tokens(&random_shape, 420, 3, &seed);
}

/* The plugin's rule for this step. thresholds [batch]. */
static wn_tile_policy ask_policy(check_host *host, float *thresholds)
{
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy), .log_threshold = thresholds};
    const wn_step_args args = check_host_args(host);
    memset(thresholds, 0xa5, host->shape.batch * sizeof *thresholds);
    CU_ASSERT_EQUAL_FATAL(plugin.kernel_hook->tile_policy(host->instance, &args, &policy), WN_OK);
    CU_ASSERT_EQUAL(policy.kind, WN_TILE_SKIP_SOFTMAX);
    CU_ASSERT(policy.tile_q == TILE && policy.tile_k == TILE);
    return policy;
}

static void thresholds(void)
{
    const int32_t lengths[] = {1, 100, 400};
    check_tokens tokens[BATCH];
    make_tokens(tokens);
    for (int phase = 0; phase < WN_PHASE_COUNT; phase++) {
        check_host *host = make_host(&random_shape, 20, 101, tokens);
        float threshold[BATCH];
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, (uint32_t)phase, lengths), WN_OK);
        ask_policy(host, threshold);
        CU_ASSERT(threshold[0] == -INFINITY && threshold[1] == -INFINITY);
        CU_ASSERT_EQUAL(threshold[2], (float)log(20.0 / 400));
        check_host_destroy(host);
        host = make_host(&random_shape, 20, 100, tokens);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, (uint32_t)phase, lengths), WN_OK);
        ask_policy(host, threshold); /* not shorter than min_seq_len */
        CU_ASSERT_EQUAL(threshold[1], (float)log(0.2));
        check_host_destroy(host);
        host = make_host(&random_shape, 100, 0, tokens);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, (uint32_t)phase, lengths), WN_OK);
        ask_policy(host, threshold); /* lambda = 1 is dense */
        CU_ASSERT(threshold[0] == -INFINITY && threshold[1] == -INFINITY);
        CU_ASSERT_EQUAL(threshold[2], (float)log(0.25));
        check_host_destroy(host);
    }
    check_free_tokens(tokens, BATCH);
}

/* lambda <= 0 and >= 1: not a bit of the output differs from attention without a rule. */
static void dense_is_bit_exact(void)
{
    static const double factors[] = {0, 420, 1e9};
    const int32_t lengths[] = {130, 0, 300}, one[] = {1, 1, 1};
    const size_t row = random_shape.num_heads * random_shape.head_dim;
    float *ruled = malloc(800 * row * sizeof *ruled), *plain = malloc(800 * row * sizeof *plain);
    check_tokens tokens[BATCH];
    make_tokens(tokens);
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
        check_host *host = make_host(&random_shape, factors[i], 0, tokens);
        for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
            float threshold[BATCH];
            wn_attend_counters counters[6] = {{0}};
            const int32_t *count = phase == WN_PHASE_CONTEXT ? lengths : one;
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, phase, count), WN_OK);
            const wn_tile_policy policy = ask_policy(host, threshold);
            memset(ruled, 1, 800 * row * sizeof *ruled);
            memset(plain, 1, 800 * row * sizeof *plain);
            CU_ASSERT_EQUAL(check_host_attend(host, NULL, &policy, ruled, counters), WN_OK);
            CU_ASSERT_EQUAL(check_host_attend(host, NULL, NULL, plain, NULL), WN_OK);
            CU_ASSERT_EQUAL(memcmp(ruled, plain, 800 * row * sizeof *ruled), 0);
            CU_ASSERT(counters[0].tiles_seen > 0 && counters[0].tiles_skipped == 0);
        }
        check_host_destroy(host);
    }
    check_free_tokens(tokens, BATCH);
    free(plain);
    free(ruled);
}

/* One voting unit: heads [head, head + heads), the step's tokens [first, first + count) of request
 * b. */
static check_tiles make_unit(const check_host *host, uint32_t b, uint32_t head, uint32_t heads,
                             int32_t first, int32_t count, const float *out)
{
    const check_shape *s = &host->shape;
    const size_t dim = s->head_dim, kv_head = head / (s->num_heads / s->num_kv_heads);
    const check_tokens *tokens = &host->tokens[b];
    const int32_t n = host->physical[b], old = n - host->q_len[b];
    check_tiles unit = check_tiles_make((int32_t)heads * count, n, (int32_t)dim);
    unit.scale = (double)host->model.softmax_scale;
    for (int32_t r = 0; r < unit.rows; r++) {
        const int32_t i = first + r / (int32_t)heads;
        const size_t h = head + (uint32_t)r % heads;
        unit.last[r] = old + i;
        unit.out[r] = out + ((size_t)(host->q_begin[b] + i) * s->num_heads + h) * dim;
        for (size_t c = 0; c < dim; c++)
            unit.q[(size_t)r * dim + c] =
                tokens->q[((size_t)(old + i) * s->num_heads + h) * dim + c];
    }
    for (size_t j = 0; j < (size_t)n; j++)
        for (size_t c = 0; c < dim; c++) {
            const size_t from = (j * s->num_kv_heads + kv_head) * dim + c;
            unit.k[j * dim + c] = tokens->k[from];
            unit.v[j * dim + c] = tokens->v[from];
        }
    return unit;
}

/* All units of request b; expected [units]. */
static void compare_request(const check_host *host, uint32_t b, float threshold, uint32_t flags,
                            const float *out, wn_attend_counters *expected)
{
    const check_shape *s = &host->shape;
    const int by_kv_head = host->phase == WN_PHASE_GENERATION;
    const uint32_t heads = by_kv_head ? s->num_heads / s->num_kv_heads : 1;
    const int32_t step = by_kv_head ? host->q_len[b] : TILE;
    for (uint32_t head = 0; head < s->num_heads; head += heads)
        for (int32_t first = 0; first < host->q_len[b]; first += step) {
            const int32_t left = host->q_len[b] - first;
            check_tiles unit =
                make_unit(host, b, head, heads, first, left < step ? left : step, out);
            unit.threshold = threshold;
            unit.two_pass = (flags & WN_TILE_TWO_PASS) != 0;
            check_tiles_compare(&unit, &expected[head / heads]);
            check_tiles_free(&unit);
        }
}

/* This step's attention under the plugin's rule against the reference, unit by unit. Returns how
 * many tiles were skipped in all. */
static int64_t compare_step(check_host *host, double factor, int64_t min_seq_len)
{
    const check_shape *s = &host->shape;
    float threshold[8];
    wn_attend_counters counters[16] = {{0}}, expected[16] = {{0}};
    float *out = malloc((size_t)s->max_step_tokens * s->num_heads * s->head_dim * sizeof *out);
    int64_t skipped = 0;
    const wn_tile_policy policy = ask_policy(host, threshold);
    CU_ASSERT_EQUAL_FATAL(check_host_attend(host, NULL, &policy, out, counters), WN_OK);
    for (uint32_t b = 0; b < s->batch; b++) {
        const float wanted =
            skip_softmax_reference_threshold(factor, min_seq_len, host->physical[b]);
        CU_ASSERT_EQUAL(threshold[b], wanted);
        compare_request(host, b, wanted, policy.flags, out, expected);
    }
    for (uint32_t unit = 0; unit < 16; unit++) {
        CU_ASSERT_EQUAL(counters[unit].tiles_seen, expected[unit].tiles_seen);
        CU_ASSERT_EQUAL(counters[unit].tiles_skipped, expected[unit].tiles_skipped);
        skipped += counters[unit].tiles_skipped;
    }
    free(out);
    return skipped;
}

/* Ragged prompts, in two chunks, then generated tokens; a greater factor never skips less, and two
 * passes never less than one. */
static void equals_reference(void)
{
    static const double factors[] = {0.001, 0.1, 2, 30, 150};
    const int32_t first[] = {130, 0, 70}, second[] = {170, 64, 3}, several[] = {1, 2, 3};
    const int32_t *steps[] = {first, second, several};
    int64_t before[2][3] = {{0}}, more = 0;
    check_tokens tokens[BATCH];
    make_tokens(tokens);
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        for (int two_pass = 0; two_pass < 2; two_pass++) {
            check_host *host = make_two_pass_host(&random_shape, factors[i], 65, two_pass, tokens);
            for (int step = 0; step < 3; step++) {
                const uint32_t phase = step < 2 ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, phase, steps[step]), WN_OK);
                if (two_pass && phase == WN_PHASE_CONTEXT)
                    continue; /* is the same as without */
                const int64_t skipped = compare_step(host, factors[i], 65);
                if (factors[i] < 60) /* above, short requests turn dense */
                    CU_ASSERT(skipped >= before[two_pass][step]);
                before[two_pass][step] = skipped;
            }
            check_host_destroy(host);
            if (two_pass) {
                CU_ASSERT(before[1][2] >= before[0][2]);
                more += before[1][2] - before[0][2];
            }
        }
    CU_ASSERT(before[0][1] > 0);
    CU_ASSERT(more > 0);
    check_free_tokens(tokens, BATCH);
}

/* ---------------------------------------------------------------- what the rule promises */

/* On random scores: a lower threshold keeps more, tile by tile; two passes keep less, and the same
 * whatever the order of the tiles, and so for any split of the keys. */
static void masks(void)
{
    enum { ROWS = 3, N = 512, TILE_KEYS = 32, TILES = N / TILE_KEYS };
    uint64_t seed = wn_test_seed();
    double *score = malloc(ROWS * N * sizeof *score), *shuffled = malloc(ROWS * N * sizeof *score);
    int64_t differs = 0;
    for (int round = 0; round < 100; round++) {
        uint8_t kept[2][N], lower[2][N], other[N];
        int32_t order[TILES];
        int64_t seen, skipped;
        for (int i = 0; i < ROWS * N; i++)
            score[i] = 3 * wn_random_signed(&seed) + 9 * (i / TILE_KEYS % 5 == round % 5);
        for (int32_t t = 0; t < TILES; t++)
            order[t] = t;
        for (uint32_t t = TILES - 1; t > 0; t--) {
            const uint32_t u = wn_random_below(&seed, t + 1);
            const int32_t swap = order[t];
            order[t] = order[u];
            order[u] = swap;
        }
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < N; j++)
                shuffled[r * N + j] =
                    score[r * N + order[j / TILE_KEYS] * TILE_KEYS + j % TILE_KEYS];
        for (int two = 0; two < 2; two++) {
            skip_softmax_reference(score, ROWS, N, TILE_KEYS, -4, two, kept[two], &seen, &skipped);
            CU_ASSERT_EQUAL(seen, TILES);
            skip_softmax_reference(score, ROWS, N, TILE_KEYS, -6, two, lower[two], &seen, &skipped);
            CU_ASSERT_EQUAL(seen, TILES);
            skip_softmax_reference(shuffled, ROWS, N, TILE_KEYS, -4, two, other, &seen, &skipped);
            for (int j = 0; j < N; j++) {
                CU_ASSERT(kept[two][j] <= lower[two][j]);
                CU_ASSERT(kept[two][j] <= kept[0][j]);
                const int same =
                    other[j] == kept[two][order[j / TILE_KEYS] * TILE_KEYS + j % TILE_KEYS];
                CU_ASSERT(same || two == 0);
                differs += !same;
            }
        }
    }
    CU_ASSERT(differs > 0); /* one pass does depend on the order */
    free(shuffled);
    free(score);
}

/* The same of the kernel: keys and values change places by tiles, and the query, which is last and
 * sees them all, gets the same output and leaves out as many tiles. */
static void two_passes_ignore_order(void)
{
    enum { TILES = 5, LENGTH = TILES * TILE + 1, TURNS = 6 };
    const check_shape shape = {.num_heads = 6,
                               .num_kv_heads = 2,
                               .head_dim = 16,
                               .dtype = WN_F32,
                               .batch = 1,
                               .tokens_per_page = 16,
                               .max_length = LENGTH,
                               .max_step_tokens = LENGTH};
    const size_t tile = TILE * 2 * 16;
    const int32_t prompt = LENGTH - 1, one = 1;
    uint64_t seed = wn_test_seed() + 2;
    check_tokens tokens = check_random_tokens(&shape, LENGTH, 3, &seed);
    float *k = (float *)tokens.k, *v = (float *)tokens.v, *swap = malloc(tile * sizeof *swap);
    float out[2][6 * 16], first_out[6 * 16] = {0};
    int64_t skipped[2], first_skipped = 0, one_pass_changes = 0, before = -1;
    for (size_t i = 0; i < TILES * tile; i++) /* tiles of unequal weight */
        k[i] *= (float)(i / tile + 1) / TILES;
    for (int turn = 0; turn < TURNS; turn++) {
        for (int two = 0; two < 2; two++) {
            check_host *host = make_two_pass_host(&shape, 2, 0, two, &tokens);
            wn_attend_counters counters[2] = {{0}};
            float threshold;
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &prompt), WN_OK);
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
            const wn_tile_policy policy = ask_policy(host, &threshold);
            CU_ASSERT_EQUAL(check_host_attend(host, NULL, &policy, out[two], counters), WN_OK);
            skipped[two] = counters[0].tiles_skipped + counters[1].tiles_skipped;
            check_host_destroy(host);
        }
        if (turn == 0) {
            first_skipped = skipped[1];
            memcpy(first_out, out[1], sizeof first_out);
        }
        CU_ASSERT_EQUAL(skipped[1], first_skipped);
        CU_ASSERT(skipped[1] >= skipped[0]);
        for (int i = 0; i < 6 * 16; i++)
            CU_ASSERT_DOUBLE_EQUAL(out[1][i], first_out[i], 1e-6);
        one_pass_changes += before >= 0 && skipped[0] != before;
        before = skipped[0];
        const size_t a = (size_t)turn % (TILES - 1) * tile, b = (TILES - 1) * tile;
        for (float *data = k; data != NULL; data = data == k ? v : NULL) {
            memcpy(swap, data + a, tile * sizeof *swap);
            memcpy(data + a, data + b, tile * sizeof *swap);
            memcpy(data + b, swap, tile * sizeof *swap);
        }
    }
    CU_ASSERT(first_skipped > 0 && one_pass_changes > 0);
    free(swap);
    check_free_tokens(&tokens, 1);
}

/* Tokens whose keys and queries are 0 or along one channel each: key j along key_channel[j / tile],
 * query head h along head_channel[h], with a score of 10 where both are the same. */
static check_tokens make_plain_tokens(const check_shape *shape, int32_t tile,
                                      const int *key_channel, const int *head_channel)
{
    const size_t n = shape->max_length, dim = shape->head_dim, heads = shape->num_heads;
    uint64_t seed = wn_test_seed();
    check_tokens tokens = check_random_tokens(shape, (int32_t)n, 1, &seed);
    float *q = (float *)tokens.q, *k = (float *)tokens.k;
    memset(q, 0, n * heads * dim * sizeof *q);
    memset(k, 0, n * dim * sizeof *k);
    for (size_t j = 0; j < n; j++) {
        if (key_channel[j / (size_t)tile] >= 0)
            k[j * dim + (size_t)key_channel[j / (size_t)tile]] = 10;
        for (size_t h = 0; h < heads; h++)
            q[(j * heads + h) * dim + (size_t)head_channel[h]] = 1;
    }
    return tokens;
}

/* One head that needs a tile keeps it for its whole group. */
static void a_group_votes_together(void)
{
    static const int keys[] = {0, 1, 2, 0};
    static const struct {
        int head[3];
        int64_t one_pass, two_pass;
    } cases[] = {{{0, 0, 0}, 2, 2}, /* tiles 1 and 2 are nobody's */
                 {{0, 0, 2}, 0, 1}, /* tile 1 goes only when 2 is known to come */
                 {{0, 1, 2}, 0, 0},
                 {{2, 2, 2}, 1, 3}}; /* only two passes can do without the first */
    const check_shape shape = {.num_heads = 3,
                               .num_kv_heads = 1,
                               .head_dim = 4,
                               .dtype = WN_F32,
                               .batch = 1,
                               .tokens_per_page = 16,
                               .max_length = 193,
                               .max_step_tokens = 193,
                               .softmax_scale = 1};
    const int32_t prompt = 192, one = 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int two = 0; two < 2; two++) {
            check_tokens tokens = make_plain_tokens(&shape, TILE, keys, cases[i].head);
            check_host *host = make_two_pass_host(&shape, 1, 0, two, &tokens);
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &prompt), WN_OK);
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
            CU_ASSERT_EQUAL(compare_step(host, 1, 0), two ? cases[i].two_pass : cases[i].one_pass);
            check_host_destroy(host);
            check_free_tokens(&tokens, 1);
        }
}

/* Tiles of a prompt of `count` tokens behind `old` ones, with tiles of 16 by 16. */
static wn_attend_counters count_tiles(const check_shape *shape, const check_tokens *tokens,
                                      int32_t old, int32_t count, float threshold)
{
    check_host *host = make_host(shape, 1, 0, tokens);
    wn_attend_counters counters[1] = {{0}};
    float *out = malloc((size_t)count * shape->head_dim * sizeof *out);
    wn_tile_policy policy = {.struct_size = WN_SIZEOF(wn_tile_policy),
                             .kind = WN_TILE_SKIP_SOFTMAX,
                             .tile_q = 16,
                             .tile_k = 16,
                             .log_threshold = &threshold};
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &old), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &count), WN_OK);
    CU_ASSERT_EQUAL(check_host_attend(host, NULL, &policy, out, counters), WN_OK);
    free(out);
    check_host_destroy(host);
    return counters[0];
}

/* A last band of 12 rows leaves out what one of 16 leaves out: rows that are not there do not vote.
 * (Where a band is filled up with rows of -inf and those vote, it keeps all of its tiles.) */
static void padding_does_not_vote(void)
{
    static const int keys[] = {0, -1, -1, 0}, head[] = {0};
    const check_shape shape = {.num_heads = 1,
                               .num_kv_heads = 1,
                               .head_dim = 4,
                               .dtype = WN_F32,
                               .batch = 1,
                               .tokens_per_page = 16,
                               .max_length = 64,
                               .max_step_tokens = 64,
                               .softmax_scale = 1};
    check_tokens tokens = make_plain_tokens(&shape, 16, keys, head);
    for (int32_t rows = 1; rows <= 16; rows++) {
        const wn_attend_counters band = count_tiles(&shape, &tokens, 48, rows, -5);
        CU_ASSERT(band.tiles_seen == 4 && band.tiles_skipped == 2);
        const wn_attend_counters all = count_tiles(&shape, &tokens, 0, 48 + rows, -5);
        CU_ASSERT(all.tiles_seen == 10 && all.tiles_skipped == 0 + 1 + 2 + 2);
    }
    check_free_tokens(&tokens, 1);
}

/* nr bands of rows and nc of keys, causal: nr (2 nc - nr + 1) / 2, whatever the threshold. */
static void tile_counts(void)
{
    const check_shape shape = {.num_heads = 1,
                               .num_kv_heads = 1,
                               .head_dim = 4,
                               .dtype = WN_F32,
                               .batch = 1,
                               .tokens_per_page = 16,
                               .max_length = 128,
                               .max_step_tokens = 128};
    uint64_t seed = wn_test_seed();
    check_tokens tokens = check_random_tokens(&shape, 128, 3, &seed);
    int64_t before = 0;
    for (int64_t nr = 1; nr <= 8; nr++)
        for (int64_t nc = nr; nc <= 8; nc++) {
            const float thresholds[] = {-INFINITY, -9, -1, -0.01f};
            before = 0;
            for (int i = 0; i < 4; i++) {
                const wn_attend_counters tiles = count_tiles(
                    &shape, &tokens, (int32_t)(nc - nr) * 16, (int32_t)nr * 16, thresholds[i]);
                CU_ASSERT_EQUAL(tiles.tiles_seen, nr * (2 * nc - nr + 1) / 2);
                CU_ASSERT(tiles.tiles_skipped >= before);
                before = tiles.tiles_skipped;
            }
        }
    CU_ASSERT(before > 0);
    check_free_tokens(&tokens, 1);
}

/* ---------------------------------------------------------------- recorded attention */

/* Queries, keys and values of a language model on text (tests/data/README.md). */
static void recorded_trace(void)
{
    static const double factors[] = {0.5, 20};
    check_recording trace = check_recording_open("sample_1k");
    int64_t q_shape[3], k_shape[3], total[2] = {0, 0};
    const check_tokens tokens = {check_recording_floats(&trace, "layers.17.q", q_shape),
                                 check_recording_floats(&trace, "layers.17.k", k_shape),
                                 check_recording_floats(&trace, "layers.17.v", k_shape)};
    const check_shape shape = {.num_heads = (uint32_t)q_shape[1],
                               .num_kv_heads = (uint32_t)k_shape[1],
                               .head_dim = (uint32_t)q_shape[2],
                               .dtype = WN_F32,
                               .batch = 1,
                               .tokens_per_page = 32,
                               .max_length = (uint32_t)q_shape[0],
                               .max_step_tokens = (uint32_t)q_shape[0],
                               .softmax_scale =
                                   (float)check_recording_number(&trace, "softmax_scale")};
    for (size_t i = 0; i < 2; i++) {
        const int32_t most = 800, last = 100, one = 1;
        check_host *host = make_host(&shape, factors[i], 0, &tokens);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &most), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &last), WN_OK);
        total[i] += compare_step(host, factors[i], 0);
        for (int step = 0; step < 8; step++) {
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
            total[i] += compare_step(host, factors[i], 0);
        }
        check_host_destroy(host);
    }
    CU_ASSERT(total[1] > total[0]);
    check_free_tokens((check_tokens[]){tokens}, 1);
    check_recording_close(&trace);
}

/* The dense reference that all this rests on, against values computed elsewhere in float64. */
static void dense_reference_is_right(void)
{
    check_recording trace = check_recording_open("sample_1k");
    check_recording expected = check_recording_open("sample_1k.expected");
    int64_t q_shape[3], k_shape[3], shape[3];
    float *q = check_recording_floats(&trace, "layers.17.q", q_shape);
    float *k = check_recording_floats(&trace, "layers.17.k", k_shape);
    float *v = check_recording_floats(&trace, "layers.17.v", k_shape);
    const int32_t *rows = check_recording_tensor(&expected, "rows", shape);
    const int64_t num_rows = shape[0], heads = q_shape[1], kv_heads = k_shape[1], dim = q_shape[2];
    const uint8_t *lse = check_recording_tensor(&expected, "layers.17.lse", shape);
    double *keys = malloc((size_t)(q_shape[0] * dim) * sizeof *keys);
    double *values = malloc((size_t)(q_shape[0] * dim) * sizeof *values);
    for (int64_t i = 0; i < num_rows; i += 5)
        for (int64_t h = 0; h < heads; h++) {
            double query[128], out[128], wanted;
            for (int64_t c = 0; c < dim; c++)
                query[c] = q[(rows[i] * heads + h) * dim + c];
            for (int64_t j = 0; j < (rows[i] + 1) * dim; j++) {
                const int64_t from = (j / dim * kv_heads + h / (heads / kv_heads)) * dim + j % dim;
                keys[j] = k[from];
                values[j] = v[from];
            }
            memcpy(&wanted, lse + (size_t)(i * heads + h) * sizeof wanted, sizeof wanted);
            CU_ASSERT_DOUBLE_EQUAL(attention_reference(query, keys, values, rows[i] + 1,
                                                       (int32_t)dim, 0.125, NULL, out),
                                   wanted, 1e-9);
            const uint8_t *out_bytes = check_recording_tensor(&expected, "layers.17.out", shape);
            for (int64_t c = 0; c < dim; c++) {
                memcpy(&wanted, out_bytes + (size_t)((i * heads + h) * dim + c) * sizeof wanted,
                       sizeof wanted);
                CU_ASSERT_DOUBLE_EQUAL(out[c], wanted, 1e-9);
            }
        }
    free(values);
    free(keys);
    free(v);
    free(k);
    free(q);
    check_recording_close(&expected);
    check_recording_close(&trace);
}

static void open_plugin(void)
{
    plugin = check_plugin_open("skip_softmax");
    CU_ASSERT(plugin.predictor == NULL && plugin.aux_pool == NULL && plugin.kernel_hook != NULL);
}

static void close_plugin(void)
{
    check_plugin_close(&plugin);
}

WN_SUITE("plugins.skip_softmax", {"opens", open_plugin}, {"thresholds", thresholds},
         {"dense is bit-exact", dense_is_bit_exact}, {"equals the reference", equals_reference},
         {"masks", masks}, {"two passes ignore order", two_passes_ignore_order},
         {"a group votes together", a_group_votes_together},
         {"padding does not vote", padding_does_not_vote}, {"tile counts", tile_counts},
         {"recorded trace", recorded_trace},
         {"the dense reference is right", dense_reference_is_right}, {"closes", close_plugin})
