/* context_panel.h: what context attention does with a panel of query rows (WN_PANEL lanes, one row
 * each) and a block of keys: scores, their maxima, and the running softmax with its outputs. Rows
 * stay in their lanes throughout; K and V are broadcast. What a row does not see has weight 0
 * exactly, so its bits do not depend on its neighbours. */
#ifndef WN_CPU_CONTEXT_PANEL_H
#define WN_CPU_CONTEXT_PANEL_H

#include "kernels/cpu/context_keys.h"

typedef int32_t context_lanes __attribute__((vector_size(4 * WN_VL)));

typedef struct context_panel {
    float reference[WN_PANEL], sum[WN_PANEL];     /* of the running softmax */
    float divisor[WN_PANEL];                      /* of outputs: sum of the weights as V met them */
    float slope[WN_PANEL];                        /* of ALiBi */
    int32_t last[WN_PANEL];                       /* greatest slot that a row sees */
    int32_t position[WN_PANEL], oldest[WN_PANEL]; /* its position; the window's first */
    int64_t lanes;                                /* rows; lanes beyond compute nothing of worth */
    int32_t least_last, greatest_last;
    bool started; /* o holds something */
    float *q;     /* [k_depth][WN_PANEL] */
    float *o;     /* [rows of v_cut][WN_PANEL] */
} __attribute__((aligned(64))) context_panel;

/* Keys of the block that come before everything that no row of the panel sees. */
static int64_t keys_in_reach(const context_block *b, const context_panel *p)
{
    int64_t n = b->count;
    if (b->slot[n - 1] <= p->greatest_last)
        return n;
    for (n = 0; b->slot[n] <= p->greatest_last;)
        n++;
    return n;
}

static void multiply(const context_shape *shape, const context_block *b, const context_panel *p,
                     float *scores, int64_t n)
{
    const int64_t depth = shape->k_depth;
    int64_t t = 0, whole = shape->k_cut.whole * WN_BLOCK_ROWS;
#ifdef __AVX512BF16__
    if (shape->dot_k) {
        const uint32_t *k = (const uint32_t *)b->k, *q = (const uint32_t *)p->q;
        for (; t < n && t < whole; t += WN_BLOCK_ROWS)
            wn_block_dot(WN_BLOCK_ROWS, false, depth, k + t * depth, q, scores + t * WN_PANEL,
                         k + (t + WN_BLOCK_ROWS) * depth);
        return;
    }
#endif
    for (; t < n && t < whole; t += WN_BLOCK_ROWS)
        wn_block_fma(WN_BLOCK_ROWS, false, depth, b->k + t * depth, p->q, scores + t * WN_PANEL,
                     b->k + (t + WN_BLOCK_ROWS) * depth);
    for (; t < n; t += WN_BLOCK_FEW)
        wn_block_fma(WN_BLOCK_FEW, false, depth, b->k + t * depth, p->q, scores + t * WN_PANEL,
                     b->k + (t + WN_BLOCK_FEW) * depth);
}

/* c * tanh(s / c), as (1 - e) / (1 + e) with e = exp(-2 |s| / c); the sign put back. */
WN_INLINE wn_vf soft_cap(wn_vf s, float cap, float unit)
{
    const wn_vf one = wn_vf_set(1);
    wn_vf e = wn_vf_exp2(wn_vf_mul(wn_vf_abs(s), wn_vf_set(-2.88539008f / cap)));
    wn_vf y = wn_vf_mul(wn_vf_div(wn_vf_sub(one, e), wn_vf_add(one, e)), wn_vf_set(cap * unit));
    return wn_vf_select(wn_vf_less(s, wn_vf_zero()), y, wn_vf_sub(wn_vf_zero(), y));
}

/* ALiBi and soft cap. */
static void transform(const context_shape *shape, const context_block *b, const context_panel *p,
                      float *scores, int64_t n)
{
    const bool alibi = shape->args->alibi_slopes != NULL;
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < WN_PANEL; i += WN_VL) {
            float *at = scores + t * WN_PANEL + i;
            wn_vf s = wn_vf_mul(wn_vf_load(at), wn_vf_set(shape->before));
            if (alibi) {
                float away[WN_VL];
                for (int64_t lane = 0; lane < WN_VL; lane++)
                    away[lane] = (float)((int64_t)b->position[t] - p->position[i + lane]);
                s = wn_vf_fma(wn_vf_load(p->slope + i), wn_vf_load(away), s);
            }
            if (shape->cap > 0)
                s = soft_cap(s, shape->cap, shape->cap_unit);
            wn_vf_store(at, s);
        }
}

/* -inf where a row does not see a key. */
static void mask(const context_shape *shape, const context_block *b, const context_panel *p,
                 float *scores, int64_t n)
{
    const int32_t sinks = shape->args->token_sinks;
    for (int64_t i = 0; i < WN_PANEL; i += WN_VL) {
        context_lanes last, oldest;
        memcpy(&last, p->last + i, sizeof last);
        memcpy(&oldest, p->oldest + i, sizeof oldest);
        for (int64_t t = 0; t < n; t++) {
            context_lanes sees = b->slot[t] <= last, s;
            if (shape->window && b->position[t] >= sinks)
                sees &= b->position[t] >= oldest;
            memcpy(&s, scores + t * WN_PANEL + i, sizeof s);
            s = (s & sees) | (~sees & (int32_t)0xff800000);
            memcpy(scores + t * WN_PANEL + i, &s, sizeof s);
        }
    }
}

/* scores[n][WN_PANEL] of the first n keys of the block, to be multiplied by shape->after. */
static void score_panel(const context_shape *shape, const context_block *b, const context_panel *p,
                        float *scores, int64_t n)
{
    multiply(shape, b, p, scores, n);
    if (shape->transforms)
        transform(shape, b, p, scores, n);
    if (b->partial && (shape->window || b->slot[n - 1] > p->least_last))
        mask(shape, b, p, scores, n);
}

/* Of the keys [begin, end), to top[WN_PANEL]; a NaN is passed over. Where `asks`, false if none of
 * the scores is NaN: sums of scores stay NaN once they are, and those of -inf and numbers are not.
 */
WN_INLINE bool maxima_of(const bool asks, const float *scores, int64_t begin, int64_t end,
                         float *top)
{
    wn_vf m[4], sum[4], x[4];
    for (int64_t i = 0; i < 4; i++) {
        m[i] = wn_vf_set(-INFINITY);
        sum[i] = wn_vf_zero();
    }
    for (int64_t t = begin; t < end; t += 2)
        for (int64_t i = 0; i < (t + 1 < end ? 4 : 2); i++) {
            x[i] = wn_vf_load(scores + t * WN_PANEL + i * WN_VL);
            m[i] = wn_vf_max(x[i], m[i]);
            if (asks)
                sum[i] = wn_vf_add(x[i], sum[i]);
        }
    for (int64_t i = 0; i < 2; i++)
        wn_vf_store(top + i * WN_VL, wn_vf_max(m[i + 2], m[i]));
    wn_vf all = wn_vf_add(wn_vf_add(sum[0], sum[1]), wn_vf_add(sum[2], sum[3]));
    return asks && wn_vm_bits(wn_vf_is_nan(all)) != 0;
}

static void maxima(const float *scores, int64_t begin, int64_t end, float *top)
{
    maxima_of(false, scores, begin, end, top);
}

/* ---------------------------------------------------------------- the running softmax */

/* Weights are 2^(score - reference). The reference of a row is a score that was its maximum: it
 * moves when a score is this much above it, in base 2, because moving it costs a pass over the
 * outputs. Weights up to 2^8 are as exact as those up to 1. */
#define REFERENCE_LAG 8.0f

/* The reference in base 2, 0 before there is one. */
WN_INLINE wn_vf reference_of(wn_vf reference, float after)
{
    wn_vm any = wn_vf_less(wn_vf_set(-INFINITY), reference);
    return wn_vf_select(any, wn_vf_zero(), wn_vf_mul(reference, wn_vf_set(after)));
}

/* Moves the references to the maxima `top` where they must: sums and outputs so far shrink. */
static void move_references(const context_shape *shape, context_panel *p, const float *top)
{
    wn_vf shrink[2];
    uint32_t moved = 0;
    for (int64_t i = 0; i < 2; i++) {
        wn_vf old = wn_vf_load(p->reference + i * WN_VL), new = wn_vf_load(top + i * WN_VL);
        wn_vf rise = wn_vf_mul(wn_vf_sub(new, old), wn_vf_set(shape->after));
        wn_vm moves = wn_vf_less(wn_vf_set(REFERENCE_LAG), rise);
        new = wn_vf_select(moves, old, new);
        moved |= wn_vm_bits(moves);
        shrink[i] = wn_vf_exp2(
            wn_vf_sub(wn_vf_mul(old, wn_vf_set(shape->after)), reference_of(new, shape->after)));
        wn_vf_store(p->reference + i * WN_VL, new);
    }
    if (moved == 0 || !p->started)
        return;
    for (int64_t i = 0; i < WN_PANEL; i += WN_VL) {
        wn_vf_store(p->sum + i, wn_vf_mul(wn_vf_load(p->sum + i), shrink[i / WN_VL]));
        wn_vf_store(p->divisor + i, wn_vf_mul(wn_vf_load(p->divisor + i), shrink[i / WN_VL]));
    }
    for (int64_t d = 0; d < wn_block_cut_rows(shape->v_cut); d++)
        for (int64_t i = 0; i < 2; i++) {
            float *at = p->o + d * WN_PANEL + i * WN_VL;
            wn_vf_store(at, wn_vf_mul(wn_vf_load(at), shrink[i]));
        }
}

/* Scores of the keys [begin, end) become weights, in place; adds them to the sums. */
static void weigh(const context_shape *shape, context_panel *p, float *scores, int64_t begin,
                  int64_t end)
{
    const wn_vf after = wn_vf_set(shape->after), minus = wn_vf_set(-1);
    wn_vf m0 = wn_vf_mul(reference_of(wn_vf_load(p->reference), shape->after), minus);
    wn_vf m1 = wn_vf_mul(reference_of(wn_vf_load(p->reference + WN_VL), shape->after), minus);
    wn_vf s0 = wn_vf_zero(), s1 = s0;
    for (int64_t t = begin; t < end; t++) {
        float *at = scores + t * WN_PANEL;
        wn_vf w0 = wn_vf_exp2(wn_vf_fma(wn_vf_load(at), after, m0));
        wn_vf w1 = wn_vf_exp2(wn_vf_fma(wn_vf_load(at + WN_VL), after, m1));
        s0 = wn_vf_add(s0, w0);
        s1 = wn_vf_add(s1, w1);
        wn_vf_store(at, w0);
        wn_vf_store(at + WN_VL, w1);
    }
    wn_vf_store(p->sum, wn_vf_add(wn_vf_load(p->sum), s0));
    wn_vf_store(p->sum + WN_VL, wn_vf_add(wn_vf_load(p->sum + WN_VL), s1));
    memcpy(p->divisor, p->sum, sizeof p->divisor);
}

#ifdef __AVX512BF16__
/* The same, rounded to bfloat16: pair t / 2 goes to row t / 2 of the scores, which nobody needs any
 * more. A half that is not in [begin, end) is 0. The rounded weights have a sum of their own: an
 * output divided by it is a mean of values still, so that what rounding does to it is in proportion
 * to how far the values lie from it, not to how great they are. */
static void weigh_pairs(const context_shape *shape, context_panel *p, float *scores, int64_t begin,
                        int64_t end)
{
    const wn_vf after = wn_vf_set(shape->after), minus = wn_vf_set(-1);
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t i = 0; i < WN_PANEL; i += WN_VL) {
        wn_vf m = wn_vf_mul(reference_of(wn_vf_load(p->reference + i), shape->after), minus);
        wn_vf sum[2] = {wn_vf_zero(), wn_vf_zero()}, divisor = wn_vf_load(p->divisor + i);
        for (int64_t t = begin & ~(int64_t)1; t < end; t += 2) {
            const float *at = scores + t * WN_PANEL + i;
            wn_vf low = wn_vf_exp2(wn_vf_fma(wn_vf_load(at), after, m));
            wn_vf high = wn_vf_zero();
            if (t + 1 < end)
                high = wn_vf_exp2(wn_vf_fma(wn_vf_load(at + WN_PANEL), after, m));
            if (t < begin)
                low = wn_vf_zero();
            sum[0] = wn_vf_add(sum[0], low);
            sum[1] = wn_vf_add(sum[1], high);
            __m512i pair = _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            divisor = _mm512_dpbf16_ps(divisor, (__m512bh)pair, ones);
            _mm512_store_si512(scores + t / 2 * WN_PANEL + i, pair);
        }
        wn_vf all = wn_vf_add(sum[0], sum[1]);
        wn_vf_store(p->sum + i, wn_vf_add(wn_vf_load(p->sum + i), all));
        wn_vf_store(p->divisor + i, divisor);
    }
}
#endif

/* A packed value as a float. */
WN_INLINE float value_at(const context_shape *shape, const context_block *b, int64_t first,
                         int64_t rows, int64_t row, int64_t t)
{
    if (!shape->dot_v)
        return b->v[first * shape->keys + t * rows + row];
    uint32_t pair = ((const uint32_t *)b->v)[first * (shape->keys / 2) + t / 2 * rows + row];
    uint32_t bits = t % 2 == 0 ? pair << 16 : pair & 0xffff0000;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

WN_INLINE wn_vf weight_at(const context_shape *shape, const float *weights, int64_t t, int64_t i)
{
    if (!shape->dot_v)
        return wn_vf_load(weights + t * WN_PANEL + i);
    float lane[WN_VL];
    memcpy(lane, weights + t / 2 * WN_PANEL + i, sizeof lane);
    for (int64_t j = 0; j < WN_VL; j++) {
        uint32_t bits;
        memcpy(&bits, &lane[j], sizeof bits);
        bits = t % 2 == 0 ? bits << 16 : bits & 0xffff0000;
        memcpy(&lane[j], &bits, sizeof bits);
    }
    return wn_vf_load(lane);
}

/* As accumulate, where 0 times a value is not 0: a row takes only values that have weight. */
static void accumulate_odd(const context_shape *shape, const context_block *b, context_panel *p,
                           const float *weights, int64_t begin, int64_t end)
{
    int64_t rows;
    for (int64_t first = 0; first < wn_block_cut_rows(shape->v_cut); first += rows) {
        rows = cut_rows_at(shape->v_cut, first);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < WN_PANEL; i += WN_VL) {
                float *at = p->o + (first + r) * WN_PANEL + i;
                wn_vf o = p->started ? wn_vf_load(at) : wn_vf_zero();
                for (int64_t t = begin; t < end; t++) {
                    wn_vf w = weight_at(shape, weights, t, i);
                    wn_vf value = wn_vf_set(value_at(shape, b, first, rows, r, t));
                    o = wn_vf_select(wn_vf_less(wn_vf_zero(), w), o, wn_vf_fma(w, value, o));
                }
                wn_vf_store(at, o);
            }
    }
}

/* o += V^T weights over the keys [begin, end). */
static void accumulate(const context_shape *shape, const context_block *b, context_panel *p,
                       const float *weights, int64_t begin, int64_t end)
{
    int64_t d = 0, whole = shape->v_cut.whole * WN_BLOCK_ROWS;
#ifdef __AVX512BF16__
    if (shape->dot_v) {
        int64_t first = begin / 2, n = (end + 1) / 2 - first, step = shape->keys / 2;
        const uint32_t *v = (const uint32_t *)b->v, *w = (const uint32_t *)weights;
        for (; d < whole; d += WN_BLOCK_ROWS)
            wn_block_dot(WN_BLOCK_ROWS, p->started, n, v + d * step + first * WN_BLOCK_ROWS,
                         w + first * WN_PANEL, p->o + d * WN_PANEL,
                         v + (d + WN_BLOCK_ROWS) * step + first * WN_BLOCK_ROWS);
        for (; d < wn_block_cut_rows(shape->v_cut); d += WN_BLOCK_FEW)
            wn_block_dot(WN_BLOCK_FEW, p->started, n, v + d * step + first * WN_BLOCK_FEW,
                         w + first * WN_PANEL, p->o + d * WN_PANEL, NULL);
        return;
    }
#endif
    for (; d < whole; d += WN_BLOCK_ROWS)
        wn_block_fma(WN_BLOCK_ROWS, p->started, end - begin,
                     b->v + d * shape->keys + begin * WN_BLOCK_ROWS, weights + begin * WN_PANEL,
                     p->o + d * WN_PANEL,
                     b->v + (d + WN_BLOCK_ROWS) * shape->keys + begin * WN_BLOCK_ROWS);
    for (; d < wn_block_cut_rows(shape->v_cut); d += WN_BLOCK_FEW)
        wn_block_fma(WN_BLOCK_FEW, p->started, end - begin,
                     b->v + d * shape->keys + begin * WN_BLOCK_FEW, weights + begin * WN_PANEL,
                     p->o + d * WN_PANEL, NULL);
}

/* Attends to the keys [begin, end), whose maxima were taken. */
static void attend_keys(const context_shape *shape, const context_block *b, context_panel *p,
                        float *scores, int64_t begin, int64_t end)
{
#ifdef __AVX512BF16__
    if (shape->dot_v)
        weigh_pairs(shape, p, scores, begin, end);
#endif
    if (!shape->dot_v)
        weigh(shape, p, scores, begin, end);
    if (b->odd_values)
        accumulate_odd(shape, b, p, scores, begin, end);
    else
        accumulate(shape, b, p, scores, begin, end);
    p->started = true;
}

/* Attends to those tiles of the block whose bit is set in `kept`, as far as key n. top: the maxima
 * of those tiles. */
static void attend_tiles(const context_shape *shape, const context_block *b, context_panel *p,
                         float *scores, int64_t n, uint32_t kept, const float *top)
{
    move_references(shape, p, top);
    for (int64_t i = 0; i < b->tiles && b->tile_begin[i] < n;) {
        int64_t first = i;
        while (i < b->tiles && kept >> i & 1)
            i++;
        int64_t end = b->tile_begin[i] < n ? b->tile_begin[i] : n;
        if (i > first)
            attend_keys(shape, b, p, scores, b->tile_begin[first], end);
        else
            i++;
    }
}

#endif
