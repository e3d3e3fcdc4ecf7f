/* bench_threads.h: an executor of so many threads, whatever OMP_NUM_THREADS says, each bound to a
 * processor of its own. Results do not depend on it; times do. */
#ifndef WN_TOOLS_BENCH_THREADS_H
#define WN_TOOLS_BENCH_THREADS_H

#include "winnow/winnow.h"

wn_executor wn_bench_executor(uint32_t threads);
/* Processors that this process could run on before threads were bound. */
uint32_t wn_bench_processors(void);

#endif
