/* window_scores.c: how much the last queries of a prompt attend to each key before them. Bound by
 * FMA: the rows of a KV head (window queries by query heads) meet every key twice, first for each
 * row's softmax statistics, then to sum its probabilities per key, for there is no room to keep the
 * scores in between. Lanes are rows: statistics never go across a vector, and a key's sum does only
 * once for all rows. Queries are packed once per item, keys once per pass and tile.
 *
 * An item is a request and a KV head; which keys share a tile depends on the dimension alone. With
 * bfloat16 queries and keys, avx512_bf16 multiplies pairs; its sums are fp32 as everywhere. */
#include "kernels/cpu/block_fma.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/row.h"
#include "kernels/kv_element.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

enum {
    TILE = 128 / WN_BLOCK_ROWS * WN_BLOCK_ROWS, /* keys at once, at most */
    KEY_NUMBERS = 16384,                        /* of a packed tile: 64 KiB */
    QUERY_NUMBERS = 49152,                      /* of packed queries: 192 KiB */
    GATHERED = WN_MAX_HEAD_DIM * 4,             /* bytes of a key that is not stored in one piece */
};

/* The scratch of an item, on its stack: 370 KiB. */
typedef struct scratch {
    _Alignas(64) float key[KEY_NUMBERS + WN_BLOCK_SLACK];
    _Alignas(64) float query[QUERY_NUMBERS + WN_BLOCK_SLACK];
    _Alignas(64) float score[TILE + WN_BLOCK_ROWS][WN_PANEL];
    _Alignas(64) float total[TILE][WN_VL];
    /* Statistics of each row: the greatest score, the sum of 2^(score - greatest) and what the sum
     * lost to rounding; in the second pass `sum` holds 1 / sum. */
    _Alignas(64) float greatest[WN_MAX_WINDOW_ROWS], sum[WN_MAX_WINDOW_ROWS];
    _Alignas(64) float lost[WN_MAX_WINDOW_ROWS];
    uint8_t gathered[8][GATHERED];
} scratch;

/* One item. Row r is window query r / group, head r % group of the group. */
typedef struct window {
    const wn_window_scores_args *args;
    int64_t request, head, group, rows;
    int64_t length, before; /* keys in all, keys before the window */
    int64_t tile;           /* keys of a tile */
    int64_t first, count;   /* rows that are packed; count: whole panels, zeros in the last */
    int64_t steps;          /* numbers, or pairs of them, of a row */
    bool pairs;
    float scale; /* from a product to a base-2 logit; 1 where the queries carry it */
    scratch *scratch;
} window;

/* ---------------------------------------------------------------- packing */

static uint32_t key_dtype(const wn_kv_view *k)
{
    return k->layout == WN_LAYOUT_MLA_FP8 ? WN_BF16 : k->dtype;
}

/* A record's 576 numbers as bfloat16. */
static void read_record(const uint8_t *record, uint8_t *to)
{
    for (int64_t d = 0; d < WN_MLA_LATENT_DIM; d += WN_VL) {
        float scale;
        memcpy(&scale, record + WN_MLA_SCALES_AT + d / WN_MLA_CODES_PER_SCALE * 4, sizeof scale);
        wn_vf_to(WN_BF16, to + d * 2, wn_vf_product(wn_vf_from_e4m3(record + d), wn_vf_set(scale)));
    }
    memcpy(to + WN_MLA_LATENT_DIM * 2, record + WN_MLA_ROPE_AT, WN_MLA_ROPE_DIM * 2);
}

/* Where the key in a slot lies in one piece: where it is stored, or, for layouts that scatter it or
 * keep it otherwise, in `gathered`. */
static const void *key_at(const wn_paged_kv *kv, int64_t page, int64_t head, int64_t place,
                          uint8_t *gathered)
{
    const wn_kv_view *k = &kv->k;
    int64_t bytes = wn_number_bytes(k->dtype);
    const uint8_t *data = k->data;
    if (k->layout == WN_LAYOUT_STRIDED)
        return data + wn_kv_offset(k, kv->tokens_per_page, page, head, place, 0) * bytes;
    if (k->layout == WN_LAYOUT_MLA_FP8) {
        read_record(wn_kv_record(k, page, head, place), gathered);
        return gathered;
    }
    for (int64_t d = 0; d < k->dim; d += k->vec_x)
        memcpy(gathered + d * bytes,
               data + wn_kv_offset(k, kv->tokens_per_page, page, head, place, d) * bytes,
               (size_t)(k->vec_x * bytes));
    return gathered;
}

/* Up to eight keys from slot `first` on, in blocks of `stride` rows. */
static void pack_few_keys(const window *w, int64_t first, int64_t rows, float *out, int64_t stride)
{
    const wn_paged_kv *kv = &w->args->kv;
    const void *row[8];
    float scale[8];
    bool scaled = false;
    for (int64_t i = 0; i < rows; i++) {
        int64_t page = wn_kv_page(kv, w->request, first + i);
        int64_t place = (first + i) % kv->tokens_per_page;
        row[i] = key_at(kv, page, w->head, place, w->scratch->gathered[i]);
        scale[i] = (float)wn_kv_scale(&kv->k, page, w->head, place);
        scaled |= scale[i] != 1;
    }
#ifdef __AVX512BF16__
    if (w->pairs) {
        wn_pack_row_pairs((const uint16_t *const *)row, rows, kv->k.dim, (uint32_t *)(void *)out,
                          stride);
        return;
    }
#endif
    wn_pack_rows(key_dtype(&kv->k), row, rows, scaled ? scale : NULL, kv->k.dim, out, stride);
}

static void pack_keys(const window *w, int64_t first, int64_t count)
{
    wn_block_cut cut = wn_block_cut_of(count);
    float *out = w->scratch->key;
    for (int64_t done = 0; done < count;) {
        int64_t stride = done < cut.whole * WN_BLOCK_ROWS ? WN_BLOCK_ROWS : WN_BLOCK_FEW;
        int64_t rows = count - done < stride ? count - done : stride;
        pack_few_keys(w, first + done, rows, out, stride);
        out += stride * w->steps;
        done += rows;
    }
}

/* Up to eight rows of queries into lanes of a panel. */
static void pack_few_queries(const window *w, int64_t first, int64_t rows, float *out)
{
    const wn_tensor *q = &w->args->q;
    const void *row[8];
    float scale[8], dense[8][WN_ROW];
    uint32_t dtype = q->stride[3] == 1 ? q->dtype : WN_F32;
    for (int64_t i = 0; i < rows; i++) {
        int64_t r = first + i, head = w->head * w->group + r % w->group;
        int64_t start =
            w->request * q->stride[0] + r / w->group * q->stride[1] + head * q->stride[2];
        row[i] = (const uint8_t *)q->data + start * wn_number_bytes(q->dtype);
        scale[i] = w->args->softmax_scale * 1.44269504f;
        if (q->stride[3] != 1) {
            wn_row_load(dense[i], q->dtype, q->data, start, q->stride[3], q->shape[3]);
            row[i] = dense[i];
        }
    }
#ifdef __AVX512BF16__
    if (w->pairs) {
        wn_pack_row_pairs((const uint16_t *const *)row, rows, q->shape[3], (uint32_t *)(void *)out,
                          WN_PANEL);
        return;
    }
#endif
    wn_pack_rows(dtype, row, rows, scale, q->shape[3], out, WN_PANEL);
}

/* Rows w->first and following. Lanes of the last panel without a row are zeros. */
static void pack_queries(const window *w)
{
    for (int64_t done = 0; done < w->count; done += 8) {
        int64_t left = w->rows - w->first - done, rows = left < 0 ? 0 : left < 8 ? left : 8;
        pack_few_queries(w, w->first + done, rows,
                         w->scratch->query + done / WN_PANEL * WN_PANEL * w->steps +
                             done % WN_PANEL);
    }
}

/* ---------------------------------------------------------------- products */

/* A block of `rows` keys, a constant, with a panel. */
WN_INLINE void multiply_block(const window *w, const int rows, const float *key, const float *panel,
                              float *score)
{
    const float *ahead = key + rows * w->steps; /* the next block, on its way from L2 */
#ifdef __AVX512BF16__
    if (w->pairs) {
        wn_block_dot(rows, false, w->steps, (const uint32_t *)(const void *)key,
                     (const uint32_t *)(const void *)panel, score, ahead);
        return;
    }
#endif
    wn_block_fma(rows, false, w->steps, key, panel, score, ahead);
}

/* Brings keys [first, end) into the second cache, a step of the next tile at a time: the rows of a
 * page are too short a stream for the processor to find them by itself. */
WN_INLINE void fetch_keys(const window *w, int64_t first, int64_t end)
{
    const wn_paged_kv *kv = &w->args->kv;
    int64_t bytes = wn_number_bytes(kv->k.dtype);
    for (int64_t j = first; j < end && kv->k.layout == WN_LAYOUT_STRIDED; j++) {
        int64_t page = wn_kv_page(kv, w->request, j), place = j % kv->tokens_per_page;
        const char *key =
            (const char *)kv->k.data +
            wn_kv_offset(&kv->k, kv->tokens_per_page, page, w->head, place, 0) * bytes;
        wn_fetch_row(key, kv->k.dim * bytes, false);
    }
}

/* scratch->score[key][lane] of the rows of a panel (counted from 0) and a packed tile. Meanwhile
 * the panel's share of keys [next, end) is fetched. */
static void multiply(const window *w, int64_t panel, int64_t count, int64_t next, int64_t end)
{
    int64_t panels = w->count / WN_PANEL, left = end - next < w->tile ? end - next : w->tile;
    int64_t fetch = next + left * panel / panels, last = next + left * (panel + 1) / panels;
    const float *query = w->scratch->query + panel * WN_PANEL * w->steps;
    const float *key = w->scratch->key;
    float *score = w->scratch->score[0];
    wn_block_cut cut = wn_block_cut_of(count);
    for (int64_t i = 0; i < cut.whole; i++) {
        int64_t to = fetch + (last - fetch) / (cut.whole - i);
        fetch_keys(w, fetch, to);
        fetch = to;
        multiply_block(w, WN_BLOCK_ROWS, key, query, score);
        key += WN_BLOCK_ROWS * w->steps;
        score += WN_BLOCK_ROWS * WN_PANEL;
    }
    for (int64_t i = 0; i < cut.few; i++) {
        multiply_block(w, WN_BLOCK_FEW, key, query, score);
        key += WN_BLOCK_FEW * w->steps;
        score += WN_BLOCK_FEW * WN_PANEL;
    }
}

/* Lanes that are no row must not spoil a sum (0 times an infinite key is NaN); and a row of the
 * window does not see the keys behind it. */
static void mask(const window *w, int64_t panel, int64_t first, int64_t count)
{
    float(*score)[WN_PANEL] = w->scratch->score;
    int64_t row = w->first + panel * WN_PANEL, last = w->rows - row; /* lanes [0, last) */
    for (int64_t j = 0; j < count && last < WN_PANEL; j++)
        for (int64_t lane = last; lane < WN_PANEL; lane++)
            score[j][lane] = 0;
    for (int64_t j = first < w->before ? w->before - first : 0; j < count; j++)
        for (int64_t lane = 0; lane < WN_PANEL; lane++)
            if ((row + lane) / w->group < first + j - w->before)
                score[j][lane] = -INFINITY;
}

/* What is subtracted before 2^x: the greatest score, or 0 where all are -inf. */
WN_INLINE wn_vf anchor_of(wn_vf greatest)
{
    wn_vf none = wn_vf_set(-INFINITY);
    return (wn_vf)((wn_lanes)greatest & (wn_lanes)(greatest != none));
}

/* sum += x, with what rounding loses kept apart: 128 Ki equal terms would drift otherwise. */
WN_INLINE void add_exactly(wn_vf *sum, wn_vf *lost, wn_vf x)
{
    wn_vf next = *sum + x, part = next - *sum;
    *lost += (*sum - (next - part)) + (x - part);
    *sum = next;
}

/* The first pass's work on a tile of one vector of rows. Negative scales are why scores are scaled
 * before their greatest is found. A NaN is passed over by the maximum and stays in the sum. */
WN_INLINE void add_to_statistics(const window *w, int64_t row, int64_t lane, int64_t count)
{
    scratch *s = w->scratch;
    wn_vf old = wn_vf_load(s->greatest + row), greatest = old, scale = wn_vf_set(w->scale);
    for (int64_t j = 0; j < count; j++) {
        wn_vf x = wn_vf_load(s->score[j] + lane);
        if (w->pairs)
            wn_vf_store(s->score[j] + lane, x = wn_vf_mul(x, scale));
        greatest = wn_vf_max(x, greatest);
    }
    wn_vf anchor = anchor_of(greatest), part = wn_vf_zero();
    for (int64_t j = 0; j < count; j++)
        part += wn_vf_exp2(wn_vf_load(s->score[j] + lane) - anchor);
    wn_vf factor = wn_vf_exp2(old - anchor);
    wn_vf sum = wn_vf_load(s->sum + row) * factor, lost = wn_vf_load(s->lost + row) * factor;
    add_exactly(&sum, &lost, part);
    wn_vf_store(s->greatest + row, greatest);
    wn_vf_store(s->sum + row, sum);
    wn_vf_store(s->lost + row, lost);
}

/* The second pass's: probabilities of the keys, summed over the rows. */
WN_INLINE void add_to_totals(const window *w, int64_t row, int64_t lane, int64_t count)
{
    scratch *s = w->scratch;
    wn_vf anchor = anchor_of(wn_vf_load(s->greatest + row)), inverse = wn_vf_load(s->sum + row);
    wn_vf scale = wn_vf_set(w->scale);
    for (int64_t j = 0; j < count; j++) {
        wn_vf x = wn_vf_load(s->score[j] + lane);
        if (w->pairs)
            x = wn_vf_mul(x, scale);
        wn_vf_store(s->total[j],
                    wn_vf_fma(wn_vf_exp2(x - anchor), inverse, wn_vf_load(s->total[j])));
    }
}

/* ---------------------------------------------------------------- passes */

static void find_statistics(const window *w)
{
    scratch *s = w->scratch;
    int64_t end = w->args->normalise == WN_SCORES_FULL ? w->length : w->before;
    for (int64_t r = 0; r < w->count; r += WN_VL) {
        wn_vf_store(s->greatest + r, wn_vf_set(-INFINITY));
        wn_vf_store(s->sum + r, wn_vf_zero());
        wn_vf_store(s->lost + r, wn_vf_zero());
    }
    for (int64_t first = 0; first < end; first += w->tile) {
        int64_t count = end - first < w->tile ? end - first : w->tile;
        pack_keys(w, first, count);
        for (int64_t panel = 0; panel < w->count / WN_PANEL; panel++) {
            multiply(w, panel, count, first + count, end);
            mask(w, panel, first, count);
            add_to_statistics(w, panel * WN_PANEL, 0, count);
            add_to_statistics(w, panel * WN_PANEL + WN_VL, WN_VL, count);
        }
    }
    for (int64_t r = 0; r < w->count; r += WN_VL) { /* a row without weight gives nothing */
        wn_vf sum = wn_vf_load(s->sum + r) + wn_vf_load(s->lost + r), inverse = 1 / sum;
        wn_signed_lanes none = wn_vf_load(s->greatest + r) == wn_vf_set(-INFINITY);
        none &= sum == sum; /* NaN scores are no maximum either */
        wn_vf_store(s->sum + r, (wn_vf)wn_lanes_select(none, (wn_lanes)inverse, wn_lanes_set(0)));
    }
    for (int64_t r = w->rows - w->first; r < w->count; r++)
        s->sum[r] = 0;
}

static void sum_probabilities(const window *w)
{
    const wn_tensor *out = &w->args->scores;
    scratch *s = w->scratch;
    float *to = (float *)out->data + w->request * out->stride[0] + w->head * out->stride[1];
    for (int64_t first = 0; first < w->before; first += w->tile) {
        int64_t count = w->before - first < w->tile ? w->before - first : w->tile;
        pack_keys(w, first, count);
        memset(s->total, 0, (size_t)count * sizeof s->total[0]);
        for (int64_t panel = 0; panel < w->count / WN_PANEL; panel++) {
            multiply(w, panel, count, first + count, w->before);
            mask(w, panel, first, count);
            add_to_totals(w, panel * WN_PANEL, 0, count);
            add_to_totals(w, panel * WN_PANEL + WN_VL, WN_VL, count);
        }
        for (int64_t j = 0; j < count; j++) {
            float *key = to + (first + j) * out->stride[2],
                  sum = wn_vf_sum(wn_vf_load(s->total[j]));
            *key = w->first == 0 ? sum : *key + sum;
        }
    }
}

/* Are queries and keys bfloat16, so that pairs of them can be multiplied? */
static bool has_pairs(const wn_window_scores_args *a)
{
#ifdef __AVX512BF16__
    return a->q.dtype == WN_BF16 && a->q.stride[3] == 1 && key_dtype(&a->kv.k) == WN_BF16 &&
           a->kv.k.scale == NULL;
#else
    (void)a;
    return false;
#endif
}

static void window_item(void *argument, int64_t item)
{
    const wn_window_scores_args *a = argument;
    scratch room;
    window w = {.args = a,
                .request = item / a->kv.num_kv_heads,
                .head = item % a->kv.num_kv_heads,
                .group = a->q.shape[2] / a->kv.num_kv_heads,
                .pairs = has_pairs(a),
                .scratch = &room};
    w.rows = a->q.shape[1] * w.group;
    w.length = a->kv.length[w.request];
    w.before = w.length > a->q.shape[1] ? w.length - a->q.shape[1] : 0;
    w.steps = w.pairs ? (a->kv.k.dim + 1) / 2 : a->kv.k.dim;
    w.scale = w.pairs ? (float)(a->softmax_scale * 1.4426950408889634 * a->kv.k.tensor_scale) : 1;
    w.tile = KEY_NUMBERS / w.steps / WN_BLOCK_ROWS * WN_BLOCK_ROWS;
    w.tile = w.tile < TILE ? w.tile : TILE;
    int64_t most = QUERY_NUMBERS / w.steps / WN_PANEL * WN_PANEL;
    most = most < WN_MAX_WINDOW_ROWS ? most : WN_MAX_WINDOW_ROWS;
    float *scores =
        (float *)a->scores.data + w.request * a->scores.stride[0] + w.head * a->scores.stride[1];
    for (int64_t j = 0; j < w.before && w.rows == 0; j++)
        scores[j * a->scores.stride[2]] = 0;
    for (w.first = 0; w.first < w.rows && w.before > 0; w.first += w.count) {
        int64_t left = (w.rows - w.first + WN_PANEL - 1) / WN_PANEL * WN_PANEL;
        w.count = left < most ? left : most;
        pack_queries(&w);
        find_statistics(&w);
        sum_probabilities(&w);
    }
}

wn_status WN_CPU(window_scores)(const wn_window_scores_args *args)
{
    wn_status status = wn_refuse_window_scores(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    wn_for_each(args->executor, (int64_t)args->kv.batch * args->kv.num_kv_heads, window_item,
                (void *)args);
    return WN_OK;
}
