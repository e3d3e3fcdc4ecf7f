/* rocket_reference.c: see rocket_reference.h. */
#include "rocket_reference.h"

#include <math.h>
#include <stdlib.h>

static double dot(const double *a, const double *b, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Turns logits into probabilities. */
static void softmax(double *x, int32_t n)
{
    double greatest = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++)
        greatest = fmax(greatest, x[i]);
    for (int32_t i = 0; i < n; i++)
        sum += exp(x[i] - greatest);
    for (int32_t i = 0; i < n; i++)
        x[i] = exp(x[i] - greatest) / sum;
}

/* Marks the k best of n scores: greater first, then lower index; NaN and -inf only if `fill`, and
 * then last. Returns how many it marked. */
static int32_t mark_best(const float *score, int32_t n, int32_t k, int fill, uint8_t *marked)
{
    int32_t count = 0;
    while (count < k) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++) {
            const float s = isnan(score[i]) ? -INFINITY : score[i];
            const float b = best < 0 || isnan(score[best]) ? -INFINITY : score[best];
            if (!marked[i] && (s > b || (best < 0 && (s > -INFINITY || fill))))
                best = i;
        }
        if (best < 0)
            break;
        marked[best] = 1;
        count++;
    }
    return count;
}

/* Stage 1, the score of each prefix slot: the probability that it gets, summed over the window's
 * queries and the group. */
static void window_scores(const rocket_head *head, const rocket_stage1 *stage, const double *q,
                          const double *k, int32_t length, float *score)
{
    const int32_t prefix = length - stage->window;
    double *p = malloc((size_t)length * sizeof *p);
    double *sum = calloc((size_t)prefix, sizeof *sum);
    for (int32_t w = 0; w < stage->window; w++)
        for (int32_t h = 0; h < head->group; h++) {
            const int32_t visible = stage->full ? prefix + w + 1 : prefix;
            for (int32_t j = 0; j < visible; j++)
                p[j] = head->scale *
                       dot(q + (w * head->group + h) * head->dim, k + j * head->dim, head->dim);
            softmax(p, visible);
            for (int32_t j = 0; j < prefix; j++)
                sum[j] += p[j];
        }
    for (int32_t j = 0; j < prefix; j++)
        score[j] = (float)sum[j];
    free(sum);
    free(p);
}

void rocket_reference_retain(const rocket_head *head, const rocket_stage1 *stage, const double *q,
                             const double *k, int32_t length, int32_t *kept)
{
    const int32_t prefix = length - stage->window, radius = stage->kernel / 2;
    float *score = malloc((size_t)prefix * sizeof *score);
    float *pooled = malloc((size_t)prefix * sizeof *pooled);
    uint8_t *stays = calloc((size_t)length, 1);
    window_scores(head, stage, q, k, length, score);
    for (int32_t i = 0; i < prefix; i++) {
        pooled[i] = -INFINITY;
        for (int32_t j = i - radius; j <= i + radius; j++)
            if (j >= 0 && j < prefix && score[j] > pooled[i])
                pooled[i] = score[j];
    }
    mark_best(pooled, prefix, stage->budget - stage->window, 1, stays);
    for (int32_t i = prefix; i < length; i++)
        stays[i] = 1;
    for (int32_t i = 0; i < length; i++)
        if (stays[i])
            *kept++ = i;
    free(stays);
    free(pooled);
    free(score);
}

double rocket_reference_round(int32_t dtype, double x)
{
    const int digits = dtype == ROCKET_FLOAT32 ? 24 : dtype == ROCKET_BFLOAT16 ? 8 : 3;
    const int least_exponent = dtype == ROCKET_FLOAT8_E5M2 ? -14 : -126; /* of normal numbers */
    int exponent;
    frexp(x, &exponent); /* |x| in [2^(exponent-1), 2^exponent) */
    exponent = exponent - 1 < least_exponent ? least_exponent : exponent - 1;
    const double step = ldexp(1, exponent - (digits - 1));
    const double rounded = nearbyint(x / step) * step;
    if (dtype == ROCKET_FLOAT8_E5M2)
        return fmax(-57344, fmin(57344, rounded));
    return rounded;
}

/* Stage 2, the channels that count: the topr greatest sums of |q| over the group. */
static void count_channels(const rocket_head *head, const rocket_stage2 *stage, const double *q,
                           uint8_t *counts)
{
    for (int32_t c = 0; c < head->dim; c++)
        counts[c] = 0;
    for (int32_t n = 0; n < stage->topr && n < head->dim; n++) {
        int32_t best = -1;
        double best_size = -1;
        for (int32_t c = 0; c < head->dim; c++) {
            double size = 0;
            for (int32_t h = 0; h < head->group; h++)
                size += fabs(q[h * head->dim + c]);
            if (!counts[c] && size > best_size) {
                best = c;
                best_size = size;
            }
        }
        counts[best] = 1;
    }
}

/* The landmark's value that the group's queries are compared with, channel by channel: the most
 * that a key in it can give to the sum of the queries. Channels that do not count are 0. */
static void landmark_key(const rocket_head *head, const rocket_stage2 *stage, const double *q,
                         const uint8_t *counts, const double *k, int32_t first, int32_t end,
                         double *key)
{
    for (int32_t c = 0; c < head->dim; c++) {
        double minimum = INFINITY, maximum = -INFINITY, sum = 0;
        for (int32_t slot = first; slot < end; slot++) {
            minimum = fmin(minimum, k[slot * head->dim + c]);
            maximum = fmax(maximum, k[slot * head->dim + c]);
        }
        for (int32_t h = 0; h < head->group; h++)
            sum += q[h * head->dim + c];
        key[c] = rocket_reference_round(stage->dtype, sum > 0 ? maximum : minimum);
        if (!counts[c])
            key[c] = 0;
    }
}

/* 1/sqrt(dim) as if the channels that count were all there are: SparQ Attention, formula 6. */
static double sparq_scale(const rocket_head *head, const double *q, const uint8_t *counts)
{
    double all = 0, counted = 0;
    for (int32_t c = 0; c < head->dim; c++) {
        all += fabs(q[c]);
        counted += counts[c] ? fabs(q[c]) : 0;
    }
    return 1 / sqrt(head->dim * counted / all);
}

/* Of what is chosen from, landmarks or tokens, the scores: how likely each is, on the mean over the
 * group. A token's logit is its landmark's. */
static void scores_of(const rocket_head *head, const rocket_stage2 *stage, const double *q,
                      const double *k, int32_t length, int32_t n, float *score)
{
    const int32_t per_landmark = stage->token ? stage->page_size : 1;
    double *key = malloc((size_t)head->dim * sizeof *key);
    double *p = malloc((size_t)n * sizeof *p), *sum = calloc((size_t)n, sizeof *sum);
    uint8_t *counts = malloc((size_t)head->dim);
    count_channels(head, stage, q, counts);
    for (int32_t h = 0; h < head->group; h++) {
        const double *q_head = q + h * head->dim;
        const double scale = stage->sparq ? sparq_scale(head, q_head, counts) : head->scale;
        for (int32_t i = 0; i < n; i++) {
            const int32_t first = i / per_landmark * stage->page_size;
            const int32_t end = first + stage->page_size;
            landmark_key(head, stage, q, counts, k, first, end < length ? end : length, key);
            p[i] = scale * dot(q_head, key, head->dim);
        }
        softmax(p, n);
        for (int32_t i = 0; i < n; i++)
            sum[i] += p[i];
    }
    for (int32_t i = 0; i < n; i++)
        score[i] = (float)(sum[i] / head->group);
    free(counts);
    free(sum);
    free(p);
    free(key);
}

int32_t rocket_reference_select(const rocket_head *head, const rocket_stage2 *stage,
                                const double *q, const double *k, int32_t length, int32_t *chosen)
{
    const int32_t landmarks = (length + stage->page_size - 1) / stage->page_size;
    const int32_t n = stage->token ? length : landmarks; /* to choose from */
    int32_t first_local = landmarks - stage->local, count = 0;
    if (n <= stage->topk) {
        for (int32_t i = 0; i < n; i++)
            chosen[i] = i;
        return n;
    }
    if (stage->token)
        first_local = stage->local > 0 ? first_local * stage->page_size : length;
    float *score = malloc((size_t)n * sizeof *score);
    uint8_t *marked = calloc((size_t)n, 1);
    scores_of(head, stage, q, k, length, n, score);
    mark_best(score, first_local, stage->topk - (n - first_local), 0, marked);
    for (int32_t i = 0; i < n; i++)
        if (marked[i] || i >= first_local)
            chosen[count++] = i;
    free(marked);
    free(score);
    return count;
}
