/* append.c: new tokens on their way into the cache: rotation, scale, quantisation, scatter. All in
 * doubles: a key is rounded once, when it is stored. */
#include "kernels/kv_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/tensor_element.h"

/* cos and sin of a token's position times each frequency; the same for all its heads. */
typedef struct rotation {
    double cosine[WN_MAX_HEAD_DIM / 2], sine[WN_MAX_HEAD_DIM / 2];
} rotation;

static void make_rotation(const wn_append_args *args, int64_t token, rotation *r)
{
    if (args->rope == WN_ROPE_NONE)
        return;
    for (uint32_t i = 0; i < args->rope_dim / 2; i++) {
        double frequency = args->rope_inverse_frequency != NULL
                               ? args->rope_inverse_frequency[i]
                               : pow(args->rope_theta, -2.0 * i / args->rope_dim);
        double angle = args->position[token] * frequency;
        r->cosine[i] = cos(angle);
        r->sine[i] = sin(angle);
    }
}

/* Rotates x, one head's vector, in place. */
static void rotate(const wn_append_args *args, const rotation *r, double *x)
{
    uint32_t pairs = args->rope == WN_ROPE_NONE ? 0 : args->rope_dim / 2;
    x += args->rope_offset;
    for (uint32_t i = 0; i < pairs; i++) {
        double *a = args->rope == WN_ROPE_HALF_SPLIT ? &x[i] : &x[2 * i];
        double *b = args->rope == WN_ROPE_HALF_SPLIT ? &x[i + pairs] : &x[2 * i + 1];
        double turned = *a * r->cosine[i] - *b * r->sine[i];
        *b = *b * r->cosine[i] + *a * r->sine[i];
        *a = turned;
    }
}

static void load_vector(const wn_tensor *tensor, int64_t token, int64_t head, double *x)
{
    for (int64_t d = 0; d < tensor->shape[2]; d++)
        x[d] = wn_tensor_load(tensor, token, head, d);
}

/* Reads the whole vector before it writes: q_out may be q. */
static void rotate_q(const wn_append_args *args, const rotation *r, int64_t token)
{
    double x[WN_MAX_HEAD_DIM];
    for (int64_t h = 0; h < args->q.shape[1]; h++) {
        load_vector(&args->q, token, h, x);
        rotate(args, r, x);
        for (int64_t d = 0; d < args->q.shape[2]; d++)
            wn_tensor_store(&args->q_out, token, h, d, x[d]);
    }
}

/* Writes a vector to its slot, and its scale where the cache has one per token. */
static void store_vector(const wn_append_args *args, const wn_kv_view *view, int64_t slot,
                         int64_t head, const double *x)
{
    int64_t page = slot / args->tokens_per_page, place = slot % args->tokens_per_page;
    if (view->scale != NULL) {
        double greatest = 0; /* infinities are left to saturate */
        for (uint32_t d = 0; d < view->dim; d++)
            if (isfinite(x[d]) && fabs(x[d]) > greatest)
                greatest = fabs(x[d]);
        view->scale[wn_kv_scale_offset(view, page, head, place)] =
            wn_scale_of(greatest / view->tensor_scale, view->dtype);
    }
    double scale = wn_kv_scale(view, page, head, place);
    for (uint32_t d = 0; d < view->dim; d++)
        wn_store(view->data, view->dtype,
                 wn_kv_offset(view, args->tokens_per_page, page, head, place, d), x[d] / scale);
}

static void append_token(void *argument, int64_t token)
{
    const wn_append_args *args = argument;
    rotation r;
    make_rotation(args, token, &r);
    if (args->q.data != NULL)
        rotate_q(args, &r, token);
    if (args->k.data == NULL || args->slot[token] < 0)
        return;
    int64_t slot = args->slot[token];
    for (int64_t h = 0; h < args->k.shape[1]; h++) {
        double x[WN_MAX_HEAD_DIM];
        load_vector(&args->k, token, h, x);
        rotate(args, &r, x);
        store_vector(args, &args->k_cache, slot, h, x);
        load_vector(&args->v, token, h, x);
        store_vector(args, &args->v_cache, slot, h, x);
        if (args->key_position != NULL)
            args->key_position[slot / args->tokens_per_page * args->key_position_page_stride +
                               h * args->key_position_head_stride + slot % args->tokens_per_page] =
                args->position[token];
    }
}

/* ---------------------------------------------------------------- validation */

/* Is `tensor` [at least num_tokens, heads, dim], of a dtype that models compute in, with a dim that
 * holds the rotated channels (if any are)? */
static wn_status validate_operand(const wn_append_args *args, const char *name,
                                  const wn_tensor *tensor, int is_rotated)
{
    wn_status status = wn_check_operand(args->error, "append", name, tensor, 3, 1);
    if (status != WN_OK)
        return status;
    if (tensor->shape[0] < args->num_tokens)
        return wn_fail(args->error, WN_EINVAL, "append: %s has %lld tokens, expected %u", name,
                       (long long)tensor->shape[0], args->num_tokens);
    if (tensor->shape[2] < 1 || tensor->shape[2] > WN_MAX_HEAD_DIM)
        return wn_fail(args->error, WN_EUNSUPPORTED,
                       "append: %s has head dim %lld; 1 .. %d are taken", name,
                       (long long)tensor->shape[2], WN_MAX_HEAD_DIM);
    if (is_rotated && args->rope != WN_ROPE_NONE &&
        (int64_t)args->rope_offset + args->rope_dim > tensor->shape[2])
        return wn_fail(args->error, WN_EINVAL,
                       "append: rope rotates channels %u .. %lld, but %s has %lld",
                       args->rope_offset, (long long)args->rope_offset + args->rope_dim - 1, name,
                       (long long)tensor->shape[2]);
    return WN_OK;
}

static wn_status validate_rope(const wn_append_args *args)
{
    if (args->rope > WN_ROPE_INTERLEAVED)
        return wn_fail(args->error, WN_EINVAL, "append: rope is %u, expected 0 .. 2", args->rope);
    if (args->rope == WN_ROPE_NONE)
        return WN_OK;
    if (args->rope_dim == 0 || args->rope_dim % 2 != 0)
        return wn_fail(args->error, WN_EINVAL,
                       "append: rope_dim is %u, expected an even number of channels",
                       args->rope_dim);
    if (args->rope_inverse_frequency == NULL && !(args->rope_theta > 0))
        return wn_fail(args->error, WN_EINVAL,
                       "append: rope_theta is %g; give a positive one or rope_inverse_frequency",
                       (double)args->rope_theta);
    if (args->position == NULL)
        return wn_fail(args->error, WN_EINVAL, "append: rope needs the tokens' positions");
    return WN_OK;
}

static wn_status validate_q(const wn_append_args *args)
{
    if (args->q.data == NULL)
        return WN_OK;
    wn_status status = validate_operand(args, "q", &args->q, 1);
    if (status == WN_OK)
        status = validate_operand(args, "q_out", &args->q_out, 1);
    for (uint32_t i = 1; status == WN_OK && i < 3; i++)
        status = wn_check_extent(args->error, "append", "q_out", &args->q_out, i, args->q.shape[i]);
    if (status == WN_OK && args->q.dtype != args->q_out.dtype)
        return wn_fail(args->error, WN_EINVAL, "append: q has dtype %u and q_out %u", args->q.dtype,
                       args->q_out.dtype);
    return status;
}

static wn_status validate_cache(const wn_append_args *args, const char *name,
                                const wn_tensor *tensor, const wn_kv_view *view, int which)
{
    wn_status status = wn_check_pool(args->error, "append", view, args->tokens_per_page, which);
    if (status == WN_OK)
        status = wn_check_extent(args->error, "append", name, tensor, 2, view->dim);
    if (status == WN_OK)
        status = wn_check_extent(args->error, "append", name, tensor, 1, args->k.shape[1]);
    if (status == WN_OK && view->data == NULL)
        return wn_fail(args->error, WN_EINVAL, "append: the cache for %s has no data", name);
    if (status == WN_OK && view->scale != NULL && wn_greatest_code(view->dtype) == 0)
        return wn_fail(args->error, WN_EUNSUPPORTED,
                       "append: the cache for %s has dtype %u and scales per token; only "
                       "float8_e4m3 and int8 take them",
                       name, view->dtype);
    return status;
}

static wn_status validate_kv(const wn_append_args *args)
{
    if (args->k.data == NULL)
        return WN_OK;
    wn_status status = validate_operand(args, "k", &args->k, 1);
    if (status == WN_OK)
        status = validate_operand(args, "v", &args->v, 0);
    if (status != WN_OK)
        return status;
    if (args->slot == NULL || args->tokens_per_page == 0)
        return wn_fail(args->error, WN_EINVAL,
                       "append: k and v need slots and tokens_per_page >= 1");
    if (args->key_position != NULL && args->position == NULL)
        return wn_fail(args->error, WN_EINVAL, "append: key_position needs the tokens' positions");
    status = validate_cache(args, "k", &args->k, &args->k_cache, WN_OPERAND_K);
    if (status == WN_OK)
        status = validate_cache(args, "v", &args->v, &args->v_cache, WN_OPERAND_V);
    return status;
}

wn_status wn_ref_append(const wn_append_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_append_args);
    if (args->num_tokens == 0)
        return WN_OK;
    wn_status status = validate_rope(args);
    if (status == WN_OK)
        status = validate_q(args);
    if (status == WN_OK)
        status = validate_kv(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->num_tokens, append_token, (void *)args);
    return status;
}
