/* merge_states.c: the reference of merge_states, which joins attention outputs over disjoint sets
 * of keys. Formula in the comment of wn_merge_states_args. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

static double part_lse(const wn_merge_states_args *a, int64_t part, int64_t row, int64_t head)
{
    const wn_tensor *t = &a->parts_lse;
    return wn_load(t->data, t->dtype,
                   part * t->stride[0] + row * t->stride[1] + head * t->stride[2]);
}

/* One row and head. A part without weight is not read: it may hold anything. */
static void merge(void *argument, int64_t i)
{
    enum { CHANNELS = 64 };
    const wn_merge_states_args *a = argument;
    int64_t parts = a->parts.shape[0], dim = a->parts.shape[3];
    int64_t row = i / a->parts.shape[2], head = i % a->parts.shape[2];
    wn_ref_log_sum total = {-INFINITY, 0};
    for (int64_t p = 0; p < parts; p++)
        wn_ref_log_sum_add(&total, part_lse(a, p, row, head));
    double lse = wn_ref_log_sum_value(&total);
    for (int64_t first = 0; first < dim; first += CHANNELS) {
        int64_t count = dim - first < CHANNELS ? dim - first : CHANNELS;
        double sum[CHANNELS] = {0}, one[CHANNELS];
        for (int64_t p = 0; p < parts; p++) {
            double part = part_lse(a, p, row, head);
            if (part == -INFINITY)
                continue;
            const int64_t *stride = a->parts.stride;
            wn_ref_load_strided(
                &a->parts, p * stride[0] + row * stride[1] + head * stride[2] + first * stride[3],
                stride[3], count, one);
            for (int64_t d = 0; d < count; d++)
                sum[d] += exp(part - lse) * one[d];
        }
        for (int64_t d = 0; d < count; d++)
            wn_store(a->out.data, a->out.dtype,
                     row * a->out.stride[0] + head * a->out.stride[1] +
                         (first + d) * a->out.stride[2],
                     sum[d]);
    }
    if (a->lse.data != NULL)
        wn_store(a->lse.data, a->lse.dtype, row * a->lse.stride[0] + head * a->lse.stride[1], lse);
}

static wn_status check(const wn_merge_states_args *a)
{
    const char *op = "merge_states";
    wn_error *e = a->error;
    wn_status status = wn_check_operand(e, op, "parts", &a->parts, 4, 1);
    if (status == WN_OK)
        status = wn_check_operand(e, op, "parts_lse", &a->parts_lse, 3, 0);
    if (status == WN_OK)
        status = wn_check_operand(e, op, "out", &a->out, 3, 1);
    if (status == WN_OK && a->lse.data != NULL)
        status = wn_check_operand(e, op, "lse", &a->lse, 2, 0);
    for (uint32_t i = 0; status == WN_OK && i < 3; i++) {
        status = wn_check_extent(e, op, "parts_lse", &a->parts_lse, i, a->parts.shape[i]);
        if (status == WN_OK)
            status = wn_check_extent(e, op, "out", &a->out, i, a->parts.shape[i + 1]);
        if (status == WN_OK && i < 2 && a->lse.data != NULL)
            status = wn_check_extent(e, op, "lse", &a->lse, i, a->parts.shape[i + 1]);
    }
    return status;
}

wn_status wn_refuse_merge_states(const wn_merge_states_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_merge_states_args);
    return check(args);
}

wn_status wn_ref_merge_states(const wn_merge_states_args *args)
{
    wn_status status = wn_refuse_merge_states(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->parts.shape[1] * args->parts.shape[2], merge,
                    (void *)args);
    return status;
}
