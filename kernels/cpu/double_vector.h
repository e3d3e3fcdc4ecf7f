/* double_vector.h: a vector of doubles, half as many as wn_vf has floats, for the few kernels whose
 * results must hold where floats cancel: rotations, transforms, merged sums. Arithmetic is written
 * with operators (the compiler may not contract it); a product that is added is wn_vd_fma. */
#ifndef WN_CPU_DOUBLE_VECTOR_H
#define WN_CPU_DOUBLE_VECTOR_H

#include "kernels/cpu/vector.h"

enum { WN_VD = WN_VL / 2 };

#ifdef __AVX512F__
typedef __m512d wn_vd;
#else
typedef __m256d wn_vd;
#endif
typedef int64_t wn_long_lanes __attribute__((vector_size(8 * WN_VD)));

WN_INLINE wn_vd wn_vd_set(double x)
{
    return x - (wn_vd){0};
}
WN_INLINE wn_vd wn_vd_load(const double *p)
{
    wn_vd x;
    memcpy(&x, p, sizeof x);
    return x;
}
WN_INLINE void wn_vd_store(double *p, wn_vd x)
{
    memcpy(p, &x, sizeof x);
}

#ifdef __AVX512F__
/* a * b + c */
WN_INLINE wn_vd wn_vd_fma(wn_vd a, wn_vd b, wn_vd c)
{
    return _mm512_fmadd_pd(a, b, c);
}
WN_INLINE wn_vd wn_vd_from_floats(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}
WN_INLINE void wn_vd_to_floats(float *p, wn_vd x)
{
    _mm256_storeu_ps(p, _mm512_cvtpd_ps(x));
}
#else
WN_INLINE wn_vd wn_vd_fma(wn_vd a, wn_vd b, wn_vd c)
{
    return _mm256_fmadd_pd(a, b, c);
}
WN_INLINE wn_vd wn_vd_from_floats(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}
WN_INLINE void wn_vd_to_floats(float *p, wn_vd x)
{
    _mm_storeu_ps(p, _mm256_cvtpd_ps(x));
}
#endif

/* Is every lane of a comparison true? */
WN_INLINE int wn_vd_all(wn_long_lanes compared)
{
#ifdef __AVX512F__
    return _mm512_movepi64_mask((__m512i)compared) == 0xff;
#else
    return _mm256_movemask_pd((__m256d)compared) == 0xf;
#endif
}

/* The 53 bits of a double to the 24 of a float, rounded to odd (see rounding.h); what follows as a
 * conversion to float is exact for all that a float can hold as a normal number. */
WN_INLINE wn_vd wn_vd_odd(wn_vd x)
{
    wn_long_lanes bits = (wn_long_lanes)x, rest = bits & 0x1fffffff;
    return (wn_vd)((bits - rest) | ((rest + 0x1fffffff) & 0x20000000));
}

#endif
