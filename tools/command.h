/* command.h: the subcommands of `winnow`, as git has them: each is one function in one file, with
 * one wn_usage that its --help (and its man page) is made of. A new subcommand is a row in
 * WN_COMMAND_LIST, a file with the function wn_command_<name> and the constant wn_usage_<name>. */
#ifndef WN_TOOLS_COMMAND_H
#define WN_TOOLS_COMMAND_H

#include "tools/options.h"

/* What every subcommand returns, and winnow's exit status. */
enum {
    WN_EXIT_FINE = 0,
    WN_EXIT_FINDINGS = 1, /* it ran, and found something wrong with what it looked at */
    WN_EXIT_USAGE = 2,    /* the command line makes no sense */
    WN_EXIT_FAILED = 3    /* it could not run: no file, no memory, an engine that refuses */
};

/* X(name, one-line summary) in the order of `winnow --help`. */
#define WN_COMMAND_LIST(X)                                                                         \
    X(run, "compare methods with dense attention over a recorded trace")                           \
    X(list, "list the plugins that are found")                                                     \
    X(describe, "explain an algorithm's keys, roles and limits")                                   \
    X(check, "say what a configuration would do on a model, and what memory it takes")             \
    X(validate, "check a plugin against the contract")                                             \
    X(new, "write the skeleton of a new plugin")                                                   \
    X(bench, "time kernels and whole steps beside the machine's roofs")                            \
    X(doctor, "show what a bug report needs: machine, variants, plugins, versions")

/* argv[0] is the subcommand's name. Returns WN_EXIT_.... */
#define WN_COMMAND_DECLARE(name, summary)                                                          \
    int wn_command_##name(int argc, char **argv);                                                  \
    extern const wn_usage wn_usage_##name;
WN_COMMAND_LIST(WN_COMMAND_DECLARE)
#undef WN_COMMAND_DECLARE

typedef struct wn_command {
    const char *name;
    const char *summary;
    const wn_usage *usage;
    int (*run)(int argc, char **argv);
} wn_command;

#endif
