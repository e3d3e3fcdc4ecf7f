/* registry.c: which plugins there are, and which of them serves an algorithm. Looking for them is
 * scan.c's, loading them loader.c's.
 *
 * The result of a scan is one object, replaced as a whole by the next one. The registry's lock
 * guards the pointer to it, and is held neither while files are read nor while plugin code runs. */
#include "core/registry.h"

#include "core/loader.h"
#include "core/nearest_key.h"
#include "core/quote.h"
#include "core/reasons.h"
#include "core/scan.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct wn_registry {
    pthread_mutex_t lock;
    char *path; /* the caller's directories, or NULL */
    wn_scan *scan;
    /* Plugins whose schema was handed out: held until the registry is closed. */
    const wn_loaded_plugin **shown;
    uint32_t num_shown, shown_capacity;
};

wn_status wn_registry_open(const char *path, wn_registry **registry)
{
    if (registry == NULL)
        return wn_fail(wn_thread_error(), WN_EINVAL, "wn_registry_open: registry is NULL");
    wn_registry *made = calloc(1, sizeof *made);
    wn_status status = WN_ENOMEM;
    if (made != NULL && (path == NULL || (made->path = strdup(path)) != NULL))
        status = wn_scan_run(path, &made->scan);
    if (status != WN_OK) {
        if (made != NULL)
            free(made->path);
        free(made);
        return wn_fail(wn_thread_error(), status, "out of memory while looking for plugins");
    }
    pthread_mutex_init(&made->lock, NULL);
    *registry = made;
    return WN_OK;
}

void wn_registry_close(wn_registry *registry)
{
    if (registry == NULL)
        return;
    for (uint32_t i = 0; i < registry->num_shown; i++)
        wn_loader_release(registry->shown[i]);
    wn_scan_free(registry->scan);
    pthread_mutex_destroy(&registry->lock);
    free(registry->shown);
    free(registry->path);
    free(registry);
}

wn_status wn_registry_rescan(wn_registry *registry)
{
    wn_scan *fresh = NULL;
    wn_status status = wn_scan_run(registry->path, &fresh);
    if (status != WN_OK)
        return wn_fail(wn_thread_error(), status, "out of memory while looking for plugins");
    pthread_mutex_lock(&registry->lock);
    wn_scan *old = registry->scan;
    registry->scan = fresh;
    pthread_mutex_unlock(&registry->lock);
    wn_scan_free(old);
    return WN_OK;
}

/* The lock is the registry's business, not part of what const promises. */
static const wn_scan *locked_scan(const wn_registry *registry)
{
    pthread_mutex_lock(&((wn_registry *)registry)->lock);
    return registry->scan;
}
static void unlock(const wn_registry *registry)
{
    pthread_mutex_unlock(&((wn_registry *)registry)->lock);
}

uint32_t wn_registry_count(const wn_registry *registry)
{
    uint32_t count = locked_scan(registry)->num_files;
    unlock(registry);
    return count;
}

wn_status wn_registry_info(const wn_registry *registry, uint32_t index, wn_plugin_info *info)
{
    if (info == NULL || info->struct_size != WN_SIZEOF(wn_plugin_info))
        return wn_fail(wn_thread_error(), WN_EINVAL,
                       "wn_registry_info: info->struct_size is %u, expected %u",
                       info != NULL ? info->struct_size : 0, WN_SIZEOF(wn_plugin_info));
    const wn_scan *scan = locked_scan(registry);
    wn_status status = WN_OK;
    if (index < scan->num_files) {
        const wn_found_plugin *file = &scan->files[index];
        *info = (wn_plugin_info){
            .struct_size = WN_SIZEOF(wn_plugin_info),
            .interfaces = file->note.interfaces,
            .devices = file->note.devices,
            .abi_built = file->note.abi_built,
            .path = file->path,
            .algorithm = file->note.algorithm,
            .version = file->note.version,
            .license = file->note.license,
            .summary = file->note.summary,
            .problem = file->problem,
        };
    } else {
        status =
            wn_fail(wn_thread_error(), WN_ERANGE,
                    "wn_registry_info: index is %u, there are %u plugins", index, scan->num_files);
    }
    unlock(registry);
    return status;
}

const char *wn_registry_searched(const wn_registry *registry)
{
    const wn_scan *scan = locked_scan(registry);
    const char *text = scan->searched.text != NULL ? scan->searched.text : "";
    unlock(registry);
    return text;
}

/* ---------------------------------------------------------------- from a name to a plugin */

typedef struct candidate {
    const char *algorithm;
    uint32_t distance;
} candidate;

static int nearer(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->distance != b->distance)
        return a->distance < b->distance ? -1 : 1;
    return strcmp(a->algorithm, b->algorithm);
}

/* The usable algorithms in one line, those that look like `wanted` first. */
static void add_candidates(const wn_scan *scan, const char *wanted, wn_reason_list *text)
{
    candidate *list = calloc(scan->num_files + 1, sizeof *list);
    char line[1024] = "";
    size_t used = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; list != NULL && i < scan->num_files; i++)
        if (scan->files[i].problem == NULL)
            list[count++] = (candidate){scan->files[i].note.algorithm,
                                        wn_key_distance(wanted, scan->files[i].note.algorithm)};
    if (count > 0)
        qsort(list, count, sizeof *list, nearer);
    for (uint32_t i = 0; i < count && used + 80 < sizeof line; i++)
        used += (size_t)snprintf(line + used, sizeof line - used, "%s%s", i > 0 ? ", " : "",
                                 list[i].algorithm);
    wn_reason_add(text, "  there are: %s", count > 0 ? line : "none at all");
    free(list);
}

static wn_status not_found(const wn_scan *scan, const char *algorithm, wn_error *error)
{
    char quoted[WN_QUOTE_BYTES], hint[WN_HINT_BYTES];
    wn_reason_list text = {0};
    wn_nearest nearest = wn_nearest_begin(algorithm);
    for (uint32_t i = 0; i < scan->num_files; i++)
        if (scan->files[i].problem == NULL)
            wn_nearest_try(&nearest, scan->files[i].note.algorithm);
    wn_reason_add(&text, "there is no plugin for algorithm %s%s", wn_quote(quoted, algorithm),
                  wn_nearest_hint(&nearest, hint));
    add_candidates(scan, algorithm, &text);
    /* A file that may have been meant, but could not be used. */
    for (uint32_t i = 0; i < scan->num_files; i++) {
        const wn_found_plugin *file = &scan->files[i];
        if (file->problem != NULL &&
            (file->note.algorithm[0] == '\0' || strcmp(file->note.algorithm, algorithm) == 0))
            wn_reason_add(&text, "  not usable: %s", file->problem);
    }
    wn_reason_add(&text, "searched:\n%s",
                  scan->searched.text != NULL ? scan->searched.text : "nothing");
    wn_fail(error, WN_ENOTFOUND, "%s", text.text != NULL ? text.text : "out of memory");
    wn_reasons_clear(&text);
    return WN_ENOTFOUND;
}

wn_status wn_registry_acquire(wn_registry *registry, const char *algorithm,
                              const wn_loaded_plugin **plugin, wn_error *error)
{
    if (registry == NULL || algorithm == NULL || plugin == NULL)
        return wn_fail(error, WN_EINVAL, "no registry or no algorithm was given");
    char *path = NULL;
    wn_file_identity identity = {0};
    wn_status status = WN_OK;
    const wn_scan *scan = locked_scan(registry);
    const wn_found_plugin *file = wn_scan_find(scan, algorithm);
    if (file == NULL) {
        status = not_found(scan, algorithm, error);
    } else if (file->problem != NULL) {
        status = wn_fail(error, WN_ECONFLICT, "%s", file->problem);
    } else {
        identity = file->identity;
        path = strdup(file->path);
        if (path == NULL)
            status = wn_fail(error, WN_ENOMEM, "out of memory while loading %s", algorithm);
    }
    unlock(registry);
    if (status == WN_OK)
        status = wn_loader_open(path, &identity, plugin, error);
    free(path);
    return status;
}

void wn_registry_release(const wn_loaded_plugin *plugin)
{
    wn_loader_release(plugin);
}

/* Keeps one hold of each plugin that was shown. Takes over the caller's hold, also on failure. */
static wn_status keep(wn_registry *registry, const wn_loaded_plugin *plugin)
{
    wn_status status = WN_OK;
    const wn_loaded_plugin *surplus = NULL;
    pthread_mutex_lock(&registry->lock);
    for (uint32_t i = 0; i < registry->num_shown && surplus == NULL; i++)
        if (registry->shown[i] == plugin)
            surplus = plugin;
    if (surplus == NULL && registry->num_shown == registry->shown_capacity) {
        uint32_t capacity = registry->shown_capacity * 2 + 8;
        void *grown = realloc((void *)registry->shown, capacity * sizeof *registry->shown);
        if (grown != NULL) {
            registry->shown = grown;
            registry->shown_capacity = capacity;
        } else {
            status = wn_fail(wn_thread_error(), WN_ENOMEM, "%s: out of memory", plugin->path);
            surplus = plugin;
        }
    }
    if (surplus == NULL)
        registry->shown[registry->num_shown++] = plugin;
    pthread_mutex_unlock(&registry->lock);
    wn_loader_release(surplus);
    return status;
}

wn_status wn_registry_schema(wn_registry *registry, const char *algorithm,
                             const wn_config_interface **schema)
{
    const wn_loaded_plugin *plugin = NULL;
    if (schema == NULL)
        return wn_fail(wn_thread_error(), WN_EINVAL, "wn_registry_schema: schema is NULL");
    wn_status status = wn_registry_acquire(registry, algorithm, &plugin, wn_thread_error());
    if (status != WN_OK)
        return status;
    const wn_config_interface *config = plugin->config;
    status = keep(registry, plugin);
    if (status == WN_OK)
        *schema = config;
    return status;
}
