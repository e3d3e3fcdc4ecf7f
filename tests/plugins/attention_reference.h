/* attention_reference.h: dense attention in float64, and what leaving keys out does to it. */
#ifndef WN_TESTS_ATTENTION_REFERENCE_H
#define WN_TESTS_ATTENTION_REFERENCE_H

#include <stdint.h>

/* Attention of one query [dim] over n keys k, v [n, dim], of those j with attended[j] (NULL: all).
 * out [dim]. Returns the natural-log LSE, -inf with out 0 if there are none. */
double attention_reference(const double *q, const double *k, const double *v, int32_t n,
                           int32_t dim, double scale, const uint8_t *attended, double *out);

/* The universal oracle. Let eps be the dense softmax mass of the keys left out and vbar their mean
 * value under it; then  O_sparse - O_dense = eps (O_sparse - vbar)  for any rule of selection.
 * Returns the greatest violation over the channels by a given sparse output, relative to the
 * greatest |v|; needs at least one key attended to. */
double attention_oracle_violation(const double *q, const double *k, const double *v, int32_t n,
                                  int32_t dim, double scale, const uint8_t *attended,
                                  const double *sparse);

#endif
