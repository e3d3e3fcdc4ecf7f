/* found_plugins.c: one way for all subcommands to open the registry and to complain. */
#include "tools/found_plugins.h"

#include "tools/plugin_path.h"

#include <stdlib.h>

wn_registry *wn_found_plugins(const char *subcommand, const char *directories)
{
    wn_registry *registry = NULL;
    char *path = wn_plugin_path(directories);
    if (wn_registry_open(path, &registry) != WN_OK) {
        fprintf(stderr, "winnow %s: %s\n", subcommand, wn_error_text());
        registry = NULL;
    }
    free(path);
    return registry;
}
