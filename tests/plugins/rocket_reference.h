/* rocket_reference.h: RocketKV as its formulas say it, in float64, one KV head of one request at a
 * time, written for reading. Shares no code with kernels or plugins.
 *
 * Scores are rounded to float32 where the ops' outputs are float32. That is part of the definition:
 * two scores that round to one number are tied, and ties go to the lower index. */
#ifndef WN_TESTS_ROCKET_REFERENCE_H
#define WN_TESTS_ROCKET_REFERENCE_H

#include <stdint.h>

/* The geometry of one KV head. */
typedef struct rocket_head {
    int32_t group; /* query heads that share it */
    int32_t dim;
    double scale; /* softmax scale */
} rocket_head;

typedef struct rocket_stage1 {
    int32_t window, kernel, budget;
    int32_t full; /* 1: score_softmax: full */
} rocket_stage1;

/* q: the window's queries, [window, group, dim]; k: [length, dim]; budget < length.
 * kept [budget]: the slots that stay, ascending. */
void rocket_reference_retain(const rocket_head *head, const rocket_stage1 *stage, const double *q,
                             const double *k, int32_t length, int32_t *kept);

enum { ROCKET_FLOAT32, ROCKET_BFLOAT16, ROCKET_FLOAT8_E5M2 };

typedef struct rocket_stage2 {
    int32_t page_size, topr, topk, local;
    int32_t dtype; /* of landmarks, ROCKET_... */
    int32_t token; /* 1: topk_unit: token */
    int32_t sparq; /* 1: temperature: sparq */
} rocket_stage2;

/* q: [group, dim] of one token; k: [length, dim], what the token sees. chosen [topk], ascending:
 * landmarks, or tokens if that is the unit. Returns how many. */
int32_t rocket_reference_select(const rocket_head *head, const rocket_stage2 *stage,
                                const double *q, const double *k, int32_t length, int32_t *chosen);

/* x in the nearest number of a landmark dtype, ties to even, saturating. */
double rocket_reference_round(int32_t dtype, double x);

#endif
