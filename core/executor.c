/* executor.c: the executor of engines whose host brings none: OpenMP's thread pool. Iterations are
 * dealt out one by one, because those of attention differ in length by orders of magnitude; dealing
 * costs 7 ns an iteration where two threads fight for it. A region costs 0.65 us while libgomp's
 * threads still spin for the next one, and 4 to 9 us once they sleep. How long they spin is the
 * host's to say, by OMP_WAIT_POLICY or GOMP_SPINCOUNT: a host that keeps all its cores busy itself
 * wants them passive.
 *
 * The number of threads is not fitted to the count: libgomp ends the threads that a smaller team
 * leaves over, makes them anew for the next one, and allocates each time. */
#include "winnow/winnow.h"

#include <omp.h>
#include <pthread.h>

static wn_executor executor;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void parallel_for(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                         void *argument)
{
    (void)context;
    /* No team for one piece of work, for one thread (0.3 us), or inside the host's own region. */
    if (count == 1 || omp_get_max_threads() == 1 || omp_in_parallel()) {
        for (int64_t i = 0; i < count; i++)
            body(argument, i);
        return;
    }
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; i++)
        body(argument, i);
}

static void fill(void)
{
    executor.struct_size = WN_SIZEOF(wn_executor);
    executor.num_threads = (uint32_t)omp_get_max_threads();
    executor.parallel_for = parallel_for;
}

const wn_executor *wn_executor_default(void)
{
    pthread_once(&once, fill);
    return &executor;
}
