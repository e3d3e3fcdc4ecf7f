/* landmark_update.c: the reference of landmark_update: minimum and maximum of runs of keys, in the
 * order of their slots or of a list.
 * Rounding is monotone, so that merging with what was rounded before equals starting over, bit for
 * bit; zeros are stored as +0 because a minimum does not tell them apart. */
#include "kernels/landmark_element.h"
#include "kernels/operand_check.h"
#include "kernels/parallel.h"
#include "kernels/ref/double_row.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <stdbool.h>

static void store(const wn_landmark_view *view, int64_t element, double value)
{
    wn_store(view->data, view->dtype, element, value);
    if (wn_load(view->data, view->dtype, element) == 0)
        wn_store(view->data, view->dtype, element, 0);
}

/* The slot behind an entry; negative: none. */
static int64_t slot_of(const wn_landmark_update_args *a, int64_t request, int64_t head,
                       int64_t entry)
{
    if (a->gather == NULL)
        return entry;
    return a->gather[request * a->gather_stride + head * a->gather_head_stride + entry];
}

static int64_t entries_of(const wn_landmark_update_args *a, int64_t request)
{
    return a->count != NULL ? a->count[request] : a->kv.length[request];
}

static int64_t offset_of(const wn_landmark_update_args *a, int64_t request, int64_t head,
                         int64_t landmark)
{
    if (a->landmark_page_table != NULL)
        return wn_landmark_offset(&a->landmarks,
                                  a->landmark_page_table + request * a->landmark_page_table_stride,
                                  a->landmark_tokens_per_page, head, landmark);
    return wn_landmark_offset(&a->landmarks, a->kv.page_table + request * a->kv.page_table_stride,
                              a->kv.tokens_per_page, head, landmark);
}

/* Merges entries [first, end), all of one landmark, with what is stored, or with nothing. */
static void update(const wn_landmark_update_args *a, int64_t request, int64_t head, int64_t first,
                   int64_t end, bool afresh)
{
    const wn_landmark_view *view = &a->landmarks;
    int64_t dim = a->kv.k.dim;
    int64_t start = offset_of(a, request, head, first / view->landmark_size);
    double key[WN_MAX_HEAD_DIM], minimum[WN_MAX_HEAD_DIM], maximum[WN_MAX_HEAD_DIM];
    for (int64_t d = 0; d < dim; d++) {
        minimum[d] = afresh ? INFINITY : wn_load(view->data, view->dtype, start + d);
        maximum[d] =
            afresh ? -INFINITY : wn_load(view->data, view->dtype, start + view->max_offset + d);
    }
    for (int64_t entry = first; entry < end; entry++) {
        int64_t slot = slot_of(a, request, head, entry);
        if (slot < 0)
            continue;
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
    int64_t size = a->landmarks.landmark_size, count = entries_of(a, request);
    for (int64_t entry = a->begin[request]; entry < count;) {
        int64_t end = (entry / size + 1) * size;
        end = end < count ? end : count;
        update(a, request, head, entry, end, entry % size == 0);
        entry = end;
    }
}

/* Every slot listed for entries that are read is the request's. */
static wn_status check_gather(const wn_landmark_update_args *a, const char *op, uint32_t b)
{
    for (uint32_t head = 0; a->gather != NULL && head < a->kv.num_kv_heads; head++)
        for (int64_t entry = a->begin[b]; entry < entries_of(a, b); entry++)
            if (slot_of(a, b, head, entry) >= a->kv.length[b])
                return wn_fail(a->error, WN_EINVAL,
                               "%s: entry %lld of request %u, KV head %u is slot %lld; the request "
                               "has %d",
                               op, (long long)entry, b, head, (long long)slot_of(a, b, head, entry),
                               a->kv.length[b]);
    return WN_OK;
}

static wn_status check_request(const wn_landmark_update_args *a, const char *op, uint32_t b)
{
    int64_t count = entries_of(a, b), size = a->landmarks.landmark_size;
    int64_t last = count > 0 ? (count - 1) / size * size : 0; /* first entry of the last landmark */
    if (a->begin[b] < 0)
        return wn_fail(a->error, WN_EINVAL, "%s: request %u begins at %d, expected >= 0", op, b,
                       a->begin[b]);
    if (count < 0 || (a->gather == NULL && count > a->kv.length[b]))
        return wn_fail(a->error, WN_EINVAL, "%s: request %u has %lld entries, but %d slots", op, b,
                       (long long)count, a->kv.length[b]);
    if (a->landmark_page_table != NULL && a->kv.batch > 1 && count > 0 &&
        last / a->landmark_tokens_per_page >= a->landmark_page_table_stride)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: request %u has %lld entries, more than the %lld pages of its row of "
                       "landmark_page_table hold",
                       op, b, (long long)count, (long long)a->landmark_page_table_stride);
    if (a->landmark_page_table == NULL && count > a->kv.length[b])
        return wn_fail(a->error, WN_EINVAL,
                       "%s: request %u has %lld entries, more than slots: give the landmarks pages "
                       "of their own (landmark_page_table)",
                       op, b, (long long)count);
    return check_gather(a, op, b);
}

static wn_status check(const wn_landmark_update_args *a)
{
    const char *op = "landmark_update";
    wn_status status = wn_check_paged(a->error, op, &a->kv, WN_OPERAND_K);
    if (status == WN_OK)
        status = wn_check_landmarks(a->error, op, &a->landmarks);
    if (status == WN_OK && a->landmark_page_table != NULL && a->landmark_tokens_per_page < 1)
        return wn_fail(a->error, WN_EINVAL,
                       "%s: landmark_tokens_per_page is 0, expected >= 1 with landmark_page_table",
                       op);
    for (uint32_t b = 0; status == WN_OK && b < a->kv.batch; b++)
        status = check_request(a, op, b);
    return status;
}

wn_status wn_refuse_landmark_update(const wn_landmark_update_args *args)
{
    WN_CHECK_STRUCT_SIZE(args, wn_landmark_update_args);
    if (args->kv.batch == 0)
        return WN_OK;
    return check(args);
}

wn_status wn_ref_landmark_update(const wn_landmark_update_args *args)
{
    wn_status status = wn_refuse_landmark_update(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    wn_for_each(args->executor, (int64_t)args->kv.batch * args->kv.num_kv_heads, update_body,
                (void *)args);
    return WN_OK;
}
