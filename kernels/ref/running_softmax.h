/* running_softmax.h: softmax(scores) V key by key, for one row: the greatest score so far, the sum
 * of exp(score - greatest), and the sum of those times V. A new greatest score rescales the two
 * sums. Doubles; what comes out depends on the keys and their order alone. */
#ifndef WN_REF_RUNNING_SOFTMAX_H
#define WN_REF_RUNNING_SOFTMAX_H

#include <math.h>
#include <stdint.h>

typedef struct wn_ref_softmax {
    double maximum, sum; /* begin: -INFINITY, 0 */
    double *out;         /* [dim], begin: zeros */
} wn_ref_softmax;

static inline void wn_ref_softmax_rescale(wn_ref_softmax *s, double maximum, int64_t dim)
{
    double factor = exp(s->maximum - maximum);
    s->sum *= factor;
    for (int64_t d = 0; d < dim; d++)
        s->out[d] *= factor;
    s->maximum = maximum;
}

/* -inf is a key that is not seen, or one without weight: its value is not touched. */
static inline void wn_ref_softmax_add(wn_ref_softmax *s, double score, const double *value,
                                      int64_t dim)
{
    if (score == -INFINITY)
        return;
    if (score > s->maximum)
        wn_ref_softmax_rescale(s, score, dim);
    double weight = exp(score - s->maximum);
    s->sum += weight;
    for (int64_t d = 0; d < dim; d++)
        s->out[d] += weight * value[d];
}

#endif
