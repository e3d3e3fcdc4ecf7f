/* rocket.c: RocketKV's face towards the host: note, schema, rules between keys, and which stage
 * works in which phase. Key names and defaults are TensorRT-LLM's where it has them. */
#include "rocket.h"

#include "rocket_split.h"

#include <stdarg.h>
#include <stdio.h>
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
    TOPK_UNIT,
    KT_CACHE_DTYPE,
    SCORE_SOFTMAX,
    TEMPERATURE,
    LOCAL_LANDMARKS,
    MULTI_TURN,
    TOKEN_BUDGET,
    SPLIT_LENGTH,
    MAX_NEW_TOKENS,
    NUM_FIELDS
};

/* What token_budget assumes of max_new_tokens. */
enum { SPLIT_NEW_TOKENS = 128 };

enum { UNIT_LANDMARK, UNIT_TOKEN };
enum { SOFTMAX_PREFIX, SOFTMAX_FULL };
enum { TEMPERATURE_PLAIN, TEMPERATURE_SPARQ };
static const char *const unit_names[] = {"landmark", "token", NULL};
static const char *const dtype_names[] = {"float8_e5m2", "bfloat16", "float32", NULL};
static const uint32_t dtypes[] = {WN_F8_E5M2, WN_BF16, WN_F32};
static const char *const softmax_names[] = {"prefix", "full", NULL};
static const uint32_t softmaxes[] = {WN_SCORES_PREFIX, WN_SCORES_FULL};
static const char *const temperature_names[] = {"plain", "sparq", NULL};
static const uint32_t temperatures[] = {WN_TEMPERATURE_PLAIN, WN_TEMPERATURE_SPARQ};

#define FIELD(type_, flags_, name_, unit_, default_, least_, greatest_, names_, help_)             \
    {                                                                                              \
        WN_SIZEOF(wn_config_field), type_, flags_, 0, name_, unit_, help_, default_, least_,       \
            greatest_, names_                                                                      \
    }
#define INT_FIELD(flags_, name_, unit_, default_, least_, greatest_, help_)                        \
    FIELD(WN_FIELD_INT, flags_, name_, unit_, default_, least_, greatest_, NULL, help_)
#define ENUM_FIELD(name_, names_, default_, help_)                                                 \
    FIELD(WN_FIELD_ENUM, 0, name_, "", default_, 0, 0, names_, help_)

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
    [TOPK] = INT_FIELD(WN_FIELD_BUDGET, "topk", "", "64", 1, 1 << 30,
                       "how many, in topk_unit, are selected per generated token and KV head"),
    [TOPK_UNIT] = ENUM_FIELD("topk_unit", unit_names, "landmark",
                             "what topk counts: landmarks (TensorRT-LLM) or tokens (the paper)"),
    [KT_CACHE_DTYPE] =
        ENUM_FIELD("kt_cache_dtype", dtype_names, "float8_e5m2", "how landmarks are stored"),
    [SCORE_SOFTMAX] = ENUM_FIELD("score_softmax", softmax_names, "prefix",
                                 "prompt scores are normalised over the prefix or the full prompt"),
    [TEMPERATURE] = ENUM_FIELD("temperature", temperature_names, "plain",
                               "of landmark scores: plain, or sparq, corrected for topr"),
    [LOCAL_LANDMARKS] = INT_FIELD(0, "local_landmarks", "landmarks", "0", 0, 1 << 30,
                                  "newest landmarks, selected whatever their score"),
    [MULTI_TURN] = FIELD(WN_FIELD_BOOL, 0, "multi_turn", "", "false", 0, 1, NULL,
                         "evict nothing; choose anew at the end of every prompt"),
    [TOKEN_BUDGET] = INT_FIELD(0, "token_budget", "tokens", NULL, 16, 1 << 30,
                               "derives prompt_budget, page_size, topr and topk as the paper does"),
    [SPLIT_LENGTH] = INT_FIELD(0, "split_length", "tokens", NULL, 1, 1 << 30,
                               "prompt and answer that token_budget is for; unset: the model's "
                               "longest sequence"),
    [MAX_NEW_TOKENS] = INT_FIELD(0, "max_new_tokens", "tokens", NULL, 1, 1 << 30,
                                 "longest answer; unset: 128 for token_budget, any for multi_turn"),
};

/* ---------------------------------------------------------------- rules */

typedef struct complaints {
    const wn_reasons *reasons;
    wn_status status;
} complaints;

static void complain(complaints *to, const char *format, ...)
{
    char text[256];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    to->reasons->add(to->reasons->context, text);
    to->status = WN_ECONFIG;
}

static long long split_length(const wn_model *model, const wn_value *values)
{
    return values[SPLIT_LENGTH].is_set ? values[SPLIT_LENGTH].i : model->max_position;
}

static long long split_new_tokens(const wn_value *values)
{
    return values[MAX_NEW_TOKENS].is_set ? values[MAX_NEW_TOKENS].i : SPLIT_NEW_TOKENS;
}

/* The keys as they are meant: what token_budget derives, and the paper's defaults with it. */
static void settle(const wn_model *model, const wn_value *given, wn_value *values)
{
    memcpy(values, given, NUM_FIELDS * sizeof *values);
    if (!given[TOKEN_BUDGET].is_set)
        return;
    const rocket_split split =
        rocket_split_budget(given[TOKEN_BUDGET].i, split_length(model, given),
                            split_new_tokens(given), model->head_dim);
    values[PROMPT_BUDGET].i = split.prompt_budget;
    values[PAGE_SIZE].i = split.page_size;
    values[TOPR].i = split.topr;
    values[TOPK].i = split.topk;
    values[TOPK_UNIT].i = UNIT_TOKEN;
    if (!given[SCORE_SOFTMAX].is_set)
        values[SCORE_SOFTMAX].i = SOFTMAX_FULL;
    if (!given[TEMPERATURE].is_set)
        values[TEMPERATURE].i = TEMPERATURE_SPARQ;
}

/* Keys that others make pointless or contradict. */
static void check_split(const wn_model *model, const wn_value *values, complaints *to)
{
    static const int derived[] = {PROMPT_BUDGET, PAGE_SIZE, TOPR, TOPK};
    const int splits = values[TOKEN_BUDGET].is_set != 0;
    for (size_t i = 0; splits && i < sizeof derived / sizeof derived[0]; i++)
        if (values[derived[i]].is_set)
            complain(to, "both token_budget and %s are set; token_budget derives %s: keep one",
                     fields[derived[i]].name, fields[derived[i]].name);
    if (splits && values[TOPK_UNIT].is_set && values[TOPK_UNIT].i != UNIT_TOKEN)
        complain(to, "topk_unit is landmark; token_budget derives topk in tokens: leave it out");
    if (splits && split_new_tokens(values) >= split_length(model, values))
        complain(to,
                 "max_new_tokens is %lld; with token_budget it must be below split_length, %lld, "
                 "which it is part of",
                 split_new_tokens(values), split_length(model, values));
    if (!splits && values[SPLIT_LENGTH].is_set)
        complain(to, "split_length is set without token_budget, which alone uses it");
    if (!splits && !values[MULTI_TURN].i && values[MAX_NEW_TOKENS].is_set)
        complain(to,
                 "max_new_tokens is set without token_budget or multi_turn, which alone use it");
}

static void check_stages(const wn_model *model, const wn_value *values, complaints *to)
{
    const long long group = model->num_heads / model->num_kv_heads;
    const long long window = values[WINDOW_SIZE].i, budget = values[PROMPT_BUDGET].i;
    const long long local = values[LOCAL_LANDMARKS].i, topk = values[TOPK].i;
    const int in_tokens = values[TOPK_UNIT].i == UNIT_TOKEN;
    const long long local_topk = in_tokens ? local * values[PAGE_SIZE].i : local;
    const char *whose = values[TOKEN_BUDGET].is_set ? "token_budget's " : "";
    if (window * group > WN_MAX_WINDOW_ROWS)
        complain(to,
                 "window_size is %lld; with %lld query heads per KV head it can be %lld at most",
                 window, group, WN_MAX_WINDOW_ROWS / group);
    if (values[KERNEL_SIZE].i % 2 == 0)
        complain(to, "kernel_size is %lld; it must be odd, to be centred on a token",
                 (long long)values[KERNEL_SIZE].i);
    if (budget <= window && budget > 0) /* without a prompt there is no budget: said already */
        complain(to,
                 "%sprompt_budget is %lld; it must be above window_size, %lld, which is part of it",
                 whose, budget, window);
    if (local_topk > topk && in_tokens)
        complain(to,
                 "local_landmarks is %lld, which is %lld tokens; it must be at most %stopk, %lld "
                 "tokens, which it is part of",
                 local, local_topk, whose, topk);
    else if (local_topk > topk)
        complain(to, "local_landmarks is %lld; it must be at most topk, %lld, which it is part of",
                 local, topk);
}

static wn_status check(const wn_model *model, const wn_value *given, const wn_reasons *reasons)
{
    complaints to = {reasons, WN_OK};
    wn_value values[NUM_FIELDS];
    check_split(model, given, &to);
    settle(model, given, values);
    check_stages(model, values, &to);
    return to.status;
}

/* ---------------------------------------------------------------- life */

static const wn_log *host_log; /* NULL if the host keeps none */

/* Entries of a view: those of the longest prompt that it keeps, and those that follow. */
static int32_t view_capacity(const wn_model *model, const wn_value *values)
{
    const int64_t longest = model->max_position, budget = values[PROMPT_BUDGET].i;
    const int64_t after = values[MAX_NEW_TOKENS].is_set ? values[MAX_NEW_TOKENS].i : longest;
    return (int32_t)(budget + after < longest ? budget + after : longest);
}

/* Nobody wrote these numbers: say what they are. */
static void log_split(const rocket *self, const wn_value *given)
{
    char text[192];
    if (!given[TOKEN_BUDGET].is_set || host_log == NULL)
        return;
    snprintf(text, sizeof text,
             "token_budget %lld at %lld tokens: prompt_budget %d, page_size %d, topr %d, topk %d "
             "tokens",
             (long long)given[TOKEN_BUDGET].i, split_length(self->model, given),
             self->prompt_budget, self->page_size, self->topr, self->topk);
    host_log->write(WN_LOG_INFO, "rocket", text);
}

static wn_status create(const wn_model *model, const wn_value *given, void **instance,
                        wn_error *error)
{
    wn_value values[NUM_FIELDS];
    rocket *self = malloc(sizeof *self);
    if (self == NULL)
        return wn_fail(error, WN_ENOMEM, "rocket: no memory for an instance");
    settle(model, given, values);
    *self = (rocket){
        .model = model,
        .window_size = (int32_t)values[WINDOW_SIZE].i,
        .kernel_size = (int32_t)values[KERNEL_SIZE].i,
        .prompt_budget = (int32_t)values[PROMPT_BUDGET].i,
        .page_size = (int32_t)values[PAGE_SIZE].i,
        .topr = (int32_t)values[TOPR].i,
        .local_landmarks = (int32_t)values[LOCAL_LANDMARKS].i,
        .topk = (int32_t)values[TOPK].i,
        .token_unit = values[TOPK_UNIT].i == UNIT_TOKEN,
        .multi_turn = (int32_t)values[MULTI_TURN].i,
        .view_capacity = view_capacity(model, values),
        .landmark_dtype = dtypes[values[KT_CACHE_DTYPE].i],
        .normalise = softmaxes[values[SCORE_SOFTMAX].i],
        .temperature = temperatures[values[TEMPERATURE].i],
    };
    log_split(self, given);
    *instance = self;
    return WN_OK;
}

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
    const rocket *self = instance;
    (void)layer, (void)error;
    *roles = phase == WN_PHASE_GENERATION ? WN_ROLE_SELECT : WN_ROLE_RETAIN;
    if (self->multi_turn && phase == WN_PHASE_CONTEXT) {
        *roles = 0;
        snprintf(why, (size_t)why_capacity, "multi_turn keeps everything");
    }
    return WN_OK;
}

/* One context step retains for up to `batch` requests; one generation step selects a row for each
 * query token. */
static wn_status bounds(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    const rocket *self = instance;
    const uint64_t heads = self->model->num_kv_heads;
    const int32_t longest = (int32_t)limits->max_length;
    (void)layer, (void)error;
    uint64_t needed = 0;
    if (limits->phase == WN_PHASE_GENERATION) {
        out->select_indices = heads * limits->tokens * (uint64_t)rocket_select_width(self, longest);
        needed = rocket_select_workspace(self, limits);
    } else if (!self->multi_turn) {
        out->retain_indices =
            heads * limits->batch * (uint64_t)rocket_retained_count(instance, longest);
        needed = rocket_keep_workspace(self, longest);
    }
    out->workspace_bytes = rocket_observe_workspace(self, limits);
    if (needed > out->workspace_bytes)
        out->workspace_bytes = needed;
    return WN_OK;
}

static const wn_config_interface config = {
    WN_SIZEOF(wn_config_interface), NUM_FIELDS, fields, NULL, check, create, destroy, lower, NULL};
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
