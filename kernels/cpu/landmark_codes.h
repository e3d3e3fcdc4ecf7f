/* landmark_codes.h: landmarks in e5m2 as floats, two vectors of channels at once. The codes of the
 * minimum and the maximum become one row before they are converted: half of the conversions. An
 * e5m2 is the upper half of an f16, so that beside zeros a byte is a number. */
#ifndef WN_CPU_LANDMARK_CODES_H
#define WN_CPU_LANDMARK_CODES_H

#include "kernels/cpu/vector.h"

#include <stdbool.h>

/* WN_E5M2_CHUNK: channels that are converted at once. WN_E5M2_ROWS: landmarks whose sums for four
 * heads stay in registers. */
#ifdef __AVX512F__
#define WN_E5M2_CHUNK 32
#define WN_E5M2_ROWS 4

typedef __m256i wn_e5m2_codes;
/* The bytes that are taken from the minimum and from the maximum. */
typedef struct wn_e5m2_choice {
    __mmask32 minimum, maximum;
} wn_e5m2_choice;

/* Masks end where the channels do: any number of them. */
WN_INLINE bool wn_e5m2_takes(int64_t dim)
{
    return dim > 0;
}
/* Puts a row of `padded` floats into the order of the two vectors: they are the lower and the upper
 * halves of 16 bytes each. */
WN_INLINE void wn_e5m2_order(float *row, int64_t padded)
{
    for (int64_t c = 0; c < padded; c += WN_E5M2_CHUNK) {
        wn_vf a = wn_vf_load(row + c), b = wn_vf_load(row + c + WN_VL);
        wn_vf_store(row + c, _mm512_shuffle_f32x4(a, b, 0x44));
        wn_vf_store(row + c + WN_VL, _mm512_shuffle_f32x4(a, b, 0xee));
    }
}
WN_INLINE wn_e5m2_choice wn_e5m2_choose(bool all, const uint8_t *keep_minimum,
                                        const uint8_t *keep_maximum)
{
    (void)all;
    return (wn_e5m2_choice){_mm256_movepi8_mask(_mm256_loadu_si256((const __m256i *)keep_minimum)),
                            _mm256_movepi8_mask(_mm256_loadu_si256((const __m256i *)keep_maximum))};
}
/* whole: all channels of the chunk are there. all: each is taken from one of the two. */
WN_INLINE wn_e5m2_codes wn_e5m2_merge(bool whole, bool all, const wn_e5m2_choice *choice,
                                      const uint8_t *minimum, const uint8_t *maximum)
{
    if (whole && all)
        return _mm256_mask_blend_epi8(choice->maximum, _mm256_loadu_si256((const __m256i *)minimum),
                                      _mm256_loadu_si256((const __m256i *)maximum));
    __m256i x = _mm256_maskz_loadu_epi8(choice->minimum, minimum);
    return _mm256_mask_loadu_epi8(x, choice->maximum, maximum);
}
/* One of the two vectors. */
WN_INLINE wn_vf wn_e5m2_half(wn_e5m2_codes x, int half)
{
    __m256i zero = _mm256_setzero_si256();
    return _mm512_cvtph_ps(half == 0 ? _mm256_unpacklo_epi8(zero, x)
                                     : _mm256_unpackhi_epi8(zero, x));
}

#else /* AVX2 */
#define WN_E5M2_CHUNK 16
#define WN_E5M2_ROWS 2

typedef __m128i wn_e5m2_codes;
typedef struct wn_e5m2_choice {
    __m128i minimum, maximum;
} wn_e5m2_choice;

WN_INLINE bool wn_e5m2_takes(int64_t dim)
{
    return dim % WN_E5M2_CHUNK == 0;
}
WN_INLINE void wn_e5m2_order(float *row, int64_t padded)
{
    (void)row;
    (void)padded;
}
/* all: each byte is taken from one of the two. */
WN_INLINE wn_e5m2_choice wn_e5m2_choose(bool all, const uint8_t *keep_minimum,
                                        const uint8_t *keep_maximum)
{
    wn_e5m2_choice choice;
    choice.maximum = _mm_loadu_si128((const __m128i *)keep_maximum);
    choice.minimum = all ? choice.maximum : _mm_loadu_si128((const __m128i *)keep_minimum);
    return choice;
}
WN_INLINE wn_e5m2_codes wn_e5m2_merge(bool whole, bool all, const wn_e5m2_choice *choice,
                                      const uint8_t *minimum, const uint8_t *maximum)
{
    __m128i a = _mm_loadu_si128((const __m128i *)minimum);
    __m128i b = _mm_loadu_si128((const __m128i *)maximum);
    __m128i x = _mm_blendv_epi8(a, b, choice->maximum);
    (void)whole; /* always */
    return all ? x : _mm_and_si128(x, _mm_or_si128(choice->minimum, choice->maximum));
}
WN_INLINE wn_vf wn_e5m2_half(wn_e5m2_codes x, int half)
{
    __m128i zero = _mm_setzero_si128();
    return _mm256_cvtph_ps(half == 0 ? _mm_unpacklo_epi8(zero, x) : _mm_unpackhi_epi8(zero, x));
}
#endif

#endif
