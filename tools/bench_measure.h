/* bench_measure.h: one row measured: kernel, roofs, base and peer in turns, sample by sample. */
#ifndef WN_TOOLS_BENCH_MEASURE_H
#define WN_TOOLS_BENCH_MEASURE_H

#include "tools/bench_peer.h"
#include "tools/bench_roof.h"
#include "tools/bench_rows.h"

/* Median and the tenths at both ends. */
typedef struct wn_bench_spread {
    double median, low, high;
} wn_bench_spread;

wn_bench_spread wn_bench_spread_of(double *samples, uint32_t count); /* sorts them */

typedef struct wn_bench_result {
    char name[64], note[44];
    const char *variant; /* the op's; NULL: the row is of more than one op */
    uint32_t threads, samples;
    wn_status status;     /* WN_EUNSUPPORTED: the kernels do not take it, nothing was measured */
    wn_bench_spread time; /* seconds of one call */
    double gbps, gflops;  /* 0: not of interest */
    int roof;             /* the nearer one; WN_ROOF_NONE */
    double share;         /* of it */
    double roofs[WN_ROOF_COUNT];               /* medians beside this row; 0: not sampled */
    double ratio_ref, ratio_torch, ratio_base; /* their time over ours; 0: not measured */
    double skipped; /* share of the tiles that the tile policy left out; negative: none */
} wn_bench_result;

/* What all rows share. */
typedef struct wn_bench {
    wn_roofs *roofs;
    wn_peer *peer;     /* NULL: none */
    const wn_ops *ref; /* NULL: not to be timed */
    uint32_t threads;
    uint32_t samples; /* at least, where a sample is short */
    int32_t quick;    /* few and short samples: for tests */
    uint32_t reserved;
} wn_bench;

/* variant's table of ops; the row's name, op, shape and base. */
wn_status wn_bench_measure(const wn_bench *bench, const wn_bench_row *row, const char *variant,
                           wn_bench_result *result, wn_error *error);

/* The variant that an op of this table comes from. */
const char *wn_bench_variant_of(const wn_bench_op *op, const wn_ops *ops);

#endif
