/* doctor.c: `winnow doctor`: everything about a machine and an installation that a bug report needs
 * and nobody remembers to write. */
#include "tools/command.h"
#include "tools/found_plugins.h"
#include "tools/machine.h"
#include "winnow/plugin.h"
#include "winnow/winnow.h"

#include <jansson.h>
#include <stdlib.h>

typedef struct doctor_options {
    const char *plugin_path;
    int32_t json;
} doctor_options;

static const wn_option rows[] = {
    {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, offsetof(doctor_options, plugin_path), 0, 0,
     WN_PLUGIN_PATH_HELP},
    {"json", 0, NULL, WN_OPTION_FLAG, offsetof(doctor_options, json), 0, 0, "print JSON"},
    {0}};

const wn_usage wn_usage_doctor = {
    "doctor",
    "",
    "Shows what a bug report needs: versions, processor, system, the variant chosen for each op, "
    "threads, the environment variables that matter, where plugins were searched for and what was "
    "found. Runs no plugin's code.",
    rows,
    0,
    0};

/* What of the environment changes what Winnow does. */
static const char *const variables[] = {"WINNOW_PLUGIN_PATH", "WINNOW_KERNELS", "WINNOW_LOG",
                                        "OMP_NUM_THREADS",    "XDG_DATA_HOME",  NULL};

static json_t *machine(void)
{
    wn_machine m = wn_machine_read();
    return json_pack("{s:s, s:s, s:I, s:i, s:s, s:s}", "processor", m.processor, "vector flags",
                     m.flags, "processors online", (json_int_t)m.processors, "threads used",
                     (int)wn_executor_default()->num_threads, "memory", m.memory, "system",
                     m.system);
}

static json_t *versions(void)
{
    return json_pack("{s:s, s:o, s:o, s:s}", "library", WN_LIBRARY_VERSION, "ABI",
                     json_sprintf("%u.%u", WN_ABI_MAJOR, WN_ABI_MINOR), "layout",
                     json_sprintf("0x%016llx", (unsigned long long)WN_ABI_LAYOUT), "compiler",
                     __VERSION__);
}

static json_t *lines(const char *text)
{
    json_t *array = json_array();
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        json_array_append_new(array, json_stringn(text, length));
        text += length + (text[length] == '\n');
    }
    return array;
}

static json_t *environment(void)
{
    json_t *object = json_object();
    for (int i = 0; variables[i] != NULL; i++) {
        const char *value = getenv(variables[i]);
        json_object_set_new(object, variables[i], value != NULL ? json_string(value) : json_null());
    }
    return object;
}

static json_t *plugins(const wn_registry *registry)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < wn_registry_count(registry); i++) {
        wn_plugin_info info = {.struct_size = WN_SIZEOF(wn_plugin_info)};
        if (wn_registry_info(registry, i, &info) == WN_OK)
            json_array_append_new(
                array, json_sprintf("%s %s, %s%s%s", info.algorithm != NULL ? info.algorithm : "?",
                                    info.version != NULL ? info.version : "?", info.path,
                                    info.problem != NULL ? ": cannot be used: " : "",
                                    info.problem != NULL ? info.problem : ""));
    }
    return array;
}

/* ---------------------------------------------------------------- for people */

static void print_value(const json_t *value)
{
    if (json_is_string(value))
        printf("%s\n", json_string_value(value));
    else if (json_is_integer(value))
        printf("%lld\n", (long long)json_integer_value(value));
    else
        printf("not set\n");
}

static void print_text(json_t *whole)
{
    const char *title, *key;
    json_t *part, *value;
    size_t i;
    json_object_foreach(whole, title, part)
    {
        printf("%s\n", title);
        json_object_foreach(part, key, value)
        {
            printf("  %-18s ", key);
            print_value(value);
        }
        json_array_foreach(part, i, value)
        {
            printf("  ");
            print_value(value);
        }
        if (json_is_array(part) && json_array_size(part) == 0)
            printf("  none\n");
    }
}

int wn_command_doctor(int argc, char **argv)
{
    doctor_options options = {0};
    int code = wn_options_parse(&wn_usage_doctor, argc, argv, &options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    wn_registry *registry = wn_found_plugins("doctor", options.plugin_path);
    if (registry == NULL)
        return WN_EXIT_FAILED;
    json_t *whole =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "versions", versions(), "machine", machine(),
                  "ops", lines(wn_cpu_ops_report()), "environment", environment(), "searched",
                  lines(wn_registry_searched(registry)), "plugins", plugins(registry));
    if (options.json) {
        json_dumpf(whole, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_text(whole);
    }
    json_decref(whole);
    wn_registry_close(registry);
    return WN_EXIT_FINE;
}
