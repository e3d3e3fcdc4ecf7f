/* double_row.h: the reference's unit of data: one token's or query's channels as doubles. Ops load
 * a row once, then use it often, in plain loops. */
#ifndef WN_REF_DOUBLE_ROW_H
#define WN_REF_DOUBLE_ROW_H

#include "kernels/kv_element.h"

/* The key or value of a token: view->dim numbers, code * scale. */
static inline void wn_ref_load_token(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page,
                                     int64_t head, int64_t place, double *row)
{
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        const uint8_t *record = wn_kv_record(view, page, head, place);
        for (int64_t d = 0; d < view->dim; d++)
            row[d] = wn_mla_record_value(record, d);
        return;
    }
    double scale = wn_kv_scale(view, page, head, place);
    for (int64_t d = 0; d < view->dim; d++)
        row[d] = wn_load(view->data, view->dtype,
                         wn_kv_offset(view, tokens_per_page, page, head, place, d)) *
                 scale;
}

/* The same of the token in a slot of a request. */
static inline void wn_ref_load_slot(const wn_paged_kv *kv, const wn_kv_view *view, int64_t request,
                                    int64_t head, int64_t slot, double *row)
{
    wn_ref_load_token(view, kv->tokens_per_page, wn_kv_page(kv, request, slot), head,
                      slot % kv->tokens_per_page, row);
}

/* `count` elements of a tensor's data, `stride` apart. */
static inline void wn_ref_load_strided(const wn_tensor *tensor, int64_t start, int64_t stride,
                                       int64_t count, double *row)
{
    for (int64_t d = 0; d < count; d++)
        row[d] = wn_load(tensor->data, tensor->dtype, start + d * stride);
}

/* Eight partial sums in a fixed order: a form that compilers turn into vector code without being
 * allowed to reorder additions. */
static inline double wn_ref_dot(const double *a, const double *b, int64_t n)
{
    double sum[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] += a[i + lane] * b[i + lane];
    for (; i < n; i++)
        sum[i % 8] += a[i] * b[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* log(sum(exp(x))) of numbers that come one by one. -inf has no weight. */
typedef struct wn_ref_log_sum {
    double maximum, sum; /* -inf, 0 at first */
} wn_ref_log_sum;

static inline void wn_ref_log_sum_add(wn_ref_log_sum *s, double x)
{
    if (x == -INFINITY)
        return;
    if (x > s->maximum) {
        s->sum *= exp(s->maximum - x);
        s->maximum = x;
    }
    s->sum += exp(x - s->maximum);
}

/* -inf if nothing has weight. */
static inline double wn_ref_log_sum_value(const wn_ref_log_sum *s)
{
    return s->sum == 0 ? -INFINITY : s->maximum + log(s->sum);
}

#endif
