/* test_quantise.c: quantisation by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

static wn_tensor rows(void *data, uint32_t dtype, int64_t count, int64_t n)
{
    return (wn_tensor){
        .data = data, .shape = {count, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

static void to_int8_with_own_scale(void)
{
    float in[] = {-254, 1, 3, 127, 0, 0, 0, -0.0f}, scale[2];
    int8_t out[8];
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 2, 4),
                             .out = rows(out, WN_I8, 2, 4),
                             .scale = scale,
                             .set_scale = 1};
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    CU_ASSERT_EQUAL(scale[0], 2);
    CU_ASSERT_EQUAL(scale[1], 1); /* a row of zeros */
    CU_ASSERT(out[0] == -127 && out[1] == 0 && out[2] == 2 && out[3] == 64);
    CU_ASSERT(out[4] == 0 && out[7] == 0);
}

static void to_e4m3(void)
{
    float in[] = {448, -1.0625f, 1000, NAN}, scale[] = {0.5f};
    uint8_t out[4];
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 1, 4),
                             .out = rows(out, WN_F8_E4M3, 1, 4)};
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    CU_ASSERT(out[0] == 0x7e && out[1] == 0xb8 && out[2] == 0x7e && (out[3] & 0x7f) == 0x7f);
    args.scale = scale;
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    CU_ASSERT(out[0] == 0x7e && out[1] == 0xc0); /* 896 saturates; -2.125 ties to -2 */
}

/* An infinity does not become the scale: it saturates, the others keep their precision. */
static void infinity_saturates(void)
{
    float in[] = {INFINITY, 127, -INFINITY}, scale;
    int8_t out[3];
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 1, 3),
                             .out = rows(out, WN_I8, 1, 3),
                             .scale = &scale,
                             .set_scale = 1};
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    CU_ASSERT_EQUAL(scale, 1);
    CU_ASSERT(out[0] == 127 && out[1] == 127 && out[2] == -128);
}

/* Rows and elements apart from one another. */
static void strides(void)
{
    float in[] = {1, 9, 2, 9, 9, 3, 9, 4};
    uint16_t out[] = {0, 0, 0, 0};
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 2, 2),
                             .out = rows(out, WN_BF16, 2, 2)};
    args.in.stride[0] = 5;
    args.in.stride[1] = 2;
    args.out.stride[0] = 1;
    args.out.stride[1] = 2;
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    CU_ASSERT(out[0] == 0x3f80 && out[2] == 0x4000 && out[1] == 0x4040 && out[3] == 0x4080);
}

WN_SUITE("kernels.ref.quantise", {"to int8 with its own scale", to_int8_with_own_scale},
         {"to e4m3", to_e4m3}, {"infinity saturates", infinity_saturates}, {"strides", strides})
