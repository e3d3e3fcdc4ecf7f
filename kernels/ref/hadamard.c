/* hadamard.c: the reference of hadamard: each row times the Sylvester matrix of its width, by
 * butterflies, in doubles. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

enum { MOST = 1024 };

/* H[2n] = [H H; H -H]: one stage for each half-width. */
static void transform(double *x, int64_t n)
{
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t first = 0; first < n; first += 2 * half)
            for (int64_t i = first; i < first + half; i++) {
                double sum = x[i] + x[i + half];
                x[i + half] = x[i] - x[i + half];
                x[i] = sum;
            }
}

/* Reads the whole row before it writes: out may be in. */
static void hadamard_row(void *argument, int64_t row)
{
    const wn_hadamard_args *a = argument;
    double x[MOST];
    int64_t n = a->in.shape[1];
    for (int64_t i = 0; i < n; i++)
        x[i] = wn_tensor_load(&a->in, row, i, 0);
    transform(x, n);
    for (int64_t i = 0; i < n; i++)
        wn_tensor_store(&a->out, row, i, 0, x[i] / sqrt((double)n));
}

static wn_status check(const wn_hadamard_args *a)
{
    const char *op = "hadamard";
    wn_status status = wn_check_operand(a->error, op, "in", &a->in, 2, 1);
    if (status == WN_OK)
        status = wn_check_operand(a->error, op, "out", &a->out, 2, 1);
    for (uint32_t i = 0; status == WN_OK && i < 2; i++)
        status = wn_check_extent(a->error, op, "out", &a->out, i, a->in.shape[i]);
    if (status != WN_OK)
        return status;
    int64_t n = a->in.shape[1];
    if (n < 1 || n > MOST || (n & (n - 1)) != 0)
        return wn_fail(a->error, WN_EUNSUPPORTED,
                       "%s: rows have %lld numbers; a power of two up to %d is taken", op,
                       (long long)n, MOST);
    if (a->in.dtype != a->out.dtype)
        return wn_fail(a->error, WN_EINVAL, "%s: in has dtype %u and out %u, expected the same", op,
                       a->in.dtype, a->out.dtype);
    return WN_OK;
}

wn_status wn_refuse_hadamard(const wn_hadamard_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_hadamard_args);
    return check(args);
}

wn_status wn_ref_hadamard(const wn_hadamard_args *args)
{
    wn_status status = wn_refuse_hadamard(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->in.shape[0], hadamard_row, (void *)args);
    return status;
}
