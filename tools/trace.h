/* trace.h: a recording of attention's inputs: what a real model asked (q) and kept (k, v) while it
 * read a prompt and generated after it. The file format is described in tools/README.md. */
#ifndef WN_TOOLS_TRACE_H
#define WN_TOOLS_TRACE_H

#include "tools/safetensors.h"
#include "winnow/winnow.h"

#define WN_TRACE_FORMAT "winnow.trace/1"
#define WN_TRACE_MAX_INPUTS 8

/* One layer. q [tokens, heads, head_dim], k [tokens, kv heads, head_dim],
 * v [tokens, kv heads, v_head_dim], all of trace->dtype. With MLA k is layers.N.kv [tokens,
 * head_dim] and v is NULL: a token's value is the first v_head_dim channels of its k. */
typedef struct wn_trace_layer {
    uint32_t number; /* N of layers.N */
    uint32_t num_inputs;
    const wn_safetensor *q, *k, *v;
    /* layers.N.indexer.q and the like: [tokens, ...], named from behind "layers.N." */
    const wn_safetensor *inputs[WN_TRACE_MAX_INPUTS];
    const char *input_names[WN_TRACE_MAX_INPUTS];
} wn_trace_layer;

typedef struct wn_trace {
    wn_safetensors *file;
    char *path;
    const char *model; /* "" if the file does not say */
    float softmax_scale;
    uint32_t dtype; /* WN_F32, F16, BF16 */
    uint32_t mla;   /* 1: one latent vector per token (wn_model.mla) */
    uint32_t num_layers, num_heads, num_kv_heads, head_dim, v_head_dim;
    int64_t tokens;
    int64_t context; /* tokens of the prompt; the others were generated one at a time */
    int64_t needle_begin, needle_end; /* a planted fact; equal: none */
    wn_trace_layer *layers;           /* ascending by number */
    uint32_t *layer_number;           /* [num_layers], as wn_model wants it */
    const uint8_t *text;              /* token t is text[text_begin[t] .. text_begin[t + 1]) */
    const int32_t *text_begin;        /* [tokens + 1]; NULL: the trace has no words */
} wn_trace;

/* Reads and checks a trace. only: [num_only] layer numbers to keep, or NULL for all. */
wn_status wn_trace_open(const char *path, const int64_t *only, uint32_t num_only, wn_trace **trace,
                        wn_error *error);
void wn_trace_close(wn_trace *trace); /* NULL is fine */

/* Forgets the layers with drop[index] != 0; one must be left. drop: [trace->num_layers]. */
void wn_trace_drop(wn_trace *trace, const uint8_t *drop);

/* Rows [first, first + count) of a tensor of the trace, as the library takes them. Nothing is
 * copied. */
wn_tensor wn_trace_rows(const wn_safetensor *tensor, int64_t first, int64_t count);
/* The same of a layer's k, always as [count, kv heads, head_dim]. */
wn_tensor wn_trace_keys(const wn_trace *trace, uint32_t layer, int64_t first, int64_t count);

/* The model that the trace comes from: its geometry, with the trace's layers alone. Points into the
 * trace. */
wn_model wn_trace_model(const wn_trace *trace);

/* What dense attention should give for some rows, in float64: NAME.expected.safetensors. */
typedef struct wn_expected {
    wn_safetensors *file;
    const int32_t *rows; /* [num_rows] */
    int64_t num_rows;
    const double *
        *out; /* [num_layers of the trace][num_rows, heads, v_head_dim]; NULL: not there */
    const double **lse; /* [num_layers of the trace][num_rows, heads] */
} wn_expected;

wn_status wn_expected_open(const char *path, const wn_trace *trace, wn_expected **expected,
                           wn_error *error);
void wn_expected_close(wn_expected *expected); /* NULL is fine */

#endif
