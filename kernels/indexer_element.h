/* indexer_element.h: where an indexer key and its scale lie in their page, and the checks of such a
 * pool: the formulas of wn_indexer_view (winnow/cache_view.h), once, in 64-bit arithmetic. */
#ifndef WN_INDEXER_ELEMENT_H
#define WN_INDEXER_ELEMENT_H

#include "kernels/number_format.h"
#include "winnow/cache_view.h"
#include "winnow/ops.h"

/* The codes of the token at `place` of `page`: dim numbers of view->dtype. */
static inline uint8_t *wn_indexer_codes(const wn_indexer_view *view, int64_t page, int64_t place)
{
    return view->data + page * view->page_stride + place * view->dim * wn_number_bytes(view->dtype);
}

/* Its scale; NULL for keys that have none. */
static inline float *wn_indexer_scale(const wn_indexer_view *view, int64_t page, int64_t place)
{
    if (view->dtype == WN_BF16)
        return NULL;
    int64_t plane = (int64_t)view->tokens_per_page * view->dim; /* bytes of codes */
    return (float *)(void *)(view->data + page * view->page_stride + plane) + place;
}

/* The greatest code of int8 keys and of the queries that are scored with them. */
enum { WN_INDEXER_GREATEST_CODE = 63 };

/* What a code of a query stands for, and a number's code: the rounding of wn_indexer_topk_args.
 * amax: the greatest magnitude of the vector, NaN if a number in it is not finite. */
static inline float wn_indexer_query_scale(float amax)
{
    float scale = amax / WN_INDEXER_GREATEST_CODE;
    return scale == 0 ? 1 : scale;
}

/* The greatest code of keys of a dtype that has scales. */
static inline float wn_indexer_greatest_code(uint32_t dtype)
{
    return dtype == WN_I8 ? WN_INDEXER_GREATEST_CODE : (float)wn_greatest_code(dtype);
}

static inline int wn_indexer_query_code(float x, float scale)
{
    float code = rintf(x / scale);
    return code > WN_INDEXER_GREATEST_CODE    ? WN_INDEXER_GREATEST_CODE
           : code < -WN_INDEXER_GREATEST_CODE ? -WN_INDEXER_GREATEST_CODE
                                              : (int)code;
}

static inline wn_status wn_check_indexer_view(wn_error *error, const char *op,
                                              const wn_indexer_view *view)
{
    if (view->dtype != WN_F8_E4M3 && view->dtype != WN_I8 && view->dtype != WN_BF16)
        return wn_fail(error, WN_EUNSUPPORTED,
                       "%s: keys have dtype %u, expected float8_e4m3, int8 or bfloat16", op,
                       view->dtype);
    if (view->dim < 1 || view->dim > WN_MAX_HEAD_DIM || view->tokens_per_page < 1)
        return wn_fail(error, WN_EUNSUPPORTED,
                       "%s: keys of dim %u in pages of %u tokens, expected 1 .. %d and >= 1", op,
                       view->dim, view->tokens_per_page, WN_MAX_HEAD_DIM);
    int64_t plane = (int64_t)view->tokens_per_page * view->dim;
    int64_t bytes = view->dtype == WN_BF16 ? 2 * plane : plane + 4 * (int64_t)view->tokens_per_page;
    if (view->page_stride < bytes || view->page_stride % 4 != 0 ||
        (view->dtype != WN_BF16 && plane % 4 != 0))
        return wn_fail(
            error, WN_EINVAL,
            "%s: keys.page_stride is %lld, expected a multiple of 4 that holds a page of "
            "%lld bytes, and the codes of a page a multiple of 4 before their scales",
            op, (long long)view->page_stride, (long long)bytes);
    return WN_OK;
}

#endif
