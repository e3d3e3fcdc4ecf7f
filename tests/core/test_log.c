/* Log lines by topic. */
#include "tests/suite.h"

#include "core/log.h"
#include "winnow/host.h"
#include "winnow/winnow.h"

#include <string.h>
#include <unistd.h>

typedef struct record {
    int lines;
    uint32_t level;
    char topic[32], text[4096];
} record;

static void keep(void *context, uint32_t level, const char *topic, const char *text)
{
    record *r = context;
    r->lines++;
    r->level = level;
    snprintf(r->topic, sizeof r->topic, "%s", topic);
    snprintf(r->text, sizeof r->text, "%s", text);
}

static void silent_by_default(void)
{
    record r = {0};
    wn_log_to(keep, &r);
    unsetenv("WINNOW_LOG");
    wn_log_line(WN_LOG_ERROR, "load", "x");
    setenv("WINNOW_LOG", "", 1);
    wn_log_line(WN_LOG_ERROR, "load", "x");
    CU_ASSERT_EQUAL(r.lines, 0);
}

static void named_topics_are_written(void)
{
    record r = {0};
    wn_log_to(keep, &r);
    setenv("WINNOW_LOG", "search, load", 1);
    wn_log_line(WN_LOG_INFO, "load", "plugin %d", 7);
    CU_ASSERT_EQUAL(r.lines, 1);
    CU_ASSERT_EQUAL(r.level, WN_LOG_INFO);
    CU_ASSERT_STRING_EQUAL(r.topic, "load");
    CU_ASSERT_STRING_EQUAL(r.text, "plugin 7");
    wn_log_line(WN_LOG_INFO, "step", "x");
    CU_ASSERT_EQUAL(r.lines, 1);
    setenv("WINNOW_LOG", "all", 1);
    wn_log_line(WN_LOG_INFO, "step", "x");
    CU_ASSERT_EQUAL(r.lines, 2);
}

static void unknown_topics_are_told_once(void)
{
    record r = {0};
    wn_log_to(keep, &r);
    setenv("WINNOW_LOG", "laod", 1);
    wn_log_line(WN_LOG_INFO, "load", "x");
    wn_log_line(WN_LOG_INFO, "load", "x");
    CU_ASSERT_EQUAL(r.lines, 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(r.text, "\"laod\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(r.text, "search, load, step, all"));
}

static void long_lines_are_cut(void)
{
    record r = {0};
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    wn_log_to(keep, &r);
    setenv("WINNOW_LOG", "load", 1);
    wn_log_line(WN_LOG_INFO, "load", "%s", text);
    CU_ASSERT_EQUAL(r.lines, 1);
    CU_ASSERT_EQUAL(strlen(r.text), 2047);
}

static void log_again(void *context, uint32_t level, const char *topic, const char *text)
{
    keep(context, level, topic, text);
    wn_log_line(WN_LOG_INFO, "load", "from the sink");
    wn_log_to(NULL, NULL);
}

static void sink_may_call_back(void)
{
    record r = {0};
    wn_log_to(log_again, &r);
    setenv("WINNOW_LOG", "load", 1);
    wn_log_line(WN_LOG_INFO, "load", "x");
    CU_ASSERT_EQUAL(r.lines, 1);
    CU_ASSERT_STRING_EQUAL(r.text, "x");
}

/* Without a sink: what arrives on stderr. */
static void lines_go_to_stderr(void)
{
    char line[200] = "";
    FILE *file = tmpfile();
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    int before = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    wn_log_to(NULL, NULL);
    setenv("WINNOW_LOG", "all", 1);
    wn_log_line(WN_LOG_WARNING, "search", "no such directory");
    dup2(before, STDERR_FILENO);
    close(before);
    rewind(file);
    CU_ASSERT_PTR_NOT_NULL(fgets(line, sizeof line, file));
    fclose(file);
    CU_ASSERT_STRING_EQUAL(line, "winnow: search: warning: no such directory\n");
}

WN_SUITE("core.log", {"silent by default", silent_by_default},
         {"named topics are written", named_topics_are_written},
         {"unknown topics are told once", unknown_topics_are_told_once},
         {"long lines are cut", long_lines_are_cut}, {"sink may call back", sink_may_call_back},
         {"lines go to stderr", lines_go_to_stderr})
