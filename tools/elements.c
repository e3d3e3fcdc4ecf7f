/* elements.c: widening to float. Everything but float64 widens exactly. */
#include "tools/elements.h"

#include <math.h>
#include <string.h>

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE half: 1 sign, 5 exponent, 10 fraction bits. */
static float from_half(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                      : exponent == 0 ? ldexpf((float)fraction, -24)
                                      : ldexpf((float)(fraction + 1024), exponent - 25);
    return half >> 15 ? -magnitude : magnitude;
}

void wn_elements_read(uint32_t dtype, const void *data, int64_t first, int64_t count, float *to)
{
    const uint16_t *halves = data;
    const double *doubles = data;
    switch (dtype) {
    case WN_F32:
        memcpy(to, (const float *)data + first, (size_t)count * sizeof *to);
        break;
    case WN_BF16:
        for (int64_t i = 0; i < count; i++)
            to[i] = from_bits((uint32_t)halves[first + i] << 16);
        break;
    case WN_F16:
        for (int64_t i = 0; i < count; i++)
            to[i] = from_half(halves[first + i]);
        break;
    default:
        for (int64_t i = 0; i < count; i++)
            to[i] = (float)doubles[first + i];
    }
}

uint32_t wn_elements_bytes(uint32_t dtype)
{
    return dtype == WN_F64 ? 8 : dtype == WN_F32 ? 4 : 2;
}
