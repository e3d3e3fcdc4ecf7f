/* rocket_split.c: how a token budget is divided between the two stages. Formulas: RocketKV (arXiv
 * 2502.14051), as in the code of its evaluation.
 *
 * The whole compression is c = length / token_budget. Stage 1 does c^alpha of it and stage 2 the
 * rest, c2, half of it by few landmarks (page_size) and half by few channels (topr): estimation
 * then reads as much as attention over token_budget / 2 tokens, and attention takes the other half.
 */
#include "rocket_split.h"

#include <math.h>

rocket_split rocket_split_budget(int64_t token_budget, int64_t length, int64_t max_new_tokens,
                                 int64_t head_dim)
{
    const double t = (double)token_budget, s = (double)length, c = fmax(1, s / t);
    const double alpha = fmin(0.2 + 0.06 * log2(c), 0.8);
    /* Survivors of stage 1, with room for all new tokens. */
    double capacity = floor(s / pow(c, alpha));
    capacity = fmax(capacity, fmin(2 * (double)max_new_tokens, s));
    const double c2 = fmax(1, capacity / t), side = ceil(sqrt(c2));
    const double page_size = side <= c2 ? side : 1;
    const double topr = floor((double)head_dim * page_size / c2);
    return (rocket_split){
        .prompt_budget = (int64_t)capacity - max_new_tokens,
        .page_size = (int32_t)page_size,
        .topr = (int32_t)fmax(1, fmin(topr, (double)head_dim)),
        .topk = (int32_t)(token_budget / 2),
    };
}
