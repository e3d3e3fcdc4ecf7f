/* check_tiles.c: see check_tiles.h. */
#include "check_tiles.h"

#include "attention_reference.h"
#include "check_plugin.h"
#include "skip_softmax_reference.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static void *take(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count + 1, size);
    CHECK_REQUIRE(memory != NULL);
    return memory;
}

check_tiles check_tiles_make(int32_t rows, int32_t n, int32_t dim)
{
    return (check_tiles){.rows = rows,
                         .n = n,
                         .dim = dim,
                         .v_dim = dim,
                         .q = take((int64_t)rows * dim, sizeof(double)),
                         .k = take((int64_t)n * dim, sizeof(double)),
                         .v = take((int64_t)n * dim, sizeof(double)),
                         .last = take(rows, sizeof(int32_t)),
                         .out = take(rows, sizeof(float *)),
                         .tile = 64};
}

void check_tiles_free(check_tiles *unit)
{
    free(unit->q);
    free(unit->k);
    free(unit->v);
    free(unit->last);
    free(unit->out);
}

/* [rows, n], -inf where a row does not see a key. */
static double *make_scores(const check_tiles *u)
{
    double *score = take((int64_t)u->rows * u->n, sizeof *score);
    for (int32_t r = 0; r < u->rows; r++)
        for (int32_t j = 0; j < u->n; j++) {
            double sum = 0;
            for (int32_t c = 0; c < u->dim; c++)
                sum += u->q[r * u->dim + c] * u->k[j * u->dim + c];
            score[r * u->n + j] = j <= u->last[r] ? u->scale * sum : -INFINITY;
        }
    return score;
}

/* With weights relative to the greatest score, each key left out is worth at most lambda and the
 * denominator is at least 1: the lost mass is at most lambda times the keys left out. */
static void compare_lost_mass(const double *score, int32_t n, const uint8_t *attended,
                              double threshold)
{
    double greatest = -INFINITY, all = 0, lost = 0;
    int64_t keys = 0;
    for (int32_t j = 0; j < n; j++)
        greatest = fmax(greatest, score[j]);
    for (int32_t j = 0; j < n; j++) {
        const double weight = exp(score[j] - greatest);
        all += weight;
        lost += attended[j] ? 0 : weight;
        keys += !attended[j];
    }
    CU_ASSERT(lost / all <= exp(threshold) * (double)keys * (1 + 1e-12));
}

static void compare_row(const check_tiles *u, int32_t r, const uint8_t *kept, const double *score)
{
    const int32_t seen = u->last[r] + 1;
    const double *q = u->q + r * u->dim;
    double wanted[1024], sparse[1024] = {0}, worst = 0;
    uint8_t *attended = take(u->n, 1);
    memcpy(attended, kept, (size_t)seen);
    attention_reference(q, u->k, u->v, seen, u->dim, u->scale, attended, wanted);
    for (int32_t c = 0; c < u->v_dim; c++) {
        sparse[c] = u->out[r][c];
        worst = fmax(worst, fabs(sparse[c] - wanted[c]));
    }
    CU_ASSERT(worst < 1e-5);
    memcpy(sparse + u->v_dim, wanted + u->v_dim, (size_t)(u->dim - u->v_dim) * sizeof *sparse);
    CU_ASSERT(attention_oracle_violation(q, u->k, u->v, seen, u->dim, u->scale, attended, sparse) <
              1e-5);
    compare_lost_mass(score + (int64_t)r * u->n, seen, attended, u->threshold);
    free(attended);
}

void check_tiles_compare(const check_tiles *unit, wn_attend_counters *expected)
{
    double *score = make_scores(unit);
    uint8_t *kept = take(unit->n, 1);
    int64_t seen, skipped;
    skip_softmax_reference(score, unit->rows, unit->n, unit->tile, unit->threshold, unit->two_pass,
                           kept, &seen, &skipped);
    expected->tiles_seen += seen;
    expected->tiles_skipped += skipped;
    for (int32_t r = 0; r < unit->rows; r++)
        compare_row(unit, r, kept, score);
    free(kept);
    free(score);
}
