/* bench_report.h: results as a table, as Markdown, as JSON; the machine and the commit with each.
 */
#ifndef WN_TOOLS_BENCH_REPORT_H
#define WN_TOOLS_BENCH_REPORT_H

#include "tools/bench_measure.h"

#include <jansson.h>

enum { WN_REPORT_TABLE, WN_REPORT_MARKDOWN, WN_REPORT_JSON };

typedef struct wn_bench_report {
    const wn_bench *bench;
    const wn_bench_result *results;
    uint32_t count;
} wn_bench_report;

void wn_bench_report_print(const wn_bench_report *report, int form, FILE *to);

/* {machine, commit, date, roofs}: what every JSON of the benchmark begins with. */
json_t *wn_bench_head_json(const wn_bench *bench);
/* The same in a few lines of text; in Markdown where form says so. */
void wn_bench_head_print(const wn_bench *bench, int form, FILE *to);
/* A table with this head and cells [rows * columns]. */
void wn_bench_table_print(const char *const *head, uint32_t columns, char (*cells)[48],
                          uint32_t rows, int form, FILE *to);
/* "4.07 ms", "29.1 us" */
const char *wn_seconds_text(double seconds, char text[16]);
/* A number, or null where it is not one. */
json_t *wn_number_json(double value);

#endif
