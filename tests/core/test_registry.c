/* test_registry.c: the registry as hosts and the engine see it. */
#include "check_scratch.h"
#include "suite.h"

#include "core/loader.h"
#include "core/registry.h"

#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

static char text[16384];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

static wn_registry *open_registry(const char *path)
{
    wn_registry *registry = NULL;
    setenv("HOME", "/nonexistent", 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("WINNOW_PLUGIN_PATH");
    CU_ASSERT_EQUAL_FATAL(wn_registry_open(path, &registry), WN_OK);
    return registry;
}

static void lists(void)
{
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "a.so");
    scratch_install(0, "old_abi", "b.so");
    wn_registry *registry = open_registry(directory);
    wn_plugin_info info = {.struct_size = WN_SIZEOF(wn_plugin_info)};
    CU_ASSERT_EQUAL_FATAL(wn_registry_count(registry), 2);
    CU_ASSERT_EQUAL(wn_registry_info(registry, 0, &info), WN_OK);
    CU_ASSERT_STRING_EQUAL(info.path, scratch_path(0, "a.so"));
    CU_ASSERT_STRING_EQUAL(info.algorithm, "sample");
    CU_ASSERT_STRING_EQUAL(info.version, "1.0");
    CU_ASSERT_STRING_EQUAL(info.license, "MIT");
    CU_ASSERT_STRING_EQUAL(info.summary, "newest tokens");
    CU_ASSERT_EQUAL(info.interfaces, WN_HAS_CONFIG | WN_HAS_PREDICTOR);
    CU_ASSERT_EQUAL(info.devices, WN_DEVICES_CPU);
    CU_ASSERT_EQUAL(info.abi_built, WN_ABI_VERSION);
    CU_ASSERT_PTR_NULL(info.problem);
    CU_ASSERT_EQUAL(wn_registry_info(registry, 1, &info), WN_OK);
    CU_ASSERT_PTR_NOT_NULL(info.problem);
    CU_ASSERT_EQUAL(wn_registry_info(registry, 2, &info), WN_ERANGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_error_text(), "index is 2, there are 2"));
    info.struct_size = 8;
    CU_ASSERT_EQUAL(wn_registry_info(registry, 0, &info), WN_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_registry_searched(registry), directory));
    wn_registry_close(registry);
    wn_registry_close(NULL);
    CU_ASSERT_EQUAL(wn_registry_open(NULL, NULL), WN_EINVAL);
    scratch_remove(0);
}

static void acquires(void)
{
    const wn_loaded_plugin *one = NULL, *two = NULL;
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "a.so");
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL(wn_loader_count(), 0); /* looking is not loading */
    CU_ASSERT_EQUAL_FATAL(wn_registry_acquire(registry, "sample", &one, &error), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_registry_acquire(registry, "sample", &two, &error), WN_OK);
    CU_ASSERT_PTR_EQUAL(one, two);
    wn_registry_close(registry); /* closing first is fine */
    wn_registry_release(one);
    CU_ASSERT_STRING_EQUAL(two->plugin->algorithm, "sample");
    wn_registry_release(two);
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    scratch_remove(0);
}

static void expect_text(const char *part)
{
    if (strstr(text, part) == NULL)
        printf("\nexpected \"%s\" in:\n%s\n", part, text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, part));
}

static void not_found(void)
{
    const wn_loaded_plugin *plugin = NULL;
    const char *directory = scratch_make(0);
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "sample", &plugin, &error), WN_ENOTFOUND);
    expect_text("there is no plugin for algorithm \"sample\"");
    expect_text("there are: none at all");
    expect_text(directory);
    scratch_install(0, "good", "a.so");
    chmod(scratch_install(0, "good", "b.so"), 0666);
    CU_ASSERT_EQUAL(wn_registry_rescan(registry), WN_OK);
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "smaple", &plugin, &error), WN_ENOTFOUND);
    expect_text("did you mean \"sample\"?");
    expect_text("there are: sample");
    expect_text("not usable: ");
    expect_text("writable by everybody");
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "\033[2J\n", &plugin, &error), WN_ENOTFOUND);
    CU_ASSERT_PTR_NULL(strchr(text, '\033'));
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "", &plugin, &error), WN_ENOTFOUND);
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, NULL, &plugin, &error), WN_EINVAL);
    wn_registry_close(registry);
    scratch_remove(0);
}

/* The file is there, but nobody can use it: the refusal says why. */
static void unusable(void)
{
    const wn_loaded_plugin *plugin = NULL;
    const char *directory = scratch_make(0);
    scratch_install(0, "new_abi", "a.so");
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "sample", &plugin, &error), WN_ENOTFOUND);
    expect_text("not usable: ");
    expect_text("ABI 7.3");
    scratch_install(0, "good", "b.so");
    scratch_install(0, "good", "c.so");
    CU_ASSERT_EQUAL(wn_registry_rescan(registry), WN_OK);
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "sample", &plugin, &error), WN_ECONFLICT);
    expect_text("/b.so");
    expect_text("/c.so");
    wn_registry_close(registry);
    scratch_remove(0);
}

static void dropped_in(void)
{
    const wn_loaded_plugin *plugin = NULL;
    const char *directory = scratch_make(0);
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL(wn_registry_count(registry), 0);
    scratch_install(0, "good", "a.so");
    CU_ASSERT_EQUAL(wn_registry_rescan(registry), WN_OK);
    CU_ASSERT_EQUAL(wn_registry_count(registry), 1);
    CU_ASSERT_EQUAL_FATAL(wn_registry_acquire(registry, "sample", &plugin, &error), WN_OK);
    wn_registry_release(plugin);
    remove(scratch_path(0, "a.so"));
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "sample", &plugin, &error), WN_ENOTFOUND);
    CU_ASSERT_EQUAL(wn_registry_rescan(registry), WN_OK);
    CU_ASSERT_EQUAL(wn_registry_count(registry), 0);
    wn_registry_close(registry);
    scratch_remove(0);
}

/* Who holds the old edition keeps it; who asks after the rescan gets the new one. */
static void replaced(void)
{
    const wn_loaded_plugin *old = NULL, *still = NULL, *fresh = NULL;
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "a.so");
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL_FATAL(wn_registry_acquire(registry, "sample", &old, &error), WN_OK);
    scratch_install(0, "none_newer", "a.so");
    CU_ASSERT_EQUAL_FATAL(wn_registry_acquire(registry, "sample", &still, &error), WN_OK);
    CU_ASSERT_PTR_EQUAL(old, still);
    wn_registry_release(still);
    CU_ASSERT_EQUAL(wn_registry_rescan(registry), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_registry_acquire(registry, "sample", &fresh, &error), WN_OK);
    CU_ASSERT_STRING_EQUAL(old->plugin->version, "1.0");
    CU_ASSERT_STRING_EQUAL(fresh->plugin->version, "2.0");
    wn_registry_release(old);
    wn_registry_release(fresh);
    /* Changed again, and the old edition is gone: said, not guessed. */
    scratch_install(0, "good", "a.so");
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "sample", &fresh, &error), WN_ESTATE);
    expect_text("wn_registry_rescan");
    wn_registry_close(registry);
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    scratch_remove(0);
}

static void schemas(void)
{
    const wn_config_interface *schema = NULL, *again = NULL;
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "a.so");
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL_FATAL(wn_registry_schema(registry, "sample", &schema), WN_OK);
    CU_ASSERT_EQUAL(schema->num_fields, 1);
    CU_ASSERT_EQUAL_FATAL(wn_registry_schema(registry, "sample", &again), WN_OK);
    CU_ASSERT_PTR_EQUAL(schema, again);
    scratch_install(0, "none_newer", "a.so");
    CU_ASSERT_EQUAL(wn_registry_rescan(registry), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_registry_schema(registry, "sample", &again), WN_OK);
    CU_ASSERT_PTR_NOT_EQUAL(schema, again);
    CU_ASSERT_STRING_EQUAL(schema->fields[0].name, "keep"); /* valid until the registry is closed */
    CU_ASSERT_EQUAL(wn_loader_count(), 2);
    CU_ASSERT_EQUAL(wn_registry_schema(registry, "other", &again), WN_ENOTFOUND);
    CU_ASSERT_EQUAL(wn_registry_schema(registry, "sample", NULL), WN_EINVAL);
    wn_registry_close(registry);
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    scratch_remove(0);
}

static void broken_plugin_is_refused(void)
{
    const wn_loaded_plugin *plugin = NULL;
    const char *directory = scratch_make(0);
    scratch_install(0, "null_create", "a.so");
    wn_registry *registry = open_registry(directory);
    CU_ASSERT_EQUAL(wn_registry_count(registry), 1);
    CU_ASSERT_EQUAL(wn_registry_acquire(registry, "sample", &plugin, &error), WN_EPLUGIN);
    expect_text("WN-P-10");
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    wn_registry_close(registry);
    scratch_remove(0);
}

static void *use(void *argument)
{
    wn_registry *registry = argument;
    char own[16384];
    wn_error own_error = {WN_SIZEOF(wn_error), sizeof own, own};
    intptr_t failures = 0;
    for (int i = 0; i < 60; i++) {
        const wn_loaded_plugin *plugin = NULL;
        const wn_config_interface *schema = NULL;
        if (i % 4 == 0 && wn_registry_rescan(registry) != WN_OK)
            failures++;
        if (wn_registry_acquire(registry, "sample", &plugin, &own_error) != WN_OK)
            failures++;
        else
            wn_registry_release(plugin);
        if (wn_registry_schema(registry, "sample", &schema) != WN_OK)
            failures++;
        if (wn_registry_count(registry) != 1)
            failures++;
    }
    return (void *)failures;
}

static void from_many_threads(void)
{
    pthread_t threads[4];
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "a.so");
    wn_registry *registry = open_registry(directory);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, use, registry), 0);
    for (int i = 0; i < 4; i++) {
        void *failures;
        pthread_join(threads[i], &failures);
        CU_ASSERT_PTR_NULL(failures);
    }
    wn_registry_close(registry);
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
    scratch_remove(0);
}

WN_SUITE("core.registry", {"lists", lists}, {"acquires", acquires}, {"not found", not_found},
         {"unusable", unusable}, {"dropped in", dropped_in}, {"replaced", replaced},
         {"schemas", schemas}, {"broken plugin is refused", broken_plugin_is_refused},
         {"from many threads", from_many_threads})
