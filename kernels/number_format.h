/* number_format.h: exact conversions between double and the element types of caches and tensors.
 * A double is rounded once, to nearest even, straight to the narrow type: going through float would
 * round twice. Integer arithmetic only, so that the results depend on no rounding mode and on no
 * flush-to-zero flag.
 *
 *   type   exponent  mantissa  least normal  greatest   overflow
 *   f16       5         10        2^-14        65504    infinity
 *   bf16      8          7        2^-126       3.39e38  infinity
 *   e4m3      4          3        2^-6         448      saturates; it has no infinity
 *   e5m2      5          2        2^-14        57344    saturates, infinities too
 *   i8        -          -        -            127      saturates to -128 .. 127; NaN becomes 0
 * NaN stays NaN in all others; its sign and payload are not kept. An e5m2 infinity that is already
 * stored reads back as infinity. */
#ifndef WN_NUMBER_FORMAT_H
#define WN_NUMBER_FORMAT_H

#include "winnow/tensor.h"

#include <math.h>
#include <string.h>

/* 2^exponent, for -1022 <= exponent <= 1023. */
static inline double wn_power_of_two(int exponent)
{
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* |x| (finite) in a format with this many mantissa bits and this least normal exponent, as the
 * code without its sign, not cut at the format's greatest. With e the exponent of x, but at least
 * min_exponent, and r the significand in units of the last place, the code is
 * (e - min_exponent) * 2^mantissa_bits + r, for normals and denormals alike: a normal's r carries
 * the leading one, which adds one to the exponent field. */
static inline uint32_t wn_round_magnitude(double x, int mantissa_bits, int min_exponent)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    uint64_t significand = (bits & 0xfffffffffffffULL) | 0x10000000000000ULL;
    int shift = 52 - mantissa_bits;
    if (exponent < min_exponent) {
        shift += min_exponent - exponent;
        exponent = min_exponent;
    }
    if (shift > 53) /* less than half of the least denormal; doubles' own denormals end here too */
        return 0;
    uint64_t kept = significand >> shift;
    uint64_t rest = significand & ((1ULL << shift) - 1);
    uint64_t half = 1ULL << (shift - 1);
    if (rest > half || (rest == half && (kept & 1)))
        kept++;
    return ((uint32_t)(exponent - min_exponent) << mantissa_bits) + (uint32_t)kept;
}

/* The number that a finite code without its sign stands for. */
static inline double wn_expand_magnitude(uint32_t code, int mantissa_bits, int min_exponent)
{
    uint32_t field = code >> mantissa_bits;
    uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
    if (field == 0)
        return mantissa * wn_power_of_two(min_exponent - mantissa_bits);
    return (mantissa + (1u << mantissa_bits)) *
           wn_power_of_two((int)field - 1 + min_exponent - mantissa_bits);
}

static inline uint16_t wn_f16_from_double(double x)
{
    uint32_t sign = signbit(x) ? 0x8000u : 0;
    if (isnan(x))
        return 0x7e00;
    uint32_t code = isinf(x) ? 0x7c00 : wn_round_magnitude(x, 10, -14);
    return (uint16_t)(sign | (code < 0x7c00 ? code : 0x7c00));
}

static inline double wn_f16_to_double(uint16_t bits)
{
    uint32_t code = bits & 0x7fffu;
    double magnitude = code > 0x7c00    ? (double)NAN
                       : code == 0x7c00 ? (double)INFINITY
                                        : wn_expand_magnitude(code, 10, -14);
    return bits & 0x8000u ? -magnitude : magnitude;
}

static inline uint16_t wn_bf16_from_double(double x)
{
    uint32_t sign = signbit(x) ? 0x8000u : 0;
    if (isnan(x))
        return 0x7fc0;
    uint32_t code = isinf(x) ? 0x7f80 : wn_round_magnitude(x, 7, -126);
    return (uint16_t)(sign | (code < 0x7f80 ? code : 0x7f80));
}

/* A bfloat16 is the upper half of a float. */
static inline double wn_bf16_to_double(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint8_t wn_e4m3_from_double(double x)
{
    uint32_t sign = signbit(x) ? 0x80u : 0;
    if (isnan(x))
        return 0x7f;
    uint32_t code = isinf(x) ? 0x7e : wn_round_magnitude(x, 3, -6);
    return (uint8_t)(sign | (code < 0x7e ? code : 0x7e));
}

static inline double wn_e4m3_to_double(uint8_t bits)
{
    uint32_t code = bits & 0x7fu;
    double magnitude = code == 0x7f ? (double)NAN : wn_expand_magnitude(code, 3, -6);
    return bits & 0x80u ? -magnitude : magnitude;
}

static inline uint8_t wn_e5m2_from_double(double x)
{
    uint32_t sign = signbit(x) ? 0x80u : 0;
    if (isnan(x))
        return 0x7e;
    uint32_t code = isinf(x) ? 0x7b : wn_round_magnitude(x, 2, -14);
    return (uint8_t)(sign | (code < 0x7b ? code : 0x7b));
}

/* The upper half of an f16. */
static inline double wn_e5m2_to_double(uint8_t bits)
{
    return wn_f16_to_double((uint16_t)((uint32_t)bits << 8));
}

static inline int8_t wn_i8_from_double(double x)
{
    if (isnan(x))
        return 0;
    if (x >= 127)
        return 127;
    if (x <= -128)
        return -128;
    double below = floor(x), rest = x - below;
    int code = (int)below;
    return (int8_t)(rest > 0.5 || (rest == 0.5 && code % 2 != 0) ? code + 1 : code);
}

/* Bytes of one element; 0 for a dtype that is no number here. */
static inline uint32_t wn_number_bytes(uint32_t dtype)
{
    switch (dtype) {
    case WN_F32:
        return 4;
    case WN_F16:
    case WN_BF16:
        return 2;
    case WN_F8_E4M3:
    case WN_F8_E5M2:
    case WN_I8:
        return 1;
    default:
        return 0;
    }
}

/* What quantisation maps a row's greatest magnitude to: 448, 57344, 127; 0 for a dtype that is not
 * quantised. */
static inline double wn_greatest_code(uint32_t dtype)
{
    return dtype == WN_F8_E4M3 ? 448 : dtype == WN_F8_E5M2 ? 57344 : dtype == WN_I8 ? 127 : 0;
}

/* The scale of a row of numbers whose greatest finite magnitude is given: magnitude / greatest
 * code; 1 where that is 0 in a float. */
static inline float wn_scale_of(double magnitude, uint32_t dtype)
{
    float scale = (float)(magnitude / wn_greatest_code(dtype));
    return scale > 0 ? scale : 1;
}

/* The least power of two that is not below x, for a normal x > 0. */
static inline float wn_power_of_two_above(float x)
{
    int exponent;
    float fraction = frexpf(x, &exponent); /* in [1/2, 1) */
    return ldexpf(1, fraction > 0.5f ? exponent : exponent - 1);
}

/* Element `index` of an array of dtype, exactly. NaN for a dtype of 0 bytes. */
static inline double wn_load(const void *data, uint32_t dtype, int64_t index)
{
    switch (dtype) {
    case WN_F32:
        return ((const float *)data)[index];
    case WN_F16:
        return wn_f16_to_double(((const uint16_t *)data)[index]);
    case WN_BF16:
        return wn_bf16_to_double(((const uint16_t *)data)[index]);
    case WN_F8_E4M3:
        return wn_e4m3_to_double(((const uint8_t *)data)[index]);
    case WN_F8_E5M2:
        return wn_e5m2_to_double(((const uint8_t *)data)[index]);
    case WN_I8:
        return ((const int8_t *)data)[index];
    default:
        return (double)NAN;
    }
}

/* Rounds once and writes. Does nothing for a dtype of 0 bytes. */
static inline void wn_store(void *data, uint32_t dtype, int64_t index, double value)
{
    switch (dtype) {
    case WN_F32:
        ((float *)data)[index] = (float)value;
        break;
    case WN_F16:
        ((uint16_t *)data)[index] = wn_f16_from_double(value);
        break;
    case WN_BF16:
        ((uint16_t *)data)[index] = wn_bf16_from_double(value);
        break;
    case WN_F8_E4M3:
        ((uint8_t *)data)[index] = wn_e4m3_from_double(value);
        break;
    case WN_F8_E5M2:
        ((uint8_t *)data)[index] = wn_e5m2_from_double(value);
        break;
    case WN_I8:
        ((int8_t *)data)[index] = wn_i8_from_double(value);
        break;
    default:
        break;
    }
}

#endif
