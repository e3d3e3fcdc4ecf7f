/* test_loader.c: loading once, unloading at the last release, replacing while in use. */
#include "check_scratch.h"
#include "suite.h"

#include "core/loader.h"

#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char text[4096];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

static const wn_loaded_plugin *load(const char *path)
{
    const wn_loaded_plugin *plugin = NULL;
    wn_status status = wn_plugin_open(path, &plugin, &error);
    if (status != WN_OK)
        printf("\n%s\n", text);
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
    return plugin;
}

/* Is some part of a file of this name mapped? */
static int is_mapped(const char *name)
{
    size_t capacity = 0;
    char *line = NULL;
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(maps);
    while (getline(&line, &capacity, maps) > 0)
        found |= strstr(line, name) != NULL;
    free(line);
    fclose(maps);
    return found;
}

static void loads_and_unloads(void)
{
    scratch_make(0);
    const char *path = scratch_install(0, "good", "good.so");
    const wn_loaded_plugin *plugin = load(path);
    CU_ASSERT_STRING_EQUAL(plugin->plugin->algorithm, "sample");
    CU_ASSERT_STRING_EQUAL(plugin->note.summary, "newest tokens");
    CU_ASSERT_STRING_EQUAL(plugin->path, path);
    CU_ASSERT_PTR_NOT_NULL(plugin->config);
    CU_ASSERT_PTR_NOT_NULL(plugin->predictor);
    CU_ASSERT_PTR_NULL(plugin->aux_pool);
    CU_ASSERT_PTR_NULL(plugin->kernel_hook);
    CU_ASSERT(is_mapped(path));
    wn_registry_release(plugin);
    CU_ASSERT(!is_mapped(path));
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    wn_registry_release(NULL);
    scratch_remove(0);
}

static void loads_once(void)
{
    scratch_make(0);
    const char *path = scratch_install(0, "good", "good.so");
    const wn_loaded_plugin *one = load(path);
    const wn_loaded_plugin *two = load(path);
    CU_ASSERT_PTR_EQUAL(one, two);
    /* The same file by another name is the same file. */
    CU_ASSERT_EQUAL(link(path, scratch_path(0, "other.so")), 0);
    const wn_loaded_plugin *three = load(scratch_path(0, "other.so"));
    CU_ASSERT_PTR_EQUAL(one, three);
    CU_ASSERT_EQUAL(wn_loader_count(), 1);
    wn_registry_release(one);
    wn_registry_release(one);
    CU_ASSERT(is_mapped(path));
    wn_registry_release(one);
    CU_ASSERT(!is_mapped(path));
    scratch_remove(0);
}

/* Two copies are two plugins, each with its own state. */
static void copies_are_apart(void)
{
    scratch_make(0);
    const wn_loaded_plugin *one = load(scratch_install(0, "good", "one.so"));
    const wn_loaded_plugin *two = load(scratch_install(0, "good", "two.so"));
    CU_ASSERT_PTR_NOT_EQUAL(one, two);
    CU_ASSERT_PTR_NOT_EQUAL(one->plugin, two->plugin);
    wn_registry_release(one);
    CU_ASSERT_STRING_EQUAL(two->plugin->algorithm, "sample");
    wn_registry_release(two);
    scratch_remove(0);
}

/* Descriptor numbers are used again and again; "/proc/self/fd/N" must not mean an old library. */
static void many_after_each_other(void)
{
    scratch_make(0);
    for (int i = 0; i < 20; i++) {
        const char *version = i % 2 ? "2.0" : "1.0";
        const wn_loaded_plugin *plugin =
            load(scratch_install(0, i % 2 ? "none_newer" : "good", "plugin.so"));
        CU_ASSERT_STRING_EQUAL(plugin->plugin->version, version);
        wn_registry_release(plugin);
    }
    scratch_remove(0);
}

static void replaced_while_in_use(void)
{
    scratch_make(0);
    const char *path = scratch_install(0, "good", "plugin.so");
    const wn_loaded_plugin *old = load(path);
    scratch_install(0, "none_newer", "plugin.so");
    const wn_loaded_plugin *fresh = load(path);
    CU_ASSERT_PTR_NOT_EQUAL(old, fresh);
    CU_ASSERT_STRING_EQUAL(old->plugin->version, "1.0");
    CU_ASSERT_STRING_EQUAL(fresh->plugin->version, "2.0");
    wn_registry_release(old);
    CU_ASSERT_STRING_EQUAL(fresh->plugin->version, "2.0");
    wn_registry_release(fresh);
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    scratch_remove(0);
}

/* Same inode, new bytes: the dynamic linker would hand out the old library. The bytes that are
 * mapped stay as they are here: only the end of the file changes. */
static void overwritten_in_place(void)
{
    const wn_loaded_plugin *again = NULL;
    scratch_make(0);
    const char *path = scratch_install(0, "good", "plugin.so");
    const wn_loaded_plugin *plugin = load(path);
    FILE *file = fopen(path, "ab");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs("more", file);
    fclose(file);
    CU_ASSERT_EQUAL(wn_plugin_open(path, &again, &error), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "overwritten in place"));
    wn_registry_release(plugin);
    CU_ASSERT(!is_mapped(path));
    wn_registry_release(load(path));
    scratch_remove(0);
}

/* A scan's finding is loaded or nothing is. */
static void expected_edition(void)
{
    wn_plugin_file file;
    const wn_loaded_plugin *plugin = NULL, *again = NULL;
    scratch_make(0);
    const char *path = scratch_install(0, "good", "plugin.so");
    CU_ASSERT_EQUAL_FATAL(wn_plugin_file_open(path, &file, &error), WN_OK);
    close(file.fd);
    CU_ASSERT_EQUAL_FATAL(wn_loader_open(path, &file.identity, &plugin, &error), WN_OK);
    scratch_install(0, "none_newer", "plugin.so");
    /* The old edition is in memory: it is what was asked for. */
    CU_ASSERT_EQUAL_FATAL(wn_loader_open(path, &file.identity, &again, &error), WN_OK);
    CU_ASSERT_PTR_EQUAL(plugin, again);
    wn_registry_release(plugin);
    wn_registry_release(plugin);
    CU_ASSERT_EQUAL(wn_loader_open(path, &file.identity, &plugin, &error), WN_ESTATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "wn_registry_rescan"));
    scratch_remove(0);
}

static void device_code_stays(void)
{
    scratch_make(0);
    const char *path = scratch_install(0, "none_cuda", "plugin.so");
    const wn_loaded_plugin *plugin = load(path);
    wn_registry_release(plugin);
    CU_ASSERT(is_mapped(path));
    CU_ASSERT_EQUAL(wn_loader_count(), 1);
    CU_ASSERT_PTR_EQUAL(load(path), plugin);
    wn_registry_release(plugin);
    scratch_remove(0);
}

static void untrusted_is_not_run(void)
{
    const wn_loaded_plugin *plugin = NULL;
    scratch_make(0);
    const char *path = scratch_install(0, "good", "plugin.so");
    const char *marker = scratch_path(0, "marker");
    setenv("WN_TEST_MARKER", marker, 1);
    chmod(path, 0666);
    CU_ASSERT_EQUAL(wn_plugin_open(path, &plugin, &error), WN_ETRUST);
    CU_ASSERT_NOT_EQUAL(access(marker, F_OK), 0);
    scratch_install(0, "other_layout", "plugin.so");
    CU_ASSERT_EQUAL(wn_plugin_open(path, &plugin, &error), WN_EABI);
    CU_ASSERT_NOT_EQUAL(access(marker, F_OK), 0);
    scratch_install(0, "good", "plugin.so");
    wn_registry_release(load(path));
    CU_ASSERT_EQUAL(access(marker, F_OK), 0); /* so the marker works */
    unsetenv("WN_TEST_MARKER");
    scratch_remove(0);
}

static void *load_and_release(void *path)
{
    char own[2048];
    wn_error own_error = {WN_SIZEOF(wn_error), sizeof own, own};
    intptr_t failures = 0;
    for (int i = 0; i < 50; i++) {
        const wn_loaded_plugin *plugin = NULL;
        if (wn_plugin_open(path, &plugin, &own_error) != WN_OK ||
            strcmp(plugin->plugin->algorithm, "sample") != 0)
            failures++;
        else
            wn_registry_release(plugin);
    }
    return (void *)failures;
}

static void from_many_threads(void)
{
    pthread_t threads[4];
    char path[512];
    uint32_t before = wn_loader_count();
    scratch_make(0);
    strcpy(path, scratch_install(0, "good", "plugin.so"));
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, load_and_release, path), 0);
    for (int i = 0; i < 4; i++) {
        void *failures;
        pthread_join(threads[i], &failures);
        CU_ASSERT_PTR_NULL(failures);
    }
    CU_ASSERT_EQUAL(wn_loader_count(), before);
    scratch_remove(0);
}

WN_SUITE("core.loader", {"loads and unloads", loads_and_unloads}, {"loads once", loads_once},
         {"copies are apart", copies_are_apart}, {"many after each other", many_after_each_other},
         {"replaced while in use", replaced_while_in_use},
         {"overwritten in place", overwritten_in_place}, {"expected edition", expected_edition},
         {"untrusted is not run", untrusted_is_not_run}, {"from many threads", from_many_threads},
         {"device code stays", device_code_stays})
