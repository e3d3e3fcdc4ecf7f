/* bench_memory.h: the buffers of a measurement: large pages, zeroed by first touch, all freed
 * together. */
#ifndef WN_TOOLS_BENCH_MEMORY_H
#define WN_TOOLS_BENCH_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { WN_BENCH_BLOCKS = 40 };

typedef struct wn_bench_memory {
    void *block[WN_BENCH_BLOCKS];
    size_t bytes[WN_BENCH_BLOCKS];
    uint32_t count;
    uint32_t failed; /* 1: some block could not be had, and was answered with NULL */
} wn_bench_memory;

/* Aligned to a large page where it is that long, else to a page. NULL if there is no memory. */
void *wn_bench_take(wn_bench_memory *memory, int64_t bytes);
void wn_bench_release(wn_bench_memory *memory);

#endif
