/* rocket_split.h: the other keys from one, as the paper's code derives them. */
#ifndef ROCKET_SPLIT_H
#define ROCKET_SPLIT_H

#include <stdint.h>

typedef struct rocket_split {
    int64_t prompt_budget;         /* tokens; 0 or less: nothing is left for the prompt */
    int32_t page_size, topr, topk; /* tokens, channels, tokens */
} rocket_split;

/* What reads about as much per generated token as attention over token_budget tokens would,
 * landmarks included, once prompt and answer have `length` tokens, up to max_new_tokens of them the
 * answer's. */
rocket_split rocket_split_budget(int64_t token_budget, int64_t length, int64_t max_new_tokens,
                                 int64_t head_dim);

#endif
