/* registry.h: plugins that are loaded, as the engine uses them. */
#ifndef WN_REGISTRY_H
#define WN_REGISTRY_H

#include "winnow/plugin.h"
#include "winnow/winnow.h"

/* A loaded plugin. Reference-counted: stays loaded while anybody holds it. */
typedef struct wn_loaded_plugin {
    const wn_plugin *plugin;
    const wn_config_interface *config;           /* never NULL */
    const wn_predictor_interface *predictor;     /* or NULL */
    const wn_aux_pool_interface *aux_pool;       /* or NULL */
    const wn_kernel_hook_interface *kernel_hook; /* or NULL */
    wn_note note;
    char *path;
} wn_loaded_plugin;

/* Loads (once) and checks the plugin of an algorithm. WN_ENOTFOUND lists the directories searched
 * and the algorithms there are, nearest first. */
wn_status wn_registry_acquire(wn_registry *registry, const char *algorithm,
                              const wn_loaded_plugin **plugin, wn_error *error);
void wn_registry_release(const wn_loaded_plugin *plugin);

/* Loads one file, without a registry: for the validator. Same checks. */
wn_status wn_plugin_open(const char *path, const wn_loaded_plugin **plugin, wn_error *error);

/* What plugins are given. */
const wn_host *wn_core_host(void);

#endif
