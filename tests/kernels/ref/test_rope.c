/* test_rope.c: rotations by hand, and the frequencies of YaRN as models hand them over. */
#include "kernels/ref/ref.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static wn_tensor vectors(float *data, int64_t tokens, int64_t dim)
{
    return (wn_tensor){.data = data,
                       .shape = {tokens, 1, dim},
                       .stride = {dim, dim, 1},
                       .dtype = WN_F32,
                       .ndim = 3};
}

/* Two pairs turned by a quarter and by nothing; the channels around them are copied. */
static void pairs_by_hand(void)
{
    float x[] = {9, 1, 2, 3, 4, 8}, out[6];
    float frequency[] = {1.57079632679f, 0};
    int32_t position = 1;
    wn_rope_args a = {.struct_size = WN_SIZEOF(wn_rope_args),
                      .in = vectors(x, 1, 6),
                      .out = vectors(out, 1, 6),
                      .position = &position,
                      .rope_inverse_frequency = frequency,
                      .rope = WN_ROPE_HALF_SPLIT,
                      .rope_dim = 4,
                      .rope_offset = 1};
    static const float half_split[] = {9, -3, 2, 1, 4, 8}, interleaved[] = {9, -2, 1, 3, 4, 8};
    CU_ASSERT_EQUAL(wn_ref_rope(&a), WN_OK);
    for (int i = 0; i < 6; i++)
        CU_ASSERT_DOUBLE_EQUAL(out[i], half_split[i], 1e-6);
    a.rope = WN_ROPE_INTERLEAVED;
    a.out = a.in; /* in place */
    CU_ASSERT_EQUAL(wn_ref_rope(&a), WN_OK);
    for (int i = 0; i < 6; i++)
        CU_ASSERT_DOUBLE_EQUAL(x[i], interleaved[i], 1e-6);
}

static void theta_gives_the_frequencies(void)
{
    float x[] = {1, 1, 0, 0}, out[4];
    int32_t position = 3;
    wn_rope_args a = {.struct_size = WN_SIZEOF(wn_rope_args),
                      .in = vectors(x, 1, 4),
                      .out = vectors(out, 1, 4),
                      .position = &position,
                      .rope_theta = 100,
                      .rope = WN_ROPE_HALF_SPLIT,
                      .rope_dim = 4};
    CU_ASSERT_EQUAL(wn_ref_rope(&a), WN_OK);
    CU_ASSERT_DOUBLE_EQUAL(out[0], cos(3), 1e-7);
    CU_ASSERT_DOUBLE_EQUAL(out[1], cos(0.3), 1e-7); /* 100^(-2/4) = 1/10 */
    CU_ASSERT_DOUBLE_EQUAL(out[2], sin(3), 1e-7);
    CU_ASSERT_DOUBLE_EQUAL(out[3], sin(0.3), 1e-7);
}

/* How far a frequency turns within the context the model was trained with decides how much of it
 * is stretched: factor 40, 4096 positions, 32 and 1 turns, theta 10000, 64 channels. */
static void yarn(float frequency[32])
{
    double low = floor(64 * log(4096 / (32 * 2 * M_PI)) / (2 * log(1e4)));
    double high = ceil(64 * log(4096 / (1 * 2 * M_PI)) / (2 * log(1e4)));
    for (int i = 0; i < 32; i++) {
        double plain = pow(1e4, -2.0 * i / 64);
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        frequency[i] = (float)(plain / 40 * ramp + plain * (1 - ramp));
    }
}

/* The frequencies by their first digits, and as the op uses them at a far position. */
static void yarn_frequencies(void)
{
    static const int channel[] = {0, 9, 10, 11, 16, 22, 23, 31};
    static const double golden[] = {1,      .0749894209,   .0562341325,   .0390069266,
                                    0.0055, 1.77827941e-4, 3.33380358e-5, 3.33380358e-6};
    float frequency[32], x[64] = {0}, out[64];
    int32_t position = 1000;
    yarn(frequency);
    for (int i = 0; i < 32; i++)
        x[i] = 1;
    wn_rope_args a = {.struct_size = WN_SIZEOF(wn_rope_args),
                      .in = vectors(x, 1, 64),
                      .out = vectors(out, 1, 64),
                      .position = &position,
                      .rope_inverse_frequency = frequency,
                      .rope = WN_ROPE_HALF_SPLIT,
                      .rope_dim = 64};
    CU_ASSERT_EQUAL(wn_ref_rope(&a), WN_OK);
    for (int i = 0; i < 8; i++) {
        CU_ASSERT_DOUBLE_EQUAL(frequency[channel[i]], golden[i], golden[i] * 1e-7);
        CU_ASSERT_DOUBLE_EQUAL(out[channel[i]], cos(1000 * golden[i]), 1e-5);
        CU_ASSERT_DOUBLE_EQUAL(out[32 + channel[i]], sin(1000 * golden[i]), 1e-5);
    }
}

WN_SUITE("kernels.ref.rope", {"pairs by hand", pairs_by_hand},
         {"theta gives the frequencies", theta_gives_the_frequencies},
         {"frequencies of YaRN", yarn_frequencies})
