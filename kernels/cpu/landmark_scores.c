/* landmark_scores.c: how much a group of query heads may find behind each landmark. The channels
 * that count are the same for all landmarks of a group, and so is for each whether its maximum or
 * its minimum is compared: a landmark's two rows become one by masks of bytes, whatever the dtype,
 * with zeros in the channels that do not count. Codes of e5m2 are converted in registers, where the
 * queries multiply them at once; others become tiles of floats first. The scores of a strip stay on
 * the stack for the softmax; requests of more than a strip are computed twice, because a landmark's
 * score needs each head's sum over all of them. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/landmark_codes.h"
#include "kernels/cpu/landmark_lanes.h"
#include "kernels/landmark_element.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

#include <stdbool.h>

enum {
    HEADS = 16,           /* of a group that are scored together */
    AHEAD = 64,           /* landmarks from the one that is loaded to the one that is fetched */
    TILE = 16,            /* landmarks that are converted together */
    LOGITS = 64 * 1024,   /* a strip's landmarks times heads */
    TINY_WORK = 32 * 1024 /* channels of landmarks for which no thread is woken */
};
static const double log2_e = 1.4426950408889634;

/* One request and KV head. */
typedef struct group {
    const wn_landmark_scores_args *args;
    int64_t request, kv_head, heads, count, dim;
    int64_t channels; /* how many count */
    int64_t padded;   /* dim, to whole chunks */
    bool from_codes;  /* multiplied as they are converted */
    bool all;         /* every channel counts */
    int32_t channel[WN_MAX_HEAD_DIM];
    /* Bytes of the stored rows that are kept: all bits or none. */
    uint8_t keep_minimum[4 * (WN_MAX_HEAD_DIM + WN_E5M2_CHUNK)];
    uint8_t keep_maximum[4 * (WN_MAX_HEAD_DIM + WN_E5M2_CHUNK)];
} group;

/* Query heads [first, first + heads) of a group. */
typedef struct head_block {
    int64_t first, heads;
    /* [heads, padded], 0 where a channel does not count; for codes in the order of their chunks */
    float query[HEADS * WN_MAX_HEAD_DIM];
    double scale[HEADS];
    float maximum[HEADS]; /* of the base-2 logits so far */
    double total[HEADS];  /* sum of 2^(logit - maximum) over the members of the softmax */
} head_block;

/* ---------------------------------------------------------------- which channels */

static void load_query(const group *g, int64_t head, float *row)
{
    const wn_tensor *q = &g->args->q;
    int64_t start =
        g->args->q_row[g->request] * q->stride[0] + (g->kv_head * g->heads + head) * q->stride[1];
    const char *at = (const char *)q->data + start * wn_number_bytes(q->dtype);
    int64_t d = 0;
    if (q->stride[2] == 1) {
        for (; d + WN_VL <= g->dim; d += WN_VL)
            wn_vf_store(row + d, wn_vf_from(q->dtype, at + d * wn_number_bytes(q->dtype)));
    }
    for (; d < g->dim; d++)
        row[d] = (float)wn_load(q->data, q->dtype, start + d * q->stride[2]);
}

/* The greatest key that at least `wanted` of key[n] reach; *equal: how many of those that have it
 * are among the first `wanted`. */
static int64_t find_key(const int64_t *key, int64_t n, int64_t wanted, int64_t *equal)
{
    int64_t low = -1, high = (INT64_C(0x7ff) << 52) + 1, at_high = 0; /* above infinity */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2, count = 0;
        for (int64_t c = 0; c < n; c++)
            count += key[c] >= middle;
        if (count >= wanted)
            low = middle;
        else
            high = middle, at_high = count;
        if (count == wanted)
            break;
    }
    *equal = wanted - at_high;
    return low;
}

/* size: of each channel, sum over heads of |q|. In the order of greater, then lower channel; NaN
 * comes last. Doubles >= 0 are ordered as integers. */
static void choose_channels(group *g, const double *size)
{
    int64_t key[WN_MAX_HEAD_DIM], equal = 0, least = -1, topr = g->args->topr;
    for (int64_t c = 0; c < g->dim; c++) {
        memcpy(&key[c], &size[c], sizeof key[c]);
        key[c] = isnan(size[c]) ? -1 : key[c];
    }
    g->all = topr >= g->dim;
    if (!g->all)
        least = topr > 0 ? find_key(key, g->dim, topr, &equal) : INT64_MAX;
    for (int64_t c = 0; c < g->dim; c++)
        if (g->all || (key[c] >= least && g->channels < topr && (key[c] > least || equal-- > 0)))
            g->channel[g->channels++] = (int32_t)c;
}

static void prepare_group(group *g)
{
    double size[WN_MAX_HEAD_DIM], sum[WN_MAX_HEAD_DIM];
    int64_t bytes = wn_number_bytes(g->args->landmarks.dtype);
    float row[WN_MAX_HEAD_DIM];
    memset(size, 0, (size_t)g->dim * sizeof *size);
    memset(sum, 0, (size_t)g->dim * sizeof *sum);
    for (int64_t h = 0; h < g->heads; h++) {
        load_query(g, h, row);
        for (int64_t c = 0; c < g->dim; c++) {
            size[c] += fabs((double)row[c]);
            sum[c] += row[c];
        }
    }
    choose_channels(g, size);
    g->from_codes = g->args->landmarks.dtype == WN_F8_E5M2 && wn_e5m2_takes(g->dim);
    g->padded = (g->dim + WN_E5M2_CHUNK - 1) / WN_E5M2_CHUNK * WN_E5M2_CHUNK;
    memset(g->keep_minimum, 0, (size_t)(bytes * g->padded));
    memset(g->keep_maximum, 0, (size_t)(bytes * g->padded));
    for (int64_t i = 0; i < g->channels; i++) {
        int64_t c = g->channel[i];
        memset((sum[c] > 0 ? g->keep_maximum : g->keep_minimum) + c * bytes, 0xff, (size_t)bytes);
    }
}

/* What a head's dot products are multiplied by. A head whose counted channels are all 0 scores 0
 * everywhere, whatever its scale. */
static double head_scale(const group *g, const float *row)
{
    double counted = 0, all = 0;
    if (g->args->temperature == WN_TEMPERATURE_PLAIN)
        return g->args->softmax_scale;
    for (int64_t i = 0; i < g->channels; i++)
        counted += fabs((double)row[g->channel[i]]);
    for (int64_t c = 0; c < g->dim; c++)
        all += fabs((double)row[c]);
    return counted == 0 ? 1 : 1 / sqrt((double)g->dim * counted / all);
}

static void prepare_heads(const group *g, head_block *b)
{
    float row[WN_MAX_HEAD_DIM];
    for (int64_t h = 0; h < b->heads; h++) {
        float *query = b->query + h * g->padded;
        load_query(g, b->first + h, row);
        memset(query, 0, (size_t)g->padded * sizeof *query);
        for (int64_t i = 0; i < g->channels; i++) {
            int32_t c = g->channel[i];
            query[g->from_codes ? wn_e5m2_place(c) : c] = row[c];
        }
        b->scale[h] = head_scale(g, row);
        b->maximum[h] = -INFINITY;
        b->total[h] = 0;
    }
}

/* ---------------------------------------------------------------- landmarks */

/* Walks over landmarks in order: the division that finds a page is made once a page. */
typedef struct walk {
    const group *group;
    int64_t page_start; /* elements to the landmark that would be the page's number `first` */
    int64_t first, end; /* landmarks of the page */
} walk;

WN_INLINE int64_t walk_to(walk *w, int64_t landmark)
{
    const wn_landmark_scores_args *a = w->group->args;
    const wn_landmark_view *view = &a->landmarks;
    if (landmark >= w->end) {
        int64_t tokens = a->tokens_per_page, size = view->landmark_size;
        int64_t page = landmark * size / tokens;
        w->first = landmark;
        w->end = ((page + 1) * tokens + size - 1) / size;
        w->page_start =
            wn_landmark_offset(view, a->page_table + w->group->request * a->page_table_stride,
                               a->tokens_per_page, w->group->kv_head, landmark);
    }
    return w->page_start + (landmark - w->first) * view->landmark_stride;
}

/* Asks for a landmark that will be needed soon: pages are anywhere, the processor does not foresee
 * them. */
WN_INLINE void prefetch_landmark(const group *g, const uint8_t *minimum, int64_t bytes)
{
    const uint8_t *maximum = minimum + g->args->landmarks.max_offset * bytes;
    for (int64_t i = 0; i < g->dim * bytes; i += 64) {
        _mm_prefetch((const char *)minimum + i, _MM_HINT_T1);
        _mm_prefetch((const char *)maximum + i, _MM_HINT_T1);
    }
}

/* The last channels of a row that does not end with a whole vector. */
WN_INLINE wn_vf merge_tail(const group *g, uint32_t dtype, const uint8_t *minimum,
                           const uint8_t *maximum, int64_t at, int64_t bytes)
{
    uint8_t least[4 * WN_VL] = {0}, most[4 * WN_VL] = {0};
    memcpy(least, minimum + at, (size_t)(g->dim * bytes - at));
    memcpy(most, maximum + at, (size_t)(g->dim * bytes - at));
    return wn_vf_merge_landmark(dtype, least, g->keep_minimum + at, most, g->keep_maximum + at);
}

/* Landmarks [first, first + count) as floats, tile[count][padded]; beyond the channels the tile
 * holds 0 and keeps it. */
WN_INLINE void load_tile_of(const group *g, walk *w, walk *ahead, int64_t first, int64_t count,
                            uint32_t dtype, float *tile)
{
    const uint8_t *data = g->args->landmarks.data;
    int64_t bytes = wn_number_bytes(dtype), padded = g->padded, whole = g->dim / WN_VL * WN_VL;
    int64_t max_offset = g->args->landmarks.max_offset * bytes;
    for (int64_t l = 0; l < count; l++, tile += padded) {
        const uint8_t *minimum = data + walk_to(w, first + l) * bytes;
        const uint8_t *maximum = minimum + max_offset;
        if (first + l + AHEAD < g->count)
            prefetch_landmark(g, data + walk_to(ahead, first + l + AHEAD) * bytes, bytes);
        for (int64_t d = 0; d < whole; d += WN_VL)
            wn_vf_store(tile + d, wn_vf_merge_landmark(
                                      dtype, minimum + d * bytes, g->keep_minimum + d * bytes,
                                      maximum + d * bytes, g->keep_maximum + d * bytes));
        if (whole < g->dim)
            wn_vf_store(tile + whole, merge_tail(g, dtype, minimum, maximum, whole * bytes, bytes));
    }
}

static void load_tile(const group *g, walk *w, walk *ahead, int64_t first, int64_t count,
                      float *tile)
{
    switch (g->args->landmarks.dtype) {
    case WN_F8_E5M2:
        load_tile_of(g, w, ahead, first, count, WN_F8_E5M2, tile);
        break;
    case WN_F8_E4M3:
        load_tile_of(g, w, ahead, first, count, WN_F8_E4M3, tile);
        break;
    case WN_BF16:
        load_tile_of(g, w, ahead, first, count, WN_BF16, tile);
        break;
    case WN_F16:
        load_tile_of(g, w, ahead, first, count, WN_F16, tile);
        break;
    default:
        load_tile_of(g, w, ahead, first, count, WN_F32, tile);
    }
}

/* ---------------------------------------------------------------- dot products */

/* The sums of the lanes of four vectors. */
WN_INLINE __m128 sum_four(wn_vf a, wn_vf b, wn_vf c, wn_vf d)
{
#ifdef __AVX512F__
    /* Halves of two vectors added at once: a and b in one register, c and d in the other. */
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 x =
        _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    /* A quarter of each: a, b, c, d. */
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), x));
#else
    __m256 x = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
#endif
}

/* Base-2 logits of `heads` query heads and four landmarks. */
WN_INLINE void dot_block(const float *query, const double *scale, int heads, const float *tile,
                         int64_t padded, float *logit, int64_t logit_stride)
{
    wn_vf sum[4][4];
    for (int h = 0; h < heads; h++)
        for (int l = 0; l < 4; l++)
            sum[h][l] = wn_vf_zero();
    for (int64_t c = 0; c < padded; c += WN_VL) {
        wn_vf x[4];
        for (int l = 0; l < 4; l++)
            x[l] = wn_vf_load(tile + l * padded + c);
        for (int h = 0; h < heads; h++) {
            wn_vf q = wn_vf_load(query + h * padded + c);
            for (int l = 0; l < 4; l++)
                sum[h][l] = wn_vf_fma(q, x[l], sum[h][l]);
        }
    }
    for (int h = 0; h < heads; h++)
        _mm_storeu_ps(logit + h * logit_stride,
                      _mm_mul_ps(sum_four(sum[h][0], sum[h][1], sum[h][2], sum[h][3]),
                                 _mm_set1_ps((float)(scale[h] * log2_e))));
}

/* Base-2 logits of `heads` query heads and WN_E5M2_ROWS landmarks, from their codes. */
WN_INLINE void dot_codes(const group *g, const float *query, const double *scale, int heads,
                         bool all, const uint8_t *const *minimum, float *logit,
                         int64_t logit_stride)
{
    wn_vf sum[4][4];
    int64_t max_offset = g->args->landmarks.max_offset;
    for (int h = 0; h < 4; h++)
        for (int l = 0; l < WN_E5M2_ROWS; l++)
            sum[h][l] = wn_vf_zero();
    for (int64_t c = 0; c < g->dim; c += WN_E5M2_CHUNK) {
        wn_e5m2_choice choice = wn_e5m2_choose(all, g->keep_minimum + c, g->keep_maximum + c);
        wn_vf x[WN_E5M2_ROWS][2];
        for (int l = 0; l < WN_E5M2_ROWS; l++)
            wn_e5m2_merge(all, &choice, minimum[l] + c, minimum[l] + max_offset + c, x[l]);
        for (int half = 0; half < 2; half++)
            for (int h = 0; h < heads; h++) {
                wn_vf q = wn_vf_load(query + h * g->padded + c + half * WN_VL);
                __asm__("" : "+v"(q)); /* loaded once, not for every product */
                for (int l = 0; l < WN_E5M2_ROWS; l++)
                    sum[h][l] = wn_vf_fma(q, x[l][half], sum[h][l]);
            }
    }
    for (int h = 0; h < heads; h += 4 / WN_E5M2_ROWS) {
        __m128 factor = _mm_set1_ps((float)(scale[h] * log2_e));
#if WN_E5M2_ROWS == 4
        _mm_storeu_ps(logit + h * logit_stride,
                      _mm_mul_ps(sum_four(sum[h][0], sum[h][1], sum[h][2], sum[h][3]), factor));
#else /* of two heads at once */
        __m128 x = sum_four(sum[h][0], sum[h][1], sum[h + 1][0], sum[h + 1][1]);
        if (h + 1 < heads)
            factor = _mm_movelh_ps(factor, _mm_set1_ps((float)(scale[h + 1] * log2_e)));
        x = _mm_mul_ps(x, factor);
        _mm_storel_pi((__m64 *)(void *)(logit + h * logit_stride), x);
        if (h + 1 < heads)
            _mm_storeh_pi((__m64 *)(void *)(logit + (h + 1) * logit_stride), x);
#endif
    }
}

WN_INLINE void dot_codes_of(const group *g, const head_block *b, int64_t h, bool all,
                            const uint8_t *const *minimum, float *logit, int64_t stride)
{
    const float *query = b->query + h * g->padded;
    switch (b->heads - h) {
    case 1:
        dot_codes(g, query, b->scale + h, 1, all, minimum, logit, stride);
        break;
    case 2:
        dot_codes(g, query, b->scale + h, 2, all, minimum, logit, stride);
        break;
    case 3:
        dot_codes(g, query, b->scale + h, 3, all, minimum, logit, stride);
        break;
    default:
        dot_codes(g, query, b->scale + h, 4, all, minimum, logit, stride);
    }
}

/* As strip_logits, from codes. Beyond the last landmark it is taken again. */
WN_INLINE void strip_of_codes(const group *g, const head_block *b, int64_t first, int64_t count,
                              bool all, float *logit, int64_t stride)
{
    const uint8_t *data = g->args->landmarks.data;
    walk w = {.group = g}, ahead = w;
    for (int64_t l = first; l < first + AHEAD && l < g->count; l++)
        prefetch_landmark(g, data + walk_to(&ahead, l), 1);
    for (int64_t l = 0; l < count; l += WN_E5M2_ROWS) {
        const uint8_t *minimum[WN_E5M2_ROWS];
        for (int64_t i = 0; i < WN_E5M2_ROWS; i++) {
            int64_t landmark = first + (l + i < count ? l + i : count - 1);
            minimum[i] = data + walk_to(&w, landmark);
            if (landmark + AHEAD < g->count)
                prefetch_landmark(g, data + walk_to(&ahead, landmark + AHEAD), 1);
        }
        for (int64_t h = 0; h < b->heads; h += 4)
            dot_codes_of(g, b, h, all, minimum, logit + h * stride + l, stride);
    }
}

/* logit[heads][stride] of landmarks [first, first + count). */
static void strip_logits(const group *g, const head_block *b, int64_t first, int64_t count,
                         float *logit, int64_t stride)
{
    enum { WIDE = WN_VL == 16 ? 4 : 2 }; /* heads whose sums the registers hold */
    float tile[TILE * WN_MAX_HEAD_DIM + WN_VL] __attribute__((aligned(64)));
    walk w = {.group = g}, ahead = w;
    if (g->from_codes && g->all) {
        strip_of_codes(g, b, first, count, true, logit, stride);
        return;
    }
    if (g->from_codes) {
        strip_of_codes(g, b, first, count, false, logit, stride);
        return;
    }
    memset(tile, 0, (size_t)(TILE * g->padded) * sizeof *tile);
    for (int64_t l = 0; l < count; l += TILE) {
        int64_t n = count - l < TILE ? count - l : TILE;
        load_tile(g, &w, &ahead, first + l, n, tile);
        for (int64_t i = 0; i < n; i += 4) {
            const float *four = tile + i * g->padded;
            int64_t h = 0;
            for (; h + WIDE <= b->heads; h += WIDE)
                dot_block(b->query + h * g->padded, b->scale + h, WIDE, four, g->padded,
                          logit + h * stride + l + i, stride);
            for (; h < b->heads; h++)
                dot_block(b->query + h * g->padded, b->scale + h, 1, four, g->padded,
                          logit + h * stride + l + i, stride);
        }
    }
}

/* ---------------------------------------------------------------- softmax */

static float greatest(const float *x, int64_t n)
{
    wn_vf most = wn_vf_set(-INFINITY);
    float lane[WN_VL];
    int64_t i = 0;
    for (; i + WN_VL <= n; i += WN_VL)
        most = wn_vf_max(wn_vf_load(x + i), most);
    wn_vf_store(lane, most);
    for (; i < n; i++)
        lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (i = 1; i < WN_VL; i++)
        lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
}

/* x = 2^(x - base), and their sum. Floats are added a short way only. */
static double exponentials(float *x, int64_t n, float base)
{
    enum { RUN = 32 * WN_VL };
    wn_vf b = wn_vf_set(base);
    double total = 0;
    for (int64_t first = 0; first < n; first += RUN) {
        int64_t end = first + RUN < n ? first + RUN : n, i = first;
        wn_vf sum = wn_vf_zero();
        for (; i + WN_VL <= end; i += WN_VL) {
            wn_vf e = wn_vf_exp2(wn_vf_sub(wn_vf_load(x + i), b));
            wn_vf_store(x + i, e);
            sum = wn_vf_add(sum, e);
        }
        if (i < end) {
            wn_vf e = wn_vf_exp2(wn_vf_sub(wn_vf_load_first(x + i, end - i), b));
            wn_vf_store_first(x + i, e, end - i);
            sum = wn_vf_add(sum, wn_vf_select(wn_vm_first(end - i), wn_vf_zero(), e));
        }
        total += wn_vf_sum(sum);
    }
    return total;
}

/* How many members of the softmax a landmark stands for: its tokens, or itself. */
static double members(const group *g, int64_t landmark)
{
    int64_t size = g->args->landmarks.landmark_size;
    if (g->args->length == NULL)
        return 1;
    int64_t left = g->args->length[g->request] - landmark * size;
    return (double)(left < size ? left : size);
}

/* Turns the logits of a strip into 2^(logit - maximum) and counts them in the totals. Only the last
 * landmark can stand for fewer tokens than the others. */
static void count_strip(const group *g, head_block *b, int64_t first, int64_t count, float *logit,
                        int64_t stride)
{
    int64_t others = first + count == g->count ? count - 1 : count;
    for (int64_t h = 0; h < b->heads; h++, logit += stride) {
        float maximum = greatest(logit, count);
        if (maximum > b->maximum[h]) {
            b->total[h] *= exp2((double)b->maximum[h] - (double)maximum);
            b->maximum[h] = maximum;
        }
        float base = b->maximum[h] == -INFINITY ? 0 : b->maximum[h]; /* nothing has weight */
        b->total[h] += members(g, 0) * exponentials(logit, others, base);
        if (others < count)
            b->total[h] += members(g, g->count - 1) * exponentials(logit + others, 1, base);
    }
}

/* Adds the heads' shares to the scores of a strip; the first block of heads begins them. */
static void write_strip(const group *g, const head_block *b, int64_t first, int64_t count,
                        const float *power, int64_t stride)
{
    const wn_tensor *t = &g->args->scores;
    float *out = (float *)t->data + g->request * t->stride[0] + g->kv_head * t->stride[1] +
                 first * t->stride[2];
    float share[HEADS];
    for (int64_t h = 0; h < b->heads; h++)
        share[h] = b->total[h] == 0 ? 0 : (float)(1 / (b->total[h] * (double)g->heads));
    for (int64_t l = 0; l < count; l += WN_VL) {
        int64_t n = count - l < WN_VL ? count - l : WN_VL;
        wn_vf sum = wn_vf_zero();
        float lane[WN_VL];
        for (int64_t h = 0; h < b->heads; h++)
            sum = wn_vf_fma(wn_vf_set(share[h]), wn_vf_load(power + h * stride + l), sum);
        if (n == WN_VL && b->first == 0 && t->stride[2] == 1) {
            wn_vf_store(out + l, sum);
            continue;
        }
        wn_vf_store(lane, sum);
        for (int64_t i = 0; i < n; i++)
            out[(l + i) * t->stride[2]] =
                lane[i] + (b->first == 0 ? 0 : out[(l + i) * t->stride[2]]);
    }
}

static void score_heads(const group *g, head_block *b)
{
    float logit[LOGITS + WN_VL];
    int64_t room = LOGITS / b->heads / WN_VL * WN_VL,
            whole = (g->count + WN_VL - 1) / WN_VL * WN_VL;
    int64_t stride = whole < room ? whole : room;
    prepare_heads(g, b);
    for (int64_t l = 0; l < g->count; l += stride) {
        int64_t n = g->count - l < stride ? g->count - l : stride;
        strip_logits(g, b, l, n, logit, stride);
        count_strip(g, b, l, n, logit, stride);
    }
    for (int64_t l = 0; l < g->count; l += stride) {
        int64_t n = g->count - l < stride ? g->count - l : stride;
        if (n < g->count) { /* other strips have been there since */
            strip_logits(g, b, l, n, logit, stride);
            for (int64_t h = 0; h < b->heads; h++)
                exponentials(logit + h * stride, n, b->maximum[h] == -INFINITY ? 0 : b->maximum[h]);
        }
        write_strip(g, b, l, n, logit, stride);
    }
}

static void scores_body(void *argument, int64_t i)
{
    const wn_landmark_scores_args *a = argument;
    group g;
    head_block b;
    g.args = a;
    g.request = i / a->num_kv_heads;
    g.kv_head = i % a->num_kv_heads;
    g.heads = a->q.shape[1] / a->num_kv_heads;
    g.dim = a->q.shape[2];
    g.channels = 0;
    if (a->q_row[g.request] < 0 || a->count[g.request] == 0)
        return;
    g.count = a->count[g.request];
    prepare_group(&g);
    for (b.first = 0; b.first < g.heads; b.first += HEADS) {
        b.heads = g.heads - b.first < HEADS ? g.heads - b.first : HEADS;
        score_heads(&g, &b);
    }
}

wn_status WN_CPU(landmark_scores)(const wn_landmark_scores_args *args)
{
    wn_status status = wn_refuse_landmark_scores(args);
    if (status != WN_OK || args->batch == 0)
        return status;
    int64_t landmarks = 0, groups = (int64_t)args->batch * args->num_kv_heads;
    for (uint32_t b = 0; b < args->batch; b++)
        landmarks += args->q_row[b] < 0 ? 0 : args->count[b];
    bool tiny = landmarks * args->num_kv_heads * args->q.shape[2] <= TINY_WORK;
    wn_for_each(tiny ? NULL : args->executor, groups, scores_body, (void *)args);
    return WN_OK;
}
