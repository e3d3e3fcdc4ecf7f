/* check_engine.h: what the tests of the engine share: an engine over the probe plugins, a shadow of
 * every sequence as plain arrays, and dense attention over it in float64. */
#ifndef WN_CHECK_ENGINE_H
#define WN_CHECK_ENGINE_H

#include "tests/suite.h"
#include "winnow/winnow.h"

/* Tokens of one sequence as a model would hand them over, layer 0's; layer l's are those, scaled a
 * little. v of an MLA model is the front of k, for check_dense; the engine is not given it. */
typedef struct check_text {
    uint32_t tokens;
    float *q, *k, *v; /* [tokens, heads, dim], [tokens, kv_heads, dim] */
} check_text;

typedef struct check_engine {
    wn_model model;
    wn_registry *registry;
    wn_config *config;
    wn_engine *engine;
} check_engine;

/* 2 layers, 6 heads on 2 KV heads, dim 8, float32. */
wn_model check_model(void);
/* Opens an engine over the probe plugins; yaml "" is dense. Asserts success. */
void check_open(check_engine *c, const char *yaml, const wn_engine_options *options);
/* The same without asserting: the status of wn_engine_create. */
wn_status check_try_open(check_engine *c, const char *yaml, const wn_engine_options *options);
void check_close(check_engine *c);

check_text check_write(const wn_model *model, uint32_t tokens, uint64_t *random);
void check_erase(check_text *text);

/* Runs tokens [begin, end) of one sequence through one step of its own, all layers. flags as in
 * wn_batch_item. out: [layers, end-begin, heads, dim] or NULL; lse: [layers, end-begin, heads] or
 * NULL. */
wn_status check_step(check_engine *c, wn_sequence sequence, const check_text *text, uint32_t begin,
                     uint32_t end, uint32_t flags, float *out, float *lse);

/* Dense causal attention of token t over those of `keys` [n] (positions in the text) that are <= t,
 * on one layer, in float64: out [heads, dim], lse [heads]. keys NULL: all of 0..t. */
void check_dense(const wn_model *model, const check_text *text, uint32_t layer, uint32_t t,
                 const int32_t *keys, uint32_t n, uint32_t kv_head_only, double *out, double *lse);
#define CHECK_ALL_HEADS UINT32_MAX

/* Greatest |a - b|; a float32, b float64. */
double check_distance(const float *a, const double *b, uint32_t n);

#endif
