/* landmark_lanes.h: vectors of a landmark's channels as floats and back, in each dtype of
 * wn_landmark_view. All of them are exact in a float. */
#ifndef WN_CPU_LANDMARK_LANES_H
#define WN_CPU_LANDMARK_LANES_H

#include "kernels/cpu/vector.h"
#include "kernels/number_format.h"

/* Registers of WN_VL bytes and of WN_VL 16-bit codes. */
#ifdef __AVX512F__
typedef __m128i wn_codes_8;
typedef __m256i wn_codes_16;
WN_INLINE wn_codes_8 wn_codes_8_load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}
WN_INLINE wn_codes_16 wn_codes_16_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
WN_INLINE wn_codes_16 wn_codes_widen(wn_codes_8 x) /* to the upper halves */
{
    return _mm256_slli_epi16(_mm256_cvtepu8_epi16(x), 8);
}
WN_INLINE wn_vf wn_vf_from_f16_codes(wn_codes_16 x)
{
    return _mm512_cvtph_ps(x);
}
WN_INLINE wn_vf wn_vf_from_bf16_codes(wn_codes_16 x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
#else
typedef __m128i wn_codes_8, wn_codes_16;
WN_INLINE wn_codes_8 wn_codes_8_load(const uint8_t *p)
{
    return _mm_loadl_epi64((const __m128i *)p);
}
WN_INLINE wn_codes_16 wn_codes_16_load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}
WN_INLINE wn_codes_16 wn_codes_widen(wn_codes_8 x)
{
    return _mm_unpacklo_epi8(_mm_setzero_si128(), x);
}
WN_INLINE wn_vf wn_vf_from_f16_codes(wn_codes_16 x)
{
    return _mm256_cvtph_ps(x);
}
WN_INLINE wn_vf wn_vf_from_bf16_codes(wn_codes_16 x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
#endif

/* (a & keep_a) | (b & keep_b): WN_VL channels of a landmark, taken from its minimum and its maximum
 * by masks of all bits or none, as floats. With a constant dtype a few instructions. An e5m2 is the
 * upper half of an f16. */
WN_INLINE wn_vf wn_vf_merge_landmark(uint32_t dtype, const uint8_t *a, const uint8_t *keep_a,
                                     const uint8_t *b, const uint8_t *keep_b)
{
    if (dtype == WN_F8_E5M2 || dtype == WN_F8_E4M3) {
        wn_codes_8 x = (wn_codes_8_load(a) & wn_codes_8_load(keep_a)) |
                       (wn_codes_8_load(b) & wn_codes_8_load(keep_b));
        uint8_t copy[16];
        if (dtype == WN_F8_E5M2)
            return wn_vf_from_f16_codes(wn_codes_widen(x));
        _mm_storeu_si128((__m128i *)copy, x);
        return wn_vf_from_e4m3(copy);
    }
    if (dtype == WN_F32) {
        wn_vi x = ((wn_vi)wn_vf_load((const float *)a) & (wn_vi)wn_vf_load((const float *)keep_a)) |
                  ((wn_vi)wn_vf_load((const float *)b) & (wn_vi)wn_vf_load((const float *)keep_b));
        return wn_vi_as_float(x);
    }
    wn_codes_16 x = (wn_codes_16_load(a) & wn_codes_16_load(keep_a)) |
                    (wn_codes_16_load(b) & wn_codes_16_load(keep_b));
    return dtype == WN_F16 ? wn_vf_from_f16_codes(x) : wn_vf_from_bf16_codes(x);
}

/* WN_VL channels. */
WN_INLINE wn_vf wn_vf_from_landmark(uint32_t dtype, const uint8_t *p)
{
    if (dtype == WN_F8_E5M2)
        return wn_vf_from_f16_codes(wn_codes_widen(wn_codes_8_load(p)));
    return wn_vf_from(dtype, p);
}

typedef uint32_t wn_lanes __attribute__((vector_size(4 * WN_VL)));

/* a where mask is all ones, b where it is 0 */
WN_INLINE wn_lanes wn_lanes_choose(wn_lanes mask, wn_lanes a, wn_lanes b)
{
    return (a & mask) | (b & ~mask);
}

/* The codes of x in a format: rounded once, to nearest even, cut at `greatest`; zeros are +0. A
 * float's exponent and mantissa are one number, whose lower bits are rounded off. Below the
 * format's least normal its codes are evenly spaced, as floats are beside a greater one, whose
 * addition then does the rounding. */
WN_INLINE wn_lanes wn_round_lanes(wn_vf x, int mantissa_bits, int min_exponent, uint32_t greatest,
                                  uint32_t nan, int sign_at)
{
    int shift = 23 - mantissa_bits;
    wn_lanes bits = (wn_lanes)x, magnitude = bits & 0x7fffffffu;
    wn_lanes code = (magnitude + ((1u << (shift - 1)) - 1) + (magnitude >> shift & 1)) >> shift;
    code -= (uint32_t)(min_exponent + 126) << mantissa_bits;
    if (min_exponent > -126) {
        uint32_t beside_bits = (uint32_t)(min_exponent - mantissa_bits + 23 + 127) << 23;
        float beside;
        memcpy(&beside, &beside_bits, sizeof beside);
        wn_lanes even = (wn_lanes)wn_vf_add((wn_vf)magnitude, wn_vf_set(beside)) - beside_bits;
        wn_lanes is_normal = (wn_lanes)(magnitude >= (uint32_t)(min_exponent + 127) << 23);
        code = wn_lanes_choose(is_normal, code, even);
    }
    code = wn_lanes_choose((wn_lanes)(code > greatest), (wn_lanes){0} + greatest, code);
    code |= (bits >> 31 << sign_at) & (wn_lanes)(code != 0);
    return wn_lanes_choose((wn_lanes)(magnitude > 0x7f800000u), (wn_lanes){0} + nan, code);
}

/* The low 16 bits, or the low bytes, of each lane. */
WN_INLINE wn_codes_16 wn_codes_16_of(wn_lanes x)
{
#ifdef __AVX512F__
    return _mm512_cvtepi32_epi16((__m512i)x);
#else
    return _mm_packus_epi32(_mm256_castsi256_si128((__m256i)x),
                            _mm256_extracti128_si256((__m256i)x, 1));
#endif
}
WN_INLINE wn_codes_8 wn_codes_8_of(wn_lanes x)
{
#ifdef __AVX512F__
    return _mm512_cvtepi32_epi8((__m512i)x);
#else
    return _mm_packus_epi16(wn_codes_16_of(x), _mm_setzero_si128());
#endif
}

/* Rounds the first n lanes to the dtype and writes them; zeros as +0. */
WN_INLINE void wn_store_landmark(uint32_t dtype, uint8_t *p, wn_vf x, int64_t n)
{
    uint8_t copy[4 * WN_VL];
    int64_t bytes = wn_number_bytes(dtype);
    uint8_t *to = n == WN_VL ? p : copy;
    if (dtype == WN_F32)
        wn_vf_store((float *)to, wn_vf_add(x, wn_vf_zero()));
    if (dtype == WN_BF16 || dtype == WN_F16) {
        wn_codes_16 code =
            wn_codes_16_of(dtype == WN_BF16 ? wn_round_lanes(x, 7, -126, 0x7f80, 0x7fc0, 15)
                                            : wn_round_lanes(x, 10, -14, 0x7c00, 0x7e00, 15));
        memcpy(to, &code, 2 * WN_VL);
    }
    if (dtype == WN_F8_E5M2 || dtype == WN_F8_E4M3) {
        wn_codes_8 code =
            wn_codes_8_of(dtype == WN_F8_E5M2 ? wn_round_lanes(x, 2, -14, 0x7b, 0x7e, 7)
                                              : wn_round_lanes(x, 3, -6, 0x7e, 0x7f, 7));
        memcpy(to, &code, WN_VL);
    }
    if (n < WN_VL)
        memcpy(p, copy, (size_t)(n * bytes));
}

#endif
