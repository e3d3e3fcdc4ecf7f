/* quantise.c: the reference of quantise: rows of numbers to a narrower dtype, with a scale per
 * block of channels. */
#include "kernels/block_scale.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

static int64_t block_of(const wn_quantise_args *args)
{
    return args->block != 0 ? args->block : args->in.shape[1];
}

/* Channels [first, first + block) of a row: the greatest finite magnitude. */
static float greatest_magnitude(const wn_quantise_args *args, int64_t row, int64_t first)
{
    double greatest = 0;
    for (int64_t i = first; i < first + block_of(args); i++) {
        double x = wn_tensor_load(&args->in, row, i, 0);
        greatest = fmax(greatest, wn_greatest_magnitude(&x, 1));
    }
    return (float)greatest;
}

/* The quotient of two floats is in double as good as exact: it lies on a tie of the narrow format
 * only if the true quotient does. So out is rounded once. */
static void quantise_row(void *argument, int64_t row)
{
    const wn_quantise_args *args = argument;
    int64_t n = args->in.shape[1], block = block_of(args);
    for (int64_t first = 0; first < n; first += block) {
        float *scale = args->scale != NULL ? &args->scale[(row * n + first) / block] : NULL;
        if (scale != NULL && args->scale_rule != WN_SCALE_READ)
            *scale = wn_block_scale(args->scale_rule, greatest_magnitude(args, row, first),
                                    args->least_amax, args->out.dtype);
        double divisor = scale != NULL ? *scale : 1;
        for (int64_t i = first; i < first + block; i++)
            wn_tensor_store(&args->out, row, i, 0, wn_tensor_load(&args->in, row, i, 0) / divisor);
    }
}

static wn_status check_scales(const wn_quantise_args *args)
{
    if (args->scale_rule > WN_SCALE_POWER_OF_TWO)
        return wn_fail(args->error, WN_EINVAL, "quantise: scale_rule is %u, expected 0 .. %d",
                       args->scale_rule, WN_SCALE_POWER_OF_TWO);
    if (args->block != 0 && args->in.shape[1] % args->block != 0)
        return wn_fail(args->error, WN_EINVAL,
                       "quantise: block is %u, which does not divide the %lld channels",
                       args->block, (long long)args->in.shape[1]);
    if (args->scale_rule == WN_SCALE_READ)
        return WN_OK;
    if (args->scale == NULL || wn_greatest_code(args->out.dtype) == 0)
        return wn_fail(args->error, WN_EINVAL,
                       "quantise: scale_rule %u needs a scale to write, and out of dtype F8_E4M3, "
                       "F8_E5M2 or I8",
                       args->scale_rule);
    if (!(args->least_amax >= 0) || isinf(args->least_amax))
        return wn_fail(args->error, WN_EINVAL, "quantise: least_amax is %g, expected >= 0",
                       (double)args->least_amax);
    return WN_OK;
}

static wn_status validate(const wn_quantise_args *args)
{
    const wn_tensor *in = &args->in, *out = &args->out;
    if (in->ndim != 2 || out->ndim != 2 || in->shape[0] != out->shape[0] ||
        in->shape[1] != out->shape[1])
        return wn_fail(args->error, WN_EINVAL,
                       "quantise: in and out must both be [rows, n] of the same extents");
    if (!wn_is_activation(in->dtype))
        return wn_fail(args->error, WN_EUNSUPPORTED,
                       "quantise: in has dtype %u; F32, F16 and BF16 are taken", in->dtype);
    if (wn_number_bytes(out->dtype) == 0)
        return wn_fail(args->error, WN_EUNSUPPORTED,
                       "quantise: out has dtype %u; F32, F16, BF16, F8_E4M3, F8_E5M2 and I8 are "
                       "taken",
                       out->dtype);
    if (in->shape[0] > 0 && in->shape[1] > 0 && (in->data == NULL || out->data == NULL))
        return wn_fail(args->error, WN_EINVAL, "quantise: in and out must have data");
    return check_scales(args);
}

wn_status wn_refuse_quantise(const wn_quantise_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_quantise_args);
    return validate(args);
}

wn_status wn_ref_quantise(const wn_quantise_args *args)
{
    wn_status status = wn_refuse_quantise(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->in.shape[0], quantise_row, (void *)args);
    return status;
}
