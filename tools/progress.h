/* progress.h: a bar on stderr for work that takes long, only on a terminal, only from two seconds
 * on, and gone without a trace when the work is done. */
#ifndef WN_TOOLS_PROGRESS_H
#define WN_TOOLS_PROGRESS_H

#include <stdint.h>

typedef struct wn_progress {
    const char *label;
    int64_t total;
    double begun, drawn; /* seconds; drawn 0: nothing is on the screen */
    int32_t terminal;
    int32_t reserved;
} wn_progress;

/* label: kept, not copied. */
void wn_progress_begin(wn_progress *progress, const char *label, int64_t total);
/* done of total. Draws at most ten times a second. */
void wn_progress_show(wn_progress *progress, int64_t done);
/* Clears the line. */
void wn_progress_end(wn_progress *progress);

/* Seconds of a clock that only goes forward. */
double wn_seconds(void);

#endif
