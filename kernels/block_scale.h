/* block_scale.h: how the scale of a block of numbers is found before they are quantised: the rules
 * WN_SCALE_EXACT and WN_SCALE_POWER_OF_TWO (winnow/ops.h), once. In float32 where the systems whose
 * caches we share compute in float32: a power of two must not differ by a rounding. */
#ifndef WN_BLOCK_SCALE_H
#define WN_BLOCK_SCALE_H

#include "kernels/number_format.h"
#include "winnow/ops.h"

/* amax: the block's greatest finite magnitude, a float; greatest: the code that it becomes. A block
 * of zeros, and one whose scale is 0 in a float, have scale 1. */
static inline float wn_block_scale_to(uint32_t rule, float amax, float least_amax, float greatest)
{
    float raised = amax < least_amax ? least_amax : amax;
    float scale = rule == WN_SCALE_POWER_OF_TWO ? raised * (1.0f / greatest) : raised / greatest;
    if (!(scale > 0))
        return 1;
    return rule == WN_SCALE_POWER_OF_TWO ? wn_power_of_two_above(scale) : scale;
}

/* The same for a dtype that has a greatest code. */
static inline float wn_block_scale(uint32_t rule, float amax, float least_amax, uint32_t dtype)
{
    return wn_block_scale_to(rule, amax, least_amax, (float)wn_greatest_code(dtype));
}

/* The greatest finite magnitude among x[count]; infinities are left to saturate, NaN to be NaN. */
static inline float wn_greatest_magnitude(const double *x, int64_t count)
{
    double greatest = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(x[i]) && fabs(x[i]) > greatest)
            greatest = fabs(x[i]);
    return (float)greatest;
}

#endif
