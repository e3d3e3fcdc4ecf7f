/* quantise.c: rows of numbers to a narrower dtype, a scale per block of channels. Bound by memory
 * for long rows: a block is read, its greatest magnitude found and its quotients rounded to odd and
 * then to the codes' dtype while it is in the nearest cache. The bits are the reference's. */
#include "kernels/block_scale.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/row.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

/* One call. item: `rows` consecutive rows. */
typedef struct call {
    const wn_quantise_args *args;
    int64_t rows, block;
} call;

enum { STRIP = WN_MAX_HEAD_DIM }; /* channels that are floats on the stack at once */

/* The greatest finite magnitude of a block. */
static float greatest_of(const call *c, int64_t row, int64_t first)
{
    const wn_tensor *in = &c->args->in;
    float strip[WN_ROW], greatest = 0;
    for (int64_t done = 0; done < c->block; done += STRIP) {
        int64_t n = c->block - done < STRIP ? c->block - done : STRIP;
        wn_row_load(strip, in->dtype, in->data,
                    row * in->stride[0] + (first + done) * in->stride[1], in->stride[1], n);
        float most = wn_row_greatest(strip, n);
        greatest = most > greatest ? most : greatest;
    }
    return greatest;
}

static void quantise_block(const call *c, int64_t row, int64_t first)
{
    const wn_quantise_args *args = c->args;
    const wn_tensor *in = &args->in, *out = &args->out;
    float strip[WN_ROW], divisor = 1;
    float *scale =
        args->scale != NULL ? &args->scale[(row * in->shape[1] + first) / c->block] : NULL;
    if (scale != NULL && args->scale_rule != WN_SCALE_READ)
        *scale = wn_block_scale(args->scale_rule, greatest_of(c, row, first), args->least_amax,
                                out->dtype);
    if (scale != NULL)
        divisor = *scale;
    for (int64_t done = 0; done < c->block; done += STRIP) {
        int64_t n = c->block - done < STRIP ? c->block - done : STRIP;
        int64_t from = row * in->stride[0] + (first + done) * in->stride[1];
        int64_t to = row * out->stride[0] + (first + done) * out->stride[1];
        wn_row_load(strip, in->dtype, in->data, from, in->stride[1], n);
        if (divisor != 1)
            wn_row_divide(strip, n, divisor, out->dtype);
        wn_row_store(out->dtype, out->data, to, out->stride[1], strip, n);
    }
}

static void quantise_rows(void *argument, int64_t item)
{
    const call *c = argument;
    int64_t row = item * c->rows, end = row + c->rows, n = c->args->in.shape[1];
    for (; row < end && row < c->args->in.shape[0]; row++)
        for (int64_t first = 0; first < n; first += c->block)
            quantise_block(c, row, first);
}

wn_status WN_CPU(quantise)(const wn_quantise_args *args)
{
    enum { ITEM = 32768, WORTH_THREADS = 65536 }; /* numbers: 5 us and 10 us of one core */
    wn_status status = wn_refuse_quantise(args);
    int64_t rows = args->in.shape[0], n = args->in.shape[1];
    if (status != WN_OK || rows == 0 || n == 0)
        return status;
    call c = {args, n < ITEM ? ITEM / n : 1, args->block != 0 ? args->block : n};
    wn_for_each(rows * n < WORTH_THREADS ? NULL : args->executor, (rows + c.rows - 1) / c.rows,
                quantise_rows, &c);
    return WN_OK;
}
