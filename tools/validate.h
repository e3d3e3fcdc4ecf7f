/* validate.h: what a test of the validator is. A test looks at one plugin file and says passed,
 * failed or skipped, with a reason for the latter two. Each runs in a process of its own (see
 * validate_child.h), so it may crash, hang and leak as the plugin pleases. */
#ifndef WN_VALIDATE_H
#define WN_VALIDATE_H

#include "winnow/base.h"

#include <stdio.h>

typedef enum wn_outcome {
    WN_PASSED = 'P',
    WN_FAILED = 'F',
    WN_SKIPPED = 'S' /* does not apply to this plugin; never counted as passed */
} wn_outcome;

#define WN_TRIAL_TEXT 2048

/* One test on one plugin. */
typedef struct wn_trial {
    const char *path; /* absolute */
    uint64_t seed;
    char text[WN_TRIAL_TEXT]; /* why it failed or was skipped */
} wn_trial;

typedef struct wn_trial_test {
    const char *name; /* kebab-case */
    const char *rule; /* the rules of abi/README.md that it enforces */
    const char *what; /* what holds when it passes, one line */
    wn_outcome (*run)(wn_trial *trial);
} wn_trial_test;

/* Writes the reason and returns the outcome: `return wn_trial_says(trial, WN_FAILED, "...")`. */
wn_outcome wn_trial_says(wn_trial *trial, wn_outcome outcome, const char *format, ...)
    WN_PRINTF(3, 4);

/* The levels, in the order in which they run. Each table ends with an entry without a name. */
typedef struct wn_trial_level {
    const char *name;
    const wn_trial_test *tests;
} wn_trial_level;

extern const wn_trial_test wn_static_tests[];    /* reads the file, runs none of its code */
extern const wn_trial_test wn_contract_tests[];  /* loads it and calls it, with a host of our own */
extern const wn_trial_test wn_behaviour_tests[]; /* runs it in an engine */

#endif
