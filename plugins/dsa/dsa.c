/* dsa.c: the face towards the host: note, schema, rules between keys, sizes. Names and defaults are
 * TensorRT-LLM's where it has them. */
#include "dsa.h"

#include <stdlib.h>

WN_PLUGIN_NOTE("dsa", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_AUX_POOL,
               WN_DEVICES_CPU,
               "DeepSeek sparse attention: a lightning indexer chooses the tokens of each query");

enum {
    INDEX_N_HEADS,
    INDEX_HEAD_DIM,
    INDEX_TOPK,
    CHUNK_SIZE,
    SKIP_SHORT,
    K_DTYPE,
    SCALE_FORMAT,
    HADAMARD,
    ROPE,
    ROPE_INTERLEAVE,
    ROPE_THETA,
    ROPE_DIM,
    LAYER_ROLES,
    NUM_FIELDS
};

static const char *const dtype_names[] = {"fp8", "bf16", "int8", "float8_e4m3", "bfloat16", NULL};
static const uint32_t dtypes[] = {WN_F8_E4M3, WN_BF16, WN_I8, WN_F8_E4M3, WN_BF16};
static const char *const scale_names[] = {"power_of_two", "raw", NULL};
static const uint32_t scale_rules[] = {WN_SCALE_POWER_OF_TWO, WN_SCALE_EXACT};

#define FIELD(type_, flags_, name_, unit_, default_, least_, greatest_, names_, help_)             \
    {                                                                                              \
        WN_SIZEOF(wn_config_field), type_, flags_, 0, name_, unit_, help_, default_, least_,       \
            greatest_, names_                                                                      \
    }
#define INT_FIELD(name_, unit_, default_, greatest_, help_)                                        \
    FIELD(WN_FIELD_INT, 0, name_, unit_, default_, 1, greatest_, NULL, help_)
#define BOOL_FIELD(name_, default_, help_)                                                         \
    FIELD(WN_FIELD_BOOL, 0, name_, "", default_, 0, 0, NULL, help_)
#define ENUM_FIELD(name_, names_, default_, help_)                                                 \
    FIELD(WN_FIELD_ENUM, 0, name_, "", default_, 0, 0, names_, help_)

static const wn_config_field fields[NUM_FIELDS] = {
    [INDEX_N_HEADS] = INT_FIELD("index_n_heads", "heads", "64", 1024,
                                "heads of the indexer; the model's own if it says"),
    [INDEX_HEAD_DIM] = INT_FIELD("index_head_dim", "channels", "128", WN_MAX_HEAD_DIM,
                                 "channels of an indexer head, a multiple of 4; the model's own if "
                                 "it says"),
    [INDEX_TOPK] = FIELD(WN_FIELD_INT, WN_FIELD_BUDGET, "index_topk", "tokens", "2048", 1, 1 << 30,
                         NULL, "tokens that each query attends to; the model's own if it says"),
    [CHUNK_SIZE] = INT_FIELD("indexer_max_chunk_size", "tokens", "32768", 1 << 30,
                             "query tokens scored at a time; bounds the workspace"),
    [SKIP_SHORT] = BOOL_FIELD("skip_indexer_for_short_seqs", "true",
                              "queries that see at most index_topk tokens take them unscored"),
    [K_DTYPE] = ENUM_FIELD("indexer_k_dtype", dtype_names, "fp8",
                           "how indexer keys are stored; int8: codes of seven bits, scored by "
                           "integer arithmetic, fastest on CPUs"),
    [SCALE_FORMAT] = ENUM_FIELD("scale_format", scale_names, "power_of_two",
                                "scales of fp8 vectors: rounded up to a power of two, or raw"),
    [HADAMARD] = BOOL_FIELD("hadamard", "false",
                            "Hadamard transform before quantisation; part of the keys' format"),
    [ROPE] = BOOL_FIELD("indexer_rope", "false",
                        "rotate the indexer's queries and keys; false: they come rotated"),
    [ROPE_INTERLEAVE] = BOOL_FIELD("indexer_rope_interleave", NULL,
                                   "pairs of indexer_rope: true 2i, 2i+1 (GLM-5), false i, i+n/2 "
                                   "(DeepSeek-V3.2); needed with it"),
    [ROPE_THETA] = FIELD(WN_FIELD_FLOAT, 0, "indexer_rope_theta", "", NULL, 1, 1e12, NULL,
                         "base of indexer_rope; unset: the model's frequencies"),
    [ROPE_DIM] = INT_FIELD("indexer_rope_dim", "channels", "64", WN_MAX_HEAD_DIM,
                           "first channels, which indexer_rope rotates; even"),
    [LAYER_ROLES] = FIELD(WN_FIELD_STRING_LIST, 0, "layer_roles", "", NULL, 0, 0, NULL,
                          "producer, consumer or dense for each layer; unset: producers"),
};

/* ---------------------------------------------------------------- rules */

static wn_status refuse(const wn_reasons *reasons, const char *text)
{
    reasons->add(reasons->context, text);
    return WN_ECONFIG;
}

/* What the user set, else what the model says, else the default. */
static uint32_t choose(const wn_value *value, uint32_t of_model)
{
    return value->is_set || of_model == 0 ? (uint32_t)value->i : of_model;
}

static uint32_t head_dim(const wn_model *model, const wn_value *values)
{
    return choose(&values[INDEX_HEAD_DIM], model->index_head_dim);
}

/* Can the model's own frequencies serve: does it rotate as many channels? */
static int model_has_frequencies(const wn_model *model, const wn_value *values)
{
    const uint32_t rope_dim = model->rope_dim != 0 ? model->rope_dim : model->head_dim;
    if (model->rope_inverse_frequency != NULL)
        return values[ROPE_DIM].i == rope_dim;
    return model->rope_theta > 0;
}

static wn_status check_rope(const wn_model *model, const wn_value *values,
                            const wn_reasons *reasons)
{
    wn_status status = WN_OK;
    if (!values[ROPE].i) {
        if (values[ROPE_THETA].has_value)
            status = refuse(reasons, "indexer_rope_theta is set, but nothing is rotated: set "
                                     "indexer_rope: true, or leave it out");
        return status;
    }
    if (!values[ROPE_INTERLEAVE].has_value)
        status =
            refuse(reasons, "indexer_rope needs indexer_rope_interleave: true (GLM-5) or false "
                            "(DeepSeek-V3.2); the wrong one costs accuracy only beyond index_topk "
                            "tokens, so there is no default");
    if (!values[ROPE_THETA].has_value && !model_has_frequencies(model, values))
        status = refuse(reasons, "indexer_rope needs indexer_rope_theta: the model has no RoPE "
                                 "frequencies for indexer_rope_dim channels to take it from");
    if (values[ROPE_DIM].i % 2 != 0 || values[ROPE_DIM].i > head_dim(model, values))
        status = refuse(reasons, "indexer_rope_dim must be even and at most index_head_dim");
    return status;
}

static wn_status check(const wn_model *model, const wn_value *values, const wn_reasons *reasons)
{
    const uint32_t dim = head_dim(model, values);
    wn_status status = check_rope(model, values, reasons);
    if (dim % 4 != 0)
        status = refuse(reasons, "index_head_dim must be a multiple of 4, so that the scales "
                                 "behind the codes of a page are aligned");
    if (values[HADAMARD].i && (dim & (dim - 1)) != 0)
        status = refuse(reasons, "hadamard needs an index_head_dim that is a power of two");
    if (dsa_check_roles(model, &values[LAYER_ROLES], reasons) != WN_OK)
        status = WN_ECONFIG;
    return status;
}

/* ---------------------------------------------------------------- the instance */

static const wn_log *host_log; /* NULL if the host keeps none */

/* NaN scores have a defined order, but they mean that the indexer's tensors hold NaN: say so, here
 * and not in a step, where nothing may log. */
static void destroy(void *instance)
{
    dsa *self = instance;
    char text[128];
    if (self == NULL)
        return;
    if (self->nan_scores > 0 && host_log != NULL) {
        snprintf(text, sizeof text, "%lld indexer scores were NaN and counted as -inf",
                 (long long)self->nan_scores);
        host_log->write(WN_LOG_WARNING, "dsa", text);
    }
    free(self->source);
    free(self->is_lowered);
    free(self);
}

static void read_rope(const wn_model *model, const wn_value *values, dsa *self)
{
    self->rope = values[ROPE_INTERLEAVE].i ? WN_ROPE_INTERLEAVED : WN_ROPE_HALF_SPLIT;
    self->rope_dim = (uint32_t)values[ROPE_DIM].i;
    if (values[ROPE_THETA].has_value) {
        self->rope_theta = (float)values[ROPE_THETA].f;
        return;
    }
    self->rope_theta = model->rope_theta;
    self->rope_frequency = model->rope_inverse_frequency;
}

static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    const uint32_t topk = choose(&values[INDEX_TOPK], model->index_topk);
    dsa *self = malloc(sizeof *self);
    if (self == NULL)
        return wn_fail(error, WN_ENOMEM, "no memory for an instance");
    *self = (dsa){
        .model = model,
        .heads = choose(&values[INDEX_N_HEADS], model->index_n_heads),
        .dim = head_dim(model, values),
        .width = topk < model->max_position ? topk : model->max_position,
        .chunk = (uint32_t)values[CHUNK_SIZE].i,
        .skip_short = values[SKIP_SHORT].i != 0,
        .key_dtype = dtypes[values[K_DTYPE].i],
        .scale_rule = scale_rules[values[SCALE_FORMAT].i],
        .hadamard = values[HADAMARD].i != 0,
        .source = malloc(model->num_layers * sizeof *self->source),
        .is_lowered = calloc(model->num_layers, 1),
    };
    if (self->source == NULL || self->is_lowered == NULL) {
        destroy(self);
        return wn_fail(error, WN_ENOMEM, "no memory for the roles of %u layers", model->num_layers);
    }
    if (values[ROPE].i)
        read_rope(model, values, self);
    dsa_read_roles(model, &values[LAYER_ROLES], self);
    *instance = self;
    return WN_OK;
}

/* The same in both phases: speculation has several rows per request too. */
static wn_status bounds(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    const dsa *self = instance;
    (void)error;
    out->select_indices = (uint64_t)limits->tokens * self->width;
    out->step_bytes = dsa_shared_bytes(self, limits);
    if (self->source[layer] != layer)
        return WN_OK;
    const uint64_t observe = dsa_observe_workspace(self, limits);
    const uint64_t select = dsa_select_workspace(self, limits);
    out->workspace_bytes = observe > select ? observe : select;
    return WN_OK;
}

static const wn_config_interface config = {WN_SIZEOF(wn_config_interface),
                                           NUM_FIELDS,
                                           fields,
                                           dsa_inputs,
                                           check,
                                           create,
                                           destroy,
                                           dsa_lower,
                                           dsa_input_shape};
static const wn_predictor_interface predictor = {
    .struct_size = WN_SIZEOF(wn_predictor_interface), .bounds = bounds, .select = dsa_select};
static const wn_aux_pool_interface aux_pool = {.struct_size = WN_SIZEOF(wn_aux_pool_interface),
                                               .declare = dsa_declare,
                                               .observe = dsa_observe};

static const void *get_interface(const char *id)
{
    if (strcmp(id, WN_INTERFACE_CONFIG) == 0)
        return &config;
    if (strcmp(id, WN_INTERFACE_PREDICTOR) == 0)
        return &predictor;
    return strcmp(id, WN_INTERFACE_AUX_POOL) == 0 ? &aux_pool : NULL;
}

static const wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, "dsa", "1.0", get_interface};

const wn_plugin *wn_plugin_entry(const wn_host *host)
{
    if (host->abi_min > WN_ABI_VERSION || WN_ABI_VERSION > host->abi_max) {
        wn_fail(host->error, WN_EABI, "dsa speaks ABI %u.%u and this host does not: rebuild it",
                WN_ABI_MAJOR, WN_ABI_MINOR);
        return NULL;
    }
    host_log = host->get_service(WN_SERVICE_LOG);
    return &plugin;
}
