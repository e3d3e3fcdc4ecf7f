/* plan.c: who does what on which layer. Makes an instance of each configured method, asks it what
 * it claims (config.lower), refuses roles that are claimed twice, and puts layers that evict alike
 * into groups. A refusal collects every reason. */
#include "core/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint32_t role;
    const char *name;
} role_names[] = {{WN_ROLE_RETAIN, "retain"},
                  {WN_ROLE_SELECT, "select"},
                  {WN_ROLE_TILE_POLICY, "tile_policy"},
                  {WN_ROLE_ATTEND, "attend"}};
#define NUM_ROLES (sizeof role_names / sizeof role_names[0])
static const char *const phase_names[WN_PHASE_COUNT] = {"context", "generation"};

static uint32_t layer_number(const wn_engine *engine, uint32_t layer)
{
    return engine->model.layer_number != NULL ? engine->model.layer_number[layer] : layer;
}

/* ---------------------------------------------------------------- instances */

static void note_error(wn_reason_list *reasons, const char *what, const wn_error *error)
{
    wn_reason_add(reasons, "%s: %s", what, error->text[0] != 0 ? error->text : "no reason given");
}

static wn_status instantiate(wn_engine *engine, wn_registry *registry, const wn_config *config,
                             uint32_t index, wn_reason_list *reasons)
{
    const wn_method_config *entry = wn_config_method(config, index);
    char text[2048] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    wn_method *method = &engine->methods[engine->num_methods];
    memset(method, 0, sizeof *method);
    method->config = entry;

    wn_status status = wn_registry_acquire(registry, entry->algorithm, &method->plugin, &error);
    if (status != WN_OK) {
        wn_reason_add(reasons, "%s:%u:%u: algorithm \"%s\": %s", wn_config_name(config),
                      entry->line, entry->column, entry->algorithm, text);
        return status;
    }
    engine->num_methods++; /* from here on wn_plan_release cleans up */
    method->algorithm = method->plugin->plugin->algorithm;
    const wn_config_interface *schema = method->plugin->config;
    method->num_values = schema->num_fields;
    for (; schema->inputs != NULL && schema->inputs[method->num_inputs] != NULL;)
        method->num_inputs++;
    if (method->num_inputs > WN_MAX_INPUTS)
        wn_reason_add(reasons, "%s: needs %u extra inputs; %u are possible", method->algorithm,
                      method->num_inputs, (unsigned)WN_MAX_INPUTS);
    if (!(method->plugin->note.devices & WN_DEVICES_CPU))
        wn_reason_add(reasons, "algorithm \"%s\" does not run on the CPU (%s)", method->algorithm,
                      method->plugin->path);
    status = wn_config_bind(config, index, schema, &method->values, reasons);
    if (status != WN_OK)
        return status;

    char prefix[80];
    snprintf(prefix, sizeof prefix, "%s: ", method->algorithm);
    wn_reason_adapter adapter;
    wn_reason_adapter_init(&adapter, reasons, prefix);
    uint32_t before = reasons->count;
    if (schema->check != NULL) {
        status = schema->check(&engine->model, method->values, &adapter.reasons);
        if (status != WN_OK && reasons->count == before)
            wn_reason_add(reasons, "%s: refused its configuration without a reason",
                          method->algorithm);
        if (status != WN_OK)
            return status;
    }
    status = schema->create(&engine->model, method->values, &method->instance, &error);
    if (status != WN_OK)
        note_error(reasons, method->algorithm, &error);
    return status;
}

/* ---------------------------------------------------------------- roles */

/* What a claimed role needs of the plugin; NULL if it is all there. */
static const char *missing_for(const wn_loaded_plugin *plugin, uint32_t role)
{
    const wn_predictor_interface *predictor = plugin->predictor;
    const wn_kernel_hook_interface *hook = plugin->kernel_hook;
    switch (role) {
    case WN_ROLE_RETAIN:
        return predictor && predictor->retain && predictor->retained_count && predictor->bounds
                   ? NULL
                   : "predictor.retain, retained_count and bounds";
    case WN_ROLE_SELECT:
        return predictor && predictor->select && predictor->bounds ? NULL
                                                                   : "predictor.select and bounds";
    case WN_ROLE_TILE_POLICY:
        return hook && hook->tile_policy ? NULL : "kernel_hook.tile_policy";
    default:
        return hook && hook->attend ? NULL : "kernel_hook.attend";
    }
}

static wn_layer_method **owner_of(wn_phase_plan *plan, uint32_t role)
{
    switch (role) {
    case WN_ROLE_RETAIN:
        return &plan->retain;
    case WN_ROLE_SELECT:
        return &plan->select;
    case WN_ROLE_TILE_POLICY:
        return &plan->tile_policy;
    default:
        return &plan->attend;
    }
}

/* Text of one layer's plan, for wn_engine_plan. */
typedef struct plan_line {
    char text[WN_PHASE_COUNT][1024];
} plan_line;

static void append_text(char *text, size_t capacity, const char *piece)
{
    size_t used = strlen(text);
    snprintf(text + used, capacity - used, "%s%s", used > 0 ? ", " : "", piece);
}

/* Asks one method about one layer and phase; adds what it says to the layer. */
static wn_status lower(wn_engine *engine, wn_layer *layer, uint32_t layer_index, uint32_t phase,
                       wn_layer_method *on_layer, plan_line *line, wn_reason_list *reasons)
{
    wn_method *method = on_layer->method;
    char why[512] = "", text[1024] = "", piece[1200];
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    uint32_t roles = 0;
    wn_status status = method->plugin->config->lower(method->instance, layer_index, phase, &roles,
                                                     why, sizeof why, &error);
    why[sizeof why - 1] = 0;
    if (status != WN_OK) {
        note_error(reasons, method->algorithm, &error);
        return status;
    }
    if (roles == 0) {
        snprintf(piece, sizeof piece, "dense (%s: %s)", method->algorithm,
                 why[0] != 0 ? why : "no reason given");
        append_text(line->text[phase], sizeof line->text[phase], piece);
        return WN_OK;
    }
    if (!(method->config->phases & 1u << phase)) {
        snprintf(piece, sizeof piece, "no %s (limited by phases:)", method->algorithm);
        append_text(line->text[phase], sizeof line->text[phase], piece);
        return WN_OK;
    }
    uint32_t conflicts = 0;
    for (uint32_t i = 0; i < NUM_ROLES; i++) {
        uint32_t role = role_names[i].role;
        if (!(roles & role))
            continue;
        const char *missing = missing_for(method->plugin, role);
        wn_layer_method **owner = owner_of(&layer->phase[phase], role);
        if (missing != NULL) {
            wn_reason_add(reasons, "%s: claims the role %s without giving %s", method->algorithm,
                          role_names[i].name, missing);
            return WN_EPLUGIN;
        }
        if (role == WN_ROLE_RETAIN && phase != WN_PHASE_CONTEXT) {
            wn_reason_add(reasons,
                          "%s: claims the role retain in the generation phase; it belongs "
                          "to the context phase",
                          method->algorithm);
            return WN_EPLUGIN;
        }
        if (*owner != NULL) {
            wn_reason_add(reasons,
                          "layer %u, %s phase: \"%s\" and \"%s\" both claim the role %s; "
                          "keep them apart with phases: or layers:",
                          layer_number(engine, layer_index), phase_names[phase],
                          (*owner)->method->algorithm, method->algorithm, role_names[i].name);
            conflicts++;
            continue;
        }
        *owner = on_layer;
        on_layer->roles[phase] |= role;
        snprintf(piece, sizeof piece, "%s %s", role_names[i].name, method->algorithm);
        append_text(line->text[phase], sizeof line->text[phase], piece);
    }
    return conflicts > 0 ? WN_ECONFLICT : WN_OK;
}

/* ---------------------------------------------------------------- auxiliary pools and bounds */

static wn_status declare_pools(wn_engine *engine, uint32_t layer_index, wn_layer_method *on_layer,
                               wn_reason_list *reasons)
{
    const wn_aux_pool_interface *interface = on_layer->method->plugin->aux_pool;
    wn_aux_pool pools[WN_MAX_AUX_POOLS];
    char text[1024] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    uint32_t count = 0;
    if (interface == NULL)
        return WN_OK;
    memset(pools, 0, sizeof pools);
    for (uint32_t i = 0; i < WN_MAX_AUX_POOLS; i++)
        pools[i].struct_size = WN_SIZEOF(wn_aux_pool);
    wn_status status = interface->declare(on_layer->method->instance, layer_index,
                                          engine->tokens_per_page, pools, &count, &error);
    if (status != WN_OK) {
        note_error(reasons, on_layer->method->algorithm, &error);
        return status;
    }
    if (count > WN_MAX_AUX_POOLS) {
        wn_reason_add(reasons, "%s: declares %u auxiliary pools on one layer; %u are possible",
                      on_layer->method->algorithm, count, (unsigned)WN_MAX_AUX_POOLS);
        return WN_EPLUGIN;
    }
    wn_kvcache_aux *grown = realloc(engine->aux, (engine->num_aux + count) * sizeof *grown + 1);
    if (grown == NULL)
        return WN_ENOMEM;
    engine->aux = grown;
    for (uint32_t i = 0; i < count; i++) {
        engine->aux[engine->num_aux++] = (wn_kvcache_aux){layer_index, pools[i]};
        if (pools[i].scope == WN_AUX_PAGE && !(pools[i].flags & WN_AUX_RECOMPUTABLE))
            on_layer->fixed_pool = pools[i].name;
        if (pools[i].scope == WN_AUX_PAGE)
            on_layer->aux_bytes_per_page +=
                pools[i].bytes *
                (pools[i].flags & WN_AUX_SHARED_HEADS ? 1 : engine->model.num_kv_heads);
    }
    on_layer->num_aux = count;
    return WN_OK;
}

static void widen(uint64_t *greatest, uint64_t value)
{
    if (value > *greatest)
        *greatest = value;
}

static wn_status ask_bounds(wn_engine *engine, uint32_t layer_index, uint32_t phase,
                            wn_layer_method *on_layer, wn_reason_list *reasons)
{
    const wn_predictor_interface *predictor = on_layer->method->plugin->predictor;
    if (predictor == NULL || predictor->bounds == NULL)
        return WN_OK;
    char text[1024] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    wn_step_limits limits = {WN_SIZEOF(wn_step_limits),
                             phase,
                             engine->max_batch,
                             engine->max_step_tokens,
                             engine->max_pages_per_sequence * engine->tokens_per_page,
                             engine->tokens_per_page};
    wn_step_bounds bounds = {.struct_size = WN_SIZEOF(wn_step_bounds)};
    wn_status status =
        predictor->bounds(on_layer->method->instance, layer_index, &limits, &bounds, &error);
    if (status != WN_OK) {
        note_error(reasons, on_layer->method->algorithm, &error);
        return status;
    }
    widen(&engine->bounds.workspace_bytes, bounds.workspace_bytes);
    widen(&on_layer->method->step_bytes[phase], bounds.step_bytes);
    if (on_layer->roles[phase] & WN_ROLE_SELECT) {
        widen(&engine->bounds.select_indices[phase], bounds.select_indices);
        widen(&engine->bounds.select_offsets[phase], bounds.select_offsets);
    }
    if (on_layer->roles[phase] & WN_ROLE_RETAIN)
        widen(&engine->bounds.retain_indices, bounds.retain_indices);
    return WN_OK;
}

/* ---------------------------------------------------------------- layers and groups */

/* An eviction moves keys to other slots; a pool beside them must be able to follow. */
static wn_status check_pools_follow(const wn_engine *engine, uint32_t index,
                                    wn_reason_list *reasons)
{
    const wn_layer *layer = &engine->layers[index];
    const wn_layer_method *evicts = layer->phase[WN_PHASE_CONTEXT].retain;
    wn_status status = WN_OK;
    for (uint32_t m = 0; m < layer->num_methods && evicts != NULL; m++) {
        const wn_layer_method *other = &layer->methods[m];
        if (other->fixed_pool == NULL)
            continue;
        wn_reason_add(reasons,
                      "layer %u: \"%s\" evicts keys, and the pool \"%s\" of \"%s\" cannot be "
                      "rebuilt from those that stay; keep them apart with layers:, or leave "
                      "one out",
                      layer_number(engine, index), evicts->method->algorithm, other->fixed_pool,
                      other->method->algorithm);
        status = WN_ECONFLICT;
    }
    return status;
}

/* All methods on one layer. Stops at the first method that fails, so that the same reason is not
 * repeated for every layer. */
static wn_status plan_layer(wn_engine *engine, const wn_config *config, uint32_t index,
                            plan_line *line, wn_reason_list *reasons)
{
    wn_layer *layer = &engine->layers[index];
    memset(line, 0, sizeof *line);
    layer->methods = calloc(engine->num_methods + 1, sizeof *layer->methods);
    for (uint32_t p = 0; p < WN_PHASE_COUNT; p++)
        layer->head_counters[p] = calloc(engine->model.num_heads, sizeof(wn_attend_counters));
    if (!layer->methods || !layer->head_counters[0] || !layer->head_counters[1])
        return WN_ENOMEM;
    for (uint32_t m = 0; m < engine->num_methods; m++) {
        wn_method *method = &engine->methods[m];
        uint32_t entry = 0;
        while (wn_config_method(config, entry) != method->config)
            entry++;
        if (!wn_config_method_on_layer(config, entry, layer_number(engine, index)))
            continue;
        wn_layer_method *on_layer = &layer->methods[layer->num_methods];
        on_layer->method = method;
        wn_status status = WN_OK;
        for (uint32_t p = 0; p < WN_PHASE_COUNT; p++) {
            wn_status lowered = lower(engine, layer, index, p, on_layer, line, reasons);
            status = lowered != WN_OK ? lowered : status;
        }
        if (status == WN_OK && (on_layer->roles[0] | on_layer->roles[1])) {
            layer->num_methods++;
            status = declare_pools(engine, index, on_layer, reasons);
            for (uint32_t p = 0; p < WN_PHASE_COUNT && status == WN_OK; p++)
                status = ask_bounds(engine, index, p, on_layer, reasons);
        }
        if (status != WN_OK)
            return status;
    }
    return check_pools_follow(engine, index, reasons);
}

/* Layers with the same evicting method share a group; so do all that do not evict. */
static wn_status group_layers(wn_engine *engine)
{
    uint32_t n = engine->model.num_layers;
    engine->layer_group = calloc(n, sizeof *engine->layer_group);
    engine->group_retain = calloc(n, sizeof *engine->group_retain);
    engine->group_keeps_positions = calloc(n, 1);
    if (!engine->layer_group || !engine->group_retain || !engine->group_keeps_positions)
        return WN_ENOMEM;
    for (uint32_t l = 0; l < n; l++) {
        wn_layer_method *owner = engine->layers[l].phase[WN_PHASE_CONTEXT].retain;
        wn_method *method = owner != NULL ? owner->method : NULL;
        uint32_t g = 0;
        while (g < engine->num_groups && engine->group_retain[g] != method)
            g++;
        if (g == engine->num_groups) {
            engine->group_retain[g] = method;
            engine->group_keeps_positions[g] = method != NULL || engine->keep_positions;
            engine->num_groups++;
        }
        engine->layers[l].group = engine->layer_group[l] = g;
    }
    return WN_OK;
}

static void describe(FILE *out, const wn_engine *engine, uint32_t first, uint32_t last,
                     const plan_line *line)
{
    if (first == last)
        fprintf(out, "layer %u: ", layer_number(engine, first));
    else
        fprintf(out, "layers %u..%u: ", layer_number(engine, first), layer_number(engine, last));
    for (uint32_t p = 0; p < WN_PHASE_COUNT; p++)
        fprintf(out, "%s%s: %s", p > 0 ? "; " : "", phase_names[p],
                line->text[p][0] != 0 ? line->text[p] : "dense");
    fputc('\n', out);
}

wn_status wn_plan_methods(wn_engine *engine, wn_registry *registry, const wn_config *config,
                          wn_reason_list *reasons)
{
    wn_status status = WN_OK;
    for (uint32_t i = 0; i < wn_config_num_methods(config); i++) {
        if (strcmp(wn_config_method(config, i)->algorithm, "dense") == 0)
            continue;
        if (engine->num_methods == WN_MAX_METHODS) {
            wn_reason_add(reasons, "%s: more than %u methods in one configuration",
                          wn_config_name(config), (unsigned)WN_MAX_METHODS);
            return WN_ECONFIG;
        }
        wn_status failed = instantiate(engine, registry, config, i, reasons);
        if (failed != WN_OK)
            status = failed;
    }
    if (status != WN_OK || reasons->count > 0)
        return status != WN_OK ? status : WN_ECONFIG;

    size_t bytes = 0;
    FILE *text = open_memstream(&engine->plan_text, &bytes);
    engine->layers = calloc(engine->model.num_layers, sizeof *engine->layers);
    plan_line *lines = calloc(2, sizeof *lines);
    if (text == NULL || engine->layers == NULL || lines == NULL)
        status = WN_ENOMEM;
    uint32_t first = 0;
    for (uint32_t l = 0; l < engine->model.num_layers && status == WN_OK; l++) {
        status = plan_layer(engine, config, l, &lines[1], reasons);
        if (l > 0 && memcmp(&lines[0], &lines[1], sizeof lines[0]) != 0) {
            describe(text, engine, first, l - 1, &lines[0]);
            first = l;
        }
        lines[0] = lines[1];
    }
    if (status == WN_OK) {
        describe(text, engine, first, engine->model.num_layers - 1, &lines[0]);
        status = group_layers(engine);
    }
    free(lines);
    if (text != NULL)
        fclose(text);
    if (status == WN_ENOMEM && reasons->count == 0)
        wn_reason_add(reasons, "out of memory while planning %u layers", engine->model.num_layers);
    return status;
}

void wn_plan_release(wn_engine *engine)
{
    for (uint32_t l = 0; engine->layers != NULL && l < engine->model.num_layers; l++) {
        free(engine->layers[l].methods);
        for (uint32_t p = 0; p < WN_PHASE_COUNT; p++)
            free(engine->layers[l].head_counters[p]);
    }
    for (uint32_t m = 0; m < engine->num_methods; m++) {
        wn_method *method = &engine->methods[m];
        if (method->instance != NULL)
            method->plugin->config->destroy(method->instance);
        wn_values_free(method->values, method->num_values);
        wn_registry_release(method->plugin);
    }
    free(engine->layers);
    free(engine->layer_group);
    free(engine->group_retain);
    free(engine->group_keeps_positions);
    free(engine->aux);
    free(engine->plan_text);
}
