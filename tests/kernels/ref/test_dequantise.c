/* test_dequantise.c: dequantisation by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

static wn_tensor rows(void *data, uint32_t dtype, int64_t count, int64_t n)
{
    return (wn_tensor){
        .data = data, .shape = {count, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

static void from_int8(void)
{
    int8_t in[] = {-128, 0, 1, 127};
    float out[4];
    static const float scale[] = {0.5f, 3};
    wn_dequantise_args args = {.struct_size = WN_SIZEOF(wn_dequantise_args),
                               .in = rows(in, WN_I8, 2, 2),
                               .out = rows(out, WN_F32, 2, 2)};
    CU_ASSERT_EQUAL(wn_ref_dequantise(&args), WN_OK);
    CU_ASSERT(out[0] == -128 && out[1] == 0 && out[2] == 1 && out[3] == 127);
    args.scale = scale;
    CU_ASSERT_EQUAL(wn_ref_dequantise(&args), WN_OK);
    CU_ASSERT(out[0] == -64 && out[1] == 0 && out[2] == 3 && out[3] == 381);
}

static void from_eight_bit_floats(void)
{
    uint8_t in[] = {0x38, 0x7f, 0x3c, 0x7c};
    float out[2];
    wn_dequantise_args args = {.struct_size = WN_SIZEOF(wn_dequantise_args),
                               .in = rows(in, WN_F8_E4M3, 1, 2),
                               .out = rows(out, WN_F32, 1, 2)};
    CU_ASSERT_EQUAL(wn_ref_dequantise(&args), WN_OK);
    CU_ASSERT(out[0] == 1 && isnan(out[1]));
    args.in = rows(in + 2, WN_F8_E5M2, 1, 2);
    CU_ASSERT_EQUAL(wn_ref_dequantise(&args), WN_OK);
    CU_ASSERT(out[0] == 1 && isinf(out[1]));
}

/* 255 * (1 + 2^-9) is 255.498..., between the bfloat16s 255 and 256 and below the tie. */
static void rounds_to_bfloat16(void)
{
    float in[] = {255, 257};
    uint16_t out[2];
    static const float scale[] = {1 + 0x1p-9f};
    wn_dequantise_args args = {.struct_size = WN_SIZEOF(wn_dequantise_args),
                               .in = rows(in, WN_F32, 1, 2),
                               .out = rows(out, WN_BF16, 1, 2),
                               .scale = scale};
    CU_ASSERT_EQUAL(wn_ref_dequantise(&args), WN_OK);
    CU_ASSERT_EQUAL(out[0], 0x437f);
    CU_ASSERT_EQUAL(out[1], 0x4381); /* 257.5 lies between 256 and 258 */
}

WN_SUITE("kernels.ref.dequantise", {"from int8", from_int8},
         {"from 8-bit floats", from_eight_bit_floats}, {"rounds to bfloat16", rounds_to_bfloat16})
