/* test_rocket_split.c: what token_budget becomes, in numbers, seen through the plugin, and which
 * keys contradict each other. */
#include "check_rocket.h"
#include "suite.h"

#include <string.h>

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
    check_plugin_values(rocket_plugin(), settings, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(rocket_plugin(), &model, values), "");
    CU_ASSERT_EQUAL_FATAL(rocket_plugin()->config->create(&model, values, &instance, NULL), WN_OK);
    seen.budget = rocket_plugin()->predictor->retained_count(instance, 1 << 30);
    CU_ASSERT_EQUAL(rocket_plugin()->aux_pool->declare(instance, 0, 6, pools, &count, NULL), WN_OK);
    seen.page = 6 / (int32_t)(pools[0].bytes / (2 * 128)); /* landmarks of 6 tokens, in float8 */
    CU_ASSERT_EQUAL(rocket_plugin()->predictor->bounds(instance, 0, &limits, &bounds, NULL), WN_OK);
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
    CU_ASSERT_EQUAL(rocket_plugin()->predictor->select(instance, &args, &selection),
                    WN_EUNSUPPORTED);
    CU_ASSERT_EQUAL(selection.block_size, 1);
    seen.topr = seen_topr;
    free(args.workspace);
    rocket_plugin()->config->destroy(instance);
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
    check_plugin_values(rocket_plugin(), derived, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(rocket_plugin(), &model, values),
        "both token_budget and prompt_budget are set; token_budget derives prompt_budget: keep "
        "one\n"
        "both token_budget and page_size are set; token_budget derives page_size: keep one\n"
        "both token_budget and topr are set; token_budget derives topr: keep one\n"
        "both token_budget and topk are set; token_budget derives topk: keep one\n"
        "topk_unit is landmark; token_budget derives topk in tokens: leave it out");
    const check_setting pointless[] = {
        {"split_length", 4096, NULL}, {"max_new_tokens", 128, NULL}, {NULL, 0, NULL}};
    check_plugin_values(rocket_plugin(), pointless, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(rocket_plugin(), &model, values),
        "split_length is set without token_budget, which alone uses it\n"
        "max_new_tokens is set without token_budget or multi_turn, which alone use it");
    const check_setting small[] = {{"token_budget", 16, NULL},
                                   {"split_length", 150, NULL},
                                   {"local_landmarks", 9, NULL},
                                   {NULL, 0, NULL}};
    check_plugin_values(rocket_plugin(), small, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(rocket_plugin(), &model, values),
                           "token_budget's prompt_budget is 22; it must be above window_size, 32, "
                           "which is part of it\n"
                           "local_landmarks is 9, which is 36 tokens; it must be at most "
                           "token_budget's topk, 8 tokens, "
                           "which it is part of");
    const check_setting shorter[] = {{"token_budget", 16, NULL},
                                     {"split_length", 128, NULL},
                                     {"window_size", 1, NULL},
                                     {NULL, 0, NULL}};
    check_plugin_values(rocket_plugin(), shorter, values);
    CU_ASSERT_STRING_EQUAL(
        check_plugin_reasons(rocket_plugin(), &model, values),
        "max_new_tokens is 128; with token_budget it must be below split_length, 128, which it is "
        "part of");
    const check_setting local[] = {{"topk_unit", 0, "token"},
                                   {"topk", 11, NULL},
                                   {"local_landmarks", 3, NULL},
                                   {NULL, 0, NULL}};
    check_plugin_values(rocket_plugin(), local, values);
    CU_ASSERT_STRING_EQUAL(check_plugin_reasons(rocket_plugin(), &model, values),
                           "local_landmarks is 3, which is 12 tokens; it must be at most topk, 11 "
                           "tokens, which it is part of");
}

WN_SUITE("plugins.rocket_split",
         {"budgets are split as in the paper", budgets_are_split_as_in_the_paper},
         {"contradictions are named", contradictions_are_named})
