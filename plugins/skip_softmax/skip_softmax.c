/* skip_softmax.c: skip softmax (BLASST, arXiv 2512.12087) as a plugin. The rule itself lives in the
 * attention kernels (WN_TILE_SKIP_SOFTMAX in ops.h): a tile of keys none of whose scores comes
 * within ln(lambda) of the running maximum is left out. This plugin decides lambda:
 *
 *     lambda = threshold_scale_factor / length
 *
 * where length is the request's physical length in this step, its new tokens included. A longer
 * request has more keys that matter little, so that its threshold is lower. lambda >= 1 would leave
 * out tiles that hold the maximum: such a request is dense instead, as is one below min_seq_len. */
#include "winnow/plugin.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

WN_PLUGIN_NOTE("skip_softmax", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_KERNEL_HOOK, WN_DEVICES_CPU,
               "skips key tiles whose softmax weight is negligible (BLASST)");

/* The tile that votes. Which tiles are skipped depends on it, so it is part of the method:
 * README.md gives the reasons for these two numbers. */
enum { TILE_Q = 64, TILE_K = 64 };

enum { THRESHOLD_SCALE_FACTOR, MIN_SEQ_LEN, NUM_FIELDS };

static const wn_config_field fields[NUM_FIELDS] = {
    {WN_SIZEOF(wn_config_field), WN_FIELD_PHASE_FLOAT, 0, 0, "threshold_scale_factor", "tokens",
     "a tile is skipped below lambda = this / length; 0 or unset: off for the phase", NULL, 0, 1e9,
     NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT, 0, 0, "min_seq_len", "tokens",
     "requests shorter than this are attended to densely", "0", 0, 1 << 30, NULL},
};

static const char *const phase_names[WN_PHASE_COUNT] = {"context", "generation"};

typedef struct skip_softmax {
    double factor[WN_PHASE_COUNT]; /* 0: off */
    int64_t min_seq_len;
    int64_t max_position; /* no request is longer */
} skip_softmax;

static const wn_log *host_log; /* NULL if the host keeps none */

/* Says once which requests a phase leaves dense: a step may not log, and need not, because the
 * lengths at which lambda reaches 1 follow from the configuration alone. */
static void report(const skip_softmax *self, uint32_t phase)
{
    char text[160];
    if (host_log == NULL || self->factor[phase] < 1 || self->factor[phase] >= self->max_position)
        return;
    snprintf(text, sizeof text,
             "%s: requests of up to %.0f tokens are dense: lambda = %g / length is 1 or more",
             phase_names[phase], floor(self->factor[phase]), self->factor[phase]);
    host_log->write(WN_LOG_INFO, "skip_softmax", text);
}

static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    skip_softmax *self = malloc(sizeof *self);
    if (self == NULL)
        return wn_fail(error, WN_ENOMEM, "skip_softmax: no memory for an instance");
    const wn_value *factor = &values[THRESHOLD_SCALE_FACTOR];
    self->min_seq_len = values[MIN_SEQ_LEN].i;
    self->max_position = model->max_position;
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
        int given = factor->has_value && (factor->phase_set >> phase & 1) != 0;
        self->factor[phase] = given ? factor->phase[phase] : 0;
        report(self, phase);
    }
    *instance = self;
    return WN_OK;
}

static void destroy(void *instance)
{
    free(instance);
}

/* Claims the tile policy where it can ever skip something. */
static wn_status lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    const skip_softmax *self = instance;
    (void)layer, (void)error;
    *roles = 0;
    if (self->factor[phase] == 0)
        snprintf(why, why_capacity, "threshold_scale_factor is 0 or not set for the %s phase",
                 phase_names[phase]);
    else if (self->factor[phase] >= self->max_position)
        snprintf(why, why_capacity,
                 "threshold_scale_factor %g is not below the longest sequence, %lld tokens: lambda "
                 "would be 1 or more at every length",
                 self->factor[phase], (long long)self->max_position);
    else if (self->min_seq_len > self->max_position)
        snprintf(why, why_capacity, "min_seq_len %lld is above the longest sequence, %lld tokens",
                 (long long)self->min_seq_len, (long long)self->max_position);
    else
        *roles = WN_ROLE_TILE_POLICY;
    return WN_OK;
}

/* ln(lambda) for one request; -inf, at which no tile is ever skipped, where the request is dense.
 * In the log domain, because the kernels compare differences of logits. */
static float log_threshold(const skip_softmax *self, uint32_t phase, int32_t length)
{
    if (length < self->min_seq_len || self->factor[phase] <= 0 || self->factor[phase] >= length)
        return -INFINITY;
    return (float)log(self->factor[phase] / length);
}

static wn_status tile_policy(void *instance, const wn_step_args *args, wn_tile_policy *out)
{
    out->kind = WN_TILE_SKIP_SOFTMAX;
    out->tile_q = TILE_Q;
    out->tile_k = TILE_K;
    out->context = NULL;
    out->vote = NULL;
    for (uint32_t b = 0; b < args->batch; b++)
        out->log_threshold[b] = log_threshold(instance, args->phase, args->kv.length[b]);
    return WN_OK;
}

static const wn_config_interface config = {
    WN_SIZEOF(wn_config_interface), NUM_FIELDS, fields, NULL, NULL, create, destroy, lower};
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
