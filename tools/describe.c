/* describe.c: `winnow describe`: an algorithm's keys, from the schema that its plugin gives, so
 * that they are documented where they are checked. */
#include "tools/command.h"
#include "tools/found_plugins.h"
#include "tools/sets.h"
#include "winnow/winnow.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct describe_options {
    const char *plugin_path;
    int32_t json_schema;
} describe_options;

static const wn_option rows[] = {
    {"plugin-path", 'p', "DIRS", WN_OPTION_TEXT, offsetof(describe_options, plugin_path), 0, 0,
     WN_PLUGIN_PATH_HELP},
    {"json-schema", 0, NULL, WN_OPTION_FLAG, offsetof(describe_options, json_schema), 0, 0,
     "print a JSON schema of the algorithm's entry in sparse_attention_config"},
    {0}};

const wn_usage wn_usage_describe = {
    "describe",
    "ALGORITHM",
    "Explains an algorithm: what it is, on which devices it runs, and every key that a "
    "configuration "
    "may set, with type, range, default and unit. Loads its plugin.",
    rows,
    1,
    1};

static const char *type_name(const wn_config_field *field)
{
    static const char *const names[] = {[WN_FIELD_INT] = "int",
                                        [WN_FIELD_FLOAT] = "float",
                                        [WN_FIELD_BOOL] = "bool",
                                        [WN_FIELD_STRING] = "string",
                                        [WN_FIELD_ENUM] = "one of",
                                        [WN_FIELD_PHASE_FLOAT] = "float or {prefill, decode}",
                                        [WN_FIELD_INT_LIST] = "list of int",
                                        [WN_FIELD_STRING_LIST] = "list of string",
                                        [WN_FIELD_NUMBER_MAP] = "mapping of numbers"};
    return field->type < sizeof names / sizeof names[0] && names[field->type] != NULL
               ? names[field->type]
               : "?";
}

/* Ends this far out mean: any number. */
#define ANY 1e300

static int has_range(const wn_config_field *field)
{
    if (field->least <= -ANY && field->greatest >= ANY)
        return 0;
    return field->type == WN_FIELD_INT || field->type == WN_FIELD_FLOAT ||
           field->type == WN_FIELD_PHASE_FLOAT || field->type == WN_FIELD_INT_LIST ||
           field->type == WN_FIELD_NUMBER_MAP;
}

static void print_field(const wn_config_field *field)
{
    printf("\n  %s: %s", field->name, type_name(field));
    for (uint32_t i = 0; field->enum_names != NULL && field->enum_names[i] != NULL; i++)
        printf("%s %s", i > 0 ? "," : "", field->enum_names[i]);
    if (has_range(field))
        printf(", %.15g to %.15g", field->least, field->greatest);
    if (field->unit[0] != '\0')
        printf(" %s", field->unit);
    if ((field->flags & WN_FIELD_REQUIRED) != 0)
        printf("; required");
    else if (field->default_text != NULL)
        printf("; default %s", field->default_text);
    else
        printf("; unset by default");
    printf("%s\n      %s\n", (field->flags & WN_FIELD_BUDGET) != 0 ? "; more keeps more" : "",
           field->help);
}

static void print_text(const wn_plugin_info *info, const wn_config_interface *schema)
{
    char interfaces[128], devices[64];
    wn_interfaces_text(info->interfaces, interfaces, sizeof interfaces);
    wn_devices_text(info->devices, devices, sizeof devices);
    printf("%s %s: %s\n\n", info->algorithm, info->version, info->summary);
    printf("devices     %s\ninterfaces  %s\nlicense     %s\nABI         %u.%u\nfile        %s\n",
           devices, interfaces, info->license, WN_VERSION_MAJOR(info->abi_built),
           WN_VERSION_MINOR(info->abi_built), info->path);
    for (uint32_t i = 0; schema->inputs != NULL && schema->inputs[i] != NULL; i++)
        printf("%-11s %s\n", i == 0 ? "inputs" : "", schema->inputs[i]);
    printf("\nKeys, beside algorithm: %s, in sparse_attention_config:\n", info->algorithm);
    for (uint32_t i = 0; i < schema->num_fields; i++)
        print_field(&schema->fields[i]);
    if (schema->num_fields == 0)
        printf("  none\n");
}

/* ---------------------------------------------------------------- JSON schema */

static json_t *number_schema(const wn_config_field *field)
{
    int integral = field->type == WN_FIELD_INT || field->type == WN_FIELD_INT_LIST;
    json_t *schema = json_pack("{s:s}", "type", integral ? "integer" : "number");
    if (field->least > -ANY)
        json_object_set_new(schema, "minimum",
                            integral ? json_integer((json_int_t)field->least)
                                     : json_real(field->least));
    if (field->greatest < ANY)
        json_object_set_new(schema, "maximum",
                            integral ? json_integer((json_int_t)field->greatest)
                                     : json_real(field->greatest));
    return schema;
}

static json_t *type_schema(const wn_config_field *field)
{
    json_t *names, *each;
    switch (field->type) {
    case WN_FIELD_BOOL:
        return json_pack("{s:s}", "type", "boolean");
    case WN_FIELD_STRING:
        return json_pack("{s:s}", "type", "string");
    case WN_FIELD_ENUM:
        names = json_array();
        for (uint32_t i = 0; field->enum_names[i] != NULL; i++)
            json_array_append_new(names, json_string(field->enum_names[i]));
        return json_pack("{s:o}", "enum", names);
    case WN_FIELD_INT_LIST:
        return json_pack("{s:s, s:o}", "type", "array", "items", number_schema(field));
    case WN_FIELD_STRING_LIST:
        return json_pack("{s:s, s:{s:s}}", "type", "array", "items", "type", "string");
    case WN_FIELD_NUMBER_MAP: /* nested at will */
        return json_pack("{s:s, s:{s:[o, {s:s}]}}", "type", "object", "additionalProperties",
                         "anyOf", number_schema(field), "type", "object");
    case WN_FIELD_PHASE_FLOAT:
        each = number_schema(field);
        return json_pack("{s:[O, {s:s, s:{s:O, s:o}, s:b}]}", "oneOf", each, "type", "object",
                         "properties", "prefill", each, "decode", each, "additionalProperties", 0);
    default:
        return number_schema(field);
    }
}

static json_t *default_json(const wn_config_field *field)
{
    char *end;
    double number = strtod(field->default_text, &end);
    if (field->type == WN_FIELD_BOOL)
        return json_boolean(strcmp(field->default_text, "true") == 0);
    if (field->type == WN_FIELD_INT)
        return json_integer(strtoll(field->default_text, NULL, 10));
    if ((field->type == WN_FIELD_FLOAT || field->type == WN_FIELD_PHASE_FLOAT) && *end == '\0')
        return json_real(number);
    return json_string(field->default_text);
}

static json_t *schema_json(const wn_plugin_info *info, const wn_config_interface *schema)
{
    json_t *properties = json_object(), *required = json_array();
    json_object_set_new(properties, "algorithm", json_pack("{s:s}", "const", info->algorithm));
    json_array_append_new(required, json_string("algorithm"));
    for (uint32_t i = 0; i < schema->num_fields; i++) {
        const wn_config_field *field = &schema->fields[i];
        json_t *each = type_schema(field);
        json_object_set_new(each, "description",
                            json_sprintf("%s%s%s%s", field->help,
                                         field->unit[0] != '\0' ? " (" : "", field->unit,
                                         field->unit[0] != '\0' ? ")" : ""));
        if (field->default_text != NULL)
            json_object_set_new(each, "default", default_json(field));
        if ((field->flags & WN_FIELD_REQUIRED) != 0)
            json_array_append_new(required, json_string(field->name));
        json_object_set_new(properties, field->name, each);
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "$schema",
                     "https://json-schema.org/draft/2020-12/schema", "title", info->algorithm,
                     "description", info->summary, "type", "object", "properties", properties,
                     "required", required);
}

/* ---------------------------------------------------------------- the command */

static int find_info(const wn_registry *registry, const char *algorithm, wn_plugin_info *info)
{
    for (uint32_t i = 0; i < wn_registry_count(registry); i++) {
        *info = (wn_plugin_info){.struct_size = WN_SIZEOF(wn_plugin_info)};
        if (wn_registry_info(registry, i, info) == WN_OK && info->problem == NULL &&
            strcmp(info->algorithm, algorithm) == 0)
            return 1;
    }
    return 0;
}

static int describe(wn_registry *registry, const char *algorithm, int as_schema)
{
    const wn_config_interface *schema = NULL;
    wn_plugin_info info;
    if (wn_registry_schema(registry, algorithm, &schema) != WN_OK ||
        !find_info(registry, algorithm, &info)) {
        fprintf(stderr, "winnow describe: %s\n", wn_error_text());
        return WN_EXIT_FAILED;
    }
    if (!as_schema) {
        print_text(&info, schema);
        return WN_EXIT_FINE;
    }
    json_t *whole = schema_json(&info, schema);
    json_dumpf(whole, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    putchar('\n');
    json_decref(whole);
    return WN_EXIT_FINE;
}

int wn_command_describe(int argc, char **argv)
{
    describe_options options = {0};
    int code = wn_options_parse(&wn_usage_describe, argc, argv, &options);
    if (code != WN_OPTIONS_GO_ON)
        return code;
    wn_registry *registry = wn_found_plugins("describe", options.plugin_path);
    if (registry == NULL)
        return WN_EXIT_FAILED;
    code = describe(registry, argv[optind], options.json_schema);
    wn_registry_close(registry);
    return code;
}
