/* check_rocket.c: see check_rocket.h. */
#include "check_rocket.h"

#include "rocket_reference.h"
#include "suite.h"

#include <string.h>

const rocket_keys rocket_usual = {8, 7, 48, 4, 64, 6, 0, "float8_e5m2", "prefix", NULL, NULL, 0, 0};
const int32_t rocket_ragged[6] = {120, 0, 48, 49, 5, 90};

static check_plugin plugin;

const check_plugin *rocket_plugin(void)
{
    if (plugin.library == NULL) {
        plugin = check_plugin_open("rocket");
        atexit(rocket_close_plugin);
    }
    return &plugin;
}

void rocket_close_plugin(void)
{
    if (plugin.library != NULL)
        check_plugin_close(&plugin);
    plugin.library = NULL;
}

check_host *rocket_make_host(const check_shape *shape, const rocket_keys *key,
                             const check_tokens *tokens, uint64_t seed)
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
    return check_host_create(shape, rocket_plugin(), settings, tokens, seed);
}

static rocket_head head_of(const check_host *host)
{
    return (rocket_head){(int32_t)(host->shape.num_heads / host->shape.num_kv_heads),
                         (int32_t)host->shape.head_dim, host->model.softmax_scale};
}

static rocket_stage1 stage1_of(const rocket_keys *key)
{
    return (rocket_stage1){key->window, key->kernel, key->budget,
                           strcmp(key->softmax, "full") == 0};
}

static rocket_stage2 stage2_of(const rocket_keys *key)
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

double *rocket_load_queries(const check_host *host, uint32_t b, uint32_t h, int32_t token,
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

void rocket_retain_and_compare(check_host *host, const rocket_keys *key)
{
    const rocket_head head = head_of(host);
    const rocket_stage1 stage = stage1_of(key);
    const uint32_t batch = host->shape.batch, heads = host->shape.num_kv_heads;
    int32_t *expected = malloc((size_t)batch * heads * (size_t)key->budget * sizeof *expected);
    uint32_t asked, row = 0;
    int32_t physical[ROCKET_MAX_BATCH];
    memcpy(physical, host->physical, batch * sizeof *physical);
    for (uint32_t b = 0; b < batch; b++)
        for (uint32_t h = 0; h < heads && physical[b] > key->budget; h++) {
            double *k = load_slots(host, b, h, NULL, physical[b]);
            double *q =
                rocket_load_queries(host, b, h, host->logical[b] - key->window, key->window);
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
static struct {
    int32_t kept[ROCKET_MAX_HEADS][ROCKET_MAX_LENGTH], num_kept;
    int32_t tail; /* the prompt's end */
} views[ROCKET_MAX_BATCH];

wn_status rocket_end_prompts(check_host *host, const rocket_keys *key)
{
    const rocket_head head = head_of(host);
    const rocket_stage1 stage = stage1_of(key);
    for (uint32_t b = 0; b < host->shape.batch; b++) {
        const int32_t length = views[b].tail = host->physical[b];
        views[b].num_kept = length < key->budget ? length : key->budget;
        for (uint32_t h = 0; h < host->shape.num_kv_heads; h++) {
            for (int32_t i = 0; i < length && length <= key->budget; i++)
                views[b].kept[h][i] = i;
            if (length <= key->budget)
                continue;
            double *k = load_slots(host, b, h, NULL, length);
            double *q =
                rocket_load_queries(host, b, h, host->logical[b] - key->window, key->window);
            rocket_reference_retain(&head, &stage, q, k, length, views[b].kept[h]);
            free(q);
            free(k);
        }
        host->q_len[b] = 0; /* a last chunk may be empty */
        host->dirty_begin[b] = length;
        host->request_flags[b] = WN_REQUEST_LAST_CHUNK;
    }
    wn_step_args args = check_host_args(host);
    return host->plugin->aux_pool->observe(host->instance, &args);
}

/* The slots below `seen` from which stage 2 chooses, in order. Returns how many. */
static int32_t view_slots(const rocket_keys *key, uint32_t b, uint32_t h, int32_t seen,
                          int32_t *slots)
{
    int32_t count = 0;
    for (int32_t i = 0; key->multi_turn && i < views[b].num_kept; i++)
        slots[count++] = views[b].kept[h][i];
    for (int32_t slot = key->multi_turn ? views[b].tail : 0; slot < seen; slot++)
        slots[count++] = slot;
    return count;
}

void rocket_cut_view(const check_host *host, const rocket_keys *key, uint32_t b)
{
    const int32_t length = host->physical[b];
    if (length >= views[b].tail)
        return;
    const int32_t wanted = length < key->budget ? length : key->budget;
    for (uint32_t h = 0; h < host->shape.num_kv_heads; h++) {
        uint8_t stays[ROCKET_MAX_LENGTH] = {0};
        int32_t *kept = views[b].kept[h], count = 0;
        for (int32_t i = 0; i < views[b].num_kept; i++)
            if (kept[i] < length)
                count += stays[kept[i]] = 1;
        for (int32_t slot = length - 1; count < wanted; slot--) {
            count += !stays[slot];
            stays[slot] = 1;
        }
        count = 0;
        for (int32_t slot = 0; slot < length; slot++)
            if (stays[slot])
                kept[count++] = slot;
    }
    views[b].num_kept = wanted;
    views[b].tail = length;
}

/* The reference's choice for one query token and KV head, as the plugin must list it: landmarks, or
 * slots. */
static int64_t expected_list(const check_host *host, const rocket_keys *key, uint32_t b, uint32_t h,
                             int32_t seen, int32_t token, int32_t *list)
{
    const rocket_head head = head_of(host);
    const rocket_stage2 stage = stage2_of(key);
    int32_t slots[ROCKET_MAX_LENGTH], chosen[ROCKET_MAX_LENGTH];
    const int32_t entries = view_slots(key, b, h, seen, slots);
    double *k = load_slots(host, b, h, slots, entries);
    double *q = rocket_load_queries(host, b, h, token, 1);
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

void rocket_select_and_compare(check_host *host, const rocket_keys *key)
{
    const int lists_slots = stage2_of(key).token || key->multi_turn;
    int32_t expected[ROCKET_MAX_LENGTH];
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

void rocket_run(check_host *host, const rocket_keys *key, const int32_t *lengths, int32_t steps)
{
    int32_t one[ROCKET_MAX_BATCH];
    for (uint32_t b = 0; b < host->shape.batch; b++)
        one[b] = lengths[b] > 0;
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, lengths), WN_OK);
    if (key->multi_turn) {
        CU_ASSERT_EQUAL_FATAL(rocket_end_prompts(host, key), WN_OK);
    } else {
        rocket_retain_and_compare(host, key);
    }
    for (int32_t step = 0; step < steps; step++) {
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
        rocket_select_and_compare(host, key);
    }
}

check_shape rocket_shape(uint32_t group, uint32_t kv_heads, uint32_t dim, uint32_t batch,
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

void rocket_make_tokens(const check_shape *shape, double size, uint64_t seed, check_tokens *tokens)
{
    for (uint32_t b = 0; b < shape->batch; b++)
        tokens[b] = check_random_tokens(shape, (int32_t)shape->max_length, size, &seed);
}
