/* pool_max.c: the reference of pool_max, a sliding maximum along each row. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

static void pool_row(void *argument, int64_t row)
{
    const wn_pool_max_args *a = argument;
    const float *in = (const float *)a->in.data + row * a->in.stride[0];
    float *out = (float *)a->out.data + row * a->out.stride[0];
    int64_t length = a->length != NULL ? a->length[row] : a->in.shape[1];
    int64_t half = a->kernel_size / 2;
    for (int64_t i = 0; i < length; i++) {
        int64_t end = i + half + 1 < length ? i + half + 1 : length;
        float greatest = -INFINITY;
        for (int64_t j = i > half ? i - half : 0; j < end; j++)
            if (in[j * a->in.stride[1]] > greatest) /* false for NaN */
                greatest = in[j * a->in.stride[1]];
        out[i * a->out.stride[1]] = greatest;
    }
}

static wn_status check(const wn_pool_max_args *a)
{
    const char *op = "pool_max";
    wn_status status = wn_check_operand(a->error, op, "in", &a->in, 2, 0);
    if (status == WN_OK)
        status = wn_check_operand(a->error, op, "out", &a->out, 2, 0);
    for (uint32_t i = 0; status == WN_OK && i < 2; i++)
        status = wn_check_extent(a->error, op, "out", &a->out, i, a->in.shape[i]);
    if (status != WN_OK)
        return status;
    if (a->kernel_size % 2 == 0)
        return wn_fail(a->error, WN_EINVAL, "%s: kernel_size is %u, expected an odd number", op,
                       a->kernel_size);
    for (int64_t row = 0; a->length != NULL && row < a->in.shape[0]; row++)
        if (a->length[row] < 0 || a->length[row] > a->in.shape[1])
            return wn_fail(a->error, WN_EINVAL, "%s: row %lld has length %d, expected 0 .. %lld",
                           op, (long long)row, a->length[row], (long long)a->in.shape[1]);
    return WN_OK;
}

wn_status wn_refuse_pool_max(const wn_pool_max_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_pool_max_args);
    return check(args);
}

wn_status wn_ref_pool_max(const wn_pool_max_args *args)
{
    wn_status status = wn_refuse_pool_max(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->in.shape[0], pool_row, (void *)args);
    return status;
}
