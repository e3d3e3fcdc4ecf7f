/* landmark_update.c: the reference of landmark_update: minimum and maximum of runs of keys.
 * Rounding is monotone, so that merging with what was rounded before equals starting over, bit for
 * bit; zeros are stored as +0 because a minimum does not tell them apart. */
#include "kernels/landmark_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"

#include <stdbool.h>

static void store(const wn_landmark_view *view, int64_t element, double value)
{
    wn_store(view->data, view->dtype, element, value);
    if (wn_load(view->data, view->dtype, element) == 0)
        wn_store(view->data, view->dtype, element, 0);
}

/* Merges slots [first, end), all of one landmark, with what is stored, or with nothing. */
static void update(const wn_landmark_update_args *a, int64_t request, int64_t head, int64_t first,
                   int64_t end, bool afresh)
{
    const wn_landmark_view *view = &a->landmarks;
    int64_t dim = a->kv.k.dim;
    int64_t start = wn_landmark_offset(view, a->kv.page_table + request * a->kv.page_table_stride,
                                       a->kv.tokens_per_page, head, first / view->landmark_size);
    double key[WN_MAX_HEAD_DIM], minimum[WN_MAX_HEAD_DIM], maximum[WN_MAX_HEAD_DIM];
    for (int64_t d = 0; d < dim; d++) {
        minimum[d] = afresh ? INFINITY : wn_load(view->data, view->dtype, start + d);
        maximum[d] =
            afresh ? -INFINITY : wn_load(view->data, view->dtype, start + view->max_offset + d);
    }
    for (int64_t slot = first; slot < end; slot++) {
        wn_ref_load_slot(&a->kv, &a->kv.k, request, head, slot, key);
        for (int64_t d = 0; d < dim; d++) { /* comparisons are false for NaN */
            minimum[d] = key[d] < minimum[d] ? key[d] : minimum[d];
            maximum[d] = key[d] > maximum[d] ? key[d] : maximum[d];
        }
    }
    for (int64_t d = 0; d < dim; d++) {
        store(view, start + d, minimum[d]);
        store(view, start + view->max_offset + d, maximum[d]);
    }
}

/* One request and KV head. */
static void update_body(void *argument, int64_t i)
{
    const wn_landmark_update_args *a = argument;
    int64_t request = i / a->kv.num_kv_heads, head = i % a->kv.num_kv_heads;
    int64_t size = a->landmarks.landmark_size, length = a->kv.length[request];
    for (int64_t slot = a->begin[request]; slot < length;) {
        int64_t end = (slot / size + 1) * size;
        end = end < length ? end : length;
        update(a, request, head, slot, end, slot % size == 0);
        slot = end;
    }
}

static wn_status check(const wn_landmark_update_args *a)
{
    const char *op = "landmark_update";
    wn_status status = wn_check_paged(a->error, op, &a->kv, WN_OPERAND_K);
    if (status == WN_OK)
        status = wn_check_landmarks(a->error, op, &a->landmarks);
    for (uint32_t b = 0; status == WN_OK && b < a->kv.batch; b++)
        if (a->begin[b] < 0)
            status = wn_fail(a->error, WN_EINVAL, "%s: request %u begins at %d, expected >= 0", op,
                             b, a->begin[b]);
    return status;
}

wn_status wn_ref_landmark_update(const wn_landmark_update_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_landmark_update_args);
    if (args->kv.batch == 0)
        return WN_OK;
    wn_status status = check(args);
    if (status == WN_OK)
        wn_for_each(args->executor, (int64_t)args->kv.batch * args->kv.num_kv_heads, update_body,
                    (void *)args);
    return status;
}
