/* validate_identity.c: the test oracle-identity: the identity of validate_oracle.h over geometries,
 * budgets and, for methods that decide inside the kernel, their numbers. */
#include "tools/validate_oracle.h"
#include "winnow/plugin.h"

#include <math.h>
#include <string.h>

enum { PROMPT = 140, STEPS = 3, TOKENS = PROMPT + STEPS };

/* Query heads per KV head 1, 3, 4; head dims around a vector's; pages. v_head_dim TOKENS: a probe.
 */
static const struct geometry {
    uint32_t heads, kv_heads, head_dim, v_head_dim, tokens_per_page;
} geometries[] = {
    {2, 2, 8, 8, 16},       {3, 1, 64, 64, 32},     {8, 2, 16, 16, 8},
    {2, 2, 64, TOKENS, 16}, {4, 1, 32, TOKENS, 64},
};
enum { NUM_GEOMETRIES = sizeof geometries / sizeof geometries[0] };

/* What has been seen so far, over all runs. */
typedef struct findings {
    uint64_t runs, left_out;
    int has_hook; /* it may leave keys out where no choice tells: only a probe shows them */
} findings;

static uint32_t interfaces_of(const wn_stage_plugin *plugin)
{
    wn_plugin_info info = {.struct_size = WN_SIZEOF(wn_plugin_info)};
    for (uint32_t i = 0; i < wn_registry_count(plugin->registry); i++)
        if (wn_registry_info(plugin->registry, i, &info) == WN_OK && info.problem == NULL &&
            strcmp(info.algorithm, plugin->algorithm) == 0)
            return info.interfaces;
    return 0;
}

static void build_model(const struct geometry *geometry, wn_model *model)
{
    model->num_heads = geometry->heads;
    model->num_kv_heads = geometry->kv_heads;
    model->head_dim = geometry->head_dim;
    model->v_head_dim = geometry->v_head_dim;
    model->softmax_scale = 1.0f / sqrtf((float)geometry->head_dim);
}

/* One run and its judgement. A configuration that this model cannot have, and steps that fail, are
 * other tests' subjects. */
static wn_outcome examine(wn_trial *trial, const wn_stage_plugin *plugin,
                          const struct geometry *geometry, const wn_budgets *budgets,
                          findings *found)
{
    wn_play play;
    wn_play_report report;
    char reason[512];
    const wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                       .tokens_per_page = geometry->tokens_per_page,
                                       .max_tokens = 1024,
                                       .max_sequences = 2,
                                       .max_step_tokens = 256};
    int probe = geometry->v_head_dim == TOKENS;
    uint32_t mode = probe ? WN_PLAY_PROBE : WN_PLAY_WHOLE;
    if ((found->has_hook && !probe) || !wn_stage_accepts(plugin, budgets))
        return WN_PASSED;
    if (!wn_play_open(&plugin->model, trial->seed, PROMPT, STEPS, &play))
        return wn_trial_says(trial, WN_SKIPPED, "out of memory");
    wn_outcome outcome = WN_PASSED;
    if (wn_stage_perform(trial, plugin, budgets, &options, mode, &play, 1, &report) == WN_PASSED) {
        found->runs++;
        if (!report.choice_bad && !wn_oracle_holds(&plugin->model, &play, mode, found->has_hook,
                                                   &found->left_out, reason, sizeof reason))
            outcome = wn_trial_says(trial, WN_FAILED,
                                    "%u heads, %u KV heads, head dim %u, pages of "
                                    "%u: %s",
                                    geometry->heads, geometry->kv_heads, geometry->head_dim,
                                    geometry->tokens_per_page, reason);
    }
    wn_play_close(&play);
    return outcome;
}

/* A number that is no budget (a threshold, say) at several magnitudes, on the probing geometries.
 */
static wn_outcome examine_numbers(wn_trial *trial, wn_stage_plugin *plugin, findings *found)
{
    static const char *const magnitudes[] = {"0.01", "0.3", "0.9", "20"};
    wn_budgets budgets;
    for (uint32_t i = 0; i < plugin->schema->num_fields; i++) {
        const wn_config_field *field = &plugin->schema->fields[i];
        if (field->type != WN_FIELD_FLOAT && field->type != WN_FIELD_PHASE_FLOAT)
            continue;
        wn_budgets_tight(plugin, &budgets);
        for (size_t m = 0; m < sizeof magnitudes / sizeof magnitudes[0]; m++) {
            budgets.text[i] = magnitudes[m];
            for (int g = 0; g < NUM_GEOMETRIES; g++) {
                build_model(&geometries[g], &plugin->model);
                if (geometries[g].v_head_dim == TOKENS &&
                    examine(trial, plugin, &geometries[g], &budgets, found) != WN_PASSED)
                    return WN_FAILED;
            }
        }
    }
    return WN_PASSED;
}

wn_outcome wn_test_oracle_identity(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_budgets budgets;
    findings found = {0};
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    found.has_hook = (interfaces_of(&plugin) & WN_HAS_KERNEL_HOOK) != 0;
    for (int g = 0; g < NUM_GEOMETRIES; g++)
        for (int tight = 0; tight < 2; tight++) {
            build_model(&geometries[g], &plugin.model);
            if (tight)
                wn_budgets_tight(&plugin, &budgets);
            else
                wn_budgets_default(&plugin, &budgets);
            if (examine(trial, &plugin, &geometries[g], &budgets, &found) != WN_PASSED)
                return WN_FAILED;
        }
    if (found.has_hook && examine_numbers(trial, &plugin, &found) != WN_PASSED)
        return WN_FAILED;
    if (found.runs == 0)
        return wn_trial_says(trial, WN_SKIPPED,
                             "none of the test's models suits it, or no step runs");
    if (found.left_out == 0)
        return wn_trial_says(trial, WN_SKIPPED,
                             "it leaves nothing out in %llu runs, and so there is "
                             "nothing to learn from it",
                             (unsigned long long)found.runs);
    return WN_PASSED;
}
