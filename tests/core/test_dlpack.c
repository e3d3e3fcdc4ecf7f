/* test_dlpack.c: there and back again, and what cannot cross. */
#include "suite.h"

#include "winnow/winnow.h"

#include <dlpack/dlpack.h>
#include <string.h>

static void there_and_back(void)
{
    char data[64];
    for (uint32_t dtype = 1; dtype < WN_DTYPE_LIST_END; dtype++) {
        wn_tensor tensor = {.data = data,
                            .shape = {2, 3, 4},
                            .stride = {40, -8, 1},
                            .ndim = 3,
                            .dtype = dtype,
                            .device = WN_DEVICE_CUDA,
                            .device_id = 3};
        wn_tensor back;
        DLTensor foreign;
        int64_t shape[WN_MAX_DIMS], strides[WN_MAX_DIMS];
        CU_ASSERT_EQUAL(wn_tensor_to_dlpack(&tensor, &foreign, shape, strides), WN_OK);
        CU_ASSERT_EQUAL(foreign.dtype.bits, wn_dtype_bytes(dtype) * 8);
        CU_ASSERT_EQUAL(foreign.dtype.lanes, 1);
        CU_ASSERT_EQUAL(foreign.ndim, 3);
        CU_ASSERT_PTR_EQUAL(foreign.shape, shape);
        CU_ASSERT_EQUAL(foreign.device.device_type, kDLCUDA);
        CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &back), WN_OK);
        CU_ASSERT_EQUAL(memcmp(&back, &tensor, sizeof back), 0);
    }
}

static DLTensor foreign_tensor(int64_t *shape)
{
    static char data[256];
    return (DLTensor){.data = data,
                      .device = {kDLCPU, 0},
                      .ndim = 2,
                      .dtype = {kDLBfloat, 16, 1},
                      .shape = shape};
}

static void without_strides(void)
{
    int64_t shape[] = {3, 5};
    DLTensor foreign = foreign_tensor(shape);
    wn_tensor tensor;
    foreign.byte_offset = 32;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_OK);
    CU_ASSERT_PTR_EQUAL(tensor.data, (char *)foreign.data + 32);
    CU_ASSERT_EQUAL(tensor.dtype, WN_BF16);
    CU_ASSERT_EQUAL(tensor.device, WN_DEVICE_CPU);
    CU_ASSERT_EQUAL(tensor.stride[0], 5);
    CU_ASSERT_EQUAL(tensor.stride[1], 1);
    foreign.data = NULL; /* an empty tensor stays one, whatever the offset */
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_OK);
    CU_ASSERT_PTR_NULL(tensor.data);
}

static void refusals(void)
{
    int64_t shape[] = {3, 5, 1, 1, 1, 1}, strides[WN_MAX_DIMS];
    DLTensor foreign = foreign_tensor(shape);
    wn_tensor tensor = {.ndim = 77};
    foreign.dtype.lanes = 4;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EUNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "4 lanes"));
    foreign = foreign_tensor(shape);
    foreign.dtype.bits = 24;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EUNSUPPORTED);
    foreign = foreign_tensor(shape);
    foreign.dtype.code = kDLComplex;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EUNSUPPORTED);
    foreign = foreign_tensor(shape);
    foreign.ndim = 6;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EUNSUPPORTED);
    foreign.ndim = 0;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EUNSUPPORTED);
    foreign = foreign_tensor(shape);
    foreign.device.device_type = kDLVulkan;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EUNSUPPORTED);
    foreign = foreign_tensor(shape);
    shape[1] = -1;
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(&foreign, &tensor), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_tensor_from_dlpack(NULL, &tensor), WN_EINVAL);
    CU_ASSERT_EQUAL(tensor.ndim, 77); /* a refusal writes nothing */
    tensor = (wn_tensor){.dtype = 99, .ndim = 1};
    CU_ASSERT_EQUAL(wn_tensor_to_dlpack(&tensor, &foreign, shape, strides), WN_EINVAL);
    tensor = (wn_tensor){.dtype = WN_F32, .ndim = 6};
    CU_ASSERT_EQUAL(wn_tensor_to_dlpack(&tensor, &foreign, shape, strides), WN_EINVAL);
    tensor = (wn_tensor){.dtype = WN_F32, .ndim = 1, .device = 9};
    CU_ASSERT_EQUAL(wn_tensor_to_dlpack(&tensor, &foreign, shape, strides), WN_EINVAL);
}

WN_SUITE("core.dlpack", {"there and back", there_and_back}, {"without strides", without_strides},
         {"refusals", refusals})
