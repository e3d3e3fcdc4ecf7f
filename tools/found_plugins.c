/* found_plugins.c: one way for all subcommands to open the registry and to complain. The registry
 * refuses relative directories, which depend on where a process happens to run; somebody who types
 * one knows where that is, so they are made absolute here. One that is not there is an error: it
 * was asked for. */
#include "tools/found_plugins.h"

#include "tools/plugin_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* directories with each part absolute; NULL: stderr says why not. */
static char *make_absolute(const char *subcommand, const char *directories)
{
    char *list = strdup(directories), *rest = NULL, *absolute = calloc(1, 1);
    for (char *part = list != NULL ? strtok_r(list, ":", &rest) : NULL;
         part != NULL && absolute != NULL; part = strtok_r(NULL, ":", &rest)) {
        char *path = realpath(part, NULL), *longer = NULL;
        if (path == NULL)
            fprintf(stderr, "winnow %s: --plugin-path: %s: %s\n", subcommand, part,
                    strerror(errno));
        else if ((longer = malloc(strlen(absolute) + strlen(path) + 2)) != NULL)
            sprintf(longer, "%s%s%s", absolute, absolute[0] != '\0' ? ":" : "", path);
        free(path);
        free(absolute);
        absolute = longer;
    }
    free(list);
    return absolute;
}

wn_registry *wn_found_plugins(const char *subcommand, const char *directories)
{
    wn_registry *registry = NULL;
    char *given = directories != NULL ? make_absolute(subcommand, directories) : NULL;
    if (directories != NULL && given == NULL)
        return NULL;
    char *path = wn_plugin_path(given);
    if (wn_registry_open(path, &registry) != WN_OK) {
        fprintf(stderr, "winnow %s: %s\n", subcommand, wn_error_text());
        registry = NULL;
    }
    free(path);
    free(given);
    return registry;
}
