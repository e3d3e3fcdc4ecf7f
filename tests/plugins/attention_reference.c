/* attention_reference.c: see attention_reference.h. */
#include "attention_reference.h"

#include <math.h>
#include <stdlib.h>

static double logit(const double *q, const double *k, int32_t dim, double scale)
{
    double sum = 0;
    for (int32_t c = 0; c < dim; c++)
        sum += q[c] * k[c];
    return scale * sum;
}

double attention_reference(const double *q, const double *k, const double *v, int32_t n,
                           int32_t dim, double scale, const uint8_t *attended, double *out)
{
    double greatest = -INFINITY, sum = 0;
    for (int32_t c = 0; c < dim; c++)
        out[c] = 0;
    for (int32_t j = 0; j < n; j++)
        if (attended == NULL || attended[j])
            greatest = fmax(greatest, logit(q, k + (int64_t)j * dim, dim, scale));
    if (greatest == -INFINITY)
        return -INFINITY;
    for (int32_t j = 0; j < n; j++) {
        if (attended != NULL && !attended[j])
            continue;
        const double weight = exp(logit(q, k + (int64_t)j * dim, dim, scale) - greatest);
        sum += weight;
        for (int32_t c = 0; c < dim; c++)
            out[c] += weight * v[(int64_t)j * dim + c];
    }
    for (int32_t c = 0; c < dim; c++)
        out[c] /= sum;
    return greatest + log(sum);
}

double attention_oracle_violation(const double *q, const double *k, const double *v, int32_t n,
                                  int32_t dim, double scale, const uint8_t *attended,
                                  const double *sparse)
{
    double *dense = malloc((size_t)dim * sizeof *dense);
    double *dropped = calloc((size_t)dim, sizeof *dropped); /* eps * vbar */
    double eps = 0, worst = 0, greatest_value = 0;
    const double lse = attention_reference(q, k, v, n, dim, scale, NULL, dense);
    for (int32_t j = 0; j < n; j++) {
        const double p = exp(logit(q, k + (int64_t)j * dim, dim, scale) - lse);
        for (int32_t c = 0; c < dim; c++)
            greatest_value = fmax(greatest_value, fabs(v[(int64_t)j * dim + c]));
        if (attended[j])
            continue;
        eps += p;
        for (int32_t c = 0; c < dim; c++)
            dropped[c] += p * v[(int64_t)j * dim + c];
    }
    for (int32_t c = 0; c < dim; c++)
        worst = fmax(worst, fabs((sparse[c] - dense[c]) - (eps * sparse[c] - dropped[c])));
    free(dropped);
    free(dense);
    return worst / greatest_value;
}
