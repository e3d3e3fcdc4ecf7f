/* validate_report.h: what `winnow validate` prints: for people, as JSON, or as JUnit's XML. */
#ifndef WN_VALIDATE_REPORT_H
#define WN_VALIDATE_REPORT_H

#include "tools/validate_child.h"

typedef struct wn_report {
    const char *format; /* "human", "json", "junit" */
    const char *plugin;
    uint64_t seed;
    int passed, failed, skipped;
    double seconds;
    int colour;
    struct json_t *tests; /* json: an array. junit: the same, written out at the end */
    const char *level;    /* human: of the latest line */
} wn_report;

/* Is it the name of a format? */
int wn_report_format(const char *name);

/* format and plugin must outlive the report. human prints as it goes, the others at the end. */
void wn_report_open(wn_report *report, const char *format, const char *plugin, uint64_t seed);
void wn_report_add(wn_report *report, const char *level, const wn_trial_test *test,
                   const wn_child_result *result);
void wn_report_close(wn_report *report);

#endif
