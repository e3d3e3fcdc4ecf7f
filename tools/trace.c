/* trace.c: traces on top of safetensors: which tensors there must be, and how they must fit. */
#include "tools/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 4096, MAX_TOKENS = 1 << 24, MAX_HEADS = 4096, MLA_V_HEAD_DIM = 512 };

typedef struct reading {
    wn_trace *trace;
    wn_error *error;
    const int64_t *only;
    uint32_t num_only;
} reading;

static wn_status refuse(const reading *at, const char *text)
{
    return wn_fail(at->error, WN_EFORMAT, "%s: %s", at->trace->path, text);
}

/* ---------------------------------------------------------------- metadata */

static wn_status read_int(const reading *at, const char *key, int64_t fallback, int64_t *value)
{
    const char *text = wn_safetensors_metadata(at->trace->file, key);
    char *end;
    *value = fallback;
    if (text == NULL && fallback >= 0)
        return WN_OK;
    if (text == NULL)
        return wn_fail(at->error, WN_EFORMAT, "%s: the metadata has no %s", at->trace->path, key);
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || *value < 0)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: metadata %s is \"%s\"; expected a whole number "
                       "of 0 or more",
                       at->trace->path, key, text);
    return WN_OK;
}

static wn_status read_scale(const reading *at)
{
    const char *text = wn_safetensors_metadata(at->trace->file, "softmax_scale");
    char *end;
    if (text == NULL)
        return refuse(at, "the metadata has no softmax_scale, and there is no default");
    at->trace->softmax_scale = strtof(text, &end);
    if (end == text || *end != '\0' || !isfinite(at->trace->softmax_scale) ||
        at->trace->softmax_scale <= 0)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: metadata softmax_scale is \"%s\"; expected a "
                       "number above 0",
                       at->trace->path, text);
    return WN_OK;
}

/* Before the layers, which say how many tokens there are. */
static wn_status read_format(const reading *at)
{
    wn_trace *trace = at->trace;
    const char *format = wn_safetensors_metadata(trace->file, "format");
    const char *model = wn_safetensors_metadata(trace->file, "model");
    if (format == NULL || strcmp(format, WN_TRACE_FORMAT) != 0)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: not a trace: metadata format is \"%s\", expected "
                       "\"" WN_TRACE_FORMAT "\"",
                       trace->path, format != NULL ? format : "");
    trace->model = model != NULL ? model : "";
    return read_scale(at);
}

/* After the layers. */
static wn_status read_lengths(const reading *at)
{
    wn_trace *trace = at->trace;
    wn_status status = read_int(at, "context_length", -1, &trace->context);
    if (status == WN_OK)
        status = read_int(at, "needle_begin", 0, &trace->needle_begin);
    if (status == WN_OK)
        status = read_int(at, "needle_end", 0, &trace->needle_end);
    if (status != WN_OK)
        return status;
    if (trace->context < 1 || trace->context > trace->tokens)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: metadata context_length is %" PRId64 ", but the tensors have %" PRId64
                       " tokens",
                       trace->path, trace->context, trace->tokens);
    if (trace->needle_begin > trace->needle_end || trace->needle_end > trace->context)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: the needle [%" PRId64 ", %" PRId64
                       ") is no range within the prompt of %" PRId64 " tokens",
                       trace->path, trace->needle_begin, trace->needle_end, trace->context);
    return WN_OK;
}

/* ---------------------------------------------------------------- layers */

/* N and the rest of "layers.N.rest"; the rest is NULL for any other name. */
static const char *split_name(const char *name, uint32_t *number)
{
    char *end;
    if (strncmp(name, "layers.", 7) != 0 || name[7] < '0' || name[7] > '9')
        return NULL;
    unsigned long value = strtoul(name + 7, &end, 10);
    if (*end != '.' || end - (name + 7) > 6)
        return NULL;
    *number = (uint32_t)value;
    return end + 1;
}

static int wanted(const reading *at, uint32_t number)
{
    for (uint32_t i = 0; i < at->num_only; i++)
        if (at->only[i] == number)
            return 1;
    return at->num_only == 0;
}

static wn_trace_layer *layer_of(wn_trace *trace, uint32_t number)
{
    for (uint32_t i = 0; i < trace->num_layers; i++)
        if (trace->layers[i].number == number)
            return &trace->layers[i];
    if (trace->num_layers == MAX_LAYERS)
        return NULL;
    wn_trace_layer *layer = &trace->layers[trace->num_layers++];
    layer->number = number;
    return layer;
}

/* k, or kv of a layer with MLA. */
static wn_status place_keys(const reading *at, wn_trace_layer *layer, const wn_safetensor *tensor)
{
    if (layer->k != NULL)
        return wn_fail(at->error, WN_EFORMAT, "%s: %s and %s exclude each other: kv is for MLA",
                       at->trace->path, layer->k->name, tensor->name);
    layer->k = tensor;
    return WN_OK;
}

static int is_latent(const wn_safetensor *keys)
{
    return strcmp(strrchr(keys->name, '.'), ".kv") == 0;
}

static wn_status place_tensor(const reading *at, const wn_safetensor *tensor)
{
    uint32_t number;
    const char *rest = split_name(tensor->name, &number);
    if (rest == NULL || !wanted(at, number))
        return WN_OK;
    wn_trace_layer *layer = layer_of(at->trace, number);
    if (layer == NULL)
        return refuse(at, "too many layers");
    if (strcmp(rest, "q") == 0)
        layer->q = tensor;
    else if (strcmp(rest, "k") == 0 || strcmp(rest, "kv") == 0)
        return place_keys(at, layer, tensor);
    else if (strcmp(rest, "v") == 0)
        layer->v = tensor;
    else if (layer->num_inputs == WN_TRACE_MAX_INPUTS)
        return wn_fail(at->error, WN_EFORMAT, "%s: layer %u has more than %d extra inputs",
                       at->trace->path, number, WN_TRACE_MAX_INPUTS);
    else {
        layer->input_names[layer->num_inputs] = rest;
        layer->inputs[layer->num_inputs++] = tensor;
    }
    return WN_OK;
}

static int by_number(const void *a, const void *b)
{
    const wn_trace_layer *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

static wn_status find_layers(const reading *at)
{
    wn_trace *trace = at->trace;
    uint32_t count = wn_safetensors_count(trace->file);
    trace->layers = calloc(MAX_LAYERS, sizeof *trace->layers);
    trace->layer_number = calloc(MAX_LAYERS, sizeof *trace->layer_number);
    if (trace->layers == NULL || trace->layer_number == NULL)
        return wn_fail(at->error, WN_ENOMEM, "%s: no memory", trace->path);
    for (uint32_t i = 0; i < count; i++) {
        wn_status status = place_tensor(at, wn_safetensors_at(trace->file, i));
        if (status != WN_OK)
            return status;
    }
    for (uint32_t i = 0; i < at->num_only; i++) {
        uint32_t found = 0;
        for (uint32_t j = 0; j < trace->num_layers; j++)
            found |= trace->layers[j].number == at->only[i];
        if (!found)
            return wn_fail(at->error, WN_ENOTFOUND, "%s: has no layer %" PRId64, trace->path,
                           at->only[i]);
    }
    if (trace->num_layers == 0)
        return refuse(at, "has no tensors layers.N.q and layers.N.k, layers.N.v or layers.N.kv");
    qsort(trace->layers, trace->num_layers, sizeof *trace->layers, by_number);
    for (uint32_t i = 0; i < trace->num_layers; i++)
        trace->layer_number[i] = trace->layers[i].number;
    return WN_OK;
}

static wn_status check_dtype(const reading *at, const wn_safetensor *tensor)
{
    const wn_trace *trace = at->trace;
    if (tensor->dtype != trace->dtype)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: %s is %s, but layers.%u.q is %s; q, k and v of "
                       "all layers must agree, in float32, float16 or bfloat16",
                       trace->path, tensor->name, wn_dtype_name(tensor->dtype),
                       trace->layers[0].number, wn_dtype_name(trace->dtype));
    return WN_OK;
}

static wn_status check_tensor(const reading *at, const wn_trace_layer *layer, const char *name,
                              const wn_safetensor *tensor, uint32_t heads, uint32_t dim)
{
    const wn_trace *trace = at->trace;
    if (tensor == NULL)
        return wn_fail(at->error, WN_EFORMAT, "%s: layer %u has no tensor layers.%u.%s",
                       trace->path, layer->number, layer->number, name);
    wn_status status = check_dtype(at, tensor);
    if (status != WN_OK)
        return status;
    if (tensor->ndim != 3)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: %s has %u dimensions; expected 3: [tokens, "
                       "heads, channels]",
                       trace->path, tensor->name, tensor->ndim);
    if (tensor->shape[0] != trace->tokens || tensor->shape[1] != heads || tensor->shape[2] != dim)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: %s is [%" PRId64 ", %" PRId64 ", %" PRId64
                       "]; beside the other tensors it should be [%" PRId64 ", %u, %u]",
                       trace->path, tensor->name, tensor->shape[0], tensor->shape[1],
                       tensor->shape[2], trace->tokens, heads, dim);
    return WN_OK;
}

static wn_status check_latent(const reading *at, const wn_trace_layer *layer)
{
    const wn_trace *trace = at->trace;
    const wn_safetensor *kv = layer->k;
    if (kv == NULL || !is_latent(kv) || layer->v != NULL)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: layer %u should have layers.%u.kv and no k and v, as layer %u",
                       trace->path, layer->number, layer->number, trace->layers[0].number);
    wn_status status = check_dtype(at, kv);
    if (status != WN_OK)
        return status;
    if (kv->ndim != 2 || kv->shape[0] != trace->tokens || kv->shape[1] != trace->head_dim)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: %s should be [%" PRId64 ", %u]: a row for each token, as wide as q",
                       trace->path, kv->name, trace->tokens, trace->head_dim);
    return WN_OK;
}

static wn_status check_layer(const reading *at, const wn_trace_layer *layer)
{
    const wn_trace *trace = at->trace;
    wn_status status = check_tensor(at, layer, "q", layer->q, trace->num_heads, trace->head_dim);
    if (status == WN_OK && trace->mla)
        status = check_latent(at, layer);
    if (status == WN_OK && !trace->mla)
        status = check_tensor(at, layer, "k", layer->k, trace->num_kv_heads, trace->head_dim);
    if (status == WN_OK && !trace->mla)
        status = check_tensor(at, layer, "v", layer->v, trace->num_kv_heads, trace->v_head_dim);
    for (uint32_t i = 0; i < layer->num_inputs && status == WN_OK; i++) {
        const wn_safetensor *input = layer->inputs[i];
        if (input->ndim < 1 || input->ndim > WN_MAX_DIMS || input->shape[0] != trace->tokens)
            status = wn_fail(at->error, WN_EFORMAT,
                             "%s: %s does not have one row for each of the "
                             "%" PRId64 " tokens",
                             trace->path, input->name, trace->tokens);
    }
    return status;
}

/* Is the first layer of one of the two forms? Extents are compared later. */
static int has_a_form(const wn_trace_layer *layer)
{
    if (layer->q == NULL || layer->q->ndim != 3 || layer->k == NULL)
        return 0;
    if (is_latent(layer->k))
        return layer->k->ndim == 2;
    return layer->k->ndim == 3 && layer->v != NULL && layer->v->ndim == 3;
}

/* Channels of a value: with MLA they are not to be seen in a shape. */
static wn_status read_value_dim(const reading *at, int64_t *dim)
{
    const wn_trace_layer *first = &at->trace->layers[0];
    if (!is_latent(first->k)) {
        *dim = first->v->shape[2];
        return WN_OK;
    }
    wn_status status = read_int(at, "v_head_dim", MLA_V_HEAD_DIM, dim);
    if (status == WN_OK && *dim > first->q->shape[2])
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: a value has %" PRId64 " channels (metadata v_head_dim; %d if it is "
                       "absent), more than the %" PRId64 " of %s",
                       at->trace->path, *dim, MLA_V_HEAD_DIM, first->q->shape[2], first->q->name);
    return status;
}

static wn_status check_extents(const reading *at, int64_t kv_heads, int64_t v_dim)
{
    const wn_safetensor *q = at->trace->layers[0].q;
    int64_t tokens = q->shape[0], heads = q->shape[1], dim = q->shape[2];
    if (q->dtype != WN_F32 && q->dtype != WN_F16 && q->dtype != WN_BF16)
        return wn_fail(at->error, WN_EFORMAT, "%s: %s is %s; expected float32, float16 or bfloat16",
                       at->trace->path, q->name, wn_dtype_name(q->dtype));
    if (tokens < 1 || tokens > MAX_TOKENS || heads < 1 || heads > MAX_HEADS || dim < 1 ||
        dim > WN_MAX_HEAD_DIM || v_dim < 1 || v_dim > WN_MAX_HEAD_DIM)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: %s is [%" PRId64 ", %" PRId64 ", %" PRId64 "] and v has %" PRId64
                       " channels: out of range",
                       at->trace->path, q->name, tokens, heads, dim, v_dim);
    if (kv_heads < 1 || kv_heads > heads || heads % kv_heads != 0)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: %" PRId64 " query heads cannot share %" PRId64 " KV heads evenly",
                       at->trace->path, heads, kv_heads);
    return WN_OK;
}

/* The geometry is what the first layer says; every layer is then held to it. */
static wn_status read_geometry(const reading *at)
{
    wn_trace *trace = at->trace;
    const wn_trace_layer *first = &trace->layers[0];
    int64_t v_dim;
    if (!has_a_form(first))
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: layer %u lacks layers.%u.q, .k or .v of the shape [tokens, heads, "
                       "channels], and layers.%u.kv [tokens, channels], which stands for k and v",
                       trace->path, first->number, first->number, first->number);
    trace->mla = (uint32_t)is_latent(first->k);
    int64_t kv_heads = trace->mla ? 1 : first->k->shape[1];
    wn_status status = read_value_dim(at, &v_dim);
    if (status == WN_OK)
        status = check_extents(at, kv_heads, v_dim);
    if (status != WN_OK)
        return status;
    trace->tokens = first->q->shape[0];
    trace->dtype = first->q->dtype;
    trace->num_heads = (uint32_t)first->q->shape[1];
    trace->num_kv_heads = (uint32_t)kv_heads;
    trace->head_dim = (uint32_t)first->q->shape[2];
    trace->v_head_dim = (uint32_t)v_dim;
    for (uint32_t i = 0; i < trace->num_layers && status == WN_OK; i++)
        status = check_layer(at, &trace->layers[i]);
    return status;
}

/* ---------------------------------------------------------------- words */

/* Optional; but if it is there, it must be right. */
static wn_status read_words(const reading *at)
{
    wn_trace *trace = at->trace;
    const wn_safetensor *text = wn_safetensors_find(trace->file, "token_text");
    const wn_safetensor *begin = wn_safetensors_find(trace->file, "token_text_offsets");
    if (text == NULL || begin == NULL)
        return WN_OK;
    if (text->dtype != WN_U8 || begin->dtype != WN_I32 || begin->ndim != 1 ||
        begin->shape[0] != trace->tokens + 1)
        return wn_fail(at->error, WN_EFORMAT,
                       "%s: token_text must be uint8 and token_text_offsets "
                       "int32 [%" PRId64 "]",
                       trace->path, trace->tokens + 1);
    const int32_t *offsets = begin->data;
    for (int64_t t = 0; t < trace->tokens; t++)
        if (offsets[t] < 0 || offsets[t + 1] < offsets[t] || (uint64_t)offsets[t + 1] > text->bytes)
            return wn_fail(at->error, WN_EFORMAT,
                           "%s: token_text_offsets of token %" PRId64
                           " are [%d, %d], but token_text has %" PRIu64 " bytes",
                           trace->path, t, offsets[t], offsets[t + 1], text->bytes);
    trace->text = text->data;
    trace->text_begin = offsets;
    return WN_OK;
}

/* ---------------------------------------------------------------- doors */

static wn_status read_trace(const reading *at)
{
    wn_status status = wn_safetensors_open(at->trace->path, &at->trace->file, at->error);
    if (status == WN_OK)
        status = read_format(at);
    if (status == WN_OK)
        status = find_layers(at);
    if (status == WN_OK)
        status = read_geometry(at);
    if (status == WN_OK)
        status = read_lengths(at);
    if (status == WN_OK)
        status = read_words(at);
    return status;
}

wn_status wn_trace_open(const char *path, const int64_t *only, uint32_t num_only, wn_trace **trace,
                        wn_error *error)
{
    *trace = NULL;
    wn_trace *made = calloc(1, sizeof *made);
    if (made == NULL || (made->path = strdup(path)) == NULL) {
        free(made);
        return wn_fail(error, WN_ENOMEM, "%s: no memory", path);
    }
    wn_status status = read_trace(&(reading){made, error, only, num_only});
    if (status == WN_OK)
        *trace = made;
    else
        wn_trace_close(made);
    return status;
}

void wn_trace_close(wn_trace *trace)
{
    if (trace == NULL)
        return;
    wn_safetensors_close(trace->file);
    free(trace->layers);
    free(trace->layer_number);
    free(trace->path);
    free(trace);
}

void wn_trace_drop(wn_trace *trace, const uint8_t *drop)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < trace->num_layers; i++) {
        if (drop[i])
            continue;
        trace->layers[left] = trace->layers[i];
        trace->layer_number[left++] = trace->layer_number[i];
    }
    trace->num_layers = left;
}

wn_tensor wn_trace_rows(const wn_safetensor *tensor, int64_t first, int64_t count)
{
    int64_t shape[WN_MAX_DIMS];
    uint64_t row_bytes = tensor->shape[0] > 0 ? tensor->bytes / (uint64_t)tensor->shape[0] : 0;
    for (uint32_t i = 0; i < tensor->ndim; i++)
        shape[i] = tensor->shape[i];
    shape[0] = count;
    /* The library reads q, k, v and inputs only; its tensor has no const. */
    char *data = (char *)(uintptr_t)tensor->data + (uint64_t)first * row_bytes;
    return wn_tensor_make(data, tensor->dtype, tensor->ndim, shape);
}

wn_tensor wn_trace_keys(const wn_trace *trace, uint32_t layer, int64_t first, int64_t count)
{
    wn_tensor rows = wn_trace_rows(trace->layers[layer].k, first, count);
    return wn_tensor_make(rows.data, rows.dtype, 3,
                          (int64_t[]){count, trace->num_kv_heads, trace->head_dim});
}

/* Shape of the first layer's indexer.q, [tokens, heads, channels], in the model's words. */
static void read_indexer_shape(const wn_trace *trace, wn_model *model)
{
    for (uint32_t l = 0; l < trace->num_layers; l++)
        for (uint32_t i = 0; i < trace->layers[l].num_inputs; i++) {
            const wn_safetensor *input = trace->layers[l].inputs[i];
            if (strcmp(trace->layers[l].input_names[i], "indexer.q") != 0 || input->ndim != 3 ||
                input->shape[1] > UINT32_MAX || input->shape[2] > UINT32_MAX)
                continue;
            model->index_n_heads = (uint32_t)input->shape[1];
            model->index_head_dim = (uint32_t)input->shape[2];
            return;
        }
}

wn_model wn_trace_model(const wn_trace *trace)
{
    wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                      .num_layers = trace->num_layers,
                      .num_heads = trace->num_heads,
                      .num_kv_heads = trace->num_kv_heads,
                      .head_dim = trace->head_dim,
                      .v_head_dim = trace->v_head_dim,
                      .dtype = trace->dtype,
                      .max_position = (uint32_t)trace->tokens,
                      .softmax_scale = trace->softmax_scale,
                      .rope = WN_ROPE_NONE,
                      .mla = trace->mla,
                      .layer_number = trace->layer_number,
                      .name = trace->model};
    read_indexer_shape(trace, &model);
    return model;
}

/* ---------------------------------------------------------------- expectations */

/* layers.N.what as float64 of the given extents, into *data; absent is fine. */
static wn_status read_expected(const wn_expected *expected, const wn_trace *trace, uint32_t layer,
                               const char *what, int64_t dim, const double **data, wn_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%u.%s", trace->layers[layer].number, what);
    const wn_safetensor *tensor = wn_safetensors_find(expected->file, name);
    if (tensor == NULL)
        return WN_OK;
    int64_t want = expected->num_rows * trace->num_heads * dim;
    if (tensor->dtype != WN_F64 || tensor->bytes != (uint64_t)want * sizeof(double))
        return wn_fail(error, WN_EFORMAT,
                       "the expectation's %s should be float64 of %" PRId64
                       " rows, %u heads and %" PRId64 " channels",
                       name, expected->num_rows, trace->num_heads, dim);
    *data = tensor->data;
    return WN_OK;
}

static wn_status read_expectations(wn_expected *expected, const char *path, const wn_trace *trace,
                                   wn_error *error)
{
    const wn_safetensor *rows = wn_safetensors_find(expected->file, "rows");
    if (rows == NULL || rows->dtype != WN_I32 || rows->ndim != 1)
        return wn_fail(error, WN_EFORMAT, "%s: has no int32 tensor \"rows\"", path);
    expected->rows = rows->data;
    expected->num_rows = rows->shape[0];
    for (int64_t i = 0; i < expected->num_rows; i++)
        if (expected->rows[i] < 0 || expected->rows[i] >= trace->tokens)
            return wn_fail(error, WN_EFORMAT,
                           "%s: row %d is not among the trace's %" PRId64
                           " tokens: is it this trace's expectation?",
                           path, expected->rows[i], trace->tokens);
    wn_status status = WN_OK;
    for (uint32_t i = 0; i < trace->num_layers && status == WN_OK; i++) {
        status =
            read_expected(expected, trace, i, "out", trace->v_head_dim, &expected->out[i], error);
        if (status == WN_OK)
            status = read_expected(expected, trace, i, "lse", 1, &expected->lse[i], error);
    }
    return status;
}

wn_status wn_expected_open(const char *path, const wn_trace *trace, wn_expected **expected,
                           wn_error *error)
{
    wn_expected *made = calloc(1, sizeof *made);
    *expected = NULL;
    if (made == NULL)
        return wn_fail(error, WN_ENOMEM, "%s: no memory", path);
    made->out = calloc(trace->num_layers, sizeof *made->out);
    made->lse = calloc(trace->num_layers, sizeof *made->lse);
    wn_status status = WN_ENOMEM;
    if (made->out == NULL || made->lse == NULL)
        wn_fail(error, status, "%s: no memory", path);
    else
        status = wn_safetensors_open(path, &made->file, error);
    if (status == WN_OK)
        status = read_expectations(made, path, trace, error);
    if (status == WN_OK)
        *expected = made;
    else
        wn_expected_close(made);
    return status;
}

void wn_expected_close(wn_expected *expected)
{
    if (expected == NULL)
        return;
    wn_safetensors_close(expected->file);
    free(expected->out);
    free(expected->lse);
    free(expected);
}
