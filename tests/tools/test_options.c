/* test_options.c: command lines, good and bad. */
#include "suite.h"
#include "tools/options.h"

#include <getopt.h>
#include <string.h>
#include <unistd.h>

typedef struct demo {
    const char *file;
    wn_texts names;
    int64_t number;
    int32_t loud;
} demo;

static const wn_option rows[] = {
    {"file", 'f', "FILE", WN_OPTION_TEXT, offsetof(demo, file), 0, 0, "a file"},
    {"name", 0, "NAME", WN_OPTION_LIST, offsetof(demo, names), 0, 0, "a name, again and again"},
    {"number", 'n', "N", WN_OPTION_INT, offsetof(demo, number), -3, 9, "a number"},
    {"loud", 'l', NULL, WN_OPTION_FLAG, offsetof(demo, loud), 0, 0, "shout"},
    {0}};
static const wn_usage usage = {"demo", "A [B]", "Says things.\n\n    winnow demo x", rows, 1, 2};

/* Parses a line of words; stderr is closed meanwhile. */
static int parse(demo *to, const char *line, char *words, char **argv, int *argc)
{
    *argc = 0;
    strcpy(words, line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[(*argc)++] = word;
    argv[*argc] = NULL;
    *to = (demo){.number = 5};
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    int code = wn_options_parse(&usage, *argc, argv, to);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    return code;
}

static void good_lines(void)
{
    char words[256], *argv[32];
    int argc;
    demo got;
    CU_ASSERT_EQUAL(parse(&got, "demo a --file x -l b --name p --name=q -n -3", words, argv, &argc),
                    WN_OPTIONS_GO_ON);
    CU_ASSERT_STRING_EQUAL(got.file, "x");
    CU_ASSERT_EQUAL(got.loud, 1);
    CU_ASSERT_EQUAL(got.number, -3);
    CU_ASSERT_EQUAL_FATAL(got.names.count, 2);
    CU_ASSERT_STRING_EQUAL(got.names.items[1], "q");
    CU_ASSERT_EQUAL(argc - optind, 2);
    CU_ASSERT_STRING_EQUAL(argv[optind + 1], "b");
    wn_texts_free(&got.names);
    CU_ASSERT_EQUAL(parse(&got, "demo a -- --file", words, argv, &argc), WN_OPTIONS_GO_ON);
    CU_ASSERT_EQUAL(got.number, 5);
    CU_ASSERT_PTR_NULL(got.file);
    CU_ASSERT_STRING_EQUAL(argv[optind + 1], "--file");
}

static void bad_lines(void)
{
    static const char *const lines[] = {"demo",
                                        "demo a b c",
                                        "demo a --fiel x",
                                        "demo a --file",
                                        "demo a -n 10",
                                        "demo a -n 2x",
                                        "demo a -n ",
                                        "demo a -x",
                                        "demo a --loud=3",
                                        "demo a -n 99999999999999999999"};
    char words[256], *argv[32];
    int argc;
    demo got;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        CU_ASSERT_EQUAL(parse(&got, lines[i], words, argv, &argc), 2);
}

static void help_has_every_row(void)
{
    char *made = NULL;
    size_t bytes;
    FILE *to = open_memstream(&made, &bytes);
    wn_usage_print(to, &usage);
    fclose(to);
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "usage: winnow demo [options] A [B]"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "    winnow demo x\n"));
    for (const wn_option *row = rows; row->name != NULL; row++) {
        CU_ASSERT_PTR_NOT_NULL(strstr(made, row->name));
        CU_ASSERT_PTR_NOT_NULL(strstr(made, row->help));
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "--help"));
    free(made);
}

WN_SUITE("tools.options", {"good lines", good_lines}, {"bad lines", bad_lines},
         {"help has every row", help_has_every_row})
