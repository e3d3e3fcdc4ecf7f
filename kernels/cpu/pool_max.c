/* pool_max.c: a sliding maximum. The maximum of a window of w is that of two windows of the power
 * of two below w, which come from windows of half their width: a few passes over a block that stays
 * in the first-level cache, each a maximum of two shifted vectors. The instruction gives its second
 * operand where both are zeros; that is always the earlier score, as in the reference. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <stdbool.h>

enum {
    ROOM = 64 * 1024,     /* scores that a block is computed from */
    BLOCK = 4096,         /* results of a block, unless the window is wider */
    WIDEST = ROOM / 4,    /* kernel sizes beyond are left to the reference: nobody asks for them */
    TINY_WORK = 32 * 1024 /* scores for which no thread is woken */
};

/* How the rows are cut into items. */
typedef struct blocks {
    const wn_pool_max_args *args;
    int64_t results, per_row; /* results of a block, blocks of a row */
} blocks;

/* to[i] = score first + i of a row, -inf outside of it and for NaN. */
static void load_scores(const float *row, int64_t stride, int64_t length, int64_t first,
                        int64_t count, float *to)
{
    int64_t i = 0, end = length - first < count ? length - first : count;
    wn_vf none = wn_vf_set(-INFINITY);
    for (; i < count && first + i < 0; i++)
        to[i] = -INFINITY;
    for (; stride == 1 && i + WN_VL <= end; i += WN_VL) /* the second operand where one is NaN */
        wn_vf_store(to + i, wn_vf_max(wn_vf_load(row + first + i), none));
    for (; i < end; i++) {
        float x = row[(first + i) * stride];
        to[i] = x > -INFINITY ? x : -INFINITY;
    }
    for (; i < count; i++)
        to[i] = -INFINITY;
}

/* x[i] = the greater of x[i] and x[i + shift], i < count, in place: what is read has not been
 * written. Whole vectors: some beyond count are written too. */
static void widen(float *x, int64_t count, int64_t shift)
{
    for (int64_t i = 0; i < count; i += WN_VL)
        wn_vf_store(x + i, wn_vf_max(wn_vf_load(x + i + shift), wn_vf_load(x + i)));
}

static void pool_block(void *argument, int64_t item)
{
    const blocks *b = argument;
    const wn_pool_max_args *a = b->args;
    int64_t r = item / b->per_row, first = item % b->per_row * b->results;
    int64_t length = a->length != NULL ? a->length[r] : a->in.shape[1];
    int64_t width = a->kernel_size, reach = 1;
    int64_t count = length - first < b->results ? length - first : b->results;
    float x[ROOM + 4 * WN_VL];
    if (count <= 0)
        return;
    load_scores((const float *)a->in.data + r * a->in.stride[0], a->in.stride[1], length,
                first - width / 2, count + width - 1 + 2 * WN_VL, x);
    for (; reach * 2 <= width; reach *= 2)
        widen(x, count + width - 2 * reach, reach);
    if (reach < width)
        widen(x, count, width - reach);
    float *out = (float *)a->out.data + r * a->out.stride[0] + first * a->out.stride[1];
    if (a->out.stride[1] == 1)
        memcpy(out, x, (size_t)count * sizeof *out);
    for (int64_t i = 0; a->out.stride[1] != 1 && i < count; i++)
        out[i * a->out.stride[1]] = x[i];
}

wn_status WN_CPU(pool_max)(const wn_pool_max_args *args)
{
    if (args->struct_size >= WN_SIZEOF(wn_pool_max_args) && args->kernel_size > WIDEST)
        return wn_ref_pool_max(args);
    wn_status status = wn_refuse_pool_max(args);
    if (status != WN_OK)
        return status;
    int64_t rows = args->in.shape[0], n = args->in.shape[1];
    blocks b = {.args = args, .results = args->kernel_size < BLOCK ? BLOCK : ROOM / 2};
    b.per_row = (n + b.results - 1) / b.results;
    wn_for_each(rows * n <= TINY_WORK ? NULL : args->executor, rows * b.per_row, pool_block, &b);
    return WN_OK;
}
