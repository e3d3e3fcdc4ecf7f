/* validate_host.h: a host of the validator's own, for calling a plugin directly: it counts what the
 * plugin allocates, keeps its log lines to itself, and can pretend to be older or newer than it is.
 */
#ifndef WN_VALIDATE_HOST_H
#define WN_VALIDATE_HOST_H

#include "tools/validate.h"
#include "winnow/plugin.h"

typedef const wn_plugin *(*wn_entry_function)(const wn_host *host);

/* A plugin loaded in this process. It stays loaded until the process ends. */
typedef struct wn_trial_plugin {
    wn_entry_function entry;
    const wn_plugin *plugin;
    const wn_config_interface *config;
    const wn_predictor_interface *predictor;     /* or NULL */
    const wn_aux_pool_interface *aux_pool;       /* or NULL */
    const wn_kernel_hook_interface *kernel_hook; /* or NULL */
    wn_note note;
} wn_trial_plugin;

/* The host that speaks abi_min .. abi_max. Static: a later call changes the same one. error_text
 * says afterwards what the entry point wrote into host->error. */
const wn_host *wn_trial_host(uint32_t abi_min, uint32_t abi_max);
const char *wn_trial_host_error(void);

/* dlopen and the entry's address alone. 0: trial->text says why not. */
int wn_trial_load(wn_trial *trial, wn_trial_plugin *loaded);
/* The same, then the entry is called and the interfaces are fetched. */
int wn_trial_enter(wn_trial *trial, wn_trial_plugin *loaded);

/* What the plugin holds of winnow.memory/1 now, and how often it released what it did not hold. */
typedef struct wn_trial_memory {
    int64_t blocks;
    int64_t bytes;
    int64_t bad_releases;
} wn_trial_memory;
wn_trial_memory wn_trial_memory_held(void);

/* An ordinary small model for a plugin to be created on: number 0, 1, ...; 0 when there is no
 * further one. */
int wn_trial_model(uint32_t number, wn_model *model);

#endif
