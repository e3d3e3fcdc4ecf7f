/* list.c: `winnow list`: the plugins that the registry finds, from their notes. No plugin's code
 * runs: the registry has read files, and this prints what it has read. */
#include "tools/command.h"
#include "tools/found_plugins.h"
#include "tools/sets.h"
#include "winnow/winnow.h"

#include <jansson.h>
#include <unistd.h>

typedef struct list_options {
    const char *plugin_path;
    int32_t json;
} list_options;

static const wn_option rows[] = {
    {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, offsetof(list_options, plugin_path), 0, 0,
     WN_PLUGIN_PATH_HELP},
    {"json", 0, NULL, WN_OPTION_FLAG, offsetof(list_options, json), 0, 0, "print JSON"},
    {0}};

const wn_usage wn_usage_list = {
    "list",
    "",
    "Lists the plugins that are found, as their ELF notes describe them, running none of their "
    "code. A plugin with a problem is listed with it and cannot be used.\n\n"
    "Exit status: 0 all are usable, 1 one has a problem, 3 could not look.",
    rows,
    0,
    0};

static const char *text(const char *value)
{
    return value != NULL ? value : "";
}

static void print_plugin(const wn_plugin_info *info)
{
    char interfaces[128], devices[64];
    if (text(info->algorithm)[0] == '\0') { /* the file could not be read as a plugin */
        printf("%s\n%-16s cannot be used: %s\n", info->path, "", info->problem);
        return;
    }
    wn_interfaces_text(info->interfaces, interfaces, sizeof interfaces);
    wn_devices_text(info->devices, devices, sizeof devices);
    printf("%-16s %-8s %-10s ABI %u.%-4u %-32s %s\n", text(info->algorithm), text(info->version),
           devices, WN_VERSION_MAJOR(info->abi_built), WN_VERSION_MINOR(info->abi_built),
           interfaces, text(info->summary));
    printf("%-16s %s\n", "", text(info->path));
    if (info->problem != NULL)
        printf("%-16s cannot be used: %s\n", "", info->problem);
}

static json_t *plugin_json(const wn_plugin_info *info)
{
    char abi[24];
    snprintf(abi, sizeof abi, "%u.%u", WN_VERSION_MAJOR(info->abi_built),
             WN_VERSION_MINOR(info->abi_built));
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:s, s:s, s:s?}", "algorithm",
                     text(info->algorithm), "version", text(info->version), "license",
                     text(info->license), "summary", text(info->summary), "interfaces",
                     wn_interfaces_json(info->interfaces), "devices",
                     wn_devices_json(info->devices), "abi", abi, "path", text(info->path),
                     "problem", info->problem);
}

static int print_all(const wn_registry *registry, int as_json)
{
    uint32_t count = wn_registry_count(registry), problems = 0;
    json_t *plugins = json_array();
    for (uint32_t i = 0; i < count; i++) {
        wn_plugin_info info = {.struct_size = WN_SIZEOF(wn_plugin_info)};
        if (wn_registry_info(registry, i, &info) != WN_OK)
            continue;
        problems += info.problem != NULL;
        if (as_json)
            json_array_append_new(plugins, plugin_json(&info));
        else
            print_plugin(&info);
    }
    if (as_json) {
        json_dumpf(plugins, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (count == 0) {
        printf("no plugins found; searched:\n%s\n", wn_registry_searched(registry));
    }
    json_decref(plugins);
    return problems > 0 ? WN_EXIT_FINDINGS : WN_EXIT_FINE;
}

int wn_command_list(int argc, char **argv)
{
    list_options options = {0};
    int code = wn_options_parse(&wn_usage_list, argc, argv, &options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    wn_registry *registry = wn_found_plugins("list", options.plugin_path);
    if (registry == NULL)
        return WN_EXIT_FAILED;
    code = print_all(registry, options.json);
    wn_registry_close(registry);
    return code;
}
