/* skip_softmax.c: skip softmax (BLASST, arXiv 2512.12087) as a plugin. The rule itself lives in the
 * attention kernels (WN_TILE_SKIP_SOFTMAX in ops.h): a tile of keys none of whose scores comes
 * within ln(lambda) of the running maximum is left out. This plugin decides lambda, as a rule
 *
 *     lambda = threshold_scale_factor / length
 *
 * where length is the request's physical length in this step, its new tokens included. A longer
 * request has more keys that matter little, so that its threshold is lower. lambda >= 1 would leave
 * out tiles that hold the maximum: such a request is dense instead, as is one below min_seq_len. */
#include "skip_softmax.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

WN_PLUGIN_NOTE("skip_softmax", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_KERNEL_HOOK, WN_DEVICES_CPU,
               "skips key tiles whose softmax weight is negligible (BLASST)");

/* The tile that votes. Which tiles are skipped depends on it, so it is part of the method:
 * README.md gives the reasons for these two numbers. */
enum { TILE_Q = 64, TILE_K = 64 };

static const wn_config_field fields[NUM_FIELDS] = {
    {WN_SIZEOF(wn_config_field), WN_FIELD_PHASE_FLOAT, 0, 0, "threshold_scale_factor", "tokens",
     "a tile is skipped below lambda = this / length; 0: off for the phase", NULL, 0, 1e9, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_PHASE_FLOAT, 0, 0, "target_sparsity", "",
     "share of tiles to skip: the factor is what the formula gives for it; 0: off for the phase",
     NULL, 0, 1, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_PHASE_FLOAT, 0, 0, "threshold", "",
     "a tile is skipped below lambda = this, whatever the length; 0: off for the phase", NULL, 0, 1,
     NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_STRING, 0, 0, "formula", "",
     "the factor for a target_sparsity, an expression over it and the phase's coefficients",
     "a * exp(b * target_sparsity)", 0, 0, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_NUMBER_MAP, 0, 0, "coefficients", "",
     "numbers of the formula: {prefill: {a: x, b: y}, decode: {a: x, b: y}}", NULL, -DBL_MAX,
     DBL_MAX, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT, 0, 0, "min_seq_len", "tokens",
     "requests shorter than this are attended to densely", "0", 0, 1 << 30, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_BOOL, 0, 0, "two_pass", "",
     "generation: compare with the greatest of all scores: independent of the tiles' order",
     "false", 0, 0, NULL},
};

typedef struct skip_softmax {
    skip_rule rule[WN_PHASE_COUNT];
    int64_t min_seq_len;
    int64_t max_position; /* no request is longer */
    uint32_t two_pass;
    uint32_t has_coefficients; /* for the reason why a phase is dense */
} skip_softmax;

static const wn_log *host_log; /* NULL if the host keeps none */

/* ---------------------------------------------------------------- configuration */

static wn_status check(const wn_model *model, const wn_value *values, const wn_reasons *reasons)
{
    int good = skip_rule_check_names(&values[COEFFICIENTS], reasons);
    (void)model;
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
        char problem[SKIP_TEXT];
        skip_rule rule;
        if (skip_rule_read(values, phase, &rule, problem))
            continue;
        good = 0;
        reasons->add(reasons->context, problem);
    }
    return good ? WN_OK : WN_ECONFIG;
}

/* Says once what a target comes to, and which requests a phase leaves dense: a step may not log,
 * and need not, because the lengths at which lambda reaches 1 follow from the configuration alone.
 */
static void report(const skip_softmax *self, uint32_t phase, const wn_value *target)
{
    const skip_rule *rule = &self->rule[phase];
    char text[160];
    if (host_log == NULL || rule->value == 0)
        return;
    if (rule->field == TARGET_SPARSITY) {
        snprintf(text, sizeof text, "%s: target_sparsity %g is threshold_scale_factor %g",
                 skip_phase_names[phase], target->phase[phase], rule->value);
        host_log->write(WN_LOG_INFO, "skip_softmax", text);
    }
    if (rule->is_constant || rule->value < 1 || rule->value >= self->max_position)
        return;
    snprintf(text, sizeof text,
             "%s: requests of up to %.0f tokens are dense: lambda = %g / length is 1 or more",
             skip_phase_names[phase], floor(rule->value), rule->value);
    host_log->write(WN_LOG_INFO, "skip_softmax", text);
}

static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    char problem[SKIP_TEXT];
    skip_softmax *self = calloc(1, sizeof *self);
    if (self == NULL)
        return wn_fail(error, WN_ENOMEM, "skip_softmax: no memory for an instance");
    self->min_seq_len = values[MIN_SEQ_LEN].i;
    self->max_position = model->max_position;
    self->two_pass = (uint32_t)values[TWO_PASS].i;
    self->has_coefficients = values[COEFFICIENTS].count > 0;
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
        if (!skip_rule_read(values, phase, &self->rule[phase], problem)) {
            free(self);
            return wn_fail(error, WN_ECONFIG, "skip_softmax: %s", problem);
        }
        report(self, phase, &values[TARGET_SPARSITY]);
    }
    *instance = self;
    return WN_OK;
}

static void destroy(void *instance)
{
    free(instance);
}

/* ---------------------------------------------------------------- what it claims */

/* Why a phase can never skip anything; 0 if it can. */
static int is_dense(const skip_softmax *self, uint32_t phase, char *why, uint64_t capacity)
{
    const skip_rule *rule = &self->rule[phase];
    const char *name = skip_phase_names[phase];
    if (rule->field == NUM_FIELDS && self->has_coefficients)
        snprintf(why, capacity,
                 "target_sparsity is not set for the %s phase, and coefficients alone skip nothing",
                 name);
    else if (rule->field == NUM_FIELDS)
        snprintf(why, capacity,
                 "none of threshold_scale_factor, target_sparsity and threshold is set for the %s "
                 "phase",
                 name);
    else if (rule->value == 0)
        snprintf(why, capacity, "%s is 0 for the %s phase", fields[rule->field].name, name);
    else if (rule->is_constant && rule->value >= 1)
        snprintf(why, capacity, "threshold is 1 for the %s phase: lambda would be 1", name);
    else if (!rule->is_constant && rule->value >= self->max_position)
        snprintf(
            why, capacity,
            "threshold_scale_factor %g%s is not below the longest sequence, %lld tokens: lambda "
            "would be 1 or more at every length",
            rule->value, rule->field == TARGET_SPARSITY ? " (of target_sparsity)" : "",
            (long long)self->max_position);
    else if (self->min_seq_len > self->max_position)
        snprintf(why, capacity, "min_seq_len %lld is above the longest sequence, %lld tokens",
                 (long long)self->min_seq_len, (long long)self->max_position);
    else
        return 0;
    return 1;
}

/* Claims the tile policy where it can ever skip something. */
static wn_status lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    (void)layer, (void)error;
    *roles = is_dense(instance, phase, why, why_capacity) ? 0 : WN_ROLE_TILE_POLICY;
    return WN_OK;
}

/* ---------------------------------------------------------------- in a step */

/* ln(lambda) for one request; -inf, at which no tile is ever skipped, where the request is dense.
 * In the log domain, because the kernels compare differences of logits. */
static float log_threshold(const skip_softmax *self, uint32_t phase, int32_t length)
{
    const skip_rule *rule = &self->rule[phase];
    const double lambda = skip_rule_lambda(rule, length);
    return length >= self->min_seq_len && lambda > 0 && lambda < 1 ? (float)log(lambda) : -INFINITY;
}

static wn_status tile_policy(void *instance, const wn_step_args *args, wn_tile_policy *out)
{
    const skip_softmax *self = instance;
    out->kind = WN_TILE_SKIP_SOFTMAX;
    out->flags = self->two_pass && args->phase == WN_PHASE_GENERATION ? WN_TILE_TWO_PASS : 0;
    out->tile_q = TILE_Q;
    out->tile_k = TILE_K;
    out->context = NULL;
    out->vote = NULL;
    for (uint32_t b = 0; b < args->batch; b++)
        out->log_threshold[b] = log_threshold(self, args->phase, args->kv.length[b]);
    return WN_OK;
}

static const wn_config_interface config = {
    WN_SIZEOF(wn_config_interface), NUM_FIELDS, fields, NULL, check, create, destroy, lower, NULL};
static const wn_kernel_hook_interface kernel_hook = {
    .struct_size = WN_SIZEOF(wn_kernel_hook_interface), .tile_policy = tile_policy};

static const void *get_interface(const char *id)
{
    if (strcmp(id, WN_INTERFACE_CONFIG) == 0)
        return &config;
    return strcmp(id, WN_INTERFACE_KERNEL_HOOK) == 0 ? &kernel_hook : NULL;
}

static const wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, "skip_softmax", "1.0",
                                 get_interface};

const wn_plugin *wn_plugin_entry(const wn_host *host)
{
    if (host->abi_min > WN_ABI_VERSION || WN_ABI_VERSION > host->abi_max) {
        wn_fail(host->error, WN_EABI,
                "skip_softmax speaks ABI %u.%u and this host does not: rebuild it", WN_ABI_MAJOR,
                WN_ABI_MINOR);
        return NULL;
    }
    host_log = host->get_service(WN_SERVICE_LOG);
    return &plugin;
}
