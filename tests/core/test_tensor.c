/* test_tensor.c: contiguous tensors, and names of element types. */
#include "suite.h"

#include "winnow/winnow.h"

#include <string.h>

static void contiguous(void)
{
    float data[24];
    const wn_tensor tensor = wn_tensor_make(data, WN_F32, 3, (const int64_t[]){2, 3, 4});
    const int64_t shape[WN_MAX_DIMS] = {2, 3, 4}, stride[WN_MAX_DIMS] = {12, 4, 1};
    CU_ASSERT_PTR_EQUAL(tensor.data, data);
    CU_ASSERT_EQUAL(tensor.ndim, 3);
    CU_ASSERT_EQUAL(tensor.dtype, WN_F32);
    CU_ASSERT_EQUAL(tensor.device, WN_DEVICE_CPU);
    CU_ASSERT_EQUAL(memcmp(tensor.shape, shape, sizeof shape), 0);
    CU_ASSERT_EQUAL(memcmp(tensor.stride, stride, sizeof stride), 0);
}

static void all_dimensions(void)
{
    const wn_tensor tensor = wn_tensor_make(NULL, WN_I8, 5, (const int64_t[]){2, 1, 3, 1, 5});
    CU_ASSERT_EQUAL(tensor.stride[0], 15);
    CU_ASSERT_EQUAL(tensor.stride[1], 15);
    CU_ASSERT_EQUAL(tensor.stride[2], 5);
    CU_ASSERT_EQUAL(tensor.stride[3], 5);
    CU_ASSERT_EQUAL(tensor.stride[4], 1);
}

static void names(void)
{
    uint32_t count = 0;
    for (uint32_t dtype = 0; dtype < 100; dtype++) {
        const char *name = wn_dtype_name(dtype);
        if (name == NULL) {
            CU_ASSERT_EQUAL(wn_dtype_bytes(dtype), 0);
            continue;
        }
        count++;
        CU_ASSERT_EQUAL(wn_dtype_from_name(name), dtype);
        CU_ASSERT(wn_dtype_bytes(dtype) >= 1);
    }
    CU_ASSERT_EQUAL(count, WN_DTYPE_LIST_END - 1);
    CU_ASSERT_STRING_EQUAL(wn_dtype_name(WN_BF16), "bfloat16");
    CU_ASSERT_EQUAL(wn_dtype_bytes(WN_BF16), 2);
    CU_ASSERT_EQUAL(wn_dtype_bytes(WN_I64), 8);
    CU_ASSERT_EQUAL(wn_dtype_from_name("float"), 0);
    CU_ASSERT_EQUAL(wn_dtype_from_name(""), 0);
    CU_ASSERT_EQUAL(wn_dtype_from_name(NULL), 0);
}

WN_SUITE("core.tensor", {"contiguous", contiguous}, {"all dimensions", all_dimensions},
         {"names", names})
