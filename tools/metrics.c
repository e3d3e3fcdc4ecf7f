/* metrics.c: sums over rows, heads and layers. */
#include "tools/metrics.h"

#include "tools/elements.h"
#include "winnow/winnow.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------- quality */

/* exp(lse_method - lse_dense), not clipped, never NaN. A row for which dense attention has no
 * finite statistic (nothing visible, or NaN in the trace) loses nothing if the method agrees. */
static double mass_at(const wn_replay *method, const wn_replay *dense, uint32_t layer, int64_t at)
{
    double lse = method->layers[layer].lse[at], reference = dense->layers[layer].lse[at];
    if (!isfinite(reference))
        return isnan(reference) == isnan(lse) && (isnan(lse) || lse == reference);
    double mass = exp(lse - reference);
    return isnan(mass) ? 0 : mass;
}

double wn_mass_kept(const wn_replay *method, const wn_replay *dense, uint32_t layer, int64_t row,
                    uint32_t head)
{
    return fmin(mass_at(method, dense, layer, row * method->trace->num_heads + head), 1.0);
}

/* Never NaN: elements that are NaN on both sides agree, on one side they are infinitely wrong. */
static double error_at(const wn_replay *method, const wn_replay *dense, uint32_t layer, int64_t at)
{
    const wn_trace *trace = method->trace;
    uint32_t dim = trace->v_head_dim;
    float a[WN_MAX_HEAD_DIM], b[WN_MAX_HEAD_DIM];
    wn_elements_read(trace->dtype, method->layers[layer].out, at * dim, dim, a);
    wn_elements_read(trace->dtype, dense->layers[layer].out, at * dim, dim, b);
    double difference = 0, norm = 0;
    for (uint32_t d = 0; d < dim; d++) {
        if (isnan(a[d]) != isnan(b[d]))
            return INFINITY;
        if (isnan(a[d]) || a[d] == b[d]) {
            norm += isfinite(b[d]) ? (double)b[d] * b[d] : 0;
            continue;
        }
        double delta = (double)a[d] - b[d];
        difference += delta * delta;
        norm += (double)b[d] * b[d];
    }
    return difference == 0 ? 0 : norm > 0 && isfinite(norm) ? sqrt(difference / norm) : INFINITY;
}

typedef struct sums {
    double mass, error;
    int64_t count;
} sums;

static void add_cell(wn_quality *quality, sums *sum, const wn_replay *method,
                     const wn_replay *dense, uint32_t layer, int64_t row, uint32_t head)
{
    int64_t at = row * method->trace->num_heads + head;
    double mass = mass_at(method, dense, layer, at), error = error_at(method, dense, layer, at);
    quality->greatest_mass = fmax(quality->greatest_mass, mass);
    mass = fmin(mass, 1.0);
    if (mass < quality->mass.worst)
        quality->mass = (wn_worst){0, mass, row, layer, head};
    if (error > quality->error.worst)
        quality->error = (wn_worst){0, error, row, layer, head};
    sum->mass += mass;
    sum->error += error;
    sum->count++;
}

wn_quality wn_quality_measure(const wn_replay *method, const wn_replay *dense, int32_t layer,
                              int64_t first, int64_t last)
{
    const wn_trace *trace = method->trace;
    wn_quality quality = {.mass = {1, 2, -1, 0, 0}, .error = {0, -1, -1, 0, 0}};
    sums sum = {0};
    for (uint32_t l = 0; l < trace->num_layers; l++) {
        if (layer >= 0 && (uint32_t)layer != l)
            continue;
        for (int64_t row = first; row < last; row++)
            for (uint32_t head = 0; head < trace->num_heads; head++)
                add_cell(&quality, &sum, method, dense, l, row, head);
    }
    if (sum.count == 0) {
        quality.mass.worst = 1;
        quality.error.worst = 0;
        return quality;
    }
    quality.mass.mean = sum.mass / (double)sum.count;
    quality.error.mean = sum.error / (double)sum.count;
    return quality;
}

double wn_quality_head(const wn_replay *method, const wn_replay *dense, uint32_t layer,
                       uint32_t head, int64_t first, int64_t last, double *least)
{
    double sum = 0;
    *least = 1;
    for (int64_t row = first; row < last; row++) {
        double mass = wn_mass_kept(method, dense, layer, row, head);
        *least = fmin(*least, mass);
        sum += mass;
    }
    return last > first ? sum / (double)(last - first) : 1;
}

/* ---------------------------------------------------------------- cost */

wn_cost wn_cost_measure(const wn_replay *replay, int32_t layer)
{
    wn_cost cost = {0};
    double full = 0, seen[WN_PHASE_COUNT] = {0}, skipped[WN_PHASE_COUNT] = {0};
    for (uint32_t l = 0; l < replay->trace->num_layers; l++) {
        if (layer >= 0 && (uint32_t)layer != l)
            continue;
        const wn_replay_layer *from = &replay->layers[l];
        const wn_counters *generation = &from->counters[WN_PHASE_GENERATION];
        cost.kept_bytes += replay->token_bytes * from->kept;
        full += replay->token_bytes * (double)replay->trace->context;
        cost.read_bytes += (double)(generation->k_bytes_read + generation->v_bytes_read +
                                    generation->aux_bytes_read);
        for (int phase = 0; phase < WN_PHASE_COUNT; phase++) {
            seen[phase] += (double)from->counters[phase].tiles_seen;
            skipped[phase] += (double)from->counters[phase].tiles_skipped;
        }
    }
    cost.kept_share = full > 0 ? cost.kept_bytes / full : 1;
    cost.read_bytes = replay->steps > 0 ? cost.read_bytes / (double)replay->steps : 0;
    cost.context_skipped = seen[0] > 0 ? skipped[0] / seen[0] : NAN;
    cost.generation_skipped = seen[1] > 0 ? skipped[1] / seen[1] : NAN;
    return cost;
}

/* ---------------------------------------------------------------- dense against the expectation */

/* Half a unit in the last place, relative to the value. */
static double half_unit(uint32_t dtype)
{
    return dtype == WN_BF16 ? 0x1p-8 : dtype == WN_F16 ? 0x1p-11 : 0x1p-24;
}

/* Also infinite for a NaN, so that a NaN never passes. */
static double distance(double a, double b)
{
    double delta = fabs(a - b);
    return isnan(delta) && !(isinf(a) && a == b) ? INFINITY : isnan(delta) ? 0 : delta;
}

/* With MLA the values are the first channels of the keys. */
static double greatest_value(const wn_trace *trace, uint32_t layer)
{
    const wn_trace_layer *from = &trace->layers[layer];
    const wn_safetensor *v = trace->mla ? from->k : from->v;
    int64_t stride = trace->mla ? trace->head_dim : trace->v_head_dim;
    float values[WN_MAX_HEAD_DIM];
    double greatest = 0;
    for (int64_t i = 0; i < trace->tokens * trace->num_kv_heads; i++) {
        wn_elements_read(trace->dtype, v->data, i * stride, trace->v_head_dim, values);
        for (uint32_t d = 0; d < trace->v_head_dim; d++)
            greatest = fmax(greatest, fabs((double)values[d]));
    }
    return greatest;
}

static void check_out(wn_check *check, const wn_replay *dense, uint32_t layer, int64_t row,
                      const double *want, double slack)
{
    const wn_trace *trace = dense->trace;
    uint32_t dim = trace->v_head_dim;
    float got[WN_MAX_HEAD_DIM];
    for (uint32_t h = 0; h < trace->num_heads; h++) {
        wn_elements_read(trace->dtype, dense->layers[layer].out, (row * trace->num_heads + h) * dim,
                         dim, got);
        for (uint32_t d = 0; d < dim; d++) {
            double expected = want[(int64_t)h * dim + d], error = distance(got[d], expected);
            double bound = check->out_relative * fabs(expected) + slack;
            check->out_error = fmax(check->out_error, error);
            check->out_share = fmax(check->out_share, error / bound);
        }
    }
}

wn_check wn_check_dense(const wn_replay *dense, const wn_expected *expected)
{
    const wn_trace *trace = dense->trace;
    wn_check check = {
        .lse_bound = 1e-4, .out_relative = half_unit(trace->dtype), .out_slack = 1e-5};
    if (trace->dtype == WN_BF16)
        check.out_slack += wn_cpu_weight_rounding();
    for (uint32_t l = 0; l < trace->num_layers; l++) {
        if (expected->out[l] == NULL || expected->lse[l] == NULL)
            continue;
        double slack = check.out_slack * greatest_value(trace, l) + DBL_MIN;
        for (int64_t i = 0; i < expected->num_rows; i++, check.rows++) {
            int64_t row = expected->rows[i];
            check_out(&check, dense, l, row,
                      expected->out[l] + i * trace->num_heads * trace->v_head_dim, slack);
            for (uint32_t h = 0; h < trace->num_heads; h++) {
                double got = dense->layers[l].lse[row * trace->num_heads + h];
                check.lse_error = fmax(check.lse_error,
                                       distance(got, expected->lse[l][i * trace->num_heads + h]));
            }
        }
    }
    check.pass = check.out_share <= 1 && check.lse_error <= check.lse_bound;
    return check;
}

/* ---------------------------------------------------------------- dense attention, in double */

void wn_dense_mass(const wn_trace *trace, uint32_t layer, int64_t row, uint32_t head, double *mass)
{
    uint32_t dim = trace->head_dim, kv_head = head / (trace->num_heads / trace->num_kv_heads);
    float q[WN_MAX_HEAD_DIM], k[WN_MAX_HEAD_DIM];
    double greatest = -INFINITY, sum = 0;
    wn_elements_read(trace->dtype, trace->layers[layer].q->data,
                     (row * trace->num_heads + head) * dim, dim, q);
    for (int64_t t = 0; t <= row; t++) {
        double dot = 0;
        wn_elements_read(trace->dtype, trace->layers[layer].k->data,
                         (t * trace->num_kv_heads + kv_head) * dim, dim, k);
        for (uint32_t d = 0; d < dim; d++)
            dot += (double)q[d] * k[d];
        mass[t] = dot * trace->softmax_scale;
        greatest = fmax(greatest, mass[t]);
    }
    for (int64_t t = 0; t <= row; t++)
        sum += mass[t] = exp(mass[t] - greatest);
    for (int64_t t = 0; t <= row; t++)
        mass[t] /= sum;
}
