/* validate_child.h: one test in one process. The parent never loads a plugin. */
#ifndef WN_VALIDATE_CHILD_H
#define WN_VALIDATE_CHILD_H

#include "tools/validate.h"

typedef enum wn_ending {
    WN_ENDED_WELL = 0,   /* outcome and text are the test's own */
    WN_ENDED_BY_SIGNAL,  /* detail: the signal's number */
    WN_ENDED_BY_TIMEOUT, /* detail: seconds */
    WN_ENDED_SILENTLY,   /* left without an outcome; detail: exit status */
    WN_NOT_STARTED       /* detail: errno */
} wn_ending;

typedef struct wn_child_result {
    wn_ending ending;
    int detail;
    wn_outcome outcome;              /* WN_FAILED unless it ended well */
    double seconds;                  /* wall time */
    char text[WN_TRIAL_TEXT];        /* the reason, whatever it is */
    char stderr_tail[WN_TRIAL_TEXT]; /* the last that it wrote to stderr */
} wn_child_result;

/* Runs this same program as `winnow validate --run-one TEST --seed SEED PLUGIN` in a process group
 * of its own, with limits on processor time and core files. After `timeout` seconds the group is
 * killed. Returns when nothing of it is left. */
void wn_child_run(const wn_trial_test *test, const char *plugin, uint64_t seed, int timeout,
                  wn_child_result *result);

/* The child's side: runs the test and writes its outcome where the parent reads it. Returns the
 * exit status. */
int wn_child_main(const wn_trial_test *test, const char *plugin, uint64_t seed);

#endif
