/* bench_break_even.c: from which length on a method's step takes less time than dense attention's.
 */
#include "tools/bench_report.h"
#include "tools/bench_steps.h"
#include "tools/bench_trial.h"
#include "tools/command.h"

#include <stdlib.h>

enum { SHORTEST = 256, BISECTIONS = 3, FEW_SAMPLES = 9 };
static const int64_t batches[] = {1, 4, 16};
enum { NUM_BATCHES = sizeof batches / sizeof batches[0] };

/* The answer for a method and a batch size. */
typedef struct break_even {
    const char *method;
    int64_t batch;
    int64_t slower, faster; /* the nearest lengths of either kind; 0: none was found */
    double ratio;           /* dense's time over the method's at `faster`, else at `slower` */
    int32_t late;
} break_even;

/* Dense's time over the method's at this length. */
static wn_status ratio_at(wn_trial *s, uint32_t method, int64_t length, double *ratio,
                          int32_t *late)
{
    s->length = length;
    wn_status status =
        wn_trial_measure(s, (uint32_t[]){0, method}, 2, s->bench->quick ? 3 : FEW_SAMPLES);
    const wn_trial_player *dense = &s->players[0], *of = &s->players[1];
    if (status == WN_OK) {
        *late = dense->late || of->late;
        *ratio = *late ? 0 : dense->part[WN_TRIAL_STEP].median / of->part[WN_TRIAL_STEP].median;
    }
    wn_trial_clear(s);
    return status;
}

static void note_length(break_even *to, int64_t length, double ratio)
{
    if (ratio >= 1) {
        to->faster = length;
        to->ratio = ratio;
        return;
    }
    to->slower = length;
    if (to->faster == 0)
        to->ratio = ratio;
}

/* Powers of two until the method is the faster one, then between the last two. */
static wn_status search(wn_trial *s, uint32_t method, int64_t longest, break_even *to)
{
    double ratio = 0;
    wn_status status = WN_OK;
    for (int64_t length = SHORTEST; length <= longest && to->faster == 0; length *= 2) {
        status = ratio_at(s, method, length, &ratio, &to->late);
        if (status != WN_OK || to->late)
            return status;
        note_length(to, length, ratio);
    }
    for (int i = 0; i < BISECTIONS && to->faster > 0 && to->slower > 0; i++) {
        int64_t middle = (to->slower + to->faster) / 2 / WN_TRIAL_TILE * WN_TRIAL_TILE;
        if (middle <= to->slower || middle >= to->faster)
            break;
        status = ratio_at(s, method, middle, &ratio, &to->late);
        if (status != WN_OK || to->late)
            return status;
        note_length(to, middle, ratio);
    }
    return status;
}

static void print_break_even(const wn_trial *s, const break_even *list, uint32_t count,
                             const wn_steps_options *o)
{
    static const char *const head[] = {"method",    "requests",       "faster from",
                                       "slower at", "x faster there", "remark"};
    enum { COLUMNS = sizeof head / sizeof head[0] };
    json_t *array = json_array();
    char(*cells)[48] = calloc((size_t)count * COLUMNS + 1, sizeof *cells);
    for (uint32_t i = 0; i < count && cells != NULL; i++) {
        const break_even *b = &list[i];
        char(*cell)[48] = cells + (size_t)i * COLUMNS;
        const char *remark = b->late          ? "its prompt takes too long here"
                             : b->faster == 0 ? "never faster in the lengths searched"
                             : b->slower == 0 ? "faster at every length searched"
                                              : "";
        snprintf(cell[0], 48, "%s", b->method);
        snprintf(cell[1], 48, "%lld", (long long)b->batch);
        snprintf(cell[2], 48, b->faster > 0 ? "%lld" : "-", (long long)b->faster);
        snprintf(cell[3], 48, b->slower > 0 ? "%lld" : "-", (long long)b->slower);
        snprintf(cell[4], 48, "%.2f", b->ratio);
        snprintf(cell[5], 48, "%s", remark);
        json_array_append_new(
            array, json_pack("{s:s, s:I, s:o, s:o, s:o, s:s}", "method", b->method, "batch",
                             (json_int_t)b->batch, "faster_from",
                             b->faster > 0 ? json_integer(b->faster) : json_null(), "slower_at",
                             b->slower > 0 ? json_integer(b->slower) : json_null(), "ratio_dense",
                             wn_number_json(b->ratio), "remark", remark));
    }
    if (o->form == WN_REPORT_JSON) {
        json_t *whole = wn_bench_head_json(s->bench);
        json_object_set(whole, "break_even", array);
        json_dumpf(whole, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(whole);
    } else if (cells != NULL) {
        wn_bench_head_print(s->bench, o->form, stdout);
        wn_bench_table_print(head, COLUMNS, cells, count, o->form, stdout);
    }
    json_decref(array);
    free(cells);
}

int wn_bench_break_even(const wn_bench *bench, const wn_steps_options *options)
{
    char text[2048] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    uint32_t count = 0;
    break_even list[WN_TRIAL_PLAYERS * NUM_BATCHES] = {0};
    wn_trial *s = wn_trial_open(bench, options, &error);
    wn_status status = s != NULL ? wn_trial_add_all(s, options) : WN_EIO;
    for (uint32_t m = 1; status == WN_OK && m < s->num_methods; m++)
        for (int b = 0; b < NUM_BATCHES && status == WN_OK; b++) {
            break_even *to = &list[count++];
            *to = (break_even){.method = s->methods[m].name, .batch = batches[b]};
            s->shape.batch = batches[b];
            status = search(s, m, options->longest, to);
        }
    if (status == WN_OK)
        print_break_even(s, list, count, options);
    else
        fprintf(stderr, "winnow bench: %s\n", text);
    wn_trial_free(s);
    return status == WN_OK ? WN_EXIT_FINE : WN_EXIT_FAILED;
}
