/* step_time.h: where the time of a replay's steps went, part by part, and whether a method was
 * worth its while beside dense attention. */
#ifndef WN_TOOLS_STEP_TIME_H
#define WN_TOOLS_STEP_TIME_H

#include "tools/replay.h"

/* The parts of one wn_attention, in order. */
enum {
    WN_PART_APPEND,
    WN_PART_OBSERVE,
    WN_PART_SELECT, /* and the tile policy */
    WN_PART_ATTEND,
    WN_PART_RETAIN,
    WN_PART_COUNT
};

/* "append", "observe", ... */
extern const char *const wn_part_names[WN_PART_COUNT];

typedef struct wn_step_time {
    double part[WN_PART_COUNT]; /* seconds, all steps of the phase */
    double rest;                /* begin, end and what lies between the parts; 0 for one layer */
    double total;
} wn_step_time;

/* One phase of a layer (index in the trace), or of all of them with the steps' frame (-1). */
wn_step_time wn_step_time_measure(const wn_replay *replay, uint32_t phase, int32_t layer);

/* "" or one sentence: that replay is slower than dense to generate on this trace, or, if it is
 * faster, after how many tokens it has earned back what its prompt took more. Differences below
 * 5 % are the clock's. */
void wn_step_time_verdict(const wn_replay *replay, const wn_replay *dense, char *text,
                          size_t bytes);

/* Two rows for each replay, the prompt in ms and a generated token in us. */
void wn_step_time_print(wn_replay *const *replays, uint32_t count, FILE *to);

#endif
