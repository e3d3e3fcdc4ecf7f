/* append.c: new tokens on their way into the cache. Bound by the memory that it writes and, for a
 * single token, by its own instructions: a call makes the frequencies once, a token its sines and
 * cosines once for all heads. Vectors that nothing changes are copied; the others become floats on
 * the stack, are turned, divided and rounded once, and leave in the cache's layout. */
#include "kernels/block_scale.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rotary.h"
#include "kernels/kv_element.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"
#include "kernels/tensor_element.h"

/* One call. item: `tokens` consecutive tokens. */
typedef struct call {
    const wn_append_args *args;
    int64_t tokens;
    wn_rotary rotary;
} call;

/* ---------------------------------------------------------------- one vector into the cache */

/* An MLA record; the rule of its scales is told in kernels/ref/append.c. A power of two divides
 * exactly by its inverse. */
static void store_record(uint8_t *record, float *x)
{
    for (int64_t block = 0; block < WN_MLA_LATENT_DIM / WN_MLA_CODES_PER_SCALE; block++) {
        int64_t first = block * WN_MLA_CODES_PER_SCALE;
        float full = wn_row_greatest(x + first, WN_MLA_CODES_PER_SCALE) / 448;
        float scale = wn_power_of_two_above(full > 1e-4f ? full : 1e-4f);
        memcpy(record + WN_MLA_SCALES_AT + block * 4, &scale, sizeof scale);
        wn_vf inverse = wn_vf_set(1 / scale);
        for (int64_t d = first; d < first + WN_MLA_CODES_PER_SCALE; d += WN_VL)
            wn_vf_to(WN_F8_E4M3, record + d, wn_vf_mul(wn_vf_load(x + d), inverse));
    }
    wn_row_store(WN_BF16, record + WN_MLA_ROPE_AT, 0, 1, x + WN_MLA_LATENT_DIM, WN_MLA_ROPE_DIM);
}

/* Codes of a vector, dense, to their places in a layout of vectors. */
static void scatter(const wn_kv_view *view, uint32_t tokens_per_page, int64_t page, int64_t head,
                    int64_t place, const uint8_t *code)
{
    int64_t bytes = wn_number_bytes(view->dtype);
    int64_t run = view->layout == WN_LAYOUT_VEC_K ? view->vec_x : 1;
    uint8_t *data = view->data;
    for (int64_t d = 0; d < view->dim; d += run)
        memcpy(data + wn_kv_offset(view, tokens_per_page, page, head, place, d) * bytes,
               code + d * bytes, (size_t)(run * bytes));
}

/* x: a row, which changes. */
static void store_vector(const wn_append_args *args, const wn_kv_view *view, int64_t page,
                         int64_t place, int64_t head, float *x)
{
    uint8_t codes[WN_ROW * sizeof(float)];
    if (view->layout == WN_LAYOUT_MLA_FP8) {
        store_record(wn_kv_record(view, page, head, place), x);
        return;
    }
    if (view->scale != NULL)
        view->scale[wn_kv_scale_offset(view, page, head, place)] =
            wn_scale_of((double)wn_row_greatest(x, view->dim) / view->tensor_scale, view->dtype);
    double scale = wn_kv_scale(view, page, head, place);
    int strided = view->layout == WN_LAYOUT_STRIDED;
    int64_t at = strided ? wn_kv_offset(view, args->tokens_per_page, page, head, place, 0) : 0;
    void *to = strided ? view->data : codes;
    if (scale == (double)(float)scale) {
        if (scale != 1)
            wn_row_divide(x, view->dim, (float)scale, view->dtype);
        wn_row_store(view->dtype, to, at, 1, x, view->dim);
    } else { /* two scales whose product is no float: rare */
        for (int64_t d = 0; d < view->dim; d++)
            wn_store(to, view->dtype, at + d, (double)x[d] / scale);
    }
    if (!strided)
        scatter(view, args->tokens_per_page, page, head, place, codes);
}

/* Does a vector of this tensor enter this pool byte for byte? */
static int is_copied(const wn_tensor *tensor, const wn_kv_view *view)
{
    return tensor->dtype == view->dtype && tensor->stride[2] == 1 &&
           view->layout == WN_LAYOUT_STRIDED && view->scale == NULL && view->tensor_scale == 1;
}

/* Is x, before it enters this pool, rounded to its dtype and nothing else? */
static int is_rounded_once(const wn_kv_view *view)
{
    return view->dtype != WN_F32 && view->scale == NULL && view->tensor_scale == 1;
}

/* ---------------------------------------------------------------- one token */

/* All heads of k or v. turn: NULL: not turned. */
static void store_heads(const call *c, const wn_tensor *tensor, const wn_kv_view *view,
                        const wn_turn *turn, int64_t token, int64_t page, int64_t place)
{
    float row[WN_ROW], turned[WN_ROW];
    int64_t heads = tensor->shape[1], dim = view->dim;
    int64_t bytes = wn_number_bytes(tensor->dtype);
    int64_t from = token * tensor->stride[0];
    if (turn == NULL && is_copied(tensor, view)) {
        uint8_t *to =
            (uint8_t *)view->data + (page * view->page_stride + place * view->token_stride) * bytes;
        for (int64_t h = 0; h < heads; h++)
            memcpy(to + h * view->head_stride * bytes,
                   (const uint8_t *)tensor->data + (from + h * tensor->stride[1]) * bytes,
                   (size_t)(dim * bytes));
        return;
    }
    for (int64_t h = 0; h < heads; h++) {
        wn_row_load(row, tensor->dtype, tensor->data, from + h * tensor->stride[1],
                    tensor->stride[2], dim);
        if (turn != NULL)
            wn_turn_apply(turn, &c->rotary, row, turned, dim, is_rounded_once(view));
        store_vector(c->args, view, page, place, h, turn != NULL ? turned : row);
    }
}

/* Reads a whole vector before it writes: q_out may be q. */
static void turn_q(const call *c, const wn_turn *turn, int64_t token)
{
    const wn_tensor *in = &c->args->q, *out = &c->args->q_out;
    float row[WN_ROW], turned[WN_ROW];
    for (int64_t h = 0; h < in->shape[1]; h++) {
        int64_t from = token * in->stride[0] + h * in->stride[1];
        int64_t to = token * out->stride[0] + h * out->stride[1];
        wn_row_load(row, in->dtype, in->data, from, in->stride[2], in->shape[2]);
        if (turn != NULL)
            wn_turn_apply(turn, &c->rotary, row, turned, in->shape[2], in->dtype != WN_F32);
        wn_row_store(in->dtype, out->data, to, out->stride[2], turn != NULL ? turned : row,
                     in->shape[2]);
    }
}

static void append_token(const call *c, int64_t token, wn_turn *scratch)
{
    const wn_append_args *args = c->args;
    const wn_turn *turn = c->rotary.pairs > 0 ? scratch : NULL;
    int stored = args->k.data != NULL && args->slot[token] >= 0;
    if (turn != NULL && (stored || args->q.data != NULL))
        wn_turn_make(scratch, &c->rotary, args->position[token]);
    if (args->q.data != NULL)
        turn_q(c, turn, token);
    if (!stored)
        return;
    int64_t page = args->slot[token] / args->tokens_per_page;
    int64_t place = args->slot[token] % args->tokens_per_page;
    store_heads(c, &args->k, &args->k_cache, turn, token, page, place);
    if (args->v.data != NULL)
        store_heads(c, &args->v, &args->v_cache, NULL, token, page, place);
    if (args->key_position != NULL)
        for (int64_t h = 0; h < args->k.shape[1]; h++)
            args->key_position[page * args->key_position_page_stride +
                               h * args->key_position_head_stride + place] = args->position[token];
}

static void append_tokens(void *argument, int64_t item)
{
    const call *c = argument;
    wn_turn scratch;
    int64_t first = item * c->tokens, end = first + c->tokens;
    if (end > c->args->num_tokens)
        end = c->args->num_tokens;
    for (int64_t token = first; token < end; token++)
        append_token(c, token, &scratch);
}

/* Numbers that a token brings: what a call costs. */
static int64_t numbers_per_token(const wn_append_args *args)
{
    int64_t numbers = 1;
    if (args->q.data != NULL)
        numbers += args->q.shape[1] * args->q.shape[2];
    if (args->k.data != NULL)
        numbers += args->k.shape[1] * args->k.shape[2];
    if (args->k.data != NULL && args->v.data != NULL)
        numbers += args->v.shape[1] * args->v.shape[2];
    return numbers;
}

wn_status WN_CPU(append)(const wn_append_args *args)
{
    enum { ITEM = 32768, WORTH_THREADS = 65536 }; /* numbers: 5 us and 10 us of one core */
    call c;
    wn_status status = wn_refuse_append(args);
    if (status != WN_OK || args->num_tokens == 0)
        return status;
    int64_t numbers = numbers_per_token(args);
    c.args = args;
    c.tokens = numbers < ITEM ? ITEM / numbers : 1;
    WN_ROTARY_OF(args, &c.rotary);
    wn_for_each(numbers * args->num_tokens < WORTH_THREADS ? NULL : args->executor,
                (args->num_tokens + c.tokens - 1) / c.tokens, append_tokens, &c);
    return WN_OK;
}
