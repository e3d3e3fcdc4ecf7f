/* dequantise.c: codes times the scale of their row. Bound by memory: one pass, each number rounded
 * once, as the reference does. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rounding.h"
#include "kernels/number_format.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

/* One call. item: `rows` consecutive rows, or, of longer ones, one part of one row. */
typedef struct call {
    const wn_dequantise_args *args;
    int64_t rows, parts, part;
} call;

/* n channels. Floats are rounded by the multiplication itself. */
WN_INLINE void dequantise(uint32_t from, uint32_t to, const uint8_t *in, uint8_t *out, int64_t n,
                          float scale, int scaled)
{
    int64_t in_bytes = (int64_t)wn_vf_bytes_of(from), out_bytes = (int64_t)wn_vf_bytes_of(to);
    wn_vf by = wn_vf_set(scale);
    for (int64_t i = 0; i < n; i += WN_VL) {
        int64_t left = n - i < WN_VL ? n - i : WN_VL;
        wn_vf x = wn_vf_read(from, in + i * in_bytes, left);
        if (scaled)
            x = to == WN_F32 ? wn_vf_mul(x, by) : wn_vf_product(x, by);
        if (left == WN_VL)
            wn_vf_to(to, out + i * out_bytes, x);
        else
            wn_vf_to_first(to, out + i * out_bytes, x, left);
    }
}

/* The same with the types as constants. */
#define FROM(X, to)                                                                                \
    X(WN_F32, to) X(WN_F16, to) X(WN_BF16, to) X(WN_F8_E4M3, to) X(WN_F8_E5M2, to) X(WN_I8, to)

static void dequantise_part(const wn_dequantise_args *args, int64_t row, int64_t first, int64_t n)
{
    const wn_tensor *in = &args->in, *out = &args->out;
    float scale = args->scale != NULL ? args->scale[row] : 1;
    int scaled = args->scale != NULL;
    int64_t from = row * in->stride[0] + first * in->stride[1];
    int64_t to = row * out->stride[0] + first * out->stride[1];
    if (in->stride[1] != 1 || out->stride[1] != 1) {
        for (int64_t i = first; i < first + n; i++)
            wn_tensor_store(out, row, i, 0, wn_tensor_load(in, row, i, 0) * scale);
        return;
    }
    const uint8_t *codes = (const uint8_t *)in->data + from * wn_number_bytes(in->dtype);
    uint8_t *numbers = (uint8_t *)out->data + to * wn_number_bytes(out->dtype);
#define CASE(from_, to_)                                                                           \
    if (in->dtype == from_ && out->dtype == to_) {                                                 \
        dequantise(from_, to_, codes, numbers, n, scale, scaled);                                  \
        return;                                                                                    \
    }
    FROM(CASE, WN_F32)
    FROM(CASE, WN_F16)
    FROM(CASE, WN_BF16)
#undef CASE
}

static void dequantise_item(void *argument, int64_t item)
{
    const call *c = argument;
    const wn_tensor *in = &c->args->in;
    int64_t row = item / c->parts * c->rows, end = row + c->rows;
    int64_t first = item % c->parts * c->part, n = in->shape[1] - first;
    for (; row < end && row < in->shape[0]; row++)
        dequantise_part(c->args, row, first, n < c->part ? n : c->part);
}

wn_status WN_CPU(dequantise)(const wn_dequantise_args *args)
{
    enum { ITEM = 32768, WORTH_THREADS = 65536 }; /* numbers: 5 us and 10 us of one core */
    wn_status status = wn_refuse_dequantise(args);
    int64_t rows = args->in.shape[0], n = args->in.shape[1];
    if (status != WN_OK || rows == 0 || n == 0)
        return status;
    call c = {args, n < ITEM ? ITEM / n : 1, (n + ITEM - 1) / ITEM, ITEM};
    wn_for_each(rows * n < WORTH_THREADS ? NULL : args->executor,
                (rows + c.rows - 1) / c.rows * c.parts, dequantise_item, &c);
    return WN_OK;
}
