/* main.c: the door of the `winnow` command: finds the subcommand and steps aside. */
#include "tools/command.h"
#include "winnow/winnow.h"

#include <string.h>

static const wn_command commands[] = {
#define ROW(name, summary) {#name, summary, &wn_usage_##name, wn_command_##name},
    WN_COMMAND_LIST(ROW)
#undef ROW
};
enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_overview(FILE *to)
{
    fputs("Sparse attention for LLM inference, with plugins for algorithms.\n\n"
          "usage: winnow COMMAND [options] [arguments]\n"
          "       winnow COMMAND --help\n"
          "       winnow --version\n\n",
          to);
    for (int i = 0; i < NUM_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nExit status: 0 fine, 1 findings, 2 wrong usage, 3 could not run.\n", to);
}

static const wn_command *find(const char *name)
{
    for (int i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--version") == 0) {
        printf("winnow %s, ABI %u.%u\n", WN_LIBRARY_VERSION, WN_ABI_MAJOR, WN_ABI_MINOR);
        return WN_EXIT_FINE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        const wn_command *about = argc > 2 ? find(argv[2]) : NULL;
        if (about != NULL)
            wn_usage_print(stdout, about->usage);
        else
            print_overview(stdout);
        return WN_EXIT_FINE;
    }
    const wn_command *command = find(name);
    if (command != NULL)
        return command->run(argc - 1, argv + 1);
    if (*name != '\0')
        fprintf(stderr, "winnow: there is no command \"%s\"\n\n", name);
    print_overview(stderr);
    return WN_EXIT_USAGE;
}
