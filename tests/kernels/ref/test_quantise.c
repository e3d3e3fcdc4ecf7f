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
                             .scale_rule = WN_SCALE_EXACT};
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
                             .scale_rule = WN_SCALE_EXACT};
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

/* The codes of e4m3 that implementations are known to differ in. */
static void golden_codes(void)
{
    static const uint8_t golden[] = {0x00, 0x80, 0x00, 0x01, 0x01, 0x02, 0x08, 0x38, 0x38, 0x39,
                                     0x3a, 0x58, 0x5a, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0xfe};
    float in[] = {0,       -0.0f,    0x1p-10f, 0x1p-10f * 1.0001f,
                  0x1p-9f, 0x3p-10f, 0x1p-6f,  1,
                  1.0625f, 1.0626f,  1.1875f,  17,
                  19,      432,      447.9f,   448,
                  463.9f,  464,      1e9f,     -1e9f};
    uint8_t out[20];
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 1, 20),
                             .out = rows(out, WN_F8_E4M3, 1, 20)};
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    for (int i = 0; i < 20; i++)
        CU_ASSERT_EQUAL(out[i], golden[i]);
}

/* All codes but the two NaN come back from what they stand for. */
static void codes_and_back(void)
{
    uint8_t codes[256], back[256];
    float numbers[256];
    int same = 0;
    for (int i = 0; i < 256; i++)
        codes[i] = (uint8_t)i;
    wn_dequantise_args from = {.struct_size = WN_SIZEOF(wn_dequantise_args),
                               .in = rows(codes, WN_F8_E4M3, 1, 256),
                               .out = rows(numbers, WN_F32, 1, 256)};
    wn_quantise_args to = {.struct_size = WN_SIZEOF(wn_quantise_args),
                           .in = rows(numbers, WN_F32, 1, 256),
                           .out = rows(back, WN_F8_E4M3, 1, 256)};
    CU_ASSERT_EQUAL(wn_ref_dequantise(&from), WN_OK);
    CU_ASSERT_EQUAL(wn_ref_quantise(&to), WN_OK);
    for (int i = 0; i < 256; i++)
        same += !isnan(numbers[i]) && back[i] == codes[i];
    CU_ASSERT_EQUAL(same, 254);
    CU_ASSERT(isnan(numbers[0x7f]) && isnan(numbers[0xff]));
}

static float power_of_two_scale(float amax, float least_amax)
{
    float in[] = {amax / 2, -amax}, scale = 0;
    uint8_t out[2];
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 1, 2),
                             .out = rows(out, WN_F8_E4M3, 1, 2),
                             .scale = &scale,
                             .scale_rule = WN_SCALE_POWER_OF_TWO,
                             .least_amax = least_amax};
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    return scale;
}

/* 448 * float32(1/448) rounds to 1 in float32: the greatest code gets the scale 1, and the next
 * float the scale 2. */
static void golden_powers_of_two(void)
{
    static const float golden[][2] = {{448, 1},          {448.00003f, 2},        {1, 0x1p-8f},
                                      {0.875f, 0x1p-9f}, {0.87500006f, 0x1p-8f}, {3.5f, 0x1p-7f},
                                      {1e-4f, 0x1p-22f}, {1e-6f, 0x1p-22f},      {0, 0x1p-22f},
                                      {1000, 4}};
    for (int i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(power_of_two_scale(golden[i][0], 1e-4f), golden[i][1]);
    CU_ASSERT_EQUAL(power_of_two_scale(1e-3f, 448 * 1e-4f), 0x1p-13f); /* FlashMLA's least */
    CU_ASSERT_EQUAL(power_of_two_scale(0, 0), 1);
}

static void a_scale_per_block(void)
{
    float in[] = {127, 1, 254, 2, 508, 4, 0, 0}, scale[4];
    int8_t out[8];
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args),
                             .in = rows(in, WN_F32, 2, 4),
                             .out = rows(out, WN_I8, 2, 4),
                             .scale = scale,
                             .scale_rule = WN_SCALE_EXACT,
                             .block = 2};
    CU_ASSERT_EQUAL(wn_ref_quantise(&args), WN_OK);
    CU_ASSERT(scale[0] == 1 && scale[1] == 2 && scale[2] == 4 && scale[3] == 1);
    CU_ASSERT(out[0] == 127 && out[1] == 1 && out[2] == 127 && out[3] == 1);
    CU_ASSERT(out[4] == 127 && out[5] == 1 && out[6] == 0 && out[7] == 0);
}

WN_SUITE("kernels.ref.quantise", {"to int8 with its own scale", to_int8_with_own_scale},
         {"to e4m3", to_e4m3}, {"infinity saturates", infinity_saturates}, {"strides", strides},
         {"golden codes", golden_codes}, {"codes and back", codes_and_back},
         {"golden powers of two", golden_powers_of_two}, {"a scale per block", a_scale_per_block})
