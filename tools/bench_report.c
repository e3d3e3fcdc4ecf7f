/* bench_report.c: how results are shown. */
#include "tools/bench_report.h"

#include "tools/bench_threads.h"
#include "tools/machine.h"
#include "tools/table.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { CELL = 48 };

const char *wn_seconds_text(double seconds, char text[16])
{
    double shown = seconds >= 1 ? seconds : seconds >= 1e-3 ? seconds * 1e3 : seconds * 1e6;
    const char *unit = seconds >= 1 ? "s" : seconds >= 1e-3 ? "ms" : "us";
    snprintf(text, 16, "%.*f %s", shown >= 99.95 ? 0 : shown >= 9.995 ? 1 : 2, shown, unit);
    return text;
}

json_t *wn_number_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* ---------------------------------------------------------------- the head */

static void date_text(char text[32])
{
    time_t now = time(NULL);
    strftime(text, 32, "%Y-%m-%d", gmtime(&now));
}

/* A few samples of each roof, apart from any row: what the machine is like. */
static void sample_roofs(const wn_bench *bench, double roofs[WN_ROOF_COUNT])
{
    wn_executor executor = wn_bench_executor(bench->threads);
    for (int r = 0; r < WN_ROOF_COUNT; r++) {
        double samples[5] = {0};
        roofs[r] = 0;
        if (!wn_roof_exists(bench->roofs, r))
            continue;
        for (int i = 0; i < 5; i++)
            samples[i] = wn_roof_sample(bench->roofs, r, &executor);
        roofs[r] = wn_bench_spread_of(samples, 5).median;
    }
}

json_t *wn_bench_head_json(const wn_bench *bench)
{
    wn_machine m = wn_machine_read();
    char commit[64], date[32];
    double roofs[WN_ROOF_COUNT];
    wn_machine_commit(commit);
    date_text(date);
    sample_roofs(bench, roofs);
    json_t *figures = json_object();
    for (int r = 0; r < WN_ROOF_COUNT; r++)
        if (wn_roof_exists(bench->roofs, r))
            json_object_set_new(figures, wn_roof_name(r),
                                json_pack("{s:o, s:s}", "value", wn_number_json(roofs[r]), "unit",
                                          wn_roof_unit(r)));
    return json_pack("{s:{s:s, s:s, s:I, s:s, s:s}, s:s, s:s, s:s, s:o}", "machine", "processor",
                     m.processor, "flags", m.flags, "threads", (json_int_t)bench->threads, "memory",
                     m.memory, "os", m.system, "commit", commit, "date", date, "peer",
                     bench->peer != NULL ? wn_peer_name(bench->peer) : "none", "roofs", figures);
}

void wn_bench_head_print(const wn_bench *bench, int form, FILE *to)
{
    const char *begin = form == WN_REPORT_MARKDOWN ? "- " : "";
    wn_machine m = wn_machine_read();
    char commit[64], date[32];
    double roofs[WN_ROOF_COUNT];
    wn_machine_commit(commit);
    date_text(date);
    sample_roofs(bench, roofs);
    fprintf(to, "%smachine: %s, %ld processors, %u threads used, %s of memory, %s\n", begin,
            m.processor, m.processors, bench->threads, m.memory, m.system);
    fprintf(to, "%sits instructions: %s\n", begin, m.flags);
    fprintf(to, "%scommit %s, %s, peer: %s\n%sroofs:", begin, commit, date,
            bench->peer != NULL ? wn_peer_name(bench->peer) : "none", begin);
    const char *comma = "";
    for (int r = 0; r < WN_ROOF_COUNT; r++)
        if (wn_roof_exists(bench->roofs, r)) {
            fprintf(to, "%s %s %.1f %s", comma, wn_roof_name(r), roofs[r], wn_roof_unit(r));
            comma = ",";
        }
    fputs("\n\n", to);
}

/* ---------------------------------------------------------------- tables */

static void print_markdown(const char *const *head, uint32_t columns, char (*cells)[CELL],
                           uint32_t rows, FILE *to)
{
    for (uint32_t c = 0; c < columns; c++)
        fprintf(to, "| %s ", head[c]);
    fputs("|\n|", to);
    for (uint32_t c = 0; c < columns; c++)
        fputs(c == 0 ? "---|" : "---:|", to);
    fputc('\n', to);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < columns; c++)
            fprintf(to, "| %s ", cells[r * columns + c]);
        fputs("|\n", to);
    }
}

void wn_bench_table_print(const char *const *head, uint32_t columns, char (*cells)[48],
                          uint32_t rows, int form, FILE *to)
{
    if (form == WN_REPORT_MARKDOWN) {
        print_markdown(head, columns, cells, rows, to);
        return;
    }
    wn_table table;
    wn_table_init(&table, columns);
    for (uint32_t c = 0; c < columns; c++)
        wn_table_cell(&table, "%s", head[c]);
    for (uint32_t i = 0; i < rows * columns; i++)
        wn_table_cell(&table, "%s", cells[i]);
    wn_table_print(&table, 1, to);
    wn_table_free(&table);
}

/* ---------------------------------------------------------------- rows */

static const char *const head[] = {"row",     "kernel",  "threads", "median", "10 .. 90 %",
                                   "GB/s",    "GFLOP/s", "roof",    "share",  "x ref",
                                   "x torch", "x base",  "samples", "remark"};
enum { COLUMNS = sizeof head / sizeof head[0] };

/* "-" for what was not measured. */
static void number_cell(char cell[CELL], const char *format, double value)
{
    if (value > 0)
        snprintf(cell, CELL, format, value);
    else
        snprintf(cell, CELL, "-");
}

static void ratio_cell(char cell[CELL], double ratio)
{
    number_cell(cell, ratio >= 99.5 ? "%.0f" : ratio >= 9.95 ? "%.1f" : "%.2f", ratio);
}

static void remark_cell(char cell[CELL], const wn_bench_result *r)
{
    if (r->skipped >= 0)
        snprintf(cell, CELL, "%.0f %% of tiles skipped", 100 * r->skipped);
    else
        snprintf(cell, CELL, "%s", r->note);
}

static void fill_row(char (*cells)[CELL], const wn_bench_result *r)
{
    char text[3][16];
    for (int c = 0; c < COLUMNS; c++)
        snprintf(cells[c], CELL, c == COLUMNS - 1 ? "" : "-");
    snprintf(cells[0], CELL, "%.47s", r->name);
    snprintf(cells[1], CELL, "%s", r->variant != NULL ? r->variant : "-");
    snprintf(cells[2], CELL, "%u", r->threads);
    if (r->status != WN_OK) {
        snprintf(cells[COLUMNS - 1], CELL, "%s",
                 *r->note ? r->note : "the kernels do not take this");
        return;
    }
    snprintf(cells[3], CELL, "%s", wn_seconds_text(r->time.median, text[0]));
    snprintf(cells[4], CELL, "%s .. %s", wn_seconds_text(r->time.low, text[1]),
             wn_seconds_text(r->time.high, text[2]));
    number_cell(cells[5], "%.1f", r->gbps);
    number_cell(cells[6], "%.1f", r->gflops);
    if (r->roof >= 0) {
        snprintf(cells[7], CELL, "%s %.1f", wn_roof_name(r->roof), r->roofs[r->roof]);
        snprintf(cells[8], CELL, "%.0f %%", 100 * r->share);
    }
    ratio_cell(cells[9], r->ratio_ref);
    ratio_cell(cells[10], r->ratio_torch);
    ratio_cell(cells[11], r->ratio_base);
    snprintf(cells[12], CELL, "%u", r->samples);
    remark_cell(cells[13], r);
}

static json_t *ratio_json(double ratio)
{
    return ratio > 0 ? wn_number_json(ratio) : json_null();
}

static json_t *row_json(const wn_bench_result *r)
{
    json_t *row = json_pack("{s:s, s:s?, s:I, s:b}", "name", r->name, "variant", r->variant,
                            "threads", (json_int_t)r->threads, "supported", r->status == WN_OK);
    if (r->status != WN_OK)
        return row;
    json_t *figures = json_pack(
        "{s:o, s:[o,o], s:o, s:o, s:s?, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:s}", "median_ms",
        wn_number_json(r->time.median * 1e3), "spread", wn_number_json(r->time.low * 1e3),
        wn_number_json(r->time.high * 1e3), "gbps", ratio_json(r->gbps), "gflops",
        ratio_json(r->gflops), "roof", r->roof >= 0 ? wn_roof_name(r->roof) : NULL, "roof_value",
        r->roof >= 0 ? wn_number_json(r->roofs[r->roof]) : json_null(), "share",
        ratio_json(r->share), "ratio_ref", ratio_json(r->ratio_ref), "ratio_torch",
        ratio_json(r->ratio_torch), "ratio_base", ratio_json(r->ratio_base), "tiles_skipped",
        r->skipped >= 0 ? wn_number_json(r->skipped) : json_null(), "samples",
        (json_int_t)r->samples, "note", r->note);
    json_object_update(row, figures);
    json_decref(figures);
    return row;
}

static void print_json(const wn_bench_report *report, FILE *to)
{
    json_t *whole = wn_bench_head_json(report->bench), *rows = json_array();
    for (uint32_t i = 0; i < report->count; i++)
        json_array_append_new(rows, row_json(&report->results[i]));
    json_object_set_new(whole, "rows", rows);
    json_dumpf(whole, to, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    fputc('\n', to);
    json_decref(whole);
}

void wn_bench_report_print(const wn_bench_report *report, int form, FILE *to)
{
    if (form == WN_REPORT_JSON) {
        print_json(report, to);
        return;
    }
    wn_bench_head_print(report->bench, form, to);
    char(*cells)[CELL] = calloc((size_t)report->count * COLUMNS + 1, CELL);
    if (cells == NULL)
        return;
    for (uint32_t i = 0; i < report->count; i++)
        fill_row(cells + (size_t)i * COLUMNS, &report->results[i]);
    wn_bench_table_print(head, COLUMNS, cells, report->count, form, to);
    free(cells);
}
