/* vector.h: one vector of floats, as wide as the variant's registers: what the kernels of this
 * folder are written in, so that a kernel is read once and compiled for each width. Where the width
 * itself decides how a kernel goes (blocks of accumulators, byte shuffles), it says so with
 * WN_VL or #if.
 *
 *   WN_VL  floats per vector: 8 with AVX2, 16 with AVX-512
 *
 * Nothing here reads or writes beyond the elements that it names. */
#ifndef WN_CPU_VECTOR_H
#define WN_CPU_VECTOR_H

#include "winnow/tensor.h"

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define WN_INLINE static inline __attribute__((always_inline, unused))

/* The lines of a row on their way into the first cache (near) or the second. Inlined by force, and
 * so must be what only calls it: gcc 12 finds that a function without other effects has none, and
 * drops its calls. */
WN_INLINE void wn_fetch_row(const void *row, int64_t bytes, const int near)
{
    for (int64_t i = 0; i < bytes; i += 64)
        if (near)
            _mm_prefetch((const char *)row + i, _MM_HINT_T0);
        else
            _mm_prefetch((const char *)row + i, _MM_HINT_T1);
}

/* Eight elements of a narrow type as floats, in every variant. */
WN_INLINE __m256 wn_eight_from_bf16(const void *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
WN_INLINE __m256 wn_eight_from_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
WN_INLINE __m256 wn_eight_from_i8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
/* e4m3: exponent and mantissa move to their place in a float of exponent 2^-120 too small, which
 * one multiplication puts right, denormals included; the two NaN codes are set apart. */
WN_INLINE __m256 wn_eight_from_e4m3(const void *p)
{
    __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(0x7f));
    __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(code, magnitude), 24);
    __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)),
                                 _mm256_set1_ps(0x1p120f));
    __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
    value = _mm256_blendv_ps(value, _mm256_set1_ps(NAN), _mm256_castsi256_ps(nan));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(value), sign));
}
/* Of dtype (F32, F16, BF16, F8_E4M3, I8): 8, 16 or 32 bytes. */
WN_INLINE __m256 wn_eight_from(uint32_t dtype, const void *p)
{
    switch (dtype) {
    case WN_F16:
        return wn_eight_from_f16(p);
    case WN_BF16:
        return wn_eight_from_bf16(p);
    case WN_F8_E4M3:
        return wn_eight_from_e4m3(p);
    case WN_I8:
        return wn_eight_from_i8(p);
    default:
        return _mm256_loadu_ps((const float *)p);
    }
}

#ifdef __AVX512F__

enum { WN_VL = 16 };
typedef __m512 wn_vf;
typedef __m512i wn_vi;   /* WN_VL int32 */
typedef __mmask16 wn_vm; /* a bit per lane */

WN_INLINE wn_vf wn_vf_zero(void)
{
    return _mm512_setzero_ps();
}
WN_INLINE wn_vf wn_vf_set(float x)
{
    return _mm512_set1_ps(x);
}
WN_INLINE wn_vf wn_vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
WN_INLINE void wn_vf_store(float *p, wn_vf x)
{
    _mm512_storeu_ps(p, x);
}
WN_INLINE wn_vf wn_vf_add(wn_vf a, wn_vf b)
{
    return _mm512_add_ps(a, b);
}
WN_INLINE wn_vf wn_vf_sub(wn_vf a, wn_vf b)
{
    return _mm512_sub_ps(a, b);
}
WN_INLINE wn_vf wn_vf_mul(wn_vf a, wn_vf b)
{
    return _mm512_mul_ps(a, b);
}
WN_INLINE wn_vf wn_vf_div(wn_vf a, wn_vf b)
{
    return _mm512_div_ps(a, b);
}
/* a * b + c */
WN_INLINE wn_vf wn_vf_fma(wn_vf a, wn_vf b, wn_vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* As the instruction: b where either is NaN or both are zero. */
WN_INLINE wn_vf wn_vf_max(wn_vf a, wn_vf b)
{
    return _mm512_max_ps(a, b);
}
WN_INLINE wn_vf wn_vf_min(wn_vf a, wn_vf b)
{
    return _mm512_min_ps(a, b);
}
WN_INLINE wn_vf wn_vf_abs(wn_vf a)
{
    return _mm512_abs_ps(a);
}
WN_INLINE wn_vm wn_vf_less(wn_vf a, wn_vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
WN_INLINE wn_vm wn_vf_is_nan(wn_vf a)
{
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
WN_INLINE uint32_t wn_vm_bits(wn_vm m)
{
    return m;
}
/* b where the lane of m is set, else a */
WN_INLINE wn_vf wn_vf_select(wn_vm m, wn_vf a, wn_vf b)
{
    return _mm512_mask_blend_ps(m, a, b);
}
/* The first n lanes, 0 <= n <= WN_VL; the others are 0 and are not read or written. */
WN_INLINE wn_vm wn_vm_first(int64_t n)
{
    return (wn_vm)((1u << n) - 1);
}
WN_INLINE wn_vf wn_vf_load_first(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(wn_vm_first(n), p);
}
WN_INLINE void wn_vf_store_first(float *p, wn_vf x, int64_t n)
{
    _mm512_mask_storeu_ps(p, wn_vm_first(n), x);
}
WN_INLINE wn_vi wn_vf_bits(wn_vf a)
{
    return _mm512_castps_si512(a);
}
WN_INLINE wn_vf wn_vi_as_float(wn_vi a)
{
    return _mm512_castsi512_ps(a);
}
WN_INLINE wn_vi wn_vi_set(int32_t x)
{
    return _mm512_set1_epi32(x);
}
WN_INLINE wn_vi wn_vi_add(wn_vi a, wn_vi b)
{
    return _mm512_add_epi32(a, b);
}
WN_INLINE wn_vi wn_vi_shift_left(wn_vi a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}
/* In a fixed order that depends on WN_VL alone. */
WN_INLINE float wn_vf_sum(wn_vf a)
{
    return _mm512_reduce_add_ps(a);
}

/* WN_VL elements of a narrow type as floats. */
WN_INLINE wn_vf wn_vf_from_bf16(const void *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
WN_INLINE wn_vf wn_vf_from_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
WN_INLINE wn_vf wn_vf_from_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* e4m3: exponent and mantissa move to their place in a float of exponent 2^-120 too small, which
 * one multiplication puts right, denormals included; the two NaN codes are set apart. */
WN_INLINE wn_vf wn_vf_from_e4m3(const void *p)
{
    __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(0x7f));
    __m512i sign = _mm512_slli_epi32(_mm512_xor_si512(code, magnitude), 24);
    __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)),
                                 _mm512_set1_ps(0x1p120f));
    __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
    value = _mm512_mask_blend_ps(nan, value, _mm512_set1_ps(NAN));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
}

#else /* AVX2 */

enum { WN_VL = 8 };
typedef __m256 wn_vf;
typedef __m256i wn_vi;
typedef __m256 wn_vm; /* all bits of a lane set, or none */

WN_INLINE wn_vf wn_vf_zero(void)
{
    return _mm256_setzero_ps();
}
WN_INLINE wn_vf wn_vf_set(float x)
{
    return _mm256_set1_ps(x);
}
WN_INLINE wn_vf wn_vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
WN_INLINE void wn_vf_store(float *p, wn_vf x)
{
    _mm256_storeu_ps(p, x);
}
WN_INLINE wn_vf wn_vf_add(wn_vf a, wn_vf b)
{
    return _mm256_add_ps(a, b);
}
WN_INLINE wn_vf wn_vf_sub(wn_vf a, wn_vf b)
{
    return _mm256_sub_ps(a, b);
}
WN_INLINE wn_vf wn_vf_mul(wn_vf a, wn_vf b)
{
    return _mm256_mul_ps(a, b);
}
WN_INLINE wn_vf wn_vf_div(wn_vf a, wn_vf b)
{
    return _mm256_div_ps(a, b);
}
WN_INLINE wn_vf wn_vf_fma(wn_vf a, wn_vf b, wn_vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
WN_INLINE wn_vf wn_vf_max(wn_vf a, wn_vf b)
{
    return _mm256_max_ps(a, b);
}
WN_INLINE wn_vf wn_vf_min(wn_vf a, wn_vf b)
{
    return _mm256_min_ps(a, b);
}
WN_INLINE wn_vf wn_vf_abs(wn_vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
WN_INLINE wn_vm wn_vf_less(wn_vf a, wn_vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
WN_INLINE wn_vm wn_vf_is_nan(wn_vf a)
{
    return _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
}
WN_INLINE uint32_t wn_vm_bits(wn_vm m)
{
    return (uint32_t)_mm256_movemask_ps(m);
}
WN_INLINE wn_vf wn_vf_select(wn_vm m, wn_vf a, wn_vf b)
{
    return _mm256_blendv_ps(a, b, m);
}
WN_INLINE wn_vm wn_vm_first(int64_t n)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)n),
                                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
WN_INLINE wn_vf wn_vf_load_first(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, _mm256_castps_si256(wn_vm_first(n)));
}
WN_INLINE void wn_vf_store_first(float *p, wn_vf x, int64_t n)
{
    _mm256_maskstore_ps(p, _mm256_castps_si256(wn_vm_first(n)), x);
}
WN_INLINE wn_vi wn_vf_bits(wn_vf a)
{
    return _mm256_castps_si256(a);
}
WN_INLINE wn_vf wn_vi_as_float(wn_vi a)
{
    return _mm256_castsi256_ps(a);
}
WN_INLINE wn_vi wn_vi_set(int32_t x)
{
    return _mm256_set1_epi32(x);
}
WN_INLINE wn_vi wn_vi_add(wn_vi a, wn_vi b)
{
    return _mm256_add_epi32(a, b);
}
WN_INLINE wn_vi wn_vi_shift_left(wn_vi a, int n)
{
    return _mm256_slli_epi32(a, n);
}
WN_INLINE float wn_vf_sum(wn_vf a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

WN_INLINE wn_vf wn_vf_from_bf16(const void *p)
{
    return wn_eight_from_bf16(p);
}
WN_INLINE wn_vf wn_vf_from_f16(const void *p)
{
    return wn_eight_from_f16(p);
}
WN_INLINE wn_vf wn_vf_from_i8(const void *p)
{
    return wn_eight_from_i8(p);
}
WN_INLINE wn_vf wn_vf_from_e4m3(const void *p)
{
    return wn_eight_from_e4m3(p);
}

#endif

/* WN_VL elements of dtype (F32, F16, BF16, F8_E4M3, I8) at p as floats. With a constant dtype this
 * is one of the loads above. */
WN_INLINE wn_vf wn_vf_from(uint32_t dtype, const void *p)
{
    switch (dtype) {
    case WN_F16:
        return wn_vf_from_f16(p);
    case WN_BF16:
        return wn_vf_from_bf16(p);
    case WN_F8_E4M3:
        return wn_vf_from_e4m3(p);
    case WN_I8:
        return wn_vf_from_i8(p);
    default:
        return wn_vf_load(p);
    }
}

/* The first n elements, 0 <= n <= WN_VL; nothing beyond them is read, other lanes are 0. */
WN_INLINE wn_vf wn_vf_from_first(uint32_t dtype, const void *p, int64_t n)
{
    uint8_t copy[4 * WN_VL] = {0};
    size_t bytes = dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
    if (dtype == WN_F32)
        return wn_vf_load_first(p, n);
    memcpy(copy, p, bytes * (size_t)n);
    return wn_vf_from(dtype, copy);
}

/* 2^x for x <= 64; 0 for x <= -127, NaN for NaN. Relative error below 2e-7 where x is exact. The
 * polynomial is a minimax fit of 2^f on [-1/2, 1/2], of degree 5 and 1 at 0, so that the least
 * exponent makes 0 without a comparison; the integer part goes into the exponent. */
WN_INLINE wn_vf wn_vf_exp2(wn_vf x)
{
    const wn_vf shifter = wn_vf_set(0x1.8p23f);
    wn_vf in = wn_vf_max(wn_vf_set(-127.0f), x); /* NaN passes: it is the second operand */
    wn_vf t = wn_vf_add(in, shifter), f = wn_vf_sub(in, wn_vf_sub(t, shifter));
    wn_vf p = wn_vf_set(1.3264726e-3f);
    p = wn_vf_fma(p, f, wn_vf_set(9.6715130e-3f));
    p = wn_vf_fma(p, f, wn_vf_set(5.5507336e-2f));
    p = wn_vf_fma(p, f, wn_vf_set(2.4022242e-1f));
    p = wn_vf_fma(p, f, wn_vf_set(6.9314700e-1f));
    p = wn_vf_fma(p, f, wn_vf_set(1.0f));
    return wn_vi_as_float(wn_vi_add(wn_vf_bits(p), wn_vi_shift_left(wn_vf_bits(t), 23)));
}

#endif
