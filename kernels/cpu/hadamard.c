/* hadamard.c: each row times the Sylvester matrix of its width, by butterflies, in doubles: sums of
 * up to 1024 numbers may cancel. A row stays in the nearest cache; the stages below the width of a
 * vector are done within vectors. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/double_vector.h"
#include "kernels/cpu/row.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

enum { MOST = 1024 };

/* One call. item: `rows` consecutive rows. */
typedef struct call {
    const wn_hadamard_args *args;
    int64_t rows;
} call;

/* The stages of half-width 1, 2 (and 4): each lane and its partner, added, or subtracted where the
 * lane is the second. */
WN_INLINE wn_vd within(wn_vd x)
{
#ifdef __AVX512F__
    x = wn_vd_fma(x, (wn_vd){1, -1, 1, -1, 1, -1, 1, -1}, _mm512_permute_pd(x, 0x55));
    x = wn_vd_fma(x, (wn_vd){1, 1, -1, -1, 1, 1, -1, -1}, _mm512_permutex_pd(x, 0x4e));
    return wn_vd_fma(x, (wn_vd){1, 1, 1, 1, -1, -1, -1, -1}, _mm512_shuffle_f64x2(x, x, 0x4e));
#else
    x = wn_vd_fma(x, (wn_vd){1, -1, 1, -1}, _mm256_permute_pd(x, 0x5));
    return wn_vd_fma(x, (wn_vd){1, 1, -1, -1}, _mm256_permute4x64_pd(x, 0x4e));
#endif
}

/* Two stages at once, of half-widths `half` and 2 * half: half the traffic. */
static void two_stages(double *x, int64_t n, int64_t half)
{
    for (int64_t first = 0; first < n; first += 4 * half)
        for (int64_t i = first; i < first + half; i += WN_VD) {
            wn_vd a = wn_vd_load(x + i), b = wn_vd_load(x + i + half);
            wn_vd c = wn_vd_load(x + i + 2 * half), d = wn_vd_load(x + i + 3 * half);
            wn_vd ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
            wn_vd_store(x + i, ab + cd);
            wn_vd_store(x + i + half, a_b + c_d);
            wn_vd_store(x + i + 2 * half, ab - cd);
            wn_vd_store(x + i + 3 * half, a_b - c_d);
        }
}

static void one_stage(double *x, int64_t n, int64_t half)
{
    for (int64_t first = 0; first < n; first += 2 * half)
        for (int64_t i = first; i < first + half; i += WN_VD) {
            wn_vd a = wn_vd_load(x + i), b = wn_vd_load(x + i + half);
            wn_vd_store(x + i, a + b);
            wn_vd_store(x + i + half, a - b);
        }
}

/* Zeros follow a row narrower than a vector: they leave its transform as it is. */
static void transform(float *row, int64_t n, int narrow)
{
    double x[MOST];
    int64_t half = WN_VD;
    wn_vd scale = wn_vd_set(1 / sqrt((double)n));
    for (int64_t i = 0; i < n; i += WN_VD)
        wn_vd_store(x + i, within(wn_vd_from_floats(row + i)));
    for (; 2 * half < n; half *= 4)
        two_stages(x, n, half);
    if (half < n)
        one_stage(x, n, half);
    for (int64_t i = 0; i < n; i += WN_VD) {
        wn_vd y = wn_vd_load(x + i) * scale;
        wn_vd_to_floats(row + i, narrow ? wn_vd_odd(y) : y);
    }
}

static void hadamard_rows(void *argument, int64_t item)
{
    const call *c = argument;
    const wn_tensor *in = &c->args->in, *out = &c->args->out;
    float row[WN_ROW];
    int64_t n = in->shape[1], first = item * c->rows, end = first + c->rows;
    for (int64_t r = first; r < end && r < in->shape[0]; r++) {
        memset(row, 0, WN_VD * sizeof *row);
        wn_row_load(row, in->dtype, in->data, r * in->stride[0], in->stride[1], n);
        transform(row, n, in->dtype != WN_F32);
        wn_row_store(out->dtype, out->data, r * out->stride[0], out->stride[1], row, n);
    }
}

wn_status WN_CPU(hadamard)(const wn_hadamard_args *args)
{
    enum { ITEM = 8192, WORTH_THREADS = 16384 }; /* numbers: 4 us and 8 us of one core */
    wn_status status = wn_refuse_hadamard(args);
    if (status != WN_OK || args->in.shape[0] == 0)
        return status;
    call c = {args, ITEM / args->in.shape[1]};
    wn_for_each(args->in.shape[0] * args->in.shape[1] < WORTH_THREADS ? NULL : args->executor,
                (args->in.shape[0] + c.rows - 1) / c.rows, hadamard_rows, &c);
    return WN_OK;
}
