/* plugin_path.c: the build tree's own plugins, found only by the program of that build tree. An
 * installed copy must not load code from a directory that happens to have a known name. */
#include "tools/plugin_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The directory of this program's build, if it is run from there. */
static char *build_plugins(void)
{
    char path[4096];
    ssize_t bytes = readlink("/proc/self/exe", path, sizeof path - 32);
    if (bytes < 0)
        return NULL;
    path[bytes] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return NULL;
    strcpy(slash, "/../lib/plugins");
    char *beside = realpath(path, NULL);
    char *built = realpath(WINNOW_BUILD_PLUGINS, NULL);
    if (beside == NULL || built == NULL || strcmp(beside, built) != 0) {
        free(beside);
        beside = NULL;
    }
    free(built);
    return beside;
}

char *wn_plugin_path(const char *given)
{
    char *built = build_plugins();
    if (given == NULL)
        return built;
    size_t bytes = strlen(given) + (built != NULL ? strlen(built) : 0) + 2;
    char *both = malloc(bytes);
    if (both != NULL)
        snprintf(both, bytes, "%s%s%s", given, built != NULL ? ":" : "",
                 built != NULL ? built : "");
    free(built);
    return both;
}
