/* landmark_lanes.h: vectors of a landmark's channels as floats and back, in each dtype of
 * wn_landmark_view. All of them are exact in a float. */
#ifndef WN_CPU_LANDMARK_LANES_H
#define WN_CPU_LANDMARK_LANES_H

#include "kernels/cpu/vector.h"
#include "kernels/number_format.h"

/* WN_VL channels; with a constant dtype a few instructions. An e5m2 is the upper half of an f16. */
WN_INLINE wn_vf wn_vf_from_landmark(uint32_t dtype, const uint8_t *p)
{
#ifdef __AVX512F__
    if (dtype == WN_F8_E5M2)
        return _mm512_cvtph_ps(
            _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 8));
#else
    if (dtype == WN_F8_E5M2)
        return _mm256_cvtph_ps(
            _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)p)));
#endif
    return wn_vf_from(dtype, p);
}

typedef uint32_t wn_lanes __attribute__((vector_size(4 * WN_VL)));
typedef uint16_t wn_lanes_16 __attribute__((vector_size(2 * WN_VL)));
typedef uint8_t wn_lanes_8 __attribute__((vector_size(WN_VL)));

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

/* Rounds the first n lanes to the dtype and writes them; zeros as +0. */
WN_INLINE void wn_store_landmark(uint32_t dtype, uint8_t *p, wn_vf x, int64_t n)
{
    uint8_t copy[4 * WN_VL];
    if (dtype == WN_F32) {
        wn_vf_store_first((float *)p, wn_vf_add(x, wn_vf_zero()), n);
        return;
    }
    if (dtype == WN_BF16 || dtype == WN_F16) {
        wn_lanes code = dtype == WN_BF16 ? wn_round_lanes(x, 7, -126, 0x7f80, 0x7fc0, 15)
                                         : wn_round_lanes(x, 10, -14, 0x7c00, 0x7e00, 15);
        wn_lanes_16 narrow = __builtin_convertvector(code, wn_lanes_16);
        memcpy(copy, &narrow, sizeof narrow);
        memcpy(p, copy, 2 * (size_t)n);
        return;
    }
    wn_lanes code = dtype == WN_F8_E5M2 ? wn_round_lanes(x, 2, -14, 0x7b, 0x7e, 7)
                                        : wn_round_lanes(x, 3, -6, 0x7e, 0x7f, 7);
    wn_lanes_8 narrow = __builtin_convertvector(code, wn_lanes_8);
    memcpy(copy, &narrow, sizeof narrow);
    memcpy(p, copy, (size_t)n);
}

#endif
