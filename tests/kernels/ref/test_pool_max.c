/* test_pool_max.c: a sliding maximum, followed by hand. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { N = 6 };

static wn_pool_max_args args_of(float *in, float *out, uint32_t kernel_size)
{
    wn_tensor t = {.data = in, .shape = {1, N}, .stride = {N, 1}, .dtype = WN_F32, .ndim = 2};
    wn_pool_max_args a = {
        .struct_size = WN_SIZEOF(wn_pool_max_args), .in = t, .out = t, .kernel_size = kernel_size};
    a.out.data = out;
    return a;
}

static void three_wide(void)
{
    float in[N] = {1, 5, 2, 0, -1, -2}, out[N];
    wn_pool_max_args a = args_of(in, out, 3);
    CU_ASSERT_EQUAL(wn_ref_pool_max(&a), WN_OK);
    CU_ASSERT_EQUAL(memcmp(out, (float[N]){5, 5, 5, 2, 0, -1}, sizeof out), 0);
}

static void nan_counts_as_minus_infinity(void)
{
    float in[N] = {NAN, NAN, NAN, 3, NAN, NAN}, out[N] = {0};
    wn_pool_max_args a = args_of(in, out, 3);
    CU_ASSERT_EQUAL(wn_ref_pool_max(&a), WN_OK);
    CU_ASSERT_EQUAL(out[0], -INFINITY);
    CU_ASSERT_EQUAL(out[2], 3);
    CU_ASSERT_EQUAL(out[5], -INFINITY);
}

static void the_end_of_a_row(void)
{
    float in[N] = {1, 2, 9, 9, 9, 9}, out[N] = {7, 7, 7, 7, 7, 7};
    int32_t length = 2;
    wn_pool_max_args a = args_of(in, out, 63);
    a.length = &length;
    CU_ASSERT_EQUAL(wn_ref_pool_max(&a), WN_OK);
    CU_ASSERT_EQUAL(memcmp(out, (float[N]){2, 2, 7, 7, 7, 7}, sizeof out), 0);
    length = N + 1;
    CU_ASSERT_EQUAL(wn_ref_pool_max(&a), WN_EINVAL);
    length = N;
    a.kernel_size = 4;
    CU_ASSERT_EQUAL(wn_ref_pool_max(&a), WN_EINVAL);
}

WN_SUITE("kernels.ref.pool_max", {"three wide", three_wide},
         {"NaN counts as -inf", nan_counts_as_minus_infinity},
         {"the end of a row", the_end_of_a_row})
