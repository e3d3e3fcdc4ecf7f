/* merge_states.c: joins attention outputs over disjoint sets of keys, in the order of the parts.
 * Bound by memory: each part is read once; sums are doubles, for parts may cancel. A part without
 * weight is not read. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/double_vector.h"
#include "kernels/cpu/row.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

enum { CHANNELS = 256 }; /* that are summed at once, on the stack */

/* One call. item: `pairs` consecutive pairs of a row and a head. */
typedef struct call {
    const wn_merge_states_args *args;
    int64_t pairs;
} call;

static double part_lse(const wn_merge_states_args *a, int64_t part, int64_t row, int64_t head)
{
    return wn_tensor_load(&a->parts_lse, part, row, head);
}

/* -inf if no part has weight. */
static double whole_lse(const wn_merge_states_args *a, int64_t row, int64_t head)
{
    double greatest = -INFINITY, sum = 0;
    for (int64_t p = 0; p < a->parts.shape[0]; p++) {
        double lse = part_lse(a, p, row, head);
        greatest = lse > greatest ? lse : greatest;
    }
    for (int64_t p = 0; p < a->parts.shape[0]; p++) {
        double lse = part_lse(a, p, row, head);
        if (lse != -INFINITY)
            sum += exp(lse - greatest);
    }
    return sum == 0 ? -INFINITY : greatest + log(sum);
}

/* Adds weight * x to sum. */
static void add_weighted(double *sum, const float *x, double weight, int64_t n)
{
    wn_vd by = wn_vd_set(weight);
    for (int64_t i = 0; i < n; i += WN_VD)
        wn_vd_store(sum + i, wn_vd_fma(by, wn_vd_from_floats(x + i), wn_vd_load(sum + i)));
}

static void merge(const wn_merge_states_args *a, int64_t row, int64_t head)
{
    double sum[CHANNELS + WN_VD];
    float one[CHANNELS + WN_VL];
    const int64_t *stride = a->parts.stride;
    double lse = whole_lse(a, row, head);
    int64_t dim = a->parts.shape[3];
    for (int64_t first = 0; first < dim; first += CHANNELS) {
        int64_t n = dim - first < CHANNELS ? dim - first : CHANNELS;
        memset(sum, 0, sizeof sum);
        for (int64_t p = 0; p < a->parts.shape[0]; p++) {
            double part = part_lse(a, p, row, head);
            if (part == -INFINITY)
                continue;
            wn_row_load(one, a->parts.dtype, a->parts.data,
                        p * stride[0] + row * stride[1] + head * stride[2] + first * stride[3],
                        stride[3], n);
            add_weighted(sum, one, exp(part - lse), n);
        }
        for (int64_t i = 0; i < n; i += WN_VD) {
            wn_vd x = wn_vd_load(sum + i);
            wn_vd_to_floats(one + i, a->out.dtype == WN_F32 ? x : wn_vd_odd(x));
        }
        wn_row_store(a->out.dtype, a->out.data, wn_tensor_offset(&a->out, row, head, first),
                     a->out.stride[2], one, n);
    }
    if (a->lse.data != NULL)
        wn_tensor_store(&a->lse, row, head, 0, lse);
}

static void merge_pairs(void *argument, int64_t item)
{
    const call *c = argument;
    int64_t heads = c->args->parts.shape[2], pairs = c->args->parts.shape[1] * heads;
    int64_t first = item * c->pairs, end = first + c->pairs;
    for (int64_t i = first; i < end && i < pairs; i++)
        merge(c->args, i / heads, i % heads);
}

wn_status WN_CPU(merge_states)(const wn_merge_states_args *args)
{
    enum { ITEM = 8192, WORTH_THREADS = 32768 }; /* numbers: 2 us and 8 us of one core */
    wn_status status = wn_refuse_merge_states(args);
    if (status != WN_OK)
        return status;
    int64_t pairs = args->parts.shape[1] * args->parts.shape[2];
    int64_t numbers = (args->parts.shape[0] + 1) * (args->parts.shape[3] + 16);
    call c = {args, numbers < ITEM ? ITEM / numbers : 1};
    wn_for_each(pairs * numbers < WORTH_THREADS ? NULL : args->executor,
                (pairs + c.pairs - 1) / c.pairs, merge_pairs, &c);
    return WN_OK;
}
