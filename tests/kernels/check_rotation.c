/* check_rotation.c: checks of rope and hadamard, the two rotations of vectors: rope against polar
 * coordinates, hadamard against the Sylvester matrix by its definition. */
#include "check.h"

static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};

/* in and out: two tensors, or one that is both. Returns a copy of in. */
static void *make_operands(wn_check *check, uint32_t dtype, uint32_t ndim, const int64_t *shape,
                           wn_tensor *in, wn_tensor *out)
{
    wn_data_kind kind = (wn_data_kind)wn_random_below(&check->random, WN_DATA_KINDS);
    *in = wn_check_tensor(check, dtype, kind, ndim, shape);
    *out = wn_check_tensor_out(check, dtype, ndim, shape);
    size_t bytes = wn_check_bytes_of(dtype);
    for (uint32_t i = 0; i < ndim; i++)
        bytes *= (size_t)shape[i];
    void *copy = wn_check_copy(in->data, bytes);
    if (wn_random_below(&check->random, 2)) { /* in place */
        if (bytes > 0)
            memcpy(out->data, copy, bytes);
        in->data = out->data;
    }
    return copy;
}

/* ---------------------------------------------------------------- rope */

static double frequency(const wn_rope_args *a, int64_t pair)
{
    if (a->rope_inverse_frequency != NULL)
        return a->rope_inverse_frequency[pair];
    return 1 / pow(a->rope_theta, 2 * (double)pair / a->rope_dim);
}

/* Channel d of a rotated vector: its pair is a point of the plane, turned by position * frequency.
 */
static double rotated(const wn_rope_args *a, const void *in, int64_t vector, int64_t position,
                      int64_t d)
{
    int64_t start = vector * a->in.shape[2], i = d - a->rope_offset, pairs = a->rope_dim / 2;
    if (i < 0 || i >= a->rope_dim)
        return wn_check_load(in, a->in.dtype, start + d);
    int64_t pair = a->rope == WN_ROPE_HALF_SPLIT ? i % pairs : i / 2;
    int64_t apart = a->rope == WN_ROPE_HALF_SPLIT ? pairs : 1;
    bool is_second = a->rope == WN_ROPE_HALF_SPLIT ? i >= pairs : i % 2 == 1;
    double x = wn_check_load(in, a->in.dtype, start + d - (is_second ? apart : 0));
    double y = wn_check_load(in, a->in.dtype, start + d + (is_second ? 0 : apart));
    double angle = atan2(y, x) + (double)position * frequency(a, pair);
    return hypot(x, y) * (is_second ? sin(angle) : cos(angle));
}

static void rope_case(wn_check *check, int number)
{
    static const int64_t dims[] = {2, 5, 8, 33, 40, 64, 72, 80, 96, 112, 128, 192, 256};
    uint64_t *random = &check->random;
    int64_t shape[3] = {wn_random_below(random, 6), 1 + wn_random_below(random, 5),
                        dims[wn_random_below(random, 13)]};
    wn_rope_args a = {.struct_size = WN_SIZEOF(wn_rope_args), .rope_theta = 10000};
    a.rope = number % 2 ? WN_ROPE_HALF_SPLIT : WN_ROPE_INTERLEAVED;
    a.rope_dim = 2 * (1 + wn_random_below(random, (uint32_t)shape[2] / 2));
    if (number % 5 == 0)
        a.rope_dim = (uint32_t)shape[2] / 2 * 2;
    a.rope_offset = wn_random_below(random, (uint32_t)shape[2] - a.rope_dim + 1);
    wn_check_case(check, "[%lld, %lld, %lld], channels %u + %u, pairs %u", (long long)shape[0],
                  (long long)shape[1], (long long)shape[2], a.rope_offset, a.rope_dim, a.rope);
    void *in = make_operands(check, activations[number % 3], 3, shape, &a.in, &a.out);
    int32_t *position = wn_check_ints(check, (size_t)shape[0]);
    for (int64_t t = 0; t < shape[0]; t++)
        position[t] = (int32_t)wn_random_below(random, t % 2 ? 200000 : 20);
    a.position = position;
    if (wn_random_below(random, 2)) {
        float *f = wn_check_input(check, a.rope_dim / 2 * sizeof *f);
        for (uint32_t i = 0; i < a.rope_dim / 2; i++)
            f[i] = (float)wn_random_signed(random);
        a.rope_inverse_frequency = f;
    }
    WN_CHECK_RUN(check, rope, a);
    for (int64_t t = 0; t < shape[0]; t++)
        for (int64_t h = 0; h < shape[1]; h++)
            for (int64_t d = 0; d < shape[2]; d++)
                wn_check_close(check, "out", d, wn_check_at(&a.out, t, h, d, 0),
                               rotated(&a, in, t * shape[1] + h, position[t], d), a.out.dtype);
    free(in);
}

static void refuse_rope(wn_check *check)
{
    wn_check_case(check, "refused");
    int64_t shape[3] = {2, 1, 8};
    wn_rope_args good = {.struct_size = WN_SIZEOF(wn_rope_args), .rope_theta = 10000}, a;
    good.in = wn_check_tensor(check, WN_F32, WN_DATA_NOISE, 3, shape);
    good.out = wn_check_tensor_out(check, WN_F32, 3, shape);
    good.position = memset(wn_check_ints(check, 2), 0, 8);
    good.rope = WN_ROPE_INTERLEAVED;
    good.rope_dim = 4;
    a = good;
    a.rope = WN_ROPE_NONE;
    WN_CHECK_REFUSED(check, rope, a, WN_EINVAL);
    a = good;
    a.rope_dim = 3;
    WN_CHECK_REFUSED(check, rope, a, WN_EINVAL);
    a = good;
    a.rope_offset = 5;
    WN_CHECK_REFUSED(check, rope, a, WN_EINVAL);
    a = good;
    a.position = NULL;
    WN_CHECK_REFUSED(check, rope, a, WN_EINVAL);
    a = good;
    a.rope_theta = 0;
    WN_CHECK_REFUSED(check, rope, a, WN_EINVAL);
    a = good;
    a.out.dtype = WN_F16;
    WN_CHECK_REFUSED(check, rope, a, WN_EINVAL);
    a = good;
    a.in.dtype = WN_I8;
    WN_CHECK_REFUSED(check, rope, a, WN_EUNSUPPORTED);
}

void wn_check_rope(wn_check *check)
{
    refuse_rope(check);
    for (int i = 0; i < 90; i++)
        rope_case(check, i);
}

/* ---------------------------------------------------------------- hadamard */

/* Sylvester's matrix: +1 where i and j have an even number of ones in common, else -1. */
static double sign_of(int64_t i, int64_t j)
{
    int ones = 0;
    for (int64_t common = i & j; common != 0; common >>= 1)
        ones += (int)(common & 1);
    return ones % 2 ? -1 : 1;
}

static void hadamard_case(wn_check *check, int number)
{
    int64_t shape[2] = {wn_random_below(&check->random, 4), 1LL << number % 11};
    wn_hadamard_args a = {.struct_size = WN_SIZEOF(wn_hadamard_args)};
    wn_check_case(check, "%lld rows of %lld", (long long)shape[0], (long long)shape[1]);
    void *in = make_operands(check, activations[number / 11 % 3], 2, shape, &a.in, &a.out);
    WN_CHECK_RUN(check, hadamard, a);
    for (int64_t r = 0; r < shape[0]; r++)
        for (int64_t i = 0; i < shape[1]; i++) {
            double sum = 0;
            for (int64_t j = 0; j < shape[1]; j++)
                sum += sign_of(i, j) * wn_check_load(in, a.in.dtype, r * shape[1] + j);
            wn_check_close(check, "out", i, wn_check_at(&a.out, r, i, 0, 0),
                           sum / sqrt((double)shape[1]), a.out.dtype);
        }
    free(in);
}

void wn_check_hadamard(wn_check *check)
{
    for (int i = 0; i < 66; i++)
        hadamard_case(check, i);
    wn_check_case(check, "refused");
    wn_hadamard_args a = {.struct_size = WN_SIZEOF(wn_hadamard_args)};
    a.in = wn_check_tensor(check, WN_F32, WN_DATA_NOISE, 2, (int64_t[]){2, 12});
    a.out = wn_check_tensor_out(check, WN_F32, 2, (int64_t[]){2, 12});
    WN_CHECK_REFUSED(check, hadamard, a, WN_EUNSUPPORTED);
    a.in.shape[1] = a.out.shape[1] = 0;
    WN_CHECK_REFUSED(check, hadamard, a, WN_EUNSUPPORTED);
    a.in.shape[1] = 8;
    a.out.shape[1] = 4;
    WN_CHECK_REFUSED(check, hadamard, a, WN_EINVAL);
}
