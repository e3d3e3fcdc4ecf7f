/* bench_threads.c: OpenMP as the engine's own executor uses it, so that what is timed is what a
 * host without a thread pool gets; only the number of threads is the caller's. */
#include "tools/bench_threads.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

static cpu_set_t allowed; /* what the process had before any thread was bound */
static _Thread_local int bound;

/* The calling thread onto the index-th processor that the process may use. */
static void bind_thread(int index)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && index-- == 0)
            CPU_SET(cpu, &one);
    if (CPU_COUNT(&one) == 1) /* more threads than processors: they stay free */
        sched_setaffinity(0, sizeof one, &one);
    bound = 1;
}

static void parallel_for(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                         void *argument)
{
    int threads = (int)(intptr_t)context;
    if (count == 1 || threads == 1) {
        for (int64_t i = 0; i < count; i++)
            body(argument, i);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        if (!bound)
            bind_thread(omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++)
            body(argument, i);
    }
}

wn_executor wn_bench_executor(uint32_t threads)
{
    wn_bench_processors();
    return (wn_executor){WN_SIZEOF(wn_executor), threads, (void *)(intptr_t)threads, parallel_for};
}

uint32_t wn_bench_processors(void)
{
    cpu_set_t set;
    if (CPU_COUNT(&allowed) > 0)
        return (uint32_t)CPU_COUNT(&allowed);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        allowed = set;
        return (uint32_t)CPU_COUNT(&set);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (uint32_t)online : 1;
}
