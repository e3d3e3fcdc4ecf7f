/* pack_lanes.h: comparing a vector of scores with a bound and moving the lanes that pass to the
 * front: what selection is made of. A mask is a word with a bit per lane. Comparisons with NaN are
 * false. */
#ifndef WN_CPU_PACK_LANES_H
#define WN_CPU_PACK_LANES_H

#include "kernels/cpu/vector.h"

#ifdef __AVX512F__

WN_INLINE uint32_t wn_lanes_at_least(wn_vf x, wn_vf bound)
{
    return _mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ);
}
WN_INLINE uint32_t wn_lanes_above(wn_vf x, wn_vf bound)
{
    return _mm512_cmp_ps_mask(x, bound, _CMP_GT_OQ);
}
WN_INLINE uint32_t wn_lanes_equal(wn_vf x, wn_vf bound)
{
    return _mm512_cmp_ps_mask(x, bound, _CMP_EQ_OQ);
}
/* met, and the lanes where a or b is NaN */
WN_INLINE wn_vm wn_vm_or_nan(wn_vm met, wn_vf a, wn_vf b)
{
    return (wn_vm)(met | _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q));
}
/* sum, one more in each lane of x that is at least the bound */
WN_INLINE wn_vi wn_count_at_least(wn_vi sum, wn_vf x, wn_vf bound)
{
    __mmask16 m = _mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ);
    return _mm512_mask_sub_epi32(sum, m, sum, _mm512_set1_epi32(-1));
}
WN_INLINE int64_t wn_vi_sum(wn_vi a)
{
    return _mm512_reduce_add_epi32(a);
}
WN_INLINE wn_vi wn_vi_ascending(int32_t first)
{
    return _mm512_add_epi32(_mm512_set1_epi32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8,
                                                                        9, 10, 11, 12, 13, 14, 15));
}
WN_INLINE wn_vi wn_vi_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}
WN_INLINE void wn_vi_store(int32_t *p, wn_vi x)
{
    _mm512_storeu_si512(p, x);
}
/* Which of 64 scores are at least the bound, or NaN. */
WN_INLINE uint64_t wn_word_not_below(const float *p, wn_vf bound)
{
    __mmask16 m0 = _mm512_cmp_ps_mask(_mm512_loadu_ps(p), bound, _CMP_NLT_UQ);
    __mmask16 m1 = _mm512_cmp_ps_mask(_mm512_loadu_ps(p + 16), bound, _CMP_NLT_UQ);
    __mmask16 m2 = _mm512_cmp_ps_mask(_mm512_loadu_ps(p + 32), bound, _CMP_NLT_UQ);
    __mmask16 m3 = _mm512_cmp_ps_mask(_mm512_loadu_ps(p + 48), bound, _CMP_NLT_UQ);
    return _mm512_kunpackd(_mm512_kunpackw(m3, m2), _mm512_kunpackw(m1, m0));
}
/* Compressing into a register, then storing, is much faster on some processors than compressing
 * into memory. All WN_VL lanes are written. */
WN_INLINE void wn_pack_ints(int32_t *to, uint32_t mask, wn_vi x)
{
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)mask, x));
}
WN_INLINE void wn_pack_pairs(float *to, int32_t *to_index, uint32_t mask, wn_vf x, wn_vi index)
{
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps((__mmask16)mask, x));
    wn_pack_ints(to_index, mask, index);
}

#else /* AVX2 */

WN_INLINE uint32_t wn_lanes_at_least(wn_vf x, wn_vf bound)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GE_OQ));
}
WN_INLINE uint32_t wn_lanes_above(wn_vf x, wn_vf bound)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GT_OQ));
}
WN_INLINE uint32_t wn_lanes_equal(wn_vf x, wn_vf bound)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_EQ_OQ));
}
WN_INLINE wn_vm wn_vm_or_nan(wn_vm met, wn_vf a, wn_vf b)
{
    return _mm256_or_ps(met, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
}
WN_INLINE wn_vi wn_count_at_least(wn_vi sum, wn_vf x, wn_vf bound)
{
    return _mm256_sub_epi32(sum, _mm256_castps_si256(_mm256_cmp_ps(x, bound, _CMP_GE_OQ)));
}
WN_INLINE int64_t wn_vi_sum(wn_vi a)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
WN_INLINE wn_vi wn_vi_ascending(int32_t first)
{
    return _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
WN_INLINE wn_vi wn_vi_load(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
WN_INLINE void wn_vi_store(int32_t *p, wn_vi x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}

WN_INLINE uint32_t wn_half_word_not_below(const float *p, wn_vf bound)
{
    __m256i c0 = _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(p), bound, _CMP_NLT_UQ));
    __m256i c1 = _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(p + 8), bound, _CMP_NLT_UQ));
    __m256i c2 = _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(p + 16), bound, _CMP_NLT_UQ));
    __m256i c3 = _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(p + 24), bound, _CMP_NLT_UQ));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c0, c1), _mm256_packs_epi32(c2, c3));
    return (uint32_t)_mm256_movemask_epi8(/* packing went by halves of registers */
                                          _mm256_permutevar8x32_epi32(
                                              bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
WN_INLINE uint64_t wn_word_not_below(const float *p, wn_vf bound)
{
    return wn_half_word_not_below(p, bound) | (uint64_t)wn_half_word_not_below(p + 32, bound) << 32;
}

/* For each mask, which lane comes to place i: the hexadecimal digit i. */
#define WN_LANE(m, i)                                                                              \
    ((m) >> (i)&1u ? (uint32_t)(i) << 4 * __builtin_popcount((m) & ((1u << (i)) - 1)) : 0u)
#define WN_ORDER(m)                                                                                \
    (WN_LANE(m, 0) | WN_LANE(m, 1) | WN_LANE(m, 2) | WN_LANE(m, 3) | WN_LANE(m, 4) |               \
     WN_LANE(m, 5) | WN_LANE(m, 6) | WN_LANE(m, 7))
#define WN_ORDER_4(m) WN_ORDER(m), WN_ORDER((m) + 1u), WN_ORDER((m) + 2u), WN_ORDER((m) + 3u)
#define WN_ORDER_16(m)                                                                             \
    WN_ORDER_4(m), WN_ORDER_4((m) + 4u), WN_ORDER_4((m) + 8u), WN_ORDER_4((m) + 12u)
#define WN_ORDER_64(m)                                                                             \
    WN_ORDER_16(m), WN_ORDER_16((m) + 16u), WN_ORDER_16((m) + 32u), WN_ORDER_16((m) + 48u)
static const uint32_t wn_lane_order[256] = {WN_ORDER_64(0u), WN_ORDER_64(64u), WN_ORDER_64(128u),
                                            WN_ORDER_64(192u)};

/* The permutation reads the low three bits of each lane. */
WN_INLINE wn_vi wn_pack_order(uint32_t mask)
{
    return _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)wn_lane_order[mask]),
                             _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
}
WN_INLINE void wn_pack_ints(int32_t *to, uint32_t mask, wn_vi x)
{
    _mm256_storeu_si256((__m256i *)to, _mm256_permutevar8x32_epi32(x, wn_pack_order(mask)));
}
WN_INLINE void wn_pack_pairs(float *to, int32_t *to_index, uint32_t mask, wn_vf x, wn_vi index)
{
    wn_vi order = wn_pack_order(mask);
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(x, order));
    _mm256_storeu_si256((__m256i *)to_index, _mm256_permutevar8x32_epi32(index, order));
}

#endif

/* The first n lanes, 0 <= n <= WN_VL, then -inf. */
WN_INLINE wn_vf wn_vf_load_scores(const float *p, int64_t n)
{
    return wn_vf_select(wn_vm_first(n), wn_vf_set(-INFINITY), wn_vf_load_first(p, n));
}

#endif
