/* executor.h: how work is spread over threads. A host that has a thread pool of its own passes it
 * here; everybody else gets OpenMP. No result depends on how many threads there are. */
#ifndef WINNOW_EXECUTOR_H
#define WINNOW_EXECUTOR_H

#include "winnow/base.h"

typedef struct wn_executor {
    uint32_t struct_size;
    uint32_t num_threads; /* a hint: how many calls of body may run at once */
    void *context;
    /* Calls body(argument, i) once for each i in [0, count), in any order and on any threads, and
     * returns when all are done. body does not throw, block or call parallel_for; it may need 512
     * KiB of stack.
     * [step] & concurrent */
    void (*parallel_for)(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                         void *argument);
} wn_executor;
WN_STRUCT(wn_executor, parallel_for);

#endif
