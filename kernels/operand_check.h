/* operand_check.h: the checks that ops share, so that a wrong argument gives one clear text instead
 * of a wild access. Each returns WN_OK or the status to give back, its text written. */
#ifndef WN_OPERAND_CHECK_H
#define WN_OPERAND_CHECK_H

#include "winnow/cache_view.h"
#include "winnow/ops.h"

#include <math.h>

enum { WN_OPERAND_K = 1, WN_OPERAND_V = 2 };

/* For the first line of every op. */
#define WN_CHECK_STRUCT_SIZE(args, type)                                                           \
    do {                                                                                           \
        if ((args)->struct_size < WN_SIZEOF(type))                                                 \
            return wn_fail((args)->error, WN_EINVAL,                                               \
                           #type ": struct_size is %u, expected %u: set it to WN_SIZEOF(" #type    \
                                 ") and build against the headers of this library",                \
                           (args)->struct_size, WN_SIZEOF(type));                                  \
    } while (0)

/* A tensor of `ndim` dimensions, of F32, or also F16 and BF16 if `narrow`. */
static inline wn_status wn_check_operand(wn_error *error, const char *op, const char *name,
                                         const wn_tensor *tensor, uint32_t ndim, int narrow)
{
    if (tensor->ndim != ndim)
        return wn_fail(error, WN_EINVAL, "%s: %s has %u dimensions, expected %u", op, name,
                       tensor->ndim, ndim);
    if (tensor->dtype != WN_F32 &&
        !(narrow && (tensor->dtype == WN_F16 || tensor->dtype == WN_BF16)))
        return wn_fail(error, WN_EUNSUPPORTED, "%s: %s has dtype %u, expected float32%s", op, name,
                       tensor->dtype, narrow ? ", float16 or bfloat16" : "");
    int64_t elements = 1;
    for (uint32_t i = 0; i < ndim; i++) {
        if (tensor->shape[i] < 0)
            return wn_fail(error, WN_EINVAL, "%s: %s has extent %lld in dimension %u", op, name,
                           (long long)tensor->shape[i], i);
        elements *= tensor->shape[i] > 0;
    }
    if (tensor->data == NULL && elements > 0)
        return wn_fail(error, WN_EINVAL, "%s: %s has no data", op, name);
    return WN_OK;
}

/* One dimension of a tensor is exactly `expected`. */
static inline wn_status wn_check_extent(wn_error *error, const char *op, const char *name,
                                        const wn_tensor *tensor, uint32_t dimension,
                                        int64_t expected)
{
    if (tensor->shape[dimension] == expected)
        return WN_OK;
    return wn_fail(error, WN_EINVAL, "%s: %s has extent %lld in dimension %u, expected %lld", op,
                   name, (long long)tensor->shape[dimension], dimension, (long long)expected);
}

/* A pool of MLA records: K is 512 + 64 channels of them, V the first 512. */
static inline wn_status wn_check_records(wn_error *error, const char *op, const char *name,
                                         const wn_kv_view *view, int which)
{
    uint32_t dim = WN_MLA_LATENT_DIM + (which == WN_OPERAND_K ? WN_MLA_ROPE_DIM : 0);
    if (view->dtype != WN_U8 || view->dim != dim)
        return wn_fail(error, WN_EUNSUPPORTED,
                       "%s: %s is of MLA records with dtype %u and dim %u, expected uint8 and %u",
                       op, name, view->dtype, view->dim, dim);
    if (view->scale != NULL || view->tensor_scale != 1)
        return wn_fail(error, WN_EINVAL,
                       "%s: %s is of MLA records, which carry their scales: scale must be NULL, "
                       "tensor_scale 1",
                       op, name);
    return WN_OK;
}

/* A pool of keys (WN_OPERAND_K) or values. name: for messages. */
static inline wn_status wn_check_pool(wn_error *error, const char *op, const char *name,
                                      const wn_kv_view *view, uint32_t tokens_per_page, int which)
{
    uint32_t vectors = which == WN_OPERAND_K ? WN_LAYOUT_VEC_K : WN_LAYOUT_VEC_V;
    uint32_t divided = which == WN_OPERAND_K ? view->dim : tokens_per_page;
    if (view->layout == WN_LAYOUT_MLA_FP8)
        return wn_check_records(error, op, name, view, which);
    if (view->dim < 1 || view->dim > WN_MAX_HEAD_DIM)
        return wn_fail(error, WN_EUNSUPPORTED, "%s: %s.dim is %u, expected 1 .. %d", op, name,
                       view->dim, WN_MAX_HEAD_DIM);
    if (view->dtype != WN_F32 && view->dtype != WN_F16 && view->dtype != WN_BF16 &&
        view->dtype != WN_F8_E4M3 && view->dtype != WN_I8)
        return wn_fail(error, WN_EUNSUPPORTED,
                       "%s: %s has dtype %u, expected float32, float16, bfloat16, float8_e4m3 or "
                       "int8",
                       op, name, view->dtype);
    if (view->layout != WN_LAYOUT_STRIDED && view->layout != vectors)
        return wn_fail(error, WN_EINVAL, "%s: %s has layout %u, expected %u, %u or %u", op, name,
                       view->layout, WN_LAYOUT_STRIDED, vectors, WN_LAYOUT_MLA_FP8);
    if (view->layout == vectors && (view->vec_x == 0 || divided % view->vec_x != 0))
        return wn_fail(error, WN_EINVAL, "%s: %s.vec_x is %u, which does not divide %s %u", op,
                       name, view->vec_x, which == WN_OPERAND_K ? "the dim" : "tokens_per_page",
                       divided);
    if (!(fabsf(view->tensor_scale) > 0) || isinf(view->tensor_scale))
        return wn_fail(error, WN_EINVAL,
                       "%s: %s.tensor_scale is %g, expected a number other than 0 (1: none)", op,
                       name, (double)view->tensor_scale);
    return WN_OK;
}

/* Lengths and page tables of a paged cache, which may be written in the order K, V or both. */
static inline wn_status wn_check_paged(wn_error *error, const char *op, const wn_paged_kv *kv,
                                       int pools)
{
    wn_status status = WN_OK;
    if (kv->num_kv_heads < 1 || kv->tokens_per_page < 1)
        return wn_fail(error, WN_EINVAL, "%s: %u KV heads and %u tokens per page, expected >= 1",
                       op, kv->num_kv_heads, kv->tokens_per_page);
    if (pools & WN_OPERAND_K)
        status = wn_check_pool(error, op, "kv.k", &kv->k, kv->tokens_per_page, WN_OPERAND_K);
    if (status == WN_OK && (pools & WN_OPERAND_V))
        status = wn_check_pool(error, op, "kv.v", &kv->v, kv->tokens_per_page, WN_OPERAND_V);
    if (status == WN_OK && kv->num_kv_heads > 1 && (pools & WN_OPERAND_K) &&
        kv->k.layout == WN_LAYOUT_MLA_FP8)
        return wn_fail(error, WN_EINVAL, "%s: %u KV heads of MLA records, expected 1", op,
                       kv->num_kv_heads);
    for (uint32_t b = 0; status == WN_OK && b < kv->batch; b++) {
        int64_t pages = kv->length[b] < 0 ? 0
                                          : ((int64_t)kv->length[b] + kv->tokens_per_page - 1) /
                                                kv->tokens_per_page;
        if (kv->length[b] < 0)
            status = wn_fail(error, WN_EINVAL, "%s: request %u has length %d, expected >= 0", op, b,
                             kv->length[b]);
        else if (pages > kv->page_table_stride && kv->batch > 1)
            status =
                wn_fail(error, WN_EINVAL,
                        "%s: request %u of %d tokens needs %lld pages, but its row of the "
                        "page table has %lld",
                        op, b, kv->length[b], (long long)pages, (long long)kv->page_table_stride);
    }
    return status;
}

#endif
