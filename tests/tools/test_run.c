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

/* The small trace, whose layer 5 alone has an input that the method "wanting" needs. */
static const char *write_needy_trace(void)
{
    static char path[256];
    wn_safetensors *from;
    wn_safetensor tensors[16];
    const char *const metadata[] = {
        "format", "winnow.trace/1", "softmax_scale", "0.35", "context_length", "80", NULL};
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(trace, &from, NULL), WN_OK);
    uint32_t count = wn_safetensors_count(from);
    for (uint32_t i = 0; i < count; i++)
        tensors[i] = *wn_safetensors_at(from, i);
    tensors[count] = *wn_safetensors_find(from, "layers.5.k");
    tensors[count++].name = "layers.5.probe.extra";
    snprintf(path, sizeof path, "%s", check_file_path("needy.safetensors"));
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_write(path, tensors, count, metadata, NULL), WN_OK);
    wn_safetensors_close(from);
    return path;
}

static void leaves_layers_out(void)
{
    static const char yaml[] = "sparse_attention_config:\n  algorithm: wanting\n  select: 4\n";
    char needy[256], wanting[256];
    wn_safetensors *file;
    make_files();
    snprintf(needy, sizeof needy, "%s", write_needy_trace());
    snprintf(wanting, sizeof wanting, "%s", check_file_write("want.yaml", yaml, sizeof yaml - 1));
    CU_ASSERT_EQUAL(RUN(wanting, "--trace", needy, "--save", saved, "--oracle", "--json",
                        "--plugin-path", WN_TEST_PROBES),
                    WN_EXIT_FINE);
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(saved, &file, NULL), WN_OK);
    CU_ASSERT_PTR_NULL(wn_safetensors_find(file, "layers.3.dense.out"));
    CU_ASSERT_PTR_NOT_NULL(wn_safetensors_find(file, "layers.5.want.select_context"));
    CU_ASSERT_PTR_NOT_NULL(wn_safetensors_find(file, "layers.5.want.select"));
    wn_safetensors_close(file);
    /* A layer that was asked for and lacks the input is no layer to leave out. */
    CU_ASSERT_EQUAL(RUN(wanting, "--trace", needy, "--layer", "3", "--plugin-path", WN_TEST_PROBES),
                    WN_EXIT_FAILED);
    CU_ASSERT_EQUAL(RUN(wanting, "--trace", trace, "--plugin-path", WN_TEST_PROBES),
                    WN_EXIT_FAILED);
}

static void reads_a_model_s_config(void)
{
    static const char json[] =
        "{\"sparse_attention_config\": {\"config_groups\": {\"group_0\": {\"algorithm\": "
        "\"skip_softmax\", \"threshold_scale_factor\": 5.0}}}}";
    static const char none[] = "{\"hidden_size\": 64}";
    char path[256];
    make_files();
    snprintf(path, sizeof path, "%s", check_file_write("config.json", json, sizeof json - 1));
    CU_ASSERT_EQUAL(RUN(path, "--trace", trace, "--plugin-path", WN_TEST_PLUGINS), WN_EXIT_FINE);
    snprintf(path, sizeof path, "%s", check_file_write("none.json", none, sizeof none - 1));
    CU_ASSERT_EQUAL(RUN(path, "--trace", trace, "--plugin-path", WN_TEST_PLUGINS), WN_EXIT_FAILED);
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

WN_SUITE("tools.run", {"runs", runs}, {"leaves out layers that lack an input", leaves_layers_out},
         {"reads a model's config.json", reads_a_model_s_config}, {"findings", findings},
         {"refusals", refusals})
