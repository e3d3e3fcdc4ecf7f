/* run.c: `winnow run`: one trace, dense attention and each configuration, side by side. */
#include "tools/command.h"
#include "tools/found_config.h"
#include "tools/found_plugins.h"
#include "tools/layer_needs.h"
#include "tools/report.h"
#include "tools/save.h"
#include "tools/summary.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ERROR_BYTES = 16384, MAX_LAYERS = 4096 };

typedef struct run_options {
    const char *trace, *report, *save, *expect, *plugin_path;
    wn_texts layers;
    int64_t chunk;
    int32_t by_layer, json, oracle;
} run_options;

static const wn_option rows[] = {
    {"trace", 't', "FILE", WN_OPTION_TEXT, offsetof(run_options, trace), 0, 0,
     "the recorded queries, keys and values (safetensors, see tools/README.md); required"},
    {"report", 'r', "FILE", WN_OPTION_TEXT, offsetof(run_options, report), 0, 0,
     "write an HTML page with pictures: what was kept, where attention looked"},
    {"save", 's', "FILE", WN_OPTION_TEXT, offsetof(run_options, save), 0, 0,
     "write outputs, LSE and choices of every method as safetensors"},
    {"expect", 'e', "FILE", WN_OPTION_TEXT, offsetof(run_options, expect), 0, 0,
     "compare dense attention with this file; by default TRACE.expected.safetensors, if it is "
     "there"},
    {"layer", 'l', "N", WN_OPTION_LIST, offsetof(run_options, layers), 0, 0,
     "only this layer of the trace; may be given several times"},
    {"chunk", 'c', "N", WN_OPTION_INT, offsetof(run_options, chunk), 1, 1 << 24,
     "prefill the prompt N tokens at a time instead of at once"},
    {"by-layer", 'b', NULL, WN_OPTION_FLAG, offsetof(run_options, by_layer), 0, 0,
     "a row for each layer in the table"},
    {"oracle", 'o', NULL, WN_OPTION_FLAG, offsetof(run_options, oracle), 0, 0,
     "beside each method, the best choice of as many tokens: how much mass it would keep"},
    {"json", 'j', NULL, WN_OPTION_FLAG, offsetof(run_options, json), 0, 0,
     "print all figures as JSON instead of the table"},
    {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, offsetof(run_options, plugin_path), 0, 0,
     "directories searched for plugins first, separated by ':'"},
    {0}};

const wn_usage wn_usage_run = {
    "run",
    "CONFIG... --trace FILE",
    "Puts a trace of a real model through an engine, prompt first and then token by token: once "
    "with dense attention, once with each CONFIG. Prints what each took and what it cost in "
    "accuracy: time, KV cache kept, bytes read, attention mass kept, output "
    "error.\n\n" WN_CONFIG_HELP
    " If one needs inputs that the trace has for some of its layers only, all of them run on those "
    "layers alone, and a note says so.\n\n"
    "Exit status: 0 fine; 1 dense attention disagrees with the expectation, so something is wrong; "
    "2 wrong usage; 3 could not run.\n\n"
    "    winnow run examples/rocket.yaml --trace sample.safetensors --report out.html",
    rows,
    1,
    -1};

/* Everything a run holds. */
typedef struct session {
    run_options options;
    wn_trace *trace;
    wn_expected *expected;
    char *expected_path;
    wn_registry *registry;
    wn_config **configs; /* [num_configs] */
    uint32_t num_configs;
    wn_oracle *oracles;
    wn_fact *fact;
    wn_check check;
    wn_run run;
    char error_text[ERROR_BYTES];
    wn_error error;
} session;

static int failed(const session *s)
{
    if (s->error_text[0] != '\0') /* else whoever failed has said it */
        fprintf(stderr, "winnow run: %s\n", s->error_text);
    return WN_EXIT_FAILED;
}

/* ---------------------------------------------------------------- inputs */

static int parse_layers(const wn_texts *texts, int64_t *numbers)
{
    if (texts->count > MAX_LAYERS)
        return wn_usage_error(&wn_usage_run, "--layer is given too often");
    for (uint32_t i = 0; i < texts->count; i++) {
        char *end;
        numbers[i] = strtol(texts->items[i], &end, 10);
        if (end == texts->items[i] || *end != '\0' || numbers[i] < 0)
            return wn_usage_error(&wn_usage_run, "--layer wants a layer's number, not \"%s\"",
                                  texts->items[i]);
    }
    return WN_OPTIONS_GO_ON;
}

/* NAME.expected.safetensors for NAME.safetensors; freed by the caller. */
static char *expected_beside(const char *trace)
{
    static const char ending[] = ".safetensors";
    size_t length = strlen(trace), stem = length;
    if (length > sizeof ending && strcmp(trace + length - (sizeof ending - 1), ending) == 0)
        stem = length - (sizeof ending - 1);
    char *path = malloc(length + 32);
    if (path != NULL)
        snprintf(path, length + 32, "%.*s.expected%s", (int)stem, trace, ending);
    return path;
}

static wn_status open_expected(session *s)
{
    const char *asked = s->options.expect;
    s->expected_path = asked != NULL ? strdup(asked) : expected_beside(s->options.trace);
    if (s->expected_path == NULL)
        return wn_fail(&s->error, WN_ENOMEM, "no memory");
    if (asked == NULL && access(s->expected_path, F_OK) != 0)
        return WN_OK;
    return wn_expected_open(s->expected_path, s->trace, &s->expected, &s->error);
}

static wn_status open_registry(session *s)
{
    s->registry = wn_found_plugins("run", s->options.plugin_path);
    return s->registry != NULL ? WN_OK : WN_EIO; /* it has said why */
}

static wn_status open_configs(session *s, char **paths, uint32_t count)
{
    s->configs = calloc(count, sizeof *s->configs);
    if (s->configs == NULL)
        return wn_fail(&s->error, WN_ENOMEM, "no memory");
    for (; s->num_configs < count; s->num_configs++) {
        wn_config **config = &s->configs[s->num_configs];
        wn_status status = wn_found_config(paths[s->num_configs], config, &s->error);
        if (status != WN_OK)
            return status;
        if (*wn_config_notes(*config) != '\0')
            fprintf(stderr, "%s\n", wn_config_notes(*config));
    }
    return WN_OK;
}

/* "0, 7" for the layers that are marked. */
static void list_layers(const wn_trace *trace, const uint8_t *marked, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < trace->num_layers && used < bytes; i++)
        if (marked[i])
            used += (size_t)snprintf(text + used, bytes - used, "%s%u", used > 0 ? ", " : "",
                                     trace->layers[i].number);
}

/* Figures side by side should be of the same layers: those on which all configurations can run. */
static wn_status choose_layers(session *s, char **paths)
{
    enum { WHY = 512, LAYERS = 256 };
    wn_trace *trace = s->trace;
    char why[WHY], layers[LAYERS], blamed[WHY] = "";
    const char *path = NULL;
    uint8_t *lacks = calloc(trace->num_layers, 1);
    uint32_t dropped = 0;
    if (lacks == NULL)
        return wn_fail(&s->error, WN_ENOMEM, "no memory");
    for (uint32_t i = 0; i < s->num_configs; i++)
        if (wn_layer_needs(s->registry, s->configs[i], trace, lacks, why, sizeof why) > 0 &&
            path == NULL) {
            path = paths[i];
            memcpy(blamed, why, sizeof blamed);
        }
    for (uint32_t i = 0; i < trace->num_layers; i++)
        dropped += lacks[i];
    wn_status status = WN_OK;
    list_layers(trace, lacks, layers, sizeof layers);
    if (dropped == trace->num_layers)
        status =
            wn_fail(&s->error, WN_ENOTFOUND, "%s: no layer has all inputs that are needed; %s: %s",
                    trace->path, path, blamed);
    else if (dropped > 0) {
        fprintf(stderr,
                "note: layers %s are left out of the run: the trace lacks there what %s "
                "needs: %s\n",
                layers, path, blamed);
        wn_trace_drop(trace, lacks);
    }
    free(lacks);
    return status;
}

static wn_status open_inputs(session *s, const int64_t *layers, char **paths, uint32_t count)
{
    wn_status status =
        wn_trace_open(s->options.trace, layers, s->options.layers.count, &s->trace, &s->error);
    if (status == WN_OK)
        status = open_registry(s);
    if (status == WN_OK)
        status = open_configs(s, paths, count);
    if (status == WN_OK)
        status = choose_layers(s, paths);
    if (status == WN_OK)
        status = open_expected(s);
    return status == WN_OK ? wn_fact_find(s->trace, &s->fact, &s->error) : status;
}

/* ---------------------------------------------------------------- replays */

/* "rocket" for "examples/rocket.yaml"; made unlike the earlier names by a number. */
static void name_of(const session *s, const char *path, char name[64])
{
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    int stem = dot != NULL && dot != base ? (int)(dot - base) : (int)strlen(base);
    snprintf(name, 56, "%.*s", stem, base);
    size_t length = strlen(name);
    for (uint32_t i = 0, number = 2; i < s->run.count; i++)
        if (strcmp(s->run.replays[i]->name, name) == 0) {
            snprintf(name + length, 64 - length, "-%u", number++);
            i = UINT32_MAX; /* look through all of them again */
        }
}

static wn_status replay(session *s, const wn_config *config, const char *name)
{
    wn_replay_options options = {.chunk = s->options.chunk,
                                 .keep_prompt_choices =
                                     s->options.save != NULL || s->options.oracle};
    wn_status status = wn_replay_run(s->registry, config, name, s->trace, &options,
                                     &s->run.replays[s->run.count], &s->error);
    if (status == WN_OK)
        s->run.count++;
    return status;
}

static wn_status replay_dense(session *s)
{
    static const char text[] = "sparse_attention_config:\n  algorithm: dense\n";
    wn_config *config;
    wn_status status = wn_config_parse(text, sizeof text - 1, "dense", &config);
    if (status != WN_OK)
        return wn_fail(&s->error, status, "%s", wn_error_text());
    status = replay(s, config, "dense");
    wn_config_free(config);
    return status;
}

static wn_status replay_all(session *s, char **paths)
{
    s->run.replays = calloc(s->num_configs + 1, sizeof *s->run.replays);
    if (s->run.replays == NULL)
        return wn_fail(&s->error, WN_ENOMEM, "no memory");
    wn_status status = replay_dense(s);
    for (uint32_t i = 0; i < s->num_configs && status == WN_OK; i++) {
        char name[64];
        name_of(s, paths[i], name);
        status = replay(s, s->configs[i], name);
    }
    if (status == WN_OK && s->options.oracle)
        status = wn_oracle_measure(s->trace, s->run.replays, s->run.count, &s->oracles, &s->error);
    return status;
}

/* ---------------------------------------------------------------- outputs */

static wn_status write_outputs(session *s)
{
    const run_options *options = &s->options;
    wn_status status = WN_OK;
    s->run.trace = s->trace;
    s->run.fact = s->fact;
    s->run.by_layer = (uint32_t)options->by_layer;
    s->run.oracles = s->oracles;
    if (s->expected != NULL) {
        s->check = wn_check_dense(s->run.replays[0], s->expected);
        s->run.check = s->check.rows > 0 ? &s->check : NULL;
        s->run.expected = s->expected_path;
    }
    if (options->save != NULL)
        status = wn_save_replays(options->save, s->trace, s->run.replays, s->run.count, &s->error);
    if (status == WN_OK && options->report != NULL)
        status = wn_report_write(options->report, &s->run, &s->error);
    if (status != WN_OK)
        return status;
    if (options->json) {
        status = wn_summary_print_json(&s->run, stdout);
        return status == WN_OK ? WN_OK : wn_fail(&s->error, status, "stdout cannot be written");
    }
    wn_summary_print(&s->run, stdout);
    if (options->save != NULL)
        printf("\nOutputs and choices are in %s\n", options->save);
    if (options->report != NULL)
        printf("\nPictures are in %s\n", options->report);
    return WN_OK;
}

static void close_session(session *s)
{
    for (uint32_t i = 0; i < s->run.count; i++)
        wn_replay_free(s->run.replays[i]);
    free(s->run.replays);
    free(s->oracles);
    for (uint32_t i = 0; i < s->num_configs; i++)
        wn_config_free(s->configs[i]);
    free(s->configs);
    wn_fact_free(s->fact);
    wn_expected_close(s->expected);
    free(s->expected_path);
    wn_registry_close(s->registry);
    wn_trace_close(s->trace);
    wn_texts_free(&s->options.layers);
}

static int run_session(session *s, int argc, char **argv)
{
    int64_t layers[MAX_LAYERS];
    int code = wn_options_parse(&wn_usage_run, argc, argv, &s->options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    if (s->options.trace == NULL)
        return wn_usage_error(&wn_usage_run, "--trace FILE is missing");
    code = parse_layers(&s->options.layers, layers);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    if (open_inputs(s, layers, argv + optind, (uint32_t)(argc - optind)) != WN_OK)
        return failed(s);
    if (replay_all(s, argv + optind) != WN_OK)
        return failed(s);
    if (write_outputs(s) != WN_OK)
        return failed(s);
    return s->run.check != NULL && !s->check.pass ? WN_EXIT_FINDINGS : WN_EXIT_FINE;
}

int wn_command_run(int argc, char **argv)
{
    session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        fputs("winnow run: no memory\n", stderr);
        return WN_EXIT_FAILED;
    }
    s->error = (wn_error){WN_SIZEOF(wn_error), ERROR_BYTES, s->error_text};
    int code = run_session(s, argc, argv);
    close_session(s);
    free(s);
    return code;
}
