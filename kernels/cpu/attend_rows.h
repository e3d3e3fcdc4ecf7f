/* attend_rows.h: softmax(q K^T) V for the query rows that share the keys of some KV heads, block of
 * keys after block of keys: the running maximum, sum and output of each row in floats, in base 2.
 * The rows are taken four at a time (attend_block.h); what masks, ALiBi, a soft cap and the scales
 * of quantised caches need is done on the scores. All memory is in the struct, on the stack of an
 * executor's thread: about 350 KiB.
 *
 * What a key does not give to a row is not read for it: keys that no row sees are not in a block
 * (attend_keys.h), and in a block where some score is -inf the values are added row by row, from a
 * list of those keys that have weight. Where outputs and V are bfloat16 and the processor
 * multiplies pairs of it, weights are rounded to bfloat16 too; outputs are divided by the sum of
 * the rounded ones, so that an output is a mean of values still, and the LSE is of the exact ones.
 * Layouts without rows (VEC) and MLA records are converted to floats, a few keys at a time, and
 * then go the same way. */
#ifndef WN_CPU_ATTEND_ROWS_H
#define WN_CPU_ATTEND_ROWS_H

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_keys.h"
#ifdef __AVX512BF16__
#include "kernels/cpu/attend_pairs.h"
#endif
#include "kernels/cpu/row.h"
#include "kernels/tensor_element.h"

#include <float.h>

enum {
    WN_ROWS_MOST = 64,       /* query rows at one KV head */
    WN_ROWS_HELD = 512,      /* at all KV heads together */
    WN_ROWS_NUMBERS = 16384, /* floats of their queries, and of their outputs */
    WN_SCRATCH_KEYS = 16,    /* keys that are converted to floats at a time */
    WN_SCORES_ROOM = WN_KEYS_ROOM * WN_ROWS_SHARED, /* scores of four rows */
};
_Static_assert(WN_ROWS_NUMBERS >= WN_SCRATCH_KEYS * WN_MAX_HEAD_DIM, "the scratch fits");

#define WN_LOG2_E 1.4426950408889634
#define WN_LN_2 0.6931471805599453

/* ---- the products, for each dtype and number of rows */

typedef void wn_score_function(const wn_key_rows *k, int64_t count, const float *q, int64_t stride,
                               float factor, float *scores);
/* weights: floats, or with wn_rows.pairs pairs of bfloat16. */
typedef void wn_add_function(const wn_key_rows *v, int64_t count, const void *weights, float *out,
                             int64_t stride);

#define WN_PRODUCTS(dtype, rows)                                                                   \
    static void score_##dtype##_##rows(const wn_key_rows *k, int64_t count, const float *q,        \
                                       int64_t stride, float factor, float *scores)                \
    {                                                                                              \
        wn_score_rows(WN_##dtype, rows, k, count, q, stride, factor, scores);                      \
    }                                                                                              \
    static void add_##dtype##_##rows(const wn_key_rows *v, int64_t count, const void *weights,     \
                                     float *out, int64_t stride)                                   \
    {                                                                                              \
        wn_add_rows(WN_##dtype, rows, v, count, weights, out, stride);                             \
    }
#define WN_PRODUCTS_OF(dtype)                                                                      \
    WN_PRODUCTS(dtype, 1) WN_PRODUCTS(dtype, 2) WN_PRODUCTS(dtype, 3) WN_PRODUCTS(dtype, 4)
WN_PRODUCTS_OF(F32)
WN_PRODUCTS_OF(F16)
WN_PRODUCTS_OF(BF16)
WN_PRODUCTS_OF(F8_E4M3)
WN_PRODUCTS_OF(I8)

#define WN_PRODUCTS_ROW(what, dtype)                                                               \
    [WN_##dtype] = {what##_##dtype##_1, what##_##dtype##_2, what##_##dtype##_3, what##_##dtype##_4}
#define WN_PRODUCTS_TABLE(what)                                                                    \
    {                                                                                              \
        WN_PRODUCTS_ROW(what, F32), WN_PRODUCTS_ROW(what, F16), WN_PRODUCTS_ROW(what, BF16),       \
            WN_PRODUCTS_ROW(what, F8_E4M3), WN_PRODUCTS_ROW(what, I8)                              \
    }
static wn_score_function *const wn_score_functions[][WN_ROWS_SHARED] = WN_PRODUCTS_TABLE(score);
static wn_add_function *const wn_add_functions[][WN_ROWS_SHARED] = WN_PRODUCTS_TABLE(add);

#ifdef __AVX512BF16__
#define WN_DOT_PRODUCTS(dtype, rows)                                                               \
    static void dot_##dtype##_##rows(const wn_key_rows *k, int64_t count, const float *q,          \
                                     int64_t stride, float factor, float *scores)                  \
    {                                                                                              \
        wn_dot_rows(WN_##dtype, rows, k, count, q, stride, factor, scores);                        \
    }
#define WN_DOT_ADD(rows)                                                                           \
    static void dot_add_##rows(const wn_key_rows *v, int64_t count, const void *weights,           \
                               float *out, int64_t stride)                                         \
    {                                                                                              \
        wn_dot_add_rows(rows, v, count, weights, out, stride);                                     \
    }
#define WN_DOTS(rows) WN_DOT_PRODUCTS(BF16, rows) WN_DOT_PRODUCTS(F8_E4M3, rows) WN_DOT_ADD(rows)
WN_DOTS(1)
WN_DOTS(2)
WN_DOTS(3)
WN_DOTS(4)
#define WN_DOT_TABLE                                                                               \
    {                                                                                              \
        WN_PRODUCTS_ROW(dot, BF16), WN_PRODUCTS_ROW(dot, F8_E4M3)                                  \
    }
static wn_score_function *const wn_dot_functions[][WN_ROWS_SHARED] = WN_DOT_TABLE;
static wn_add_function *const wn_dot_add_functions[] = {dot_add_1, dot_add_2, dot_add_3, dot_add_4};
#endif

/* ---- the rows */

/* Row r of KV head h is query token first_token + (first_row + r) / group, query head h * group +
 * (first_row + r) % group; it has index (h - first_head) * num_rows + r in the arrays. */
typedef struct wn_rows {
    const wn_attend_args *args;
    int64_t request, group;
    int64_t first_head, num_heads; /* KV heads */
    int64_t first_token;           /* of the run of queries that share keys */
    int64_t first_row, num_rows;
    int64_t v_padded;                /* floats from row to row of out */
    uint32_t k_dtype, v_dtype;       /* as the products see them */
    bool k_direct, v_direct;         /* they see the cache itself, not converted rows */
    float cap;                       /* scores are cap * tanh(x); 0: off */
    float factor;                    /* of the dot products */
    int64_t q_stride;                /* floats from row to row of q */
    wn_score_function *const *score; /* for 1 .. 4 rows */
    wn_add_function *const *add;
    bool pairs; /* weights are rounded to bfloat16 and multiplied in pairs of keys */
    int64_t scratch_offset[WN_SCRATCH_KEYS + WN_VL];
    float maximum[WN_ROWS_HELD + WN_ROWS_SHARED], sum[WN_ROWS_HELD];
    float divisor[WN_ROWS_HELD]; /* the sum of the weights as they are multiplied */
    float k_scale[WN_KEYS_ROOM], v_scale[WN_KEYS_ROOM];
    _Alignas(64) float q[WN_ROWS_NUMBERS];       /* folded; or pairs of bfloat16 */
    _Alignas(64) float out[WN_ROWS_NUMBERS];     /* folded, not yet divided by sum */
    _Alignas(64) float scratch[WN_ROWS_NUMBERS]; /* converted rows of K or V */
    _Alignas(64) float scores[WN_ROWS_MOST / WN_ROWS_SHARED * WN_SCORES_ROOM];
} wn_rows;

/* Four rows or fewer of a KV head, and their scores for a block. */
typedef struct wn_row_quad {
    int64_t row; /* the first, counted from the head's */
    int64_t index;
    int rows, lanes;
    int64_t vectors;  /* of scores */
    float *scores;    /* [keys][lanes] */
    float top[WN_VL]; /* the greatest score of each row, per lane */
    bool lacks;       /* some score is -inf */
} wn_row_quad;

static inline int64_t wn_padded(int64_t dim)
{
    return (dim + WN_CHUNK - 1) / WN_CHUNK * WN_CHUNK;
}

static inline int64_t wn_rows_token(const wn_rows *w, int64_t row)
{
    return w->first_token + (w->first_row + row) / w->group;
}
static inline int64_t wn_rows_query_head(const wn_rows *w, int64_t head, int64_t row)
{
    return head * w->group + (w->first_row + row) % w->group;
}

/* ---- beginning */

static inline bool wn_is_direct(const wn_kv_view *view)
{
    return view->layout == WN_LAYOUT_STRIDED;
}

/* How many rows of a KV head can be held at once. */
static inline int64_t wn_rows_that_fit(const wn_attend_args *a)
{
    int64_t widest = wn_padded(a->kv.k.dim > a->kv.v.dim ? a->kv.k.dim : a->kv.v.dim);
    int64_t rows = WN_ROWS_NUMBERS / widest / WN_ROWS_SHARED * WN_ROWS_SHARED;
    return rows < WN_ROWS_MOST ? rows : WN_ROWS_MOST;
}
/* And of how many KV heads, so many rows each. */
static inline int64_t wn_heads_that_fit(const wn_attend_args *a, int64_t rows)
{
    int64_t widest = wn_padded(a->kv.k.dim > a->kv.v.dim ? a->kv.k.dim : a->kv.v.dim);
    int64_t heads = WN_ROWS_NUMBERS / widest / rows;
    return heads * rows <= WN_ROWS_HELD ? heads : WN_ROWS_HELD / rows;
}

static inline void wn_rows_load_query(const wn_rows *w, int64_t head, int64_t row, float *to)
{
    const wn_attend_args *a = w->args;
    int64_t dim = a->kv.k.dim, padded = wn_padded(dim), stride = a->q.stride[2], d = 0;
    int64_t bytes = wn_code_bytes(a->q.dtype);
    int64_t start = wn_tensor_offset(&a->q, a->q_begin[w->request] + wn_rows_token(w, row),
                                     wn_rows_query_head(w, head, row), 0);
    const char *from = (const char *)a->q.data + start * bytes;
    if (w->q_stride < padded) { /* bfloat16 as they are */
        uint16_t *pairs = (uint16_t *)to;
        for (; d < padded; d++)
            pairs[d] = d < dim ? ((const uint16_t *)a->q.data)[start + d * stride] : 0;
        return;
    }
    for (; d + WN_VL <= dim && stride == 1; d += WN_VL)
        wn_vf_store(to + d, wn_vf_from(a->q.dtype, from + d * bytes));
    for (; d < dim; d++)
        to[d] = (float)wn_load(a->q.data, a->q.dtype, start + d * stride);
    for (; d < padded; d++)
        to[d] = 0;
    wn_fold(w->k_dtype, to, padded);
}

static inline void wn_rows_clear(wn_rows *w)
{
    int64_t rows = w->num_heads * w->num_rows;
    for (int64_t i = 0; i < rows + WN_ROWS_SHARED;
         i++) /* vectors of maxima reach beyond the last */
        w->maximum[i] = -INFINITY;
    for (int64_t i = 0; i < rows; i++)
        w->sum[i] = w->divisor[i] = 0;
    memset(w->out, 0, (size_t)(rows * w->v_padded) * sizeof *w->out);
}

/* args .. num_rows are set; loads the queries. */
static inline void wn_rows_begin(wn_rows *w)
{
    const wn_attend_args *a = w->args;
    w->q_stride = wn_padded(a->kv.k.dim);
    w->v_padded = wn_padded(a->kv.v.dim);
    w->k_direct = wn_is_direct(&a->kv.k);
    w->v_direct = wn_is_direct(&a->kv.v);
    w->k_dtype = w->k_direct ? a->kv.k.dtype : (uint32_t)WN_F32;
    w->v_dtype = w->v_direct ? a->kv.v.dtype : (uint32_t)WN_F32;
    w->cap = a->soft_cap;
    double factor = a->softmax_scale * (w->cap > 0 ? 1 / (double)w->cap : WN_LOG2_E);
    w->factor = (float)(w->k_dtype == WN_F8_E4M3 ? factor * WN_E4M3_UNIT : factor);
    w->score = wn_score_functions[w->k_dtype];
    w->add = wn_add_functions[w->v_dtype];
    w->pairs = false;
#ifdef __AVX512BF16__
    if ((w->k_dtype == WN_BF16 || w->k_dtype == WN_F8_E4M3) && a->q.dtype == WN_BF16) {
        w->score = wn_dot_functions[w->k_dtype];
        w->q_stride /= 2;
    }
    if (w->v_direct && w->v_dtype == WN_BF16 && a->out.dtype == WN_BF16 && a->kv.v.scale == NULL &&
        a->kv.v.tensor_scale == 1) {
        w->pairs = true;
        w->add = wn_dot_add_functions;
    }
#endif
    for (int64_t h = 0; h < w->num_heads; h++)
        for (int64_t r = 0; r < w->num_rows; r++)
            wn_rows_load_query(w, w->first_head + h, r, w->q + (h * w->num_rows + r) * w->q_stride);
    wn_rows_clear(w);
}

/* ---- scores */

static inline wn_row_quad wn_rows_quad(wn_rows *w, int64_t head, int64_t row, int64_t count)
{
    wn_row_quad quad = {.row = row, .index = (head - w->first_head) * w->num_rows + row};
    int64_t rows = w->num_rows - row;
    quad.rows = rows < WN_ROWS_SHARED ? (int)rows : WN_ROWS_SHARED;
    quad.lanes = wn_lanes_of(quad.rows);
    quad.vectors = (count * quad.lanes + WN_VL - 1) / WN_VL;
    quad.scores = w->scores + row / WN_ROWS_SHARED * WN_SCORES_ROOM;
    return quad;
}

/* Keys [first, first + count) of a block as float rows. */
static inline void wn_rows_convert(wn_rows *w, const wn_kv_view *view, const wn_key_block *b,
                                   int64_t head, int64_t first, int64_t count)
{
    int64_t padded = wn_padded(view->dim);
    for (int64_t j = 0; j < count; j++)
        wn_key_load(view, w->args->kv.tokens_per_page, b->page[first + j], head,
                    b->place[first + j], w->scratch + j * padded);
    for (int64_t j = 0; j < WN_SCRATCH_KEYS + WN_VL; j++)
        w->scratch_offset[j] = (j < count ? j : count - 1) * padded;
}

/* The rows of K or V at a KV head, and those to prefetch. */
static inline wn_key_rows wn_rows_of_view(const wn_kv_view *view, const int64_t *offset,
                                          int64_t head, const int64_t *ahead, int64_t ahead_head)
{
    int64_t bytes = wn_code_bytes(view->dtype);
    const char *data = view->data;
    return (wn_key_rows){.base = data + head * view->head_stride * bytes,
                         .ahead = data + ahead_head * view->head_stride * bytes,
                         .offset = offset,
                         .ahead_offset = ahead,
                         .dim = view->dim};
}
/* The quads of rows take turns at prefetching. */
static inline void wn_rows_share_ahead(const wn_rows *w, int64_t row, wn_key_rows *k)
{
    k->turns = (uint32_t)((w->num_rows + WN_ROWS_SHARED - 1) / WN_ROWS_SHARED);
    k->turn = (uint32_t)(row / WN_ROWS_SHARED);
}
static inline wn_key_rows wn_rows_of_scratch(const wn_rows *w, int64_t dim)
{
    const char *scratch = (const char *)w->scratch;
    return (wn_key_rows){.base = scratch, .offset = w->scratch_offset, .dim = dim};
}

/* q K^T of all rows at a KV head. */
static inline void wn_rows_score(wn_rows *w, const wn_key_block *b, int64_t head,
                                 const wn_key_block *ahead, int64_t ahead_head)
{
    const wn_kv_view *view = &w->args->kv.k;
    const float *q = w->q + (head - w->first_head) * w->num_rows * w->q_stride;
    int64_t step = w->k_direct ? b->count : WN_SCRATCH_KEYS;
    for (int64_t first = 0; first < b->count; first += step) {
        int64_t count = b->count - first < step ? b->count - first : step;
        wn_key_rows k = wn_rows_of_view(view, b->k, head, ahead->k, ahead_head);
        k.near = (const char *)w->args->kv.v.data +
                 head * w->args->kv.v.head_stride * wn_code_bytes(w->args->kv.v.dtype);
        k.near_offset = b->v;
        if (!w->k_direct) {
            wn_rows_convert(w, view, b, head, first, count);
            k = wn_rows_of_scratch(w, view->dim);
        }
        for (int64_t r = 0; r < w->num_rows; r += WN_ROWS_SHARED) {
            wn_row_quad quad = wn_rows_quad(w, head, r, b->count);
            if (w->k_direct)
                wn_rows_share_ahead(w, r, &k);
            w->score[quad.rows - 1](&k, count, q + r * w->q_stride, w->q_stride, w->factor,
                                    quad.scores + first * quad.lanes);
        }
    }
}

/* (1 - t) / (1 + t) with t = e^(-2|x|), and the sign of x: an absolute error of 2^-23. */
WN_INLINE wn_vf wn_vf_tanh(wn_vf x)
{
    wn_vf one = wn_vf_set(1), size = wn_vf_abs(x);
    wn_vf t = wn_vf_exp2(wn_vf_mul(size, wn_vf_set((float)(-2 * WN_LOG2_E))));
    wn_vf y = wn_vf_div(wn_vf_sub(one, t), wn_vf_add(one, t));
    return wn_vf_select(wn_vf_less(x, wn_vf_zero()), y, wn_vf_sub(wn_vf_zero(), y));
}

/* What ALiBi adds to a quad's scores, per lane: slope * (p - origin) + shift. */
typedef struct wn_row_slopes {
    float slope[WN_VL], shift[WN_VL];
} wn_row_slopes;

static inline wn_row_slopes wn_rows_slopes(const wn_rows *w, const wn_key_walk *walk, int64_t head,
                                           const wn_row_quad *quad)
{
    wn_row_slopes s;
    for (int i = 0; i < WN_VL; i++) {
        int64_t row = quad->row + i % quad->lanes;
        if (i % quad->lanes >= quad->rows)
            row = quad->row;
        int64_t position = wn_key_position_of_token(w->args, w->request, wn_rows_token(w, row));
        double slope = w->args->alibi_slopes[wn_rows_query_head(w, head, row)];
        slope *= w->cap > 0 ? 1 / (double)w->cap : WN_LOG2_E;
        s.slope[i] = (float)slope;
        s.shift[i] = (float)(slope * (double)(walk->newest - position));
    }
    return s;
}

/* Scores as ops.h defines them, times log2(e): scales, ALiBi and the soft cap. */
static inline void wn_rows_transform(wn_rows *w, const wn_key_walk *walk, const wn_key_block *b,
                                     int64_t head, const wn_row_quad *quad, bool scaled)
{
    const bool sloped = w->args->alibi_slopes != NULL;
    const float after = (float)(w->cap * WN_LOG2_E);
    const int64_t keys = WN_VL / quad->lanes;
    if (!scaled && !sloped && !(w->cap > 0))
        return;
    wn_row_slopes s = {{0}, {0}};
    if (sloped)
        s = wn_rows_slopes(w, walk, head, quad);
    for (int64_t i = 0; i < quad->vectors; i++) {
        wn_vf x = wn_vf_load(quad->scores + i * WN_VL);
        if (scaled)
            x = wn_vf_mul(x, wn_vf_per_key(quad->lanes, w->k_scale + i * keys));
        if (sloped) {
            float distance[WN_VL]; /* exact up to 2^24 */
            for (int64_t t = 0; t < WN_VL; t++)
                distance[t] = (float)(b->position[i * keys + t / quad->lanes] - walk->newest);
            wn_vf y = wn_vf_fma(wn_vf_load(distance), wn_vf_load(s.slope), wn_vf_load(s.shift));
            x = wn_vf_add(x, y);
        }
        if (w->cap > 0)
            x = wn_vf_mul(wn_vf_tanh(x), wn_vf_set(after));
        wn_vf_store(quad->scores + i * WN_VL, x);
    }
}

/* -inf where a row does not see a key; the repeated last key like the last. */
static inline void wn_rows_mask(const wn_rows *w, const wn_key_walk *walk, const wn_key_block *b,
                                const wn_row_quad *quad)
{
    int64_t keys = quad->vectors * WN_VL / quad->lanes;
    for (int r = 0; r < quad->rows; r++) {
        int64_t token = wn_rows_token(w, quad->row + r);
        for (int64_t j = 0; j < keys; j++)
            if (!wn_key_sees(walk, token, b->slot[j], walk->wants_position ? b->position[j] : 0))
                quad->scores[j * quad->lanes + r] = -INFINITY;
    }
}

/* The greatest score of each row, NaN passed over, and whether one is -inf. */
static inline void wn_rows_find_top(wn_row_quad *quad)
{
    const float *scores = quad->scores;
    const int64_t vectors = quad->vectors;
    wn_vf top[2], bottom[2];
    top[0] = top[1] = wn_vf_set(-INFINITY);
    bottom[0] = bottom[1] = wn_vf_set(INFINITY);
    for (int64_t i = 0; i < vectors; i += 2)
        for (int64_t t = 0; t < 2; t++) {
            wn_vf x = wn_vf_load(scores + (i + t < vectors ? i + t : i) * WN_VL);
            top[t] = wn_vf_max(x, top[t]);
            bottom[t] = wn_vf_min(x, bottom[t]);
        }
    wn_vf_store(quad->top, wn_vf_fold_max(quad->lanes, wn_vf_max(top[0], top[1])));
    wn_vm lacks = wn_vf_less(wn_vf_min(bottom[0], bottom[1]), wn_vf_set(-FLT_MAX));
    quad->lacks = wn_vm_bits(lacks) != 0;
}

static inline bool wn_rows_has_nan(const wn_row_quad *quad, int64_t count, int row)
{
    bool found = false;
    for (int64_t j = 0; j < count; j++)
        found |= isnan(quad->scores[j * quad->lanes + row]) != 0;
    return found;
}

/* Do the rows of keys first .. first + count - 1 hold a NaN that the products take for a number? */
static inline bool wn_rows_hide_nan(const wn_kv_view *view, const int64_t *offset, int64_t head,
                                    int64_t first, int64_t count)
{
    return wn_block_has_nan((const char *)view->data + head * view->head_stride, offset + first,
                            count, view->dim);
}

/* NaN for the scores of keys that have one. */
static inline void wn_rows_score_nan(wn_rows *w, const wn_key_block *b, int64_t head)
{
    if (!wn_rows_hide_nan(&w->args->kv.k, b->k, head, 0, b->count))
        return;
    for (int64_t j = 0; j < b->count; j++) {
        if (!wn_rows_hide_nan(&w->args->kv.k, b->k, head, j, 1))
            continue;
        for (int64_t r = 0; r < w->num_rows; r++) {
            wn_row_quad quad = wn_rows_quad(w, head, r / WN_ROWS_SHARED * WN_ROWS_SHARED, b->count);
            quad.scores[j * quad.lanes + r % WN_ROWS_SHARED] = NAN;
        }
    }
}

/* All scores of a block at a KV head, complete. */
static inline void wn_rows_score_block(wn_rows *w, const wn_key_walk *walk, wn_key_block *b,
                                       int64_t head, const wn_key_block *ahead, int64_t ahead_head,
                                       wn_row_quad quads[WN_ROWS_MOST / WN_ROWS_SHARED])
{
    wn_rows_score(w, b, head, ahead, ahead_head);
    if (w->k_dtype == WN_F8_E4M3)
        wn_rows_score_nan(w, b, head);
    bool scaled = wn_key_scales(&w->args->kv.k, b, head, w->k_scale);
    for (int64_t j = b->count; j < b->count + WN_VL && scaled; j++)
        w->k_scale[j] = w->k_scale[b->count - 1];
    for (int64_t r = 0; r < w->num_rows; r += WN_ROWS_SHARED) {
        wn_row_quad *quad = &quads[r / WN_ROWS_SHARED];
        *quad = wn_rows_quad(w, head, r, b->count);
        wn_rows_transform(w, walk, b, head, quad, scaled);
        if (b->partial)
            wn_rows_mask(w, walk, b, quad);
        wn_rows_find_top(quad);
    }
}

/* ---- weights and outputs */

/* 2^x of one number x <= 0, as of a vector. */
static inline float wn_exp2(float x)
{
    float y[WN_VL];
    wn_vf_store(y, wn_vf_exp2(wn_vf_set(x)));
    return y[0];
}

static inline void wn_scale_row(float *row, float factor, int64_t count)
{
    for (int64_t d = 0; d < count; d += WN_VL)
        wn_vf_store(row + d, wn_vf_mul(wn_vf_load(row + d), wn_vf_set(factor)));
}

/* Raises the running maxima to the block's, sums and outputs along with them. Returns what is taken
 * from each lane's scores, never -inf. */
static inline wn_vf wn_rows_raise(wn_rows *w, const wn_row_quad *quad)
{
    float *maximum = w->maximum + quad->index;
    wn_vf base = wn_vf_per_row(quad->lanes, maximum);
    if (wn_vm_bits(wn_vf_less(base, wn_vf_load(quad->top))) != 0) {
        for (int r = 0; r < quad->rows; r++) {
            int64_t i = quad->index + r;
            if (!(quad->top[r] > maximum[r]))
                continue;
            float factor = wn_exp2(maximum[r] - quad->top[r]);
            maximum[r] = quad->top[r];
            if (w->sum[i] == 0) /* the first keys */
                continue;
            w->sum[i] *= factor;
            w->divisor[i] *= factor;
            wn_scale_row(w->out + i * w->v_padded, factor, w->v_padded);
        }
        base = wn_vf_per_row(quad->lanes, maximum);
    }
    return wn_vf_select(wn_vf_less(base, wn_vf_set(-FLT_MAX)), base, wn_vf_zero());
}

/* One vector of scores becomes weights. */
WN_INLINE void wn_rows_weigh_vector(const wn_rows *w, const wn_row_quad *quad, int64_t i,
                                    wn_vf base, bool scaled, bool lacks, wn_vf *sum)
{
    wn_vf x = wn_vf_load(quad->scores + i * WN_VL);
    wn_vf y = wn_vf_exp2(wn_vf_sub(x, base));
    *sum = wn_vf_add(*sum, y);
    if (scaled)
        y = wn_vf_mul(y, wn_vf_per_key(quad->lanes, w->v_scale + i * (WN_VL / quad->lanes)));
    if (lacks)
        y = wn_vf_select(wn_vf_less(x, wn_vf_set(-FLT_MAX)), y, wn_vf_set(-INFINITY));
    wn_vf_store(quad->scores + i * WN_VL, y);
}

#ifdef __AVX512BF16__
/* Two vectors of scores become weights, rounded to bfloat16: pairs where the first vector's half
 * of the numbers stood; or, if some are -inf, floats still. */
WN_INLINE void wn_rows_weigh_pair(const wn_row_quad *quad, int64_t i, int lanes, wn_vf base,
                                  wn_vf *sum, wn_vf *divisor)
{
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    float *at = quad->scores + i * WN_VL;
    bool both = i + 1 < quad->vectors;
    wn_vf x = wn_vf_load(at), y = both ? wn_vf_load(at + WN_VL) : wn_vf_set(-INFINITY);
    wn_vf v = wn_vf_exp2(wn_vf_sub(x, base)), u = wn_vf_exp2(wn_vf_sub(y, base));
    *sum = wn_vf_add(*sum, wn_vf_add(v, u));
    __m512i pairs = wn_pairs_of(lanes, v, u);
    *divisor = _mm512_dpbf16_ps(*divisor, (__m512bh)pairs, ones);
    if (!quad->lacks) {
        _mm512_storeu_si512(quad->scores + i / 2 * WN_VL, pairs);
        return;
    }
    const wn_vf least = wn_vf_set(-FLT_MAX), none = wn_vf_set(-INFINITY);
    wn_vf_store(at, wn_vf_select(wn_vf_less(x, least), v, none));
    if (both)
        wn_vf_store(at + WN_VL, wn_vf_select(wn_vf_less(y, least), u, none));
}
#endif

/* Scores become weights, times the values' scales if `scaled`; where some score was -inf, they are
 * floats in any case, and -inf there. */
static inline void wn_rows_weigh(wn_rows *w, const wn_row_quad *quad, int64_t count, bool scaled)
{
    const int64_t vectors = quad->vectors;
    wn_vf base = wn_rows_raise(w, quad), sum = wn_vf_zero(), divisor = sum;
    float sums[WN_VL], divisors[WN_VL];
    for (int64_t t = count * quad->lanes; t < vectors * WN_VL; t++)
        quad->scores[t] = -INFINITY;
#ifdef __AVX512BF16__
    for (int64_t i = 0; i < vectors && w->pairs; i += 2)
        wn_rows_weigh_pair(quad, i, quad->lanes, base, &sum, &divisor);
#endif
    if (!w->pairs) {
        if (!scaled && !quad->lacks)
            for (int64_t i = 0; i < vectors; i++)
                wn_rows_weigh_vector(w, quad, i, base, false, false, &sum);
        else
            for (int64_t i = 0; i < vectors; i++)
                wn_rows_weigh_vector(w, quad, i, base, scaled, quad->lacks, &sum);
        divisor = sum;
    }
    wn_vf_store(sums, wn_vf_fold_sum(quad->lanes, sum));
    wn_vf_store(divisors, wn_vf_fold_sum(quad->lanes, divisor));
    for (int r = 0; r < quad->rows; r++) {
        w->sum[quad->index + r] += sums[r];
        w->divisor[quad->index + r] += divisors[r];
    }
}

/* Adds the values of those keys alone whose score for a row was not -inf. */
static inline void wn_rows_add_listed(wn_rows *w, const wn_row_quad *quad, const wn_key_rows *v,
                                      int64_t first, int64_t count)
{
    for (int r = 0; r < quad->rows; r++) {
        int64_t offset[WN_KEYS_ROOM], n = 0;
        float weight[WN_KEYS_ROOM];
        uint16_t word[WN_KEYS_ROOM + 1];
        for (int64_t j = 0; j < count; j++) {
            float y = quad->scores[(first + j) * quad->lanes + r];
            if (y == -INFINITY)
                continue;
            offset[n] = v->offset[j];
            weight[n++] = y;
        }
        if (w->pairs) {
            wn_row_store_dense(WN_BF16, word, weight, n);
            word[n] = 0;
        }
        wn_key_rows listed = *v;
        listed.offset = offset;
        listed.turns = 0; /* prefetches nothing */
        const void *weights = w->pairs ? (const void *)word : weight;
        w->add[0](&listed, n, weights, w->out + (quad->index + r) * w->v_padded, w->v_padded);
    }
}

/* NaN for the outputs that a value's NaN reaches. */
static inline void wn_rows_add_nan(wn_rows *w, const wn_key_block *b, int64_t head,
                                   const wn_row_quad *quads)
{
    const wn_kv_view *view = &w->args->kv.v;
    if (!wn_rows_hide_nan(view, b->v, head, 0, b->count))
        return;
    for (int64_t j = 0; j < b->count; j++) {
        if (!wn_rows_hide_nan(view, b->v, head, j, 1))
            continue;
        const uint8_t *code = (const uint8_t *)view->data + b->v[j] + head * view->head_stride;
        for (int64_t d = 0; d < w->v_padded; d++)
            w->scratch[d] = d < view->dim && (code[d] & 0x7f) == 0x7f ? NAN : 0;
        wn_fold(w->v_dtype, w->scratch, w->v_padded);
        for (int64_t r = 0; r < w->num_rows; r++) {
            const wn_row_quad *quad = &quads[r / WN_ROWS_SHARED];
            int64_t lane = r % WN_ROWS_SHARED;
            float *out = w->out + (quad->index + lane) * w->v_padded;
            if (quad->lacks && quad->scores[j * quad->lanes + lane] == -INFINITY)
                continue;
            for (int64_t d = 0; d < w->v_padded; d += WN_VL)
                wn_vf_store(out + d, wn_vf_add(wn_vf_load(out + d), wn_vf_load(w->scratch + d)));
        }
    }
}

/* The scales of a block's values; those of e4m3 codes hold the unit of wn_load_chunk. */
static inline bool wn_rows_value_scales(wn_rows *w, const wn_key_block *b, int64_t head)
{
    bool scaled = wn_key_scales(&w->args->kv.v, b, head, w->v_scale);
    const bool unit = w->v_dtype == WN_F8_E4M3 && WN_E4M3_UNIT != 1;
    if (unit)
        for (int64_t j = 0; j < b->count; j++)
            w->v_scale[j] = (scaled ? w->v_scale[j] : 1) * WN_E4M3_UNIT;
    return scaled || unit;
}

/* Softmax and V of a block whose scores are complete. */
static inline void wn_rows_add_block(wn_rows *w, wn_key_block *b, int64_t head,
                                     const wn_key_block *ahead, int64_t ahead_head,
                                     wn_row_quad quads[WN_ROWS_MOST / WN_ROWS_SHARED])
{
    const wn_kv_view *view = &w->args->kv.v;
    bool scaled = wn_rows_value_scales(w, b, head);
    for (int64_t r = 0; r < w->num_rows; r += WN_ROWS_SHARED)
        wn_rows_weigh(w, &quads[r / WN_ROWS_SHARED], b->count, scaled);
    int64_t step = w->v_direct ? b->count : WN_SCRATCH_KEYS;
    for (int64_t first = 0; first < b->count; first += step) {
        int64_t count = b->count - first < step ? b->count - first : step;
        wn_key_rows v = wn_rows_of_view(view, b->v, head, ahead->v, ahead_head);
        if (!w->v_direct) {
            wn_rows_convert(w, view, b, head, first, count);
            v = wn_rows_of_scratch(w, view->dim);
        }
        for (int64_t r = 0; r < w->num_rows; r += WN_ROWS_SHARED) {
            const wn_row_quad *quad = &quads[r / WN_ROWS_SHARED];
            if (w->v_direct)
                wn_rows_share_ahead(w, r, &v);
            if (quad->lacks)
                wn_rows_add_listed(w, quad, &v, first, count);
            else
                w->add[quad->rows - 1](&v, count, quad->scores + first * quad->lanes,
                                       w->out + quad->index * w->v_padded, w->v_padded);
        }
    }
    if (w->v_dtype == WN_F8_E4M3)
        wn_rows_add_nan(w, b, head, quads);
}

#endif
