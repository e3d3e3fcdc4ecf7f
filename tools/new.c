/* new.c: `winnow new`: a folder with a plugin that builds and validates as it is. The text of its
 * files is in skeleton.c. */
#include "tools/command.h"
#include "tools/skeleton.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct new_options {
    const char *directory;
} new_options;

static const wn_option rows[] = {{"directory", 'd', "DIR", WN_OPTION_TEXT,
                                  offsetof(new_options, directory), 0, 0, "folder to make [NAME]"},
                                 {0}};

const wn_usage wn_usage_new = {"new",
                               "NAME",
                               "Writes the skeleton of a plugin for the algorithm NAME: NAME.c, a "
                               "method that keeps the newest "
                               "tokens, CMakeLists.txt and README.md. It builds and passes `winnow "
                               "validate` as it is. Nothing "
                               "that exists is overwritten.",
                               rows,
                               1,
                               1};

/* An algorithm's name that is a file's name and the beginning of a C identifier too. */
static int good_name(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return length > 0 && length < 64 && name[length] == '\0' && name[0] >= 'a' && name[0] <= 'z';
}

/* The template with each @NAME@ replaced. */
static int write_file(const char *directory, const char *file, const char *template,
                      const char *name)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", directory, file) >= (int)sizeof path) {
        fprintf(stderr, "winnow new: the path %s/%s is too long\n", directory, file);
        return 0;
    }
    FILE *to = fopen(path, "wx");
    int fine = to != NULL;
    for (const char *at = template; fine && *at != '\0';) {
        const char *mark = strstr(at, "@NAME@");
        size_t length = mark != NULL ? (size_t)(mark - at) : strlen(at);
        fine = fwrite(at, 1, length, to) == length && (mark == NULL || fputs(name, to) >= 0);
        at += length + (mark != NULL ? strlen("@NAME@") : 0);
    }
    if (to != NULL && fclose(to) != 0)
        fine = 0;
    if (!fine)
        fprintf(stderr, "winnow new: %s cannot be written: %s\n", path, strerror(errno));
    return fine;
}

int wn_command_new(int argc, char **argv)
{
    new_options options = {0};
    char source[80];
    int code = wn_options_parse(&wn_usage_new, argc, argv, &options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    const char *name = argv[optind];
    const char *directory = options.directory != NULL ? options.directory : name;
    if (!good_name(name))
        return wn_usage_error(&wn_usage_new,
                              "\"%s\": a name begins with a-z and has up to 63 of "
                              "a-z 0-9 _",
                              name);
    if (mkdir(directory, 0755) != 0) {
        fprintf(stderr, "winnow new: the folder %s cannot be made: %s\n", directory,
                strerror(errno));
        return WN_EXIT_FAILED;
    }
    snprintf(source, sizeof source, "%s.c", name);
    if (!write_file(directory, source, wn_skeleton_source, name) ||
        !write_file(directory, "CMakeLists.txt", wn_skeleton_cmake, name) ||
        !write_file(directory, "README.md", wn_skeleton_readme, name))
        return WN_EXIT_FAILED;
    printf("%s: %s, CMakeLists.txt, README.md, which says how to build it\n", directory, source);
    return WN_EXIT_FINE;
}
