/* tensor.h: element types, devices, and the explicit tensor that crosses every border. */
#ifndef WINNOW_TENSOR_H
#define WINNOW_TENSOR_H

#include "winnow/base.h"

/* X(NAME, value, text, bytes). The text is the name used in configurations and reports. */
#define WN_DTYPE_LIST(X)                                                                           \
    X(F32, 1, "float32", 4)                                                                        \
    X(F16, 2, "float16", 2)                                                                        \
    X(BF16, 3, "bfloat16", 2)                                                                      \
    X(F8_E4M3, 4, "float8_e4m3", 1)                                                                \
    X(F8_E5M2, 5, "float8_e5m2", 1)                                                                \
    X(I8, 6, "int8", 1)                                                                            \
    X(I32, 7, "int32", 4)                                                                          \
    X(I64, 8, "int64", 8)                                                                          \
    X(U8, 9, "uint8", 1)                                                                           \
    X(F64, 10, "float64", 8)

enum {
#define WN_DTYPE_ENTRY(name, value, text, bytes) WN_##name = value,
    WN_DTYPE_LIST(WN_DTYPE_ENTRY)
#undef WN_DTYPE_ENTRY
        WN_DTYPE_LIST_END = 11
};

enum { WN_DEVICE_CPU = 1, WN_DEVICE_CUDA = 2 };

/* Bits of a device set (note, capabilities). */
enum { WN_DEVICES_CPU = 1, WN_DEVICES_CUDA = 2 };

#define WN_MAX_DIMS 5

/* A view of memory that somebody else owns. data == NULL means "no tensor here". Strides count
 * elements, may be anything that keeps every index inside the memory, and belong to the first
 * ndim dimensions; entries beyond are zero. Embedded by value: frozen. */
typedef struct wn_tensor {
    void *data;
    int64_t shape[WN_MAX_DIMS];
    int64_t stride[WN_MAX_DIMS];
    uint32_t dtype;  /* WN_F32 ... */
    uint32_t ndim;   /* 1 .. WN_MAX_DIMS */
    uint32_t device; /* WN_DEVICE_CPU, WN_DEVICE_CUDA; 0 is read as CPU */
    int32_t device_id;
} wn_tensor;
WN_STRUCT(wn_tensor, device_id);

#endif
