/* rope.c: the reference of rope: rotates some channels of each head's vector and copies the others,
 * in doubles, rounded once. The rotation itself is rotation.h. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/rotation.h"
#include "kernels/tensor_element.h"

/* Reads a whole vector before it writes: out may be in. */
static void rope_token(void *argument, int64_t token)
{
    const wn_rope_args *a = argument;
    wn_rotation r;
    WN_ROTATION_OF(a, token, &r);
    for (int64_t h = 0; h < a->in.shape[1]; h++) {
        double x[WN_MAX_HEAD_DIM];
        for (int64_t d = 0; d < a->in.shape[2]; d++)
            x[d] = wn_tensor_load(&a->in, token, h, d);
        wn_rotation_apply(&r, x);
        for (int64_t d = 0; d < a->in.shape[2]; d++)
            wn_tensor_store(&a->out, token, h, d, x[d]);
    }
}

static wn_status check_tensors(const wn_rope_args *a)
{
    wn_status status = wn_check_operand(a->error, "rope", "in", &a->in, 3, 1);
    if (status == WN_OK)
        status = wn_check_operand(a->error, "rope", "out", &a->out, 3, 1);
    for (uint32_t i = 0; status == WN_OK && i < 3; i++)
        status = wn_check_extent(a->error, "rope", "out", &a->out, i, a->in.shape[i]);
    if (status != WN_OK)
        return status;
    if (a->in.dtype != a->out.dtype)
        return wn_fail(a->error, WN_EINVAL, "rope: in has dtype %u and out %u, expected the same",
                       a->in.dtype, a->out.dtype);
    if (a->in.shape[2] > WN_MAX_HEAD_DIM)
        return wn_fail(a->error, WN_EUNSUPPORTED, "rope: in has dim %lld; up to %d is taken",
                       (long long)a->in.shape[2], WN_MAX_HEAD_DIM);
    return WN_OK;
}

static wn_status check_rotation(const wn_rope_args *a)
{
    if (a->rope != WN_ROPE_HALF_SPLIT && a->rope != WN_ROPE_INTERLEAVED)
        return wn_fail(a->error, WN_EINVAL,
                       "rope: rope is %u, expected %d (half-split pairs) or %d (interleaved pairs)",
                       a->rope, WN_ROPE_HALF_SPLIT, WN_ROPE_INTERLEAVED);
    if (a->rope_dim == 0 || a->rope_dim % 2 != 0 ||
        (int64_t)a->rope_offset + a->rope_dim > a->in.shape[2])
        return wn_fail(a->error, WN_EINVAL,
                       "rope: rope_dim is %u from channel %u on, expected an even number of the "
                       "%lld channels",
                       a->rope_dim, a->rope_offset, (long long)a->in.shape[2]);
    if (a->rope_inverse_frequency == NULL && !(a->rope_theta > 0))
        return wn_fail(a->error, WN_EINVAL,
                       "rope: rope_theta is %g; give a positive one or rope_inverse_frequency",
                       (double)a->rope_theta);
    if (a->position == NULL && a->in.shape[0] > 0)
        return wn_fail(a->error, WN_EINVAL, "rope: the tokens' positions are missing");
    return WN_OK;
}

wn_status wn_refuse_rope(const wn_rope_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_rope_args);
    wn_status status = check_tensors(args);
    if (status == WN_OK)
        status = check_rotation(args);
    return status;
}

wn_status wn_ref_rope(const wn_rope_args *args)
{
    wn_status status = wn_refuse_rope(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->in.shape[0], rope_token, (void *)args);
    return status;
}
