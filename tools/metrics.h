/* metrics.h: how far a method's replay is from the dense one. The retained mass of a row and head
 * is exp(lse_method - lse_dense): the share of dense attention's softmax that fell on keys which
 * the method attended to. What is missing bounds the output error (see the identity in README.md).
 * The output error is relative: |o_method - o_dense| / |o_dense|, Euclidean, per row and head. */
#ifndef WN_TOOLS_METRICS_H
#define WN_TOOLS_METRICS_H

#include "tools/replay.h"

/* A mean, and the worst single case and where it was. */
typedef struct wn_worst {
    double mean, worst;
    int64_t row;          /* of the trace; -1: there was no row */
    uint32_t layer, head; /* layer: index in the trace */
} wn_worst;

/* Over rows [first, last) of some layers. */
typedef struct wn_quality {
    wn_worst mass, error;
    double greatest_mass; /* above 1 by more than rounding: keys or scores are not what they were */
} wn_quality;

/* Of one row and head, at most 1. */
double wn_mass_kept(const wn_replay *method, const wn_replay *dense, uint32_t layer, int64_t row,
                    uint32_t head);
/* layer: index in the trace, or -1 for all. Masses above 1 count as 1 in mean and worst. */
wn_quality wn_quality_measure(const wn_replay *method, const wn_replay *dense, int32_t layer,
                              int64_t first, int64_t last);
/* Mean mass of one head of one layer over rows [first, last), and its least in *least. */
double wn_quality_head(const wn_replay *method, const wn_replay *dense, uint32_t layer,
                       uint32_t head, int64_t first, int64_t last, double *least);

/* What a replay cost, summed over layers, or of one layer (-1: all). */
typedef struct wn_cost {
    double kept_bytes; /* KV bytes of the prompt when generation began */
    double kept_share; /* of what the prompt would take if all of it stayed */
    double read_bytes; /* per generated token: K, V and auxiliary memory read */
    double context_skipped, generation_skipped; /* share of tiles; NaN: no tiles were looked at */
} wn_cost;
wn_cost wn_cost_measure(const wn_replay *replay, int32_t layer);

/* Dense attention against what it should be. An output element may be off by half a unit of the
 * trace's dtype (2^-8, 2^-11 or 2^-24 of the value) and by out_slack times the greatest |v| of its
 * layer, which contains wn_cpu_weight_rounding() where the trace is bfloat16; an LSE by lse_bound.
 */
typedef struct wn_check {
    int64_t rows; /* compared, over all layers; 0: the file knows none of the layers */
    double out_error, out_share; /* greatest error, and its greatest share of the bound */
    double lse_error, lse_bound;
    double out_relative, out_slack; /* the bound used */
    int32_t pass;
    int32_t reserved;
} wn_check;
wn_check wn_check_dense(const wn_replay *dense, const wn_expected *expected);

/* Dense softmax of one row and head from the trace's own q and k, in double:
 * mass[t] for t <= row. */
void wn_dense_mass(const wn_trace *trace, uint32_t layer, int64_t row, uint32_t head, double *mass);

#endif
