/* tiny_attention.h: attention that can be followed by hand: one request, one KV head, head_dim 1
 * and queries of 1, so that a key is its score. Pages of 4 tokens in reverse order. */
#ifndef WN_TESTS_TINY_ATTENTION_H
#define WN_TESTS_TINY_ATTENTION_H

#include "kernels/ref/attend.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

enum { TINY_KEYS = 16, TINY_QUERIES = 4, TINY_PAGE = 4 };

typedef struct tiny_attention {
    float q[TINY_QUERIES], k[TINY_KEYS], v[TINY_KEYS], out[TINY_QUERIES], lse[TINY_QUERIES];
    int32_t page_table[TINY_KEYS / TINY_PAGE], length, q_begin, q_len, selection_row;
    wn_selection selection;
    wn_attend_counters counters;
    wn_attend_args args;
} tiny_attention;

/* Where slot j's key and value are in k and v. */
static inline int tiny_place(int j)
{
    return (TINY_KEYS / TINY_PAGE - 1 - j / TINY_PAGE) * TINY_PAGE + j % TINY_PAGE;
}

static inline wn_tensor tiny_tensor(float *data, uint32_t ndim)
{
    wn_tensor t = {.data = data,
                   .shape = {TINY_QUERIES, 1, 1},
                   .stride = {1, 1, 1},
                   .dtype = WN_F32,
                   .ndim = ndim};
    if (ndim == 2)
        t.shape[2] = t.stride[2] = 0;
    return t;
}

/* `keys` keys with these scores, values 0, 1, 2 ..., and the last `queries` of them asking. */
static inline void tiny_attention_make(tiny_attention *t, int keys, const float *scores,
                                       int queries)
{
    memset(t, 0, sizeof *t);
    t->length = keys;
    t->q_len = queries;
    for (int i = 0; i < TINY_KEYS / TINY_PAGE; i++)
        t->page_table[i] = TINY_KEYS / TINY_PAGE - 1 - i;
    for (int j = 0; j < TINY_KEYS; j++) {
        t->k[tiny_place(j)] = j < keys ? scores[j] : NAN;
        t->v[tiny_place(j)] = j < keys ? (float)j : NAN;
    }
    for (int i = 0; i < TINY_QUERIES; i++)
        t->q[i] = 1;
    wn_kv_view k = {.data = t->k,
                    .page_stride = TINY_PAGE,
                    .head_stride = TINY_PAGE,
                    .token_stride = 1,
                    .dtype = WN_F32,
                    .layout = WN_LAYOUT_STRIDED,
                    .dim = 1,
                    .tensor_scale = 1};
    wn_kv_view v = k;
    v.data = t->v;
    t->args = (wn_attend_args){.struct_size = WN_SIZEOF(wn_attend_args),
                               .q = tiny_tensor(t->q, 3),
                               .q_begin = &t->q_begin,
                               .q_len = &t->q_len,
                               .kv = {.k = k,
                                      .v = v,
                                      .page_table = t->page_table,
                                      .page_table_stride = TINY_KEYS / TINY_PAGE,
                                      .length = &t->length,
                                      .batch = 1,
                                      .tokens_per_page = TINY_PAGE,
                                      .num_kv_heads = 1},
                               .causal = 1,
                               .softmax_scale = 1,
                               .out = tiny_tensor(t->out, 3),
                               .lse = tiny_tensor(t->lse, 2),
                               .counters = &t->counters};
}

/* Restricts it to these blocks. */
static inline void tiny_attention_select(tiny_attention *t, uint32_t block_size, int32_t *blocks,
                                         int64_t count)
{
    t->selection = (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                                  .block_size = block_size,
                                  .index_space = WN_INDEX_PHYSICAL,
                                  .flags = WN_SELECTION_SORTED,
                                  .query_block = 64,
                                  .rows = 1,
                                  .width = count,
                                  .indices = blocks,
                                  .capacity = count};
    t->args.selection = &t->selection;
    t->args.selection_row = &t->selection_row;
}

/* The unit that holds all of it. */
static inline wn_ref_unit tiny_unit(const tiny_attention *t, int64_t tile_k)
{
    return (wn_ref_unit){.args = &t->args,
                         .num_heads = 1,
                         .num_tokens = t->q_len,
                         .length = t->length,
                         .shift = t->length - t->q_len,
                         .tile_k = tile_k,
                         .counters = t->args.counters};
}

#endif
