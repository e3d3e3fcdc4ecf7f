/* position_runs.c: a short list of where the distance between position and index changed. */
#include "kvcache/position_runs.h"

#include <string.h>

void wn_position_runs_append(wn_position_runs *runs, int32_t length, int32_t num_tokens,
                             int32_t next_position)
{
    int32_t offset = next_position - (length + num_tokens);
    if (runs->count > 0 && runs->run[runs->count - 1].offset == offset)
        return;
    if (runs->count == WN_POSITION_RUNS) {
        memmove(runs->run, runs->run + 1, (WN_POSITION_RUNS - 1) * sizeof runs->run[0]);
        runs->run[0].begin = 0;
        runs->count--;
    }
    runs->run[runs->count++] = (wn_position_run){length, offset};
}

void wn_position_runs_truncate(wn_position_runs *runs, int32_t length)
{
    while (runs->count > 0 && runs->run[runs->count - 1].begin >= length)
        runs->count--;
}

int32_t wn_position_runs_next(const wn_position_runs *runs, int32_t length)
{
    uint32_t last = runs->count;
    while (last > 0 && runs->run[last - 1].begin >= length)
        last--;
    if (last == 0)
        return 0;
    int32_t next = length + runs->run[last - 1].offset;
    return next > 0 ? next : 0; /* below zero only after a forgotten gap */
}
