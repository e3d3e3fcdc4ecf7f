/* append.c: new tokens on their way into the cache: rotation, scale, quantisation, scatter. All in
 * doubles: a key is rounded once, when it is stored. */
#include "kernels/block_scale.h"
#include "kernels/kv_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/rotation.h"
#include "kernels/tensor_element.h"

static void load_vector(const wn_tensor *tensor, int64_t token, int64_t head, double *x)
{
    for (int64_t d = 0; d < tensor->shape[2]; d++)
        x[d] = wn_tensor_load(tensor, token, head, d);
}

/* Reads the whole vector before it writes: q_out may be q. */
static void rotate_q(const wn_append_args *args, const wn_rotation *r, int64_t token)
{
    double x[WN_MAX_HEAD_DIM];
    for (int64_t h = 0; h < args->q.shape[1]; h++) {
        load_vector(&args->q, token, h, x);
        wn_rotation_apply(r, x);
        for (int64_t d = 0; d < args->q.shape[2]; d++)
            wn_tensor_store(&args->q_out, token, h, d, x[d]);
    }
}

/* Writes an MLA record. The scale of 128 codes is FlashMLA's: 2^ceil(log2(max(amax / 448, 1e-4))),
 * in floats. A power of two is exact in every reader, bfloat16 ones included. */
static void store_record(uint8_t *record, const double *x)
{
    for (int64_t block = 0; block < WN_MLA_LATENT_DIM / WN_MLA_CODES_PER_SCALE; block++) {
        int64_t first = block * WN_MLA_CODES_PER_SCALE;
        float full = wn_greatest_magnitude(x + first, WN_MLA_CODES_PER_SCALE) / 448;
        float scale = wn_power_of_two_above(full > 1e-4f ? full : 1e-4f);
        memcpy(record + WN_MLA_SCALES_AT + block * 4, &scale, sizeof scale);
        for (int64_t d = first; d < first + WN_MLA_CODES_PER_SCALE; d++)
            record[d] = wn_e4m3_from_double(x[d] / scale);
    }
    for (int64_t i = 0; i < WN_MLA_ROPE_DIM; i++) {
        uint16_t bits = wn_bf16_from_double(x[WN_MLA_LATENT_DIM + i]);
        memcpy(record + WN_MLA_ROPE_AT + i * 2, &bits, sizeof bits);
    }
}

/* Writes a vector to its slot, and its scale where the cache has one per token. */
static void store_vector(const wn_append_args *args, const wn_kv_view *view, int64_t slot,
                         int64_t head, const double *x)
{
    int64_t page = slot / args->tokens_per_page, place = slot % args->tokens_per_page;
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        store_record(wn_kv_record(view, page, head, place), x);
        return;
    }
    if (view->scale != NULL)
        view->scale[wn_kv_scale_offset(view, page, head, place)] =
            wn_scale_of(wn_greatest_magnitude(x, view->dim) / view->tensor_scale, view->dtype);
    double scale = wn_kv_scale(view, page, head, place);
    for (uint32_t d = 0; d < view->dim; d++)
        wn_store(view->data, view->dtype,
                 wn_kv_offset(view, args->tokens_per_page, page, head, place, d), x[d] / scale);
}

static void append_token(void *argument, int64_t token)
{
    const wn_append_args *args = argument;
    wn_rotation r;
    WN_ROTATION_OF(args, token, &r);
    if (args->q.data != NULL)
        rotate_q(args, &r, token);
    if (args->k.data == NULL || args->slot[token] < 0)
        return;
    int64_t slot = args->slot[token];
    for (int64_t h = 0; h < args->k.shape[1]; h++) {
        double x[WN_MAX_HEAD_DIM];
        load_vector(&args->k, token, h, x);
        wn_rotation_apply(&r, x);
        store_vector(args, &args->k_cache, slot, h, x);
        if (args->v.data != NULL) {
            load_vector(&args->v, token, h, x);
            store_vector(args, &args->v_cache, slot, h, x);
        }
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
    if (args->rope_dim == 0 || args->rope_dim % 2 != 0 || args->rope_dim > WN_MAX_HEAD_DIM)
        return wn_fail(args->error, WN_EINVAL,
                       "append: rope_dim is %u, expected an even number of channels, at most %d",
                       args->rope_dim, WN_MAX_HEAD_DIM);
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

/* Records hold one vector per token. */
static wn_status validate_cache(const wn_append_args *args, const char *name,
                                const wn_tensor *tensor, const wn_kv_view *view, int which)
{
    wn_status status =
        wn_check_pool(args->error, "append", which == WN_OPERAND_K ? "k_cache" : "v_cache", view,
                      args->tokens_per_page, which);
    if (status == WN_OK)
        status = wn_check_extent(args->error, "append", name, tensor, 2, view->dim);
    if (status == WN_OK)
        status = wn_check_extent(args->error, "append", name, tensor, 1, args->k.shape[1]);
    if (status == WN_OK && view->layout == WN_LAYOUT_MLA_FP8)
        status = wn_check_extent(args->error, "append", name, tensor, 1, 1);
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
    if (status == WN_OK && args->v.data != NULL)
        status = validate_operand(args, "v", &args->v, 0);
    if (status != WN_OK)
        return status;
    if (args->slot == NULL || args->tokens_per_page == 0)
        return wn_fail(args->error, WN_EINVAL,
                       "append: k and v need slots and tokens_per_page >= 1");
    if (args->key_position != NULL && args->position == NULL)
        return wn_fail(args->error, WN_EINVAL, "append: key_position needs the tokens' positions");
    status = validate_cache(args, "k", &args->k, &args->k_cache, WN_OPERAND_K);
    if (status == WN_OK && args->v.data != NULL)
        status = validate_cache(args, "v", &args->v, &args->v_cache, WN_OPERAND_V);
    return status;
}

wn_status wn_refuse_append(const wn_append_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_append_args);
    if (args->num_tokens == 0)
        return WN_OK;
    wn_status status = validate_rope(args);
    if (status == WN_OK)
        status = validate_q(args);
    if (status == WN_OK)
        status = validate_kv(args);
    return status;
}

wn_status wn_ref_append(const wn_append_args *args)
{
    wn_status status = wn_refuse_append(args);
    if (status != WN_OK || args->num_tokens == 0)
        return status;
    wn_for_each(args->executor, args->num_tokens, append_token, (void *)args);
    return WN_OK;
}
