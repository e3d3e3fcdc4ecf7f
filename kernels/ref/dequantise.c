/* dequantise.c: codes times the scale of their row. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

/* The product of two floats is exact in double: out is rounded once. */
static void dequantise_row(void *argument, int64_t row)
{
    const wn_dequantise_args *args = argument;
    double scale = args->scale != NULL ? args->scale[row] : 1;
    for (int64_t i = 0; i < args->in.shape[1]; i++)
        wn_tensor_store(&args->out, row, i, 0, wn_tensor_load(&args->in, row, i, 0) * scale);
}

static wn_status validate(const wn_dequantise_args *args)
{
    const wn_tensor *in = &args->in, *out = &args->out;
    if (in->ndim != 2 || out->ndim != 2 || in->shape[0] != out->shape[0] ||
        in->shape[1] != out->shape[1])
        return wn_fail(args->error, WN_EINVAL,
                       "dequantise: in and out must both be [rows, n] of the same extents");
    if (wn_number_bytes(in->dtype) == 0)
        return wn_fail(args->error, WN_EUNSUPPORTED,
                       "dequantise: in has dtype %u; F32, F16, BF16, F8_E4M3, F8_E5M2 and I8 are "
                       "taken",
                       in->dtype);
    if (!wn_is_activation(out->dtype))
        return wn_fail(args->error, WN_EUNSUPPORTED,
                       "dequantise: out has dtype %u; F32, F16 and BF16 are taken", out->dtype);
    if (in->shape[0] > 0 && in->shape[1] > 0 && (in->data == NULL || out->data == NULL))
        return wn_fail(args->error, WN_EINVAL, "dequantise: in and out must have data");
    return WN_OK;
}

wn_status wn_refuse_dequantise(const wn_dequantise_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_dequantise_args);
    return validate(args);
}

wn_status wn_ref_dequantise(const wn_dequantise_args *args)
{
    wn_status status = wn_refuse_dequantise(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->in.shape[0], dequantise_row, (void *)args);
    return status;
}
