/* test_rocket.c: the rocket plugin against its reference, indices exactly: random data, ties, NaN,
 * ragged batches, chunks, speculation, truncation, turns, and a recorded trace. */
#include "attention_reference.h"
#include "check_host.h"
#include "check_recording.h"
#include "rocket_reference.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { MAX_BATCH = 8, MAX_HEADS = 4, MAX_LENGTH = 1100 };

/* Keys as a user sets them; NULL and 0 of the last ones: not set. */
typedef struct keys {
    int32_t window, kernel, budget, page, topr, topk, local;
    const char *dtype, *softmax, *unit, *temperature;
    int32_t multi_turn, max_new;
} keys;

static const keys usual = {8, 7, 48, 4, 64, 6, 0, "float8_e5m2", "prefix", NULL, NULL, 0, 0};

static check_plugin plugin;

static check_host *make_host(const check_shape *shape, const keys *key, const check_tokens *tokens)
{
    const check_setting settings[] = {
        {"window_size", key->window, NULL},
        {"kernel_size", key->kernel, NULL},
        {"prompt_budget", key->budget, NULL},
        {"page_size", key->page, NULL},
        {"topr", key->topr, NULL},
        {"topk", key->topk, NULL},
        {"local_landmarks", key->local, NULL},
        {"kt_cache_dtype", 0, key->dtype},
        {"score_softmax", 0, key->softmax},
        {"topk_unit", 0, key->unit != NULL ? key->unit : "landmark"},
        {"temperature", 0, key->temperature != NULL ? key->temperature : "plain"},
        {"multi_turn", key->multi_turn, NULL},
        {key->max_new > 0 ? "max_new_tokens" : NULL, key->max_new, NULL},
        {NULL, 0, NULL}};
    return check_host_create(shape, &plugin, settings, tokens, wn_test_seed());
}

static rocket_head head_of(const check_host *host)
{
    return (rocket_head){(int32_t)(host->shape.num_heads / host->shape.num_kv_heads),
                         (int32_t)host->shape.head_dim, host->model.softmax_scale};
}

static rocket_stage1 stage1_of(const keys *key)
{
    return (rocket_stage1){key->window, key->kernel, key->budget,
                           strcmp(key->softmax, "full") == 0};
}

static rocket_stage2 stage2_of(const keys *key)
{
    const int32_t dtype = strcmp(key->dtype, "float32") == 0    ? ROCKET_FLOAT32
                          : strcmp(key->dtype, "bfloat16") == 0 ? ROCKET_BFLOAT16
                                                                : ROCKET_FLOAT8_E5M2;
    const int32_t token = key->unit != NULL && strcmp(key->unit, "token") == 0;
    const int32_t sparq = key->temperature != NULL && strcmp(key->temperature, "sparq") == 0;
    return (rocket_stage2){key->page, key->topr, key->topk, key->local, dtype, token, sparq};
}

/* What KV head h holds in `count` slots (NULL: the first ones), as [count, dim] doubles. */
static double *load_slots(const check_host *host, uint32_t b, uint32_t h, const int32_t *slots,
                          int32_t count)
{
    const uint32_t dim = host->shape.head_dim;
    double *to = malloc(((size_t)count * dim + 1) * sizeof *to);
    for (int32_t i = 0; i < count; i++) {
        const size_t token = (size_t)check_host_token(host, b, h, slots != NULL ? slots[i] : i);
        for (uint32_t c = 0; c < dim; c++)
            to[(size_t)i * dim + c] =
                host->tokens[b].k[(token * host->shape.num_kv_heads + h) * dim + c];
    }
    return to;
}

/* Queries of `count` tokens from `token`, of KV head h's group: [count, group, dim]. */
static double *load_queries(const check_host *host, uint32_t b, uint32_t h, int32_t token,
                            int32_t count)
{
    const size_t group = host->shape.num_heads / host->shape.num_kv_heads;
    const size_t dim = host->shape.head_dim;
    double *to = malloc((size_t)count * group * dim * sizeof *to);
    for (size_t i = 0; i < (size_t)count; i++)
        for (size_t j = 0; j < group * dim; j++)
            to[i * group * dim + j] =
                host->tokens[b]
                    .q[((size_t)token + i) * host->shape.num_heads * dim + h * group * dim + j];
    return to;
}

/* Ends all prompts, and holds what stays against the reference. */
static void retain_and_compare(check_host *host, const keys *key)
{
    const rocket_head head = head_of(host);
    const rocket_stage1 stage = stage1_of(key);
    const uint32_t batch = host->shape.batch, heads = host->shape.num_kv_heads;
    int32_t *expected = malloc((size_t)batch * heads * (size_t)key->budget * sizeof *expected);
    uint32_t asked, row = 0;
    int32_t physical[MAX_BATCH];
    memcpy(physical, host->physical, batch * sizeof *physical);
    for (uint32_t b = 0; b < batch; b++)
        for (uint32_t h = 0; h < heads && physical[b] > key->budget; h++) {
            double *k = load_slots(host, b, h, NULL, physical[b]);
            double *q = load_queries(host, b, h, host->logical[b] - key->window, key->window);
            rocket_reference_retain(&head, &stage, q, k, physical[b],
                                    expected + (b * heads + h) * (uint32_t)key->budget);
            free(q);
            free(k);
        }
    CU_ASSERT_EQUAL_FATAL(check_host_retain(host, NULL, &asked), WN_OK);
    for (uint32_t b = 0; b < batch; b++) {
        if (physical[b] <= key->budget)
            continue;
        for (uint32_t h = 0; h < heads; h++) {
            const int32_t *list;
            CU_ASSERT_EQUAL_FATAL(check_host_list(host, row, h, &list), key->budget);
            CU_ASSERT_EQUAL(memcmp(list, expected + (b * heads + h) * (uint32_t)key->budget,
                                   (size_t)key->budget * sizeof *list),
                            0);
        }
        row++;
    }
    CU_ASSERT_EQUAL(asked, row);
    free(expected);
}

/* What stage 2 may choose from with multi_turn: what each prompt kept, and all that follows. */
static int32_t kept[MAX_BATCH][MAX_HEADS][MAX_LENGTH], num_kept[MAX_BATCH], tail[MAX_BATCH];

/* Ends all prompts with multi_turn, and says what their views must be. */
static wn_status end_prompts(check_host *host, const keys *key)
{
    const rocket_head head = head_of(host);
    const rocket_stage1 stage = stage1_of(key);
    for (uint32_t b = 0; b < host->shape.batch; b++) {
        const int32_t length = tail[b] = host->physical[b];
        num_kept[b] = length < key->budget ? length : key->budget;
        for (uint32_t h = 0; h < host->shape.num_kv_heads; h++) {
            for (int32_t i = 0; i < length && length <= key->budget; i++)
                kept[b][h][i] = i;
            if (length <= key->budget)
                continue;
            double *k = load_slots(host, b, h, NULL, length);
            double *q = load_queries(host, b, h, host->logical[b] - key->window, key->window);
            rocket_reference_retain(&head, &stage, q, k, length, kept[b][h]);
            free(q);
            free(k);
        }
        host->q_len[b] = 0; /* a last chunk may be empty */
        host->dirty_begin[b] = length;
        host->request_flags[b] = WN_REQUEST_LAST_CHUNK;
    }
    wn_step_args args = check_host_args(host);
    return plugin.aux_pool->observe(host->instance, &args);
}

/* The slots below `seen` from which stage 2 chooses, in order. Returns how many. */
static int32_t view_slots(const keys *key, uint32_t b, uint32_t h, int32_t seen, int32_t *slots)
{
    int32_t count = 0;
    for (int32_t i = 0; key->multi_turn && i < num_kept[b]; i++)
        slots[count++] = kept[b][h][i];
    for (int32_t slot = key->multi_turn ? tail[b] : 0; slot < seen; slot++)
        slots[count++] = slot;
    return count;
}

/* The reference's choice for one query token and KV head, as the plugin must list it: landmarks, or
 * slots. */
static int64_t expected_list(const check_host *host, const keys *key, uint32_t b, uint32_t h,
                             int32_t seen, int32_t token, int32_t *list)
{
    const rocket_head head = head_of(host);
    const rocket_stage2 stage = stage2_of(key);
    int32_t slots[MAX_LENGTH], chosen[MAX_LENGTH];
    const int32_t entries = view_slots(key, b, h, seen, slots);
    double *k = load_slots(host, b, h, slots, entries);
    double *q = load_queries(host, b, h, token, 1);
    const int32_t n = rocket_reference_select(&head, &stage, q, k, entries, chosen);
    const int32_t size = stage.token ? 1 : key->page;
    int64_t count = 0;
    for (int32_t i = 0; i < n; i++)
        if (!stage.token && !key->multi_turn)
            list[count++] = chosen[i];
        else
            for (int32_t e = chosen[i] * size; e < (chosen[i] + 1) * size && e < entries; e++)
                list[count++] = slots[e];
    free(q);
    free(k);
    return count;
}

/* What the tokens of this step attend to, held against the reference row by row. */
static void select_and_compare(check_host *host, const keys *key)
{
    const int lists_slots = stage2_of(key).token || key->multi_turn;
    int32_t expected[MAX_LENGTH];
    uint32_t row = 0;
    CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
    CU_ASSERT_EQUAL(host->selection.block_size, lists_slots ? 1 : (uint32_t)key->page);
    for (uint32_t b = 0; b < host->shape.batch; b++)
        for (int32_t i = 0; i < host->q_len[b]; i++, row++)
            for (uint32_t h = 0; h < host->shape.num_kv_heads; h++) {
                const int32_t before = host->q_len[b] - i - 1; /* the end */
                const int32_t *list;
                const int64_t count = check_host_list(host, row, h, &list);
                CU_ASSERT_EQUAL_FATAL(count,
                                      expected_list(host, key, b, h, host->physical[b] - before,
                                                    host->logical[b] - before - 1, expected));
                CU_ASSERT_EQUAL(memcmp(list, expected, (size_t)count * sizeof *list), 0);
            }
    CU_ASSERT_EQUAL(host->selection.rows, row);
}

/* One prompt each, in one chunk, then `steps` generated tokens, all against the reference. */
static void run(check_host *host, const keys *key, const int32_t *lengths, int32_t steps)
{
    int32_t one[MAX_BATCH];
    for (uint32_t b = 0; b < host->shape.batch; b++)
        one[b] = lengths[b] > 0;
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, lengths), WN_OK);
    if (key->multi_turn) {
        CU_ASSERT_EQUAL_FATAL(end_prompts(host, key), WN_OK);
    } else {
        retain_and_compare(host, key);
    }
    for (int32_t step = 0; step < steps; step++) {
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
        select_and_compare(host, key);
    }
}

static check_shape shape_of(uint32_t group, uint32_t kv_heads, uint32_t dim, uint32_t batch,
                            uint32_t tokens_per_page)
{
    return (check_shape){.num_heads = group * kv_heads,
                         .num_kv_heads = kv_heads,
                         .head_dim = dim,
                         .dtype = WN_F32,
                         .batch = batch,
                         .tokens_per_page = tokens_per_page,
                         .max_length = 200,
                         .max_step_tokens = 600};
}

static void make_tokens(const check_shape *shape, double size, uint64_t salt, check_tokens *tokens)
{
    uint64_t seed = wn_test_seed() + salt;
    for (uint32_t b = 0; b < shape->batch; b++)
        tokens[b] = check_random_tokens(shape, (int32_t)shape->max_length, size, &seed);
}

static const int32_t ragged[] = {120, 0, 48, 49, 5, 90};

static void rules_are_checked(void)
{
    const wn_model model = {
        .struct_size = WN_SIZEOF(wn_model), .num_heads = 6, .num_kv_heads = 2, .head_dim = 8};
    wn_value values[CHECK_MAX_FIELDS];
    check_plugin_values(&plugin, NULL, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(&plugin, &model, values), "");
    const check_setting bad[] = {{"kernel_size", 62, NULL},
                                 {"prompt_budget", 32, NULL},
                                 {"local_landmarks", 65, NULL},
                                 {NULL, 0, NULL}};
    check_plugin_values(&plugin, bad, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(&plugin, &model, values),
        "kernel_size is 62; it must be odd, to be centred on a token\n"
        "prompt_budget is 32; it must be above window_size, 32, which is part of it\n"
        "local_landmarks is 65; it must be at most topk, 64, which it is part of");
    const check_setting wide[] = {
        {"window_size", 1366, NULL}, {"prompt_budget", 4000, NULL}, {NULL, 0, NULL}};
    check_plugin_values(&plugin, wide, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(&plugin, &model, values),
        "window_size is 1366; with 3 query heads per KV head it can be 1365 at most");
}

static void equals_reference(void)
{
    static const uint32_t groups[] = {1, 3, 4, 8};
    static const int32_t pages[] = {1, 3, 4};
    uint64_t salt = 1;
    for (size_t g = 0; g < 4; g++)
        for (size_t p = 0; p < 3; p++, salt++) {
            const check_shape shape = shape_of(groups[g], 2, 16, 6, p == 1 ? 16 : 8);
            check_tokens tokens[MAX_BATCH];
            keys key = usual;
            key.page = pages[p];
            key.softmax = p == 1 ? "full" : "prefix";
            make_tokens(&shape, 2, salt, tokens);
            check_host *host = make_host(&shape, &key, tokens);
            run(host, &key, ragged, 6);
            check_host_destroy(host);
            check_free_tokens(tokens, shape.batch);
        }
}

static void every_key_matters(void)
{
    static const keys variants[] = {
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
    const check_shape shape = shape_of(2, 2, 16, 6, 8);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        check_tokens tokens[MAX_BATCH];
        make_tokens(&shape, 3, 100 + i, tokens);
        check_host *host = make_host(&shape, &variants[i], tokens);
        run(host, &variants[i], ragged, 7);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

static void bfloat16_model(void)
{
    check_shape shape = shape_of(4, 1, 24, 3, 8);
    const int32_t lengths[] = {70, 33, 120};
    check_tokens tokens[MAX_BATCH];
    shape.dtype = WN_BF16;
    make_tokens(&shape, 2, 200, tokens);
    check_host *host = make_host(&shape, &usual, tokens);
    run(host, &usual, lengths, 5);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* All keys alike, then every key four times: nothing but the rule for ties decides. */
static void ties_go_to_the_lower_index(void)
{
    for (int distinct = 1; distinct <= 30; distinct += 29) {
        const check_shape shape = shape_of(3, 2, 16, 2, 8);
        const int32_t lengths[] = {120, 77};
        const size_t row = (size_t)shape.num_kv_heads * shape.head_dim;
        check_tokens tokens[MAX_BATCH];
        make_tokens(&shape, 2, 300, tokens);
        for (uint32_t b = 0; b < shape.batch; b++)
            for (size_t t = 0; t < shape.max_length; t++)
                memcpy((float *)tokens[b].k + t * row, tokens[b].k + t % (size_t)distinct * row,
                       row * sizeof(float));
        check_host *host = make_host(&shape, &usual, tokens);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, lengths), WN_OK);
        retain_and_compare(host, &usual);
        const int32_t *list;
        check_host_list(host, 0, 0, &list);
        for (int32_t i = 0; distinct == 1 && i < usual.budget - usual.window; i++)
            CU_ASSERT_EQUAL(list[i], i);
        const int32_t one[] = {1, 1};
        for (int step = 0; step < 5; step++) {
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
            select_and_compare(host, &usual);
        }
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Everything NaN in one key: probabilities are NaN everywhere, the number that stays must not
 * change, and the first slots stay for want of a better rule. */
static void nan_is_never_chosen(void)
{
    const check_shape shape = shape_of(2, 1, 16, 1, 8);
    const int32_t length = 100, one = 1;
    check_tokens tokens[1];
    const int32_t *list;
    make_tokens(&shape, 2, 400, tokens);
    float *k = (float *)tokens[0].k, *q = (float *)tokens[0].q;
    k[50 * shape.head_dim + 3] = NAN;
    q[101 * shape.num_heads * shape.head_dim] = NAN; /* of the second generated token */
    check_host *host = make_host(&shape, &usual, tokens);
    const int logs = check_plugin_num_logs();
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &length), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_retain(host, NULL, NULL), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_list(host, 0, 0, &list), usual.budget);
    for (int32_t i = 0; i < usual.budget; i++)
        CU_ASSERT_EQUAL(list[i], i < usual.budget - usual.window ? i : length - usual.budget + i);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    select_and_compare(host, &usual);
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
    const check_shape shape = shape_of(2, 2, 16, 3, 8);
    const int32_t lengths[] = {120, 53, 101};
    const int32_t one[] = {1, 1, 1};
    check_tokens tokens[MAX_BATCH];
    make_tokens(&shape, 2, 500, tokens);
    check_host *whole = make_host(&shape, &usual, tokens);
    check_host *chunked = make_host(&shape, &usual, tokens);
    CU_ASSERT_EQUAL_FATAL(check_host_append(whole, WN_PHASE_CONTEXT, lengths), WN_OK);
    for (size_t i = 0, rest = 1; rest > 0; i++) {
        int32_t count[MAX_BATCH];
        rest = 0;
        for (uint32_t b = 0; b < shape.batch; b++) {
            const int32_t left = lengths[b] - chunked->logical[b], size = sizes[(i + 2 * b) % 9];
            count[b] = size < left ? size : left;
            rest += (size_t)left;
        }
        CU_ASSERT_EQUAL_FATAL(check_host_append(chunked, WN_PHASE_CONTEXT, count), WN_OK);
    }
    retain_and_compare(whole, &usual);
    retain_and_compare(chunked, &usual);
    for (int step = 0; step < 5; step++) {
        CU_ASSERT_EQUAL_FATAL(check_host_append(whole, WN_PHASE_GENERATION, one), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_append(chunked, WN_PHASE_GENERATION, one), WN_OK);
        select_and_compare(whole, &usual);
        select_and_compare(chunked, &usual);
        CU_ASSERT_EQUAL(memcmp(whole->token_of_slot, chunked->token_of_slot,
                               shape.batch * shape.num_kv_heads * shape.max_length * 4),
                        0);
    }
    check_host_destroy(whole);
    check_host_destroy(chunked);
    check_free_tokens(tokens, shape.batch);
}

/* Several tokens at once see what each would see alone (the reference is asked token by token), and
 * the landmarks are complete afterwards. */
static void speculative_rows_equal_sequential(void)
{
    static const int32_t counts[][3] = {{3, 1, 0}, {1, 1, 4}, {9, 2, 2}, {1, 1, 1}, {2, 7, 5}};
    for (int32_t page = 3; page <= 4; page++) {
        const check_shape shape = shape_of(2, 2, 16, 3, 8);
        const int32_t lengths[] = {120, 30, 60};
        check_tokens tokens[MAX_BATCH];
        keys key = usual;
        key.page = page;
        make_tokens(&shape, 2, 600 + (uint64_t)page, tokens);
        check_host *host = make_host(&shape, &key, tokens);
        run(host, &key, lengths, 1);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, counts[i]), WN_OK);
            select_and_compare(host, &key);
        }
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Rejected tokens are overwritten; what they did to landmarks must go with them. */
static void truncated_tokens_leave_no_trace(void)
{
    const check_shape shape = shape_of(2, 2, 16, 1, 8);
    const int32_t length = 100, five = 5, one = 1;
    check_tokens tokens[1];
    make_tokens(&shape, 2, 700, tokens);
    check_host *host = make_host(&shape, &usual, tokens);
    run(host, &usual, &length, 2);
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
        select_and_compare(host, &usual);
    }
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

/* A second prompt, shorter than the window, on a cache from which the first has evicted. */
static void second_turn(void)
{
    const check_shape shape = shape_of(3, 2, 16, 2, 8);
    const int32_t first[] = {100, 60}, second[] = {5, 20};
    check_tokens tokens[MAX_BATCH];
    make_tokens(&shape, 2, 800, tokens);
    check_host *host = make_host(&shape, &usual, tokens);
    run(host, &usual, first, 6);
    run(host, &usual, second, 6);
    CU_ASSERT_EQUAL(host->logical[0], 117);
    CU_ASSERT_EQUAL(host->physical[0], usual.budget + 6);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* Tokens beyond the end overwrote queries that the window needs after a truncation: an error that
 * says so, not a choice made by other tokens' queries. */
static void lost_query_is_an_error(void)
{
    const check_shape shape = shape_of(2, 2, 16, 1, 8);
    const int32_t length = 100, three = 3, ten = 10;
    check_tokens tokens[1];
    make_tokens(&shape, 2, 900, tokens);
    check_host *host = make_host(&shape, &usual, tokens);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &length), WN_OK);
    check_host_truncate(host, 0, 10);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &three), WN_OK);
    CU_ASSERT_EQUAL(check_host_retain(host, NULL, NULL), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(host->error_text, "sequence 1000: the query of token 85"));
    check_host_truncate(host, 0, 3);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, &ten), WN_OK);
    retain_and_compare(host, &usual);
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

static void greatest_budgets_keep_everything(void)
{
    const check_shape shape = shape_of(2, 2, 16, 2, 8);
    const int32_t lengths[] = {100, 37}, one[] = {1, 1};
    check_tokens tokens[MAX_BATCH];
    keys key = usual;
    uint32_t asked;
    key.budget = key.topk = 1 << 30;
    make_tokens(&shape, 2, 1000, tokens);
    check_host *host = make_host(&shape, &key, tokens);
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
        double *q = load_queries(host, b, h, seen - 1, 1);
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
    const check_shape shape = shape_of(3, 2, 16, 2, 8);
    const int32_t lengths[] = {120, 66};
    check_tokens tokens[MAX_BATCH];
    make_tokens(&shape, 2, 1100, tokens);
    check_host *host = make_host(&shape, &usual, tokens);
    run(host, &usual, lengths, 3);
    check_oracle(host, 0);
    check_oracle(host, 1);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* ---------------------------------------------------------------- the paper's keys */

/* One prompt each and some steps, with the keys of a list of variants. */
static void run_variants(const check_shape *shape, const keys *variants, size_t count,
                         const int32_t *lengths, uint64_t salt)
{
    for (size_t i = 0; i < count; i++) {
        check_tokens tokens[MAX_BATCH];
        make_tokens(shape, 3, salt + i, tokens);
        check_host *host = make_host(shape, &variants[i], tokens);
        run(host, &variants[i], lengths, 7);
        check_host_destroy(host);
        check_free_tokens(tokens, shape->batch);
    }
}

static void tokens_and_temperature(void)
{
    static const keys variants[] = {
        {8, 7, 48, 4, 64, 22, 0, "float32", "full", "token", "sparq", 0, 0},
        {8, 7, 48, 3, 10, 17, 0, "float8_e5m2", "full", "token", "sparq", 0, 0},
        {8, 7, 48, 3, 10, 16, 0, "float8_e5m2", "full", "token", "plain", 0, 0},
        {8, 7, 48, 5, 7, 21, 0, "bfloat16", "full", "token", "sparq", 0, 0},
        {8, 7, 48, 1, 5, 9, 0, "float32", "prefix", "token", "sparq", 0, 0},
        {8, 7, 48, 4, 5, 6, 0, "bfloat16", "prefix", "landmark", "sparq", 0, 0},
        {8, 7, 48, 4, 64, 1, 0, "float32", "full", "token", "plain", 0, 0},
        {8, 7, 48, 4, 9, 18, 3, "float32", "full", "token", "sparq", 0, 0},  /* some are local */
        {8, 7, 48, 3, 9, 9, 3, "bfloat16", "full", "token", "sparq", 0, 0},  /* nearly all are */
        {8, 7, 48, 20, 9, 25, 1, "float32", "full", "token", "plain", 0, 0}, /* few long ones */
        {8, 7, 48, 4, 64, 47, 0, "float32", "full", "token", "plain", 0, 0}  /* all but few */
    };
    const check_shape shape = shape_of(3, 2, 16, 6, 8);
    run_variants(&shape, variants, sizeof variants / sizeof variants[0], ragged, 1200);
}

/* Landmarks that begin in one page of the cache and end in the next. */
static void odd_landmarks_across_pages(void)
{
    static const char *const dtypes[] = {"float8_e5m2", "bfloat16", "float32"};
    static const int32_t sizes[] = {3, 5}, tokens_per_page[] = {4, 32};
    keys variants[12];
    for (size_t p = 0; p < 2; p++) {
        const check_shape shape = shape_of(2, 2, 16, 6, (uint32_t)tokens_per_page[p]);
        size_t count = 0;
        for (size_t d = 0; d < 3; d++)
            for (size_t size = 0; size < 2; size++)
                for (int unit = 0; unit < 2; unit++, count++) {
                    variants[count] = usual;
                    variants[count].page = sizes[size];
                    variants[count].dtype = dtypes[d];
                    variants[count].unit = unit ? "token" : "landmark";
                    variants[count].topk = unit ? 16 : 5;
                }
        run_variants(&shape, variants, count, ragged, 1300 + 100 * p);
    }
}

/* All scores alike: the lowest tokens, and the last landmark in part. */
static void tied_tokens_go_to_the_lowest(void)
{
    const check_shape shape = shape_of(2, 1, 16, 1, 8);
    const int32_t length = 40, one = 1, *list;
    check_tokens tokens[1];
    keys key = usual;
    key.unit = "token";
    key.topk = 18;
    make_tokens(&shape, 2, 1500, tokens);
    for (size_t i = shape.head_dim; i < shape.max_length * shape.head_dim; i++)
        ((float *)tokens[0].k)[i] = tokens[0].k[i % shape.head_dim];
    check_host *host = make_host(&shape, &key, tokens);
    run(host, &key, &length, 0);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    select_and_compare(host, &key);
    CU_ASSERT_EQUAL_FATAL(check_host_list(host, 0, 0, &list), 18);
    for (int32_t i = 0; i < 18; i++)
        CU_ASSERT_EQUAL(list[i], i);
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

/* One token per landmark, all channels, enough of everything. */
static void enough_equals_dense(void)
{
    const check_shape shape = shape_of(3, 2, 16, 2, 8);
    const int32_t lengths[] = {90, 33}, several[] = {3, 2};
    for (int variant = 0; variant < 4; variant++) {
        float out[2][5 * 6 * 16];
        check_tokens tokens[MAX_BATCH];
        const keys key = {
            8,       7,           200,       1,        16,
            200,     0,           "float32", "prefix", variant % 2 ? "token" : "landmark",
            "plain", variant / 2, 0};
        make_tokens(&shape, 2, 1600, tokens);
        check_host *host = make_host(&shape, &key, tokens);
        run(host, &key, lengths, 0);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, several), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_attend(host, &host->selection, NULL, out[0], NULL), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_attend(host, NULL, NULL, out[1], NULL), WN_OK);
        CU_ASSERT_EQUAL(memcmp(out[0], out[1], sizeof out[0]), 0);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

static int32_t seen_topr;
static uint32_t seen_temperature;

static wn_status spy_on_scores(const wn_landmark_scores_args *args)
{
    seen_topr = (int32_t)args->topr;
    seen_temperature = args->temperature;
    return WN_EUNSUPPORTED;
}

typedef struct split {
    int32_t budget, page, topr, topk;
} split;

/* What an instance with these settings does, as far as it can be seen from outside. */
static split look_at_split(const check_setting *settings)
{
    static int32_t lengths[] = {1 << 20}, one[] = {1}, zero[] = {0};
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_heads = 32,
                            .num_kv_heads = 8,
                            .head_dim = 128,
                            .dtype = WN_BF16,
                            .max_position = 131072,
                            .softmax_scale = 0.1f};
    const wn_ops ops = {.struct_size = WN_SIZEOF(wn_ops), .landmark_scores = spy_on_scores};
    const wn_step_limits limits = {
        WN_SIZEOF(wn_step_limits), WN_PHASE_GENERATION, 1, 1, 1 << 20, 64};
    wn_step_bounds bounds = {.struct_size = WN_SIZEOF(wn_step_bounds)};
    wn_aux_pool pools[WN_MAX_AUX_POOLS] = {{0}};
    wn_aux_view aux[2] = {{0}};
    wn_value values[CHECK_MAX_FIELDS];
    uint32_t count;
    split seen;
    void *instance;
    check_plugin_values(&plugin, settings, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(&plugin, &model, values), "");
    CU_ASSERT_EQUAL_FATAL(plugin.config->create(&model, values, &instance, NULL), WN_OK);
    seen.budget = plugin.predictor->retained_count(instance, 1 << 30);
    CU_ASSERT_EQUAL(plugin.aux_pool->declare(instance, 0, 6, pools, &count, NULL), WN_OK);
    seen.page = 6 / (int32_t)(pools[0].bytes / (2 * 128)); /* landmarks of 6 tokens, in float8 */
    CU_ASSERT_EQUAL(plugin.predictor->bounds(instance, 0, &limits, &bounds, NULL), WN_OK);
    seen.topk = (int32_t)bounds.select_indices / 8;
    const wn_step_args args = {.struct_size = WN_SIZEOF(wn_step_args),
                               .phase = WN_PHASE_GENERATION,
                               .batch = 1,
                               .q_begin = zero,
                               .q_len = one,
                               .kv = {.length = lengths, .batch = 1, .tokens_per_page = 64},
                               .aux = aux,
                               .workspace = malloc((size_t)bounds.workspace_bytes),
                               .ops = &ops};
    wn_selection selection = {.struct_size = WN_SIZEOF(wn_selection)};
    CU_ASSERT_EQUAL(plugin.predictor->select(instance, &args, &selection), WN_EUNSUPPORTED);
    CU_ASSERT_EQUAL(selection.block_size, 1);
    seen.topr = seen_topr;
    free(args.workspace);
    plugin.config->destroy(instance);
    return seen;
}

/* The paper's formulas in numbers: what S tokens with 128 new ones and a budget of t become. */
static void budgets_are_split_as_in_the_paper(void)
{
    static const split table[5][5] = {{{1320, 3, 67, 128},
                                       {2290, 3, 81, 256},
                                       {3589, 2, 70, 512},
                                       {5128, 2, 99, 1024},
                                       {6713, 1, 76, 2048}},
                                      {{1467, 3, 61, 128},
                                       {2768, 3, 67, 256},
                                       {4709, 3, 81, 512},
                                       {7306, 2, 70, 1024},
                                       {10385, 2, 99, 2048}},
                                      {{1490, 3, 60, 128},
                                       {3063, 3, 61, 256},
                                       {5664, 3, 67, 512},
                                       {9546, 3, 81, 1024},
                                       {14740, 2, 70, 2048}},
                                      {{1381, 3, 65, 128},
                                       {3108, 3, 60, 256},
                                       {6254, 3, 61, 512},
                                       {11457, 3, 67, 1024},
                                       {19221, 3, 81, 2048}},
                                      {{1168, 3, 75, 128},
                                       {2891, 3, 65, 256},
                                       {6344, 3, 60, 512},
                                       {12637, 3, 61, 1024},
                                       {23042, 3, 67, 2048}}};
    for (int row = 0; row < 5; row++)
        for (int column = 0; column < 5; column++) {
            const check_setting settings[] = {{"token_budget", 256 << column, NULL},
                                              {"split_length", 8192 << row, NULL},
                                              {NULL, 0, NULL}};
            const split seen = look_at_split(settings);
            CU_ASSERT_EQUAL(memcmp(&seen, &table[row][column], sizeof seen), 0);
            CU_ASSERT_EQUAL(seen_temperature, WN_TEMPERATURE_SPARQ);
        }
    CU_ASSERT_STRING_EQUAL(check_plugin_last_log(),
                           "3 rocket: token_budget 4096 at 131072 tokens: prompt_budget 23042, "
                           "page_size 3, topr 67, topk 2048 tokens");
    /* Unset, the length is the model's; a budget of everything takes everything. */
    const check_setting unset[] = {
        {"token_budget", 256, NULL}, {"temperature", 0, "plain"}, {NULL, 0, NULL}};
    split seen = look_at_split(unset);
    CU_ASSERT_EQUAL(memcmp(&seen, &table[4][0], sizeof seen), 0);
    CU_ASSERT_EQUAL(seen_temperature, WN_TEMPERATURE_PLAIN);
    const check_setting all[] = {{"token_budget", 8192, NULL},
                                 {"split_length", 4096, NULL},
                                 {"max_new_tokens", 96, NULL},
                                 {NULL, 0, NULL}};
    const split whole = {4000, 1, 128, 4096};
    seen = look_at_split(all);
    CU_ASSERT_EQUAL(memcmp(&seen, &whole, sizeof seen), 0);
}

static void contradictions_are_named(void)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_heads = 4,
                            .num_kv_heads = 2,
                            .head_dim = 8,
                            .max_position = 4096};
    wn_value values[CHECK_MAX_FIELDS];
    const check_setting derived[] = {{"token_budget", 256, NULL},
                                     {"prompt_budget", 2048, NULL},
                                     {"page_size", 4, NULL},
                                     {"topr", 4, NULL},
                                     {"topk", 64, NULL},
                                     {"topk_unit", 0, "landmark"},
                                     {NULL, 0, NULL}};
    check_plugin_values(&plugin, derived, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(&plugin, &model, values),
        "both token_budget and prompt_budget are set; token_budget derives prompt_budget: keep "
        "one\n"
        "both token_budget and page_size are set; token_budget derives page_size: keep one\n"
        "both token_budget and topr are set; token_budget derives topr: keep one\n"
        "both token_budget and topk are set; token_budget derives topk: keep one\n"
        "topk_unit is landmark; token_budget derives topk in tokens: leave it out");
    const check_setting pointless[] = {
        {"split_length", 4096, NULL}, {"max_new_tokens", 128, NULL}, {NULL, 0, NULL}};
    check_plugin_values(&plugin, pointless, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(&plugin, &model, values),
        "split_length is set without token_budget, which alone uses it\n"
        "max_new_tokens is set without token_budget or multi_turn, which alone use it");
    const check_setting small[] = {{"token_budget", 16, NULL},
                                   {"split_length", 150, NULL},
                                   {"local_landmarks", 9, NULL},
                                   {NULL, 0, NULL}};
    check_plugin_values(&plugin, small, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(&plugin, &model, values),
                           "token_budget's prompt_budget is 22; it must be above window_size, 32, "
                           "which is part of it\n"
                           "local_landmarks is 9, which is 36 tokens; it must be at most "
                           "token_budget's topk, 8 tokens, "
                           "which it is part of");
    const check_setting shorter[] = {{"token_budget", 16, NULL},
                                     {"split_length", 128, NULL},
                                     {"window_size", 1, NULL},
                                     {NULL, 0, NULL}};
    check_plugin_values(&plugin, shorter, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(&plugin, &model, values),
        "max_new_tokens is 128; with token_budget it must be below split_length, 128, which it is "
        "part of");
    const check_setting local[] = {{"topk_unit", 0, "token"},
                                   {"topk", 11, NULL},
                                   {"local_landmarks", 3, NULL},
                                   {NULL, 0, NULL}};
    check_plugin_values(&plugin, local, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(&plugin, &model, values),
                           "local_landmarks is 3, which is 12 tokens; it must be at most topk, 11 "
                           "tokens, which it is part of");
}

/* ---------------------------------------------------------------- turns */

static const keys turns[] = {
    {8, 7, 48, 4, 64, 6, 0, "float8_e5m2", "prefix", "landmark", "plain", 1, 0},
    {8, 7, 47, 3, 10, 16, 0, "float32", "full", "token", "sparq", 1, 0},
    {8, 7, 41, 5, 10, 4, 1, "bfloat16", "full", "landmark", "plain", 1, 0},
    {8, 7, 20, 1, 10, 12, 3, "bfloat16", "full", "token", "sparq", 1, 30}};
enum { NUM_TURNS = sizeof turns / sizeof turns[0] };

/* Prompts of all sizes, long after short and short after long, with answers between. */
static void several_turns(void)
{
    static const int32_t prompts[][4] = {{100, 0, 5, 48}, {5, 20, 60, 1}, {30, 70, 0, 12}};
    const check_shape shape = shape_of(3, 2, 16, 4, 8);
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[MAX_BATCH];
        make_tokens(&shape, 3, 1700 + i, tokens);
        check_host *host = make_host(&shape, &turns[i], tokens);
        for (size_t turn = 0; turn < 3; turn++)
            run(host, &turns[i], prompts[turn], 7);
        CU_ASSERT_EQUAL(host->physical[0], host->logical[0]);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* With one turn, what is chosen from the view is what is chosen after an eviction. */
static void one_turn_equals_eviction(void)
{
    const check_shape shape = shape_of(2, 2, 16, 3, 8);
    const int32_t lengths[] = {120, 30, 70}, counts[][3] = {{1, 1, 1}, {3, 1, 2}, {1, 1, 1}};
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[MAX_BATCH];
        keys single = turns[i];
        single.multi_turn = single.max_new = 0;
        make_tokens(&shape, 3, 1800 + i, tokens);
        check_host *evicts = make_host(&shape, &single, tokens);
        check_host *views = make_host(&shape, &turns[i], tokens);
        run(evicts, &single, lengths, 0);
        run(views, &turns[i], lengths, 0);
        for (size_t step = 0; step < 3; step++) {
            uint32_t row = 0;
            CU_ASSERT_EQUAL_FATAL(check_host_append(evicts, WN_PHASE_GENERATION, counts[step]), 0);
            CU_ASSERT_EQUAL_FATAL(check_host_append(views, WN_PHASE_GENERATION, counts[step]), 0);
            CU_ASSERT_EQUAL_FATAL(check_host_select(evicts), WN_OK);
            CU_ASSERT_EQUAL_FATAL(check_host_select(views), WN_OK);
            for (uint32_t b = 0; b < 3; b++)
                for (int32_t t = 0; t < counts[step][b]; t++, row++)
                    for (uint32_t h = 0; h < 2; h++) {
                        const int32_t *blocks, *slots, size = (int32_t)evicts->selection.block_size;
                        const int32_t seen = evicts->physical[b] - counts[step][b] + t + 1;
                        const int64_t n = check_host_list(evicts, row, h, &blocks);
                        const int64_t m = check_host_list(views, row, h, &slots);
                        int64_t at = 0;
                        for (int64_t e = 0; e < n; e++)
                            for (int32_t s = blocks[e] * size; s < (blocks[e] + 1) * size; s++)
                                if (s < seen && at < m)
                                    CU_ASSERT_EQUAL(check_host_token(evicts, b, h, s), slots[at++]);
                        CU_ASSERT_EQUAL(at, m);
                    }
        }
        check_host_destroy(evicts);
        check_host_destroy(views);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Chunks before the end leave nothing behind; speculative rows equal sequential ones. */
static void chunked_turns_and_speculation(void)
{
    static const int32_t chunks[][2] = {{17, 40}, {1, 0}, {60, 30}};
    static const int32_t counts[][2] = {{3, 1}, {1, 5}, {9, 2}, {1, 1}};
    const check_shape shape = shape_of(2, 2, 16, 2, 8);
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[MAX_BATCH];
        make_tokens(&shape, 3, 1900 + i, tokens);
        check_host *host = make_host(&shape, &turns[i], tokens);
        for (size_t turn = 0; turn < 2; turn++) {
            for (size_t c = 0; c < 3 - turn; c++)
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, chunks[c]), WN_OK);
            CU_ASSERT_EQUAL_FATAL(end_prompts(host, &turns[i]), WN_OK);
            for (size_t c = 0; c < 4; c++) {
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, counts[c]),
                                      WN_OK);
                select_and_compare(host, &turns[i]);
            }
        }
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

/* Of a view whose prompt was cut to `length`, what is left, and the newest slots for what is not.
 */
static void cut_views(const check_shape *shape, const keys *key, int32_t length)
{
    for (uint32_t h = 0; h < shape->num_kv_heads; h++) {
        uint8_t stays[MAX_LENGTH] = {0};
        int32_t count = 0, wanted = length < key->budget ? length : key->budget;
        for (int32_t i = 0; i < num_kept[0]; i++)
            if (kept[0][h][i] < length)
                count += stays[kept[0][h][i]] = 1;
        for (int32_t slot = length - 1; count < wanted; slot--) {
            count += !stays[slot];
            stays[slot] = 1;
        }
        count = 0;
        for (int32_t slot = 0; slot < length; slot++)
            if (stays[slot])
                kept[0][h][count++] = slot;
    }
    num_kept[0] = length < key->budget ? length : key->budget;
    tail[0] = length;
}

/* Truncations within the answer, then into the prompt, then below the budget. */
static void truncated_views(void)
{
    static const int32_t truncations[] = {2, 9, 30, 60}; /* of 100 + 7 tokens, and 7 after each */
    const check_shape shape = shape_of(2, 2, 16, 1, 8);
    const int32_t length = 100, one = 1;
    for (size_t i = 0; i < NUM_TURNS; i++) {
        check_tokens tokens[1];
        make_tokens(&shape, 3, 2000 + i, tokens);
        check_host *host = make_host(&shape, &turns[i], tokens);
        float *k = (float *)tokens[0].k;
        const size_t row = (size_t)shape.num_kv_heads * shape.head_dim;
        run(host, &turns[i], &length, 7);
        for (size_t t = 0; t < 4; t++) {
            check_host_truncate(host, 0, truncations[t]);
            if (host->physical[0] < tail[0])
                cut_views(&shape, &turns[i], host->physical[0]);
            for (size_t at = (size_t)host->physical[0] * row; at < shape.max_length * row; at++)
                k[at] = -k[at]; /* other tokens take their places */
            for (int step = 0; step < 7; step++) {
                CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
                select_and_compare(host, &turns[i]);
            }
        }
        run(host, &turns[i], &length, 3);
        check_host_destroy(host);
        check_free_tokens(tokens, 1);
    }
}

/* An answer longer than there is room for. */
static void too_long_an_answer(void)
{
    const check_shape shape = shape_of(2, 2, 16, 1, 8);
    const int32_t length = 100, ten = 10, one = 1;
    check_tokens tokens[1];
    keys key = turns[0];
    key.max_new = 20;
    make_tokens(&shape, 3, 2100, tokens);
    check_host *host = make_host(&shape, &key, tokens);
    run(host, &key, &length, 0);
    for (int i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &ten), WN_OK);
    select_and_compare(host, &key);
    CU_ASSERT_EQUAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_ERANGE);
    CU_ASSERT_STRING_EQUAL(
        host->error_text, "rocket: layer 0, sequence 1000: 21 tokens since the prompt's end, where "
                          "max_new_tokens leaves room for 20: raise it, or leave it out for any "
                          "number");
    check_host_truncate(host, 0, 5);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, &one), WN_OK);
    select_and_compare(host, &key);
    run(host, &key, &ten, 7); /* a new prompt, new room */
    check_host_destroy(host);
    check_free_tokens(tokens, 1);
}

/* Sets a channel of the keys, or of the queries, of tokens [first, end). */
static void plant(const check_shape *shape, const float *values, uint32_t heads, int32_t first,
                  int32_t end, uint32_t channel, float value)
{
    for (int32_t t = first; t < end; t++)
        for (uint32_t h = 0; h < heads; h++)
            ((float *)values)[((size_t)t * heads + h) * shape->head_dim + channel] = value;
}

/* Three tokens of the first prompt that only the second prompt asks for. What is evicted after the
 * first turn is gone; a view that is made anew finds it. */
static void a_needle_for_the_second_turn(void)
{
    const check_shape shape = shape_of(2, 1, 16, 1, 8);
    const int32_t first = 100, second = 20;
    check_tokens tokens[1];
    make_tokens(&shape, 0.5, 2200, tokens);
    plant(&shape, tokens[0].k, 1, 0, 200, 0, 0);
    plant(&shape, tokens[0].q, 2, 0, 101, 0, -8);  /* the first turn looks away */
    plant(&shape, tokens[0].q, 2, 101, 200, 0, 8); /* the second looks for it */
    plant(&shape, tokens[0].k, 1, 30, 53, 0, 4);   /* neighbours that do not keep it */
    plant(&shape, tokens[0].k, 1, 40, 43, 0, 8);
    for (int multi_turn = 0; multi_turn < 2; multi_turn++) {
        keys key = turns[0];
        int found = 0;
        const int32_t *list;
        key.multi_turn = multi_turn;
        check_host *host = make_host(&shape, &key, tokens);
        run(host, &key, &first, 1);
        run(host, &key, &second, 1);
        const int64_t count = check_host_list(host, 0, 0, &list);
        for (int64_t i = 0; i < count; i++)
            for (int32_t s = list[i] * (int32_t)host->selection.block_size;
                 s < (list[i] + 1) * (int32_t)host->selection.block_size && s < host->physical[0];
                 s++) {
                const int32_t token = check_host_token(host, 0, 0, s);
                found += token >= 40 && token < 43;
            }
        CU_ASSERT_EQUAL(found, multi_turn ? 3 : 0);
        check_host_destroy(host);
    }
    check_free_tokens(tokens, 1);
}

/* Queries, keys and values of a language model on text (tests/data/README.md). */
static void recorded_trace(void)
{
    static const keys variants[] = {
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
    CU_ASSERT_FATAL(q_shape[0] <= MAX_LENGTH && k_shape[1] <= MAX_HEADS);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        check_host *host = make_host(&shape, &variants[i], &tokens);
        run(host, &variants[i], &context, (int32_t)q_shape[0] - context);
        check_oracle(host, 0);
        check_host_destroy(host);
    }
    check_free_tokens((check_tokens[]){tokens}, 1);
    check_recording_close(&trace);
}

static void open_plugin(void)
{
    plugin = check_plugin_open("rocket");
    CU_ASSERT(plugin.predictor != NULL && plugin.aux_pool != NULL && plugin.kernel_hook == NULL);
}

static void close_plugin(void)
{
    check_plugin_close(&plugin);
}

WN_SUITE("plugins.rocket", {"opens", open_plugin}, {"rules are checked", rules_are_checked},
         {"equals the reference", equals_reference}, {"every key matters", every_key_matters},
         {"bfloat16 model", bfloat16_model},
         {"ties go to the lower index", ties_go_to_the_lower_index},
         {"NaN is never chosen", nan_is_never_chosen},
         {"chunks equal one shot", chunks_equal_one_shot},
         {"speculative rows equal sequential ones", speculative_rows_equal_sequential},
         {"truncated tokens leave no trace", truncated_tokens_leave_no_trace},
         {"second turn", second_turn}, {"a lost query is an error", lost_query_is_an_error},
         {"greatest budgets keep everything", greatest_budgets_keep_everything},
         {"oracle identity", oracle_identity}, {"tokens and temperature", tokens_and_temperature},
         {"odd landmarks across pages", odd_landmarks_across_pages},
         {"tied tokens go to the lowest", tied_tokens_go_to_the_lowest},
         {"enough equals dense", enough_equals_dense},
         {"budgets are split as in the paper", budgets_are_split_as_in_the_paper},
         {"contradictions are named", contradictions_are_named}, {"several turns", several_turns},
         {"one turn equals eviction", one_turn_equals_eviction},
         {"chunked turns and speculation", chunked_turns_and_speculation},
         {"truncated views", truncated_views}, {"too long an answer", too_long_an_answer},
         {"a needle for the second turn", a_needle_for_the_second_turn},
         {"recorded trace", recorded_trace}, {"closes", close_plugin})
