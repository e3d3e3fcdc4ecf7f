/* validate.c: `winnow validate`: runs the tests of every level on a plugin, each in a process of
 * its own, and reports. This process never loads the plugin. */
#include "tools/validate.h"

#include "tools/command.h"
#include "tools/validate_child.h"
#include "tools/validate_report.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const wn_trial_level levels[] = {
    {"static", wn_static_tests},
    {"contract", wn_contract_tests},
    {"behaviour", wn_behaviour_tests},
};
enum { NUM_LEVELS = sizeof levels / sizeof levels[0] };

typedef struct validate_options {
    wn_texts tests, excluded;
    int64_t seed, timeout;
    const char *format;
    int32_t list;
} validate_options;

#define AT(field) offsetof(validate_options, field)

static const wn_option rows[] = {
    {"test", 't', "PATTERN", WN_OPTION_LIST, AT(tests), 0, 0,
     "only tests whose name, level or level/name matches, as the shell matches file names"},
    {"exclude", 'x', "PATTERN", WN_OPTION_LIST, AT(excluded), 0, 0, "not the tests that match"},
    {"seed", 's', "N", WN_OPTION_INT, AT(seed), 0, INT64_MAX, "seed of the random data [1]"},
    {"timeout", 0, "SECONDS", WN_OPTION_INT, AT(timeout), 1, 86400,
     "wall time that one test may take [60]"},
    {"format", 'f', "FORMAT", WN_OPTION_TEXT, AT(format), 0, 0, "human, json or junit [human]"},
    {"list", 'l', NULL, WN_OPTION_FLAG, AT(list), 0, 0,
     "print the tests, their rules and what they check, and stop"},
    {0}};

const wn_usage wn_usage_validate = {
    "validate",
    "PLUGIN.so",
    "Checks a plugin against the contract: its file without running any of its code, its functions "
    "one by one, and its behaviour in an engine.\n\n"
    "Each test runs in a process of its own, so that a plugin which crashes, hangs or exits fails "
    "one test and stops nothing. A test that does not apply is skipped, and a skipped test has not "
    "passed.\n\n"
    "Exit status: 0 nothing failed, 1 something did, 2 wrong usage, 3 could not run.",
    rows,
    0,
    1};

static int matches(const wn_texts *patterns, const char *level, const char *name)
{
    char both[128];
    snprintf(both, sizeof both, "%s/%s", level, name);
    for (uint32_t i = 0; i < patterns->count; i++)
        if (fnmatch(patterns->items[i], name, 0) == 0 ||
            fnmatch(patterns->items[i], level, 0) == 0 || fnmatch(patterns->items[i], both, 0) == 0)
            return 1;
    return 0;
}

static int chosen(const validate_options *options, const char *level, const char *name)
{
    return (options->tests.count == 0 || matches(&options->tests, level, name)) &&
           !matches(&options->excluded, level, name);
}

static int list_tests(const validate_options *options)
{
    for (int l = 0; l < NUM_LEVELS; l++)
        for (const wn_trial_test *test = levels[l].tests; test->name != NULL; test++)
            if (chosen(options, levels[l].name, test->name))
                printf("%-9s  %-8s  %-30s %s\n", levels[l].name, test->rule, test->name,
                       test->what);
    return WN_EXIT_FINE;
}

static const wn_trial_test *find_test(const char *name)
{
    for (int l = 0; l < NUM_LEVELS; l++)
        for (const wn_trial_test *test = levels[l].tests; test->name != NULL; test++)
            if (strcmp(test->name, name) == 0)
                return test;
    return NULL;
}

static int run_tests(const validate_options *options, const char *plugin, wn_report *report)
{
    for (int l = 0; l < NUM_LEVELS; l++)
        for (const wn_trial_test *test = levels[l].tests; test->name != NULL; test++) {
            wn_child_result result;
            if (!chosen(options, levels[l].name, test->name))
                continue;
            wn_child_run(test, plugin, (uint64_t)options->seed, (int)options->timeout, &result);
            if (result.ending == WN_NOT_STARTED) {
                fprintf(stderr, "winnow validate: %s\n", result.text);
                return WN_EXIT_FAILED;
            }
            wn_report_add(report, levels[l].name, test, &result);
        }
    return WN_EXIT_FINE;
}

static int validate(const validate_options *options, const char *argument)
{
    wn_report report;
    char *plugin = realpath(argument, NULL);
    if (plugin == NULL || access(plugin, R_OK) != 0) {
        fprintf(stderr, "winnow validate: %s: no such file, or it cannot be read\n", argument);
        free(plugin);
        return WN_EXIT_FAILED;
    }
    wn_report_open(&report, options->format, plugin, (uint64_t)options->seed);
    int code = run_tests(options, plugin, &report);
    if (code == WN_EXIT_FINE && report.passed + report.failed + report.skipped == 0)
        code = wn_usage_error(&wn_usage_validate, "no test matches");
    else if (code == WN_EXIT_FINE)
        code = report.failed > 0 ? WN_EXIT_FINDINGS : WN_EXIT_FINE;
    wn_report_close(&report);
    free(plugin);
    return code;
}

int wn_command_validate(int argc, char **argv)
{
    validate_options options = {.seed = 1, .timeout = 60, .format = "human"};
    /* The command line of wn_child_run: validate --run-one TEST --seed N -- PLUGIN. It is in no
     * table of options because it is nobody else's. */
    if (argc == 7 && strcmp(argv[1], "--run-one") == 0 && find_test(argv[2]) != NULL)
        return wn_child_main(find_test(argv[2]), argv[6], strtoull(argv[4], NULL, 10));
    int code = wn_options_parse(&wn_usage_validate, argc, argv, &options);
    if (code == WN_OPTIONS_GO_ON && options.list)
        code = list_tests(&options);
    else if (code == WN_OPTIONS_GO_ON && !wn_report_format(options.format))
        code = wn_usage_error(&wn_usage_validate, "unknown format \"%s\"", options.format);
    else if (code == WN_OPTIONS_GO_ON && optind >= argc)
        code = wn_usage_error(&wn_usage_validate, "which plugin?");
    else if (code == WN_OPTIONS_GO_ON)
        code = validate(&options, argv[optind]);
    wn_texts_free(&options.tests);
    wn_texts_free(&options.excluded);
    return code;
}
