/* test_window.c: the window plugin: which slots each query sees, in ragged batches, for several
 * query tokens, at the edges of its budgets; and what that does to the output. */
#include "attention_reference.h"
#include "check_host.h"
#include "suite.h"

#include <string.h>

static check_plugin plugin;

static const check_shape shape = {.num_heads = 6,
                                  .num_kv_heads = 2,
                                  .head_dim = 8,
                                  .dtype = WN_F32,
                                  .batch = 4,
                                  .tokens_per_page = 8,
                                  .max_length = 100,
                                  .max_step_tokens = 200};

static check_host *make_host(int32_t window, int32_t sinks, check_tokens *tokens)
{
    const check_setting settings[] = {
        {"window_size", window, NULL}, {"sink_tokens", sinks, NULL}, {NULL, 0, NULL}};
    uint64_t seed = wn_test_seed();
    for (uint32_t b = 0; b < shape.batch; b++)
        tokens[b] = check_random_tokens(&shape, (int32_t)shape.max_length, 2, &seed);
    return check_host_create(&shape, &plugin, settings, tokens, seed);
}

/* Every row of the latest selection is { j < length : j < sinks or j >= length - window }. */
static void compare(const check_host *host, int32_t window, int32_t sinks)
{
    uint32_t row = 0;
    for (uint32_t b = 0; b < shape.batch; b++)
        for (int32_t i = 0; i < host->q_len[b]; i++, row++) {
            const int32_t length = host->physical[b] - host->q_len[b] + i + 1;
            const int32_t *list;
            const int64_t count = check_host_list(host, row, b % shape.num_kv_heads, &list);
            int64_t expected = 0;
            for (int32_t slot = 0; slot < length; slot++)
                if (slot < sinks || slot >= length - window) {
                    CU_ASSERT(expected < count && list[expected] == slot);
                    expected++;
                }
            CU_ASSERT_EQUAL(count, expected);
        }
    CU_ASSERT_EQUAL(host->selection.rows, row);
}

static void rows_are_windows(void)
{
    static const int32_t budgets[][2] = {{1, 0},  {1, 1},  {5, 0},  {5, 4},
                                         {30, 4}, {31, 0}, {27, 4}, {1 << 30, 1 << 30}};
    const int32_t prompt[] = {30, 0, 1, 60}, one[] = {1, 0, 1, 1}, several[] = {3, 2, 1, 5};
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        check_tokens tokens[4];
        check_host *host = make_host(budgets[i][0], budgets[i][1], tokens);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, prompt), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
        compare(host, budgets[i][0], budgets[i][1]);
        CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, several), WN_OK);
        CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
        compare(host, budgets[i][0], budgets[i][1]);
        check_host_destroy(host);
        check_free_tokens(tokens, shape.batch);
    }
}

static void context_is_dense(void)
{
    check_tokens tokens[4];
    check_host *host = make_host(8, 4, tokens);
    uint32_t roles = 99;
    char why[100] = "";
    CU_ASSERT_EQUAL(plugin.config->lower(host->instance, 0, WN_PHASE_CONTEXT, &roles, why,
                                         sizeof why, &host->error),
                    WN_OK);
    CU_ASSERT_EQUAL(roles, 0);
    CU_ASSERT_STRING_EQUAL(why, "the prompt is attended to densely");
    CU_ASSERT_EQUAL(plugin.config->lower(host->instance, 0, WN_PHASE_GENERATION, &roles, why,
                                         sizeof why, &host->error),
                    WN_OK);
    CU_ASSERT_EQUAL(roles, WN_ROLE_SELECT);
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

/* The output over the selected slots satisfies the universal identity. */
static void oracle_identity(void)
{
    const int32_t prompt[] = {40, 3, 60, 20}, one[] = {1, 1, 1, 1};
    const uint32_t dim = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
    check_tokens tokens[4];
    check_host *host = make_host(9, 2, tokens);
    float out[4 * 6 * 8];
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_CONTEXT, prompt), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_append(host, WN_PHASE_GENERATION, one), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_select(host), WN_OK);
    CU_ASSERT_EQUAL_FATAL(check_host_attend(host, &host->selection, NULL, out, NULL), WN_OK);
    for (uint32_t b = 0; b < shape.batch; b++)
        for (uint32_t head = 0; head < shape.num_heads; head++) {
            double q[8], k[100 * 8], v[100 * 8], sparse[8];
            uint8_t attended[100];
            const int32_t n = host->physical[b];
            for (int32_t t = 0; t < n; t++) {
                attended[t] = t < 2 || t >= n - 9;
                for (uint32_t c = 0; c < dim; c++) {
                    const uint32_t from =
                        ((uint32_t)t * shape.num_kv_heads + head / group) * dim + c;
                    k[(uint32_t)t * dim + c] = tokens[b].k[from];
                    v[(uint32_t)t * dim + c] = tokens[b].v[from];
                }
            }
            for (uint32_t c = 0; c < dim; c++) {
                q[c] = tokens[b].q[((uint32_t)(n - 1) * shape.num_heads + head) * dim + c];
                sparse[c] = out[(b * shape.num_heads + head) * dim + c];
            }
            CU_ASSERT(attention_oracle_violation(q, k, v, n, (int32_t)dim,
                                                 host->model.softmax_scale, attended,
                                                 sparse) < 1e-6);
        }
    check_host_destroy(host);
    check_free_tokens(tokens, shape.batch);
}

static void open_plugin(void)
{
    plugin = check_plugin_open("window");
    CU_ASSERT(plugin.predictor != NULL && plugin.aux_pool == NULL && plugin.kernel_hook == NULL);
}

static void close_plugin(void)
{
    check_plugin_close(&plugin);
}

WN_SUITE("plugins.window", {"opens", open_plugin}, {"rows are windows", rows_are_windows},
         {"the context phase is dense", context_is_dense}, {"oracle identity", oracle_identity},
         {"closes", close_plugin})
