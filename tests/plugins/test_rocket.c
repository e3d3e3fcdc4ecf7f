/* test_rocket.c: the rocket plugin against its reference, indices exactly: rules between keys, both
 * stages on random data, ties, NaN, ragged batches, chunks, truncation, and a recorded trace. What
 * belongs to one part of it is in test_rocket_PART.c. */
#include "attention_reference.h"
#include "check_recording.h"
#include "check_rocket.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static void rules_are_checked(void)
{
    const wn_model model = {
        .struct_size = WN_SIZEOF(wn_model), .num_heads = 6, .num_kv_heads = 2, .head_dim = 8};
    wn_value values[CHECK_MAX_FIELDS];
    check_plugin_values(rocket_plugin(), NULL, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(rocket_plugin(), &model, values), "");
    const check_setting bad[] = {{"kernel_size", 62, NULL},
                                 {"prompt_budget", 32, NULL},
                                 {"local_landmarks", 65, NULL},
                                 {NULL, 0, NULL}};
    check_plugin_values(rocket_plugin(), bad, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(rocket_plugin(), &model, values),
        "kernel_size is 62; it must be odd, to be centred on a token\n"
        "prompt_budget is 32; it must be above window_size, 32, which is part of it\n"
        "local_landmarks is 65; it must be at most topk, 64, which it is part of");
    const check_setting wide[] = {
        {"window_size", 1366, NULL}, {"prompt_budget", 4000, NULL}, {NULL, 0, NULL}};
    check_plugin_values(rocket_plugin(), wide, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(rocket_plugin(), &model, values),
        "window_size is 1366; with 3 query heads per KV head it can be 1365 at most");
}

static void equals_reference(void)
{
    static const uint32_t groups[] = {1, 3, 4, 8};
    static const int32_t pages[] = {1, 3, 4};
    uint64_t salt = 1;
    for (size_t g = 0; g < 4; g++)
        for (size_t p = 0; p < 3; p++, salt++) {
            const check_shape shape = rocket_shape(groups[g], 2, 16, 6, p == 1 ? 16 : 8);
            check_tokens tokens[ROCKET_MAX_BATCH];
            rocket_keys key = rocket_usual;
            key.page = pages[p];
            key.softmax = p == 1 ? "full" : "prefix";
            rocket_make_tokens(&shape, 2, wn_test_seed() + salt, tokens);
            check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
            rocket_run(host, &key, rocket_ragged, 6);
            check_host_destroy(host);
            check_free_tokens(tokens, shape.batch);
        }
}

static void every_key_matters(void)
{
    static const rocket_keys variants[] = {
        {1, 1, 2, 4, 64, 1, 0, "float32", "prefix", NULL, NULL, 0, 0}, /* the least of everything */
        {8, 63, 40, 4, 16, 6, 0, "bfloat16", "full", NULL, NULL, 0,
         0}, /* pool wider than the prefix */
        {8, 7, 48, 3, 5, 4, 0, "float8_e5m2", "full", NULL, NULL, 0, 0}, /* few channels */
        {8, 7, 48, 4, 16, 6, 2, "float32", "prefix", NULL, NULL, 0,
         0}, /* newest landmarks in any case */
        {8, 7, 48, 4, 16, 6, 6, "bfloat16", "prefix", NULL, NULL, 0,
         0}, /* nothing but the newest */
        {8, 7, 48, 20, 16, 2, 0, "float32", "prefix", NULL, NULL, 0,
         0}, /* landmarks longer than a page */
        {40, 7, 48, 4, 1000, 6, 0, "float32", "prefix", NULL, NULL, 0,
         0} /* window longer than some prompts */
    };
    const check_shape shape = rocket_shape(2, 2, 16, 6, 8);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_make_tokens(&shape, 3, wn_test_seed() + 100 + i, tokens);
        check_host *host = rocket_make_host(&shape, &variants[i], tokens, wn_test_seed());
        rocket_run(host, &variants[i], rocket_ragged, 7);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

static void bfloat16_model(void)
{
    check_shape shape = rocket_shape(4, 1, 24, 3, 8);
    const int32_t lengths[] = {70, 33, 120};
    check_tokens tokens[ROCKET_MAX_BATCH];
    shape.dtype = WN_BF16;
    rocket_make_tokens(&shape, 2, wn_test_seed() + 200, tokens);
    check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    rocket_run(host, &rocket_usual, lengths, 5);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* All keys alike, then every key four times: nothing but the rule for ties decides. */
static void ties_go_to_the_lower_index(void)
{
    for (int distinct = 1; distinct <= 30; distinct += 29) {
        const check_shape shape = rocket_shape(3, 2, 16, 2, 8);
        const int32_t lengths[] = {120, 77};
        const size_t row = (size_t)shape.num_kv_heads * shape.head_dim;
        check_tokens tokens[ROCKET_MAX_BATCH];
        rocket_make_tokens(&shape, 2, wn_test_seed() + 300, tokens);
        for (uint32_t b = 0; b < shape.batch; b++)
            for (size_t t = 0; t < shape.max_length; t++)
                memcpy((float *)tokens[b].k + t * row, tokens[b].k + t % (size_t)distinct * row,
                       row * sizeof(float));
        check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, lengths), WN_OK);
        rocket_retain_and_compare(host, &rocket_usual);
        const int32_t *list;
        check_host_list(host, 0, 0, &list);
        for (int32_t i = 0; distinct == 1 && i < rocket_usual.budget - rocket_usual.window; i++)
            CU_ASSERT_EQUAL(list[i], i);
        const int32_t one[] = {1, 1};
        for (int step = 0; step < 5; step++) {
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
            rocket_select_and_compare(host, &rocket_usual);
        }
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Everything NaN in one key: probabilities are NaN everywhere, the number that stays must not
 * change, and the first slots stay for want of a better rule. */
static void nan_is_never_chosen(void)
{
    const check_shape shape = rocket_shape(2, 1, 16, 1, 8);
    const int32_t length = 100, one = 1;
    check_tokens tokens[1];
    const int32_t *list;
    rocket_make_tokens(&shape, 2, wn_test_seed() + 400, tokens);
    float *k = (float *)tokens[0].k, *q = (float *)tokens[0].q;
    k[50 * shape.head_dim + 3] = NAN;
    q[101 * shape.num_heads * shape.head_dim] = NAN; /* of the second generated token */
    check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    const int logs = check_plugin_num_logs();
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &length), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_retain(host, NULL, NULL), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_list(host, 0, 0, &list), rocket_usual.budget);
    for (int32_t i = 0; i < rocket_usual.budget; i++)
        CU_ASSERT_EQUAL(list[i], i < rocket_usual.budget - rocket_usual.window
                                     ? i
                                     : length - rocket_usual.budget + i);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    rocket_select_and_compare(host, &rocket_usual);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
    CU_ASSERT_EQUAL(check_host_list(host, 0, 0, &list), 0);
    check_host_destroy(host);
    CU_ASSERT_EQUAL(check_plugin_num_logs(), logs + 1);
    CU_ASSERT_STRING_EQUAL(check_plugin_last_log(),
                           "2 rocket: 13 landmark scores were NaN and counted as -inf");
    check_free_tokens(tokens, 1);
}

/* The same prompts in uneven chunks, of one token, of more than the window, of nothing. */
static void chunks_equal_one_shot(void)
{
    static const int32_t sizes[] = {1, 17, 0, 3, 40, 2, 9, 1, 28};
    const check_shape shape = rocket_shape(2, 2, 16, 3, 8);
    const int32_t lengths[] = {120, 53, 101};
    const int32_t one[] = {1, 1, 1};
    check_tokens tokens[ROCKET_MAX_BATCH];
    rocket_make_tokens(&shape, 2, wn_test_seed() + 500, tokens);
    check_host *whole = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    check_host *chunked = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    CU_ASSERT_EQUAL_FATAL(check_host_append(whole, WN_PHASE_CONTEXT, lengths), WN_OK);
    for (size_t i = 0, rest = 1; rest > 0; i++) {
        int32_t count[ROCKET_MAX_BATCH];
        rest = 0;
        for (uint32_t b = 0; b < shape.batch; b++) {
            const int32_t left = lengths[b] - chunked->logical[b], size = sizes[(i + 2 * b) % 9];
            count[b] = size < left ? size : left;
            rest += (size_t)left;
        }
        CU_ASSERT_EQUAL_FATAL(check_host_append(chunked, WN_PHASE_CONTEXT, count), WN_OK);
    }
    rocket_retain_and_compare(whole, &rocket_usual);
    rocket_retain_and_compare(chunked, &rocket_usual);
    for (int step = 0; step < 5; step++) {
        CU_ASSERT_EQUAL_FATAL(check_host_append(whole, WN_PHASE_GENERATION, one), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_append(chunked, WN_PHASE_GENERATION, one), WN_OK);
        rocket_select_and_compare(whole, &rocket_usual);
        rocket_select_and_compare(chunked, &rocket_usual);
        CU_ASSERT_EQUAL(memcmp(whole->token_of_slot, chunked->token_of_slot,
                               shape.batch * shape.num_kv_heads * shape.max_length * 4),
                        0);
    }
    check_host_destroy(whole);
    check_host_destroy(chunked);
    check_free_tokens(tokens, shape.batch);
}

/* Rejected tokens are overwritten; what they did to landmarks must go with them. */
static void truncated_tokens_leave_no_trace(void)
{
    const check_shape shape = rocket_shape(2, 2, 16, 1, 8);
    const int32_t length = 100, five = 5, one = 1;
    check_tokens tokens[1];
    rocket_make_tokens(&shape, 2, wn_test_seed() + 700, tokens);
    check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    rocket_run(host, &rocket_usual, &length, 2);
    float *k = (float *)tokens[0].k;
    const size_t row = (size_t)shape.num_kv_heads * shape.head_dim;
    for (int round = 0; round < 6; round++) {
        const size_t next = (size_t)host->logical[0];
        for (size_t i = 0; i < 5 * row; i++)
            k[next * row + i] += 40; /* keys that would win everywhere */
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &five), WN_OK);
        check_host_truncate(host, 0, 5);
        for (size_t i = 0; i < 5 * row; i++)
            k[next * row + i] -= 40;
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
        rocket_select_and_compare(host, &rocket_usual);
    }
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

/* A second prompt, shorter than the window, on a cache from which the first has evicted. */
static void second_turn(void)
{
    const check_shape shape = rocket_shape(3, 2, 16, 2, 8);
    const int32_t first[] = {100, 60}, second[] = {5, 20};
    check_tokens tokens[ROCKET_MAX_BATCH];
    rocket_make_tokens(&shape, 2, wn_test_seed() + 800, tokens);
    check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    rocket_run(host, &rocket_usual, first, 6);
    rocket_run(host, &rocket_usual, second, 6);
    CU_ASSERT_EQUAL(host->logical[0], 117);
    CU_ASSERT_EQUAL(host->physical[0], rocket_usual.budget + 6);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* Tokens beyond the end overwrote queries that the window needs after a truncation: an error that
 * says so, not a choice made by other tokens' queries. */
static void lost_query_is_an_error(void)
{
    const check_shape shape = rocket_shape(2, 2, 16, 1, 8);
    const int32_t length = 100, three = 3, ten = 10;
    check_tokens tokens[1];
    rocket_make_tokens(&shape, 2, wn_test_seed() + 900, tokens);
    check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &length), WN_OK);
    check_host_truncate(host, 0, 10);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &three), WN_OK);
    CU_ASSERT_EQUAL(check_host_retain(host, NULL, NULL), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "sequence 1000: the query of token 85"));
    check_host_truncate(host, 0, 3);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &ten), WN_OK);
    rocket_retain_and_compare(host, &rocket_usual);
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

static void greatest_budgets_keep_everything(void)
{
    const check_shape shape = rocket_shape(2, 2, 16, 2, 8);
    const int32_t lengths[] = {100, 37}, one[] = {1, 1};
    check_tokens tokens[ROCKET_MAX_BATCH];
    rocket_keys key = rocket_usual;
    uint32_t asked;
    key.budget = key.topk = 1 << 30;
    rocket_make_tokens(&shape, 2, wn_test_seed() + 1000, tokens);
    check_host *host = rocket_make_host(&shape, &key, tokens, wn_test_seed());
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, lengths), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_retain(host, NULL, &asked), WN_OK);
    CU_ASSERT_EQUAL(asked, 0);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
    for (uint32_t b = 0; b < 2; b++) {
        const int32_t *list;
        const int64_t count = check_host_list(host, b, 1, &list);
        CU_ASSERT_EQUAL(count, (host->physical[b] + 3) / 4);
        for (int64_t i = 0; i < count; i++)
            CU_ASSERT_EQUAL(list[i], i);
    }
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* Does the universal identity hold for this step's output? Both stages together: what a query does
 * not attend to was evicted, or not selected. */
static void check_oracle(check_host *host, uint32_t b)
{
    const uint32_t dim = host->shape.head_dim, heads = host->shape.num_heads;
    const uint32_t group = heads / host->shape.num_kv_heads;
    const int32_t seen = host->logical[b];
    float *out = malloc((size_t)host->shape.max_step_tokens * heads * dim * sizeof *out);
    double *k = malloc((size_t)seen * dim * sizeof *k), *v = malloc((size_t)seen * dim * sizeof *v);
    double *sparse = malloc(dim * sizeof *sparse);
    uint8_t *attended = malloc((size_t)seen);
    CU_ASSERT_EQUAL_FATAL(check_host_attend(host, &host->selection, NULL, out, NULL), WN_OK);
    for (uint32_t q_head = 0; q_head < heads; q_head++) {
        const uint32_t h = q_head / group;
        const int32_t *list;
        const int64_t count = check_host_list(host, b, h, &list);
        memset(attended, 0, (size_t)seen);
        for (int64_t i = 0; i < count; i++)
            for (int64_t slot = (int64_t)list[i] * host->selection.block_size;
                 slot < (list[i] + 1) * (int64_t)host->selection.block_size &&
                 slot < host->physical[b];
                 slot++)
                attended[check_host_token(host, b, h, (int32_t)slot)] = 1;
        for (size_t t = 0; t < (size_t)seen; t++)
            for (uint32_t c = 0; c < dim; c++) {
                const size_t at = (t * host->shape.num_kv_heads + h) * dim + c;
                k[t * dim + c] = host->tokens[b].k[at];
                v[t * dim + c] = host->tokens[b].v[at];
            }
        double *q = rocket_load_queries(host, b, h, seen - 1, 1);
        for (uint32_t c = 0; c < dim; c++)
            sparse[c] = out[((size_t)host->q_begin[b] * heads + q_head) * dim + c];
        CU_ASSERT(attention_oracle_violation(q + q_head % group * dim, k, v, seen, (int32_t)dim,
                                             host->model.softmax_scale, attended, sparse) < 1e-6);
        free(q);
    }
    free(attended);
    free(sparse);
    free(v);
    free(k);
    free(out);
}

static void oracle_identity(void)
{
    const check_shape shape = rocket_shape(3, 2, 16, 2, 8);
    const int32_t lengths[] = {120, 66};
    check_tokens tokens[ROCKET_MAX_BATCH];
    rocket_make_tokens(&shape, 2, wn_test_seed() + 1100, tokens);
    check_host *host = rocket_make_host(&shape, &rocket_usual, tokens, wn_test_seed());
    rocket_run(host, &rocket_usual, lengths, 3);
    check_oracle(host, 0);
    check_oracle(host, 1);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* Queries, keys and values of a language model on text (tests/data/README.md). */
static void recorded_trace(void)
{
    static const rocket_keys variants[] = {
        {32, 63, 256, 4, 48, 16, 0, "float8_e5m2", "prefix", NULL, NULL, 0, 0},
        {32, 63, 256, 3, 48, 64, 0, "float8_e5m2", "full", "token", "sparq", 0, 0},
        {32, 63, 256, 3, 48, 64, 0, "bfloat16", "full", "token", "sparq", 1, 0}};
    check_recording trace = check_recording_open("sample_1k");
    const int32_t context = (int32_t)check_recording_number(&trace, "context_length");
    int64_t q_shape[3], k_shape[3];
    const check_tokens tokens = {check_recording_floats(&trace, "layers.17.q", q_shape),
                                 check_recording_floats(&trace, "layers.17.k", k_shape),
                                 check_recording_floats(&trace, "layers.17.v", k_shape)};
    const check_shape shape = {.num_heads = (uint32_t)q_shape[1],
                               .num_kv_heads = (uint32_t)k_shape[1],
                               .head_dim = (uint32_t)q_shape[2],
                               .dtype = WN_BF16,
                               .batch = 1,
                               .tokens_per_page = 32,
                               .max_length = (uint32_t)q_shape[0],
                               .max_step_tokens = (uint32_t)q_shape[0],
                               .softmax_scale =
                                   (float)check_recording_number(&trace, "softmax_scale")};
    CU_ASSERT_FATAL(q_shape[0] <= ROCKET_MAX_LENGTH && k_shape[1] <= ROCKET_MAX_HEADS);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        check_host *host = rocket_make_host(&shape, &variants[i], &tokens, wn_test_seed());
        rocket_run(host, &variants[i], &context, (int32_t)q_shape[0] - context);
        check_oracle(host, 0);
        check_host_destroy(host);
    }
    check_free_tokens((check_tokens[]){tokens}, 1);
    check_recording_close(&trace);
}

static void open_plugin(void)
{
    const check_plugin *plugin = rocket_plugin();
    CU_ASSERT(plugin->predictor != NULL && plugin->aux_pool != NULL && plugin->kernel_hook == NULL);
}

static void close_plugin(void)
{
    rocket_close_plugin();
}

WN_SUITE("plugins.rocket", {"opens", open_plugin}, {"rules are checked", rules_are_checked},
         {"equals the reference", equals_reference}, {"every key matters", every_key_matters},
         {"bfloat16 model", bfloat16_model},
         {"ties go to the lower index", ties_go_to_the_lower_index},
         {"NaN is never chosen", nan_is_never_chosen},
         {"chunks equal one shot", chunks_equal_one_shot},
         {"truncated tokens leave no trace", truncated_tokens_leave_no_trace},
         {"second turn", second_turn}, {"a lost query is an error", lost_query_is_an_error},
         {"greatest budgets keep everything", greatest_budgets_keep_everything},
         {"oracle identity", oracle_identity}, {"recorded trace", recorded_trace},
         {"closes", close_plugin})
