/* options.h: command lines. Each subcommand has one table of options; the parsing, the --help text
 * and the man page come from the same rows, so that they cannot disagree.
 *
 *     typedef struct demo_options { const char *plugin_path; wn_texts set; int32_t json; } ...
 *     static const wn_option rows[] = {
 *         {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, offsetof(demo_options, plugin_path), 0, 0,
 *          "directories searched for plugins first, separated by ':'"},
 *         {"json", 0, NULL, WN_OPTION_FLAG, offsetof(demo_options, json), 0, 0, "print JSON"},
 *         {0}};
 *     const wn_usage wn_usage_demo = {"demo", "ALGORITHM", "What it does, in sentences.", rows, 1,
 * 1};
 *
 *     int wn_command_demo(int argc, char **argv)
 *     {
 *         demo_options options = {0};
 *         int code = wn_options_parse(&wn_usage_demo, argc, argv, &options);
 *         if (code != WN_OPTIONS_GO_ON)
 *             return code;
 *         ... argv[optind], argv[optind + 1] ... are the arguments
 */
#ifndef WN_TOOLS_OPTIONS_H
#define WN_TOOLS_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    WN_OPTION_FLAG = 1, /* int32_t, set to 1 */
    WN_OPTION_TEXT = 2, /* const char *, points into argv */
    WN_OPTION_LIST = 3, /* wn_texts, one more entry each time the option is given */
    WN_OPTION_INT = 4   /* int64_t within [least, greatest]; a default is what the struct held */
};

/* The values of an option that may be given several times, in order. Never more than a command line
 * holds; freed by wn_texts_free. */
typedef struct wn_texts {
    const char **items;
    uint32_t count;
} wn_texts;
void wn_texts_free(wn_texts *texts);

typedef struct wn_option {
    const char *name;        /* "plugin-path" for --plugin-path; NULL ends the table */
    char letter;             /* 'p' for -p; 0: none */
    const char *value;       /* what --help calls the value; NULL for flags */
    int type;                /* WN_OPTION_... */
    size_t offset;           /* of the field in the subcommand's struct of options */
    int64_t least, greatest; /* INT only, inclusive */
    const char *help;        /* one sentence without a full stop; wrapped when printed */
} wn_option;

typedef struct wn_usage {
    const char *name;        /* the subcommand */
    const char *arguments;   /* as the usage line shows them: "CONFIG... --trace FILE" */
    const char *description; /* paragraphs, separated by "\n\n"; wrapped when printed. Indented
                                lines (examples) are printed as they are */
    const wn_option *options;
    int least_arguments;
    int greatest_arguments; /* -1: any number */
} wn_usage;

/* wn_options_parse's answer when the subcommand should do its work. Anything else is an exit
 * status: --help was printed (0), or the command line is wrong (2) and stderr says how. */
#define WN_OPTIONS_GO_ON (-1)

/* options: the subcommand's struct, zeroed or filled with defaults. Afterwards the arguments are
 * argv[optind .. argc - 1]. Options and arguments may be mixed; "--" ends the options. */
int wn_options_parse(const wn_usage *usage, int argc, char **argv, void *options);

/* The --help text. */
void wn_usage_print(FILE *to, const wn_usage *usage);

/* Complains about the command line on stderr, points to --help, returns 2. */
int wn_usage_error(const wn_usage *usage, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

#endif
