/* check_plugin.c: see check_plugin.h. */
#include "check_plugin.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static char last_log[256];
static int num_logs;

void check_require(int condition, const char *text, const char *file, int line)
{
    if (condition)
        return;
    fprintf(stderr, "%s:%d: cannot go on: %s does not hold\n", file, line, text);
    exit(2);
}

static void log_write(uint32_t level, const char *algorithm, const char *text)
{
    snprintf(last_log, sizeof last_log, "%u %s: %s", level, algorithm, text);
    num_logs++;
}

const char *check_plugin_last_log(void)
{
    return last_log;
}

int check_plugin_num_logs(void)
{
    return num_logs;
}

static const void *get_service(const char *id)
{
    static const wn_log log = {.struct_size = WN_SIZEOF(wn_log), .write = log_write};
    return strcmp(id, WN_SERVICE_LOG) == 0 ? &log : NULL;
}

check_plugin check_plugin_open(const char *algorithm)
{
    static char text[256];
    static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    static const wn_host host = {.struct_size = WN_SIZEOF(wn_host),
                                 .abi_min = WN_ABI_VERSION,
                                 .abi_max = WN_ABI_VERSION,
                                 .name = "tests",
                                 .error = &error,
                                 .get_service = get_service};
    char path[512];
    check_plugin plugin;
    const wn_plugin *(*entry)(const wn_host *);
    snprintf(path, sizeof path, "%s/%s.so", WN_TEST_PLUGINS, algorithm);
    plugin.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (plugin.library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    CHECK_REQUIRE(plugin.library != NULL);
    *(void **)&entry = dlsym(plugin.library, WN_PLUGIN_ENTRY);
    CHECK_REQUIRE(entry != NULL);
    const wn_plugin *door = entry(&host);
    CHECK_REQUIRE(door != NULL && strcmp(door->algorithm, algorithm) == 0);
    plugin.config = door->get_interface(WN_INTERFACE_CONFIG);
    plugin.predictor = door->get_interface(WN_INTERFACE_PREDICTOR);
    plugin.aux_pool = door->get_interface(WN_INTERFACE_AUX_POOL);
    plugin.kernel_hook = door->get_interface(WN_INTERFACE_KERNEL_HOOK);
    CHECK_REQUIRE(plugin.config != NULL && plugin.config->num_fields <= CHECK_MAX_FIELDS);
    return plugin;
}

void check_plugin_close(check_plugin *plugin)
{
    dlclose(plugin->library);
}

static int64_t enum_index(const wn_config_field *field, const char *name)
{
    for (int64_t i = 0; field->enum_names[i] != NULL; i++)
        if (strcmp(field->enum_names[i], name) == 0)
            return i;
    return -1;
}

static void set(const wn_config_field *field, double number, const char *text, wn_value *value)
{
    value->has_value = 1;
    value->i = field->type == WN_FIELD_ENUM ? enum_index(field, text) : (int64_t)number;
    value->f = number;
    value->s = text;
    CHECK_REQUIRE(value->i >= 0);
    for (int phase = 0; phase < WN_PHASE_COUNT; phase++)
        value->phase[phase] = number;
    value->phase_set = field->type == WN_FIELD_PHASE_FLOAT ? (1u << WN_PHASE_COUNT) - 1 : 0;
}

void check_plugin_values(const check_plugin *plugin, const check_setting *settings,
                         wn_value *values)
{
    const wn_config_interface *config = plugin->config;
    memset(values, 0, CHECK_MAX_FIELDS * sizeof *values);
    for (uint32_t f = 0; f < config->num_fields; f++) {
        const wn_config_field *field = &config->fields[f];
        if (field->default_text == NULL)
            continue;
        double number =
            strcmp(field->default_text, "true") == 0 ? 1 : strtod(field->default_text, NULL);
        set(field, number, field->default_text, &values[f]);
    }
    for (; settings != NULL && settings->name != NULL; settings++) {
        uint32_t f = 0;
        while (f < config->num_fields && strcmp(config->fields[f].name, settings->name) != 0)
            f++;
        CHECK_REQUIRE(f < config->num_fields);
        set(&config->fields[f], settings->number, settings->text, &values[f]);
        values[f].is_set = 1;
    }
}

static void add_reason(void *context, const char *text)
{
    char *all = context;
    size_t used = strlen(all);
    snprintf(all + used, 1024 - used, "%s%s", used > 0 ? "\n" : "", text);
}

const char *check_plugin_reasons(const check_plugin *plugin, const wn_model *model,
                                 const wn_value *values)
{
    static char all[1024];
    const wn_reasons reasons = {WN_SIZEOF(wn_reasons), 0, all, add_reason};
    all[0] = '\0';
    if (plugin->config->check != NULL) {
        wn_status status = plugin->config->check(model, values, &reasons);
        CHECK_REQUIRE((status == WN_OK) == (all[0] == '\0'));
    }
    return all;
}
