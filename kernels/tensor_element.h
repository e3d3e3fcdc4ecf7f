/* tensor_element.h: reading and writing elements of a wn_tensor by index, and the checks of a
 * tensor that ops have in common. */
#ifndef WN_TENSOR_ELEMENT_H
#define WN_TENSOR_ELEMENT_H

#include "kernels/number_format.h"
#include "winnow/status.h"

/* Elements from data to element (i, j, k); indices beyond ndim must be 0. */
static inline int64_t wn_tensor_offset(const wn_tensor *tensor, int64_t i, int64_t j, int64_t k)
{
    return i * tensor->stride[0] + j * tensor->stride[1] + k * tensor->stride[2];
}

static inline double wn_tensor_load(const wn_tensor *tensor, int64_t i, int64_t j, int64_t k)
{
    return wn_load(tensor->data, tensor->dtype, wn_tensor_offset(tensor, i, j, k));
}

static inline void wn_tensor_store(const wn_tensor *tensor, int64_t i, int64_t j, int64_t k,
                                   double value)
{
    wn_store(tensor->data, tensor->dtype, wn_tensor_offset(tensor, i, j, k), value);
}

/* The dtypes of activations: what models compute in. */
static inline int wn_is_activation(uint32_t dtype)
{
    return dtype == WN_F32 || dtype == WN_F16 || dtype == WN_BF16;
}

#endif
