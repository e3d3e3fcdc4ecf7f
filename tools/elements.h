/* elements.h: numbers in the dtypes that traces and outputs have, read as float. */
#ifndef WN_TOOLS_ELEMENTS_H
#define WN_TOOLS_ELEMENTS_H

#include "winnow/tensor.h"

/* to[i] = element first + i of data, for i < count. dtype: F32, F16, BF16 or F64. */
void wn_elements_read(uint32_t dtype, const void *data, int64_t first, int64_t count, float *to);

/* Bytes of one element: 2, 4 or 8 for the dtypes above. */
uint32_t wn_elements_bytes(uint32_t dtype);

#endif
