/* bench_steps.c: whole generation steps, dense and each method, length by length; and the step that
 * is one of the rows of standard. */
#include "tools/bench_steps.h"

#include "tools/bench_report.h"
#include "tools/bench_trial.h"
#include "tools/command.h"
#include "tools/progress.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LENGTHS = 32 };

/* One line of the answer. */
typedef struct step_row {
    char method[48];
    int64_t length, batch;
    wn_bench_spread part[WN_TRIAL_FIGURES];
    double ratio; /* dense's time over this one's */
    int32_t kept, late;
} step_row;

static void keep_rows(const wn_trial *s, step_row *rows_, uint32_t *count)
{
    double dense = s->players[0].part[WN_TRIAL_STEP].median;
    for (uint32_t n = 0; n < s->num_players; n++) {
        const wn_trial_player *p = &s->players[n];
        step_row *r = &rows_[(*count)++];
        *r = (step_row){.length = s->length, .batch = s->shape.batch};
        memcpy(r->method, p->method->name, sizeof r->method);
        memcpy(r->part, p->part, sizeof r->part);
        r->kept = p->kept;
        r->late = p->late;
        r->ratio = p->late ? 0 : dense / p->part[WN_TRIAL_STEP].median;
    }
}

static const char *remark_of(const step_row *r)
{
    if (r->late)
        return "its prompt takes too long here";
    return r->ratio > 0 && r->ratio < 1 ? "below break-even" : "";
}

static json_t *step_json(const step_row *r)
{
    json_t *row =
        json_pack("{s:s, s:I, s:I, s:b}", "method", r->method, "length", (json_int_t)r->length,
                  "batch", (json_int_t)r->batch, "measured", !r->late);
    if (r->late)
        return row;
    for (int i = 0; i < WN_TRIAL_FIGURES; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_ms", i < WN_PART_COUNT ? wn_part_names[i] : "total");
        json_object_set_new(row, key, wn_number_json(r->part[i].median * 1e3));
    }
    const wn_bench_spread *total = &r->part[WN_TRIAL_STEP];
    json_object_set_new(
        row, "spread",
        json_pack("[o,o]", wn_number_json(total->low * 1e3), wn_number_json(total->high * 1e3)));
    json_object_set_new(row, "kept_tokens", json_integer(r->kept));
    json_object_set_new(row, "ratio_dense", wn_number_json(r->ratio));
    json_object_set_new(row, "below_break_even", json_boolean(r->ratio < 1));
    return row;
}

static void print_steps_table(const step_row *list, uint32_t count, int form)
{
    static const char *const head[] = {"method",
                                       "length",
                                       "batch",
                                       "step",
                                       "append",
                                       "observe",
                                       "select",
                                       "attend",
                                       "retain",
                                       "kept",
                                       "x faster than dense",
                                       "remark"};
    enum { COLUMNS = sizeof head / sizeof head[0] };
    char(*cells)[48] = calloc((size_t)count * COLUMNS + 1, sizeof *cells);
    for (uint32_t i = 0; i < count && cells != NULL; i++) {
        const step_row *r = &list[i];
        char(*cell)[48] = cells + (size_t)i * COLUMNS, text[16];
        snprintf(cell[0], 48, "%s", r->method);
        snprintf(cell[1], 48, "%lld", (long long)r->length);
        snprintf(cell[2], 48, "%lld", (long long)r->batch);
        for (int part = 0; part < WN_TRIAL_FIGURES; part++)
            snprintf(cell[part == WN_TRIAL_STEP ? 3 : 4 + part], 48, "%s",
                     r->late ? "-" : wn_seconds_text(r->part[part].median, text));
        snprintf(cell[9], 48, "%d", r->kept);
        snprintf(cell[10], 48, r->late ? "-" : "%.2f", r->ratio);
        snprintf(cell[11], 48, "%s", remark_of(r));
    }
    if (cells != NULL)
        wn_bench_table_print(head, COLUMNS, cells, count, form, stdout);
    free(cells);
}

static void print_steps(const wn_trial *s, const step_row *list, uint32_t count, int form)
{
    if (form != WN_REPORT_JSON) {
        wn_bench_head_print(s->bench, form, stdout);
        print_steps_table(list, count, form);
        return;
    }
    json_t *whole = wn_bench_head_json(s->bench), *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(array, step_json(&list[i]));
    json_object_set_new(whole, "steps", array);
    json_dumpf(whole, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(whole);
}

/* "4k,32k" into lengths; 0: it makes no sense. */
static uint32_t read_lengths(const char *text, int64_t lengths[MAX_LENGTHS])
{
    uint32_t count = 0;
    while (*text != '\0' && count < MAX_LENGTHS) {
        char *end;
        int64_t value = strtoll(text, &end, 10);
        if (end == text)
            return 0;
        if (*end == 'k') {
            value *= 1024;
            end++;
        }
        if (value < WN_TRIAL_SHORTEST || value > 1 << 24 || (*end != ',' && *end != '\0'))
            return 0;
        lengths[count++] = value;
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

static wn_status all_lengths(wn_trial *s, const int64_t *lengths, uint32_t num_lengths,
                             step_row *list, uint32_t *count)
{
    wn_progress progress;
    wn_status status = WN_OK;
    uint32_t all[WN_TRIAL_PLAYERS];
    for (uint32_t i = 0; i < s->num_methods; i++)
        all[i] = i;
    wn_progress_begin(&progress, "steps", num_lengths);
    for (uint32_t i = 0; i < num_lengths && status == WN_OK; i++) {
        s->length = lengths[i];
        status = wn_trial_measure(s, all, s->num_methods, s->bench->samples);
        if (status == WN_OK)
            keep_rows(s, list, count);
        wn_trial_clear(s);
        wn_progress_show(&progress, i + 1);
    }
    wn_progress_end(&progress);
    return status;
}

int wn_bench_steps(const wn_bench *bench, const wn_steps_options *options)
{
    char text[2048] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    int64_t lengths[MAX_LENGTHS];
    const char *asked = options->lengths != NULL ? options->lengths
                        : bench->quick           ? "128,300"
                                                 : "4k,8k,16k,32k,64k,128k";
    uint32_t num_lengths = read_lengths(asked, lengths), count = 0;
    if (num_lengths == 0)
        return wn_usage_error(&wn_usage_bench, "--lengths wants numbers such as 4k,32k from %d on",
                              WN_TRIAL_SHORTEST);
    step_row *list = calloc((size_t)num_lengths * WN_TRIAL_PLAYERS, sizeof *list);
    wn_trial *s = wn_trial_open(bench, options, &error);
    wn_status status = s != NULL && list != NULL ? wn_trial_add_all(s, options) : WN_ENOMEM;
    if (status == WN_OK)
        status = all_lengths(s, lengths, num_lengths, list, &count);
    if (status == WN_OK)
        print_steps(s, list, count, options->form);
    else
        fprintf(stderr, "winnow bench: %s\n", text);
    wn_trial_free(s);
    free(list);
    return status == WN_OK ? WN_EXIT_FINE : WN_EXIT_FAILED;
}

/* ---------------------------------------------------------------- a row of standard */

static void fill_result(const wn_trial *s, const char *name, wn_bench_result *result)
{
    const wn_trial_player *dense = &s->players[0], *of = &s->players[1];
    *result = (wn_bench_result){.roof = WN_ROOF_NONE,
                                .skipped = -1,
                                .threads = s->bench->threads,
                                .samples = s->bench->samples,
                                .time = of->part[WN_TRIAL_STEP],
                                .status = of->late ? WN_EUNSUPPORTED : WN_OK};
    snprintf(result->name, sizeof result->name, "%s", name);
    if (of->late) {
        snprintf(result->note, sizeof result->note, "its prompt takes too long here");
        return;
    }
    char text[16];
    result->ratio_base = dense->part[WN_PART_ATTEND].median / of->part[WN_TRIAL_STEP].median;
    snprintf(result->note, sizeof result->note, "base: dense's attend, %s",
             wn_seconds_text(dense->part[WN_PART_ATTEND].median, text));
}

wn_status wn_bench_step_row(const wn_bench *bench, const char *name, const char *yaml,
                            int64_t length, const char *plugin_path, wn_bench_result *result,
                            wn_error *error)
{
    wn_steps_options options = {.plugin_path = plugin_path, .prompt_seconds = 120};
    wn_trial *s = wn_trial_open(bench, &options, error);
    if (s == NULL)
        return WN_EIO;
    s->length = length;
    wn_status status = wn_trial_add(s, name, yaml);
    if (status == WN_OK)
        status = wn_trial_measure(s, (uint32_t[]){0, 1}, 2, bench->samples);
    if (status == WN_OK)
        fill_result(s, name, result);
    wn_trial_free(s);
    return status;
}
