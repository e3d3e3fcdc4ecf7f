/* test_hadamard.c: the first rows of Sylvester's matrix, and the transform as its own inverse. */
#include "golden_stream.h"
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>

enum { N = 128 };

static wn_tensor row(void *data, uint32_t dtype, int64_t n)
{
    return (wn_tensor){.data = data, .shape = {1, n}, .stride = {n, 1}, .dtype = dtype, .ndim = 2};
}

static void run(void *in, void *out, uint32_t dtype, int64_t n)
{
    wn_hadamard_args a = {.struct_size = WN_SIZEOF(wn_hadamard_args),
                          .in = row(in, dtype, n),
                          .out = row(out, dtype, n)};
    CU_ASSERT_EQUAL_FATAL(wn_ref_hadamard(&a), WN_OK);
}

static void of_unit_vectors(void)
{
    float e0[N] = {1}, e1[N] = {0, 1}, out[N];
    run(e0, out, WN_F32, N);
    for (int i = 0; i < N; i++)
        CU_ASSERT_EQUAL(out[i], (float)0.08838834764831843);
    run(e1, out, WN_F32, N);
    for (int i = 0; i < N; i++)
        CU_ASSERT_EQUAL(out[i], (i % 2 ? -1 : 1) * (float)0.08838834764831843);
}

static void rounded_once(void)
{
    uint16_t e0[N] = {0x3f80}, out[N];
    run(e0, out, WN_BF16, N);
    for (int i = 0; i < N; i++) /* 0.0883789062 */
        CU_ASSERT_EQUAL(out[i], wn_golden_bf16_bits(0.0883789062));
}

static void twice_is_nothing(void)
{
    float x[N], out[N];
    uint64_t state = 1;
    for (int i = 0; i < N; i++)
        x[i] = out[i] = (float)wn_golden_next(&state);
    run(out, out, WN_F32, N); /* in place */
    CU_ASSERT_NOT_EQUAL(out[0], x[0]);
    run(out, out, WN_F32, N);
    for (int i = 0; i < N; i++)
        CU_ASSERT_DOUBLE_EQUAL(out[i], x[i], 1e-6);
}

static void by_hand(void)
{
    float x[] = {1, 2, 3, 4}, one[] = {7};
    run(x, x, WN_F32, 4);
    CU_ASSERT(x[0] == 5 && x[1] == -1 && x[2] == -2 && x[3] == 0);
    run(one, one, WN_F32, 1);
    CU_ASSERT_EQUAL(one[0], 7);
}

WN_SUITE("kernels.ref.hadamard", {"of unit vectors", of_unit_vectors},
         {"rounded once", rounded_once}, {"twice is nothing", twice_is_nothing},
         {"by hand", by_hand})
