/* bench.c: `winnow bench`: how fast the kernels and whole steps are here, beside what the machine
 * can do at best, the reference and PyTorch. */
#include "tools/bench_measure.h"
#include "tools/bench_report.h"
#include "tools/bench_steps.h"
#include "tools/bench_threads.h"
#include "tools/command.h"
#include "tools/found_plugins.h"
#include "tools/progress.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

enum { ERROR_BYTES = 2048, MOST_ROWS = 256, QUICK_SAMPLES = 3 };

typedef struct bench_options {
    const char *op, *shape, *variant, *match, *lengths, *plugin_path;
    int64_t threads, samples, longest, prompt_seconds;
    int32_t steps, break_even, json, markdown, quick, no_peer, no_ref, list;
} bench_options;

static const wn_option rows[] = {
    {"op", 'o', "NAME", WN_OPTION_TEXT, offsetof(bench_options, op), 0, 0,
     "only rows of this op (--list shows them)"},
    {"shape", 's', "WORDS", WN_OPTION_TEXT, offsetof(bench_options, shape), 0, 0,
     "sizes over the op's own, such as length=128k,kv_heads=4,dtype=int8; with --steps "
     "heads, kv_heads, head_dim, batch, page, dtype"},
    {"variant", 'v', "NAME", WN_OPTION_TEXT, offsetof(bench_options, variant), 0, 0,
     "these kernels instead of the best; all: a row for each variant that has the op"},
    {"threads", 't', "N", WN_OPTION_INT, offsetof(bench_options, threads), 1, 1024,
     "threads; default: as many as there are processors"},
    {"samples", 'n', "N", WN_OPTION_INT, offsetof(bench_options, samples), 1, 1000,
     "samples of a row; default 20, fewer where one takes more than half a second"},
    {"match", 'm', "TEXT", WN_OPTION_TEXT, offsetof(bench_options, match), 0, 0,
     "only rows with this in their name"},
    {"list", 'l', NULL, WN_OPTION_FLAG, offsetof(bench_options, list), 0, 0,
     "list ops and their shapes, variants and the rows of standard, and measure nothing"},
    {"steps", 0, NULL, WN_OPTION_FLAG, offsetof(bench_options, steps), 0, 0,
     "whole generation steps of dense attention and each CONFIG, by part"},
    {"break-even", 0, NULL, WN_OPTION_FLAG, offsetof(bench_options, break_even), 0, 0,
     "the length from which each CONFIG's step beats dense attention's, for 1, 4 and 16 requests"},
    {"lengths", 0, "LIST", WN_OPTION_TEXT, offsetof(bench_options, lengths), 0, 0,
     "with --steps: lengths of the cache; default 4k,8k,16k,32k,64k,128k"},
    {"longest", 0, "N", WN_OPTION_INT, offsetof(bench_options, longest), 64, 1 << 24,
     "with --break-even: where the search ends; default 32768"},
    {"prompt-seconds", 0, "N", WN_OPTION_INT, offsetof(bench_options, prompt_seconds), 1, 1 << 20,
     "with --steps, --break-even: leave out what needs longer to read its prompt; default 300"},
    {"quick", 'q', NULL, WN_OPTION_FLAG, offsetof(bench_options, quick), 0, 0,
     "few samples of small shapes, no peer: to see that it works, not how fast it is"},
    {"no-peer", 0, NULL, WN_OPTION_FLAG, offsetof(bench_options, no_peer), 0, 0,
     "do not look for PyTorch"},
    {"no-ref", 0, NULL, WN_OPTION_FLAG, offsetof(bench_options, no_ref), 0, 0,
     "do not time the reference"},
    {"json", 'j', NULL, WN_OPTION_FLAG, offsetof(bench_options, json), 0, 0, "print JSON"},
    {"markdown", 0, NULL, WN_OPTION_FLAG, offsetof(bench_options, markdown), 0, 0,
     "print Markdown"},
    {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, offsetof(bench_options, plugin_path), 0, 0,
     WN_PLUGIN_PATH_HELP},
    {0}};

const wn_usage wn_usage_bench = {
    "bench",
    "[standard | --steps [CONFIG...] | --break-even CONFIG...]",
    "Times every op once, or, with standard, the shapes whose figures are published. Each sample "
    "of a "
    "kernel has one of the machine's roofs beside it (reading memory, reading the last cache, "
    "multiplying and adding), and share is of the nearer one. x ref, x torch and x base say how "
    "many "
    "times longer the reference takes, PyTorch's fastest form, and what the row is compared with: "
    "dense "
    "attention on the same data for skip softmax, the 16-bit cache for a quantised one.\n\n"
    "PyTorch is used if python3 finds it; WINNOW_PYTHON names another interpreter.\n\n"
    "    winnow bench --op generation --shape length=128k,kv_heads=4 --variant all\n"
    "    winnow bench standard --match context --threads 2",
    rows,
    0,
    -1};

typedef struct session {
    bench_options options;
    wn_bench bench;
    wn_bench_result results[MOST_ROWS];
    uint32_t count;
    wn_progress progress;
    wn_error error;
    char error_text[ERROR_BYTES];
} session;

/* ---------------------------------------------------------------- what is asked for */

static int form_of(const bench_options *options)
{
    return options->json       ? WN_REPORT_JSON
           : options->markdown ? WN_REPORT_MARKDOWN
                               : WN_REPORT_TABLE;
}

static void print_list(void)
{
    printf("ops and their shapes\n");
    const wn_bench_op *op;
    for (uint32_t i = 0; (op = wn_bench_op_at(i)) != NULL; i++)
        printf("  %-16s %s\n", op->name, op->defaults);
    printf("variants\n");
    const char *name;
    for (uint32_t i = 0; (name = wn_cpu_variant_name(i)) != NULL; i++)
        printf("  %s%s\n", name, wn_cpu_variant_ops(name) != NULL ? "" : " (not on this machine)");
    printf("standard\n");
    for (const wn_bench_row *row = wn_bench_standard; row->name != NULL; row++)
        printf("  %-36s %s %s\n", row->name, row->op, row->shape);
}

/* ", "-separated names into text. */
static void add_name(char *text, size_t bytes, const char *name)
{
    size_t used = strlen(text);
    snprintf(text + used, bytes - used, "%s%s", used > 0 ? ", " : "", name);
}

static int check_op(const char *name)
{
    char known[512] = "";
    const wn_bench_op *op;
    if (name == NULL || wn_bench_op_find(name) != NULL)
        return WN_OPTIONS_GO_ON;
    for (uint32_t i = 0; (op = wn_bench_op_at(i)) != NULL; i++)
        add_name(known, sizeof known, op->name);
    return wn_usage_error(&wn_usage_bench, "there is no op \"%s\"; there are %s", name, known);
}

static int check_variant(const char *variant)
{
    char known[256] = "all";
    const char *name;
    if (variant == NULL || strcmp(variant, "all") == 0 || wn_cpu_variant_ops(variant) != NULL)
        return WN_OPTIONS_GO_ON;
    for (uint32_t i = 0; (name = wn_cpu_variant_name(i)) != NULL; i++)
        if (wn_cpu_variant_ops(name) != NULL)
            add_name(known, sizeof known, name);
        else if (strcmp(name, variant) == 0)
            return wn_usage_error(&wn_usage_bench,
                                  "this machine has no %s: its processor lacks the instructions",
                                  variant);
    return wn_usage_error(&wn_usage_bench, "there is no variant \"%s\"; there are %s", variant,
                          known);
}

static int check_shape(session *s)
{
    const bench_options *o = &s->options;
    wn_bench_shape shape;
    if (o->shape == NULL || o->steps || o->break_even)
        return WN_OPTIONS_GO_ON;
    if (o->op == NULL)
        return wn_usage_error(&wn_usage_bench, "--shape needs --op: every op has its own sizes");
    if (wn_bench_shape_read(o->op, wn_bench_op_find(o->op)->defaults, o->shape, &shape,
                            &s->error) != WN_OK)
        return wn_usage_error(&wn_usage_bench, "%s", s->error_text);
    return WN_OPTIONS_GO_ON;
}

static int check_command_line(session *s, int arguments, char **argument)
{
    const bench_options *o = &s->options;
    int standard = arguments > 0 && strcmp(argument[0], "standard") == 0;
    if (o->steps && o->break_even)
        return wn_usage_error(&wn_usage_bench, "--steps and --break-even are two runs");
    if (o->json && o->markdown)
        return wn_usage_error(&wn_usage_bench, "--json and --markdown are two forms");
    if (o->break_even && arguments == 0)
        return wn_usage_error(&wn_usage_bench, "--break-even wants a CONFIG");
    if (!o->steps && !o->break_even && arguments > standard)
        return wn_usage_error(&wn_usage_bench, "unexpected \"%s\": expected standard or nothing",
                              argument[standard]);
    if (standard && o->shape != NULL)
        return wn_usage_error(&wn_usage_bench, "standard has shapes of its own: leave --shape out");
    int code = check_op(o->op);
    if (code == WN_OPTIONS_GO_ON)
        code = check_variant(o->variant);
    return code == WN_OPTIONS_GO_ON ? check_shape(s) : code;
}

/* ---------------------------------------------------------------- rows */

static int wanted(const session *s, const wn_bench_row *row)
{
    return (s->options.op == NULL || strcmp(s->options.op, row->op) == 0) &&
           (s->options.match == NULL || strstr(row->name, s->options.match) != NULL);
}

static wn_status measure(session *s, const wn_bench_row *row, const char *variant)
{
    if (s->count == MOST_ROWS)
        return wn_fail(&s->error, WN_ERANGE, "more than %d rows", MOST_ROWS);
    wn_status status = wn_bench_measure(&s->bench, row, variant, &s->results[s->count], &s->error);
    s->count += status == WN_OK;
    return status;
}

/* One row, or one for each variant with a kernel of its own. */
static wn_status measure_row(session *s, const wn_bench_row *row)
{
    const char *variant = s->options.variant, *name;
    uint32_t before = s->count;
    if (variant == NULL || strcmp(variant, "all") != 0)
        return measure(s, row, variant);
    wn_status status = WN_OK;
    for (uint32_t i = 1; (name = wn_cpu_variant_name(i)) != NULL && status == WN_OK; i++) {
        const char *of = wn_cpu_variant_of_op(name, row->op);
        if (of != NULL && strcmp(of, name) == 0)
            status = measure(s, row, name);
    }
    if (status == WN_OK && s->count == before)
        status = measure(s, row, "ref");
    return status;
}

static wn_status measure_ops(session *s)
{
    const wn_bench_op *op;
    wn_status status = WN_OK;
    for (uint32_t i = 0; (op = wn_bench_op_at(i)) != NULL && status == WN_OK; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s%s%s", op->name, s->options.shape != NULL ? " " : "",
                 s->options.shape != NULL ? s->options.shape : "");
        wn_bench_row row = {name, op->name, s->options.shape, 0, NULL};
        if (wanted(s, &row))
            status = measure_row(s, &row);
        wn_progress_show(&s->progress, i + 1);
    }
    return status;
}

/* The step of a whole method beside dense generation, through an engine. */
static wn_status measure_method(session *s)
{
    static const char yaml[] = "sparse_attention_config:\n  algorithm: rocket\n"
                               "  prompt_budget: 2048\n  topk: 64\n";
    wn_bench_row row = {"rocket step, 32 Ki", "step", NULL, 0, NULL};
    if (!wanted(s, &row) || s->options.variant != NULL)
        return WN_OK;
    wn_status status = wn_bench_step_row(&s->bench, row.name, yaml, s->options.quick ? 4096 : 32768,
                                         s->options.plugin_path, &s->results[s->count], &s->error);
    s->count += status == WN_OK;
    return status;
}

static wn_status measure_standard(session *s)
{
    wn_status status = WN_OK;
    for (const wn_bench_row *row = wn_bench_standard; row->name != NULL && status == WN_OK; row++) {
        if (wanted(s, row))
            status = measure_row(s, row);
        wn_progress_show(&s->progress, row - wn_bench_standard + 1);
    }
    return status == WN_OK ? measure_method(s) : status;
}

/* ---------------------------------------------------------------- the command */

static int run_steps(session *s, char **configs, int num_configs)
{
    const bench_options *o = &s->options;
    wn_steps_options options = {.configs = configs,
                                .num_configs = (uint32_t)num_configs,
                                .shape = o->shape,
                                .lengths = o->lengths,
                                .plugin_path = o->plugin_path,
                                .form = form_of(o),
                                .longest = o->longest,
                                .prompt_seconds = (double)o->prompt_seconds};
    return o->steps ? wn_bench_steps(&s->bench, &options)
                    : wn_bench_break_even(&s->bench, &options);
}

static int run_rows(session *s, int standard)
{
    wn_progress_begin(&s->progress, "measuring", 20);
    wn_status status = standard ? measure_standard(s) : measure_ops(s);
    wn_progress_end(&s->progress);
    if (status != WN_OK) {
        fprintf(stderr, "winnow bench: %s\n", s->error_text);
        return WN_EXIT_FAILED;
    }
    if (s->count == 0)
        return wn_usage_error(&wn_usage_bench, "no row is called that; --list shows all");
    wn_bench_report report = {&s->bench, s->results, s->count};
    wn_bench_report_print(&report, form_of(&s->options), stdout);
    return WN_EXIT_FINE;
}

static int open_bench(session *s)
{
    const bench_options *o = &s->options;
    s->bench.quick = o->quick;
    s->bench.threads = o->threads > 0 ? (uint32_t)o->threads : wn_bench_processors();
    s->bench.samples = o->samples > 0 ? (uint32_t)o->samples : o->quick ? QUICK_SAMPLES : 20;
    s->bench.ref = o->no_ref ? NULL : wn_cpu_variant_ops("ref");
    s->bench.roofs = wn_roofs_open(o->quick);
    if (s->bench.roofs == NULL) {
        fputs("winnow bench: no memory\n", stderr);
        return WN_EXIT_FAILED;
    }
    if (!o->quick && !o->no_peer && !o->steps && !o->break_even)
        s->bench.peer = wn_peer_open();
    return WN_OPTIONS_GO_ON;
}

static int run_session(session *s, int argc, char **argv)
{
    s->options.longest = 32768;
    s->options.prompt_seconds = 300;
    int code = wn_options_parse(&wn_usage_bench, argc, argv, &s->options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    int arguments = argc - optind;
    char **argument = argv + optind;
    code = check_command_line(s, arguments, argument);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    if (s->options.list) {
        print_list();
        return WN_EXIT_FINE;
    }
    code = open_bench(s);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    if (s->options.steps || s->options.break_even)
        return run_steps(s, argument, arguments);
    return run_rows(s, arguments > 0);
}

int wn_command_bench(int argc, char **argv)
{
    session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        fputs("winnow bench: no memory\n", stderr);
        return WN_EXIT_FAILED;
    }
    s->error = (wn_error){WN_SIZEOF(wn_error), ERROR_BYTES, s->error_text};
    int code = run_session(s, argc, argv);
    wn_peer_close(s->bench.peer);
    wn_roofs_close(s->bench.roofs);
    free(s);
    return code;
}
