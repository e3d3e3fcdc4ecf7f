/* dsa_vectors.c: the indexer's vectors, from the model's tensors to what is scored. Queries and
 * keys go the same way, so that their dot products stay what the model was trained on: bfloat16 ->
 * RoPE on the first channels (if it is ours to do) -> Hadamard (if the engine that the keys are to
 * match does it) -> quantisation, by the caller. Each arrow rounds to bfloat16, as the reference
 * systems' tensors do. */
#include "dsa.h"

const char *const dsa_inputs[] = {
    [DSA_INPUT_Q] = "indexer.q",
    [DSA_INPUT_K] = "indexer.k",
    [DSA_INPUT_WEIGHTS] = "indexer.weights",
    NULL,
};

static const char *const shape_texts[] = {"[tokens, index_n_heads, index_head_dim]",
                                          "[tokens, index_head_dim]", "[tokens, index_n_heads]"};

/* Extents behind the tokens; q has two, the others one. */
static void extents_of(const dsa *self, uint32_t which, int64_t extents[2])
{
    extents[0] = which == DSA_INPUT_K ? self->dim : self->heads;
    extents[1] = self->dim;
}

wn_status dsa_input_shape(void *instance, uint32_t input, int64_t tokens, wn_tensor *out)
{
    int64_t extents[2];
    extents_of(instance, input, extents);
    *out = (wn_tensor){.shape = {tokens, extents[0], input == DSA_INPUT_Q ? extents[1] : 0},
                       .ndim = input == DSA_INPUT_Q ? 3 : 2,
                       .dtype = WN_F32};
    return WN_OK;
}

wn_status dsa_input(const dsa *self, const wn_step_args *args, uint32_t which, int64_t rows,
                    wn_tensor *tensor)
{
    int64_t extents[2];
    extents_of(self, which, extents);
    const uint32_t ndim = which == DSA_INPUT_Q ? 3 : 2;
    const wn_tensor *in = &args->inputs[which].tensor;
    if (in->data == NULL)
        return wn_fail(args->error, WN_EINVAL,
                       "%s is empty on a layer that is a producer: give it, or make the layer a "
                       "consumer in layer_roles",
                       dsa_inputs[which]);
    int fits = in->ndim == ndim && in->shape[0] >= rows;
    for (uint32_t i = 1; i < ndim && fits; i++)
        fits = in->shape[i] == extents[i - 1];
    if (!fits)
        return wn_fail(args->error, WN_EINVAL,
                       "%s is [%lld, %lld, %lld] in %u dimensions; expected %s with at least %lld "
                       "tokens, index_n_heads %u, index_head_dim %u",
                       dsa_inputs[which], (long long)in->shape[0], (long long)in->shape[1],
                       (long long)(in->ndim > 2 ? in->shape[2] : 1), in->ndim, shape_texts[which],
                       (long long)rows, self->heads, self->dim);
    *tensor = *in;
    if (which == DSA_INPUT_K) { /* one head */
        tensor->ndim = 3;
        tensor->shape[1] = 1;
        tensor->shape[2] = in->shape[1];
        tensor->stride[1] = in->stride[0];
        tensor->stride[2] = in->stride[1];
    }
    return WN_OK;
}

wn_status dsa_convert(const wn_step_args *args, wn_tensor in, wn_tensor out)
{
    const wn_quantise_args convert = {
        .struct_size = WN_SIZEOF(wn_quantise_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .in = in,
        .out = out,
    };
    return args->ops->quantise(&convert);
}

/* Element bytes of the dtypes that an input may have; 1 for others, which the op refuses. */
static int64_t bytes_of(uint32_t dtype)
{
    return dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
}

/* Rows [first, first + count) of [tokens, heads, dim] to contiguous bfloat16: one matrix where the
 * input's strides allow it, else a matrix per head. */
static wn_status round_vectors(const wn_step_args *args, const wn_tensor *in, int64_t first,
                               int64_t count, uint16_t *to)
{
    const int64_t heads = in->shape[1], dim = in->shape[2], bytes = bytes_of(in->dtype);
    uint8_t *from = (uint8_t *)in->data + first * in->stride[0] * bytes;
    wn_tensor source = {.data = from,
                        .shape = {count * heads, dim},
                        .stride = {in->stride[1], in->stride[2]},
                        .dtype = in->dtype,
                        .ndim = 2};
    if (in->stride[0] == heads * in->stride[1])
        return dsa_convert(args, source, dsa_matrix(to, WN_BF16, count * heads, dim));
    wn_status status = WN_OK;
    source.shape[0] = count;
    source.stride[0] = in->stride[0];
    for (int64_t h = 0; h < heads && status == WN_OK; h++) {
        wn_tensor target = dsa_matrix(to + h * dim, WN_BF16, count, dim);
        source.data = from + h * in->stride[1] * bytes;
        target.stride[0] = heads * dim;
        status = dsa_convert(args, source, target);
    }
    return status;
}

static wn_status rotate(const dsa *self, const wn_step_args *args, int64_t first, wn_tensor vectors)
{
    const wn_rope_args rope = {
        .struct_size = WN_SIZEOF(wn_rope_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .in = vectors,
        .out = vectors,
        .position = args->position + first,
        .rope_inverse_frequency = self->rope_frequency,
        .rope_theta = self->rope_theta,
        .rope = self->rope,
        .rope_dim = self->rope_dim,
    };
    return args->ops->rope(&rope);
}

static wn_status transform(const wn_step_args *args, wn_tensor rows)
{
    const wn_hadamard_args hadamard = {
        .struct_size = WN_SIZEOF(wn_hadamard_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .in = rows,
        .out = rows,
    };
    return args->ops->hadamard(&hadamard);
}

wn_status dsa_prepare(const dsa *self, const wn_step_args *args, const wn_tensor *in, int64_t first,
                      int64_t count, uint16_t *to)
{
    const int64_t heads = in->shape[1], dim = in->shape[2];
    wn_status status = round_vectors(args, in, first, count, to);
    if (status == WN_OK && self->rope != WN_ROPE_NONE)
        status = rotate(self, args, first, dsa_cube(to, WN_BF16, count, heads, dim));
    if (status == WN_OK && self->hadamard)
        status = transform(args, dsa_matrix(to, WN_BF16, count * heads, dim));
    return status;
}
