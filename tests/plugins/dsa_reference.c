/* dsa_reference.c: see dsa_reference.h. Source: DeepSeek-V3.2's technical report and inference code
 * (Indexer, act_quant), with half-split RoPE as corrected there later. */
#include "dsa_reference.h"

#include <math.h>

/* x to `digits` significant binary digits, ties to even, with a least exponent below which the
 * spacing stays (denormals). */
static double round_to(double x, int digits, int least_exponent)
{
    if (x == 0 || !isfinite(x))
        return x;
    const int exponent = ilogb(x) > least_exponent ? ilogb(x) : least_exponent;
    const double spacing = ldexp(1, exponent - digits + 1);
    return nearbyint(x / spacing) * spacing;
}

static double to_bfloat16(double x)
{
    return round_to(x, 8, -126);
}

/* e4m3: 4 digits, exponents from -6, greatest 448. */
static double to_e4m3(double x)
{
    const double rounded = round_to(x, 4, -6);
    return fabs(rounded) > 448 ? copysign(448, x) : rounded;
}

static void rotate(const dsa_indexer *indexer, int32_t position, double *x)
{
    const int32_t half = indexer->rope_dim / 2;
    for (int32_t i = 0; i < half; i++) {
        const int32_t a = indexer->rope == DSA_HALF_SPLIT ? i : 2 * i;
        const int32_t b = indexer->rope == DSA_HALF_SPLIT ? i + half : 2 * i + 1;
        const double angle = position * indexer->frequency[i];
        const double xa = x[a], xb = x[b];
        x[a] = to_bfloat16(xa * cos(angle) - xb * sin(angle));
        x[b] = to_bfloat16(xb * cos(angle) + xa * sin(angle));
    }
}

/* Entry (i, j) of Sylvester's matrix is -1 to the number of ones that i and j have in common. */
static int sylvester_sign(int32_t i, int32_t j)
{
    int sign = 1;
    for (int32_t common = i & j; common != 0; common &= common - 1)
        sign = -sign;
    return sign;
}

static void hadamard(int32_t n, double *x)
{
    double y[DSA_MAX_DIM];
    for (int32_t i = 0; i < n; i++) {
        y[i] = 0;
        for (int32_t j = 0; j < n; j++)
            y[i] += sylvester_sign(i, j) * x[j];
    }
    for (int32_t i = 0; i < n; i++)
        x[i] = to_bfloat16(y[i] / sqrt(n));
}

/* least: the smallest greatest magnitude that a scale is made for. */
static double scale_of(const dsa_indexer *indexer, const double *x, float least)
{
    float greatest = least;
    for (int32_t d = 0; d < indexer->dim; d++)
        greatest = fmaxf(greatest, (float)fabs(x[d]));
    if (indexer->int8)
        return greatest > 0 ? greatest / 63.0f : 1;
    if (indexer->raw)
        return greatest / 448.0f;
    const float wanted = greatest * (float)(1 / 448.0);
    double scale = ldexp(1, -40);
    while (scale < wanted)
        scale *= 2;
    return scale;
}

static double vector(const dsa_indexer *indexer, const double *x, int32_t position, float least,
                     double *values)
{
    for (int32_t d = 0; d < indexer->dim; d++)
        values[d] = to_bfloat16(x[d]);
    if (indexer->rope != DSA_AS_IS)
        rotate(indexer, position, values);
    if (indexer->hadamard)
        hadamard(indexer->dim, values);
    if (!indexer->fp8 && !indexer->int8)
        return 1;
    const double scale = scale_of(indexer, values, least);
    for (int32_t d = 0; d < indexer->dim; d++)
        values[d] = indexer->fp8 ? to_e4m3(values[d] / scale) : nearbyint(values[d] / scale);
    return scale;
}

double dsa_reference_vector(const dsa_indexer *indexer, const double *x, int32_t position,
                            double *values)
{
    return vector(indexer, x, position, 1e-4f, values);
}

void dsa_reference_scores(const dsa_indexer *indexer, const double *q, const double *weights,
                          const double *keys, const double *key_scale, int32_t length,
                          float *scores)
{
    const int32_t dim = indexer->dim;
    double sum[DSA_MAX_KEYS] = {0}, query[DSA_MAX_DIM];
    for (int32_t h = 0; h < indexer->heads; h++) {
        const double q_scale =
            vector(indexer, q + h * dim, length - 1, indexer->int8 ? 0 : 1e-4f, query);
        for (int32_t j = 0; j < length; j++) {
            double dot = 0;
            for (int32_t d = 0; d < dim; d++)
                dot += query[d] * keys[j * dim + d];
            sum[j] += weights[h] * q_scale * (dot < 0 ? 0 : dot);
        }
    }
    for (int32_t j = 0; j < length; j++)
        scores[j] = (float)(key_scale[j] * sum[j]);
}

int32_t dsa_reference_choose(const float *scores, int32_t length, int32_t topk, int32_t *chosen)
{
    int32_t count = 0;
    for (int32_t i = 0; i < length; i++) {
        int32_t better = 0;
        for (int32_t j = 0; j < length; j++)
            better += scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
        if (!isnan(scores[i]) && scores[i] > -INFINITY && better < topk)
            chosen[count++] = i;
    }
    return count;
}
