/* options.c: getopt_long driven by one table of options, and the --help text from the same table.
 */
#include "tools/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 48, WIDTH = 80, HELP_COLUMN = 26, FIRST_LONG_ONLY = 256 };

void wn_texts_free(wn_texts *texts)
{
    free(texts->items);
    *texts = (wn_texts){0};
}

static int texts_add(wn_texts *texts, const char *item)
{
    const char **grown = realloc(texts->items, (texts->count + 1) * sizeof *grown);
    if (grown == NULL)
        return -1;
    texts->items = grown;
    texts->items[texts->count++] = item;
    return 0;
}

int wn_usage_error(const wn_usage *usage, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "winnow %s: ", usage->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n(winnow %s --help shows how it is used)\n", usage->name);
    return 2;
}

/* ---------------------------------------------------------------- help */

/* Prints words from column `at`, wrapped at WIDTH, further lines indented by `indent`. */
static void print_wrapped(FILE *to, const char *text, size_t bytes, int at, int indent)
{
    const char *end = text + bytes;
    for (int first = 1; text < end; first = 0) {
        size_t word = strcspn(text, " \n");
        if (word > (size_t)(end - text))
            word = (size_t)(end - text);
        if (word > 0) {
            if (!first && at + 1 + (int)word > WIDTH) {
                fprintf(to, "\n%*s", indent, "");
                at = indent;
            } else if (!first) {
                fputc(' ', to);
                at++;
            }
            fwrite(text, 1, word, to);
            at += (int)word;
        }
        text += word;
        while (text < end && (*text == ' ' || *text == '\n'))
            text++;
    }
    fputc('\n', to);
}

static void print_description(FILE *to, const char *text)
{
    while (*text != '\0') {
        const char *end = strstr(text, "\n\n");
        size_t bytes = end != NULL ? (size_t)(end - text) : strlen(text);
        fputc('\n', to);
        if (*text == ' ')
            fprintf(to, "%.*s\n", (int)bytes, text);
        else
            print_wrapped(to, text, bytes, 0, 0);
        text += bytes;
        while (*text == '\n')
            text++;
    }
}

static void print_option(FILE *to, const char *name, char letter, const char *value,
                         const char *help)
{
    int at =
        letter != 0 ? fprintf(to, "  -%c, --%s", letter, name) : fprintf(to, "      --%s", name);
    if (value != NULL)
        at += fprintf(to, " %s", value);
    if (at > HELP_COLUMN - 2) {
        fputc('\n', to);
        at = 0;
    }
    fprintf(to, "%*s", HELP_COLUMN - at, "");
    print_wrapped(to, help, strlen(help), HELP_COLUMN, HELP_COLUMN);
}

void wn_usage_print(FILE *to, const wn_usage *usage)
{
    fprintf(to, "usage: winnow %s%s%s%s\n", usage->name, usage->options->name ? " [options]" : "",
            *usage->arguments ? " " : "", usage->arguments);
    print_description(to, usage->description);
    fputs("\noptions:\n", to);
    for (const wn_option *row = usage->options; row->name != NULL; row++)
        print_option(to, row->name, row->letter, row->value, row->help);
    print_option(to, "help", 'h', NULL, "show this text");
}

/* ---------------------------------------------------------------- parsing */

static int set_int(const wn_usage *usage, const wn_option *row, const char *text, void *field)
{
    char *end;
    errno = 0;
    int64_t value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < row->least || value > row->greatest)
        return wn_usage_error(
            usage, "--%s wants a whole number from %" PRId64 " to %" PRId64 ", not \"%s\"",
            row->name, row->least, row->greatest, text);
    *(int64_t *)field = value;
    return WN_OPTIONS_GO_ON;
}

static int set_option(const wn_usage *usage, const wn_option *row, void *options)
{
    void *field = (char *)options + row->offset;
    switch (row->type) {
    case WN_OPTION_FLAG:
        *(int32_t *)field = 1;
        return WN_OPTIONS_GO_ON;
    case WN_OPTION_TEXT:
        *(const char **)field = optarg;
        return WN_OPTIONS_GO_ON;
    case WN_OPTION_LIST:
        if (texts_add(field, optarg) == 0)
            return WN_OPTIONS_GO_ON;
        return wn_usage_error(usage, "out of memory");
    default:
        return set_int(usage, row, optarg, field);
    }
}

/* getopt_long's two tables from ours. Options without a letter get numbers from 256 on. */
static int make_tables(const wn_usage *usage, struct option *longs, char *letters)
{
    int n = 0;
    *letters++ = ':'; /* a missing value is reported as ':' and not by getopt itself */
    *letters++ = 'h';
    for (const wn_option *row = usage->options; row->name != NULL && n < MAX_OPTIONS; row++, n++) {
        longs[n] = (struct option){row->name, row->value ? required_argument : no_argument, NULL,
                                   row->letter ? row->letter : FIRST_LONG_ONLY + n};
        if (row->letter != 0) {
            *letters++ = row->letter;
            if (row->value != NULL)
                *letters++ = ':';
        }
    }
    longs[n] = (struct option){"help", no_argument, NULL, 'h'};
    longs[n + 1] = (struct option){0};
    *letters = '\0';
    return n;
}

static const wn_option *find_option(const wn_usage *usage, const struct option *longs, int count,
                                    int code)
{
    for (int i = 0; i < count; i++)
        if (longs[i].val == code)
            return &usage->options[i];
    return NULL;
}

static int check_arguments(const wn_usage *usage, int given)
{
    if (given < usage->least_arguments)
        return wn_usage_error(usage, "too few arguments; expected: %s", usage->arguments);
    if (usage->greatest_arguments >= 0 && given > usage->greatest_arguments)
        return wn_usage_error(usage, "too many arguments; expected: %s",
                              *usage->arguments ? usage->arguments : "none");
    return WN_OPTIONS_GO_ON;
}

int wn_options_parse(const wn_usage *usage, int argc, char **argv, void *options)
{
    struct option longs[MAX_OPTIONS + 2];
    char letters[2 * MAX_OPTIONS + 3];
    int count = make_tables(usage, longs, letters);
    opterr = 0;
    optind = 0; /* glibc: start afresh, so that one process can parse several command lines */
    for (int code; (code = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
        if (code == 'h') {
            wn_usage_print(stdout, usage);
            return 0;
        }
        if (code == ':')
            return wn_usage_error(usage, "%s needs a value", argv[optind - 1]);
        const wn_option *row = find_option(usage, longs, count, code);
        if (row == NULL)
            return wn_usage_error(usage, "unknown option %s", argv[optind - 1]);
        int answer = set_option(usage, row, options);
        if (answer != WN_OPTIONS_GO_ON)
            return answer;
    }
    return check_arguments(usage, argc - optind);
}
