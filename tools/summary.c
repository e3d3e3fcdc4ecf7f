/* summary.c: the table and the sentences for people. */
#include "tools/summary.h"

#include "tools/step_time.h"
#include "tools/table.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { COLUMNS = 11, TEXT = 1024 };

int64_t wn_run_first_row(const wn_run *run)
{
    return run->trace->context < run->trace->tokens ? run->trace->context : 0;
}

/* Appends to text, as far as there is room. */
static void append(char *text, size_t bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void append(char *text, size_t bytes, const char *format, ...)
{
    va_list arguments;
    size_t used = strlen(text);
    va_start(arguments, format);
    vsnprintf(text + used, bytes - used, format, arguments);
    va_end(arguments);
}

/* Token t's word in quotes, unprintable bytes as '.', "" where the trace has no words. */
static const char *word(const wn_trace *trace, int64_t t, char quoted[40])
{
    quoted[0] = '\0';
    if (trace->text_begin == NULL || t < 0 || t >= trace->tokens)
        return quoted;
    size_t n = 0;
    quoted[n++] = ' ';
    quoted[n++] = '"';
    for (int32_t i = trace->text_begin[t]; i < trace->text_begin[t + 1] && n < 36; i++) {
        uint8_t c = trace->text[i];
        quoted[n++] = c < 32 || c >= 127 ? '.' : (char)c;
    }
    quoted[n++] = '"';
    quoted[n] = '\0';
    return quoted;
}

static uint32_t kv_head_of(const wn_trace *trace, uint32_t head)
{
    return head / (trace->num_heads / trace->num_kv_heads);
}

/* ---------------------------------------------------------------- sentences */

void wn_summary_trace(const wn_trace *trace, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s: %" PRId64 " prompt + %" PRId64 " generated tokens, %u layer%s (",
             *trace->model ? trace->model : "unnamed model", trace->context,
             trace->tokens - trace->context, trace->num_layers, trace->num_layers == 1 ? "" : "s");
    for (uint32_t i = 0; i < trace->num_layers; i++)
        append(text, bytes, "%s%u", i > 0 ? ", " : "", trace->layers[i].number);
    append(text, bytes, "), %u heads on %u KV heads, %u channels, %s", trace->num_heads,
           trace->num_kv_heads, trace->head_dim, wn_dtype_name(trace->dtype));
}

void wn_summary_loss(const wn_run *run, const wn_replay *replay, int32_t layer, char *text,
                     size_t bytes)
{
    const wn_trace *trace = run->trace;
    char at[40];
    wn_quality quality =
        wn_quality_measure(replay, run->replays[0], layer, wn_run_first_row(run), trace->tokens);
    const wn_worst *mass = &quality.mass;
    if (mass->worst > 0.9999 && quality.error.worst < 1e-3) {
        snprintf(text, bytes, "lost nothing that can be measured");
        return;
    }
    snprintf(text, bytes,
             "lost most in layer %u, head %u (KV head %u), at token %" PRId64 "%s: "
             "%.1f%% of the attention mass",
             trace->layers[mass->layer].number, mass->head, kv_head_of(trace, mass->head),
             mass->row, word(trace, mass->row, at), 100 * (1 - mass->worst));
    if (quality.error.layer == mass->layer && quality.error.head == mass->head &&
        quality.error.row == mass->row)
        append(text, bytes, ", with the greatest output error, too: %.2f", quality.error.worst);
    else
        append(text, bytes,
               "; the greatest output error, %.2f, is in layer %u, head %u, at token %" PRId64 "%s",
               quality.error.worst, trace->layers[quality.error.layer].number, quality.error.head,
               quality.error.row, word(trace, quality.error.row, at));
}

void wn_summary_readers(const wn_run *run, char *text, size_t bytes)
{
    const wn_trace *trace = run->trace;
    const wn_fact *fact = run->fact;
    enum { NAMED = 4 };
    snprintf(text, bytes, "A fact is planted at tokens %" PRId64 "..%" PRId64 ". ",
             trace->needle_begin, trace->needle_end - 1);
    if (fact->num_readers == 0) {
        append(text, bytes, "No head of the layers here puts half of its mass on it at any step.");
        return;
    }
    append(text, bytes, "Dense attention reads it with %u head%s:", fact->num_readers,
           fact->num_readers == 1 ? "" : "s");
    for (uint32_t i = 0; i < fact->num_readers && i < NAMED; i++)
        append(text, bytes, "%s layer %u head %u (%.2f of its mass at step %" PRId64 ")",
               i > 0 ? "," : "", trace->layers[fact->readers[i].layer].number,
               fact->readers[i].head, fact->readers[i].mass, fact->readers[i].step);
    append(text, bytes, fact->num_readers > NAMED ? ", and %u more." : ".",
           fact->num_readers - NAMED);
}

/* What is said of the reader that sees least. */
static void say_view(const wn_run *run, uint32_t reader, const wn_fact_view *view, char *text,
                     size_t bytes)
{
    const wn_trace *trace = run->trace;
    const wn_fact_reader *who = &run->fact->readers[reader];
    int64_t needle = trace->needle_end - trace->needle_begin;
    append(text, bytes,
           "layer %u head %u, at step %" PRId64 ", has %" PRId64 " of its %" PRId64
           " tokens in the cache of KV head %u",
           trace->layers[who->layer].number, who->head, who->step, view->in_cache, needle,
           kv_head_of(trace, who->head));
    if (view->visible != view->in_cache)
        append(text, bytes, ", %" PRId64 " of them selected", view->visible);
    append(text, bytes, ", and with them %.0f%% of what it reads there", 100 * view->share);
}

void wn_summary_fact(const wn_run *run, const wn_replay *replay, int32_t layer, char *text,
                     size_t bytes)
{
    static const char *const verdicts[] = {"", "kept the fact", "kept part of the fact",
                                           "lost the fact", "says nothing of the fact"};
    int32_t verdict;
    uint32_t worst;
    wn_fact_view view;
    if (wn_fact_judge(run->fact, replay, layer, &verdict, &worst, &view, NULL) != WN_OK) {
        snprintf(text, bytes, "(no memory to judge)");
        return;
    }
    snprintf(text, bytes, "%s", verdicts[verdict]);
    if (verdict == WN_FACT_UNREAD) {
        append(text, bytes, ": no head reads it here");
        return;
    }
    uint32_t readers = 0, seeing = 0;
    for (uint32_t i = 0; i < run->fact->num_readers; i++) {
        wn_fact_view seen;
        if (layer >= 0 && run->fact->readers[i].layer != (uint32_t)layer)
            continue;
        if (wn_fact_look(run->fact, replay, i, &seen, NULL) == WN_OK)
            seeing += seen.share >= WN_FACT_KEPT_SHARE;
        readers++;
    }
    append(text, bytes,
           readers > 1 ? ": %u of %u heads that read it still see it; the one that sees "
                         "least, "
                       : ": ",
           seeing, readers);
    say_view(run, worst, &view, text, bytes);
    wn_cost cost = wn_cost_measure(replay, layer);
    if (cost.generation_skipped > 0)
        append(text, bytes,
               " (tiles skipped inside the kernel are not counted here; the retained "
               "mass counts them)");
}

void wn_summary_check(const wn_run *run, char *text, size_t bytes)
{
    const wn_check *check = run->check;
    const char *slash = strrchr(run->expected, '/');
    snprintf(text, bytes,
             "%s: dense attention against %s, %" PRId64 " rows: greatest output "
             "error %.2g, %.0f%% of its bound (%.2g of the value + %.0e of the greatest |v|); "
             "greatest LSE error %.2g, bound %.0e",
             check->pass ? "PASS" : "FAIL", slash != NULL ? slash + 1 : run->expected, check->rows,
             check->out_error, 100 * check->out_share, check->out_relative, check->out_slack,
             check->lse_error, check->lse_bound);
}

void wn_summary_excess(const wn_run *run, const wn_replay *replay, char *text, size_t bytes)
{
    wn_quality quality =
        wn_quality_measure(replay, run->replays[0], -1, wn_run_first_row(run), run->trace->tokens);
    text[0] = '\0';
    if (quality.greatest_mass > 1.001)
        snprintf(text, bytes,
                 "has up to %.4f of dense attention's mass, which leaving keys out "
                 "cannot give: its keys are not the same (a quantised cache?), or something is "
                 "wrong",
                 quality.greatest_mass);
}

/* ---------------------------------------------------------------- table */

static void skipped_cell(wn_table *table, double share)
{
    if (!(share > 0))
        wn_table_cell(table, "-");
    else
        wn_table_cell(table, "%.1f%%", 100 * share);
}

static void quality_cells(wn_table *table, const wn_quality *quality)
{
    wn_table_cell(table, "%.4f", quality->mass.mean);
    wn_table_cell(table, "%.4f", quality->mass.worst);
    wn_table_cell(table, "%.4f", quality->error.mean);
    wn_table_cell(table, "%.3f", quality->error.worst);
}

/* One row; layer -1: the method as a whole, with its times. */
static void add_row(wn_table *table, const wn_run *run, const wn_replay *replay, int32_t layer)
{
    char bytes[16];
    wn_cost cost = wn_cost_measure(replay, layer);
    wn_quality quality = wn_quality_measure(replay, run->replays[0], layer, wn_run_first_row(run),
                                            run->trace->tokens);
    if (layer < 0) {
        wn_table_cell(table, "%s", replay->name);
        wn_table_cell(table, "%.1f", 1e3 * replay->context_seconds);
        if (replay->steps > 0)
            wn_table_cell(table, "%.3f", 1e3 * replay->generation_seconds / (double)replay->steps);
        else
            wn_table_cell(table, "-");
    } else {
        wn_table_cell(table, "  layer %u", run->trace->layers[layer].number);
        wn_table_cell(table, "%s", "");
        wn_table_cell(table, "%s", "");
    }
    wn_table_cell(table, "%s", wn_bytes_text(cost.kept_bytes, bytes));
    wn_table_cell(table, "%.0f%%", 100 * cost.kept_share);
    wn_table_cell(table, "%s", wn_bytes_text(cost.read_bytes, bytes));
    quality_cells(table, &quality);
    if (!(cost.context_skipped > 0) && !(cost.generation_skipped > 0)) {
        wn_table_cell(table, "-");
        return;
    }
    wn_table skipped;
    wn_table_init(&skipped, 2);
    skipped_cell(&skipped, cost.context_skipped);
    skipped_cell(&skipped, cost.generation_skipped);
    if (!skipped.out_of_memory)
        wn_table_cell(table, "%.10s / %.10s", skipped.cells[0][0], skipped.cells[0][1]);
    wn_table_free(&skipped);
}

/* What the method did to the prompt's own rows, if it did anything there. */
static void add_prompt_row(wn_table *table, const wn_run *run, const wn_replay *replay)
{
    wn_quality quality = wn_quality_measure(replay, run->replays[0], -1, 0, run->trace->context);
    if (replay == run->replays[0] || wn_run_first_row(run) == 0 ||
        (quality.mass.worst > 0.9999 && quality.error.worst < 1e-3))
        return;
    wn_table_cell(table, "  its prompt");
    for (int i = 0; i < 5; i++)
        wn_table_cell(table, "%s", "");
    quality_cells(table, &quality);
    wn_table_cell(table, "%s", "");
}

static void add_head(wn_table *table)
{
    static const char *const head[2][COLUMNS] = {{"", "prefill", "generate", "KV kept", "",
                                                  "read per", "mass", "kept", "output", "error",
                                                  "tiles skipped"},
                                                 {"", "ms", "ms/token", "bytes", "", "token",
                                                  "mean", "least", "mean", "worst", "ctx / gen"}};
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < COLUMNS; column++)
            wn_table_cell(table, "%s", head[row][column]);
}

static void print_table(const wn_run *run, FILE *to)
{
    wn_table table;
    wn_table_init(&table, COLUMNS);
    add_head(&table);
    for (uint32_t i = 0; i < run->count; i++) {
        add_row(&table, run, run->replays[i], -1);
        add_prompt_row(&table, run, run->replays[i]);
        for (uint32_t l = 0; run->by_layer && l < run->trace->num_layers; l++)
            add_row(&table, run, run->replays[i], (int32_t)l);
    }
    wn_table_print(&table, 2, to);
    wn_table_free(&table);
}

/* ---------------------------------------------------------------- the oracle's table */

wn_oracle wn_run_oracle(const wn_run *run, uint32_t replay, int32_t layer, uint32_t phase)
{
    wn_oracle all = {0};
    for (uint32_t l = 0; l < run->trace->num_layers; l++)
        if (layer < 0 || (uint32_t)layer == l)
            wn_oracle_merge(
                &all,
                &run->oracles[(replay * run->trace->num_layers + l) * WN_PHASE_COUNT + phase]);
    return all;
}

static void add_oracle_row(wn_table *table, const char *name, const wn_oracle *oracle)
{
    if (oracle->sets == 0)
        return;
    wn_table_cell(table, "%s", name);
    wn_table_cell(table, "%.1f", oracle->tokens);
    wn_table_cell(table, "%.4f", oracle->mass.mean);
    wn_table_cell(table, "%.4f", oracle->mass.worst);
    wn_table_cell(table, "%.4f", oracle->best.mean);
    wn_table_cell(table, "%.4f", oracle->best.worst);
    wn_table_cell(table, "%.4f", oracle->ratio.mean);
    wn_table_cell(table, "%.4f", oracle->ratio.worst);
}

static void add_oracle_rows(wn_table *table, const wn_run *run, uint32_t replay)
{
    char name[32];
    wn_oracle generated = wn_run_oracle(run, replay, -1, WN_PHASE_GENERATION);
    wn_oracle prompt = wn_run_oracle(run, replay, -1, WN_PHASE_CONTEXT);
    add_oracle_row(table, run->replays[replay]->name, &generated);
    add_oracle_row(table, generated.sets > 0 ? "  its prompt" : run->replays[replay]->name,
                   &prompt);
    for (uint32_t l = 0; run->by_layer && l < run->trace->num_layers; l++) {
        snprintf(name, sizeof name, "  layer %u", run->trace->layers[l].number);
        generated = wn_run_oracle(run, replay, (int32_t)l, WN_PHASE_GENERATION);
        add_oracle_row(table, name, &generated);
    }
}

static void print_oracle(const wn_run *run, FILE *to)
{
    static const char *const head[2][8] = {
        {"", "tokens", "mass", "kept", "oracle", "", "ratio", ""},
        {"", "mean", "mean", "least", "mean", "least", "mean", "least"}};
    wn_table table;
    wn_table_init(&table, 8);
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 8; column++)
            wn_table_cell(&table, "%s", head[row][column]);
    for (uint32_t i = 1; i < run->count; i++)
        add_oracle_rows(&table, run, i);
    fprintf(to,
            "\nBeside the oracle, which takes as many tokens, those with the most mass, per row "
            "and set of heads:\n");
    wn_table_print(&table, 2, to);
    wn_table_free(&table);
}

/* A name, and words beside it, wrapped. */
static void print_wrapped(const char *label, const char *text, FILE *to)
{
    enum { INDENT = 16, WIDTH = 96 };
    int at = fprintf(to, "  %-13s", label);
    for (int first = 1; *text != '\0'; first = 0) {
        int length = (int)strcspn(text, " ");
        if (!first && at + 1 + length > WIDTH)
            at = fprintf(to, "\n%*s", INDENT - 1, "") - 1;
        at += fprintf(to, " %.*s", length, text);
        text += length + (text[length] == ' ');
    }
    fputc('\n', to);
}

void wn_summary_print(const wn_run *run, FILE *to)
{
    char text[TEXT];
    wn_summary_trace(run->trace, text, sizeof text);
    fprintf(to, "%s\n\n", text);
    print_table(run, to);
    fprintf(to,
            "\nMass kept and output error are of the %s rows, against dense, per row and head.\n",
            wn_run_first_row(run) > 0 ? "generated" : "prompt's");
    fprintf(to, "\nWhere the time went, all layers together:\n");
    wn_step_time_print(run->replays, run->count, to);
    for (uint32_t i = 1; i < run->count; i++) {
        wn_step_time_verdict(run->replays[i], run->replays[0], text, sizeof text);
        if (*text != '\0')
            print_wrapped(run->replays[i]->name, text, to);
    }
    if (run->oracles != NULL && run->count > 1)
        print_oracle(run, to);
    if (run->count > 1)
        fprintf(to, "\nWhere each method lost most:\n");
    for (uint32_t i = 1; i < run->count; i++) {
        wn_summary_loss(run, run->replays[i], -1, text, sizeof text);
        print_wrapped(run->replays[i]->name, text, to);
        wn_summary_excess(run, run->replays[i], text, sizeof text);
        if (*text != '\0')
            print_wrapped("", text, to);
    }
    if (run->fact != NULL) {
        wn_summary_readers(run, text, sizeof text);
        fprintf(to, "\nDid it keep the fact?\n");
        print_wrapped("(the fact)", text, to);
        for (uint32_t i = 1; i < run->count && run->fact->num_readers > 0; i++) {
            wn_summary_fact(run, run->replays[i], -1, text, sizeof text);
            print_wrapped(run->replays[i]->name, text, to);
        }
    }
    if (run->check != NULL) {
        wn_summary_check(run, text, sizeof text);
        fprintf(to, "\n%s\n", text);
    }
}
