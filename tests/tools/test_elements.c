/* test_elements.c: widening, bit by bit. */
#include "suite.h"
#include "tools/elements.h"

#include <math.h>
#include <string.h>

static void bfloat16(void)
{
    const uint16_t bits[] = {0x0000, 0x3f80, 0xc020, 0x7f80, 0x7fc0, 0x0001};
    float got[6];
    wn_elements_read(WN_BF16, bits, 0, 6, got);
    CU_ASSERT(got[0] == 0 && got[1] == 1 && got[2] == -2.5f && isinf(got[3]) && isnan(got[4]));
    CU_ASSERT_EQUAL(got[5], 0x1p-133f);
    wn_elements_read(WN_BF16, bits, 2, 1, got);
    CU_ASSERT_EQUAL(got[0], -2.5f);
}

static void half(void)
{
    const uint16_t bits[] = {0x0000, 0x3c00, 0xc100, 0x7c00, 0xfc00,
                             0x7e00, 0x0001, 0x7bff, 0x03ff};
    float got[9];
    wn_elements_read(WN_F16, bits, 0, 9, got);
    CU_ASSERT(got[0] == 0 && got[1] == 1 && got[2] == -2.5f);
    CU_ASSERT(isinf(got[3]) && got[4] == -INFINITY && isnan(got[5]));
    CU_ASSERT(got[6] == 0x1p-24f && got[7] == 65504 && got[8] == 1023 * 0x1p-24f);
}

static void wide(void)
{
    const float floats[] = {1.5f, -3};
    const double doubles[] = {0.1, 7};
    float got[2];
    wn_elements_read(WN_F32, floats, 1, 1, got);
    CU_ASSERT_EQUAL(got[0], -3);
    wn_elements_read(WN_F64, doubles, 0, 2, got);
    CU_ASSERT(got[0] == 0.1f && got[1] == 7);
    CU_ASSERT_EQUAL(wn_elements_bytes(WN_F64), 8);
    CU_ASSERT_EQUAL(wn_elements_bytes(WN_BF16), 2);
}

WN_SUITE("tools.elements", {"bfloat16", bfloat16}, {"half", half}, {"float and double", wide})
