/* check_small_trace.c: a trace of two layers in which one head reads a planted fact. */
#include "tools/check_small_trace.h"

#include "suite.h"
#include "tools/check_file.h"
#include "tools/metrics.h"

#include <math.h>
#include <string.h>

static float values[6][CHECK_TOKENS * CHECK_HEADS * CHECK_DIM];

static void fill(float *to, int count, uint64_t *state)
{
    for (int i = 0; i < count; i++)
        to[i] = (float)wn_random_signed(state);
}

/* Head 0's generated queries and KV head 0's keys of the fact point the same way. */
static void plant(float *q, float *k)
{
    for (int t = CHECK_CONTEXT; t < CHECK_TOKENS; t++)
        q[t * CHECK_HEADS * CHECK_DIM] = 12;
    for (int t = CHECK_NEEDLE; t < CHECK_NEEDLE_END; t++)
        k[t * CHECK_KV_HEADS * CHECK_DIM] = 4;
}

const char *check_small_trace_write(const char *name)
{
    static char path[256], words[CHECK_TOKENS * 8];
    static int32_t begin[CHECK_TOKENS + 1];
    uint64_t state = 99;
    wn_safetensor tensors[8];
    const char *const names[] = {"layers.5.q", "layers.5.k", "layers.5.v",
                                 "layers.3.q", "layers.3.k", "layers.3.v"};
    const char *const metadata[] = {"format",
                                    "winnow.trace/1",
                                    "softmax_scale",
                                    "0.35",
                                    "context_length",
                                    "80",
                                    "needle_begin",
                                    "20",
                                    "needle_end",
                                    "24",
                                    "model",
                                    "made up",
                                    NULL};
    for (int i = 0; i < 6; i++) {
        int heads = i % 3 == 0 ? CHECK_HEADS : CHECK_KV_HEADS;
        fill(values[i], CHECK_TOKENS * heads * CHECK_DIM, &state);
        tensors[i] = (wn_safetensor){names[i],
                                     WN_F32,
                                     3,
                                     {CHECK_TOKENS, heads, CHECK_DIM},
                                     sizeof(float) * CHECK_TOKENS * (size_t)heads * CHECK_DIM,
                                     values[i]};
    }
    plant(values[3], values[4]);
    for (int t = 0; t < CHECK_TOKENS; t++)
        begin[t + 1] = begin[t] + sprintf(words + begin[t], "w%d ", t);
    tensors[6] = (wn_safetensor){
        "token_text", WN_U8, 1, {begin[CHECK_TOKENS]}, (uint64_t)begin[CHECK_TOKENS], words};
    tensors[7] =
        (wn_safetensor){"token_text_offsets", WN_I32, 1, {CHECK_TOKENS + 1}, sizeof begin, begin};
    snprintf(path, sizeof path, "%s", check_file_path(name));
    if (wn_safetensors_write(path, tensors, 8, metadata, NULL) != WN_OK)
        abort();
    return path;
}

/* Row and head of dense attention in double. The statistic comes from the scores again. */
static double dense_row(const wn_trace *trace, uint32_t layer, int64_t row, uint32_t head,
                        double *out)
{
    double mass[CHECK_TOKENS], sum = 0;
    uint32_t kv_head = head / (CHECK_HEADS / CHECK_KV_HEADS);
    const float *q =
        (const float *)trace->layers[layer].q->data + (row * CHECK_HEADS + head) * CHECK_DIM;
    const float *k = trace->layers[layer].k->data, *v = trace->layers[layer].v->data;
    memset(out, 0, CHECK_DIM * sizeof *out);
    for (int64_t t = 0; t <= row; t++) {
        double dot = 0;
        for (int d = 0; d < CHECK_DIM; d++)
            dot += (double)q[d] * k[(t * CHECK_KV_HEADS + kv_head) * CHECK_DIM + d];
        sum += mass[t] = exp(dot * trace->softmax_scale);
    }
    for (int64_t t = 0; t <= row; t++)
        for (int d = 0; d < CHECK_DIM; d++)
            out[d] += mass[t] / sum * v[(t * CHECK_KV_HEADS + kv_head) * CHECK_DIM + d];
    return log(sum);
}

const char *check_small_trace_expected(const char *name, const wn_trace *trace)
{
    static char path[256];
    static double out[2][CHECK_TOKENS * CHECK_HEADS * CHECK_DIM],
        lse[2][CHECK_TOKENS * CHECK_HEADS];
    static int32_t rows[CHECK_TOKENS];
    wn_safetensor tensors[5] = {{"rows", WN_I32, 1, {CHECK_TOKENS}, sizeof rows, rows}};
    const char *const names[] = {"layers.3.out", "layers.5.out", "layers.3.lse", "layers.5.lse"};
    for (uint32_t l = 0; l < 2; l++) {
        for (int64_t t = 0; t < CHECK_TOKENS; t++)
            for (uint32_t h = 0; h < CHECK_HEADS; h++)
                lse[l][t * CHECK_HEADS + h] =
                    dense_row(trace, l, t, h, &out[l][(t * CHECK_HEADS + h) * CHECK_DIM]);
        tensors[1 + l] = (wn_safetensor){
            names[l], WN_F64, 3, {CHECK_TOKENS, CHECK_HEADS, CHECK_DIM}, sizeof out[l], out[l]};
        tensors[3 + l] = (wn_safetensor){names[2 + l],  WN_F64, 2, {CHECK_TOKENS, CHECK_HEADS},
                                         sizeof lse[l], lse[l]};
    }
    for (int32_t t = 0; t < CHECK_TOKENS; t++)
        rows[t] = t;
    snprintf(path, sizeof path, "%s", check_file_path(name));
    if (wn_safetensors_write(path, tensors, 5, NULL, NULL) != WN_OK)
        abort();
    return path;
}
