/* latent_attention.h: attention of a multi-head latent layer. Private to core. */
#ifndef WN_LATENT_ATTENTION_H
#define WN_LATENT_ATTENTION_H

#include "winnow/ops.h"

/* Room for what ops->mla is told of each row of q, lent by the batch: [max_step_tokens] each. */
typedef struct wn_latent_rows {
    int32_t *limit, *request, *count;
} wn_latent_rows;

/* Can ops->mla do these args, which are an MLA layer's? It takes lists of tokens, or
 * all of them, and knows no tile policy, widening to pages, window, soft cap or ALiBi: with one of
 * those context and generation do the work. */
int wn_latent_attention_takes(const wn_attend_args *args);

/* Does what context and generation would do with the same args, through ops->mla; counters are
 * apart, below. The LSE contains the sinks, as theirs does. */
wn_status wn_latent_attention(const wn_attend_args *args, const wn_ops *ops,
                              const wn_latent_rows *rows);

/* Adds to args->counters. One read of a selected key serves all heads, as key and value: it is
 * counted at head 0, and for the keys named. Without a selection the counters are what context and
 * generation would count: they say how much attention there was, not by which op. */
void wn_latent_count_selected(const wn_attend_args *args, uint64_t keys);
void wn_latent_count_dense(const wn_attend_args *args, uint32_t phase);

#endif
