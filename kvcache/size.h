/* size.h: 64-bit byte counts that saturate instead of wrapping round, so that a whole sum of
 * products needs one check at its end. Counts above WN_SIZE_MOST cannot be mapped or addressed. */
#ifndef WN_SIZE_H
#define WN_SIZE_H

#include <stdint.h>

#define WN_SIZE_MOST ((uint64_t)INT64_MAX)

static inline uint64_t wn_size_product(uint64_t a, uint64_t b)
{
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static inline uint64_t wn_size_sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Up to a multiple of `unit`, a power of two. */
static inline uint64_t wn_size_round_up(uint64_t a, uint64_t unit)
{
    return a > UINT64_MAX - (unit - 1) ? UINT64_MAX : (a + unit - 1) & ~(unit - 1);
}

#endif
