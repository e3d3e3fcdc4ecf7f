/* test_run.c: the whole command on a made-up trace: exit statuses and files. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/command.h"

#include <string.h>
#include <unistd.h>

static char trace[256], config[256], report[256], saved[256], expected[256];

static void make_files(void)
{
    static const char yaml[] =
        "sparse_attention_config:\n  algorithm: rocket\n  window_size: 8\n  kernel_size: 5\n"
        "  prompt_budget: 40\n  topk: 5\n";
    wn_trace *open;
    snprintf(trace, sizeof trace, "%s", check_small_trace_write("t.safetensors"));
    snprintf(config, sizeof config, "%s", check_file_write("thin.yaml", yaml, sizeof yaml - 1));
    snprintf(report, sizeof report, "%s", check_file_path("t.html"));
    snprintf(saved, sizeof saved, "%s", check_file_path("out.safetensors"));
    if (wn_trace_open(trace, NULL, 0, &open, NULL) != WN_OK)
        abort();
    snprintf(expected, sizeof expected, "%s",
             check_small_trace_expected("t.expected.safetensors", open));
    wn_trace_close(open);
}

/* The command's status; what it prints goes nowhere, and stderr, if asked for, to *complaint. */
static int run(int argc, char **argv)
{
    fflush(stdout);
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    if (freopen("/dev/null", "w", stdout) == NULL || freopen("/dev/null", "w", stderr) == NULL)
        abort();
    int code = wn_command_run(argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    return code;
}
#define RUN(...)                                                                                   \
    run((int)(sizeof(char *[]){"run", __VA_ARGS__} / sizeof(char *)),                              \
        (char *[]){"run", __VA_ARGS__, NULL})

static void runs(void)
{
    wn_safetensors *file;
    size_t bytes;
    make_files();
    CU_ASSERT_EQUAL(RUN(config, config, "--trace", trace, "--report", report, "--save", saved,
                        "--plugin-path", WN_TEST_PLUGINS, "--chunk", "30"),
                    WN_EXIT_FINE);
    char *page = check_file_read(report, &bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    CU_ASSERT_PTR_NOT_NULL(strstr(page, "PASS"));
    free(page);
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(saved, &file, NULL), WN_OK);
    CU_ASSERT_PTR_NOT_NULL(wn_safetensors_find(file, "layers.3.dense.out"));
    CU_ASSERT_PTR_NOT_NULL(wn_safetensors_find(file, "layers.3.thin.select"));
    CU_ASSERT_PTR_NOT_NULL(wn_safetensors_find(file, "layers.5.thin-2.retain"));
    CU_ASSERT_PTR_NULL(wn_safetensors_find(file, "layers.3.dense.retain"));
    wn_safetensors_close(file);
    CU_ASSERT_EQUAL(
        RUN(config, "--trace", trace, "--json", "--layer", "5", "--plugin-path", WN_TEST_PLUGINS),
        WN_EXIT_FINE);
}

/* An expectation that is not what dense attention gives. */
static void findings(void)
{
    size_t bytes;
    make_files();
    char *whole = check_file_read(expected, &bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
    double wrong = 1000;
    memcpy(whole + bytes - CHECK_TOKENS * sizeof(int32_t) - sizeof wrong, &wrong, sizeof wrong);
    check_file_write("t.expected.safetensors", whole, bytes);
    free(whole);
    CU_ASSERT_EQUAL(RUN(config, "--trace", trace, "--plugin-path", WN_TEST_PLUGINS),
                    WN_EXIT_FINDINGS);
}

static void refusals(void)
{
    make_files();
    CU_ASSERT_EQUAL(RUN("--trace", trace), WN_EXIT_USAGE);
    CU_ASSERT_EQUAL(RUN(config), WN_EXIT_USAGE);
    CU_ASSERT_EQUAL(RUN(config, "--trace", trace, "--layer", "three"), WN_EXIT_USAGE);
    CU_ASSERT_EQUAL(RUN(config, "--trace", trace, "--layer", "4"), WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(RUN(config, "--trace", "/nonexistent"), WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(RUN("/nonexistent.yaml", "--trace", trace), WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(RUN(trace, "--trace", trace), WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(RUN(config, "--trace", trace, "--expect", trace), WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(
        RUN(config, "--trace", trace, "--plugin-path", WN_TEST_PLUGINS, "--save", "/nonexistent/x"),
        WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(RUN("--help"), WN_EXIT_FINE);
}

WN_SUITE("tools.run", {"runs", runs}, {"findings", findings}, {"refusals", refusals})
