/* progress.c: the bar and the clock. */
#include "tools/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 30 };
static const double SILENT_SECONDS = 2.0, REDRAW_SECONDS = 0.1;

double wn_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void wn_progress_begin(wn_progress *progress, const char *label, int64_t total)
{
    *progress =
        (wn_progress){label, total > 0 ? total : 1, wn_seconds(), 0, isatty(STDERR_FILENO), 0};
}

void wn_progress_show(wn_progress *progress, int64_t done)
{
    if (!progress->terminal)
        return;
    double now = wn_seconds();
    if (now - progress->begun < SILENT_SECONDS || now - progress->drawn < REDRAW_SECONDS)
        return;
    int full = (int)(BAR * done / progress->total);
    double left =
        done > 0 ? (now - progress->begun) * (double)(progress->total - done) / (double)done : 0;
    fprintf(stderr, "\r\033[K%-24.24s [%.*s%*s] %3d%%  %.0f s left", progress->label, full,
            "##############################", BAR - full, "", (int)(100 * done / progress->total),
            left);
    fflush(stderr);
    progress->drawn = now;
}

void wn_progress_end(wn_progress *progress)
{
    if (progress->drawn > 0) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}
