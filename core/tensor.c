/* tensor.c: names and sizes of element types, and the contiguous tensor. */
#include "winnow/winnow.h"

#include <string.h>

wn_tensor wn_tensor_make(void *data, uint32_t dtype, uint32_t ndim, const int64_t *shape)
{
    wn_tensor tensor;
    int64_t stride = 1;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = data;
    tensor.dtype = dtype;
    tensor.ndim = ndim;
    tensor.device = WN_DEVICE_CPU;
    for (uint32_t i = ndim < WN_MAX_DIMS ? ndim : WN_MAX_DIMS; i-- > 0;) {
        tensor.shape[i] = shape[i];
        tensor.stride[i] = stride;
        stride *= shape[i];
    }
    return tensor;
}

const char *wn_dtype_name(uint32_t dtype)
{
    switch (dtype) {
#define NAME(name, value, text, bytes)                                                             \
    case value:                                                                                    \
        return text;
        WN_DTYPE_LIST(NAME)
#undef NAME
    }
    return NULL;
}

uint32_t wn_dtype_from_name(const char *name)
{
    if (name == NULL)
        return 0;
#define MATCH(dtype, value, text, bytes)                                                           \
    if (strcmp(name, text) == 0)                                                                   \
        return value;
    WN_DTYPE_LIST(MATCH)
#undef MATCH
    return 0;
}

uint32_t wn_dtype_bytes(uint32_t dtype)
{
    switch (dtype) {
#define BYTES(name, value, text, bytes)                                                            \
    case value:                                                                                    \
        return bytes;
        WN_DTYPE_LIST(BYTES)
#undef BYTES
    }
    return 0;
}
