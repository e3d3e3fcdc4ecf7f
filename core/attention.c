/* attention.c: the one verb that does the work: append, observe, select, attend, retain. The way is
 * the same for every method, phase and device; what differs is data in the args. Nothing here
 * allocates, locks or logs. */
#include "core/batch.h"
#include "core/choice.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* What one call works with, resolved from the host's args. */
typedef struct call {
    wn_batch *batch;
    wn_engine *engine;
    wn_layer *layer;
    uint32_t layer_index;
    const wn_attention_args *args;
    wn_tensor q, k, v; /* after taking a fused tensor apart; q after RoPE */
    float softmax_scale;
    wn_error *error;
} call;

static uint64_t now(const call *c)
{
    struct timespec t;
    if (!atomic_load_explicit(&c->engine->timing, memory_order_relaxed))
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void add(_Atomic uint64_t *counter, uint64_t amount)
{
    if (amount != 0)
        atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* ---------------------------------------------------------------- arguments */

static wn_status check_tensor(const call *c, const char *name, const wn_tensor *t, uint32_t dtype,
                              uint32_t ndim, int64_t d1, int64_t d2)
{
    if (t->ndim != ndim || t->dtype != dtype || (t->device != 0 && t->device != WN_DEVICE_CPU))
        return wn_fail(c->error, WN_EINVAL,
                       "%s has %u dimensions of %s on device %u: expected %u of "
                       "%s on the CPU",
                       name, t->ndim,
                       wn_dtype_name(t->dtype) != NULL ? wn_dtype_name(t->dtype) : "no dtype",
                       t->device, ndim, wn_dtype_name(dtype));
    if (t->shape[0] < c->batch->num_tokens || t->shape[1] != d1 || (ndim > 2 && t->shape[2] != d2))
        return wn_fail(c->error, WN_EINVAL,
                       "%s is [%lld, %lld, %lld]: expected [at least %u, %lld, "
                       "%lld]",
                       name, (long long)t->shape[0], (long long)t->shape[1],
                       (long long)(ndim > 2 ? t->shape[2] : 1), c->batch->num_tokens, (long long)d1,
                       (long long)(ndim > 2 ? d2 : 1));
    if (ndim > 2 && t->stride[2] != 1)
        return wn_fail(c->error, WN_EINVAL, "%s has channel stride %lld: expected 1", name,
                       (long long)t->stride[2]);
    return WN_OK;
}

/* A [tokens, heads, dim] view of a run of columns of the fused tensor. */
static wn_tensor fused_part(const wn_tensor *qkv, int64_t column, int64_t heads, int64_t dim)
{
    wn_tensor part = *qkv;
    part.data = (uint8_t *)qkv->data + column * wn_dtype_bytes(qkv->dtype);
    part.ndim = 3;
    part.shape[1] = heads;
    part.shape[2] = dim;
    part.stride[1] = dim;
    part.stride[2] = 1;
    return part;
}

static wn_status resolve_qkv(call *c)
{
    const wn_model *m = &c->engine->model;
    const wn_tensor *fused = &c->args->qkv;
    int64_t h = m->num_heads, hk = m->num_kv_heads, d = m->head_dim, dv = m->v_head_dim;
    c->q = c->args->q;
    c->k = c->args->k;
    c->v = c->args->v;
    if (fused->data == NULL)
        return WN_OK;
    if (m->mla)
        return wn_fail(c->error, WN_EINVAL,
                       "qkv is given, and the model is MLA: queries and the one "
                       "latent have no fused form: give q and k");
    if (c->q.data != NULL || c->k.data != NULL || c->v.data != NULL)
        return wn_fail(c->error, WN_EINVAL, "both qkv and q, k or v are given: expected one form");
    wn_status status = check_tensor(c, "qkv", fused, m->dtype, 2, h * d + hk * (d + dv), 1);
    if (status == WN_OK && fused->stride[1] != 1)
        status = wn_fail(c->error, WN_EINVAL, "qkv has channel stride %lld: expected 1",
                         (long long)fused->stride[1]);
    c->q = fused_part(fused, 0, h, d);
    c->k = fused_part(fused, h * d, hk, d);
    c->v = fused_part(fused, (h + hk) * d, hk, dv);
    return status;
}

/* What is checked of an input: [total tokens, ...] on the CPU. The rest is its method's to know. */
static wn_status check_input(const call *c, const wn_named_input *input, uint32_t index)
{
    const wn_tensor *t = &input->tensor;
    if (input->name == NULL || t->data == NULL)
        return wn_fail(c->error, WN_EINVAL, "extra input %u (%s) has no %s", index,
                       input->name != NULL ? input->name : "unnamed",
                       input->name == NULL ? "name" : "data");
    if (t->ndim < 1 || t->ndim > WN_MAX_DIMS || wn_dtype_bytes(t->dtype) == 0 ||
        (t->device != 0 && t->device != WN_DEVICE_CPU))
        return wn_fail(c->error, WN_EINVAL,
                       "extra input \"%s\" has %u dimensions, dtype %u, device "
                       "%u: expected 1 .. %d, a dtype, the CPU",
                       input->name, t->ndim, t->dtype, t->device, WN_MAX_DIMS);
    if (t->shape[0] < c->batch->num_tokens)
        return wn_fail(c->error, WN_EINVAL,
                       "extra input \"%s\" has %lld rows: expected at least %u, "
                       "one for each token of the step",
                       input->name, (long long)t->shape[0], c->batch->num_tokens);
    return WN_OK;
}

/* Methods run in the call that attends: it brings what they need. One that only appends may bring
 * the same. */
static wn_status check_inputs(const call *c)
{
    if (c->args->num_inputs > 0 && c->args->inputs == NULL)
        return wn_fail(c->error, WN_EINVAL, "num_inputs is %u and inputs is NULL",
                       c->args->num_inputs);
    for (uint32_t i = 0; i < c->args->num_inputs; i++) {
        wn_status status = check_input(c, &c->args->inputs[i], i);
        if (status != WN_OK)
            return status;
    }
    if (c->args->out.data == NULL)
        return WN_OK;
    for (uint32_t m = 0; m < c->layer->num_methods; m++) {
        const wn_method *method = c->layer->methods[m].method;
        for (uint32_t i = 0; i < method->num_inputs; i++) {
            const char *name = method->plugin->config->inputs[i];
            uint32_t at = 0;
            while (at < c->args->num_inputs && strcmp(c->args->inputs[at].name, name) != 0)
                at++;
            if (at == c->args->num_inputs)
                return wn_fail(c->error, WN_EINVAL, "%s needs the extra input \"%s\" on layer %u",
                               method->algorithm, name, c->layer_index);
        }
    }
    return WN_OK;
}

static wn_status check_args(call *c)
{
    const wn_attention_args *a = c->args;
    const wn_model *m = &c->engine->model;
    uint8_t state = c->batch->layer_state[c->layer_index];
    wn_status status;
    if (a->struct_size != WN_SIZEOF(wn_attention_args) || a->reserved != 0 ||
        a->flags & ~(uint32_t)WN_ATTENTION_DRY_RUN)
        return wn_fail(c->error, WN_EINVAL,
                       "args: struct_size %u, expected %u (use WN_ARGS); flags "
                       "%#x; reserved %u, expected 0",
                       a->struct_size, WN_SIZEOF(wn_attention_args), a->flags, a->reserved);
    if ((status = resolve_qkv(c)) != WN_OK)
        return status;
    if (m->mla && c->v.data != NULL)
        return wn_fail(c->error, WN_EINVAL,
                       "v is given, and the model is MLA: V is the first %u "
                       "channels of k: leave v out",
                       m->v_head_dim);
    if (!m->mla && (c->k.data == NULL) != (c->v.data == NULL))
        return wn_fail(c->error, WN_EINVAL, "k and v must be given together");
    if (c->k.data == NULL && a->out.data == NULL)
        return wn_fail(c->error, WN_EINVAL, "neither k and v to append nor out to attend to");
    if (a->out.data != NULL && c->q.data == NULL)
        return wn_fail(c->error, WN_EINVAL, "out is given without q");
    if (c->k.data != NULL && state & WN_LAYER_APPENDED)
        return wn_fail(c->error, WN_ESTATE, "layer %u was appended in this step already",
                       c->layer_index);
    if (c->k.data == NULL && !(state & WN_LAYER_APPENDED))
        return wn_fail(c->error, WN_ESTATE,
                       "layer %u has no k and v and was not appended in this "
                       "step",
                       c->layer_index);
    if (a->out.data != NULL && state & WN_LAYER_ATTENDED)
        return wn_fail(c->error, WN_ESTATE, "layer %u was attended in this step already",
                       c->layer_index);
    if (c->q.data != NULL &&
        (status = check_tensor(c, "q", &c->q, m->dtype, 3, m->num_heads, m->head_dim)) != WN_OK)
        return status;
    if (c->k.data != NULL &&
        (status = check_tensor(c, "k", &c->k, m->dtype, 3, m->num_kv_heads, m->head_dim)) != WN_OK)
        return status;
    if (c->v.data != NULL && (status = check_tensor(c, "v", &c->v, m->dtype, 3, m->num_kv_heads,
                                                    m->v_head_dim)) != WN_OK)
        return status;
    if (a->out.data != NULL && (status = check_tensor(c, "out", &a->out, m->dtype, 3, m->num_heads,
                                                      m->v_head_dim)) != WN_OK)
        return status;
    if (a->lse.data != NULL &&
        (status = check_tensor(c, "lse", &a->lse, WN_F32, 2, m->num_heads, 1)) != WN_OK)
        return status;
    if (!(a->softmax_scale >= 0) || !(a->soft_cap >= 0) || a->window < 0 || a->token_sinks < 0 ||
        !(a->k_scale >= 0) || !(a->v_scale >= 0))
        return wn_fail(c->error, WN_EINVAL,
                       "softmax_scale %g, soft_cap %g, window %d, token_sinks "
                       "%d, k_scale %g, v_scale %g: none may be negative",
                       (double)a->softmax_scale, (double)a->soft_cap, a->window, a->token_sinks,
                       (double)a->k_scale, (double)a->v_scale);
    if (m->mla && (a->k_scale > 0 || a->v_scale > 0))
        return wn_fail(c->error, WN_EINVAL,
                       "k_scale %g, v_scale %g, and the model is MLA: its cache "
                       "holds its own scales or none: leave them 0",
                       (double)a->k_scale, (double)a->v_scale);
    c->softmax_scale = a->softmax_scale > 0 ? a->softmax_scale : m->softmax_scale;
    return check_inputs(c);
}

/* ---------------------------------------------------------------- views */

/* The layer's cache for places [first, first + count). */
static wn_paged_kv view_of(const call *c, uint32_t first, uint32_t count)
{
    const wn_batch *b = c->batch;
    uint32_t g = c->layer->group;
    wn_paged_kv kv = c->layer->view;
    kv.page_table = b->table[g] + (int64_t)first * c->engine->max_pages_per_sequence;
    kv.page_table_stride = c->engine->max_pages_per_sequence;
    kv.length = b->length[g] + first;
    kv.batch = count;
    if (c->args->k_scale > 0) {
        kv.k.scale = NULL;
        kv.k.tensor_scale = c->args->k_scale;
    }
    if (c->args->v_scale > 0) {
        kv.v.scale = NULL;
        kv.v.tensor_scale = c->args->v_scale;
    }
    return kv;
}

/* Args of one method's calls for a whole phase. inputs: room for the method's extra inputs. */
static wn_step_args step_args(const call *c, uint32_t phase)
{
    const wn_batch *b = c->batch;
    uint32_t first = b->first[phase];
    return (wn_step_args){.struct_size = WN_SIZEOF(wn_step_args),
                          .layer = c->layer_index,
                          .phase = phase,
                          .batch = b->count[phase],
                          .model = &c->engine->model,
                          .q = c->q,
                          .q_begin = b->q_begin + first,
                          .q_len = b->q_len + first,
                          .position = b->position,
                          .logical_length = b->logical_length + first,
                          .dirty_begin = b->dirty_begin[c->layer->group] + first,
                          .request_flags = b->request_flags + first,
                          .sequence = b->sequence + first,
                          .sequence_slot = b->sequence_slot + first,
                          .kv = view_of(c, first, b->count[phase]),
                          .softmax_scale = c->softmax_scale,
                          .device = WN_DEVICE_CPU,
                          .workspace = b->workspace,
                          .workspace_bytes = c->engine->bounds.workspace_bytes,
                          .ops = c->engine->ops,
                          .executor = c->engine->executor,
                          .error = c->error};
}

/* Adds what is one method's own: its memory and, in the order of its list, its inputs. */
static void for_method(const call *c, const wn_layer_method *on_layer, wn_step_args *step,
                       wn_named_input *inputs)
{
    const wn_method *method = on_layer->method;
    uint32_t number = (uint32_t)(method - c->engine->methods);
    step->step_memory = c->batch->step_memory[step->phase][number];
    step->step_memory_bytes = method->step_bytes[step->phase];
    step->aux = on_layer->aux;
    step->num_aux = on_layer->num_aux;
    step->inputs = inputs;
    step->num_inputs = method->num_inputs;
    for (uint32_t i = 0; i < method->num_inputs; i++)
        for (uint32_t at = 0; at < c->args->num_inputs; at++)
            if (strcmp(c->args->inputs[at].name, method->plugin->config->inputs[i]) == 0)
                inputs[i] = c->args->inputs[at];
}

/* Prefixes the method's name to its error text: "NAME: ...". */
static wn_status blame(const call *c, const wn_layer_method *on_layer, const char *what,
                       wn_status status)
{
    char text[1024];
    if (status > 0 || status <= WN_STATUS_LIST_END)
        status = WN_EPLUGIN;
    snprintf(text, sizeof text, "%s", c->error->text);
    return wn_fail(c->error, status, "%s, %s on layer %u: %s", on_layer->method->algorithm, what,
                   c->layer_index, text[0] != 0 ? text : wn_status_text(status));
}

/* ---------------------------------------------------------------- 1 append */

static wn_status append(call *c)
{
    wn_batch *b = c->batch;
    const wn_model *m = &c->engine->model;
    wn_paged_kv kv = view_of(c, 0, b->num_items);
    wn_append_args a = {.struct_size = WN_SIZEOF(wn_append_args),
                        .executor = c->engine->executor,
                        .error = c->error,
                        .k_cache = kv.k,
                        .v_cache = kv.v,
                        .slot = b->slot[c->layer->group],
                        .position = b->position,
                        .key_position = kv.position,
                        .key_position_page_stride = kv.position_page_stride,
                        .key_position_head_stride = kv.position_head_stride,
                        .rope = m->rope,
                        .rope_dim = m->rope_dim,
                        .rope_offset = m->rope_offset,
                        .rope_theta = m->rope_theta,
                        .rope_inverse_frequency = m->rope_inverse_frequency,
                        .tokens_per_page = c->engine->tokens_per_page,
                        .num_tokens = b->num_tokens};
    if (!(b->layer_state[c->layer_index] & WN_LAYER_APPENDED)) {
        a.k = c->k;
        a.v = c->v;
    }
    if (m->rope != WN_ROPE_NONE && c->q.data != NULL && c->args->out.data != NULL) {
        a.q = c->q;
        a.q_out = wn_tensor_make(b->rotated_q, m->dtype, 3,
                                 (int64_t[]){c->q.shape[0], m->num_heads, m->head_dim});
        c->q = a.q_out;
    }
    if (a.k.data == NULL && a.q.data == NULL)
        return WN_OK;
    return c->engine->ops->append(&a);
}

/* ---------------------------------------------------------------- 2 observe */

static wn_status observe(const call *c, const wn_step_args *base)
{
    wn_named_input inputs[WN_MAX_INPUTS];
    for (uint32_t m = 0; m < c->layer->num_methods; m++) {
        const wn_layer_method *on_layer = &c->layer->methods[m];
        if (on_layer->num_aux == 0)
            continue;
        wn_step_args step = *base;
        for_method(c, on_layer, &step, inputs);
        c->error->text[0] = 0;
        wn_status status =
            on_layer->method->plugin->aux_pool->observe(on_layer->method->instance, &step);
        if (status != WN_OK)
            return blame(c, on_layer, "observe", status);
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- 3 select */

/* A failed choice fails the step, unless the configuration prefers dense attention. */
static wn_status or_dense(const call *c, uint32_t phase, wn_status status)
{
    if (status == WN_OK || !c->engine->on_error_dense)
        return status;
    add(&c->layer->counters[phase].dense_fallbacks, 1);
    return WN_OK;
}

static wn_status select_keys(const call *c, const wn_step_args *base, wn_selection_count *count)
{
    wn_batch *b = c->batch;
    const wn_engine *e = c->engine;
    uint32_t p = base->phase, group = c->layer->group;
    const wn_layer_method *owner = c->layer->phase[p].select;
    wn_named_input inputs[WN_MAX_INPUTS];
    b->selected[p] = 0;
    if (owner == NULL)
        return WN_OK;
    wn_selection_buffers buffers = {b->select_indices[p], (int64_t)e->bounds.select_indices[p],
                                    b->select_offsets[p], (int64_t)e->bounds.select_offsets[p]};
    wn_step_args step = *base;
    for_method(c, owner, &step, inputs);
    b->select[p] = wn_selection_lend(&buffers);
    c->error->text[0] = 0;
    wn_status status =
        owner->method->plugin->predictor->select(owner->method->instance, &step, &b->select[p]);
    if (status != WN_OK)
        return or_dense(c, p, blame(c, owner, "select", status));
    wn_selection_scope scope = {&step.kv, step.q_len, e->group_keeps_positions[group],
                                e->granularity_page ? WN_GRANULARITY_PAGE : WN_GRANULARITY_EXACT,
                                owner->method->algorithm};
    status = wn_selection_settle(&b->select[p], &buffers, &scope, b->select_row + b->first[p],
                                 count, c->error);
    if (status != WN_OK)
        return or_dense(c, p, status);
    uint64_t pages = 0;
    for (uint32_t i = 0; i < step.batch; i++)
        pages += ((uint32_t)step.kv.length[i] + e->tokens_per_page - 1) / e->tokens_per_page;
    add(&c->layer->counters[p].aux_bytes_read, pages * owner->aux_bytes_per_page);
    b->selected[p] = 1;
    return WN_OK;
}

static wn_status choose_tile_policy(const call *c, const wn_step_args *base, wn_tile_policy *policy)
{
    const wn_layer_method *owner = c->layer->phase[base->phase].tile_policy;
    wn_named_input inputs[WN_MAX_INPUTS];
    float *threshold = c->batch->log_threshold + c->batch->first[base->phase];
    *policy =
        (wn_tile_policy){.struct_size = WN_SIZEOF(wn_tile_policy), .log_threshold = threshold};
    if (owner == NULL)
        return WN_OK;
    for (uint32_t i = 0; i < base->batch; i++)
        threshold[i] = -INFINITY;
    wn_step_args step = *base;
    for_method(c, owner, &step, inputs);
    c->error->text[0] = 0;
    wn_status status =
        owner->method->plugin->kernel_hook->tile_policy(owner->method->instance, &step, policy);
    if (status == WN_OK && (policy->struct_size != WN_SIZEOF(wn_tile_policy) ||
                            policy->kind > WN_TILE_VOTE || policy->log_threshold != threshold))
        status = wn_fail(c->error, WN_EPLUGIN,
                         "tile policy with struct_size %u, kind %u, or its own "
                         "log_threshold",
                         policy->struct_size, policy->kind);
    if (status == WN_OK)
        return WN_OK;
    policy->kind = WN_TILE_NONE;
    return or_dense(c, base->phase, blame(c, owner, "tile_policy", status));
}

/* ---------------------------------------------------------------- 4 attend */

/* Keys that the phase's queries could see at most, summed over query tokens and KV heads. */
static uint64_t keys_visible(const call *c, const wn_step_args *step)
{
    uint64_t keys = 0;
    for (uint32_t i = 0; i < step->batch; i++) {
        uint64_t n = (uint64_t)step->q_len[i], length = (uint64_t)step->kv.length[i];
        keys += n * (length - n) + n * (n + 1) / 2;
    }
    return keys * c->engine->model.num_kv_heads;
}

static wn_status attend_latent(const call *c, const wn_attend_args *a, uint32_t phase,
                               uint64_t keys)
{
    wn_status status = wn_latent_attention(a, c->engine->ops, &c->batch->latent);
    if (status == WN_OK && a->selection != NULL)
        wn_latent_count_selected(a, keys);
    else if (status == WN_OK)
        wn_latent_count_dense(a, phase);
    return status;
}

/* keys: those that the selection names, over all queries. */
static wn_status attend(const call *c, const wn_step_args *step, const wn_tile_policy *policy,
                        uint64_t keys)
{
    wn_batch *b = c->batch;
    const wn_engine *e = c->engine;
    uint32_t p = step->phase;
    const wn_layer_method *owner = c->layer->phase[p].attend;
    wn_attend_args a = {.struct_size = WN_SIZEOF(wn_attend_args),
                        .executor = e->executor,
                        .error = c->error,
                        .q = c->q,
                        .q_begin = step->q_begin,
                        .q_len = step->q_len,
                        .q_position = b->position,
                        .kv = step->kv,
                        .causal = 1,
                        .window = c->args->window,
                        .token_sinks = c->args->token_sinks,
                        .softmax_scale = c->softmax_scale,
                        .soft_cap = c->args->soft_cap,
                        .granularity =
                            e->granularity_page ? WN_GRANULARITY_PAGE : WN_GRANULARITY_EXACT,
                        .alibi_slopes = c->args->alibi_slopes,
                        .sinks = c->args->sinks,
                        .selection = b->selected[p] ? &b->select[p] : NULL,
                        .selection_row = b->select_row + b->first[p],
                        .tile = policy->kind != WN_TILE_NONE ? policy : NULL,
                        .out = c->args->out,
                        .lse = c->args->lse,
                        .counters = c->layer->head_counters[p],
                        .workspace = b->partials,
                        .workspace_bytes = (int64_t)wn_batch_partials_bytes(e)};
    if (owner != NULL) {
        wn_named_input inputs[WN_MAX_INPUTS];
        wn_step_args own = *step;
        for_method(c, owner, &own, inputs);
        c->error->text[0] = 0;
        wn_status status =
            owner->method->plugin->kernel_hook->attend(owner->method->instance, &own, &a);
        if (status == WN_OK)
            return WN_OK;
        status = or_dense(c, p, blame(c, owner, "attend", status));
        if (status != WN_OK)
            return status;
        a.selection = NULL;
        a.tile = NULL;
    }
    if (e->model.mla && wn_latent_attention_takes(&a))
        return attend_latent(c, &a, p, keys);
    return p == WN_PHASE_CONTEXT ? e->ops->context(&a) : e->ops->generation(&a);
}

/* Rows beyond the items, and every row of a dry run: nothing attended. */
static void clear_rows(const call *c, int64_t first)
{
    const wn_tensor *out = &c->args->out, *lse = &c->args->lse;
    size_t row = (size_t)out->shape[2] * wn_dtype_bytes(out->dtype);
    for (int64_t t = first; t < out->shape[0]; t++)
        for (int64_t h = 0; h < out->shape[1]; h++)
            memset((uint8_t *)out->data +
                       (t * out->stride[0] + h * out->stride[1]) * wn_dtype_bytes(out->dtype),
                   0, row);
    for (int64_t t = first; lse->data != NULL && t < lse->shape[0]; t++)
        for (int64_t h = 0; h < lse->shape[1]; h++)
            ((float *)lse->data)[t * lse->stride[0] + h * lse->stride[1]] = -INFINITY;
}

/* ---------------------------------------------------------------- 5 retain */

/* Packs the requests of which this layer's method drops something. Returns how many. */
static uint32_t pack_evicted(const call *c)
{
    wn_batch *b = c->batch;
    uint32_t n = 0, g = c->layer->group, size = c->engine->tokens_per_page;
    int64_t stride = c->engine->max_pages_per_sequence;
    for (uint32_t i = 0; i < b->count[WN_PHASE_CONTEXT]; i++) {
        if (b->kept[g][i] < 0)
            continue;
        const size_t pages = ((uint32_t)b->length[g][i] + size - 1) / size;
        b->evict_place[n] = i;
        b->evict_item[n] = b->item_of[i];
        b->evict_q_begin[n] = b->q_begin[i];
        b->evict_logical[n] = b->logical_length[i];
        b->evict_length[n] = b->length[g][i];
        b->evict_kept[n] = b->kept[g][i];
        b->evict_flags[n] = b->request_flags[i];
        b->evict_sequence[n] = b->sequence[i];
        b->evict_slot[n] = b->sequence_slot[i];
        memcpy(b->evict_table + n * stride, b->table[g] + i * stride, pages * sizeof(int32_t));
        n++;
    }
    return n;
}

/* The step as retain sees it: the packed requests, with their lengths before the compaction. q_len
 * and dirty_begin are those of the observe after it: the queries of a prompt may be long gone. */
static wn_step_args evicted_step(const call *c, const wn_step_args *base, uint32_t count)
{
    const wn_batch *b = c->batch;
    wn_step_args step = *base;
    step.batch = count;
    step.q_begin = b->evict_q_begin;
    step.q_len = b->evict_zero;
    step.dirty_begin = b->evict_zero;
    step.logical_length = b->evict_logical;
    step.request_flags = b->evict_flags;
    step.sequence = b->evict_sequence;
    step.sequence_slot = b->evict_slot;
    step.kv.page_table = b->evict_table;
    step.kv.length = b->evict_length;
    step.kv.batch = count;
    return step;
}

static wn_status retain(const call *c, const wn_step_args *base)
{
    wn_batch *b = c->batch;
    const wn_engine *e = c->engine;
    const wn_layer_method *owner = c->layer->phase[WN_PHASE_CONTEXT].retain;
    wn_named_input inputs[WN_MAX_INPUTS];
    uint32_t count = owner != NULL ? pack_evicted(c) : 0;
    if (count == 0)
        return WN_OK;
    wn_selection_buffers buffers = {b->retain_indices, (int64_t)e->bounds.retain_indices,
                                    b->retain_offsets, (int64_t)e->max_batch + 1};
    wn_step_args packed = evicted_step(c, base, count), step = packed;
    for_method(c, owner, &step, inputs);
    b->retain = wn_selection_lend(&buffers);
    b->retain.rows = count;
    c->error->text[0] = 0;
    wn_status status =
        owner->method->plugin->predictor->retain(owner->method->instance, &step, &b->retain);
    if (status != WN_OK)
        return blame(c, owner, "retain", status);
    wn_selection_scope scope = {&step.kv, step.q_len, 1, WN_GRANULARITY_EXACT,
                                owner->method->algorithm};
    status = wn_selection_check_retained(&b->retain, &buffers, &scope, b->evict_kept, c->error);
    if (status != WN_OK)
        return status;
    b->retained = 1;
    for (uint32_t i = 0; i < count; i++)
        b->compacted[b->evict_place[i]] = 1;
    wn_compact_args compact = {.struct_size = WN_SIZEOF(wn_compact_args),
                               .executor = e->executor,
                               .error = c->error,
                               .kv = step.kv,
                               .indices = b->retain.indices,
                               .offsets = b->retain.offsets,
                               .head_stride = b->retain.head_stride};
    if (e->model.mla)
        compact.kv.v.data = NULL; /* V is a part of K and moves with it */
    status = e->ops->compact(&compact);
    for (uint32_t i = 0; i < count; i++)
        add(&c->layer->counters[WN_PHASE_CONTEXT].tokens_dropped,
            (uint64_t)(b->evict_length[i] - b->evict_kept[i]) * e->model.num_kv_heads);
    packed.kv.length = b->evict_kept;
    return status != WN_OK ? status : observe(c, &packed);
}

/* ---------------------------------------------------------------- the verb */

/* Observe, select, attend and retain for the requests of one phase. */
static wn_status run_phase(const call *c, uint32_t phase)
{
    wn_layer_counters *n = &c->layer->counters[phase];
    wn_tile_policy policy;
    wn_step_args step = step_args(c, phase);
    const uint64_t visible = keys_visible(c, &step);
    const wn_selection_count everything = {.selected = visible, .attended = visible};
    wn_selection_count chosen = everything;
    uint64_t t0 = now(c);
    wn_status status = observe(c, &step);
    uint64_t t1 = now(c);
    add(&n->calls, 1);
    add(&n->query_tokens, c->batch->phase_tokens[phase]);
    add(&n->keys_visible, visible);
    if (status == WN_OK)
        status = select_keys(c, &step, &chosen);
    if (!c->batch->selected[phase]) /* dense, or a selection that failed half-way */
        chosen = everything;
    if (status == WN_OK)
        status = choose_tile_policy(c, &step, &policy);
    uint64_t t2 = now(c);
    if (status == WN_OK)
        status = attend(c, &step, &policy, chosen.selected);
    uint64_t t3 = now(c);
    if (status == WN_OK && phase == WN_PHASE_CONTEXT)
        status = retain(c, &step);
    add(&n->keys_selected, chosen.selected);
    add(&n->keys_attended, chosen.attended);
    add(&n->observe_ns, t1 - t0);
    add(&n->select_ns, t2 - t1);
    add(&n->attend_ns, t3 - t2);
    add(&n->retain_ns, now(c) - t3);
    return status;
}

wn_status wn_attention(wn_batch *batch, uint32_t layer, const wn_attention_args *args)
{
    wn_error *error = wn_thread_error();
    if (batch->failed)
        return wn_fail(error, WN_ESTATE,
                       "an earlier wn_attention of this step failed: end the "
                       "batch");
    if (layer >= batch->engine->model.num_layers)
        return wn_fail(error, WN_EINVAL, "layer %u: the engine has %u", layer,
                       batch->engine->model.num_layers);
    call c = {.batch = batch,
              .engine = batch->engine,
              .layer = &batch->engine->layers[layer],
              .layer_index = layer,
              .args = args,
              .error = error};
    batch->retained = batch->selected[0] = batch->selected[1] = 0;
    wn_status status = check_args(&c); /* nothing is written before this: the host may try again */
    if (status != WN_OK)
        return status;
    int attends = args->out.data != NULL;
    if (args->flags & WN_ATTENTION_DRY_RUN) {
        if (attends)
            clear_rows(&c, 0);
        return WN_OK;
    }
    uint64_t begin = now(&c);
    status = append(&c);
    add(&c.layer
             ->counters[batch->count[WN_PHASE_CONTEXT] > 0 ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION]
             .append_ns,
        now(&c) - begin);
    batch->layer_state[layer] |= WN_LAYER_APPENDED;
    for (uint32_t p = 0; p < WN_PHASE_COUNT && attends && status == WN_OK; p++)
        if (batch->count[p] > 0)
            status = run_phase(&c, p);
    if (attends && status == WN_OK) {
        clear_rows(&c, batch->num_tokens);
        batch->layer_state[layer] |= WN_LAYER_ATTENDED;
    }
    batch->failed = status != WN_OK;
    return status;
}
