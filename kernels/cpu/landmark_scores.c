/* landmark_scores.c: how much a group of query heads may find behind each landmark. The channels
 * that count are the same for all landmarks of a group, and so is for each whether its maximum or
 * its minimum is compared: a landmark's two rows become one by masks of bytes, whatever the dtype,
 * with zeros in the channels that do not count. Codes of e5m2 are converted in registers, where the
 * queries multiply them at once; others become tiles of floats first. The scores of a strip stay on
 * the stack for the softmax; requests of more than a strip are computed twice, because a landmark's
 * score needs each head's sum over all of them. */
#include "kernels/cpu/attend_block.h"
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
    BLOCK = 32,           /* landmarks that are found together, and fetched a block ahead */
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
    /* [heads, padded], 0 where a channel does not count; for codes as wn_e5m2_order has them */
    float query[HEADS * WN_MAX_HEAD_DIM];
    float factor[HEADS];  /* of the dot products, for base-2 logits */
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
    for (int64_t c = 0; c < g->dim && !g->all; c++) {
        memcpy(&key[c], &size[c], sizeof key[c]);
        key[c] = isnan(size[c]) ? -1 : key[c];
    }
    if (!g->all)
        least = topr > 0 ? find_key(key, g->dim, topr, &equal) : INT64_MAX;
    for (int64_t c = 0; c < g->dim; c++)
        if (g->all || (key[c] >= least && g->channels < topr && (key[c] > least || equal-- > 0)))
            g->channel[g->channels++] = (int32_t)c;
}

/* sum: of each channel, over heads. */
static void choose_rows(group *g, const double *sum)
{
    int64_t bytes = wn_number_bytes(g->args->landmarks.dtype);
    memset(g->keep_minimum, 0, (size_t)(bytes * g->padded));
    memset(g->keep_maximum, 0, (size_t)(bytes * g->padded));
    if (bytes == 1 && g->all) {
        for (int64_t c = 0; c < g->dim; c++) {
            g->keep_maximum[c] = sum[c] > 0 ? 0xff : 0;
            g->keep_minimum[c] = sum[c] > 0 ? 0 : 0xff;
        }
        return;
    }
    for (int64_t i = 0; i < g->channels; i++) {
        int64_t c = g->channel[i];
        memset((sum[c] > 0 ? g->keep_maximum : g->keep_minimum) + c * bytes, 0xff, (size_t)bytes);
    }
}

static void prepare_group(group *g)
{
    double size[WN_MAX_HEAD_DIM], sum[WN_MAX_HEAD_DIM];
    float row[WN_MAX_HEAD_DIM];
    memset(size, 0, (size_t)g->dim * sizeof *size);
    memset(sum, 0, (size_t)g->dim * sizeof *sum);
    for (int64_t h = 0; h < g->heads; h++) {
        load_query(g, h, row);
        for (int64_t c = 0; c < g->dim && !g->all; c++)
            size[c] += fabs((double)row[c]);
        for (int64_t c = 0; c < g->dim; c++)
            sum[c] += row[c];
    }
    choose_channels(g, size);
    choose_rows(g, sum);
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
    memset(b->factor, 0, sizeof b->factor);
    for (int64_t h = 0; h < b->heads; h++) {
        float *query = b->query + h * g->padded;
        load_query(g, b->first + h, row);
        memset(query, 0, (size_t)g->padded * sizeof *query);
        if (g->all)
            memcpy(query, row, (size_t)g->dim * sizeof *query);
        for (int64_t i = 0; i < g->channels && !g->all; i++)
            query[g->channel[i]] = row[g->channel[i]];
        if (g->from_codes)
            wn_e5m2_order(query, g->padded);
        b->factor[h] = (float)(head_scale(g, row) * log2_e);
        b->maximum[h] = -INFINITY;
        b->total[h] = 0;
    }
}

/* ---------------------------------------------------------------- landmarks */

/* Where the minima of landmarks [first, first + count) begin, count >= 1; the last one's again
 * beyond them. */
static void find_rows(const group *g, int64_t first, int64_t count, const uint8_t **row)
{
    const wn_landmark_scores_args *a = g->args;
    const wn_landmark_view *view = &a->landmarks;
    const int32_t *table = a->page_table + g->request * a->page_table_stride;
    int64_t bytes = wn_number_bytes(view->dtype), stride = view->landmark_stride * bytes;
    int64_t size = view->landmark_size, tokens = a->tokens_per_page;
    int64_t page = first * size / tokens, landmark = first;
    int64_t each = tokens % size == 0 ? tokens / size : 0, end = (page + 1) * each;
    for (int64_t i = 0; i < count;) {
        int64_t offset = wn_landmark_offset(view, table, a->tokens_per_page, g->kv_head, landmark);
        const uint8_t *at = (const uint8_t *)view->data + offset * bytes;
        if (each == 0)
            end = ((landmark * size / tokens + 1) * tokens + size - 1) / size;
        for (; i < count && landmark < end; i++, landmark++, at += stride)
            row[i] = at;
        end += each;
    }
    for (int64_t i = 0; i < WN_E5M2_ROWS; i++)
        row[count + i] = row[count - 1];
}

/* Asks for a landmark that will be needed soon: pages are anywhere, the processor does not foresee
 * them. */
WN_INLINE void fetch_landmark(int64_t row_bytes, int64_t max_offset, const uint8_t *minimum)
{
    wn_fetch_row(minimum, row_bytes, false);
    wn_fetch_row(minimum + max_offset, row_bytes, false);
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

/* Landmarks as floats, tile[count][padded]; beyond the channels the tile holds 0 and keeps it. */
WN_INLINE void load_tile_of(const group *g, const uint8_t *const *row, int64_t count,
                            uint32_t dtype, float *tile)
{
    int64_t bytes = wn_number_bytes(dtype), padded = g->padded, whole = g->dim / WN_VL * WN_VL;
    int64_t max_offset = g->args->landmarks.max_offset * bytes;
    for (int64_t l = 0; l < count; l++, tile += padded) {
        const uint8_t *minimum = row[l], *maximum = minimum + max_offset;
        for (int64_t d = 0; d < whole; d += WN_VL)
            wn_vf_store(tile + d, wn_vf_merge_landmark(
                                      dtype, minimum + d * bytes, g->keep_minimum + d * bytes,
                                      maximum + d * bytes, g->keep_maximum + d * bytes));
        if (whole < g->dim)
            wn_vf_store(tile + whole, merge_tail(g, dtype, minimum, maximum, whole * bytes, bytes));
    }
}

static void load_tile(const group *g, const uint8_t *const *row, int64_t count, float *tile)
{
    switch (g->args->landmarks.dtype) {
    case WN_F8_E5M2:
        load_tile_of(g, row, count, WN_F8_E5M2, tile);
        break;
    case WN_F8_E4M3:
        load_tile_of(g, row, count, WN_F8_E4M3, tile);
        break;
    case WN_BF16:
        load_tile_of(g, row, count, WN_BF16, tile);
        break;
    case WN_F16:
        load_tile_of(g, row, count, WN_F16, tile);
        break;
    default:
        load_tile_of(g, row, count, WN_F32, tile);
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
WN_INLINE void dot_block(const float *query, const float *factor, int heads, const float *tile,
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
                                 _mm_set1_ps(factor[h])));
}

/* Base-2 logits of `heads` query heads, four at most, and WN_E5M2_ROWS landmarks, from their codes.
 * usual: of WN_DIM_USUAL channels. */
WN_INLINE void dot_codes(const group *g, bool usual, bool all, const float *query,
                         const float *factor, int heads, const uint8_t *const *row, float *logit,
                         int64_t logit_stride)
{
    const int64_t dim = usual ? WN_DIM_USUAL : g->dim, padded = usual ? WN_DIM_USUAL : g->padded;
    const int64_t max_offset = g->args->landmarks.max_offset;
    wn_vf sum[WN_VL];
    float lane[WN_VL];
    for (int i = 0; i < WN_VL; i++)
        sum[i] = wn_vf_zero();
    for (int64_t c = 0; c < dim; c += WN_E5M2_CHUNK) {
        wn_e5m2_choice choice = wn_e5m2_choose(all, g->keep_minimum + c, g->keep_maximum + c);
        wn_e5m2_codes code[WN_E5M2_ROWS];
        for (int l = 0; l < WN_E5M2_ROWS; l++)
            code[l] = wn_e5m2_merge(usual, all, &choice, row[l] + c, row[l] + max_offset + c);
        for (int half = 0; half < 2; half++) {
            wn_vf x[WN_E5M2_ROWS];
            for (int l = 0; l < WN_E5M2_ROWS; l++)
                x[l] = wn_e5m2_half(code[l], half);
            for (int h = 0; h < heads; h++) {
                wn_vf q = wn_vf_load(query + h * padded + c + half * WN_VL);
                WN_IN_REGISTER(q); /* loaded once, not for every product */
                for (int l = 0; l < WN_E5M2_ROWS; l++)
                    sum[h * WN_E5M2_ROWS + l] = wn_vf_fma(q, x[l], sum[h * WN_E5M2_ROWS + l]);
            }
        }
    }
    wn_vf_store(lane, wn_vf_mul(wn_vf_sums(sum), wn_vf_per_key(WN_E5M2_ROWS, factor)));
    for (int h = 0; h < heads; h++)
        memcpy(logit + h * logit_stride, lane + h * WN_E5M2_ROWS, WN_E5M2_ROWS * sizeof *lane);
}

WN_INLINE void dot_codes_of(const group *g, const head_block *b, int64_t h, bool usual, bool all,
                            const uint8_t *const *row, float *logit, int64_t stride)
{
    const float *query = b->query + h * g->padded, *factor = b->factor + h;
    switch (b->heads - h) {
    case 1:
        dot_codes(g, false, all, query, factor, 1, row, logit, stride);
        break;
    case 2:
        dot_codes(g, false, all, query, factor, 2, row, logit, stride);
        break;
    case 3:
        dot_codes(g, false, all, query, factor, 3, row, logit, stride);
        break;
    default:
        dot_codes(g, usual, all, query, factor, 4, row, logit, stride);
    }
}

/* A block's logits from its codes; meanwhile fetches others. */
WN_INLINE void block_of_codes(const group *g, const head_block *b, bool usual, bool all,
                              const uint8_t *const *row, int64_t count, const uint8_t *const *ahead,
                              int64_t num_ahead, float *logit, int64_t stride)
{
    const int64_t dim = usual ? WN_DIM_USUAL : g->dim;
    for (int64_t l = 0; l < count; l += WN_E5M2_ROWS) {
        for (int64_t i = l; i < l + WN_E5M2_ROWS && i < num_ahead; i++)
            fetch_landmark(dim, g->args->landmarks.max_offset, ahead[i]);
        for (int64_t h = 0; h < b->heads; h += 4)
            dot_codes_of(g, b, h, usual, all, row + l, logit + h * stride + l, stride);
    }
}

/* The same, from tiles of floats. */
static void block_of_tiles(const group *g, const head_block *b, const uint8_t *const *row,
                           int64_t count, const uint8_t *const *ahead, int64_t num_ahead,
                           float *logit, int64_t stride)
{
    enum { WIDE = WN_VL == 16 ? 4 : 2 }; /* heads whose sums the registers hold */
    float tile[TILE * WN_MAX_HEAD_DIM + WN_VL] __attribute__((aligned(64)));
    int64_t bytes = wn_number_bytes(g->args->landmarks.dtype);
    memset(tile, 0, (size_t)(TILE * g->padded) * sizeof *tile);
    for (int64_t l = 0; l < count; l += TILE) {
        int64_t n = count - l < TILE ? count - l : TILE;
        for (int64_t i = l; i < l + TILE && i < num_ahead; i++)
            fetch_landmark(g->dim * bytes, g->args->landmarks.max_offset * bytes, ahead[i]);
        load_tile(g, row + l, n, tile);
        for (int64_t i = 0; i < n; i += 4) {
            const float *four = tile + i * g->padded;
            int64_t h = 0;
            for (; h + WIDE <= b->heads; h += WIDE)
                dot_block(b->query + h * g->padded, b->factor + h, WIDE, four, g->padded,
                          logit + h * stride + l + i, stride);
            for (; h < b->heads; h++)
                dot_block(b->query + h * g->padded, b->factor + h, 1, four, g->padded,
                          logit + h * stride + l + i, stride);
        }
    }
}

static void block_logits(const group *g, const head_block *b, const uint8_t *const *row,
                         int64_t count, const uint8_t *const *ahead, int64_t num_ahead,
                         float *logit, int64_t stride)
{
    bool usual = g->dim == WN_DIM_USUAL;
    if (!g->from_codes)
        block_of_tiles(g, b, row, count, ahead, num_ahead, logit, stride);
    else if (usual && g->all)
        block_of_codes(g, b, true, true, row, count, ahead, num_ahead, logit, stride);
    else if (usual)
        block_of_codes(g, b, true, false, row, count, ahead, num_ahead, logit, stride);
    else
        block_of_codes(g, b, false, false, row, count, ahead, num_ahead, logit, stride);
}

/* logit[heads][stride] of landmarks [first, first + count). */
static void strip_logits(const group *g, const head_block *b, int64_t first, int64_t count,
                         float *logit, int64_t stride)
{
    const uint8_t *rows[2][BLOCK + WN_E5M2_ROWS];
    int64_t n = count < BLOCK ? count : BLOCK;
    find_rows(g, first, n, rows[0]);
    for (int64_t l = 0; l < count; l += BLOCK) {
        const uint8_t **now = rows[l / BLOCK % 2], **ahead = rows[(l / BLOCK + 1) % 2];
        int64_t left = count - l - n, num_ahead = left < BLOCK ? left : BLOCK;
        if (num_ahead > 0)
            find_rows(g, first + l + n, num_ahead, ahead);
        block_logits(g, b, now, n, ahead, num_ahead, logit + l, stride);
        n = num_ahead;
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

/* Asks for the first block, while the queries are prepared. */
WN_INLINE void fetch_first(const group *g)
{
    const uint8_t *row[BLOCK + WN_E5M2_ROWS];
    int64_t n = g->count < BLOCK ? g->count : BLOCK;
    int64_t bytes = wn_number_bytes(g->args->landmarks.dtype);
    find_rows(g, 0, n, row);
    for (int64_t i = 0; i < n; i++)
        fetch_landmark(g->dim * bytes, g->args->landmarks.max_offset * bytes, row[i]);
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
    g.all = a->topr >= g.dim;
    g.from_codes = a->landmarks.dtype == WN_F8_E5M2 && wn_e5m2_takes(g.dim);
    g.padded = (g.dim + WN_E5M2_CHUNK - 1) / WN_E5M2_CHUNK * WN_E5M2_CHUNK;
    fetch_first(&g);
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
