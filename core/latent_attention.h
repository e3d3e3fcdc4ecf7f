/* latent_attention.h: attention of a multi-head latent layer to selected tokens. Private to core.
 */
#ifndef WN_LATENT_ATTENTION_H
#define WN_LATENT_ATTENTION_H

#include "winnow/ops.h"

/* Room for what ops->mla is told of each row of q, lent by the batch: [max_step_tokens] each. */
typedef struct wn_latent_rows {
    int32_t *limit, *request, *count;
} wn_latent_rows;

/* Can ops->mla do these args, which are an MLA layer's? It takes lists of tokens, and knows no tile
 * policy, widening to pages, window, soft cap or ALiBi: with one of those context and generation
 * do the work, as they do without a selection. */
int wn_latent_attention_takes(const wn_attend_args *args);

/* Does what context and generation would do with the same args, through ops->mla; counters are the
 * caller's to add to. The LSE contains the sinks, as theirs does. */
wn_status wn_latent_attention(const wn_attend_args *args, const wn_ops *ops,
                              const wn_latent_rows *rows);

#endif
