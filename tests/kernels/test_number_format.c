/* test_number_format.c: conversions, against hand-written codes, the harness's own way of computing
 * them, and every tie between neighbours. */
#include "kernels/number_format.h"

#include "check.h"

typedef struct pair {
    double value;
    uint32_t code;
} pair;

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void e4m3_by_hand(void)
{
    static const pair pairs[] = {{0, 0x00},   {0x1p-9, 0x01}, {7 * 0x1p-9, 0x07}, {0x1p-6, 0x08},
                                 {1, 0x38},   {1.125, 0x39},  {1.5, 0x3c},        {2, 0x40},
                                 {240, 0x77}, {256, 0x78},    {448, 0x7e},        {-448, 0xfe},
                                 {-1, 0xb8},  {-0x1p-9, 0x81}};
    for (size_t i = 0; i < COUNT(pairs); i++) {
        CU_ASSERT_EQUAL(wn_e4m3_from_double(pairs[i].value), pairs[i].code);
        CU_ASSERT_EQUAL(wn_e4m3_to_double((uint8_t)pairs[i].code), pairs[i].value);
    }
    CU_ASSERT_EQUAL(wn_e4m3_from_double(449), 0x7e);
    CU_ASSERT_EQUAL(wn_e4m3_from_double(1e300), 0x7e);
    CU_ASSERT_EQUAL(wn_e4m3_from_double(-INFINITY), 0xfe);
    CU_ASSERT_EQUAL(wn_e4m3_from_double(0x1p-10), 0x00); /* tie: to even, zero */
    CU_ASSERT_EQUAL(wn_e4m3_from_double(0x1.0001p-10), 0x01);
    CU_ASSERT_EQUAL(wn_e4m3_from_double(1.0625), 0x38); /* tie: to even */
    CU_ASSERT_EQUAL(wn_e4m3_from_double(1.1875), 0x3a);
    CU_ASSERT_EQUAL(wn_e4m3_from_double(-0.0), 0x80);
    CU_ASSERT(isnan(wn_e4m3_to_double(0x7f)) && isnan(wn_e4m3_to_double(0xff)));
    CU_ASSERT(isnan(wn_e4m3_to_double(wn_e4m3_from_double(NAN))));
}

static void e5m2_by_hand(void)
{
    static const pair pairs[] = {{0, 0x00},        {0x1p-16, 0x01}, {0x1p-14, 0x04}, {1, 0x3c},
                                 {1.25, 0x3d},     {2, 0x40},       {57344, 0x7b},   {-57344, 0xfb},
                                 {-0x1p-16, 0x81}, {1.75, 0x3f}};
    for (size_t i = 0; i < COUNT(pairs); i++) {
        CU_ASSERT_EQUAL(wn_e5m2_from_double(pairs[i].value), pairs[i].code);
        CU_ASSERT_EQUAL(wn_e5m2_to_double((uint8_t)pairs[i].code), pairs[i].value);
    }
    CU_ASSERT_EQUAL(wn_e5m2_from_double(1e9), 0x7b);
    CU_ASSERT_EQUAL(wn_e5m2_from_double(INFINITY), 0x7b);
    CU_ASSERT(isinf(wn_e5m2_to_double(0x7c)));
    CU_ASSERT(isnan(wn_e5m2_to_double(0x7d)));
    CU_ASSERT(isnan(wn_e5m2_to_double(wn_e5m2_from_double(NAN))));
}

static void sixteen_bits_by_hand(void)
{
    CU_ASSERT_EQUAL(wn_f16_from_double(1), 0x3c00);
    CU_ASSERT_EQUAL(wn_f16_from_double(65504), 0x7bff);
    CU_ASSERT_EQUAL(wn_f16_from_double(65519.99), 0x7bff);
    CU_ASSERT_EQUAL(wn_f16_from_double(65520), 0x7c00); /* tie with 2^16: to even, infinity */
    CU_ASSERT_EQUAL(wn_f16_from_double(0x1p-24), 0x0001);
    CU_ASSERT_EQUAL(wn_f16_from_double(0x1p-25), 0x0000);
    CU_ASSERT_EQUAL(wn_f16_from_double(-INFINITY), 0xfc00);
    CU_ASSERT_EQUAL(wn_bf16_from_double(1), 0x3f80);
    CU_ASSERT_EQUAL(wn_bf16_from_double(-2.5), 0xc020);
    CU_ASSERT_EQUAL(wn_bf16_from_double(3.4028235677973366e38), 0x7f80);
    CU_ASSERT_EQUAL(wn_bf16_from_double(0x1p-133), 0x0001);
    CU_ASSERT_EQUAL(wn_bf16_from_double(5e-324), 0x0000);
}

static void int8_by_hand(void)
{
    static const double in[] = {0,    0.5,   1.5,   2.5,    -0.5, -1.5,
                                -2.5, 126.5, 127.5, -128.5, 1e9,  -1e9};
    static const int out[] = {0, 0, 2, 2, 0, -2, -2, 126, 127, -128, 127, -128};
    for (size_t i = 0; i < COUNT(in); i++)
        CU_ASSERT_EQUAL(wn_i8_from_double(in[i]), out[i]);
    CU_ASSERT_EQUAL(wn_i8_from_double(NAN), 0);
    CU_ASSERT_EQUAL(wn_i8_from_double(INFINITY), 127);
    CU_ASSERT_EQUAL(wn_i8_from_double(-INFINITY), -128);
}

/* A little above a tie in double is the tie itself in float: rounded by way of float, these would
 * go to even, down. */
static void rounds_once(void)
{
    uint16_t out;
    CU_ASSERT_EQUAL(wn_f16_from_double(1 + 0x1p-11 + 0x1p-40), 0x3c01);
    CU_ASSERT_EQUAL(wn_bf16_from_double(1 + 0x1p-8 + 0x1p-40), 0x3f81);
    CU_ASSERT_EQUAL(wn_e4m3_from_double(1 + 0x1p-4 + 0x1p-40), 0x39);
    CU_ASSERT_EQUAL(wn_e5m2_from_double(1 + 0x1p-3 + 0x1p-40), 0x3d);
    wn_store(&out, WN_BF16, 0, 1 + 0x1p-8 + 0x1p-40);
    CU_ASSERT_EQUAL(out, 0x3f81);
}

static const uint32_t narrow[] = {WN_F16, WN_BF16, WN_F8_E4M3, WN_F8_E5M2};

static uint32_t codes_of(uint32_t dtype)
{
    return wn_check_bytes_of(dtype) == 2 ? 65536 : 256;
}

/* Every code means what the definition of the format says, and survives the way back. */
static void all_codes(void)
{
    for (size_t n = 0; n < COUNT(narrow); n++)
        for (uint32_t code = 0; code < codes_of(narrow[n]); code++) {
            /* Two each: room for the widest dtype, which the compiler cannot rule out. */
            uint16_t bits[2] = {(uint16_t)code}, back[2] = {0};
            double value = wn_load(bits, narrow[n], 0);
            double expected = wn_check_load(bits, narrow[n], 0);
            int same = value == expected || (isnan(value) && isnan(expected));
            wn_store(back, narrow[n], 0, value);
            if (!isnan(value) && !(isinf(value) && narrow[n] == WN_F8_E5M2))
                same = same && back[0] == bits[0];
            if (!same)
                printf("\n    dtype %u, code 0x%04x: %g, expected %g, back to 0x%04x", narrow[n],
                       code, value, expected, back[0]);
            CU_ASSERT_FATAL(same);
        }
}

/* Between each two neighbours: the tie goes to the even code, the doubles beside it to the nearer
 * one. */
static void all_ties(void)
{
    for (size_t n = 0; n < COUNT(narrow); n++) {
        uint32_t wrong = 0, infinity = narrow[n] == WN_F16 ? 0x7c00 : 0x7f80;
        uint32_t last = narrow[n] == WN_F8_E4M3   ? 0x7e
                        : narrow[n] == WN_F8_E5M2 ? 0x7b
                                                  : infinity - 1;
        for (uint32_t code = 0; code < last; code++) {
            uint16_t bits[2] = {(uint16_t)code}, above[2] = {(uint16_t)(code + 1)}, out[2] = {0};
            double tie =
                (wn_check_load(bits, narrow[n], 0) + wn_check_load(above, narrow[n], 0)) / 2;
            wn_store(out, narrow[n], 0, tie);
            wrong += out[0] != (code % 2 == 0 ? bits[0] : above[0]);
            wn_store(out, narrow[n], 0, nextafter(tie, 0));
            wrong += out[0] != bits[0];
            wn_store(out, narrow[n], 0, nextafter(tie, INFINITY));
            wrong += out[0] != above[0];
        }
        CU_ASSERT_EQUAL(wrong, 0);
    }
}

/* Random doubles of all magnitudes. */
static void random_values(void)
{
    static const uint32_t dtypes[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_F8_E5M2, WN_I8};
    uint64_t state = wn_test_seed();
    for (int i = 0; i < 60000; i++) {
        uint32_t dtype = dtypes[i % 6];
        double value = ldexp(wn_random_signed(&state), (int)wn_random_below(&state, 300) - 150);
        float stored = 0;
        wn_store(&stored, dtype, 0, value);
        CU_ASSERT_EQUAL_FATAL(wn_load(&stored, dtype, 0), wn_check_round(dtype, value));
    }
}

static void bytes_and_scales(void)
{
#define BYTES(name, value, text, bytes_) CU_ASSERT(wn_number_bytes(value) % (bytes_) == 0);
    WN_DTYPE_LIST(BYTES)
#undef BYTES
    CU_ASSERT_EQUAL(wn_number_bytes(WN_BF16), 2);
    CU_ASSERT_EQUAL(wn_number_bytes(WN_I8), 1);
    CU_ASSERT_EQUAL(wn_number_bytes(WN_I32), 0);
    CU_ASSERT_EQUAL(wn_scale_of(448, WN_F8_E4M3), 1);
    CU_ASSERT_EQUAL(wn_scale_of(254, WN_I8), 2);
    CU_ASSERT_EQUAL(wn_scale_of(0, WN_I8), 1);
    CU_ASSERT_EQUAL(wn_scale_of(0x1p-149, WN_I8), 1); /* 0 as a float */
}

WN_SUITE("kernels.number_format", {"e4m3 by hand", e4m3_by_hand}, {"e5m2 by hand", e5m2_by_hand},
         {"16 bits by hand", sixteen_bits_by_hand}, {"int8 by hand", int8_by_hand},
         {"rounds once", rounds_once}, {"all codes", all_codes}, {"all ties", all_ties},
         {"random values", random_values}, {"bytes and scales", bytes_and_scales})
