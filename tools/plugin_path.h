/* plugin_path.h: where the subcommands look for plugins. */
#ifndef WN_TOOLS_PLUGIN_PATH_H
#define WN_TOOLS_PLUGIN_PATH_H

/* The directories for wn_registry_open: what --plugin-path said (NULL: nothing), and, when this
 * very program lies in its build tree, the plugins built beside it, so that `build/bin/winnow`
 * works before anything is installed. Freed by the caller; NULL: none (or no memory). */
char *wn_plugin_path(const char *given);

#endif
