/* contract.c: the checks between loading a plugin and believing it. Negotiation was an offer and an
 * answer; the answer is checked again here, and so is everything that the core will later rely on
 * without asking. Rule numbers are those of abi/README.md. */
#include "core/contract.h"

#include "core/config_file.h"

#include <string.h>

/* More fields than any method has; a number beyond it is a sign of garbage. */
#define MAX_FIELDS 256

#define FAIL(loaded, error, rule, ...) fail(loaded, error, WN_EPLUGIN, rule, __VA_ARGS__)

/* "PATH: rule WN-P-nn: text" */
static wn_status fail(const wn_loaded_plugin *loaded, wn_error *error, wn_status status,
                      const char *rule, const char *format, ...) WN_PRINTF(5, 6);
static wn_status fail(const wn_loaded_plugin *loaded, wn_error *error, wn_status status,
                      const char *rule, const char *format, ...)
{
    char text[768];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return wn_fail(error, status, "%s: rule %s: %s", loaded->path, rule, text);
}

/* The headers are the same (WN-P-06 holds), so sizes are equal or somebody erred. */
static wn_status check_size(const wn_loaded_plugin *loaded, const char *type, uint32_t size,
                            uint32_t expected, wn_error *error)
{
    if (size == expected)
        return WN_OK;
    return fail(loaded, error, WN_EABI, "WN-P-04",
                "%s.struct_size is %u, expected %u; set it to WN_SIZEOF(%s)", type, size, expected,
                type);
}

static wn_status check_identity(const wn_loaded_plugin *loaded, wn_error *error)
{
    const wn_plugin *plugin = loaded->plugin;
    wn_status status =
        check_size(loaded, "wn_plugin", plugin->struct_size, WN_SIZEOF(wn_plugin), error);
    if (status != WN_OK)
        return status;
    if (plugin->abi_version != WN_ABI_VERSION)
        return fail(loaded, error, WN_EABI, "WN-P-06",
                    "wn_plugin.abi_version is %u.%u, expected a version from the host's range, "
                    "%u.%u to %u.%u",
                    WN_VERSION_MAJOR(plugin->abi_version), WN_VERSION_MINOR(plugin->abi_version),
                    WN_ABI_MAJOR, WN_ABI_MINOR, WN_ABI_MAJOR, WN_ABI_MINOR);
    if (plugin->algorithm == NULL || strcmp(plugin->algorithm, loaded->note.algorithm) != 0)
        return FAIL(loaded, error, "WN-P-05",
                    "wn_plugin.algorithm is \"%.80s\", the note's is \"%s\"; they must be equal",
                    plugin->algorithm != NULL ? plugin->algorithm : "(NULL)",
                    loaded->note.algorithm);
    if (plugin->version == NULL || strcmp(plugin->version, loaded->note.version) != 0)
        return FAIL(loaded, error, "WN-P-05",
                    "wn_plugin.version is \"%.80s\", the note's is \"%s\"; they must be equal",
                    plugin->version != NULL ? plugin->version : "(NULL)", loaded->note.version);
    if (plugin->get_interface == NULL)
        return FAIL(loaded, error, "WN-P-10", "wn_plugin.get_interface is NULL");
    return WN_OK;
}

/* ---------------------------------------------------------------- the schema */

static int is_number(uint32_t type)
{
    return type == WN_FIELD_INT || type == WN_FIELD_FLOAT || type == WN_FIELD_PHASE_FLOAT ||
           type == WN_FIELD_INT_LIST;
}

static int is_field_name(const char *name)
{
    size_t length = 0;
    if (name == NULL)
        return 0;
    for (; name[length] != '\0' && length < 64; length++)
        if (strchr("abcdefghijklmnopqrstuvwxyz0123456789_", name[length]) == NULL)
            return 0;
    return length >= 1 && length <= 63;
}

/* Keys that the core reads itself: a field of such a name could never be set. */
static int is_entry_key(const char *name)
{
    static const char *const keys[] = {"algorithm", "phases", "layers", "ignore"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strcmp(name, keys[i]) == 0)
            return 1;
    return 0;
}

static wn_status check_field(const wn_loaded_plugin *loaded, uint32_t index, wn_error *error)
{
    const wn_config_field *field = &loaded->config->fields[index];
    wn_status status = check_size(loaded, "wn_config_field", field->struct_size,
                                  WN_SIZEOF(wn_config_field), error);
    if (status != WN_OK)
        return status;
    if (!is_field_name(field->name))
        return FAIL(loaded, error, "WN-P-11",
                    "the name of field %u is \"%.80s\", expected [a-z0-9_]{1,63}", index,
                    field->name != NULL ? field->name : "(NULL)");
    if (is_entry_key(field->name))
        return FAIL(loaded, error, "WN-P-11",
                    "field %u is named \"%s\", a key that every entry of a configuration has", index,
                    field->name);
    for (uint32_t i = 0; i < index; i++)
        if (strcmp(loaded->config->fields[i].name, field->name) == 0)
            return FAIL(loaded, error, "WN-P-11", "fields %u and %u are both named \"%s\"", i,
                        index, field->name);
    if (field->type < WN_FIELD_INT || field->type > WN_FIELD_NUMBER_MAP)
        return FAIL(loaded, error, "WN-P-11", "%s: type is %u, expected WN_FIELD_..., %d to %d",
                    field->name, field->type, WN_FIELD_INT, WN_FIELD_NUMBER_MAP);
    if ((field->flags & ~(uint32_t)(WN_FIELD_REQUIRED | WN_FIELD_BUDGET)) != 0 ||
        field->reserved != 0)
        return FAIL(loaded, error, "WN-P-11",
                    "%s: flags are 0x%x and reserved is %u, expected flags within 0x%x and 0",
                    field->name, field->flags, field->reserved,
                    WN_FIELD_REQUIRED | WN_FIELD_BUDGET);
    if (field->help == NULL || field->help[0] == '\0' || strchr(field->help, '\n') != NULL)
        return FAIL(loaded, error, "WN-P-11", "%s: help is not one line of text", field->name);
    if (field->unit == NULL)
        return FAIL(loaded, error, "WN-P-11", "%s: unit is NULL, expected a text, \"\" for none",
                    field->name);
    if ((is_number(field->type) || field->type == WN_FIELD_NUMBER_MAP) &&
        !(field->least <= field->greatest))
        return FAIL(loaded, error, "WN-P-11", "%s: least is %g and greatest is %g", field->name,
                    field->least, field->greatest);
    if ((field->flags & WN_FIELD_BUDGET) != 0 && !is_number(field->type))
        return FAIL(loaded, error, "WN-P-11", "%s: WN_FIELD_BUDGET on a field that is no number",
                    field->name);
    if ((field->type == WN_FIELD_ENUM) !=
        (field->enum_names != NULL && field->enum_names[0] != NULL))
        return FAIL(loaded, error, "WN-P-11",
                    "%s: enum_names must have names with WN_FIELD_ENUM and be NULL without",
                    field->name);
    if ((field->flags & WN_FIELD_REQUIRED) != 0 && field->default_text != NULL)
        return FAIL(loaded, error, "WN-P-11",
                    "%s: is WN_FIELD_REQUIRED and has the default \"%.80s\"; expected one of both",
                    field->name, field->default_text);
    return WN_OK;
}

static wn_status check_schema(const wn_loaded_plugin *loaded, wn_error *error)
{
    const wn_config_interface *config = loaded->config;
    wn_status status = WN_OK;
    if (config->num_fields > MAX_FIELDS || (config->num_fields > 0 && config->fields == NULL))
        return FAIL(loaded, error, "WN-P-11",
                    "the schema has %u fields%s, expected at most %d and a list of them",
                    config->num_fields, config->fields == NULL ? " and no list" : "", MAX_FIELDS);
    for (uint32_t i = 0; status == WN_OK && i < config->num_fields; i++)
        status = check_field(loaded, i, error);
    for (uint32_t i = 0; status == WN_OK && config->inputs != NULL && config->inputs[i] != NULL;
         i++)
        if (config->inputs[i][0] == '\0')
            status = FAIL(loaded, error, "WN-P-11", "the name of input %u is empty", i);
    if (status != WN_OK)
        return status;
    /* Do the defaults parse, and lie within their own bounds? */
    wn_value *values = NULL;
    wn_reason_list reasons = {0};
    status = wn_schema_defaults(config, &values, &reasons);
    if (status == WN_OK)
        wn_values_free(values, config->num_fields);
    else if (status != WN_ENOMEM)
        status = FAIL(loaded, error, "WN-P-11", "a default is wrong: %s",
                      reasons.text != NULL ? reasons.text : wn_status_text(status));
    else
        wn_fail(error, status, "%s: out of memory while checking the schema", loaded->path);
    wn_reasons_clear(&reasons);
    return status;
}

/* ---------------------------------------------------------------- interfaces */

/* The table of an interface: there if and only if the note claims it, and of the right size. Every
 * table begins with struct_size. */
static wn_status find_interface(const wn_loaded_plugin *loaded, uint32_t bit, const char *id,
                                const char *type, uint32_t size, const void **table,
                                wn_error *error)
{
    const void *found = loaded->plugin->get_interface(id);
    int claimed = (loaded->note.interfaces & bit) != 0;
    uint32_t struct_size;
    if (found == NULL && bit == WN_HAS_CONFIG)
        return FAIL(loaded, error, "WN-P-10", "get_interface(\"%s\") is NULL; it is required", id);
    if (claimed != (found != NULL))
        return FAIL(loaded, error, "WN-P-09",
                    "the note's interfaces, 0x%x, %s \"%s\", but get_interface returns %s",
                    loaded->note.interfaces, claimed ? "name" : "do not name", id,
                    claimed ? "NULL" : "a table");
    if (found == NULL)
        return WN_OK;
    memcpy(&struct_size, found, sizeof struct_size);
    *table = found;
    return check_size(loaded, type, struct_size, size, error);
}

static wn_status need(const wn_loaded_plugin *loaded, int there, const char *function,
                      wn_error *error)
{
    return there ? WN_OK : FAIL(loaded, error, "WN-P-10", "%s is NULL; it is required", function);
}

/* A function that is required where another is given. */
static wn_status check_functions(const wn_loaded_plugin *loaded, wn_error *error)
{
    const wn_config_interface *config = loaded->config;
    const wn_predictor_interface *predictor = loaded->predictor;
    const wn_aux_pool_interface *aux = loaded->aux_pool;
    const wn_kernel_hook_interface *hook = loaded->kernel_hook;
    wn_status status = need(loaded, config->create != NULL, "wn_config_interface.create", error);
    if (status == WN_OK)
        status = need(loaded, config->destroy != NULL, "wn_config_interface.destroy", error);
    if (status == WN_OK)
        status = need(loaded, config->lower != NULL, "wn_config_interface.lower", error);
    if (status == WN_OK && predictor != NULL &&
        (predictor->retain != NULL || predictor->select != NULL))
        status = need(loaded, predictor->bounds != NULL, "wn_predictor_interface.bounds", error);
    if (status == WN_OK && predictor != NULL && predictor->retain != NULL)
        status = need(loaded, predictor->retained_count != NULL,
                      "wn_predictor_interface.retained_count", error);
    if (status == WN_OK && aux != NULL)
        status = need(loaded, aux->declare != NULL && aux->observe != NULL,
                      "wn_aux_pool_interface.declare or .observe", error);
    if (status == WN_OK && hook != NULL)
        status = need(loaded, hook->tile_policy != NULL || hook->attend != NULL,
                      "wn_kernel_hook_interface.tile_policy as well as .attend", error);
    return status;
}

wn_status wn_contract_check(wn_loaded_plugin *loaded, wn_error *error)
{
    const void *config = NULL, *predictor = NULL, *aux_pool = NULL, *kernel_hook = NULL;
    wn_status status = check_identity(loaded, error);
    if (status == WN_OK)
        status = find_interface(loaded, WN_HAS_CONFIG, WN_INTERFACE_CONFIG, "wn_config_interface",
                                WN_SIZEOF(wn_config_interface), &config, error);
    if (status == WN_OK)
        status = find_interface(loaded, WN_HAS_PREDICTOR, WN_INTERFACE_PREDICTOR,
                                "wn_predictor_interface", WN_SIZEOF(wn_predictor_interface),
                                &predictor, error);
    if (status == WN_OK)
        status =
            find_interface(loaded, WN_HAS_AUX_POOL, WN_INTERFACE_AUX_POOL, "wn_aux_pool_interface",
                           WN_SIZEOF(wn_aux_pool_interface), &aux_pool, error);
    if (status == WN_OK)
        status = find_interface(loaded, WN_HAS_KERNEL_HOOK, WN_INTERFACE_KERNEL_HOOK,
                                "wn_kernel_hook_interface", WN_SIZEOF(wn_kernel_hook_interface),
                                &kernel_hook, error);
    loaded->config = config;
    loaded->predictor = predictor;
    loaded->aux_pool = aux_pool;
    loaded->kernel_hook = kernel_hook;
    if (status == WN_OK)
        status = check_functions(loaded, error);
    return status == WN_OK ? check_schema(loaded, error) : status;
}
