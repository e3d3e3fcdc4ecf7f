/* report.h: a run as one HTML page: no scripts, nothing loaded from elsewhere, light and dark. */
#ifndef WN_TOOLS_REPORT_H
#define WN_TOOLS_REPORT_H

#include "tools/summary.h"

/* Writes the page; a file that could not be written whole is removed. */
wn_status wn_report_write(const char *path, const wn_run *run, wn_error *error);

#endif
