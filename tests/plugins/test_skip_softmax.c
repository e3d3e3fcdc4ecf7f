/* test_skip_softmax.c: the skip_softmax plugin: its thresholds, and what the attention kernels do
 * with them: which tiles go, what the output is then, what the counters say. */
#include "attention_reference.h"
#include "check_host.h"
#include "check_recording.h"
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

static check_host *make_host(const check_shape *shape, double factor, int64_t min_seq_len,
                             const check_tokens *tokens)
{
    const check_setting settings[] = {{"threshold_scale_factor", factor, NULL},
                                      {"min_seq_len", (double)min_seq_len, NULL},
                                      {NULL, 0, NULL}};
    return check_host_create(shape, &plugin, settings, tokens, wn_test_seed());
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

static uint32_t roles_of(const check_setting *settings, uint32_t phases, uint32_t phase, char *why)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model), .max_position = 1000};
    wn_value values[CHECK_MAX_FIELDS];
    void *instance;
    uint32_t roles = 99;
    check_plugin_values(&plugin, settings, values);
    values[0].phase_set &= phases;
    why[0] = '\0';
    CU_ASSERT_EQUAL_FATAL(plugin.config->create(&model, values, &instance, NULL), WN_OK);
    CU_ASSERT_EQUAL(plugin.config->lower(instance, 0, phase, &roles, why, 200, NULL), WN_OK);
    plugin.config->destroy(instance);
    return roles;
}

static void dense_phases_say_why(void)
{
    const check_setting off[] = {{"threshold_scale_factor", 0, NULL}, {NULL, 0, NULL}};
    const check_setting on[] = {{"threshold_scale_factor", 20, NULL}, {NULL, 0, NULL}};
    const check_setting high[] = {{"threshold_scale_factor", 1000, NULL}, {NULL, 0, NULL}};
    const check_setting late[] = {
        {"threshold_scale_factor", 20, NULL}, {"min_seq_len", 1001, NULL}, {NULL, 0, NULL}};
    char why[200];
    const int logs = check_plugin_num_logs();
    CU_ASSERT_EQUAL(roles_of(NULL, 3, WN_PHASE_CONTEXT, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "threshold_scale_factor is 0 or not set for the context phase");
    CU_ASSERT_EQUAL(roles_of(off, 3, WN_PHASE_GENERATION, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "threshold_scale_factor is 0 or not set for the generation phase");
    CU_ASSERT_EQUAL(roles_of(high, 3, WN_PHASE_CONTEXT, why), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "1 or more at every length"));
    CU_ASSERT_EQUAL(roles_of(late, 3, WN_PHASE_CONTEXT, why), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "min_seq_len 1001"));
    CU_ASSERT_EQUAL(check_plugin_num_logs(), logs + 2); /* of `late`, once per phase */
    CU_ASSERT_EQUAL(roles_of(on, 1u << WN_PHASE_CONTEXT, WN_PHASE_CONTEXT, why),
                    WN_ROLE_TILE_POLICY);
    CU_ASSERT_EQUAL(check_plugin_num_logs(), logs + 3);
    CU_ASSERT_STRING_EQUAL(check_plugin_last_log(),
                           "3 skip_softmax: context: requests of up to 20 tokens are dense: lambda "
                           "= 20 / length is 1 or more");
    CU_ASSERT_EQUAL(roles_of(on, 1u << WN_PHASE_CONTEXT, WN_PHASE_GENERATION, why), 0);
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

/* Of query head `head`: all keys [n, dim] of its KV head as doubles. */
static double *load(const check_host *host, uint32_t b, uint32_t head, int32_t n, int values)
{
    const check_shape *s = &host->shape;
    const float *from = values ? host->tokens[b].v : host->tokens[b].k;
    const size_t h = head / (s->num_heads / s->num_kv_heads), dim = s->head_dim;
    double *to = malloc((size_t)n * dim * sizeof *to);
    for (size_t t = 0; t < (size_t)n; t++)
        for (size_t c = 0; c < dim; c++)
            to[t * dim + c] = from[(t * s->num_kv_heads + h) * dim + c];
    return to;
}

/* One voting unit: heads [head, head + heads), the step's tokens [first, first + count) of request
 * b. Adds the reference's counts and compares the outputs. */
static void compare_unit(const check_host *host, uint32_t b, uint32_t head, uint32_t heads,
                         int32_t first, int32_t count, float threshold, const float *out,
                         wn_attend_counters *expected)
{
    const check_shape *s = &host->shape;
    const int32_t dim = (int32_t)s->head_dim, n = host->physical[b], old = n - host->q_len[b];
    const int32_t rows = (int32_t)heads * count;
    double *k = load(host, b, head, n, 0), *v = load(host, b, head, n, 1);
    double *q = malloc((size_t)rows * (size_t)dim * sizeof *q);
    double *score = malloc((size_t)rows * (size_t)n * sizeof *score);
    uint8_t *kept = calloc((size_t)n, 1), *attended = calloc((size_t)n, 1);
    for (int32_t r = 0; r < rows; r++) {
        const int32_t token = old + first + r / (int32_t)heads;
        const size_t from =
            ((size_t)token * s->num_heads + head + (uint32_t)r % heads) * s->head_dim;
        for (int32_t c = 0; c < dim; c++)
            q[r * dim + c] = host->tokens[b].q[from + (size_t)c];
        for (int32_t j = 0; j < n; j++) {
            double sum = 0;
            for (int32_t c = 0; c < dim; c++)
                sum += q[r * dim + c] * k[j * dim + c];
            score[r * n + j] = j <= token ? (double)host->model.softmax_scale * sum : -INFINITY;
        }
    }
    int64_t seen, skipped;
    skip_softmax_reference(score, rows, n, TILE, threshold, kept, &seen, &skipped);
    expected->tiles_seen += seen;
    expected->tiles_skipped += skipped;
    for (int32_t r = 0; r < rows; r++) {
        const int32_t i = first + r / (int32_t)heads;
        const size_t at =
            ((size_t)(host->q_begin[b] + i) * s->num_heads + head + (uint32_t)r % heads) *
            s->head_dim;
        double wanted[128], sparse[128], worst = 0;
        for (int32_t j = 0; j < n; j++)
            attended[j] = kept[j] && j <= old + i;
        attention_reference(q + r * dim, k, v, n, dim, host->model.softmax_scale, attended, wanted);
        for (int32_t c = 0; c < dim; c++) {
            sparse[c] = out[at + (size_t)c];
            worst = fmax(worst, fabs(sparse[c] - wanted[c]));
        }
        CU_ASSERT(worst < 1e-5);
        CU_ASSERT(attention_oracle_violation(q + r * dim, k, v, old + i + 1, dim,
                                             host->model.softmax_scale, attended, sparse) < 1e-5);
    }
    free(attended);
    free(kept);
    free(score);
    free(q);
    free(v);
    free(k);
}

/* This step's attention under the plugin's rule against the reference, unit by unit. Returns how
 * many tiles were skipped in all. */
static int64_t compare_step(check_host *host, double factor, int64_t min_seq_len)
{
    const check_shape *s = &host->shape;
    const uint32_t group = s->num_heads / s->num_kv_heads;
    const int by_kv_head = host->phase == WN_PHASE_GENERATION;
    const uint32_t units = by_kv_head ? s->num_kv_heads : s->num_heads;
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
        for (uint32_t unit = 0; unit < units; unit++)
            for (int32_t first = 0; first < host->q_len[b]; first += TILE) {
                const int32_t left = host->q_len[b] - first;
                compare_unit(host, b, by_kv_head ? unit * group : unit, by_kv_head ? group : 1,
                             first, left < TILE ? left : TILE, wanted, out, &expected[unit]);
            }
    }
    for (uint32_t unit = 0; unit < units; unit++) {
        CU_ASSERT_EQUAL(counters[unit].tiles_seen, expected[unit].tiles_seen);
        CU_ASSERT_EQUAL(counters[unit].tiles_skipped, expected[unit].tiles_skipped);
        skipped += counters[unit].tiles_skipped;
    }
    free(out);
    return skipped;
}

/* Ragged prompts, in two chunks, then generated tokens; a greater factor never skips less. */
static void equals_reference(void)
{
    static const double factors[] = {0.001, 0.1, 2, 30, 150};
    const int32_t first[] = {130, 0, 70}, second[] = {170, 64, 3}, several[] = {1, 2, 3};
    int64_t before[3] = {0, 0, 0};
    check_tokens tokens[BATCH];
    make_tokens(tokens);
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
        const int32_t *steps[] = {first, second, several};
        check_host *host = make_host(&random_shape, factors[i], 65, tokens);
        for (int step = 0; step < 3; step++) {
            const uint32_t phase = step < 2 ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, phase, steps[step]), WN_OK);
            const int64_t skipped = compare_step(host, factors[i], 65);
            if (factors[i] < 60) /* above, short requests turn dense */
                CU_ASSERT(skipped >= before[step]);
            before[step] = skipped;
        }
        check_host_destroy(host);
    }
    CU_ASSERT(before[1] > 0);
    check_free_tokens(tokens, BATCH);
}

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
         {"dense phases say why", dense_phases_say_why}, {"dense is bit-exact", dense_is_bit_exact},
         {"equals the reference", equals_reference}, {"recorded trace", recorded_trace},
         {"the dense reference is right", dense_reference_is_right}, {"closes", close_plugin})
