/* check_quantise.c: checks of quantise and dequantise. */
#include "check.h"

static const uint32_t activations[] = {WN_F32, WN_F16, WN_BF16};

static double greatest_code(uint32_t dtype)
{
    return dtype == WN_I8 ? 127 : dtype == WN_F8_E4M3 ? 448 : dtype == WN_F8_E5M2 ? 57344 : 0;
}

static float *draw_scales(wn_check *check, int64_t rows, double typical)
{
    float *scale = wn_check_input(check, (size_t)rows * sizeof *scale);
    for (int64_t r = 0; r < rows; r++)
        scale[r] = (float)(typical * (1.5 + wn_random_signed(&check->random)));
    return scale;
}

/* [rows, n], the channels side by side or every second number of a wider row; the rows apart. */
static wn_tensor spread(wn_tensor wide, int64_t n, int64_t apart)
{
    wide.shape[1] = n;
    wide.stride[1] = apart;
    return wide;
}

static int64_t draw_apart(wn_check *check)
{
    return 1 + (wn_random_below(&check->random, 6) == 0);
}

/* Numbers whose quotients by their scales lie on the ties between codes, and next to them: what a
 * quotient that is rounded twice gets wrong. */
static void fill_with_ties(wn_check *check, const wn_quantise_args *args, int64_t block)
{
    float *in = args->in.data;
    for (int64_t r = 0; r < args->in.shape[0]; r++)
        for (int64_t i = 0; i < args->in.shape[1]; i++) {
            double scale = args->scale[(r * args->in.shape[1] + i) / block];
            double halves = 2 * (double)wn_random_below(&check->random, 260) + 1;
            double power = (double)wn_random_below(&check->random, 14) - 12;
            float x = (float)(halves * exp2(power) * scale);
            uint32_t way = wn_random_below(&check->random, 3);
            x = way == 0 ? x : nextafterf(x, way == 1 ? INFINITY : 0);
            in[r * args->in.stride[0] + i * args->in.stride[1]] =
                wn_random_below(&check->random, 2) ? x : -x;
        }
}

/* The scale that a block should have, from its greatest magnitude; powers of two are tried. */
static float scale_oracle(const wn_quantise_args *args, int64_t row, int64_t first, int64_t block)
{
    double greatest = args->least_amax, code = greatest_code(args->out.dtype), power = 1;
    for (int64_t i = first; i < first + block; i++)
        greatest = fmax(greatest, fabs(wn_check_at(&args->in, row, i, 0, 0)));
    float exact = (float)(greatest / code), product = (float)(greatest * (double)(float)(1 / code));
    if (args->scale_rule == WN_SCALE_EXACT)
        return exact == 0 ? 1 : exact;
    if (product == 0)
        return 1;
    for (; power < product; power *= 2)
        ;
    for (; power / 2 >= product; power /= 2)
        ;
    return (float)power;
}

static void compare_block(wn_check *check, const wn_quantise_args *args, int64_t row, int64_t first,
                          int64_t block)
{
    int64_t n = args->in.shape[1], at = args->scale != NULL ? (row * n + first) / block : 0;
    double scale = args->scale != NULL ? args->scale[at] : 1;
    if (args->scale_rule != WN_SCALE_READ)
        wn_check_close(check, "scale", at, scale, scale_oracle(args, row, first, block), WN_F32);
    for (int64_t i = first; i < first + block; i++)
        wn_check_close(
            check, "out", row * n + i, wn_check_at(&args->out, row, i, 0, 0),
            wn_check_round(args->out.dtype, wn_check_at(&args->in, row, i, 0, 0) / scale),
            args->out.dtype);
}

enum { NO_SCALE, READ, EXACT, POWER_OF_TWO, SCALES };

static void quantise_case(wn_check *check, uint32_t in, uint32_t out, int scales)
{
    static const int64_t widths[] = {0, 1, 7, 16, 31, 64, 80, 130, 256, 1100};
    static const uint32_t blocks[] = {0, 1, 2, 16, 32};
    int64_t rows = wn_random_below(&check->random, 7),
            n = widths[wn_random_below(&check->random, 10)];
    int64_t in_apart = draw_apart(check), out_apart = draw_apart(check);
    wn_data_kind kind = (wn_data_kind)wn_random_below(&check->random, WN_DATA_KINDS);
    wn_quantise_args args = {.struct_size = WN_SIZEOF(wn_quantise_args)};
    args.block = blocks[wn_random_below(&check->random, 5)];
    args.block = args.block != 0 && n % args.block != 0 ? 0 : args.block;
    int64_t block = args.block != 0 ? args.block : n, count = n == 0 ? 0 : rows * (n / block);
    wn_check_case(check, "dtype %u to %u, %lld by %lld, blocks of %u, scales %d, %s", in, out,
                  (long long)rows, (long long)n, args.block, scales, wn_data_name(kind));
    args.in =
        spread(wn_check_tensor(check, in, kind, 2, (int64_t[]){rows, n * in_apart}), n, in_apart);
    args.out =
        spread(wn_check_tensor_out(check, out, 2, (int64_t[]){rows, n * out_apart}), n, out_apart);
    args.scale_rule = scales == EXACT          ? WN_SCALE_EXACT
                      : scales == POWER_OF_TWO ? WN_SCALE_POWER_OF_TWO
                                               : WN_SCALE_READ;
    args.least_amax = wn_random_below(&check->random, 2) ? 1e-4f : 0;
    if (scales == READ)
        args.scale = draw_scales(check, count, 0.01);
    if (scales == READ && in == WN_F32 && wn_random_below(&check->random, 2))
        fill_with_ties(check, &args, block);
    if (scales >= EXACT)
        args.scale = wn_check_output(check, (size_t)count * sizeof(float));
    WN_CHECK_RUN(check, quantise, args);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t first = 0; first < n; first += block)
            compare_block(check, &args, r, first, block);
}

/* What the op must not take. */
static void refuse_quantise(wn_check *check)
{
    wn_check_case(check, "refused");
    wn_quantise_args good = {.struct_size = WN_SIZEOF(wn_quantise_args)}, args;
    good.in = wn_check_tensor(check, WN_F32, WN_DATA_NOISE, 2, (int64_t[]){2, 3});
    good.out = wn_check_tensor_out(check, WN_I8, 2, (int64_t[]){2, 3});
    args = good;
    args.struct_size = 8;
    WN_CHECK_REFUSED(check, quantise, args, WN_EINVAL);
    args = good;
    args.scale_rule = WN_SCALE_EXACT; /* nowhere to write it */
    WN_CHECK_REFUSED(check, quantise, args, WN_EINVAL);
    args = good;
    args.scale_rule = WN_SCALE_POWER_OF_TWO + 1;
    WN_CHECK_REFUSED(check, quantise, args, WN_EINVAL);
    args = good;
    args.block = 2; /* of 3 channels */
    WN_CHECK_REFUSED(check, quantise, args, WN_EINVAL);
    args = good;
    args.scale = wn_check_output(check, 2 * sizeof(float));
    args.scale_rule = WN_SCALE_EXACT;
    args.least_amax = -1;
    WN_CHECK_REFUSED(check, quantise, args, WN_EINVAL);
    args = good;
    args.out.shape[1] = 2;
    WN_CHECK_REFUSED(check, quantise, args, WN_EINVAL);
    args = good;
    args.in.dtype = WN_I8;
    WN_CHECK_REFUSED(check, quantise, args, WN_EUNSUPPORTED);
    args = good;
    args.out.dtype = WN_I32;
    WN_CHECK_REFUSED(check, quantise, args, WN_EUNSUPPORTED);
}

void wn_check_quantise(wn_check *check)
{
    refuse_quantise(check);
    static const uint32_t outs[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_F8_E5M2, WN_I8};
    for (int repeat = 0; repeat < 4; repeat++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 6; j++)
                for (int scales = 0; scales < (greatest_code(outs[j]) > 0 ? SCALES : EXACT);
                     scales++)
                    quantise_case(check, activations[i], outs[j], scales);
}

/* What the op must not take. */
static void refuse_dequantise(wn_check *check)
{
    wn_check_case(check, "refused");
    wn_dequantise_args good = {.struct_size = WN_SIZEOF(wn_dequantise_args)}, args;
    good.in = wn_check_tensor(check, WN_I8, WN_DATA_LARGE, 2, (int64_t[]){2, 3});
    good.out = wn_check_tensor_out(check, WN_F32, 2, (int64_t[]){2, 3});
    args = good;
    args.struct_size = 8;
    WN_CHECK_REFUSED(check, dequantise, args, WN_EINVAL);
    args = good;
    args.in.ndim = 1;
    WN_CHECK_REFUSED(check, dequantise, args, WN_EINVAL);
    args = good;
    args.in.dtype = WN_I64;
    WN_CHECK_REFUSED(check, dequantise, args, WN_EUNSUPPORTED);
    args = good;
    args.out.dtype = WN_I8;
    WN_CHECK_REFUSED(check, dequantise, args, WN_EUNSUPPORTED);
}

void wn_check_dequantise(wn_check *check)
{
    refuse_dequantise(check);
    static const uint32_t ins[] = {WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_F8_E5M2, WN_I8};
    for (int c = 0; c < 6 * 3 * 6; c++) {
        uint32_t in = ins[c % 6], out = activations[c / 6 % 3];
        int64_t rows = wn_random_below(&check->random, 6);
        int64_t n = wn_random_below(&check->random, c % 8 == 0 ? 1100 : 70);
        int64_t in_apart = draw_apart(check), out_apart = draw_apart(check);
        wn_data_kind kind = (wn_data_kind)wn_random_below(&check->random, WN_DATA_KINDS);
        wn_check_case(check, "dtype %u to %u, %lld by %lld, %s", in, out, (long long)rows,
                      (long long)n, wn_data_name(kind));
        wn_dequantise_args args = {.struct_size = WN_SIZEOF(wn_dequantise_args)};
        args.in = spread(wn_check_tensor(check, in, kind, 2, (int64_t[]){rows, n * in_apart}), n,
                         in_apart);
        args.out = spread(wn_check_tensor_out(check, out, 2, (int64_t[]){rows, n * out_apart}), n,
                          out_apart);
        if (wn_random_below(&check->random, 2))
            args.scale = draw_scales(check, rows, 0.01);
        WN_CHECK_RUN(check, dequantise, args);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < n; i++)
                wn_check_close(check, "out", r * n + i, wn_check_at(&args.out, r, i, 0, 0),
                               wn_check_at(&args.in, r, i, 0, 0) *
                                   (args.scale != NULL ? args.scale[r] : 1),
                               out);
    }
}
