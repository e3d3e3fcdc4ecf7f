/* rocket.c: RocketKV's face towards the host: note, schema, rules between keys, and which stage
 * works in which phase. Key names and defaults are TensorRT-LLM's where it has them. */
#include "rocket.h"

#include <stdlib.h>
#include <string.h>

WN_PLUGIN_NOTE("rocket", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_AUX_POOL,
               WN_DEVICES_CPU,
               "RocketKV: evicts most of the prompt, then selects by min/max landmarks");

enum {
    WINDOW_SIZE,
    KERNEL_SIZE,
    PROMPT_BUDGET,
    PAGE_SIZE,
    TOPR,
    TOPK,
    KT_CACHE_DTYPE,
    SCORE_SOFTMAX,
    LOCAL_LANDMARKS,
    NUM_FIELDS
};

static const char *const dtype_names[] = {"float8_e5m2", "bfloat16", "float32", NULL};
static const uint32_t dtypes[] = {WN_F8_E5M2, WN_BF16, WN_F32};
static const char *const softmax_names[] = {"prefix", "full", NULL};
static const uint32_t softmaxes[] = {WN_SCORES_PREFIX, WN_SCORES_FULL};

#define INT_FIELD(flags_, name_, unit_, default_, least_, greatest_, help_)                        \
    {                                                                                              \
        WN_SIZEOF(wn_config_field), WN_FIELD_INT, flags_, 0, name_, unit_, help_, default_,        \
            least_, greatest_, NULL                                                                \
    }
#define ENUM_FIELD(name_, names_, default_, help_)                                                 \
    {                                                                                              \
        WN_SIZEOF(wn_config_field), WN_FIELD_ENUM, 0, 0, name_, "", help_, default_, 0, 0, names_  \
    }

static const wn_config_field fields[NUM_FIELDS] = {
    [WINDOW_SIZE] = INT_FIELD(0, "window_size", "tokens", "32", 1, WN_MAX_WINDOW_ROWS,
                              "last tokens of the prompt, which judge the others and always stay"),
    [KERNEL_SIZE] = INT_FIELD(0, "kernel_size", "tokens", "63", 1, 65535,
                              "width of the max-pool over the prompt's scores; odd"),
    [PROMPT_BUDGET] = INT_FIELD(WN_FIELD_BUDGET, "prompt_budget", "tokens", "2048", 1, 1 << 30,
                                "tokens kept per KV head after the prompt, the window included"),
    [PAGE_SIZE] = INT_FIELD(0, "page_size", "tokens", "4", 1, 1024, "tokens per landmark"),
    [TOPR] = INT_FIELD(0, "topr", "channels", "128", 1, WN_MAX_HEAD_DIM,
                       "query channels that score landmarks; head_dim or more: all"),
    [TOPK] = INT_FIELD(WN_FIELD_BUDGET, "topk", "landmarks", "64", 1, 1 << 30,
                       "landmarks selected per generated token and KV head"),
    [KT_CACHE_DTYPE] =
        ENUM_FIELD("kt_cache_dtype", dtype_names, "float8_e5m2", "how landmarks are stored"),
    [SCORE_SOFTMAX] = ENUM_FIELD("score_softmax", softmax_names, "prefix",
                                 "prompt scores are normalised over the prefix or the full prompt"),
    [LOCAL_LANDMARKS] = INT_FIELD(0, "local_landmarks", "landmarks", "0", 0, 1 << 30,
                                  "newest landmarks, selected whatever their score"),
};

static wn_status check(const wn_model *model, const wn_value *values, const wn_reasons *reasons)
{
    wn_status status = WN_OK;
    char text[160];
    const int64_t group = model->num_heads / model->num_kv_heads;
    if (values[WINDOW_SIZE].i * group > WN_MAX_WINDOW_ROWS) {
        snprintf(text, sizeof text,
                 "window_size is %lld; with %lld query heads per KV head it can be %lld at most",
                 (long long)values[WINDOW_SIZE].i, (long long)group,
                 (long long)(WN_MAX_WINDOW_ROWS / group));
        reasons->add(reasons->context, text);
        status = WN_ECONFIG;
    }
    if (values[KERNEL_SIZE].i % 2 == 0) {
        snprintf(text, sizeof text, "kernel_size is %lld; it must be odd, to be centred on a token",
                 (long long)values[KERNEL_SIZE].i);
        reasons->add(reasons->context, text);
        status = WN_ECONFIG;
    }
    if (values[PROMPT_BUDGET].i <= values[WINDOW_SIZE].i) {
        snprintf(text, sizeof text,
                 "prompt_budget is %lld; it must be above window_size, %lld, which is part of it",
                 (long long)values[PROMPT_BUDGET].i, (long long)values[WINDOW_SIZE].i);
        reasons->add(reasons->context, text);
        status = WN_ECONFIG;
    }
    if (values[LOCAL_LANDMARKS].i > values[TOPK].i) {
        snprintf(text, sizeof text,
                 "local_landmarks is %lld; it must be at most topk, %lld, which it is part of",
                 (long long)values[LOCAL_LANDMARKS].i, (long long)values[TOPK].i);
        reasons->add(reasons->context, text);
        status = WN_ECONFIG;
    }
    return status;
}

static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    rocket *self = malloc(sizeof *self);
    if (self == NULL)
        return wn_fail(error, WN_ENOMEM, "rocket: no memory for an instance");
    *self = (rocket){
        .model = model,
        .window_size = (int32_t)values[WINDOW_SIZE].i,
        .kernel_size = (int32_t)values[KERNEL_SIZE].i,
        .prompt_budget = (int32_t)values[PROMPT_BUDGET].i,
        .page_size = (int32_t)values[PAGE_SIZE].i,
        .topr = (int32_t)values[TOPR].i,
        .topk = (int32_t)values[TOPK].i,
        .local_landmarks = (int32_t)values[LOCAL_LANDMARKS].i,
        .landmark_dtype = dtypes[values[KT_CACHE_DTYPE].i],
        .normalise = softmaxes[values[SCORE_SOFTMAX].i],
    };
    *instance = self;
    return WN_OK;
}

static const wn_log *host_log; /* NULL if the host keeps none */

/* Ties and NaN have a defined order, but a NaN score means that keys or queries hold NaN: say so,
 * here and not in a step, where nothing may log. */
static void destroy(void *instance)
{
    rocket *self = instance;
    char text[128];
    if (self != NULL && self->nan_scores > 0 && host_log != NULL) {
        snprintf(text, sizeof text, "%lld landmark scores were NaN and counted as -inf",
                 (long long)self->nan_scores);
        host_log->write(WN_LOG_WARNING, "rocket", text);
    }
    free(self);
}

static wn_status lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    (void)instance, (void)layer, (void)why, (void)why_capacity, (void)error;
    *roles = phase == WN_PHASE_CONTEXT ? WN_ROLE_RETAIN : WN_ROLE_SELECT;
    return WN_OK;
}

/* One context step retains for up to `batch` requests; one generation step selects a row for each
 * query token. */
static wn_status bounds(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    const rocket *self = instance;
    const uint64_t heads = self->model->num_kv_heads;
    (void)layer, (void)error;
    uint64_t needed;
    if (limits->phase == WN_PHASE_CONTEXT) {
        int32_t kept = rocket_retained_count(instance, (int32_t)limits->max_length);
        out->retain_indices = heads * limits->batch * (uint64_t)kept;
        needed = rocket_retain_workspace(self, limits);
    } else {
        int32_t width = rocket_select_width(self, (int32_t)limits->max_length);
        out->select_indices = heads * limits->tokens * (uint64_t)width;
        needed = rocket_select_workspace(self, limits);
    }
    out->workspace_bytes = rocket_observe_workspace(limits);
    if (needed > out->workspace_bytes)
        out->workspace_bytes = needed;
    return WN_OK;
}

static const wn_config_interface config = {
    WN_SIZEOF(wn_config_interface), NUM_FIELDS, fields, NULL, check, create, destroy, lower};
static const wn_predictor_interface predictor = {
    .struct_size = WN_SIZEOF(wn_predictor_interface),
    .bounds = bounds,
    .retained_count = rocket_retained_count,
    .retain = rocket_retain,
    .select = rocket_select,
};
static const wn_aux_pool_interface aux_pool = {
    .struct_size = WN_SIZEOF(wn_aux_pool_interface),
    .declare = rocket_declare,
    .observe = rocket_observe,
};

static const void *get_interface(const char *id)
{
    if (strcmp(id, WN_INTERFACE_CONFIG) == 0)
        return &config;
    if (strcmp(id, WN_INTERFACE_PREDICTOR) == 0)
        return &predictor;
    return strcmp(id, WN_INTERFACE_AUX_POOL) == 0 ? &aux_pool : NULL;
}

static const wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, "rocket", "1.0",
                                 get_interface};

const wn_plugin *wn_plugin_entry(const wn_host *host)
{
    if (host->abi_min > WN_ABI_VERSION || WN_ABI_VERSION > host->abi_max) {
        wn_fail(host->error, WN_EABI, "rocket speaks ABI %u.%u and this host does not: rebuild it",
                WN_ABI_MAJOR, WN_ABI_MINOR);
        return NULL;
    }
    host_log = host->get_service(WN_SERVICE_LOG);
    return &plugin;
}
