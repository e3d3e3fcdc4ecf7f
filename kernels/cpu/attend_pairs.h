/* attend_pairs.h: the two products of attend_block.h in pairs of bfloat16 (vdpbf16ps), summed in
 * floats: q K^T in pairs of channels, where queries and keys are bfloat16 (or e4m3, which is
 * bfloat16 exactly), and weights V in pairs of keys, where V is bfloat16 and the weights have been
 * rounded to it. */
#ifndef WN_CPU_ATTEND_PAIRS_H
#define WN_CPU_ATTEND_PAIRS_H

#include "kernels/cpu/attend_block.h"

/* Lets `slots` of the processor's window of instructions pass unused, a slot a nop. Where memory is
 * the bound, a window that holds fewer lines reads faster: full of loads that hit the second cache
 * and of prefetches it leaves fewer of a core's places for lines under way to memory (32/32 at 32
 * Ki 85 -> 92 % of the roof, 32/8 85 -> 90, 32/4 76 -> 80 on Zen 4). */
#define WN_LET_PASS(slots) __asm__ volatile(".rept %c0\n\tnop\n\t.endr" : : "i"(slots))

/* Slots for each line that is read: more where fewer rows share the work. */
WN_INLINE void wn_pace(int rows, int lines)
{
    if (rows == 1)
        WN_LET_PASS(24 * lines);
    else if (rows == 2)
        WN_LET_PASS(16 * lines);
    else
        WN_LET_PASS(8 * lines);
}

/* ---- q K^T */

/* WN_CHUNK codes as pairs of bfloat16; the channels that mask leaves out are 0. */
WN_INLINE __m512bh wn_load_pairs(uint32_t dtype, const char *p, __mmask32 mask)
{
    if (dtype == WN_F8_E4M3)
        return (__m512bh)wn_bf16_of_e4m3(_mm256_maskz_loadu_epi8(mask, p));
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, p);
}

WN_INLINE void wn_dot_rows_of(bool usual, uint32_t dtype, int rows, const wn_key_rows *k,
                              int64_t count, const float *q, int64_t stride, float factor, float *s)
{
    const int lanes = wn_lanes_of(rows), keys = WN_VL / lanes;
    const int64_t bytes = wn_code_bytes(dtype), dim = usual ? WN_DIM_USUAL : k->dim;
    const int64_t apart = usual ? WN_DIM_USUAL / 2 : stride;
    for (int64_t j = 0; j < count; j += keys) {
        const char *key[WN_VL];
        const bool fetch = wn_prefetches(k, j, keys);
        wn_vf acc[WN_VL];
        wn_begin_keys(k, j, keys, bytes, key, acc);
#pragma GCC unroll 4
        for (int64_t d = 0; d < dim; d += WN_CHUNK) {
            int64_t left = dim - d < WN_CHUNK ? dim - d : WN_CHUNK;
            __mmask32 mask = usual ? (__mmask32)-1 : (__mmask32)((1ULL << left) - 1);
            __m512bh x[WN_ROWS_SHARED];
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                x[r] = (__m512bh)_mm512_loadu_si512(q + r * apart + d / 2);
#pragma GCC unroll 16
            for (int t = 0; t < keys; t++) {
                if (fetch)
                    wn_prefetch_turn(dtype, k, j, t, keys, d * bytes, WN_CHUNK * bytes, false);
                __m512bh y = wn_load_pairs(dtype, key[t] + d * bytes, mask);
                if (dtype == WN_BF16) /* others have half the lines and conversions between them */
                    wn_pace(rows, 1);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++)
                    acc[t * lanes + r] = _mm512_dpbf16_ps(acc[t * lanes + r], x[r], y);
            }
        }
        wn_vf_store(s + j * lanes, wn_vf_mul(wn_vf_sums(acc), wn_vf_set(factor)));
    }
}

/* The same with queries and keys as bfloat16 in the order of memory: products of pairs of channels,
 * exact, summed in floats. stride: floats, each holding two channels. */
WN_INLINE void wn_dot_rows(uint32_t dtype, int rows, const wn_key_rows *k, int64_t count,
                           const float *q, int64_t stride, float factor, float *s)
{
    if (k->dim == WN_DIM_USUAL && stride == WN_DIM_USUAL / 2)
        wn_dot_rows_of(true, dtype, rows, k, count, q, stride, factor, s);
    else
        wn_dot_rows_of(false, dtype, rows, k, count, q, stride, factor, s);
}

/* ---- weights V */

enum { WN_PAIR_BYTES = 4 };

/* acc[row] += the products of one pair of keys, `chunks` chunks of channels from `at` and `other`
 * on; other NULL: the pair has one key. The channels that mask leaves out are 0. */
WN_INLINE void wn_dot_add_pair(int rows, int chunks, const char *at, const char *other,
                               const char *pair, __mmask32 mask, wn_vf acc[WN_ROWS_SHARED][8])
{
#pragma GCC unroll 4
    for (int c = 0; c < chunks; c++) {
        __m512i x = _mm512_maskz_loadu_epi16(mask, at + c * 2 * WN_CHUNK);
        __m512i y = _mm512_setzero_si512();
        if (other != NULL)
            y = _mm512_maskz_loadu_epi16(mask, other + c * 2 * WN_CHUNK);
        wn_pace(rows, 2);
        __m512bh low = (__m512bh)_mm512_unpacklo_epi16(x, y);
        __m512bh high = (__m512bh)_mm512_unpackhi_epi16(x, y);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            int32_t word;
            memcpy(&word, pair + r * WN_PAIR_BYTES, sizeof word);
            __m512bh w = (__m512bh)_mm512_set1_epi32(word);
            acc[r][2 * c] = _mm512_dpbf16_ps(acc[r][2 * c], low, w);
            acc[r][2 * c + 1] = _mm512_dpbf16_ps(acc[r][2 * c + 1], high, w);
        }
    }
}

/* `chunks` chunks from d on; mask: of the only one. */
WN_INLINE void wn_dot_add_chunks(int rows, int chunks, const wn_key_rows *v, int64_t count,
                                 const char *pairs, int64_t d, __mmask32 mask, float *out,
                                 int64_t stride)
{
    const int lanes = wn_lanes_of(rows);
    const bool fetch = wn_prefetches(v, d, chunks * WN_CHUNK);
    const char *base = v->base + d * 2;
    wn_vf acc[WN_ROWS_SHARED][8];
    wn_load_out(rows, 2 * chunks, out + d, stride, acc);
    for (int64_t j = 0; j + 2 <= count; j += 2) {
        if (fetch)
            wn_prefetch_lines(WN_BF16, v->ahead, v->ahead_offset, j, 2, d * 2,
                              chunks * 2 * WN_CHUNK, false);
        wn_dot_add_pair(rows, chunks, base + v->offset[j] * 2, base + v->offset[j + 1] * 2,
                        pairs + j / 2 * lanes * WN_PAIR_BYTES, mask, acc);
    }
    if (count % 2 != 0)
        wn_dot_add_pair(rows, chunks, base + v->offset[count - 1] * 2, NULL,
                        pairs + count / 2 * lanes * WN_PAIR_BYTES, mask, acc);
    wn_store_out(rows, 2 * chunks, out + d, stride, acc);
}

WN_INLINE void wn_dot_add_rows_of(int rows, const wn_key_rows *v, int64_t dim, int64_t count,
                                  const char *pairs, float *out, int64_t stride)
{
    const int chunks = rows > 2 ? 2 : 4; /* as many accumulators as there are registers for */
    const int64_t whole = dim / WN_CHUNK * WN_CHUNK;
    const __mmask32 all = (__mmask32)-1, some = (__mmask32)((1ULL << (dim - whole)) - 1);
    int64_t d = 0;
    for (; d + chunks * WN_CHUNK <= whole; d += chunks * WN_CHUNK)
        wn_dot_add_chunks(rows, chunks, v, count, pairs, d, all, out, stride);
    for (; d < whole; d += WN_CHUNK)
        wn_dot_add_chunks(rows, 1, v, count, pairs, d, all, out, stride);
    if (d < dim)
        wn_dot_add_chunks(rows, 1, v, count, pairs, d, some, out, stride);
}

/* out[row] += the products of weights and V, a pair of keys at a time: V in bfloat16, pairs[pair]
 * [lanes] the bfloat16 weights of keys 2 pair (low half) and 2 pair + 1; rows of out are folded. */
WN_INLINE void wn_dot_add_rows(int rows, const wn_key_rows *v, int64_t count, const void *pairs,
                               float *out, int64_t stride)
{
    if (v->dim == WN_DIM_USUAL)
        wn_dot_add_rows_of(rows, v, WN_DIM_USUAL, count, pairs, out, stride);
    else
        wn_dot_add_rows_of(rows, v, v->dim, count, pairs, out, stride);
}

/* The words of two vectors of weights, [key][lanes], as pairs: dword p * lanes + r has row r of
 * keys 2 p and 2 p + 1. */
WN_INLINE __m512i wn_pairs_of(int lanes, wn_vf x, wn_vf y)
{
    __m512i words = (__m512i)_mm512_cvtne2ps_pbh(y, x);
    if (lanes == 4)
        return _mm512_permutexvar_epi16(_mm512_set_epi16(31, 27, 30, 26, 29, 25, 28, 24, 23, 19, 22,
                                                         18, 21, 17, 20, 16, 15, 11, 14, 10, 13, 9,
                                                         12, 8, 7, 3, 6, 2, 5, 1, 4, 0),
                                        words);
    if (lanes == 2) /* within each quarter: 0 2 1 3 */
        return _mm512_shufflehi_epi16(_mm512_shufflelo_epi16(words, 0xd8), 0xd8);
    return words;
}

#endif
