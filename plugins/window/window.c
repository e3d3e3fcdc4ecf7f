/* window.c: sliding window with token sinks. A generated token attends to the first tokens of its
 * request and to the newest ones. The smallest useful plugin: read it as the example. */
#include "winnow/plugin.h"

WN_PLUGIN_NOTE("window", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_PREDICTOR, WN_DEVICES_CPU,
               "sliding window with token sinks");

enum { WINDOW_SIZE, SINK_TOKENS, NUM_FIELDS };
static const wn_config_field fields[NUM_FIELDS] = {
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT, WN_FIELD_BUDGET, 0, "window_size", "tokens",
     "newest tokens attended to, the query's own included", "1024", 1, 1 << 30, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT, WN_FIELD_BUDGET, 0, "sink_tokens", "tokens",
     "first tokens, attended to by every query", "4", 0, 1 << 30, NULL},
};

/* The values outlive the instance, and this method has no other state: they are the instance. */
static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    (void)model, (void)error;
    *instance = (void *)values;
    return WN_OK;
}

static void destroy(void *instance)
{
    (void)instance;
}

static wn_status lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    (void)instance, (void)layer, (void)error;
    *roles = phase == WN_PHASE_GENERATION ? WN_ROLE_SELECT : 0;
    snprintf(why, why_capacity, "%s", *roles != 0 ? "" : "the prompt is attended to densely");
    return WN_OK;
}

static wn_status bounds(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    const wn_value *values = instance;
    (void)layer, (void)error;
    int64_t chosen = values[WINDOW_SIZE].i + values[SINK_TOKENS].i;
    int64_t longest = chosen < limits->max_length ? chosen : limits->max_length;
    out->select_indices = (uint64_t)limits->tokens * (uint64_t)longest;
    out->select_offsets = (uint64_t)limits->tokens + 1;
    return WN_OK;
}

/* One row per query token, one entry per slot, one list for all heads. Slots and not positions: in
 * a cache from which another method has evicted, the sinks are the first tokens that are left. */
static wn_status choose(void *instance, const wn_step_args *args, wn_selection *out)
{
    const wn_value *values = instance;
    int32_t used = 0;
    out->block_size = out->query_block = 1;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->head_stride = out->width = 0;
    out->rows = 0;
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t i = 1; i <= args->q_len[b]; i++) {
            int64_t length = args->kv.length[b] - args->q_len[b] + i; /* slots that token i sees */
            int64_t window_begin = length - values[WINDOW_SIZE].i;
            out->offsets[out->rows++] = used;
            for (int64_t slot = 0; slot < length; slot++) {
                if (slot == values[SINK_TOKENS].i && slot < window_begin)
                    slot = window_begin;
                out->indices[used++] = (int32_t)slot;
            }
        }
    out->offsets[out->rows] = used;
    return WN_OK;
}

static const wn_config_interface config = {
    WN_SIZEOF(wn_config_interface), NUM_FIELDS, fields, NULL, NULL, create, destroy, lower, NULL};
static const wn_predictor_interface predictor = {
    .struct_size = WN_SIZEOF(wn_predictor_interface), .bounds = bounds, .select = choose};

static const wn_interface interfaces[] = {
    {WN_INTERFACE_CONFIG, &config}, {WN_INTERFACE_PREDICTOR, &predictor}, {NULL, NULL}};
WN_PLUGIN_DEFINE("window", "1.0", interfaces);
