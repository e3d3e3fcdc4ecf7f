/* dsa_reference.h: the lightning indexer as its formulas say it, in float64, one query at a time,
 * written for reading. Shares no code with kernels or plugins; fp8 and bfloat16 are rounded by
 * arithmetic here, not by bits.
 *
 * Scores are rounded to float32, once. That is part of the definition: two scores that round to one
 * number are tied, and ties go to the lower index. */
#ifndef WN_TESTS_DSA_REFERENCE_H
#define WN_TESTS_DSA_REFERENCE_H

#include <stdint.h>

enum { DSA_AS_IS, DSA_HALF_SPLIT, DSA_INTERLEAVED };

typedef struct dsa_indexer {
    int32_t heads, dim, topk;
    int32_t fp8;      /* 1: queries and keys in e4m3 with a scale each */
    int32_t int8;     /* 1: in integers up to 63 with a scale each; neither: bfloat16 */
    int32_t raw;      /* fp8: 1: scale amax/448; 0: rounded up to a power of two */
    int32_t hadamard; /* 1: before rounding to fp8 */
    int32_t rope;     /* of the first rope_dim channels: DSA_... */
    int32_t rope_dim;
    double frequency[64]; /* [rope_dim/2] angle per position */
} dsa_indexer;

enum { DSA_MAX_DIM = 128, DSA_MAX_KEYS = 512 };

/* x [dim] of the token at `position` as it is scored: values [dim], which are to be multiplied by
 * the returned scale. */
double dsa_reference_vector(const dsa_indexer *indexer, const double *x, int32_t position,
                            double *values);

/* Scores of the first `length` tokens' keys, [length, dim] with a scale each as
 * dsa_reference_vector gives them, for the query q [heads, dim], weights [heads] of token
 * length - 1. */
void dsa_reference_scores(const dsa_indexer *indexer, const double *q, const double *weights,
                          const double *keys, const double *key_scale, int32_t length,
                          float *scores);

/* The topk greatest scores, NaN and -inf left out, ascending by index. Returns how many. */
int32_t dsa_reference_choose(const float *scores, int32_t length, int32_t topk, int32_t *chosen);

#endif
