/* attend_result.h: what attend_rows.h leaves of a row: joined to what other parts of the keys gave,
 * divided and written. */
#ifndef WN_CPU_ATTEND_RESULT_H
#define WN_CPU_ATTEND_RESULT_H

#include "kernels/cpu/attend_rows.h"

/* What some keys gave a row, beside its outputs. */
typedef struct wn_row_state {
    float maximum, sum, divisor;
} wn_row_state;

static inline wn_row_state wn_row_begin(void)
{
    return (wn_row_state){.maximum = -INFINITY};
}

static inline wn_row_state wn_rows_state(const wn_rows *w, int64_t index)
{
    return (wn_row_state){w->maximum[index], w->sum[index], w->divisor[index]};
}

/* Joins what some keys gave a row to what earlier ones did. */
static inline void wn_merge_part(wn_row_state *row, float *out, wn_row_state from,
                                 const float *part, int64_t count)
{
    if (from.sum == 0) /* none of its keys was seen */
        return;
    float top = from.maximum > row->maximum ? from.maximum : row->maximum;
    float kept = row->sum == 0 ? 0 : wn_exp2(row->maximum - top),
          added = wn_exp2(from.maximum - top);
    if (top == -INFINITY) /* nothing but NaN so far */
        kept = added = 1;
    int64_t d = 0;
    for (; d + WN_VL <= count; d += WN_VL)
        wn_vf_store(out + d, wn_vf_fma(wn_vf_load(part + d), wn_vf_set(added),
                                       wn_vf_mul(wn_vf_load(out + d), wn_vf_set(kept))));
    if (d < count) {
        wn_vf x = wn_vf_mul(wn_vf_load_first(out + d, count - d), wn_vf_set(kept));
        x = wn_vf_fma(wn_vf_load_first(part + d, count - d), wn_vf_set(added), x);
        wn_vf_store_first(out + d, x, count - d);
    }
    row->sum = fmaf(from.sum, added, row->sum * kept);
    row->divisor = fmaf(from.divisor, added, row->divisor * kept);
    row->maximum = top;
}

/* Sinks, division, out and lse. out: in the order of memory, with room for whole vectors. */
static inline void wn_rows_finish(const wn_rows *w, int64_t head, int64_t row, wn_row_state state,
                                  float *out)
{
    const wn_attend_args *a = w->args;
    int64_t q_row = a->q_begin[w->request] + wn_rows_token(w, row);
    int64_t q_head = wn_rows_query_head(w, head, row);
    float factor = 1, lse = -INFINITY;
    bool empty = state.sum == 0;
    if (a->sinks != NULL && !empty) {
        float sink = (float)(a->sinks[q_head] * WN_LOG2_E);
        float top = sink > state.maximum ? sink : state.maximum, added = wn_exp2(sink - top);
        factor = wn_exp2(state.maximum - top);
        state = (wn_row_state){top, state.sum * factor + added, state.divisor * factor + added};
    }
    if (!empty)
        lse = (float)((double)state.maximum * WN_LN_2 + log((double)state.sum));
    factor = empty ? 0 : factor / state.divisor;
    for (int64_t d = 0; d < a->kv.v.dim; d++)
        out[d] = empty ? 0 : out[d] * factor;
    wn_row_store(a->out.dtype, a->out.data, wn_tensor_offset(&a->out, q_row, q_head, 0),
                 a->out.stride[2], out, a->kv.v.dim);
    if (a->lse.data != NULL)
        ((float *)a->lse.data)[wn_tensor_offset(&a->lse, q_row, q_head, 0)] = lse;
}

#endif
