/* position_runs.h: at which position a sequence goes on, also after tokens were cut off.
 *
 * Without explicit positions, token i is at position i. Callers may leave gaps; the cache then
 * sees, per step, the position after the last token only. It remembers runs of tokens with the same
 * distance between position and index, a new run beginning with the first token of a step that
 * changes the distance: the tokens of one step are taken as consecutive. The last WN_POSITION_RUNS
 * runs are kept; the oldest is then absorbed by its successor, so a cut that far back may name a
 * position off by the forgotten gap. A caller with such gaps states positions itself. */
#ifndef WN_POSITION_RUNS_H
#define WN_POSITION_RUNS_H

#include <stdint.h>

enum { WN_POSITION_RUNS = 8 };

typedef struct wn_position_run {
    int32_t begin;  /* first token; of the first run always 0 */
    int32_t offset; /* position - index of each of its tokens */
} wn_position_run;

/* All zero: a sequence without tokens. */
typedef struct wn_position_runs {
    uint32_t count;
    wn_position_run run[WN_POSITION_RUNS];
} wn_position_runs;

/* The sequence grows from length to length + num_tokens > length; the last new token is at
 * next_position - 1. */
void wn_position_runs_append(wn_position_runs *runs, int32_t length, int32_t num_tokens,
                             int32_t next_position);
/* The sequence is cut to length. */
void wn_position_runs_truncate(wn_position_runs *runs, int32_t length);
/* One more than the position of the last of `length` tokens; 0 if there is none. */
int32_t wn_position_runs_next(const wn_position_runs *runs, int32_t length);

#endif
