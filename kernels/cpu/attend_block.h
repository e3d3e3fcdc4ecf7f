/* attend_block.h: the two products of attention over a block of keys for one to four query rows
 * that share them: scores = q K^T and out += weights V, straight from the cache's codes. Every code
 * is converted once for all rows. Lanes are channels: they come as pairs of vectors in the order in
 * which the codes unpack most cheaply ("folded": for bfloat16 a chunk's even channels, then its odd
 * ones; where attend_pairs.h is, every second four channels), so that q is folded before and the
 * result unfolded after. Scores and weights are
 * [key][lanes]: the exponentials need no step across lanes.
 *
 * A row's score is the sum of WN_VL partial sums over channels in ascending order; its outputs add
 * key after key. Neither depends on which other rows share the block. */
#ifndef WN_CPU_ATTEND_BLOCK_H
#define WN_CPU_ATTEND_BLOCK_H

#include "kernels/cpu/vector.h"

#include <stdbool.h>

enum {
    WN_CHUNK = 2 * WN_VL, /* channels that are loaded at once */
    WN_ROWS_SHARED = 4,   /* query rows that share a converted code */
    WN_LINE_BYTES = 64
};

/* Scores of so many rows lie so many floats apart from key to key. */
WN_INLINE int wn_lanes_of(int rows)
{
    return rows == 3 ? 4 : rows;
}

/* Where the rows of some keys lie: row j begins at base + offset[j] * the dtype's bytes. The rows
 * that will be needed soon lie likewise at ahead: they are prefetched as row j is read. offset and
 * ahead_offset have WN_VL entries that may be read beyond the last key. */
typedef struct wn_key_rows {
    const char *base, *ahead;
    const int64_t *offset, *ahead_offset;
    const char *near; /* for scores: those that are needed right after these, likewise */
    const int64_t *near_offset;
    uint32_t turn, turns; /* of the quads that share the prefetches; turns 0: none */
    int64_t dim;
} wn_key_rows;

WN_INLINE int64_t wn_code_bytes(uint32_t dtype)
{
    return dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
}

/* What e4m3 codes must still be multiplied by after wn_load_chunk. Their NaN codes come out as
 * numbers: who may meet them asks wn_block_has_nan. */
#define WN_E4M3_UNIT (WN_VL == 16 ? 1.0f : 0x1p8f)

/* The head dim for which the products are compiled with a constant. */
enum { WN_DIM_USUAL = 128 };

/* Keeps gcc from loading or computing a value twice. */
#define WN_IN_REGISTER(x) __asm__("" : "+x"(x))

/* ---- WN_CHUNK codes as two vectors, folded */

#ifdef __AVX512F__

/* e4m3 as bfloat16, exactly: exponent and mantissa move up by 4 bits and get bfloat16's bias; the
 * eight magnitudes without an exponent come from a table. */
WN_INLINE __m512i wn_bf16_of_e4m3(__m256i code)
{
    const __m512i small = _mm512_castsi128_si512(
        _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
    __m512i x = _mm512_cvtepi8_epi16(code);
    __m512i y = _mm512_and_si512(_mm512_slli_epi16(x, 4), _mm512_set1_epi16(0x7f0));
    y = _mm512_add_epi16(y, _mm512_set1_epi16(0x3c00));
    y = _mm512_mask_permutexvar_epi16(y, _mm512_testn_epi16_mask(x, _mm512_set1_epi16(0x78)), x,
                                      small);
    return _mm512_ternarylogic_epi32(y, x, _mm512_set1_epi16((short)0x8000), 0xf8); /* y | x & c */
}

WN_INLINE void wn_load_chunk(uint32_t dtype, const char *p, wn_vf *a, wn_vf *b)
{
    if (dtype == WN_BF16 || dtype == WN_F8_E4M3) {
        __m512i x = dtype == WN_BF16 ? _mm512_loadu_si512(p)
                                     : wn_bf16_of_e4m3(_mm256_loadu_si256((const __m256i *)p));
        WN_IN_REGISTER(x);
#ifdef __AVX512BF16__ /* the order in which two rows interleave */
        *a = _mm512_castsi512_ps(_mm512_unpacklo_epi16(_mm512_setzero_si512(), x));
        *b = _mm512_castsi512_ps(_mm512_unpackhi_epi16(_mm512_setzero_si512(), x));
        return;
#endif
        *a = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
        *b = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)));
    } else {
        *a = wn_vf_from(dtype, p);
        *b = wn_vf_from(dtype, p + WN_VL * wn_code_bytes(dtype));
    }
}

/* Only the first n channels, 0 < n < WN_CHUNK; the others are 0. */
WN_INLINE void wn_load_chunk_first(uint32_t dtype, const char *p, int64_t n, wn_vf *a, wn_vf *b)
{
    __m512i copy[2];
    if (dtype == WN_F32) {
        *a = wn_vf_load_first((const float *)p, n < WN_VL ? n : WN_VL);
        *b = wn_vf_load_first((const float *)p + WN_VL, n < WN_VL ? 0 : n - WN_VL);
        return;
    }
    __mmask32 mask = (__mmask32)((1u << n) - 1);
    copy[0] = wn_code_bytes(dtype) == 2 ? _mm512_maskz_loadu_epi16(mask, p)
                                        : _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(mask, p));
    wn_load_chunk(dtype, (const char *)copy, a, b);
}

/* Pairs of vectors in the order of memory, from and to the folded order. */
#ifdef __AVX512BF16__
WN_INLINE void wn_split_pairs(wn_vf *a, wn_vf *b)
{
    __m512 x = _mm512_shuffle_f32x4(*a, *b, 0x88);
    *b = _mm512_shuffle_f32x4(*a, *b, 0xdd);
    *a = x;
}
WN_INLINE void wn_join_pairs(wn_vf *a, wn_vf *b)
{
    __m512 low = _mm512_shuffle_f32x4(*a, *b, 0x44), high = _mm512_shuffle_f32x4(*a, *b, 0xee);
    *a = _mm512_shuffle_f32x4(low, low, 0xd8);
    *b = _mm512_shuffle_f32x4(high, high, 0xd8);
}
#else
WN_INLINE void wn_split_pairs(wn_vf *a, wn_vf *b)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512 x = _mm512_permutex2var_ps(*a, even, *b);
    *b = _mm512_permutex2var_ps(*a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), *b);
    *a = x;
}
WN_INLINE void wn_join_pairs(wn_vf *a, wn_vf *b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    __m512 x = _mm512_permutex2var_ps(*a, low, *b);
    *b = _mm512_permutex2var_ps(*a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), *b);
    *a = x;
}
#endif

/* One value per key, repeated for `lanes` lanes, for WN_VL / lanes keys. */
WN_INLINE wn_vf wn_vf_per_key(int lanes, const float *p)
{
    const __m512i by4 = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i by2 = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    if (lanes == 4)
        return _mm512_permutexvar_ps(by4, _mm512_castps128_ps512(_mm_loadu_ps(p)));
    if (lanes == 2)
        return _mm512_permutexvar_ps(by2, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
    return wn_vf_load(p);
}

/* Lane i of the result: the sum of x[i]. Folding two vectors into one takes what stays in place by
 * a blend, which any port does, and what moves by one shuffle. */
WN_INLINE wn_vf wn_vf_sums(const wn_vf x[WN_VL])
{
    __m512 y[8], z[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) /* [a02 a13 b02 b13] in each quarter */
        y[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, x[2 * i], x[2 * i + 1]),
                             _mm512_shuffle_ps(x[2 * i], x[2 * i + 1], 0x4e));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) /* [a b c d] */
        z[i] = _mm512_add_ps(_mm512_shuffle_ps(y[2 * i], y[2 * i + 1], 0x88),
                             _mm512_shuffle_ps(y[2 * i], y[2 * i + 1], 0xdd));
    __m512 u = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, z[0], z[1]),
                             _mm512_shuffle_f32x4(z[0], z[1], 0x4e));
    __m512 v = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, z[2], z[3]),
                             _mm512_shuffle_f32x4(z[2], z[3], 0x4e));
    return _mm512_add_ps(_mm512_shuffle_f32x4(u, v, 0x88), _mm512_shuffle_f32x4(u, v, 0xdd));
}

/* Lane i gets lane i ^ distance. */
WN_INLINE wn_vf wn_vf_exchange(wn_vf x, int distance)
{
    return distance == 8   ? _mm512_shuffle_f32x4(x, x, 0x4e)
           : distance == 4 ? _mm512_shuffle_f32x4(x, x, 0xb1)
           : distance == 2 ? _mm512_permute_ps(x, 0x4e)
                           : _mm512_permute_ps(x, 0xb1);
}

/* p[0 .. lanes - 1] again and again. */
WN_INLINE wn_vf wn_vf_per_row(int lanes, const float *p)
{
    if (lanes == 4)
        return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    return lanes == 2 ? _mm512_broadcast_f32x2(_mm_castpd_ps(_mm_load_sd((const double *)p)))
                      : wn_vf_set(*p);
}

#else /* AVX2 */

/* e4m3 as half precision: exponent and mantissa move up by 7 bits, which makes the value 2^8 too
 * small and is exact, denormals included. */
WN_INLINE __m256i wn_half_of_e4m3(__m128i code)
{
    __m256i x = _mm256_slli_epi16(_mm256_cvtepi8_epi16(code), 7);
    return _mm256_and_si256(x, _mm256_set1_epi16((short)0xbf80));
}

WN_INLINE void wn_load_chunk(uint32_t dtype, const char *p, wn_vf *a, wn_vf *b)
{
    if (dtype == WN_BF16) {
        __m256i x = _mm256_loadu_si256((const __m256i *)p);
        WN_IN_REGISTER(x);
        *a = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
        *b = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000)));
    } else if (dtype == WN_F8_E4M3) {
        __m256i x = wn_half_of_e4m3(_mm_loadu_si128((const __m128i *)p));
        *a = _mm256_cvtph_ps(_mm256_castsi256_si128(x));
        *b = _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1));
    } else {
        *a = wn_vf_from(dtype, p);
        *b = wn_vf_from(dtype, p + WN_VL * wn_code_bytes(dtype));
    }
}

WN_INLINE void wn_load_chunk_first(uint32_t dtype, const char *p, int64_t n, wn_vf *a, wn_vf *b)
{
    __m128i copy[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(),
                       _mm_setzero_si128()};
    if (n == 8 && wn_code_bytes(dtype) == 2) /* head dims of 40, 72: worth a line */
        copy[0] = _mm_loadu_si128((const __m128i *)p);
    else
        memcpy(copy, p, (size_t)(n * wn_code_bytes(dtype)));
    wn_load_chunk(dtype, (const char *)copy, a, b);
}

WN_INLINE void wn_split_pairs(wn_vf *a, wn_vf *b)
{
    __m256 even = _mm256_shuffle_ps(*a, *b, 0x88), odd = _mm256_shuffle_ps(*a, *b, 0xdd);
    *a = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
    *b = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
}
WN_INLINE void wn_join_pairs(wn_vf *a, wn_vf *b)
{
    __m256 low = _mm256_unpacklo_ps(*a, *b), high = _mm256_unpackhi_ps(*a, *b);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}

WN_INLINE wn_vf wn_vf_per_key(int lanes, const float *p)
{
    const __m256i by2 = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    if (lanes == 4)
        return _mm256_set_m128(_mm_broadcast_ss(p + 1), _mm_broadcast_ss(p));
    if (lanes == 2)
        return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), by2);
    return wn_vf_load(p);
}

WN_INLINE wn_vf wn_vf_sums(const wn_vf x[WN_VL])
{
    __m256 y[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        y[i] = _mm256_add_ps(_mm256_blend_ps(x[2 * i], x[2 * i + 1], 0xcc),
                             _mm256_shuffle_ps(x[2 * i], x[2 * i + 1], 0x4e));
    __m256 u =
        _mm256_add_ps(_mm256_shuffle_ps(y[0], y[1], 0x88), _mm256_shuffle_ps(y[0], y[1], 0xdd));
    __m256 v =
        _mm256_add_ps(_mm256_shuffle_ps(y[2], y[3], 0x88), _mm256_shuffle_ps(y[2], y[3], 0xdd));
    return _mm256_add_ps(_mm256_blend_ps(u, v, 0xf0), _mm256_permute2f128_ps(u, v, 0x21));
}

WN_INLINE wn_vf wn_vf_exchange(wn_vf x, int distance)
{
    return distance == 4   ? _mm256_permute2f128_ps(x, x, 1)
           : distance == 2 ? _mm256_permute_ps(x, 0x4e)
                           : _mm256_permute_ps(x, 0xb1);
}

WN_INLINE wn_vf wn_vf_per_row(int lanes, const float *p)
{
    if (lanes == 4)
        return _mm256_broadcast_ps((const __m128 *)p);
    return lanes == 2 ? _mm256_castpd_ps(_mm256_broadcast_sd((const double *)p)) : wn_vf_set(*p);
}

#endif

/* Each lane: the greatest, or the sum, of those lanes that are equal modulo `lanes`. */
WN_INLINE wn_vf wn_vf_fold_max(int lanes, wn_vf x)
{
#pragma GCC unroll 4
    for (int distance = WN_VL / 2; distance > 0; distance /= 2)
        if (distance >= lanes)
            x = wn_vf_max(x, wn_vf_exchange(x, distance));
    return x;
}
WN_INLINE wn_vf wn_vf_fold_sum(int lanes, wn_vf x)
{
#pragma GCC unroll 4
    for (int distance = WN_VL / 2; distance > 0; distance /= 2)
        if (distance >= lanes)
            x = wn_vf_add(x, wn_vf_exchange(x, distance));
    return x;
}

WN_INLINE bool wn_is_folded(uint32_t dtype)
{
    return dtype == WN_BF16 || (WN_VL == 16 && dtype == WN_F8_E4M3);
}

/* Folds and unfolds a row of floats in place; `padded` is a multiple of WN_CHUNK. */
WN_INLINE void wn_fold(uint32_t dtype, float *row, int64_t padded)
{
    for (int64_t d = 0; d < padded && wn_is_folded(dtype); d += WN_CHUNK) {
        wn_vf a = wn_vf_load(row + d), b = wn_vf_load(row + d + WN_VL);
        wn_split_pairs(&a, &b);
        wn_vf_store(row + d, a);
        wn_vf_store(row + d + WN_VL, b);
    }
}
WN_INLINE void wn_unfold(uint32_t dtype, float *row, int64_t padded)
{
    for (int64_t d = 0; d < padded && wn_is_folded(dtype); d += WN_CHUNK) {
        wn_vf a = wn_vf_load(row + d), b = wn_vf_load(row + d + WN_VL);
        wn_join_pairs(&a, &b);
        wn_vf_store(row + d, a);
        wn_vf_store(row + d + WN_VL, b);
    }
}

/* ---- what comes next */

/* Prefetches the lines of rows at base + offset[j .. j + count - 1], count constant, where `bytes`
 * bytes from `at` on of the rows at work are read now. A span that is a fraction 1/n of a line
 * takes the line of every n-th row, so that prefetches come at an even pace: in bursts they are
 * dropped. near: to the first level, else to the second. */
WN_INLINE void wn_prefetch_lines(uint32_t dtype, const char *base, const int64_t *offset, int64_t j,
                                 int count, int64_t at, int64_t bytes, bool near)
{
    const int64_t size = wn_code_bytes(dtype);
    const int turns = bytes < WN_LINE_BYTES ? (int)(WN_LINE_BYTES / bytes) : 1;
    int64_t phase = -(at / bytes + (count < turns ? j : 0)) & (turns - 1);
#pragma GCC unroll 16
    for (int t = 0; t < count; t += turns)
        for (int64_t i = 0; i < bytes && phase < count; i += WN_LINE_BYTES) {
            const char *line = base + at + offset[j + t + phase] * size + i;
            if (near)
                _mm_prefetch(line, _MM_HINT_T0);
            else
                _mm_prefetch(line, _MM_HINT_T1);
        }
}

/* As key t of j .. j + count - 1 is read, its part of what those keys prefetch. */
WN_INLINE void wn_prefetch_turn(uint32_t dtype, const wn_key_rows *k, int64_t j, int t, int count,
                                int64_t at, int64_t bytes, bool near)
{
    const int turns = bytes < WN_LINE_BYTES ? (int)(WN_LINE_BYTES / bytes) : 1;
    const int some = count < turns ? count : turns;
    if (t % some != 0)
        return;
    wn_prefetch_lines(dtype, k->ahead, k->ahead_offset, j + t, some, at, bytes, false);
    if (near)
        wn_prefetch_lines(dtype, k->near, k->near_offset, j + t, some, at, bytes, true);
}

/* Do the rows j .. j + count - 1 belong to this quad's share of the prefetches? */
WN_INLINE bool wn_prefetches(const wn_key_rows *k, int64_t j, int count)
{
    return k->turns == 1 || (k->turns > 1 && (uint32_t)(j / count) % k->turns == k->turn);
}

/* ---- q K^T */

/* How many keys' rows are read side by side: with AVX2 and one row of 16-bit codes, where reading
 * is the bound, half of what the registers would hold (32/32 at 32 Ki 3 to 8 % faster). */
WN_INLINE int wn_keys_abreast(uint32_t dtype, int rows)
{
    return WN_VL == 8 && rows == 1 && wn_code_bytes(dtype) >= 2 ? 4 : WN_VL / wn_lanes_of(rows);
}

/* One chunk of the dot products of `keys` keys, from number j on, with `rows` rows. fetch: what to
 * prefetch for; NULL: nothing. */
WN_INLINE void wn_score_chunk(uint32_t dtype, int rows, int keys, const char *const *key, int64_t d,
                              int64_t first, const float *q, int64_t stride,
                              const wn_key_rows *fetch, int64_t j, wn_vf *acc)
{
    const int lanes = wn_lanes_of(rows);
    wn_vf a[WN_VL], b[WN_VL], x[2], y[2];
    int64_t at = d * wn_code_bytes(dtype), span = WN_CHUNK * wn_code_bytes(dtype);
    if (rows > 2) {
#pragma GCC unroll 16
        for (int t = 0; t < keys; t++) {
            if (fetch != NULL)
                wn_prefetch_turn(dtype, fetch, j, t, keys, at, span, WN_VL == 8);
            if (first == 0)
                wn_load_chunk(dtype, key[t] + at, &a[t], &b[t]);
            else
                wn_load_chunk_first(dtype, key[t] + at, first, &a[t], &b[t]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            wn_vf z = wn_vf_load(q + r * stride + d);
            WN_IN_REGISTER(z);
#pragma GCC unroll 16
            for (int t = 0; t < keys; t++)
                acc[t * lanes + r] = wn_vf_fma(a[t], z, acc[t * lanes + r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            wn_vf z = wn_vf_load(q + r * stride + d + WN_VL);
            WN_IN_REGISTER(z);
#pragma GCC unroll 16
            for (int t = 0; t < keys; t++)
                acc[t * lanes + r] = wn_vf_fma(b[t], z, acc[t * lanes + r]);
        }
        return;
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++) {
        x[r] = wn_vf_load(q + r * stride + d);
        y[r] = wn_vf_load(q + r * stride + d + WN_VL);
        WN_IN_REGISTER(x[r]);
        WN_IN_REGISTER(y[r]);
    }
#pragma GCC unroll 16
    for (int t = 0; t < keys; t++) {
        if (fetch != NULL)
            wn_prefetch_turn(dtype, fetch, j, t, keys, at, span, WN_VL == 8);
        if (first == 0)
            wn_load_chunk(dtype, key[t] + at, &a[0], &b[0]);
        else
            wn_load_chunk_first(dtype, key[t] + at, first, &a[0], &b[0]);
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++) {
            acc[t * lanes + r] = wn_vf_fma(a[0], x[r], acc[t * lanes + r]);
            acc[t * lanes + r] = wn_vf_fma(b[0], y[r], acc[t * lanes + r]);
        }
    }
}

/* Where `keys` keys from number j on begin; their sums are 0. */
WN_INLINE void wn_begin_keys(const wn_key_rows *k, int64_t j, int keys, int64_t bytes,
                             const char *key[WN_VL], wn_vf acc[WN_VL])
{
#pragma GCC unroll 16
    for (int i = 0; i < WN_VL; i++)
        acc[i] = wn_vf_zero();
#pragma GCC unroll 16
    for (int t = 0; t < keys; t++)
        key[t] = k->base + k->offset[j + t] * bytes;
}

/* wn_score_rows; `usual`: k->dim and stride are WN_DIM_USUAL, so that all addresses are constants
 * beside a key's and nothing is counted. */
WN_INLINE void wn_score_rows_of(bool usual, uint32_t dtype, int rows, const wn_key_rows *k,
                                int64_t count, const float *q, int64_t stride, float factor,
                                float *s)
{
    const int lanes = wn_lanes_of(rows), keys = WN_VL / lanes, some = wn_keys_abreast(dtype, rows);
    const int64_t bytes = wn_code_bytes(dtype), dim = usual ? WN_DIM_USUAL : k->dim;
    const int64_t whole = dim / WN_CHUNK * WN_CHUNK, apart = usual ? WN_DIM_USUAL : stride;
    for (int64_t j = 0; j < count; j += keys) {
        const char *key[WN_VL];
        const bool fetch = wn_prefetches(k, j, keys);
        wn_vf acc[WN_VL];
        const float *rows_of_q = q;
        __asm__("" : "+r"(rows_of_q)); /* or gcc keeps q on the stack instead */
        wn_begin_keys(k, j, keys, bytes, key, acc);
#pragma GCC unroll 8
        for (int t = 0; t < keys; t += some) {
            const wn_key_rows *ahead = fetch ? k : NULL;
            if (usual) {
#pragma GCC unroll 8
                for (int64_t d = 0; d < WN_DIM_USUAL; d += WN_CHUNK) {
                    wn_score_chunk(dtype, rows, some, key + t, d, 0, rows_of_q, apart, ahead, j + t,
                                   acc + t * lanes);
                }
                continue;
            }
            for (int64_t d = 0; d < whole; d += WN_CHUNK) {
                wn_score_chunk(dtype, rows, some, key + t, d, 0, rows_of_q, apart, ahead, j + t,
                               acc + t * lanes);
            }
            if (whole < dim)
                wn_score_chunk(dtype, rows, some, key + t, whole, dim - whole, rows_of_q, apart,
                               NULL, j + t, acc + t * lanes);
        }
        wn_vf_store(s + j * lanes, wn_vf_mul(wn_vf_sums(acc), wn_vf_set(factor)));
    }
}

/* s[key][lanes] = factor * the dot products of `count` keys with `rows` (1 .. 4) folded rows of q.
 * With 3 rows the fourth lane is 0. Writes whole vectors: up to WN_VL - 1 floats beyond, for keys
 * that offset repeats. */
WN_INLINE void wn_score_rows(uint32_t dtype, int rows, const wn_key_rows *k, int64_t count,
                             const float *q, int64_t stride, float factor, float *s)
{
    if (k->dim == WN_DIM_USUAL && stride == WN_DIM_USUAL)
        wn_score_rows_of(true, dtype, rows, k, count, q, stride, factor, s);
    else
        wn_score_rows_of(false, dtype, rows, k, count, q, stride, factor, s);
}

/* ---- weights V */

/* At a time. With AVX-512 four cost more than they save where memory is the bound. */
enum { WN_KEYS_ADDED = WN_VL == 16 ? 1 : 4 };

/* acc[row] += weight[row] * `chunks` chunks of one key; with first > 0 one chunk of so many. */
WN_INLINE void wn_add_key(uint32_t dtype, int rows, int chunks, const char *at, const float *weight,
                          int64_t first, wn_vf acc[WN_ROWS_SHARED][8])
{
    wn_vf w[WN_ROWS_SHARED], a, b;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        w[r] = wn_vf_set(weight[r]);
        WN_IN_REGISTER(w[r]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < chunks; c++) {
        if (first == 0)
            wn_load_chunk(dtype, at + c * WN_CHUNK * wn_code_bytes(dtype), &a, &b);
        else
            wn_load_chunk_first(dtype, at, first, &a, &b);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            acc[r][2 * c] = wn_vf_fma(w[r], a, acc[r][2 * c]);
            acc[r][2 * c + 1] = wn_vf_fma(w[r], b, acc[r][2 * c + 1]);
        }
    }
}

/* So many vectors of each row's outputs, into registers and back. */
WN_INLINE void wn_load_out(int rows, int vectors, const float *out, int64_t stride,
                           wn_vf acc[WN_ROWS_SHARED][8])
{
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < vectors; c++)
            acc[r][c] = wn_vf_load(out + r * stride + c * WN_VL);
}
WN_INLINE void wn_store_out(int rows, int vectors, float *out, int64_t stride,
                            wn_vf acc[WN_ROWS_SHARED][8])
{
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < vectors; c++)
            wn_vf_store(out + r * stride + c * WN_VL, acc[r][c]);
}

/* `chunks` chunks of channels from d on; with first > 0 one chunk of so many channels. */
WN_INLINE void wn_add_chunks(uint32_t dtype, int rows, int chunks, const wn_key_rows *v,
                             int64_t count, const float *weight, int64_t d, int64_t first,
                             float *out, int64_t stride)
{
    const int lanes = wn_lanes_of(rows);
    const int64_t bytes = wn_code_bytes(dtype), span = chunks * WN_CHUNK * bytes;
    const bool fetch = first == 0 && wn_prefetches(v, d, chunks * WN_CHUNK);
    const char *base = v->base + d * bytes;
    wn_vf acc[WN_ROWS_SHARED][8];
    int64_t j = 0;
    __asm__("" : "+r"(base)); /* or gcc adds d key by key */
    wn_load_out(rows, 2 * chunks, out + d, stride, acc);
    for (; j + WN_KEYS_ADDED <= count && first == 0; j += WN_KEYS_ADDED) {
#pragma GCC unroll 4
        for (int t = 0; t < WN_KEYS_ADDED; t++) {
            if (fetch)
                wn_prefetch_turn(dtype, v, j, t, WN_KEYS_ADDED, d * bytes, span, false);
            wn_add_key(dtype, rows, chunks, base + v->offset[j + t] * bytes,
                       weight + (j + t) * lanes, 0, acc);
        }
    }
    for (; j < count; j++)
        wn_add_key(dtype, rows, chunks, base + v->offset[j] * bytes, weight + j * lanes, first,
                   acc);
    wn_store_out(rows, 2 * chunks, out + d, stride, acc);
}

/* out[row] += sum of weight[key][row] * V[key], key after key; rows of out are folded. */
WN_INLINE void wn_add_rows(uint32_t dtype, int rows, const wn_key_rows *v, int64_t count,
                           const float *weight, float *out, int64_t stride)
{
    /* As many accumulators as there are registers for. */
    const int chunks = WN_VL == 16 ? (rows > 2 ? 2 : 4) : rows > 2 ? 1 : rows == 2 ? 2 : 4;
    int64_t whole = v->dim / WN_CHUNK * WN_CHUNK, d = 0;
    for (; d + chunks * WN_CHUNK <= whole; d += chunks * WN_CHUNK)
        wn_add_chunks(dtype, rows, chunks, v, count, weight, d, 0, out, stride);
    for (; chunks > 1 && d < whole; d += WN_CHUNK)
        wn_add_chunks(dtype, rows, 1, v, count, weight, d, 0, out, stride);
    if (d < v->dim)
        wn_add_chunks(dtype, rows, 1, v, count, weight, d, v->dim - d, out, stride);
}

/* ---- NaN of e4m3 */

/* Is a code of the first `count` rows, of dim codes of e4m3 each, a NaN (0x7f, 0xff)? Doubled,
 * these two are the greatest bytes. */
WN_INLINE bool wn_e4m3_has_nan(const char *base, const int64_t *offset, int64_t count, int64_t dim)
{
    __m256i most = _mm256_setzero_si256();
    bool found = false;
    for (int64_t j = 0; j < count; j++) {
        const char *code = base + offset[j];
        for (int64_t d = 0; d < dim && dim < 32; d++)
            found |= (code[d] & 0x7f) == 0x7f;
        for (int64_t d = 0; d < dim && dim >= 32; d += 32) { /* the last 32 may overlap */
            __m256i x = _mm256_loadu_si256((const __m256i *)(code + (d < dim - 32 ? d : dim - 32)));
            most = _mm256_max_epu8(most, _mm256_add_epi8(x, x));
        }
    }
    __m256i is_nan = _mm256_cmpeq_epi8(most, _mm256_set1_epi8((char)0xfe));
    return found || _mm256_movemask_epi8(is_nan) != 0;
}

/* The same, fast where dim is WN_DIM_USUAL. */
static inline bool wn_block_has_nan(const char *base, const int64_t *offset, int64_t count,
                                    int64_t dim)
{
    return dim == WN_DIM_USUAL ? wn_e4m3_has_nan(base, offset, count, WN_DIM_USUAL)
                               : wn_e4m3_has_nan(base, offset, count, dim);
}

#endif
