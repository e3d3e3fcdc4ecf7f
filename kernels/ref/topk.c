/* topk.c: the reference of topk. A score becomes an integer of the same order; four passes over the
 * row, a byte each, find the integer of the k-th greatest; a last pass takes all that are greater
 * and the first of those that equal it. No memory is needed and the indices come out ascending. */
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <stdatomic.h>
#include <string.h>

/* Order-preserving: greater scores, greater keys. -0 equals +0; 0 is for what is never chosen. */
static uint32_t key_of(float score)
{
    uint32_t bits;
    if (isnan(score) || score == -INFINITY)
        return 0;
    score += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

typedef struct row_view {
    const float *data;
    int64_t stride, length;
} row_view;

/* The key of the k-th greatest score, 1 <= k <= scores that can be chosen. *equal: how many of
 * those with this very key are among the k greatest. */
static uint32_t threshold(const row_view *row, int64_t k, int64_t *equal)
{
    uint32_t prefix = 0; /* the key's bytes that are known */
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t count[256] = {0};
        uint32_t known = shift == 24 ? 0 : ~0u << (shift + 8);
        for (int64_t i = 0; i < row->length; i++) {
            uint32_t key = key_of(row->data[i * row->stride]);
            if (key != 0 && (key & known) == prefix)
                count[key >> shift & 255]++;
        }
        uint32_t byte = 255;
        while (count[byte] < k)
            k -= count[byte--];
        prefix |= byte << shift;
    }
    *equal = k;
    return prefix;
}

static void topk_row(void *argument, int64_t r)
{
    const wn_topk_args *a = argument;
    row_view row = {(const float *)a->scores.data + r * a->scores.stride[0], a->scores.stride[1],
                    a->length != NULL ? a->length[r] : a->scores.shape[1]};
    int32_t *out = (int32_t *)a->indices.data + r * a->indices.stride[0];
    int64_t k_max = a->indices.shape[1], k = a->k != NULL ? a->k[r] : k_max;
    int64_t nans = 0, possible = 0, found = 0, equal = 0;
    for (int64_t i = 0; i < row.length; i++) {
        nans += isnan(row.data[i * row.stride]) != 0;
        possible += key_of(row.data[i * row.stride]) != 0;
    }
    k = k < possible ? k : possible;
    uint32_t least = k > 0 ? threshold(&row, k, &equal) : 0;
    for (int64_t i = 0; i < row.length && found < k; i++) {
        uint32_t key = key_of(row.data[i * row.stride]);
        if (key > least || (key == least && equal-- > 0))
            out[found++ * a->indices.stride[1]] = (int32_t)i;
    }
    if (a->count != NULL)
        a->count[r] = (int32_t)found;
    for (; found < k_max; found++)
        out[found * a->indices.stride[1]] = -1;
    if (a->nan_count != NULL && nans > 0)
        atomic_fetch_add_explicit((_Atomic int64_t *)a->nan_count, nans, memory_order_relaxed);
}

static wn_status check(const wn_topk_args *a)
{
    const char *op = "topk";
    wn_status status = wn_check_operand(a->error, op, "scores", &a->scores, 2, 0);
    if (status != WN_OK)
        return status;
    if (a->indices.ndim != 2 || a->indices.dtype != WN_I32 ||
        a->indices.shape[0] != a->scores.shape[0] || a->indices.shape[1] < 0 ||
        (a->indices.data == NULL && a->indices.shape[0] > 0 && a->indices.shape[1] > 0))
        return wn_fail(a->error, WN_EINVAL, "%s: indices must be int32 [%lld rows, k_max]", op,
                       (long long)a->scores.shape[0]);
    for (int64_t row = 0; row < a->scores.shape[0]; row++) {
        if (a->length != NULL && (a->length[row] < 0 || a->length[row] > a->scores.shape[1]))
            return wn_fail(a->error, WN_EINVAL, "%s: row %lld has length %d, expected 0 .. %lld",
                           op, (long long)row, a->length[row], (long long)a->scores.shape[1]);
        if (a->k != NULL && (a->k[row] < 0 || a->k[row] > a->indices.shape[1]))
            return wn_fail(a->error, WN_EINVAL,
                           "%s: row %lld asks for %d, expected 0 .. %lld, the width of indices", op,
                           (long long)row, a->k[row], (long long)a->indices.shape[1]);
    }
    return WN_OK;
}

wn_status wn_refuse_topk(const wn_topk_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_topk_args);
    return check(args);
}

wn_status wn_ref_topk(const wn_topk_args *args)
{
    wn_status status = wn_refuse_topk(args);
    if (status == WN_OK)
        wn_for_each(args->executor, args->scores.shape[0], topk_row, (void *)args);
    return status;
}
