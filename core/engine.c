/* engine.c: makes an engine out of a configuration and a model: checks the geometry, plans the
 * methods, sizes the cache, allocates. wn_engine_check walks the same path and stops before the
 * allocation. */
#include "core/engine.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- the model */

/* Multi-head latent attention: a token is one vector, whose front is V. */
static void check_latent(const wn_model *m, wn_reason_list *reasons)
{
    uint32_t v_dim = m->v_head_dim != 0 ? m->v_head_dim : m->head_dim;
    if (m->mla != 1)
        wn_reason_add(reasons, "model.mla is %u: expected 0 or 1", m->mla);
    if (m->num_kv_heads != 1)
        wn_reason_add(reasons, "model.mla with %u KV heads: all query heads share 1",
                      m->num_kv_heads);
    if (v_dim > m->head_dim)
        wn_reason_add(reasons,
                      "model.mla with v_head_dim %u: V is the front of K, at most head_dim "
                      "%u",
                      v_dim, m->head_dim);
    if (m->rope != WN_ROPE_NONE && m->rope_offset < v_dim)
        wn_reason_add(reasons,
                      "model.mla rotates channels from %u on: the first %u are V, which is "
                      "not rotated",
                      m->rope_offset, v_dim);
}

static void check_model(const wn_model *m, wn_reason_list *reasons)
{
    if (m->struct_size != WN_SIZEOF(wn_model)) {
        wn_reason_add(reasons, "model.struct_size is %u, expected %u: set it with WN_SIZEOF",
                      m->struct_size, WN_SIZEOF(wn_model));
        return;
    }
    uint32_t v_dim = m->v_head_dim != 0 ? m->v_head_dim : m->head_dim;
    if (m->num_layers == 0)
        wn_reason_add(reasons, "model.num_layers is 0");
    if (m->num_heads == 0 || m->num_kv_heads == 0 || m->num_heads % m->num_kv_heads != 0)
        wn_reason_add(reasons,
                      "model has %u query heads on %u KV heads: the second must divide the "
                      "first",
                      m->num_heads, m->num_kv_heads);
    if (m->num_heads > WN_MAX_HEADS)
        wn_reason_add(reasons, "model.num_heads is %u: at most %u are possible", m->num_heads,
                      (unsigned)WN_MAX_HEADS);
    if (m->head_dim == 0 || m->head_dim > WN_MAX_HEAD_DIM || v_dim > WN_MAX_HEAD_DIM)
        wn_reason_add(reasons, "model.head_dim is %u and v_head_dim %u: expected 1 .. %u",
                      m->head_dim, v_dim, (unsigned)WN_MAX_HEAD_DIM);
    if (m->dtype != WN_F32 && m->dtype != WN_F16 && m->dtype != WN_BF16)
        wn_reason_add(reasons, "model.dtype is %u: expected float32, float16 or bfloat16",
                      m->dtype);
    if (m->max_position == 0 || m->max_position > INT32_MAX)
        wn_reason_add(reasons, "model.max_position is %u: expected 1 .. %d", m->max_position,
                      INT32_MAX);
    if (!(m->softmax_scale > 0) || isinf(m->softmax_scale))
        wn_reason_add(reasons,
                      "model.softmax_scale is %g: it comes from the model, usually "
                      "1/sqrt(head_dim), and has no default",
                      (double)m->softmax_scale);
    if (m->reserved != 0)
        wn_reason_add(reasons, "model.reserved is %u: expected 0", m->reserved);
    if (m->rope > WN_ROPE_INTERLEAVED)
        wn_reason_add(reasons, "model.rope is %u: expected a WN_ROPE_ constant", m->rope);
    if (m->rope != WN_ROPE_NONE) {
        uint32_t dim = m->rope_dim != 0 ? m->rope_dim : m->head_dim;
        if (dim % 2 != 0 || (uint64_t)dim + m->rope_offset > m->head_dim)
            wn_reason_add(reasons,
                          "model rotates %u channels from %u on of %u: expected an even "
                          "number that fits",
                          dim, m->rope_offset, m->head_dim);
        if (m->rope_inverse_frequency == NULL && !(m->rope_theta > 0))
            wn_reason_add(reasons, "model.rope_theta is %g: expected a positive number",
                          (double)m->rope_theta);
    }
    if (m->mla != 0)
        check_latent(m, reasons);
}

static void *copy(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    return to != NULL ? memcpy(to, from, bytes) : NULL;
}

static wn_status copy_model(wn_model *to, const wn_model *from)
{
    *to = *from;
    to->rope_inverse_frequency = NULL;
    to->layer_number = NULL;
    to->name = NULL;
    if (to->v_head_dim == 0)
        to->v_head_dim = to->head_dim;
    if (to->rope != WN_ROPE_NONE && to->rope_dim == 0)
        to->rope_dim = to->head_dim;
    if (from->rope != WN_ROPE_NONE && from->rope_inverse_frequency != NULL &&
        !(to->rope_inverse_frequency =
              copy(from->rope_inverse_frequency, to->rope_dim / 2 * sizeof(float))))
        return WN_ENOMEM;
    if (from->layer_number != NULL &&
        !(to->layer_number = copy(from->layer_number, to->num_layers * sizeof(uint32_t))))
        return WN_ENOMEM;
    if (from->name != NULL && !(to->name = copy(from->name, strlen(from->name) + 1)))
        return WN_ENOMEM;
    return WN_OK;
}

static void free_model(wn_model *model)
{
    free((void *)model->rope_inverse_frequency);
    free((void *)model->layer_number);
    free((void *)model->name);
}

/* ---------------------------------------------------------------- sizes */

/* The host's word, else the file's, else the default. */
static uint64_t first_of(uint64_t host, uint64_t file, uint64_t otherwise)
{
    return host != 0 ? host : file != 0 ? file : otherwise;
}

static uint32_t layout_from_name(const char *name)
{
    return strcmp(name, "hnd") == 0   ? WN_CACHE_HND
           : strcmp(name, "nhd") == 0 ? WN_CACHE_NHD
           : strcmp(name, "vec") == 0 ? WN_CACHE_VEC
                                      : 0;
}

static void size_engine(wn_engine *e, const wn_engine_options *o, const wn_engine_config *c,
                        wn_reason_list *reasons)
{
    uint64_t longest = e->model.max_position > 8192 ? e->model.max_position : 8192;
    uint64_t tokens = first_of(o->max_tokens, c->max_tokens, longest);
    const char *layout = o->layout != NULL ? o->layout : c->layout != NULL ? c->layout : "hnd";
    e->tokens_per_page = (uint32_t)first_of(o->tokens_per_page, c->tokens_per_page, 32);
    e->max_sequences = (uint32_t)first_of(o->max_sequences, c->max_sequences, 64);
    e->max_batch = (uint32_t)first_of(o->max_batch, c->max_batch, e->max_sequences);
    e->max_step_tokens = (uint32_t)first_of(o->max_step_tokens, c->max_step_tokens, 8192);
    e->kv_dtype = (uint32_t)first_of(o->kv_dtype, c->kv_dtype, e->model.dtype);
    e->layout = layout_from_name(layout);
    e->vec_x = e->layout == WN_CACHE_VEC ? 2 : 0;
    e->on_error_dense = c->on_error_dense;
    e->granularity_page = c->granularity_page;
    e->keep_positions = o->keep_positions;
    if (e->layout == 0)
        wn_reason_add(reasons, "layout is \"%s\": expected hnd, nhd or vec", layout);
    uint32_t device = (uint32_t)first_of(o->device, c->device, WN_DEVICE_CPU);
    if (device != WN_DEVICE_CPU)
        wn_reason_add(reasons, "this build of libwinnow has no CUDA kernels: use the device cpu "
                               "(attn_backend: cpu or auto)");
    /* One sequence may fill the cache, but not grow beyond what a position can be. */
    uint64_t pages = (tokens + e->tokens_per_page - 1) / e->tokens_per_page;
    uint64_t most = ((uint64_t)e->model.max_position + e->tokens_per_page - 1) / e->tokens_per_page;
    if (pages > INT32_MAX)
        wn_reason_add(reasons,
                      "max_tokens %llu makes %llu pages of %u tokens: at most %d are "
                      "possible",
                      (unsigned long long)tokens, (unsigned long long)pages, e->tokens_per_page,
                      INT32_MAX);
    e->num_pages = (uint32_t)pages;
    e->max_pages_per_sequence = (uint32_t)(pages < most ? pages : most);
}

static wn_kvcache_shape cache_shape(const wn_engine *e)
{
    return (wn_kvcache_shape){.num_layers = e->model.num_layers,
                              .num_groups = e->num_groups,
                              .layer_group = e->layer_group,
                              .group_evicts = e->group_keeps_positions,
                              .num_kv_heads = e->model.num_kv_heads,
                              .head_dim = e->model.head_dim,
                              .v_head_dim = e->model.v_head_dim,
                              .mla = e->model.mla,
                              .dtype = e->kv_dtype,
                              .layout = e->layout,
                              .vec_x = e->vec_x,
                              .tokens_per_page = e->tokens_per_page,
                              .num_pages = e->num_pages,
                              .max_sequences = e->max_sequences,
                              .max_pages_per_sequence = e->max_pages_per_sequence,
                              .aux = e->aux,
                              .num_aux = e->num_aux};
}

/* Adds one pool's bytes under its layout's name. */
static void plan_aux(wn_memory_plan *plan, const char *name, uint64_t bytes)
{
    const uint32_t room = sizeof plan->aux_name / sizeof plan->aux_name[0];
    uint32_t i = 0;
    while (i < plan->num_aux && strncmp(plan->aux_name[i], name, sizeof plan->aux_name[0] - 1) != 0)
        i++;
    if (i == room)
        i--; /* more kinds of pools than rows: the last row sums up the rest */
    if (i == plan->num_aux)
        snprintf(plan->aux_name[plan->num_aux++], sizeof plan->aux_name[0], "%s", name);
    plan->aux_bytes[i] += bytes;
}

static wn_status plan_memory(wn_engine *e, wn_reason_list *reasons)
{
    char text[1024] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    wn_kvcache_shape shape = cache_shape(e);
    wn_kvcache_plan plan;
    wn_status status = wn_kvcache_plan_memory(&shape, &plan, &error);
    if (status != WN_OK) {
        wn_reason_add(reasons, "KV cache: %s", text);
        return status;
    }
    e->memory = (wn_memory_plan){.struct_size = WN_SIZEOF(wn_memory_plan),
                                 .k_bytes = plan.k_bytes,
                                 .v_bytes = plan.v_bytes,
                                 .scale_bytes = plan.scale_bytes,
                                 .position_bytes = plan.position_bytes,
                                 .page_table_bytes = plan.page_table_bytes,
                                 .workspace_bytes = wn_batch_bytes(e),
                                 .capacity_tokens = (uint64_t)e->num_pages * e->tokens_per_page};
    for (uint32_t i = 0; i < e->num_aux; i++)
        plan_aux(&e->memory, e->aux[i].pool.layout, wn_kvcache_aux_bytes(&shape, i));
    e->memory.total_bytes = plan.total_bytes + e->memory.workspace_bytes;
    return WN_OK;
}

/* ---------------------------------------------------------------- making and freeing */

static void destroy(wn_engine *engine)
{
    if (engine == NULL)
        return;
    while (engine->free_batches != NULL)
        wn_batch_destroy(engine->free_batches);
    wn_kvcache_destroy(engine->cache);
    wn_plan_release(engine);
    free_model(&engine->model);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

/* Everything but the allocation of the cache. On failure the text is this thread's error. */
static wn_status prepare(wn_registry *registry, const wn_config *config, const wn_model *model,
                         const wn_engine_options *options, wn_engine **out)
{
    static const wn_engine_options defaults = {.struct_size = WN_SIZEOF(wn_engine_options)};
    wn_reason_list reasons = {0};
    *out = NULL;
    if (registry == NULL || config == NULL || model == NULL)
        return wn_fail(wn_thread_error(), WN_EINVAL, "registry, config and model must be given");
    if (options == NULL)
        options = &defaults;
    check_model(model, &reasons);
    if (options->struct_size != WN_SIZEOF(wn_engine_options))
        wn_reason_add(&reasons, "options.struct_size is %u, expected %u: set it with WN_SIZEOF",
                      options->struct_size, WN_SIZEOF(wn_engine_options));
    if (reasons.count > 0)
        return wn_fail_with_reasons(&reasons, WN_EINVAL);

    wn_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return wn_fail(wn_thread_error(), WN_ENOMEM, "out of memory for an engine");
    pthread_mutex_init(&engine->lock, NULL);
    wn_status status = copy_model(&engine->model, model);
    if (status != WN_OK) {
        destroy(engine);
        return wn_fail(wn_thread_error(), status, "out of memory for a copy of the model");
    }
    engine->ops = wn_kernels_cpu();
    engine->executor = options->executor != NULL ? options->executor : wn_executor_default();
    size_engine(engine, options, wn_config_engine(config), &reasons);
    status = reasons.count > 0 ? WN_ECONFIG : WN_OK;
    wn_status planned = wn_plan_methods(engine, registry, config, &reasons);
    if (status == WN_OK)
        status = planned;
    if (status == WN_OK)
        status = plan_memory(engine, &reasons);
    if (status != WN_OK) {
        destroy(engine);
        return wn_fail_with_reasons(&reasons, status);
    }
    *out = engine;
    return WN_OK;
}

static void bind_views(wn_engine *engine)
{
    for (uint32_t l = 0; l < engine->model.num_layers; l++) {
        wn_layer *layer = &engine->layers[l];
        uint32_t index = 0;
        wn_kvcache_view(engine->cache, l, &layer->view);
        for (uint32_t m = 0; m < layer->num_methods; m++)
            for (uint32_t a = 0; a < layer->methods[m].num_aux; a++)
                wn_kvcache_aux_view(engine->cache, l, index++, &layer->methods[m].aux[a]);
    }
}

wn_status wn_engine_create(wn_registry *registry, const wn_config *config, const wn_model *model,
                           const wn_engine_options *options, wn_engine **engine)
{
    if (engine == NULL)
        return wn_fail(wn_thread_error(), WN_EINVAL, "engine must not be NULL");
    wn_status status = prepare(registry, config, model, options, engine);
    if (status != WN_OK)
        return status;
    wn_kvcache_shape shape = cache_shape(*engine);
    status = wn_kvcache_create(&shape, (*engine)->ops, &(*engine)->cache, wn_thread_error());
    if (status != WN_OK) {
        destroy(*engine);
        *engine = NULL;
        return status;
    }
    bind_views(*engine);
    return WN_OK;
}

wn_status wn_engine_free(wn_engine *engine)
{
    if (engine == NULL)
        return WN_OK;
    pthread_mutex_lock(&engine->lock);
    uint32_t open = engine->open_batches;
    pthread_mutex_unlock(&engine->lock);
    if (open > 0)
        return wn_fail(wn_thread_error(), WN_EBUSY,
                       "engine has %u open batches: end or abort them first", open);
    destroy(engine);
    return WN_OK;
}

wn_status wn_engine_check(wn_registry *registry, const wn_config *config, const wn_model *model,
                          const wn_engine_options *options, char **plan, wn_memory_plan *memory)
{
    wn_engine *engine = NULL;
    if (plan != NULL)
        *plan = NULL;
    wn_status status = prepare(registry, config, model, options, &engine);
    if (status != WN_OK)
        return status;
    if (plan != NULL && (*plan = copy(engine->plan_text, strlen(engine->plan_text) + 1)) == NULL)
        status = wn_fail(wn_thread_error(), WN_ENOMEM, "out of memory for the plan's text");
    if (memory != NULL)
        *memory = engine->memory;
    destroy(engine);
    return status;
}

void wn_text_free(char *text)
{
    free(text);
}

/* ---------------------------------------------------------------- questions */

wn_status wn_engine_memory(const wn_engine *engine, wn_memory_plan *memory)
{
    *memory = engine->memory;
    return WN_OK;
}

wn_status wn_engine_input(const wn_engine *engine, uint32_t index, int64_t tokens,
                          const char **name, wn_tensor *shape)
{
    uint32_t first = 0;
    for (uint32_t m = 0; m < engine->num_methods; first += engine->methods[m++].num_inputs) {
        const wn_method *method = &engine->methods[m];
        const wn_config_interface *config = method->plugin->config;
        if (index - first >= method->num_inputs)
            continue;
        *name = config->inputs[index - first];
        *shape = (wn_tensor){0};
        if (config->input_shape == NULL)
            return wn_fail(wn_thread_error(), WN_EUNSUPPORTED,
                           "%s does not tell the shape of its input \"%s\"", method->algorithm,
                           *name);
        return config->input_shape(method->instance, index - first, tokens, shape);
    }
    return wn_fail(wn_thread_error(), WN_ENOTFOUND, "input %u: the engine's methods take %u", index,
                   first);
}

const char *wn_engine_plan(const wn_engine *engine)
{
    return engine->plan_text;
}

void wn_engine_timing(wn_engine *engine, int32_t on)
{
    atomic_store(&engine->timing, on != 0);
}

static wn_status check_place(const wn_engine *engine, uint32_t layer, uint32_t phase)
{
    if (layer >= engine->model.num_layers || phase >= WN_PHASE_COUNT)
        return wn_fail(wn_thread_error(), WN_EINVAL,
                       "layer %u, phase %u: the engine has %u layers and %u phases", layer, phase,
                       engine->model.num_layers, (unsigned)WN_PHASE_COUNT);
    return WN_OK;
}

wn_status wn_engine_head_counters(const wn_engine *engine, uint32_t layer, uint32_t phase,
                                  wn_attend_counters *counters, uint32_t capacity)
{
    wn_status status = check_place(engine, layer, phase);
    uint32_t heads =
        phase == WN_PHASE_CONTEXT ? engine->model.num_heads : engine->model.num_kv_heads;
    if (status != WN_OK)
        return status;
    if (capacity < heads)
        return wn_fail(wn_thread_error(), WN_EINVAL, "room for %u heads, needed for %u", capacity,
                       heads);
    const wn_attend_counters *from = engine->layers[layer].head_counters[phase];
    for (uint32_t h = 0; h < heads; h++) {
        counters[h].tiles_seen = atomic_load((_Atomic int64_t *)&from[h].tiles_seen);
        counters[h].tiles_skipped = atomic_load((_Atomic int64_t *)&from[h].tiles_skipped);
        counters[h].keys_read = atomic_load((_Atomic int64_t *)&from[h].keys_read);
        counters[h].values_read = atomic_load((_Atomic int64_t *)&from[h].values_read);
    }
    return WN_OK;
}

/* What one key and one value take in the cache, scales apart. V of an MLA layer is read with K. */
static void token_bytes(const wn_engine *engine, uint64_t *k, uint64_t *v)
{
    const wn_model *m = &engine->model;
    uint64_t element = wn_dtype_bytes(engine->kv_dtype);
    *k = m->mla && engine->kv_dtype == WN_F8_E4M3 ? WN_MLA_RECORD_BYTES : m->head_dim * element;
    *v = m->mla ? 0 : m->v_head_dim * element;
}

wn_status wn_engine_counters(const wn_engine *engine, uint32_t layer, uint32_t phase,
                             wn_counters *out)
{
    wn_attend_counters heads[WN_MAX_HEADS];
    wn_status status = check_place(engine, layer, phase);
    if (status != WN_OK)
        return status;
    wn_layer_counters *from = &engine->layers[layer].counters[phase];
    *out = (wn_counters){.struct_size = WN_SIZEOF(wn_counters),
                         .calls = from->calls,
                         .query_tokens = from->query_tokens,
                         .keys_visible = from->keys_visible,
                         .keys_selected = from->keys_selected,
                         .keys_attended = from->keys_attended,
                         .aux_bytes_read = from->aux_bytes_read,
                         .tokens_dropped = from->tokens_dropped,
                         .dense_fallbacks = from->dense_fallbacks,
                         .append_ns = from->append_ns,
                         .observe_ns = from->observe_ns,
                         .select_ns = from->select_ns,
                         .attend_ns = from->attend_ns,
                         .retain_ns = from->retain_ns};
    status = wn_engine_head_counters(engine, layer, phase, heads, WN_MAX_HEADS);
    if (status != WN_OK)
        return status;
    uint32_t count =
        phase == WN_PHASE_CONTEXT ? engine->model.num_heads : engine->model.num_kv_heads;
    uint64_t k_bytes, v_bytes;
    token_bytes(engine, &k_bytes, &v_bytes);
    for (uint32_t h = 0; h < count; h++) {
        out->tiles_seen += (uint64_t)heads[h].tiles_seen;
        out->tiles_skipped += (uint64_t)heads[h].tiles_skipped;
        out->k_bytes_read += (uint64_t)heads[h].keys_read * k_bytes;
        out->v_bytes_read += (uint64_t)heads[h].values_read * v_bytes;
    }
    return WN_OK;
}
