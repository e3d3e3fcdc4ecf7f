/* row.h: one row of a tensor (a head's vector, a block of channels) as floats on the stack, where
 * kernels that are not bound by arithmetic do their work: every layout and dtype meets there. A row
 * has room for WN_ROW floats, so that whole vectors can be read and written beyond its end. */
#ifndef WN_CPU_ROW_H
#define WN_CPU_ROW_H

#include "kernels/cpu/rounding.h"
#include "kernels/number_format.h"
#include "winnow/ops.h"

enum { WN_ROW = WN_MAX_HEAD_DIM + 2 * WN_VL };

WN_INLINE void wn_row_load_dense(uint32_t dtype, float *row, const void *data, int64_t n)
{
    const uint8_t *p = data;
    int64_t i = 0, bytes = (int64_t)wn_vf_bytes_of(dtype);
    for (; i + WN_VL <= n; i += WN_VL)
        wn_vf_store(row + i, wn_vf_read(dtype, p + i * bytes, WN_VL));
    if (i < n)
        wn_vf_store(row + i, wn_vf_read(dtype, p + i * bytes, n - i));
}

WN_INLINE void wn_row_store_dense(uint32_t dtype, void *data, const float *row, int64_t n)
{
    uint8_t *p = data;
    int64_t i = 0, bytes = (int64_t)wn_vf_bytes_of(dtype);
    for (; i + WN_VL <= n; i += WN_VL)
        wn_vf_to(dtype, p + i * bytes, wn_vf_load(row + i));
    if (i < n)
        wn_vf_to_first(dtype, p + i * bytes, wn_vf_load(row + i), n - i);
}

/* n elements of dtype, `stride` apart, from element `start` of data on. Zeros follow them up to a
 * whole vector, but for strided ones. */
static inline void wn_row_load(float *row, uint32_t dtype, const void *data, int64_t start,
                               int64_t stride, int64_t n)
{
    const uint8_t *p = (const uint8_t *)data + start * (int64_t)wn_vf_bytes_of(dtype);
    if (stride != 1) {
        for (int64_t i = 0; i < n; i++)
            row[i] = (float)wn_load(data, dtype, start + i * stride);
    } else if (dtype == WN_F16) {
        wn_row_load_dense(WN_F16, row, p, n);
    } else if (dtype == WN_BF16) {
        wn_row_load_dense(WN_BF16, row, p, n);
    } else if (dtype == WN_F32) {
        memcpy(row, p, (size_t)n * sizeof *row);
    } else {
        wn_row_load_dense(dtype, row, p, n);
    }
}

/* Rounds to nearest even. Reads whole vectors of the row. */
static inline void wn_row_store(uint32_t dtype, void *data, int64_t start, int64_t stride,
                                const float *row, int64_t n)
{
    uint8_t *p = (uint8_t *)data + start * (int64_t)wn_vf_bytes_of(dtype);
    if (stride != 1) {
        for (int64_t i = 0; i < n; i++)
            wn_store(data, dtype, start + i * stride, row[i]);
        return;
    }
    switch (dtype) {
    case WN_F16:
        wn_row_store_dense(WN_F16, p, row, n);
        break;
    case WN_BF16:
        wn_row_store_dense(WN_BF16, p, row, n);
        break;
    case WN_F8_E4M3:
        wn_row_store_dense(WN_F8_E4M3, p, row, n);
        break;
    case WN_F8_E5M2:
        wn_row_store_dense(WN_F8_E5M2, p, row, n);
        break;
    case WN_I8:
        wn_row_store_dense(WN_I8, p, row, n);
        break;
    default:
        memcpy(p, row, (size_t)n * sizeof *row);
    }
}

/* x / divisor for a whole row, rounded to odd; to nearest for dtype F32. In place. */
static inline void wn_row_divide(float *row, int64_t n, float divisor, uint32_t dtype)
{
    wn_vf by = wn_vf_set(divisor);
    for (int64_t i = 0; i < n; i += WN_VL) {
        wn_vf x = wn_vf_load(row + i);
        wn_vf_store(row + i, dtype == WN_F32 ? wn_vf_div(x, by) : wn_vf_quotient(x, by));
    }
}

/* The greatest finite magnitude of n numbers; 0 of none. Infinities and NaN do not count. */
static inline float wn_row_greatest(const float *row, int64_t n)
{
    wn_vf greatest = wn_vf_zero(), infinity = wn_vf_set(INFINITY);
    float most = 0, lanes[WN_VL];
    for (int64_t i = 0; i < n; i += WN_VL) {
        wn_vf x =
            wn_vf_abs(i + WN_VL <= n ? wn_vf_load(row + i) : wn_vf_load_first(row + i, n - i));
        greatest = wn_vf_max(greatest, (wn_vf)((wn_lanes)x & (wn_lanes)(x < infinity)));
    }
    wn_vf_store(lanes, greatest);
    for (int i = 0; i < WN_VL; i++)
        most = lanes[i] > most ? lanes[i] : most;
    return most;
}

#endif
