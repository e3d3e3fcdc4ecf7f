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

/* The bytes that are taken from the minimum and from the maximum. */
typedef struct wn_e5m2_choice {
    __mmask32 minimum, maximum;
} wn_e5m2_choice;

/* Masks end where the channels do: any number of them. */
WN_INLINE bool wn_e5m2_takes(int64_t dim)
{
    return dim > 0;
}
/* Where the two vectors hold a channel: they are the lower and the upper halves of 16 bytes each.
 */
WN_INLINE int64_t wn_e5m2_place(int64_t channel)
{
    return (channel & ~(int64_t)24) | (channel & 8) << 1 | (channel & 16) >> 1;
}
WN_INLINE wn_e5m2_choice wn_e5m2_choose(bool all, const uint8_t *keep_minimum,
                                        const uint8_t *keep_maximum)
{
    (void)all;
    return (wn_e5m2_choice){_mm256_movepi8_mask(_mm256_loadu_si256((const __m256i *)keep_minimum)),
                            _mm256_movepi8_mask(_mm256_loadu_si256((const __m256i *)keep_maximum))};
}
WN_INLINE void wn_e5m2_merge(bool all, const wn_e5m2_choice *choice, const uint8_t *minimum,
                             const uint8_t *maximum, wn_vf to[2])
{
    __m256i x = _mm256_maskz_loadu_epi8(choice->minimum, minimum), zero = _mm256_setzero_si256();
    (void)all;
    x = _mm256_mask_loadu_epi8(x, choice->maximum, maximum);
    to[0] = _mm512_cvtph_ps(_mm256_unpacklo_epi8(zero, x));
    to[1] = _mm512_cvtph_ps(_mm256_unpackhi_epi8(zero, x));
}

#else /* AVX2 */
#define WN_E5M2_CHUNK 16
#define WN_E5M2_ROWS 2

typedef struct wn_e5m2_choice {
    __m128i minimum, maximum;
} wn_e5m2_choice;

WN_INLINE bool wn_e5m2_takes(int64_t dim)
{
    return dim % WN_E5M2_CHUNK == 0;
}
WN_INLINE int64_t wn_e5m2_place(int64_t channel)
{
    return channel;
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
WN_INLINE void wn_e5m2_merge(bool all, const wn_e5m2_choice *choice, const uint8_t *minimum,
                             const uint8_t *maximum, wn_vf to[2])
{
    __m128i a = _mm_loadu_si128((const __m128i *)minimum), zero = _mm_setzero_si128();
    __m128i b = _mm_loadu_si128((const __m128i *)maximum);
    __m128i x = _mm_blendv_epi8(a, b, choice->maximum);
    if (!all)
        x = _mm_and_si128(x, _mm_or_si128(choice->minimum, choice->maximum));
    to[0] = _mm256_cvtph_ps(_mm_unpacklo_epi8(zero, x));
    to[1] = _mm256_cvtph_ps(_mm_unpackhi_epi8(zero, x));
}
#endif

#endif
