/* test_executor.c: every index once, none beyond, all done at return; from one thread or several.
 */
#include "suite.h"

#include "winnow/winnow.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define MOST 10000
typedef struct tally {
    int64_t count;
    atomic_int seen[MOST], outside;
} tally;

static void note(void *argument, int64_t i)
{
    tally *t = argument;
    if (i < 0 || i >= t->count)
        atomic_fetch_add(&t->outside, 1);
    else
        atomic_fetch_add(&t->seen[i], 1);
}

static int run(const wn_executor *executor, tally *t, int64_t count)
{
    int good = 1;
    memset(t, 0, sizeof *t);
    t->count = count;
    executor->parallel_for(executor->context, count, note, t);
    for (int64_t i = 0; i < MOST; i++)
        good &= t->seen[i] == (i < count);
    return good && t->outside == 0;
}

static void each_index_once(void)
{
    static tally t;
    const int64_t counts[] = {0, 1, 2, 3, 7, 64, 1000, MOST};
    const wn_executor *executor = wn_executor_default();
    CU_ASSERT_EQUAL(executor->struct_size, WN_SIZEOF(wn_executor));
    CU_ASSERT(executor->num_threads >= 1);
    CU_ASSERT_PTR_EQUAL(executor, wn_executor_default());
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        CU_ASSERT(run(executor, &t, counts[i]));
    CU_ASSERT(run(executor, &t, 0));
    executor->parallel_for(executor->context, -5, note, &t);
    CU_ASSERT_EQUAL(t.outside, 0);
}

static void *caller(void *argument)
{
    (void)argument;
    tally *t = malloc(sizeof *t);
    intptr_t failures = t == NULL;
    for (int i = 0; t != NULL && i < 20; i++)
        failures += !run(wn_executor_default(), t, 100 + i);
    free(t);
    return (void *)failures;
}

static void from_many_threads(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, caller, NULL), 0);
    for (int i = 0; i < 4; i++) {
        void *failures;
        pthread_join(threads[i], &failures);
        CU_ASSERT_PTR_NULL(failures);
    }
}

/* A host that calls from a parallel region of its own, or that allows one thread. */
static void where_there_are_no_threads_to_have(void)
{
    int failures = 0;
#pragma omp parallel num_threads(3) reduction(+ : failures)
    {
        tally *t = malloc(sizeof *t);
        failures += t == NULL || !run(wn_executor_default(), t, 100);
        free(t);
    }
    CU_ASSERT_EQUAL(failures, 0);
    const int usual = omp_get_max_threads();
    static tally t;
    omp_set_num_threads(1);
    CU_ASSERT(run(wn_executor_default(), &t, 100));
    omp_set_num_threads(usual);
}

WN_SUITE("core.executor", {"each index once", each_index_once},
         {"from many threads", from_many_threads},
         {"where there are no threads to have", where_there_are_no_threads_to_have})
