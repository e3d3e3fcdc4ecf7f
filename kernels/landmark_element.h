/* landmark_element.h: where a landmark lies in its paged pool: the formulas of wn_landmark_view
 * (winnow/cache_view.h), once. */
#ifndef WN_LANDMARK_ELEMENT_H
#define WN_LANDMARK_ELEMENT_H

#include "winnow/ops.h"

/* Elements from view->data to channel 0 of the landmark's minimum. page_table: the request's row.
 */
static inline int64_t wn_landmark_offset(const wn_landmark_view *view, const int32_t *page_table,
                                         uint32_t tokens_per_page, int64_t head, int64_t landmark)
{
    int64_t size = view->landmark_size, page = landmark * size / tokens_per_page;
    int64_t first = (page * tokens_per_page + size - 1) / size; /* landmark of that page */
    return page_table[page] * view->page_stride + head * view->head_stride +
           (landmark - first) * view->landmark_stride;
}

static inline wn_status wn_check_landmarks(wn_error *error, const char *op,
                                           const wn_landmark_view *view)
{
    if (view->landmark_size < 1)
        return wn_fail(error, WN_EINVAL, "%s: landmark_size is 0, expected >= 1", op);
    if (view->dtype != WN_F32 && view->dtype != WN_F16 && view->dtype != WN_BF16 &&
        view->dtype != WN_F8_E5M2 && view->dtype != WN_F8_E4M3)
        return wn_fail(error, WN_EUNSUPPORTED,
                       "%s: landmarks have dtype %u, expected float32, bfloat16, float16, "
                       "float8_e5m2 or float8_e4m3",
                       op, view->dtype);
    return WN_OK;
}

#endif
