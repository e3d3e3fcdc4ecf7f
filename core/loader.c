/* loader.c: loads plugins and counts who holds them.
 *
 * The list of loaded plugins is the process's, not a registry's, because the dynamic linker's is: a
 * second dlopen of a file gives the first one's library. Two facts of glibc shape this file:
 *   - dlopen recognises a library by the name string first. "/proc/self/fd/7" must therefore never
 *     come to mean another file while the library is in memory: the descriptor stays open as long.
 *   - dlopen recognises it by device and inode second. A file that was overwritten in place, not
 *     replaced, would silently give the old library: that is found out and refused.
 *
 * One lock serialises loading and unloading, and plugin code (constructors, the entry point) runs
 * under it. That is safe because a plugin cannot reach a registry from there: the host services
 * that it is given do not lead back here. Nobody takes the lock on the path of a step. */
#include "core/loader.h"

#include "core/contract.h"
#include "core/log.h"
#include "core/note.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct loaded {
    wn_loaded_plugin plugin; /* first: what others hold points here */
    wn_file_identity identity;
    void *handle;
    int fd; /* -1: loaded by path */
    uint32_t references;
    struct loaded *next;
} loaded;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static loaded *all;

static loaded *find(const wn_file_identity *identity)
{
    loaded *entry = all;
    while (entry != NULL && !wn_file_identity_equals(&entry->identity, identity))
        entry = entry->next;
    return entry;
}

/* By descriptor, so that what was checked is what is mapped. Without /proc: by path, and then the
 * path must still mean the file that was checked. *fd: -1 if it is not needed any more. */
static wn_status map_library(const char *path, int *fd, void **handle, wn_error *error)
{
    char name[64];
    struct stat opened, named;
    snprintf(name, sizeof name, "/proc/self/fd/%d", *fd);
    if (access(name, F_OK) == 0) {
        *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    } else {
        *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (*handle != NULL && (fstat(*fd, &opened) != 0 || stat(path, &named) != 0 ||
                                opened.st_dev != named.st_dev || opened.st_ino != named.st_ino)) {
            dlclose(*handle);
            *handle = NULL;
            return wn_fail(error, WN_ETRUST,
                           "%s: was replaced while it was being loaded; try again", path);
        }
        close(*fd);
        *fd = -1;
    }
    if (*handle == NULL)
        return wn_fail(error, WN_EPLUGIN, "%s: the dynamic linker refused it (rule WN-P-03): %s",
                       path, dlerror());
    for (const loaded *entry = all; entry != NULL; entry = entry->next)
        if (entry->handle == *handle) {
            dlclose(*handle);
            *handle = NULL;
            return wn_fail(error, WN_ESTATE,
                           "%s: was overwritten in place while %s was loaded from the same file; "
                           "install new editions under another name and rename them",
                           path, entry->plugin.path);
        }
    return WN_OK;
}

/* Unmaps a library. If the dynamic linker keeps it none the less (a unique symbol, a thread-local
 * destructor), its descriptor's number must not be used again. */
static void unmap_library(void *handle, int fd)
{
    char name[64];
    if (handle != NULL)
        dlclose(handle);
    if (fd < 0)
        return;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    void *still = handle != NULL ? dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD) : NULL;
    if (still != NULL)
        dlclose(still);
    else
        close(fd);
}

/* Asks the entry point, and checks the answer. */
static wn_status negotiate(loaded *entry, wn_error *error)
{
    const wn_host *host = wn_core_host();
    const wn_plugin *(*ask)(const wn_host *);
    /* POSIX's way from an object pointer to a function pointer. */
    *(void **)&ask = dlsym(entry->handle, WN_PLUGIN_ENTRY);
    if (ask == NULL)
        return wn_fail(error, WN_EPLUGIN,
                       "%s: rule WN-P-01: exports no " WN_PLUGIN_ENTRY
                       "; define it as winnow/plugin.h declares it",
                       entry->plugin.path);
    host->error->text[0] = '\0';
    entry->plugin.plugin = ask(host);
    if (entry->plugin.plugin == NULL)
        return wn_fail(error, WN_EPLUGIN, "%s: rule WN-P-08: the plugin refused to start: %s",
                       entry->plugin.path,
                       host->error->text[0] != '\0' ? host->error->text : "it gave no reason");
    return wn_contract_check(&entry->plugin, error);
}

static void destroy(loaded *entry)
{
    unmap_library(entry->handle, entry->fd);
    free(entry->plugin.path);
    free(entry);
}

/* Takes over file->fd. Under the lock. */
static wn_status load(const char *path, wn_plugin_file *file, loaded **out, wn_error *error)
{
    loaded *entry = calloc(1, sizeof *entry);
    char *copy = strdup(path);
    if (entry == NULL || copy == NULL) {
        free(entry);
        free(copy);
        close(file->fd);
        return wn_fail(error, WN_ENOMEM, "%s: out of memory while loading it", path);
    }
    entry->plugin.path = copy;
    entry->identity = file->identity;
    entry->fd = file->fd;
    wn_status status =
        wn_note_read(file->fd, file->identity.bytes, path, &entry->plugin.note, error);
    if (status == WN_OK)
        status = wn_note_matches(&entry->plugin.note, path, error);
    if (status == WN_OK)
        status = map_library(path, &entry->fd, &entry->handle, error);
    if (status == WN_OK)
        status = negotiate(entry, error);
    if (status != WN_OK) {
        destroy(entry);
        return status;
    }
    entry->next = all;
    all = entry;
    *out = entry;
    return WN_OK;
}

static wn_status open_now(const char *path, const wn_file_identity *expected, loaded **entry,
                          wn_error *error)
{
    wn_plugin_file file;
    *entry = expected != NULL ? find(expected) : NULL;
    if (*entry != NULL)
        return WN_OK;
    wn_status status = wn_plugin_file_open(path, &file, error);
    if (status != WN_OK)
        return status;
    if (expected != NULL && !wn_file_identity_equals(expected, &file.identity)) {
        close(file.fd);
        return wn_fail(error, WN_ESTATE,
                       "%s: has changed since the registry looked at it; call wn_registry_rescan",
                       path);
    }
    *entry = find(&file.identity);
    if (*entry == NULL)
        return load(path, &file, entry, error);
    close(file.fd);
    return WN_OK;
}

wn_status wn_loader_open(const char *path, const wn_file_identity *expected,
                         const wn_loaded_plugin **plugin, wn_error *error)
{
    loaded *entry = NULL;
    pthread_mutex_lock(&lock);
    wn_status status = open_now(path, expected, &entry, error);
    if (status == WN_OK) {
        entry->references++;
        *plugin = &entry->plugin;
    }
    pthread_mutex_unlock(&lock);
    /* A log sink is the host's code and may come back to us: not under the lock. */
    if (status == WN_OK)
        wn_log_line(WN_LOG_INFO, "load", "%s: %s %s is loaded", path, entry->plugin.note.algorithm,
                    entry->plugin.note.version);
    else
        wn_log_line(WN_LOG_WARNING, "load", "%s: not loaded: %s", path, wn_status_text(status));
    return status;
}

void wn_loader_release(const wn_loaded_plugin *plugin)
{
    loaded *entry = (loaded *)plugin;
    if (entry == NULL)
        return;
    pthread_mutex_lock(&lock);
    entry->references--;
    /* The CUDA runtime may hold pointers into a library with device code for ever. */
    if (entry->references == 0 && (entry->plugin.note.devices & WN_DEVICES_CUDA) == 0) {
        loaded **link = &all;
        while (*link != entry)
            link = &(*link)->next;
        *link = entry->next;
        destroy(entry);
    }
    pthread_mutex_unlock(&lock);
}

uint32_t wn_loader_count(void)
{
    uint32_t count = 0;
    pthread_mutex_lock(&lock);
    for (const loaded *entry = all; entry != NULL; entry = entry->next)
        count++;
    pthread_mutex_unlock(&lock);
    return count;
}

wn_status wn_plugin_open(const char *path, const wn_loaded_plugin **plugin, wn_error *error)
{
    return wn_loader_open(path, NULL, plugin, error);
}
