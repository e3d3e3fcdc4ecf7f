/* parallel.h: a loop over independent items, on the caller's executor if there is one. */
#ifndef WN_PARALLEL_H
#define WN_PARALLEL_H

#include "winnow/executor.h"

/* Calls body(argument, i) for each i in [0, count). The items must not depend on one another: the
 * executor may run them in any order. */
static inline void wn_for_each(const wn_executor *executor, int64_t count,
                               void (*body)(void *argument, int64_t i), void *argument)
{
    if (executor != NULL) {
        if (count > 0)
            executor->parallel_for(executor->context, count, body, argument);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        body(argument, i);
}

#endif
