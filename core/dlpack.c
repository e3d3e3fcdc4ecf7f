/* dlpack.c: tensors as DLPack's DLTensor and back, both views of the same memory. */
#include "core/reasons.h"
#include "winnow/winnow.h"

#include <dlpack/dlpack.h>
#include <string.h>

/* float8 came with DLPack 1.1; earlier headers do not name it. */
enum { FLOAT8_E4M3FN = 10, FLOAT8_E5M2 = 12 };

static const struct {
    uint32_t dtype;
    uint8_t code, bits;
} pairs[] = {
    {WN_F32, kDLFloat, 32},         {WN_F16, kDLFloat, 16},       {WN_BF16, kDLBfloat, 16},
    {WN_F8_E4M3, FLOAT8_E4M3FN, 8}, {WN_F8_E5M2, FLOAT8_E5M2, 8}, {WN_I8, kDLInt, 8},
    {WN_I32, kDLInt, 32},           {WN_I64, kDLInt, 64},         {WN_U8, kDLUInt, 8},
    {WN_F64, kDLFloat, 64},
};
#define NUM_PAIRS (sizeof pairs / sizeof pairs[0])

wn_status wn_tensor_from_dlpack(const void *dltensor, wn_tensor *to)
{
    const DLTensor *from = dltensor;
    wn_error *error = wn_thread_error();
    wn_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    if (from == NULL || to == NULL)
        return wn_fail(error, WN_EINVAL, "wn_tensor_from_dlpack: an argument is NULL");
    for (size_t i = 0; i < NUM_PAIRS && from->dtype.lanes == 1; i++)
        if (pairs[i].code == from->dtype.code && pairs[i].bits == from->dtype.bits)
            tensor.dtype = pairs[i].dtype;
    if (tensor.dtype == 0)
        return wn_fail(error, WN_EUNSUPPORTED,
                       "DLPack type with code %u, %u bits, %u lanes: Winnow has no such dtype",
                       from->dtype.code, from->dtype.bits, from->dtype.lanes);
    if (from->ndim < 1 || from->ndim > WN_MAX_DIMS)
        return wn_fail(error, WN_EUNSUPPORTED, "DLPack tensor has %d dimensions, expected 1 to %d",
                       from->ndim, WN_MAX_DIMS);
    switch (from->device.device_type) {
    case kDLCPU:
    case kDLCUDAHost:
        tensor.device = WN_DEVICE_CPU;
        break;
    case kDLCUDA:
    case kDLCUDAManaged:
        tensor.device = WN_DEVICE_CUDA;
        break;
    default:
        return wn_fail(error, WN_EUNSUPPORTED,
                       "DLPack device type %d, expected CPU (1), CUDA (2), CUDA host (3) or CUDA "
                       "managed (13)",
                       (int)from->device.device_type);
    }
    tensor.device_id = tensor.device == WN_DEVICE_CUDA ? from->device.device_id : 0;
    tensor.ndim = (uint32_t)from->ndim;
    tensor.data = from->data == NULL ? NULL : (char *)from->data + from->byte_offset;
    int64_t contiguous = 1;
    for (uint32_t i = tensor.ndim; i-- > 0;) {
        if (from->shape[i] < 0)
            return wn_fail(error, WN_EINVAL, "DLPack shape[%u] is %lld, expected >= 0", i,
                           (long long)from->shape[i]);
        tensor.shape[i] = from->shape[i];
        tensor.stride[i] = from->strides != NULL ? from->strides[i] : contiguous;
        contiguous *= from->shape[i];
    }
    *to = tensor;
    return WN_OK;
}

wn_status wn_tensor_to_dlpack(const wn_tensor *from, void *dltensor, int64_t *shape,
                              int64_t *strides)
{
    DLTensor *to = dltensor;
    wn_error *error = wn_thread_error();
    size_t pair = 0;
    if (from == NULL || to == NULL || shape == NULL || strides == NULL)
        return wn_fail(error, WN_EINVAL, "wn_tensor_to_dlpack: an argument is NULL");
    while (pair < NUM_PAIRS && pairs[pair].dtype != from->dtype)
        pair++;
    if (pair == NUM_PAIRS)
        return wn_fail(error, WN_EINVAL, "tensor's dtype %u is no WN_ dtype", from->dtype);
    if (from->ndim < 1 || from->ndim > WN_MAX_DIMS)
        return wn_fail(error, WN_EINVAL, "tensor has %u dimensions, expected 1 to %d", from->ndim,
                       WN_MAX_DIMS);
    if (from->device > WN_DEVICE_CUDA)
        return wn_fail(error, WN_EINVAL, "tensor's device %u is no WN_DEVICE_", from->device);
    memset(to, 0, sizeof *to);
    memcpy(shape, from->shape, sizeof from->shape);
    memcpy(strides, from->stride, sizeof from->stride);
    to->data = from->data;
    to->device.device_type = from->device == WN_DEVICE_CUDA ? kDLCUDA : kDLCPU;
    to->device.device_id = from->device_id;
    to->ndim = (int)from->ndim;
    to->dtype.code = pairs[pair].code;
    to->dtype.bits = pairs[pair].bits;
    to->dtype.lanes = 1;
    to->shape = shape;
    to->strides = strides;
    return WN_OK;
}
