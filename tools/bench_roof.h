/* bench_roof.h: what the machine gives at best: bytes read per second, operations per second. A
 * kernel's share of a roof means something only if both are measured side by side, so a roof is
 * sampled again beside every sample of a kernel. */
#ifndef WN_TOOLS_BENCH_ROOF_H
#define WN_TOOLS_BENCH_ROOF_H

#include "winnow/winnow.h"

/* X(NAME, text, unit). INT8 and BF16: dot products of narrow numbers, where the processor has
 * instructions for them. */
#define WN_ROOF_LIST(X)                                                                            \
    X(DRAM, "dram", "GB/s")                                                                        \
    X(L3, "l3", "GB/s")                                                                            \
    X(FMA, "fma", "GFLOP/s")                                                                       \
    X(BF16, "bf16 dot", "GFLOP/s")                                                                 \
    X(INT8, "int8 dot", "GOP/s")

enum {
#define WN_ROOF_ENTRY(name, text, unit) WN_ROOF_##name,
    WN_ROOF_LIST(WN_ROOF_ENTRY)
#undef WN_ROOF_ENTRY
        WN_ROOF_COUNT,
    WN_ROOF_NONE = -1
};

typedef struct wn_roofs wn_roofs;

/* NULL: no memory. quick: small buffers, for tests: the figures then mean little. */
wn_roofs *wn_roofs_open(int quick);
void wn_roofs_close(wn_roofs *roofs);

const char *wn_roof_name(int roof);
const char *wn_roof_unit(int roof);
/* Does this processor have it? */
int wn_roof_exists(const wn_roofs *roofs, int roof);
/* How much data still stays in the last cache between two calls. */
int64_t wn_roofs_cache_bytes(const wn_roofs *roofs);
/* One sample with so many threads, in units of 1e9 a second; a few milliseconds. The first of a
 * roof and number of threads also finds out which way of reading is the best. */
double wn_roof_sample(wn_roofs *roofs, int roof, const wn_executor *executor);

#endif
