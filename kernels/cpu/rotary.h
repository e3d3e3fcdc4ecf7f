/* rotary.h: the rotary position embedding of kernels/rotation.h in vectors of doubles: floats would
 * not do, for the two products of a channel may cancel. Frequencies are made once per call, sines
 * and cosines once per token, and a head's vector is turned from one row of floats to another. */
#ifndef WN_CPU_ROTARY_H
#define WN_CPU_ROTARY_H

#include "kernels/cpu/double_vector.h"
#include "kernels/cpu/row.h"

enum { WN_MAX_PAIRS = WN_MAX_HEAD_DIM / 2 };

/* Of a call. */
typedef struct wn_rotary {
    uint32_t kind; /* WN_ROPE_... */
    int64_t pairs, offset;
    double frequency[WN_MAX_PAIRS + WN_VD];
} wn_rotary;

/* Of a token: per pair with half-split pairs; with interleaved ones per channel, the sine of a
 * pair's first channel negated. */
typedef struct wn_turn {
    double cosine[WN_MAX_HEAD_DIM + 2 * WN_VD], sine[WN_MAX_HEAD_DIM + 2 * WN_VD];
} wn_turn;

/* 2^x for |x| < 1000: the integer part into the exponent, the Taylor series of exp for the rest, of
 * magnitude below 0.35: 13 terms leave 1e-17. */
WN_INLINE wn_vd wn_vd_exp2(wn_vd x)
{
    static const double inverse_factorial[] = {1.0,
                                               1.0,
                                               1.0 / 2,
                                               1.0 / 6,
                                               1.0 / 24,
                                               1.0 / 120,
                                               1.0 / 720,
                                               1.0 / 5040,
                                               1.0 / 40320,
                                               1.0 / 362880,
                                               1.0 / 3628800,
                                               1.0 / 39916800,
                                               1.0 / 479001600};
    const wn_vd shifter = wn_vd_set(0x1.8p52);
    wn_vd shifted = x + shifter, f = (x - (shifted - shifter)) * 0.693147180559945309417;
    wn_vd p = wn_vd_set(inverse_factorial[12]);
    for (int i = 11; i >= 0; i--)
        p = wn_vd_fma(p, f, wn_vd_set(inverse_factorial[i]));
    return (wn_vd)((wn_long_lanes)p + ((wn_long_lanes)shifted << 52));
}

/* Sine and cosine for |x| <= 2^30: x less a multiple of pi/2, of which two doubles hold 106 bits
 * (the first subtraction is exact), then Taylor series on [-pi/4, pi/4], whose remainders are below
 * 5e-17. The quadrant exchanges and negates. */
WN_INLINE void wn_vd_sincos(wn_vd x, wn_vd *sine, wn_vd *cosine)
{
    static const double s_term[] = {
        -1.0 / 6,        1.0 / 120,        -1.0 / 5040,         1.0 / 362880,
        -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000};
    static const double c_term[] = {
        -1.0 / 2,       1.0 / 24,        -1.0 / 720,         1.0 / 40320,
        -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000};
    const wn_vd shifter = wn_vd_set(0x1.8p52);
    wn_vd shifted = wn_vd_fma(x, wn_vd_set(0.636619772367581343076), shifter);
    wn_vd turns = shifted - shifter;
    wn_long_lanes quadrant = (wn_long_lanes)shifted;
    wn_vd r = wn_vd_fma(turns, wn_vd_set(-0x1.921fb54442d18p0), x);
    r = wn_vd_fma(turns, wn_vd_set(-0x1.1a62633145c07p-54), r);
    wn_vd square = r * r, s = wn_vd_set(s_term[6]), c = wn_vd_set(c_term[7]);
    for (int i = 5; i >= 0; i--)
        s = wn_vd_fma(s, square, wn_vd_set(s_term[i]));
    for (int i = 6; i >= 0; i--)
        c = wn_vd_fma(c, square, wn_vd_set(c_term[i]));
    s = wn_vd_fma(s * square, r, r);
    c = wn_vd_fma(c, square, wn_vd_set(1));
    wn_long_lanes swap = -(quadrant & 1);
    wn_long_lanes s_sign = (quadrant & 2) << 62, c_sign = ((quadrant + 1) & 2) << 62;
    *sine = (wn_vd)((((wn_long_lanes)c & swap) | ((wn_long_lanes)s & ~swap)) ^ s_sign);
    *cosine = (wn_vd)((((wn_long_lanes)s & swap) | ((wn_long_lanes)c & ~swap)) ^ c_sign);
}

/* args: of any op that has the fields rope, rope_dim, rope_offset, rope_theta and
 * rope_inverse_frequency. */
#define WN_ROTARY_OF(args, rotary)                                                                 \
    wn_rotary_make(rotary, (args)->rope, (args)->rope_dim, (args)->rope_offset,                    \
                   (args)->rope_theta, (args)->rope_inverse_frequency)

static inline void wn_rotary_make(wn_rotary *r, uint32_t kind, uint32_t dim, uint32_t offset,
                                  float theta, const float *inverse_frequency)
{
    r->kind = kind;
    r->pairs = kind == WN_ROPE_NONE ? 0 : dim / 2;
    r->offset = offset;
    if (inverse_frequency != NULL) {
        for (int64_t i = 0; i < r->pairs; i++)
            r->frequency[i] = inverse_frequency[i];
    } else if (r->pairs > 0) {
        double step = -2.0 / dim * log2(theta);
        for (int64_t i = 0; i < r->pairs; i++)
            r->frequency[i] = (double)i * step;
        for (int64_t i = r->pairs; i < r->pairs + WN_VD; i++)
            r->frequency[i] = 0;
        for (int64_t i = 0; i < r->pairs; i += WN_VD)
            wn_vd_store(r->frequency + i, wn_vd_exp2(wn_vd_load(r->frequency + i)));
    }
    for (int64_t i = r->pairs; i < r->pairs + WN_VD; i++)
        r->frequency[i] = 0;
}

/* Angles that the reduction does not take, infinite frequencies among them, are libm's. */
static inline void wn_turn_far(wn_vd angle, wn_vd *sine, wn_vd *cosine)
{
    for (int i = 0; i < WN_VD; i++) {
        (*sine)[i] = sin(angle[i]);
        (*cosine)[i] = cos(angle[i]);
    }
}

static inline void wn_turn_make(wn_turn *t, const wn_rotary *r, int32_t position)
{
    for (int64_t i = 0; i < r->pairs; i += WN_VD) {
        wn_vd sine, cosine, angle = wn_vd_load(r->frequency + i) * (double)position;
        if (wn_vd_all((angle <= 0x1p30) & (angle >= -0x1p30)))
            wn_vd_sincos(angle, &sine, &cosine);
        else
            wn_turn_far(angle, &sine, &cosine);
        if (r->kind == WN_ROPE_HALF_SPLIT) {
            wn_vd_store(t->sine + i, sine);
            wn_vd_store(t->cosine + i, cosine);
            continue;
        }
        for (int lane = 0; lane < WN_VD; lane++) {
            t->cosine[2 * (i + lane)] = t->cosine[2 * (i + lane) + 1] = cosine[lane];
            t->sine[2 * (i + lane)] = -sine[lane];
            t->sine[2 * (i + lane) + 1] = sine[lane];
        }
    }
}

/* Rounded to odd if it is to be rounded again, to nearest if not. */
WN_INLINE void wn_turn_store(float *out, wn_vd x, int odd)
{
    wn_vd_to_floats(out, odd ? wn_vd_odd(x) : x);
}

/* x: the rotated channels of a row. Writes beyond the end of each half. */
WN_INLINE void wn_turn_halves(const wn_turn *t, const float *x, float *out, int64_t pairs, int odd)
{
    for (int64_t i = 0; i < pairs; i += WN_VD) {
        wn_vd a = wn_vd_from_floats(x + i), b = wn_vd_from_floats(x + pairs + i);
        wn_turn_store(out + i,
                      wn_vd_fma(a, wn_vd_load(t->cosine + i), -b * wn_vd_load(t->sine + i)), odd);
    }
    for (int64_t i = 0; i < pairs; i += WN_VD) {
        wn_vd a = wn_vd_from_floats(x + i), b = wn_vd_from_floats(x + pairs + i);
        wn_turn_store(out + pairs + i,
                      wn_vd_fma(b, wn_vd_load(t->cosine + i), a * wn_vd_load(t->sine + i)), odd);
    }
}

WN_INLINE void wn_turn_neighbours(const wn_turn *t, const float *x, float *out, int64_t pairs,
                                  int odd)
{
    for (int64_t i = 0; i < 2 * pairs; i += WN_VD) {
        wn_vd own = wn_vd_from_floats(x + i);
#ifdef __AVX512F__
        wn_vd other = _mm512_permute_pd(own, 0x55);
#else
        wn_vd other = _mm256_permute_pd(own, 0x5);
#endif
        wn_turn_store(out + i,
                      wn_vd_fma(own, wn_vd_load(t->cosine + i), other * wn_vd_load(t->sine + i)),
                      odd);
    }
}

/* Turns x[n] (a row) into out[n] (another row). narrow: out is to be rounded to a narrower type
 * than F32 and nothing else. */
static inline void wn_turn_apply(const wn_turn *t, const wn_rotary *r, const float *x, float *out,
                                 int64_t n, int narrow)
{
    int64_t pairs = r->pairs, first = r->offset, end = first + 2 * pairs;
    memcpy(out, x, (size_t)first * sizeof *out);
    if (r->kind == WN_ROPE_HALF_SPLIT && narrow)
        wn_turn_halves(t, x + first, out + first, pairs, 1);
    else if (r->kind == WN_ROPE_HALF_SPLIT)
        wn_turn_halves(t, x + first, out + first, pairs, 0);
    else if (narrow)
        wn_turn_neighbours(t, x + first, out + first, pairs, 1);
    else
        wn_turn_neighbours(t, x + first, out + first, pairs, 0);
    memcpy(out + end, x + end, (size_t)(n - end) * sizeof *out);
}

#endif
