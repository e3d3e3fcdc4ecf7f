/* schema.c: an algorithm's own keys, read by type, with their defaults. A default is text in the
 * schema, as a user would write it, and is read by the same code. The result is one block: values,
 * then integers, numbers and pointers of lists, then text. */
#include "core/schema.h"

#include "core/method_entry.h"
#include "core/nearest_key.h"
#include "core/number_map.h"
#include "core/quote.h"
#include "core/yaml_scalar.h"

#include <stdlib.h>
#include <string.h>

typedef struct binder {
    const wn_config_interface *schema;
    wn_value *values; /* in the arena; lists and strings wherever they are */
    wn_arena arena;
    wn_findings findings; /* of the user's text */
    wn_findings faults;   /* of the default being read */
    wn_reason_list *reasons;
    int is_faulty; /* the schema itself */
} binder;

/* The next field begins struct_size bytes further: a plugin's struct may be longer than ours. */
static const wn_config_field *field_at(const wn_config_interface *schema, uint32_t index)
{
    const char *fields = (const char *)schema->fields;
    return (const wn_config_field *)(const void *)(fields +
                                                   (size_t)index * schema->fields->struct_size);
}

/* ---------------------------------------------------------------- values by type */

static int read_phases(const wn_config_field *field, const wn_yaml_node *node,
                       wn_findings *findings, wn_value *value)
{
    char quoted[WN_QUOTE_BYTES];
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next) {
        uint32_t bit = wn_phase_bit(item->key->text);
        double *phase =
            &value->phase[bit == 1u << WN_PHASE_CONTEXT ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION];
        if (bit == 0)
            wn_finding_add(findings, item->key->line, item->key->column,
                           "unknown key %s in \"%s\": expected prefill or decode",
                           wn_quote(quoted, item->key->text), field->name);
        else if (value->phase_set & bit)
            wn_finding_add(findings, item->key->line, item->key->column,
                           "\"%s\" gives one phase twice", field->name);
        else if (!wn_yaml_is_null(item->value) &&
                 wn_read_float(item->value, field->name, field->least, field->greatest, field->unit,
                               findings, phase))
            value->phase_set |= bit;
    }
    return value->phase_set != 0;
}

static int read_phase_float(const wn_config_field *field, const wn_yaml_node *node,
                            wn_findings *findings, wn_value *value)
{
    if (node->kind == WN_YAML_MAPPING && node->count > 0)
        return read_phases(field, node, findings, value);
    if (node->kind != WN_YAML_SCALAR || wn_yaml_is_empty(node)) {
        wn_find_mismatch(findings, node, field->name, "a number or {prefill: x, decode: y}");
        return 0;
    }
    if (!wn_read_float(node, field->name, field->least, field->greatest, field->unit, findings,
                       &value->phase[WN_PHASE_CONTEXT]))
        return 0;
    value->phase[WN_PHASE_GENERATION] = value->phase[WN_PHASE_CONTEXT];
    value->phase_set = 1u << WN_PHASE_CONTEXT | 1u << WN_PHASE_GENERATION;
    return 1;
}

static int read_list(binder *b, const wn_config_field *field, const wn_yaml_node *node,
                     wn_findings *findings, wn_value *value)
{
    if (node->kind != WN_YAML_SEQUENCE) {
        wn_find_mismatch(findings, node, field->name, "a list of integers ([1, 2, 3])");
        return 0;
    }
    int64_t *list = wn_arena_take(&b->arena, (node->count + 1) * sizeof *list);
    if (list == NULL)
        return 0;
    value->list = list;
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next)
        if (wn_read_int(item->value, field->name, field->least, field->greatest, field->unit,
                        findings, &list[value->count]))
            value->count++;
    return value->count == node->count;
}

static int read_names(binder *b, const wn_config_field *field, const wn_yaml_node *node,
                      wn_findings *findings, wn_value *value)
{
    if (node->kind != WN_YAML_SEQUENCE) {
        wn_find_mismatch(findings, node, field->name, "a list of words ([a, b])");
        return 0;
    }
    const char **names = wn_arena_take(&b->arena, (node->count + 1) * sizeof *names);
    if (names == NULL)
        return 0;
    value->names = names;
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next)
        if (wn_read_string(item->value, field->name, findings, &names[value->count]))
            value->count++;
    return value->count == node->count;
}

static int read_enum(const wn_config_field *field, const wn_yaml_node *node, wn_findings *findings,
                     wn_value *value)
{
    if (!wn_read_enum(node, field->name, field->enum_names, findings, &value->i))
        return 0;
    value->s = field->enum_names[value->i];
    return 1;
}

/* Answers whether the value was read; if not, there is a finding. */
static int read_value(binder *b, const wn_config_field *field, const wn_yaml_node *node,
                      wn_findings *findings, wn_value *value)
{
    switch (field->type) {
    case WN_FIELD_INT:
        return wn_read_int(node, field->name, field->least, field->greatest, field->unit, findings,
                           &value->i);
    case WN_FIELD_FLOAT:
        return wn_read_float(node, field->name, field->least, field->greatest, field->unit,
                             findings, &value->f);
    case WN_FIELD_BOOL:
        return wn_read_bool(node, field->name, findings, &value->i);
    case WN_FIELD_STRING:
        return wn_read_string(node, field->name, findings, &value->s);
    case WN_FIELD_ENUM:
        return read_enum(field, node, findings, value);
    case WN_FIELD_PHASE_FLOAT:
        return read_phase_float(field, node, findings, value);
    case WN_FIELD_STRING_LIST:
        return read_names(b, field, node, findings, value);
    case WN_FIELD_NUMBER_MAP:
        return wn_number_map_read(field, node, &b->arena, findings, value);
    default:
        return read_list(b, field, node, findings, value);
    }
}

/* ---------------------------------------------------------------- what the user wrote */

static void find_unknown(binder *b, const wn_yaml_node *key)
{
    char quoted[WN_QUOTE_BYTES], hint[WN_HINT_BYTES];
    wn_nearest nearest = wn_nearest_begin(key->text);
    for (uint32_t i = 0; i < b->schema->num_fields; i++)
        wn_nearest_try(&nearest, field_at(b->schema, i)->name);
    for (const char *const *name = wn_method_entry_keys; *name != NULL; name++)
        wn_nearest_try(&nearest, *name);
    wn_finding_add(&b->findings, key->line, key->column, "unknown key %s%s",
                   wn_quote(quoted, key->text), wn_nearest_hint(&nearest, hint));
}

static void read_item(binder *b, const wn_yaml_item *item)
{
    for (uint32_t i = 0; i < b->schema->num_fields; i++) {
        const wn_config_field *field = field_at(b->schema, i);
        if (strcmp(field->name, item->key->text) != 0)
            continue;
        if (!wn_yaml_is_null(item->value)) {
            b->values[i].is_set = 1;
            b->values[i].has_value =
                (uint32_t)read_value(b, field, item->value, &b->findings, &b->values[i]);
        }
        return;
    }
    find_unknown(b, item->key);
}

static void read_entry(binder *b, const wn_yaml_node *entry)
{
    for (const wn_yaml_item *item = entry->items; item != NULL; item = item->next)
        if (!wn_method_entry_knows(item->key->text))
            read_item(b, item);
    for (uint32_t i = 0; i < b->schema->num_fields; i++) {
        const wn_config_field *field = field_at(b->schema, i);
        if ((field->flags & WN_FIELD_REQUIRED) && !b->values[i].is_set)
            wn_finding_add(&b->findings, entry->line, entry->column,
                           "required key \"%s\" is missing%s%.400s", field->name,
                           field->help == NULL ? "" : ": ", field->help == NULL ? "" : field->help);
    }
}

/* ---------------------------------------------------------------- defaults */

/* The node of a default. Words are taken as they are, everything else is YAML. */
static const wn_yaml_node *default_node(binder *b, const wn_config_field *field)
{
    if (field->type != WN_FIELD_STRING && field->type != WN_FIELD_ENUM)
        return wn_yaml_parse(field->default_text, strlen(field->default_text), &b->arena,
                             &b->faults);
    wn_yaml_node *node = wn_arena_take(&b->arena, sizeof *node);
    if (node != NULL)
        *node = (wn_yaml_node){
            .kind = WN_YAML_SCALAR, .line = 1, .column = 1, .text = field->default_text};
    return node;
}

static void read_default(binder *b, const wn_config_field *field, wn_value *value)
{
    char where[128];
    const wn_yaml_node *node = default_node(b, field);
    if (field->type == WN_FIELD_STRING && field->default_text[0] == '\0') {
        value->s = ""; /* what a user cannot write, a schema can */
        value->has_value = 1;
    } else if (node != NULL)
        value->has_value = (uint32_t)read_value(b, field, node, &b->faults, value);
    else if (b->faults.count == 0 && !b->arena.out_of_memory)
        wn_finding_add(&b->faults, 0, 0, "it is empty: NULL stands for no default");
    b->is_faulty |= b->faults.count > 0;
    snprintf(where, sizeof where, "the schema's default of \"%.63s\"", field->name);
    wn_findings_tell(&b->faults, where, b->reasons);
}

/* Faults that would make reading go wrong. */
static int is_sound(const wn_config_interface *schema, wn_reason_list *reasons)
{
    uint32_t before = reasons->count;
    for (uint32_t i = 0; i < schema->num_fields; i++) {
        const wn_config_field *field = field_at(schema, i);
        if (schema->fields->struct_size < WN_SIZEOF(wn_config_field) ||
            field->struct_size != schema->fields->struct_size) {
            wn_reason_add(reasons, "the schema's field %u: its struct_size is wrong", i);
            return 0;
        }
        if (field->name == NULL)
            wn_reason_add(reasons, "the schema's field %u has no name", i);
        else if (field->type < WN_FIELD_INT || field->type > WN_FIELD_NUMBER_MAP)
            wn_reason_add(reasons, "the schema's field \"%s\" has an unknown type, %u", field->name,
                          field->type);
        else if (field->type == WN_FIELD_ENUM && field->enum_names == NULL)
            wn_reason_add(reasons, "the schema's field \"%s\" is an enum without names",
                          field->name);
    }
    return reasons->count == before;
}

/* ---------------------------------------------------------------- the result */

/* What a value points to, on its way into the block. Each kind has a run of its own, the widest
 * first, so that all are aligned. */
typedef struct block {
    int64_t *integers;
    double *numbers;
    const char **names;
    char *text;
} block;

static void measure(const wn_value *from, uint32_t num_fields, size_t *integers, size_t *numbers,
                    size_t *names, size_t *letters)
{
    *integers = *numbers = *names = *letters = 0;
    for (uint32_t i = 0; i < num_fields; i++) {
        const wn_value *v = &from[i];
        *integers += v->list == NULL ? 0 : v->count;
        *numbers += v->numbers == NULL ? 0 : v->count;
        *names += v->names == NULL ? 0 : v->count;
        *letters += v->s == NULL ? 0 : strlen(v->s) + 1;
        for (uint32_t n = 0; v->names != NULL && n < v->count; n++)
            *letters += strlen(v->names[n]) + 1;
    }
}

static const char *pack_text(block *to, const char *text)
{
    size_t bytes = strlen(text) + 1;
    const char *packed = memcpy(to->text, text, bytes);
    to->text += bytes;
    return packed;
}

static void pack_value(block *to, const wn_value *from, wn_value *value)
{
    uint32_t count = from->count;
    *value = *from;
    if (from->s != NULL)
        value->s = pack_text(to, from->s);
    if (from->list != NULL) {
        value->list = memcpy(to->integers, from->list, count * sizeof *to->integers);
        to->integers += count;
    }
    if (from->numbers != NULL) {
        value->numbers = memcpy(to->numbers, from->numbers, count * sizeof *to->numbers);
        to->numbers += count;
    }
    if (from->names != NULL) {
        value->names = to->names;
        for (uint32_t n = 0; n < count; n++)
            *to->names++ = pack_text(to, from->names[n]);
    }
}

/* One block: values [num_fields], and what they point to. */
static wn_value *pack(const wn_value *from, uint32_t num_fields)
{
    size_t integers, numbers, names, letters;
    measure(from, num_fields, &integers, &numbers, &names, &letters);
    wn_value *values = malloc(num_fields * sizeof *values + integers * sizeof(int64_t) +
                              numbers * sizeof(double) + names * sizeof(char *) + letters + 1);
    if (values == NULL)
        return NULL;
    block to = {.integers = (int64_t *)(void *)(values + num_fields)};
    to.numbers = (double *)(void *)(to.integers + integers);
    to.names = (const char **)(void *)(to.numbers + numbers);
    to.text = (char *)(to.names + names);
    for (uint32_t i = 0; i < num_fields; i++)
        pack_value(&to, &from[i], &values[i]);
    return values;
}

/* entry: NULL for the defaults alone. */
static wn_status bind(const wn_config_interface *schema, const wn_yaml_node *entry,
                      const char *name, wn_value **values, wn_reason_list *reasons)
{
    binder b = {.schema = schema, .reasons = reasons};
    wn_status status = WN_OK;
    *values = NULL;
    if (!is_sound(schema, reasons))
        return WN_EPLUGIN;
    b.values = wn_arena_take(&b.arena, (schema->num_fields + 1) * sizeof *b.values);
    if (b.values != NULL && entry != NULL)
        read_entry(&b, entry);
    for (uint32_t i = 0; b.values != NULL && i < schema->num_fields; i++) {
        const wn_config_field *field = field_at(schema, i);
        if (!b.values[i].is_set && field->default_text != NULL)
            read_default(&b, field, &b.values[i]);
    }
    if (b.findings.count > 0)
        status = WN_ECONFIG;
    else if (b.is_faulty)
        status = WN_EPLUGIN;
    wn_findings_tell(&b.findings, name, reasons);
    if (status == WN_OK && !b.arena.out_of_memory && !reasons->out_of_memory)
        *values = pack(b.values, schema->num_fields);
    if (status == WN_OK && *values == NULL) {
        wn_reason_add(reasons, "out of memory");
        status = WN_ENOMEM;
    }
    wn_arena_free(&b.arena);
    return status;
}

wn_status wn_schema_bind(const wn_config_interface *schema, const wn_yaml_node *entry,
                         const char *name, wn_value **values, wn_reason_list *reasons)
{
    return bind(schema, entry, name, values, reasons);
}

wn_status wn_schema_defaults(const wn_config_interface *schema, wn_value **values,
                             wn_reason_list *reasons)
{
    return bind(schema, NULL, "", values, reasons);
}

void wn_values_free(wn_value *values, uint32_t num_fields)
{
    (void)num_fields; /* one block: wn_schema_bind */
    free(values);
}
