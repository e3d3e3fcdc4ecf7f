/* loader.h: from a checked file to a loaded plugin. One edition of a file is loaded once per
 * process, whoever asks for it, and stays loaded while anybody holds it. */
#ifndef WN_LOADER_H
#define WN_LOADER_H

#include "core/plugin_file.h"
#include "core/registry.h"

/* Loads the plugin at `path`, an absolute path, or takes hold of it if that very edition is loaded.
 * expected: the edition that is wanted, as a scan found it; WN_ESTATE if the file has changed since
 * and the old edition is not in memory. NULL: whatever is there now. */
wn_status wn_loader_open(const char *path, const wn_file_identity *expected,
                         const wn_loaded_plugin **plugin, wn_error *error);
/* The last release unloads, unless the plugin has device code: that is never unloaded. */
void wn_loader_release(const wn_loaded_plugin *plugin);

/* How many plugins are in memory: for tests. */
uint32_t wn_loader_count(void);

#endif
