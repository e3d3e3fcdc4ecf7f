/* found_plugins.h: the registry as a subcommand opens it. */
#ifndef WN_TOOLS_FOUND_PLUGINS_H
#define WN_TOOLS_FOUND_PLUGINS_H

#include "winnow/winnow.h"

#define WN_PLUGIN_PATH_HELP "directories searched for plugins first, separated by ':'"

/* Opens the registry on what --plugin-path said (NULL: nothing) and the default places. NULL: it
 * failed, and stderr says why in the name of the subcommand. */
wn_registry *wn_found_plugins(const char *subcommand, const char *directories);

#endif
