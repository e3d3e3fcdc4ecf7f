/* rounding.h: vectors of floats to and from the narrow types, with the very bits of
 * kernels/number_format.h, and the means to round once: what a kernel knows more exactly than a
 * float holds (a quotient, a product, a double) goes through the float that is rounded to odd.
 *
 * Rounded to odd: a number between two floats becomes the one of the two whose last bit is 1. All
 * narrow types have at least two bits less than a float, so that rounding it again, to nearest
 * even, gives what one rounding of the exact number would have given: ties stay ties, and nothing
 * else becomes one. */
#ifndef WN_CPU_ROUNDING_H
#define WN_CPU_ROUNDING_H

#include "kernels/cpu/vector.h"

/* Lanes of a wn_vf as integers, for operators. */
typedef uint32_t wn_lanes __attribute__((vector_size(4 * WN_VL)));
typedef int32_t wn_signed_lanes __attribute__((vector_size(4 * WN_VL)));

/* b where the lane of mask is all ones, else a. */
WN_INLINE wn_lanes wn_lanes_select(wn_signed_lanes mask, wn_lanes a, wn_lanes b)
{
#ifdef __AVX512F__
    return ((wn_lanes)mask & b) | (~(wn_lanes)mask & a);
#else
    return (wn_lanes)_mm256_blendv_epi8((__m256i)a, (__m256i)b, (__m256i)mask);
#endif
}
WN_INLINE wn_lanes wn_lanes_min(wn_lanes a, wn_lanes b)
{
#ifdef __AVX512F__
    return (wn_lanes)_mm512_min_epu32((__m512i)a, (__m512i)b);
#else
    return (wn_lanes)_mm256_min_epu32((__m256i)a, (__m256i)b);
#endif
}
WN_INLINE wn_lanes wn_lanes_set(uint32_t x)
{
    return x + (wn_lanes){0};
}

/* ---------------------------------------------------------------- rounding to odd */

#ifdef __AVX512F__
/* A quotient or product cut towards zero, whose last bit is set where something was cut. */
WN_INLINE wn_vf wn_vf_odd_quotient(wn_vf x, wn_vf divisor)
{
    wn_vf cut = _mm512_div_round_ps(x, divisor, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __mmask16 inexact = _mm512_cmp_ps_mask(_mm512_fnmadd_ps(cut, divisor, x), wn_vf_zero(), 12);
    return (wn_vf)_mm512_mask_or_epi32((__m512i)cut, inexact, (__m512i)cut, _mm512_set1_epi32(1));
}
WN_INLINE wn_vf wn_vf_odd_product(wn_vf a, wn_vf b)
{
    wn_vf cut = _mm512_mul_round_ps(a, b, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __mmask16 inexact = _mm512_cmp_ps_mask(_mm512_fmsub_ps(a, b, cut), wn_vf_zero(), 12);
    return (wn_vf)_mm512_mask_or_epi32((__m512i)cut, inexact, (__m512i)cut, _mm512_set1_epi32(1));
}
#else
/* x: v rounded to nearest; error: of the sign of v - x, 0 or NaN where x is exact. v rounded to
 * odd. An x that overflowed to infinity goes back to the greatest float, which is odd. */
WN_INLINE wn_vf wn_vf_odd(wn_vf x, wn_vf error)
{
    wn_lanes bits = (wn_lanes)x;
    wn_signed_lanes outwards = (wn_signed_lanes)(bits ^ (wn_lanes)error) >> 31 | 1; /* 1 or -1 */
    wn_signed_lanes inexact = (wn_signed_lanes)_mm256_cmp_ps(error, wn_vf_zero(), _CMP_NEQ_OQ);
    wn_signed_lanes even = (bits & 1) == 0;
    return (wn_vf)(bits + (wn_lanes)(outwards & inexact & even));
}
WN_INLINE wn_vf wn_vf_odd_quotient(wn_vf x, wn_vf divisor)
{
    wn_vf quotient = wn_vf_div(x, divisor), remainder = _mm256_fnmadd_ps(quotient, divisor, x);
    return wn_vf_odd(quotient, (wn_vf)((wn_lanes)remainder ^ ((wn_lanes)divisor & 0x80000000)));
}
WN_INLINE wn_vf wn_vf_odd_product(wn_vf a, wn_vf b)
{
    wn_vf product = wn_vf_mul(a, b);
    return wn_vf_odd(product, _mm256_fmsub_ps(a, b, product));
}
#endif

/* x / divisor, rounded to odd. The remainder of a division is a float, as long as it does not fall
 * below the least one: small numerators are enlarged first, with their divisors. */
WN_INLINE wn_vf wn_vf_quotient(wn_vf x, wn_vf divisor)
{
    wn_signed_lanes small = wn_vf_abs(x) < wn_vf_set(0x1p-100f);
    wn_vf enlarge =
        (wn_vf)wn_lanes_select(small, (wn_lanes)wn_vf_set(1), (wn_lanes)wn_vf_set(0x1p60f));
    return wn_vf_odd_quotient(wn_vf_mul(x, enlarge), wn_vf_mul(divisor, enlarge));
}

/* a * b rounded to odd; below 2^-100 what was cut may be too little to be seen. */
WN_INLINE wn_vf wn_vf_product(wn_vf a, wn_vf b)
{
    return wn_vf_odd_product(a, b);
}

/* ---------------------------------------------------------------- to narrow types */

/* The low 8 bits of each lane. */
WN_INLINE void wn_lanes_store_bytes(void *p, wn_lanes x)
{
#ifdef __AVX512F__
    _mm_storeu_si128(p, _mm512_cvtepi32_epi8((__m512i)x));
#else
    const __m256i low =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i packed = _mm256_shuffle_epi8((__m256i)x, low);
    _mm_storel_epi64(
        p, _mm_unpacklo_epi32(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
#endif
}

/* The low 16 bits of each lane; the others must be 0. */
WN_INLINE void wn_lanes_store_halves(void *p, wn_lanes x)
{
#ifdef __AVX512F__
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16((__m512i)x));
#else
    _mm_storeu_si128(p, _mm_packus_epi32(_mm256_castsi256_si128((__m256i)x),
                                         _mm256_extracti128_si256((__m256i)x, 1)));
#endif
}

/* A float format of 8 bits, as in wn_round_magnitude: a normal number is rounded by a carry into
 * its kept bits, a denormal one by adding a number whose unit of the last place is its own. What is
 * greater than the greatest number saturates; 0x7f is NaN in both formats. */
WN_INLINE wn_lanes wn_vf_to_8_bits(wn_vf x, int mantissa_bits, int min_exponent, float greatest)
{
    int shift = 23 - mantissa_bits;
    wn_lanes magnitude = (wn_lanes)wn_vf_min(wn_vf_set(greatest), wn_vf_abs(x)); /* NaN passes */
    wn_lanes carried = magnitude + ((1u << (shift - 1)) - 1) + (magnitude >> shift & 1);
    wn_lanes normal = (carried >> shift) - ((uint32_t)(min_exponent + 126) << mantissa_bits);
    uint32_t anchor = (uint32_t)(127 + 23 + min_exponent - mantissa_bits) << 23;
    wn_vf shifted = wn_vf_add((wn_vf)magnitude, (wn_vf)wn_lanes_set(anchor));
    wn_signed_lanes is_denormal =
        (wn_signed_lanes)magnitude < (int32_t)((uint32_t)(127 + min_exponent) << 23);
    wn_lanes code = wn_lanes_select(is_denormal, normal, (wn_lanes)shifted - anchor);
    return wn_lanes_min(code, wn_lanes_set(0x7f)) | ((wn_lanes)x >> 24 & 0x80);
}

WN_INLINE wn_lanes wn_vf_to_bf16_bits(wn_vf x)
{
    wn_lanes bits = (wn_lanes)x;
    wn_lanes rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return wn_lanes_select(x != x, rounded, wn_lanes_set(0x7fc0));
}

WN_INLINE wn_lanes wn_vf_to_i8_bits(wn_vf x)
{
    wn_signed_lanes number = x == x;
    x = wn_vf_min(wn_vf_max(x, wn_vf_set(-128)), wn_vf_set(127));
    x = (wn_vf)((wn_lanes)x & (wn_lanes)number);
#ifdef __AVX512F__
    return (wn_lanes)_mm512_cvtps_epi32(x);
#else
    return (wn_lanes)_mm256_cvtps_epi32(x);
#endif
}

/* Rounds WN_VL floats to dtype (F32, F16, BF16, F8_E4M3, F8_E5M2, I8), to nearest even. */
WN_INLINE void wn_vf_to(uint32_t dtype, void *p, wn_vf x)
{
    switch (dtype) {
    case WN_F16:
#ifdef __AVX512F__
        _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
        _mm_storeu_si128(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#endif
        break;
    case WN_BF16:
        wn_lanes_store_halves(p, wn_vf_to_bf16_bits(x));
        break;
    case WN_F8_E4M3:
        wn_lanes_store_bytes(p, wn_vf_to_8_bits(x, 3, -6, 448));
        break;
    case WN_F8_E5M2:
        wn_lanes_store_bytes(p, wn_vf_to_8_bits(x, 2, -14, 57344));
        break;
    case WN_I8:
        wn_lanes_store_bytes(p, wn_vf_to_i8_bits(x));
        break;
    default:
        wn_vf_store(p, x);
    }
}

WN_INLINE size_t wn_vf_bytes_of(uint32_t dtype)
{
    return dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
}

/* The first n, 0 <= n <= WN_VL; nothing beyond them is written. */
WN_INLINE void wn_vf_to_first(uint32_t dtype, void *p, wn_vf x, int64_t n)
{
    uint8_t copy[4 * WN_VL];
    wn_vf_to(dtype, copy, x);
    memcpy(p, copy, wn_vf_bytes_of(dtype) * (size_t)n);
}

/* ---------------------------------------------------------------- from narrow types */

/* e5m2 is the upper half of an f16. */
WN_INLINE wn_vf wn_vf_from_e5m2(const void *p)
{
#ifdef __AVX512F__
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(p));
    return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
#else
    __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(p));
    return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
#endif
}

/* The first n of WN_VL elements of any dtype that wn_vf_to takes; n == WN_VL is the fast case. */
WN_INLINE wn_vf wn_vf_read(uint32_t dtype, const void *p, int64_t n)
{
    uint8_t copy[WN_VL] = {0};
    if (dtype != WN_F8_E5M2)
        return n == WN_VL ? wn_vf_from(dtype, p) : wn_vf_from_first(dtype, p, n);
    if (n == WN_VL)
        return wn_vf_from_e5m2(p);
    memcpy(copy, p, (size_t)n);
    return wn_vf_from_e5m2(copy);
}

#endif
