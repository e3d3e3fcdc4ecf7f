/* indexer_words.h: numbers on their way into the words of indexer_block.h: keys as they are stored,
 * and queries, which int8 keys round (wn_indexer_topk_args). Every function writes whole vectors:
 * there must be room for WN_WORDS_ROOM words beyond the last. */
#ifndef WN_CPU_INDEXER_WORDS_H
#define WN_CPU_INDEXER_WORDS_H

#include "kernels/cpu/vector.h"
#include "kernels/indexer_element.h"

enum { WN_WORDS_ROOM = 16 };

/* A float to a word; zeros behind the last. bytes: of an element of dtype. */
WN_INLINE void wn_words_of_floats(uint32_t dtype, const uint8_t *from, int64_t bytes, int64_t count,
                                  uint32_t *to)
{
    int64_t i = 0;
    for (; i + WN_VL <= count; i += WN_VL)
        wn_vf_store((float *)to + i, wn_vf_from(dtype, from + i * bytes));
    if (i < count)
        wn_vf_store((float *)to + i, wn_vf_from_first(dtype, from + i * bytes, count - i));
}

#ifdef __AVX512BF16__
/* 32 e4m3 codes as bfloat16: exponent and mantissa move to their place and the exponent's bias
 * changes by 120; the eight codes without an exponent come from a table; NaN is set apart. */
WN_INLINE __m512i wn_bf16_of_e4m3(__m256i code8)
{
    const __m512i small = _mm512_castsi128_si512(
        _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
    __m512i code = _mm512_cvtepu8_epi16(code8);
    __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi16(0x7f));
    __m512i sign = _mm512_slli_epi16(_mm512_xor_si512(code, magnitude), 8);
    __m512i value = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    value = _mm512_mask_permutexvar_epi16(
        value, _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8)), magnitude, small);
    value =
        _mm512_mask_mov_epi16(value, _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f)),
                              _mm512_set1_epi16(0x7fc0));
    return _mm512_or_si512(value, sign);
}

/* Two bfloat16 to a word; dtype: BF16 or E4M3. A last odd number has a zero beside it. */
WN_INLINE void wn_words_of_pairs(uint32_t dtype, const uint8_t *from, int64_t count, uint32_t *to)
{
    int64_t i = 0;
    if (dtype == WN_BF16) {
        to[count / 2] = 0;
        memcpy(to, from, (size_t)count * 2);
        return;
    }
    for (; i + 32 <= count; i += 32)
        _mm512_storeu_si512(to + i / 2,
                            wn_bf16_of_e4m3(_mm256_loadu_si256((const __m256i *)(from + i))));
    if (i < count) {
        uint8_t rest[32] = {0};
        memcpy(rest, from + i, (size_t)(count - i));
        _mm512_storeu_si512(to + i / 2, wn_bf16_of_e4m3(_mm256_loadu_si256((const __m256i *)rest)));
    }
}
#endif

/* Four codes of a key to a word, each with `offset` added. What is returned is not 0 where a result
 * has its top bit set. */
WN_INLINE int wn_words_of_bytes(const uint8_t *from, int64_t count, int8_t offset, uint32_t *to)
{
    const __m256i add = _mm256_set1_epi8(offset);
    __m256i any = _mm256_setzero_si256();
    uint8_t *out = (uint8_t *)to, rest[32] = {0};
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i x = _mm256_add_epi8(_mm256_loadu_si256((const __m256i *)(from + i)), add);
        any = _mm256_or_si256(any, x);
        _mm256_storeu_si256((__m256i *)(out + i), x);
    }
    if (i < count) {
        memcpy(rest, from + i, (size_t)(count - i));
        __m256i x = _mm256_add_epi8(_mm256_loadu_si256((const __m256i *)rest), add);
        any = _mm256_or_si256(any, x);
        _mm256_storeu_si256((__m256i *)(out + i), x);
    }
    return _mm256_movemask_epi8(any);
}

/* ---------------------------------------------------------------- a query's codes */

#ifdef __AVX512F__
WN_INLINE wn_vi wn_vi_rounded(wn_vf a)
{
    return _mm512_cvtps_epi32(a);
}
/* To -greatest .. greatest. */
WN_INLINE wn_vi wn_vi_cut(wn_vi x, int32_t greatest)
{
    return _mm512_max_epi32(_mm512_min_epi32(x, wn_vi_set(greatest)), wn_vi_set(-greatest));
}
WN_INLINE void wn_vi_store_bytes(void *to, wn_vi x)
{
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(x));
}
WN_INLINE int32_t wn_vi_sum(wn_vi a)
{
    return _mm512_reduce_add_epi32(a);
}
#else
WN_INLINE wn_vi wn_vi_rounded(wn_vf a)
{
    return _mm256_cvtps_epi32(a);
}
WN_INLINE wn_vi wn_vi_cut(wn_vi x, int32_t greatest)
{
    return _mm256_max_epi32(_mm256_min_epi32(x, wn_vi_set(greatest)), wn_vi_set(-greatest));
}
WN_INLINE void wn_vi_store_bytes(void *to, wn_vi x)
{
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(half, half));
}
WN_INLINE int32_t wn_vi_sum(wn_vi a)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
#endif

/* Rounds `count` floats (zeros behind them, up to a whole vector) to codes, four to a word. Returns
 * what a code stands for, NaN where a number is not finite; *sum: of the codes. */
static inline float wn_words_of_query(const float *x, int64_t count, uint32_t *to, int32_t *sum)
{
    wn_vf greatest = wn_vf_zero(), bad = wn_vf_zero();
    float lane[WN_VL], amax = 0;
    for (int64_t i = 0; i < count; i += WN_VL) {
        wn_vf v = wn_vf_load(x + i);
        greatest = wn_vf_max(wn_vf_abs(v), greatest);
        bad = wn_vf_add(bad, wn_vf_sub(v, v)); /* NaN from there on */
    }
    wn_vf_store(lane, greatest);
    for (int i = 0; i < WN_VL; i++)
        amax = lane[i] > amax ? lane[i] : amax;
    float scale = wn_indexer_query_scale(amax + wn_vf_sum(bad));
    wn_vf divisor = wn_vf_set(isnan(scale) ? INFINITY : scale); /* all codes 0 */
    wn_vi total = wn_vi_set(0);
    for (int64_t i = 0; i < count; i += WN_VL) {
        wn_vi code = wn_vi_rounded(wn_vf_div(wn_vf_load(x + i), divisor));
        code = wn_vi_cut(code, isnan(scale) ? 0 : WN_INDEXER_GREATEST_CODE);
        total = wn_vi_add(total, code);
        wn_vi_store_bytes((uint8_t *)to + i, code);
    }
    *sum = wn_vi_sum(total);
    return scale;
}

#endif
