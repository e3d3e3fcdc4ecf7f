/* validate_stage.c: engines for a plugin under test, with its budgets at will. */
#include "tools/validate_stage.h"

#include "tools/validate_host.h"
#include "tools/validate_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The configuration as text; its length, or -1 if it does not fit. */
static int write_config(const wn_stage_plugin *plugin, const wn_budgets *budgets, char *text,
                        size_t capacity)
{
    char value[128];
    int used = snprintf(text, capacity, "sparse_attention_config:\n  algorithm: %s\n",
                        budgets != NULL ? plugin->algorithm : "dense");
    for (uint32_t i = 0; budgets != NULL && i < plugin->schema->num_fields; i++) {
        const wn_config_field *field = &plugin->schema->fields[i];
        const char *given = budgets->text[i] != NULL ? budgets->text[i] : value;
        if (given != value)
            ; /* taken as it is */
        else if ((field->flags & WN_FIELD_BUDGET) != 0 && !isnan(budgets->value[i]))
            snprintf(value, sizeof value,
                     field->type == WN_FIELD_INT        ? "%.0f"
                     : field->type == WN_FIELD_INT_LIST ? "[%.0f]"
                                                        : "%.17g",
                     budgets->value[i]);
        else if ((field->flags & WN_FIELD_REQUIRED) != 0)
            wn_required_text(field, value, sizeof value);
        else
            continue;
        if (used < 0 || (size_t)used >= capacity)
            return -1;
        used += snprintf(text + used, capacity - (size_t)used, "  %s: %s\n", field->name, given);
    }
    return used >= 0 && (size_t)used < capacity ? used : -1;
}

wn_config *wn_stage_config(const wn_stage_plugin *plugin, const wn_budgets *budgets)
{
    char text[8192];
    wn_config *config = NULL;
    int length = write_config(plugin, budgets, text, sizeof text);
    if (length < 0 ||
        wn_config_parse(text, (size_t)length, "validator's configuration", &config) != WN_OK)
        return NULL;
    return config;
}

int wn_stage_accepts(const wn_stage_plugin *plugin, const wn_budgets *budgets)
{
    wn_config *config = wn_stage_config(plugin, budgets);
    int fine = config != NULL &&
               wn_engine_check(plugin->registry, config, &plugin->model, NULL, NULL, NULL) == WN_OK;
    wn_config_free(config);
    return fine;
}

/* The registry must give this very file for its algorithm. */
static int find_self(wn_trial *trial, wn_stage_plugin *plugin)
{
    const char *others = NULL;
    for (uint32_t i = 0; i < wn_registry_count(plugin->registry); i++) {
        wn_plugin_info info = {.struct_size = WN_SIZEOF(wn_plugin_info)};
        if (wn_registry_info(plugin->registry, i, &info) != WN_OK || info.path == NULL)
            continue;
        char *path = realpath(info.path, NULL);
        int same = path != NULL && strcmp(path, trial->path) == 0;
        free(path);
        if (same && info.problem == NULL) {
            plugin->algorithm = info.algorithm;
            return 1;
        }
        if (same)
            others = info.problem;
    }
    wn_trial_says(trial, WN_SKIPPED, "the registry does not take it: %s",
                  others != NULL ? others : "it is not found in its directory");
    return 0;
}

int wn_stage_open(wn_trial *trial, wn_stage_plugin *plugin)
{
    char directory[4096];
    wn_budgets budgets;
    memset(plugin, 0, sizeof *plugin);
    snprintf(directory, sizeof directory, "%s", trial->path);
    *strrchr(directory, '/') = '\0';
    if (wn_registry_open(directory, &plugin->registry) != WN_OK) {
        wn_trial_says(trial, WN_SKIPPED, "no registry: %s", wn_error_text());
        return 0;
    }
    if (!find_self(trial, plugin))
        return 0;
    if (wn_registry_schema(plugin->registry, plugin->algorithm, &plugin->schema) != WN_OK) {
        wn_trial_says(trial, WN_SKIPPED, "%s", wn_error_text());
        return 0;
    }
    if (plugin->schema->num_fields > WN_STAGE_MAX_FIELDS) {
        wn_trial_says(trial, WN_SKIPPED, "more than %d fields", WN_STAGE_MAX_FIELDS);
        return 0;
    }
    wn_budgets_default(plugin, &budgets);
    for (uint32_t i = 0; wn_trial_model(i, &plugin->model); i++)
        if (wn_stage_accepts(plugin, &budgets))
            return 1;
    wn_trial_says(trial, WN_SKIPPED, "its defaults suit none of the validator's models: %s",
                  wn_error_text());
    return 0;
}

int wn_stage_needs_inputs(const wn_stage_plugin *plugin)
{
    return plugin->schema->inputs != NULL && plugin->schema->inputs[0] != NULL &&
           plugin->schema->input_shape == NULL;
}

int wn_stage_find(wn_trial *trial, wn_stage_plugin *plugin)
{
    if (!wn_stage_open(trial, plugin))
        return 0;
    if (wn_stage_needs_inputs(plugin))
        wn_trial_says(trial, WN_SKIPPED,
                      "every step must bring the model's \"%s\", and the plugin has no "
                      "input_shape to tell what it looks like",
                      plugin->schema->inputs[0]);
    return !wn_stage_needs_inputs(plugin);
}

/* ---------------------------------------------------------------- budgets */

void wn_budgets_default(const wn_stage_plugin *plugin, wn_budgets *budgets)
{
    memset(budgets, 0, sizeof *budgets);
    for (uint32_t i = 0; i < plugin->schema->num_fields; i++) {
        budgets->value[i] = NAN;
        budgets->count += (plugin->schema->fields[i].flags & WN_FIELD_BUDGET) != 0;
    }
}

void wn_budgets_greatest(const wn_stage_plugin *plugin, wn_budgets *budgets)
{
    wn_budgets_default(plugin, budgets);
    for (uint32_t i = 0; i < plugin->schema->num_fields; i++)
        budgets->value[i] = plugin->schema->fields[i].greatest;
}

void wn_budgets_tight(const wn_stage_plugin *plugin, wn_budgets *budgets)
{
    wn_budgets_default(plugin, budgets);
    for (uint32_t i = 0; i < plugin->schema->num_fields; i++) {
        const wn_config_field *field = &plugin->schema->fields[i];
        if ((field->flags & WN_FIELD_BUDGET) == 0)
            continue;
        double size = 4;
        for (; size <= 256; size *= 2) {
            double inside = fmin(fmax(size, field->least), field->greatest);
            budgets->value[i] = field->type == WN_FIELD_INT || field->type == WN_FIELD_INT_LIST
                                    ? inside
                                    : field->least + (field->greatest - field->least) * size / 1024;
            if (wn_stage_accepts(plugin, budgets))
                break;
        }
        if (size > 256)
            budgets->value[i] = NAN;
    }
}

wn_engine *wn_stage_engine(const wn_stage_plugin *plugin, const wn_budgets *budgets,
                           const wn_engine_options *options)
{
    wn_engine *engine = NULL;
    wn_config *config = wn_stage_config(plugin, budgets);
    if (config == NULL ||
        wn_engine_create(plugin->registry, config, &plugin->model, options, &engine) != WN_OK)
        engine = NULL;
    wn_config_free(config);
    return engine;
}

wn_outcome wn_stage_perform(wn_trial *trial, const wn_stage_plugin *plugin,
                            const wn_budgets *budgets, const wn_engine_options *options,
                            uint32_t mode, wn_play *plays, uint32_t count, wn_play_report *report)
{
    wn_engine *engine = wn_stage_engine(plugin, budgets, options);
    report->status = WN_ECONFIG;
    if (engine == NULL)
        return wn_trial_says(trial, WN_SKIPPED, "no engine: %s", wn_error_text());
    wn_status status = wn_play_run(engine, &plugin->model, plays, count, mode, report);
    if (status != WN_OK)
        wn_trial_says(trial, WN_SKIPPED, "a step fails: %s: %s", wn_status_text(status),
                      wn_error_text());
    wn_engine_free(engine);
    return status == WN_OK ? WN_PASSED : WN_SKIPPED;
}
