/* report_parts.h: the parts of the page, between report.c and the files that draw. */
#ifndef WN_TOOLS_REPORT_PARTS_H
#define WN_TOOLS_REPORT_PARTS_H

#include "tools/summary.h"

/* The page's style sheet. */
extern const char wn_report_style[];

/* Writes bytes as HTML text: & < > " escaped, what is no UTF-8 and control characters other than
 * newline and tab replaced by U+FFFD. */
void wn_report_escape(FILE *to, const char *text, size_t bytes);
void wn_report_text(FILE *to, const char *text);

/* Dense attention's mass in the generation steps of one layer, in cells of a few steps by a few
 * positions: what each replay could see of it (kept) and what it could not (lost). */
typedef struct wn_report_grid {
    const wn_run *run;
    uint32_t layer;
    int64_t rows, bins; /* cells down and across */
    int64_t row_steps;  /* steps per row, the last row may have fewer */
    float *kept, *lost; /* [replays, kv heads, rows, bins], share of a step's mass */
} wn_report_grid;

wn_status wn_report_grid_make(const wn_run *run, uint32_t layer, wn_report_grid *grid,
                              wn_error *error);
void wn_report_grid_free(wn_report_grid *grid);
/* The picture of one replay and KV head, as SVG. */
void wn_report_grid_draw(FILE *to, const wn_report_grid *grid, uint32_t replay, uint32_t kv_head);

/* Bars: retained mass of each query head of a layer. SVG. */
void wn_report_bars_draw(FILE *to, const wn_run *run, uint32_t replay, uint32_t layer);

/* The prompt's words and which KV heads still have them. Nothing if the method keeps and selects
 * everything, or the trace has no words. */
wn_status wn_report_words_write(FILE *to, const wn_run *run, uint32_t replay, uint32_t layer,
                                wn_error *error);

#endif
