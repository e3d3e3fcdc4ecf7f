/* validate_report.c: three ways to tell the same. Results are kept as one JSON array; the human
 * report is printed line by line besides, JUnit's XML is written from the array. */
#include "tools/validate_report.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

int wn_report_format(const char *name)
{
    return strcmp(name, "human") == 0 || strcmp(name, "json") == 0 || strcmp(name, "junit") == 0;
}

void wn_report_open(wn_report *report, const char *format, const char *plugin, uint64_t seed)
{
    memset(report, 0, sizeof *report);
    report->format = format;
    report->plugin = plugin;
    report->seed = seed;
    report->colour = isatty(STDOUT_FILENO);
    report->tests = json_array();
    report->level = "";
    if (strcmp(format, "human") == 0)
        printf("%s\n", plugin);
}

static const char *outcome_name(wn_outcome outcome)
{
    return outcome == WN_PASSED ? "passed" : outcome == WN_SKIPPED ? "skipped" : "failed";
}

static void print_indented(const char *text)
{
    for (const char *line = text; *line != '\0';) {
        int length = (int)strcspn(line, "\n");
        printf("                 %.*s\n", length, line);
        line += length + (line[length] == '\n');
    }
}

static void print_line(wn_report *report, const char *level, const wn_trial_test *test,
                       const wn_child_result *result)
{
    const char *paint = result->outcome == WN_PASSED   ? "\033[32m"
                        : result->outcome == WN_FAILED ? "\033[31m"
                                                       : "\033[33m";
    if (strcmp(report->level, level) != 0)
        printf("  %s\n", level);
    report->level = level;
    printf("    %s%-7s%s  %s", report->colour ? paint : "", outcome_name(result->outcome),
           report->colour ? "\033[0m" : "", test->name);
    if (result->outcome == WN_FAILED)
        printf("  [%s] %s", test->rule, test->what);
    putchar('\n');
    print_indented(result->text);
    if (result->outcome == WN_FAILED)
        print_indented(result->stderr_tail);
    fflush(stdout);
}

void wn_report_add(wn_report *report, const char *level, const wn_trial_test *test,
                   const wn_child_result *result)
{
    report->passed += result->outcome == WN_PASSED;
    report->failed += result->outcome == WN_FAILED;
    report->skipped += result->outcome == WN_SKIPPED;
    report->seconds += result->seconds;
    if (strcmp(report->format, "human") == 0)
        print_line(report, level, test, result);
    /* jansson gives no string for bytes that are no UTF-8; null stands for them. */
    json_t *text = json_string(result->text), *tail = json_string(result->stderr_tail);
    json_array_append_new(report->tests,
                          json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:o, s:o}", "level", level,
                                    "name", test->name, "rule", test->rule, "what", test->what,
                                    "outcome", outcome_name(result->outcome), "seconds",
                                    result->seconds, "text", text != NULL ? text : json_null(),
                                    "stderr", tail != NULL ? tail : json_null()));
}

static void print_json(const wn_report *report)
{
    json_t *whole = json_pack("{s:i, s:s, s:I, s:i, s:i, s:i, s:f, s:O}", "format_version", 1,
                              "plugin", report->plugin, "seed", (json_int_t)report->seed, "passed",
                              report->passed, "failed", report->failed, "skipped", report->skipped,
                              "seconds", report->seconds, "tests", report->tests);
    json_dumpf(whole, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(whole);
}

/* Control characters other than tab and newline have no place in XML at all. */
static void print_xml(const char *text)
{
    for (; text != NULL && *text != '\0'; text++) {
        unsigned char each = (unsigned char)*text;
        if (each == '<')
            fputs("&lt;", stdout);
        else if (each == '&')
            fputs("&amp;", stdout);
        else if (each == '"')
            fputs("&quot;", stdout);
        else if (each == '\n')
            fputs("&#10;", stdout);
        else if (each >= ' ' || each == '\t')
            putchar(each);
        else
            putchar('?');
    }
}

static void print_junit(const wn_report *report)
{
    size_t i;
    json_t *test;
    printf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"winnow validate ");
    print_xml(report->plugin);
    printf("\" tests=\"%d\" failures=\"%d\" skipped=\"%d\" time=\"%.3f\">\n",
           report->passed + report->failed + report->skipped, report->failed, report->skipped,
           report->seconds);
    json_array_foreach(report->tests, i, test)
    {
        const char *outcome = json_string_value(json_object_get(test, "outcome"));
        printf("  <testcase classname=\"%s\" name=\"%s\" time=\"%.3f\"",
               json_string_value(json_object_get(test, "level")),
               json_string_value(json_object_get(test, "name")),
               json_real_value(json_object_get(test, "seconds")));
        if (strcmp(outcome, "passed") == 0) {
            puts("/>");
            continue;
        }
        printf("><%s message=\"", strcmp(outcome, "failed") == 0 ? "failure" : "skipped");
        print_xml(json_string_value(json_object_get(test, "text")));
        puts("\"/></testcase>");
    }
    puts("</testsuite>");
}

void wn_report_close(wn_report *report)
{
    if (strcmp(report->format, "json") == 0)
        print_json(report);
    else if (strcmp(report->format, "junit") == 0)
        print_junit(report);
    else
        printf("\n%d passed, %d failed, %d skipped in %.1f s (seed %llu)\n", report->passed,
               report->failed, report->skipped, report->seconds, (unsigned long long)report->seed);
    json_decref(report->tests);
}
