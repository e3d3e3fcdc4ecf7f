/* rope.c: rotary position embedding of any tensor: as append turns its queries. Bound by memory
 * for many heads, by sines and cosines for few. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rotary.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

/* One call. item: `tokens` consecutive tokens. */
typedef struct call {
    const wn_rope_args *args;
    int64_t tokens;
    wn_rotary rotary;
} call;

/* Reads a whole vector before it writes: out may be in. */
static void turn_token(const call *c, int64_t token, const wn_turn *turn)
{
    const wn_tensor *in = &c->args->in, *out = &c->args->out;
    float row[WN_ROW], turned[WN_ROW];
    for (int64_t h = 0; h < in->shape[1]; h++) {
        wn_row_load(row, in->dtype, in->data, token * in->stride[0] + h * in->stride[1],
                    in->stride[2], in->shape[2]);
        wn_turn_apply(turn, &c->rotary, row, turned, in->shape[2], in->dtype != WN_F32);
        wn_row_store(out->dtype, out->data, token * out->stride[0] + h * out->stride[1],
                     out->stride[2], turned, in->shape[2]);
    }
}

static void turn_tokens(void *argument, int64_t item)
{
    const call *c = argument;
    wn_turn turn;
    int64_t first = item * c->tokens, end = first + c->tokens;
    if (end > c->args->in.shape[0])
        end = c->args->in.shape[0];
    for (int64_t token = first; token < end; token++) {
        wn_turn_make(&turn, &c->rotary, c->args->position[token]);
        turn_token(c, token, &turn);
    }
}

wn_status WN_CPU(rope)(const wn_rope_args *args)
{
    enum { ITEM = 16384, WORTH_THREADS = 32768 }; /* numbers: 4 us and 8 us of one core */
    call c;
    wn_status status = wn_refuse_rope(args);
    if (status != WN_OK || args->in.shape[0] == 0)
        return status;
    int64_t numbers = args->in.shape[1] * args->in.shape[2] + args->rope_dim;
    c.args = args;
    c.tokens = numbers < ITEM ? ITEM / numbers : 1;
    WN_ROTARY_OF(args, &c.rotary);
    wn_for_each(numbers * args->in.shape[0] < WORTH_THREADS ? NULL : args->executor,
                (args->in.shape[0] + c.tokens - 1) / c.tokens, turn_tokens, &c);
    return WN_OK;
}
