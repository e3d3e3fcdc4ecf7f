/* executor.c: the executor of engines whose host brings none: OpenMP's thread pool. Iterations are
 * dealt out one by one, because those of attention differ in length by orders of magnitude. */
#include "winnow/winnow.h"

#include <omp.h>
#include <pthread.h>

static wn_executor executor;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void parallel_for(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                         void *argument)
{
    (void)context;
    if (count == 1) { /* no team for one piece of work: decode steps of small models */
        body(argument, 0);
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
