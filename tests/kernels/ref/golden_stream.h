/* golden_stream.h: the stream of numbers that the golden values of sparse attention were computed
 * from, so that a test needs no stored inputs, and the checksum of those that are bytes. */
#ifndef WN_TESTS_GOLDEN_STREAM_H
#define WN_TESTS_GOLDEN_STREAM_H

#include <stdint.h>
#include <string.h>

/* A linear congruential generator; the next number of [-1/2, 1/2), a multiple of 2^-24. */
static inline double wn_golden_next(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(*state >> 40) / 16777216 - 0.5;
}

/* A finite number rounded to float, then to bfloat16, to nearest even: the upper half of a float.
 */
static inline uint16_t wn_golden_bf16_bits(double x)
{
    float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline double wn_golden_bf16(double x)
{
    uint32_t bits = (uint32_t)wn_golden_bf16_bits(x) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The CRC-32 of zlib. */
static inline uint32_t wn_golden_crc32(const void *data, size_t bytes)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= ((const uint8_t *)data)[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

#endif
