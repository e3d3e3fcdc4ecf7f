/* test_contract.c: each plugin of the family with one mistake is refused, and the text says which.
 */
#include "check_scratch.h"
#include "suite.h"

#include "core/contract.h"
#include "core/loader.h"

#include <string.h>

static char text[4096];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

static wn_status open_plugin(const char *name)
{
    const wn_loaded_plugin *plugin = NULL;
    scratch_make(0);
    text[0] = '\0';
    wn_status status = wn_plugin_open(scratch_install(0, name, "plugin.so"), &plugin, &error);
    if (status == WN_OK)
        wn_registry_release(plugin);
    scratch_remove(0);
    return status;
}

static const struct {
    const char *plugin;
    wn_status status;
    const char *rule, *says;
} mistakes[] = {
    {"no_entry", WN_EPLUGIN, "WN-P-01", "exports no wn_plugin_entry"},
    {"undefined", WN_EPLUGIN, "WN-P-03", "nobody_has_this"},
    {"field_size", WN_EABI, "WN-P-04", "wn_config_field.struct_size is 8, expected 72"},
    {"short_config", WN_EABI, "WN-P-04", "wn_config_interface.struct_size is 8, expected 64"},
    {"short_plugin", WN_EABI, "WN-P-04", "wn_plugin.struct_size is 8, expected 32"},
    {"algorithm_characters", WN_EFORMAT, "WN-P-05", "Sample/1"},
    {"two_notes", WN_EFORMAT, "WN-P-05", "more than one"},
    {"algorithm_differs", WN_EPLUGIN, "WN-P-05",
     "wn_plugin.algorithm is \"another\", the note's is \"sample\""},
    {"version_differs", WN_EPLUGIN, "WN-P-05",
     "wn_plugin.version is \"1.0.1\", the note's is \"1.0\""},
    {"old_abi", WN_EABI, "WN-P-06", "ABI 0.0"},
    {"new_abi", WN_EABI, "WN-P-06", "ABI 7.3"},
    {"lying_abi", WN_EABI, "WN-P-06", "abi_version is 9.9"},
    {"other_layout", WN_EABI, "WN-P-06", "0x0123456789abcdef"},
    {"entry_null", WN_EPLUGIN, "WN-P-08", "gave no reason"},
    {"entry_refuses", WN_EPLUGIN, "WN-P-08", "no abacus"},
    {"interface_absent", WN_EPLUGIN, "WN-P-09", "winnow.aux_pool/1"},
    {"interface_unclaimed", WN_EPLUGIN, "WN-P-09", "winnow.predictor/1"},
    {"no_config", WN_EPLUGIN, "WN-P-10", "winnow.config/1"},
    {"null_get_interface", WN_EPLUGIN, "WN-P-10", "get_interface is NULL"},
    {"null_create", WN_EPLUGIN, "WN-P-10", "wn_config_interface.create is NULL"},
    {"null_destroy", WN_EPLUGIN, "WN-P-10", "wn_config_interface.destroy is NULL"},
    {"null_lower", WN_EPLUGIN, "WN-P-10", "wn_config_interface.lower is NULL"},
    {"null_bounds", WN_EPLUGIN, "WN-P-10", "wn_predictor_interface.bounds is NULL"},
    {"field_name", WN_EPLUGIN, "WN-P-11", "\"Keep It\""},
    {"field_type", WN_EPLUGIN, "WN-P-11", "keep: type is 77"},
    {"field_twice", WN_EPLUGIN, "WN-P-11", "both named \"keep\""},
    {"range", WN_EPLUGIN, "WN-P-11", "least is 100 and greatest is 10"},
    {"default", WN_EPLUGIN, "WN-P-11", "many"},
    {"default_range", WN_EPLUGIN, "WN-P-11", "keep"},
};

static void every_mistake_is_named(void)
{
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        wn_status status = open_plugin(mistakes[i].plugin);
        int named =
            strstr(text, mistakes[i].rule) != NULL && strstr(text, mistakes[i].says) != NULL;
        if (status != mistakes[i].status || !named)
            printf("\n%s: status %d, expected %d, %s and \"%s\": %s\n", mistakes[i].plugin, status,
                   mistakes[i].status, mistakes[i].rule, mistakes[i].says, text);
        CU_ASSERT_EQUAL(status, mistakes[i].status);
        CU_ASSERT(named);
        CU_ASSERT_PTR_NOT_NULL(strstr(text, "/plugin.so: ")); /* whose mistake it is */
    }
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
}

static void without_mistake(void)
{
    CU_ASSERT_EQUAL(open_plugin("good"), WN_OK);
    CU_ASSERT_EQUAL(open_plugin("none_newer"), WN_OK);
    CU_ASSERT_EQUAL(wn_loader_count(), 0);
}

/* What no compiler would produce: values that only memory can hold. */
static wn_config_field field;
static wn_config_interface config;
static const void *own_interface(const char *id)
{
    return strcmp(id, WN_INTERFACE_CONFIG) == 0 ? &config : NULL;
}
static wn_status create(const wn_model *m, const wn_value *v, void **i, wn_error *e)
{
    (void)m, (void)v, (void)i, (void)e;
    return WN_OK;
}
static void destroy(void *instance)
{
    (void)instance;
}
static wn_status lower(void *i, uint32_t l, uint32_t p, uint32_t *r, char *w, uint64_t n,
                       wn_error *e)
{
    (void)i, (void)l, (void)p, (void)r, (void)w, (void)n, (void)e;
    return WN_OK;
}

static void expect_schema(wn_status expected, const char *part)
{
    static const wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, "own", "1",
                                     own_interface};
    char path[] = "own.so";
    wn_loaded_plugin loaded = {.plugin = &plugin, .path = path};
    loaded.note.interfaces = WN_HAS_CONFIG;
    strcpy(loaded.note.algorithm, "own");
    strcpy(loaded.note.version, "1");
    text[0] = '\0';
    wn_status status = wn_contract_check(&loaded, &error);
    if (status != expected || strstr(text, part) == NULL)
        printf("\nstatus %d, expected %d and \"%s\": %s\n", status, expected, part, text);
    CU_ASSERT_EQUAL(status, expected);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, part));
    field = (wn_config_field){
        WN_SIZEOF(wn_config_field), WN_FIELD_INT, 0, 0, "f", "", "help", "1", 0, 10, NULL};
    config = (wn_config_interface){
        WN_SIZEOF(wn_config_interface), 1, &field, NULL, NULL, create, destroy, lower, NULL};
}

static void schemas(void)
{
    static const char *const nameless[] = {"", NULL};
    static const char *const names[] = {"one", "two", NULL};
    static const char *const none[] = {NULL};
    expect_schema(WN_EABI, ""); /* all zero; also sets up what follows */
    expect_schema(WN_OK, "");
    config.fields = NULL;
    expect_schema(WN_EPLUGIN, "1 fields and no list");
    config.num_fields = 100000;
    expect_schema(WN_EPLUGIN, "100000 fields");
    config.num_fields = 0, config.fields = NULL;
    expect_schema(WN_OK, "");
    config.inputs = nameless;
    expect_schema(WN_EPLUGIN, "input 0 is empty");
    field.name = NULL;
    expect_schema(WN_EPLUGIN, "(NULL)");
    field.name = "algorithm";
    expect_schema(WN_EPLUGIN, "\"algorithm\"");
    field.name = "layers";
    expect_schema(WN_EPLUGIN, "\"layers\"");
    field.name = "a123456789012345678901234567890123456789012345678901234567890123";
    expect_schema(WN_EPLUGIN, "expected [a-z0-9_]{1,63}");
    field.flags = 64;
    expect_schema(WN_EPLUGIN, "flags are 0x40");
    field.reserved = 1;
    expect_schema(WN_EPLUGIN, "reserved is 1");
    field.help = "";
    expect_schema(WN_EPLUGIN, "help");
    field.help = "two\nlines";
    expect_schema(WN_EPLUGIN, "help");
    field.unit = NULL;
    expect_schema(WN_EPLUGIN, "unit");
    field.least = 0.0 / 0.0;
    expect_schema(WN_EPLUGIN, "least");
    field.enum_names = names;
    expect_schema(WN_EPLUGIN, "enum_names");
    field.type = WN_FIELD_ENUM, field.enum_names = none;
    expect_schema(WN_EPLUGIN, "enum_names");
    field.type = WN_FIELD_ENUM, field.enum_names = names, field.default_text = "three";
    expect_schema(WN_EPLUGIN, "three");
    field.type = WN_FIELD_ENUM, field.enum_names = names, field.default_text = "two";
    expect_schema(WN_OK, "");
    field.type = WN_FIELD_BOOL, field.flags = WN_FIELD_BUDGET;
    expect_schema(WN_EPLUGIN, "BUDGET");
    field.flags = WN_FIELD_REQUIRED;
    expect_schema(WN_EPLUGIN, "one of both");
    field.flags = WN_FIELD_REQUIRED, field.default_text = NULL;
    expect_schema(WN_OK, "");
    field.default_text = "11";
    expect_schema(WN_EPLUGIN, "11");
}

WN_SUITE("core.contract", {"without mistake", without_mistake},
         {"every mistake is named", every_mistake_is_named}, {"schemas", schemas})
