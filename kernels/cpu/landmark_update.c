/* landmark_update.c: minima and maxima of runs of keys. Keys without scales are compared as floats,
 * which hold every dtype of a cache exactly; a code times a scale is a double, as in the reference,
 * whose rounding to a narrow dtype goes through a float rounded to odd, so that it is one rounding.
 * A long request is cut into parts of whole landmarks, which threads share. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/landmark_lanes.h"
#include "kernels/kv_element.h"
#include "kernels/landmark_element.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

#include <stdbool.h>

enum {
    PART = 512,           /* entries that make an item, about */
    TOKENS = 16,          /* keys of a landmark that are folded together */
    TINY_WORK = 64 * 1024 /* channels of keys for which no thread is woken */
};

/* One request and KV head. */
typedef struct run {
    const wn_landmark_update_args *args;
    int64_t request, head, count;
    bool exact; /* keys are their codes, one after another */
} run;

typedef struct token {
    int64_t page, place;
} token;

/* Where a landmark is stored. */
typedef struct target {
    uint8_t *minimum, *maximum;
    int64_t dim;
} target;

static int64_t entries_of(const wn_landmark_update_args *a, int64_t request)
{
    return a->count != NULL ? a->count[request] : a->kv.length[request];
}

/* Where the landmark of an entry is stored. */
static int64_t offset_of(const run *r, int64_t entry)
{
    const wn_landmark_update_args *a = r->args;
    int64_t landmark = entry / a->landmarks.landmark_size;
    if (a->landmark_page_table != NULL)
        return wn_landmark_offset(
            &a->landmarks, a->landmark_page_table + r->request * a->landmark_page_table_stride,
            a->landmark_tokens_per_page, r->head, landmark);
    return wn_landmark_offset(&a->landmarks,
                              a->kv.page_table + r->request * a->kv.page_table_stride,
                              a->kv.tokens_per_page, r->head, landmark);
}

/* The tokens of entries [first, end), end - first <= TOKENS; returns how many there are. */
static int64_t find_tokens(const run *r, int64_t first, int64_t end, token *tokens)
{
    const wn_landmark_update_args *a = r->args;
    const int32_t *table = a->kv.page_table + r->request * a->kv.page_table_stride;
    uint32_t per_page = a->kv.tokens_per_page;
    int64_t count = 0;
    if (a->gather == NULL) {
        uint32_t page = (uint32_t)first / per_page, place = (uint32_t)first % per_page;
        for (; count < end - first; count++) {
            tokens[count] = (token){table[page], place};
            place = place + 1 < per_page ? place + 1 : 0;
            page += place == 0;
        }
        return count;
    }
    const int32_t *list =
        a->gather + r->request * a->gather_stride + r->head * a->gather_head_stride;
    for (int64_t e = first; e < end; e++)
        if (list[e] >= 0)
            tokens[count++] =
                (token){table[(uint32_t)list[e] / per_page], (uint32_t)list[e] % per_page};
    return count;
}

/* ---------------------------------------------------------------- keys that are their codes */

/* The channels from d of a landmark that is stored. */
WN_INLINE wn_vf load_stored(uint32_t dtype, const uint8_t *p, int64_t d, int64_t dim)
{
    uint8_t copy[4 * WN_VL] = {0};
    int64_t bytes = wn_number_bytes(dtype);
    if (dim - d >= WN_VL)
        return wn_vf_from_landmark(dtype, p + d * bytes);
    memcpy(copy, p + d * bytes, (size_t)((dim - d) * bytes));
    return wn_vf_from_landmark(dtype, copy);
}

/* One batch of keys, a few channels of all of them at a time. Comparisons with a NaN key are false,
 * and the second operand stays. */
WN_INLINE void fold_of(uint32_t dtype, uint32_t stored, const uint8_t *const *key, int64_t count,
                       const target *l, bool afresh)
{
    int64_t bytes = wn_number_bytes(dtype), stored_bytes = wn_number_bytes(stored);
    for (int64_t d = 0; d < l->dim; d += WN_VL) {
        wn_vf least = wn_vf_set(INFINITY), most = wn_vf_set(-INFINITY);
        int64_t n = l->dim - d < WN_VL ? l->dim - d : WN_VL;
        if (!afresh) {
            least = load_stored(stored, l->minimum, d, l->dim);
            most = load_stored(stored, l->maximum, d, l->dim);
        }
        for (int64_t t = 0; t < count; t++) {
            wn_vf v = n == WN_VL ? wn_vf_from(dtype, key[t] + d * bytes)
                                 : wn_vf_from_first(dtype, key[t] + d * bytes, n);
            least = wn_vf_min(v, least);
            most = wn_vf_max(v, most);
        }
        wn_store_landmark(stored, l->minimum + d * stored_bytes, least, n);
        wn_store_landmark(stored, l->maximum + d * stored_bytes, most, n);
    }
}

static void fold_keys(uint32_t dtype, uint32_t stored, const uint8_t *const *key, int64_t count,
                      const target *l, bool afresh)
{
    if (dtype == WN_BF16 && stored == WN_F8_E5M2)
        fold_of(WN_BF16, WN_F8_E5M2, key, count, l, afresh);
    else if (dtype == WN_F16 && stored == WN_F8_E5M2)
        fold_of(WN_F16, WN_F8_E5M2, key, count, l, afresh);
    else if (dtype == WN_BF16 && stored == WN_BF16)
        fold_of(WN_BF16, WN_BF16, key, count, l, afresh);
    else if (dtype == WN_F16 && stored == WN_F16)
        fold_of(WN_F16, WN_F16, key, count, l, afresh);
    else
        fold_of(dtype, stored, key, count, l, afresh);
}

/* What is rounded is merged exactly with what comes later, so that batches need no more memory than
 * the landmark. */
static void update_floats(const run *r, const target *l, int64_t first, int64_t end, bool afresh)
{
    const wn_paged_kv *kv = &r->args->kv;
    int64_t bytes = wn_number_bytes(kv->k.dtype);
    for (int64_t e = first; e < end; e += TOKENS, afresh = false) {
        token tokens[TOKENS];
        const uint8_t *key[TOKENS];
        int64_t count = find_tokens(r, e, end - e < TOKENS ? end : e + TOKENS, tokens);
        for (int64_t t = 0; t < count; t++)
            key[t] = (const uint8_t *)kv->k.data + wn_kv_offset(&kv->k, kv->tokens_per_page,
                                                                tokens[t].page, r->head,
                                                                tokens[t].place, 0) *
                                                       bytes;
        fold_keys(kv->k.dtype, r->args->landmarks.dtype, key, count, l, afresh);
    }
}

/* ---------------------------------------------------------------- keys with scales, rare layouts
 */

/* The channels of a key, in doubles. */
static void load_key(const run *r, const token *t, double *key)
{
    const wn_kv_view *k = &r->args->kv.k;
    uint32_t per_page = r->args->kv.tokens_per_page;
    if (k->layout != WN_LAYOUT_STRIDED) {
        for (int64_t d = 0; d < k->dim; d++)
            key[d] = wn_kv_value(k, per_page, t->page, r->head, t->place, d);
        return;
    }
    double scale = wn_kv_scale(k, t->page, r->head, t->place);
    int64_t bytes = wn_number_bytes(k->dtype);
    const uint8_t *code =
        (const uint8_t *)k->data + wn_kv_offset(k, per_page, t->page, r->head, t->place, 0) * bytes;
    float lane[WN_VL];
    for (int64_t d = 0; d < k->dim; d += WN_VL) {
        int64_t n = k->dim - d < WN_VL ? k->dim - d : WN_VL;
        wn_vf_store(lane, n == WN_VL ? wn_vf_from(k->dtype, code + d * bytes)
                                     : wn_vf_from_first(k->dtype, code + d * bytes, n));
        for (int64_t i = 0; i < WN_VL; i++)
            key[d + i] = lane[i] * scale;
    }
}

/* Rounds to the float towards 0, or the odd one of the two beside it: a second rounding, to at
 * least two bits less, is then as if it were the only one. */
static float round_to_odd(double x)
{
    float near = (float)x;
    uint32_t bits;
    if ((double)near == x || isnan(x))
        return near;
    memcpy(&bits, &near, sizeof bits);
    bits = (bits - (fabs((double)near) > fabs(x))) | 1;
    memcpy(&near, &bits, sizeof bits);
    return near;
}

static void store_rounded(uint32_t dtype, uint8_t *p, const double *x, int64_t dim)
{
    int64_t bytes = wn_number_bytes(dtype);
    float lane[WN_VL] = {0};
    for (int64_t d = 0; d < dim; d += WN_VL) {
        int64_t n = dim - d < WN_VL ? dim - d : WN_VL;
        for (int64_t i = 0; i < n; i++)
            lane[i] = dtype == WN_F32 ? (float)x[d + i] : round_to_odd(x[d + i]);
        wn_store_landmark(dtype, p + d * bytes, wn_vf_load(lane), n);
    }
}

static void update_doubles(const run *r, const target *l, int64_t first, int64_t end, bool afresh)
{
    uint32_t dtype = r->args->landmarks.dtype;
    double key[WN_MAX_HEAD_DIM + WN_VL], least[WN_MAX_HEAD_DIM], most[WN_MAX_HEAD_DIM];
    for (int64_t d = 0; d < l->dim; d++) {
        least[d] = afresh ? (double)INFINITY : wn_load(l->minimum, dtype, d);
        most[d] = afresh ? -(double)INFINITY : wn_load(l->maximum, dtype, d);
    }
    for (int64_t e = first; e < end; e++) {
        token t;
        if (find_tokens(r, e, e + 1, &t) == 0)
            continue;
        load_key(r, &t, key);
        for (int64_t d = 0; d < l->dim; d++) {
            least[d] = key[d] < least[d] ? key[d] : least[d];
            most[d] = key[d] > most[d] ? key[d] : most[d];
        }
    }
    store_rounded(dtype, l->minimum, least, l->dim);
    store_rounded(dtype, l->maximum, most, l->dim);
}

/* Merges entries [first, end), all of one landmark, with what is stored, or with nothing. */
static void update(const run *r, int64_t first, int64_t end, bool afresh)
{
    const wn_landmark_view *view = &r->args->landmarks;
    int64_t bytes = wn_number_bytes(view->dtype);
    uint8_t *minimum = (uint8_t *)view->data + offset_of(r, first) * bytes;
    target l = {minimum, minimum + view->max_offset * bytes, r->args->kv.k.dim};
    (r->exact ? update_floats : update_doubles)(r, &l, first, end, afresh);
}

/* ---------------------------------------------------------------- parts */

/* How the entries of a call are cut: parts of `entries`, whole landmarks, `count` of them at most
 * in a request. */
typedef struct parts {
    const wn_landmark_update_args *args;
    int64_t entries, count;
} parts;

static int64_t first_landmark(const wn_landmark_update_args *a, int64_t request)
{
    return a->begin[request] / a->landmarks.landmark_size * a->landmarks.landmark_size;
}

static void update_body(void *argument, int64_t item)
{
    const parts *p = argument;
    const wn_landmark_update_args *a = p->args;
    const wn_kv_view *k = &a->kv.k;
    int64_t size = a->landmarks.landmark_size, group = item / p->count;
    run r = {.args = a,
             .request = group / a->kv.num_kv_heads,
             .head = group % a->kv.num_kv_heads,
             .exact = k->layout == WN_LAYOUT_STRIDED && k->scale == NULL && k->tensor_scale == 1};
    int64_t begin = first_landmark(a, r.request) + item % p->count * p->entries;
    int64_t end = begin + p->entries;
    begin = begin < a->begin[r.request] ? a->begin[r.request] : begin;
    r.count = entries_of(a, r.request);
    end = end < r.count ? end : r.count;
    for (int64_t entry = begin; entry < end;) {
        int64_t next = (entry / size + 1) * size;
        next = next < end ? next : end;
        update(&r, entry, next, entry % size == 0);
        entry = next;
    }
}

wn_status WN_CPU(landmark_update)(const wn_landmark_update_args *args)
{
    wn_status status = wn_refuse_landmark_update(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    int64_t size = args->landmarks.landmark_size, total = 0, longest = 0;
    for (uint32_t b = 0; b < args->kv.batch; b++) {
        int64_t entries = entries_of(args, b) - first_landmark(args, b);
        total += entries > 0 ? entries : 0;
        longest = entries > longest ? entries : longest;
    }
    parts p = {.args = args, .entries = size < PART ? PART / size * size : size};
    p.count = (longest + p.entries - 1) / p.entries;
    bool tiny = total * args->kv.num_kv_heads * args->kv.k.dim <= TINY_WORK;
    wn_for_each(tiny ? NULL : args->executor,
                (int64_t)args->kv.batch * args->kv.num_kv_heads * p.count, update_body, &p);
    return WN_OK;
}
