/* bench_threads.c: OpenMP as the engine's own executor uses it, so that what is timed is what a
 * host without a thread pool gets; only the number of threads is the caller's. */
#include "tools/bench_threads.h"

#include <sched.h>
#include <unistd.h>

static void parallel_for(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                         void *argument)
{
    int threads = (int)(intptr_t)context;
    if (count == 1 || threads == 1) {
        for (int64_t i = 0; i < count; i++)
            body(argument, i);
        return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        body(argument, i);
}

wn_executor wn_bench_executor(uint32_t threads)
{
    return (wn_executor){WN_SIZEOF(wn_executor), threads, (void *)(intptr_t)threads, parallel_for};
}

uint32_t wn_bench_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (uint32_t)online : 1;
}
