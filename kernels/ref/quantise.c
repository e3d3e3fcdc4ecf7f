/* quantise.c: rows of numbers to a narrower dtype, with a scale per row. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/tensor_element.h"

/* The quotient of two floats is in double as good as exact: it lies on a tie of the narrow format
 * only if the true quotient does. So out is rounded once. */
static void quantise_row(void *argument, int64_t row)
{
    const wn_quantise_args *args = argument;
    int64_t n = args->in.shape[1];
    if (args->set_scale) {
        double greatest = 0; /* infinities are left to saturate */
        for (int64_t i = 0; i < n; i++) {
            double magnitude = fabs(wn_tensor_load(&args->in, row, i, 0));
            if (isfinite(magnitude) && magnitude > greatest)
                greatest = magnitude;
        }
        args->scale[row] = wn_scale_of(greatest, args->out.dtype);
    }
    double scale = args->scale != NULL ? args->scale[row] : 1;
    for (int64_t i = 0; i < n; i++)
        wn_tensor_store(&args->out, row, i, 0, wn_tensor_load(&args->in, row, i, 0) / scale);
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
    if (args->set_scale && (args->scale == NULL || wn_greatest_code(out->dtype) == 0))
        return wn_fail(args->error, WN_EINVAL,
                       "quantise: set_scale needs a scale to write, and out of dtype F8_E4M3, "
                       "F8_E5M2 or I8");
    if (in->shape[0] > 0 && in->shape[1] > 0 && (in->data == NULL || out->data == NULL))
        return wn_fail(args->error, WN_EINVAL, "quantise: in and out must have data");
    return WN_OK;
}

wn_status wn_ref_quantise(const wn_quantise_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_quantise_args);
    wn_status status = validate(args);
    if (status != WN_OK)
        return status;
    wn_for_each(args->executor, args->in.shape[0], quantise_row, (void *)args);
    return WN_OK;
}
