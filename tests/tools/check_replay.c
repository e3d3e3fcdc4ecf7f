/* check_replay.c: attention over what an eviction left, straight from the definition. */
#include "tools/check_replay.h"

#include "tools/check_small_trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

wn_trace *check_replay_trace(void)
{
    wn_trace *trace;
    if (wn_trace_open(check_small_trace_write("replayed.safetensors"), NULL, 0, &trace, NULL) !=
        WN_OK)
        abort();
    return trace;
}

static void attend(const wn_trace *trace, wn_replay_layer *to, uint32_t layer, int64_t row,
                   uint32_t head, int64_t drop_begin, int64_t drop_end)
{
    uint32_t kv_head = head / (CHECK_HEADS / CHECK_KV_HEADS);
    int64_t at = row * CHECK_HEADS + head;
    const float *q = (const float *)trace->layers[layer].q->data + at * CHECK_DIM;
    const float *k = trace->layers[layer].k->data, *v = trace->layers[layer].v->data;
    double sum = 0, out[CHECK_DIM] = {0};
    for (int64_t t = 0; t <= row; t++) {
        double dot = 0;
        if (row >= CHECK_CONTEXT && t >= drop_begin && t < drop_end)
            continue;
        for (int d = 0; d < CHECK_DIM; d++)
            dot += (double)q[d] * k[(t * CHECK_KV_HEADS + kv_head) * CHECK_DIM + d];
        double weight = exp(dot * trace->softmax_scale);
        sum += weight;
        for (int d = 0; d < CHECK_DIM; d++)
            out[d] += weight * v[(t * CHECK_KV_HEADS + kv_head) * CHECK_DIM + d];
    }
    for (int d = 0; d < CHECK_DIM; d++)
        ((float *)to->out)[at * CHECK_DIM + d] = (float)(out[d] / sum);
    to->lse[at] = (float)log(sum);
}

static void make_layer(const wn_trace *trace, wn_replay_layer *to, uint32_t layer,
                       int64_t drop_begin, int64_t drop_end)
{
    int64_t steps = CHECK_TOKENS - CHECK_CONTEXT;
    to->out = calloc(CHECK_TOKENS * CHECK_HEADS * CHECK_DIM, sizeof(float));
    to->lse = calloc(CHECK_TOKENS * CHECK_HEADS, sizeof(float));
    to->generation.span = calloc((size_t)steps * CHECK_KV_HEADS, sizeof *to->generation.span);
    to->generation.chosen = calloc((size_t)steps, 1);
    to->computed = calloc((size_t)steps * CHECK_KV_HEADS, sizeof *to->computed);
    for (int64_t i = 0; i < steps * CHECK_KV_HEADS; i++)
        to->computed[i] = 1;
    to->kept = (int32_t)(CHECK_CONTEXT - (drop_end - drop_begin));
    for (int64_t row = 0; row < CHECK_TOKENS; row++)
        for (uint32_t h = 0; h < CHECK_HEADS; h++)
            attend(trace, to, layer, row, h, drop_begin, drop_end);
    if (drop_begin == drop_end)
        return;
    to->retain = calloc((size_t)to->kept * CHECK_KV_HEADS, sizeof *to->retain);
    for (int32_t h = 0, n = 0; h < CHECK_KV_HEADS; h++)
        for (int32_t t = 0; t < CHECK_CONTEXT; t++)
            if (t < drop_begin || t >= drop_end)
                to->retain[n++] = t;
}

wn_replay *check_replay_make(const wn_trace *trace, const char *name, int64_t drop_begin,
                             int64_t drop_end)
{
    wn_replay *replay = calloc(1, sizeof *replay);
    replay->trace = trace;
    replay->name = strdup(name);
    replay->plan = strdup("layers 0-1: made for a test & <nothing> else\n");
    replay->context_seconds = 0.004;
    replay->generation_seconds = 0.002;
    replay->token_bytes = 2.0 * CHECK_KV_HEADS * CHECK_DIM * sizeof(float);
    replay->steps = CHECK_TOKENS - CHECK_CONTEXT;
    replay->layers = calloc(trace->num_layers, sizeof *replay->layers);
    for (uint32_t l = 0; l < trace->num_layers; l++)
        make_layer(trace, &replay->layers[l], l, drop_begin, drop_end);
    return replay;
}
