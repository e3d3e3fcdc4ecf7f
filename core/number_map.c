/* number_map.c: reads a mapping of numbers, nested mappings included, into one flat list. A point
 * joins the levels of a name and may therefore be in no key, which also keeps names apart. Levels
 * and names are bounded: with aliases a small file could otherwise ask for very much memory. */
#include "core/number_map.h"

#include "core/quote.h"
#include "core/yaml_scalar.h"

#include <string.h>

typedef struct reader {
    const wn_config_field *field;
    wn_arena *arena;
    wn_findings *findings;
    const char **names;
    double *numbers;
    uint32_t count;
    int is_good;
    char path[WN_NUMBER_MAP_BYTES]; /* "field.level.key" */
} reader;

/* Adds ".key" to the path, which is `used` long. 0: there is a finding instead. */
static size_t extend(reader *r, const wn_yaml_node *key, size_t used)
{
    char quoted[WN_QUOTE_BYTES];
    size_t bytes = strlen(key->text);
    if (bytes == 0 || strchr(key->text, '.') != NULL)
        wn_finding_add(r->findings, key->line, key->column,
                       "key %s in \"%s\": expected a word without points, which separate levels",
                       wn_quote(quoted, key->text), r->path);
    else if (used + 1 + bytes >= sizeof r->path)
        wn_finding_add(r->findings, key->line, key->column,
                       "key %s in \"%s\": expected at most %d bytes with all its levels",
                       wn_quote(quoted, key->text), r->path, WN_NUMBER_MAP_BYTES - 1);
    else {
        r->path[used] = '.';
        memcpy(r->path + used + 1, key->text, bytes + 1);
        return used + 1 + bytes;
    }
    return 0;
}

static int read_number(reader *r, const wn_yaml_node *node, size_t used)
{
    size_t field = strlen(r->field->name) + 1;
    if (!wn_read_float(node, r->path, r->field->least, r->field->greatest, r->field->unit,
                       r->findings, &r->numbers[r->count]))
        return 0;
    r->names[r->count] = wn_arena_text(r->arena, r->path + field, used - field);
    return r->names[r->count++] != NULL;
}

static void read_level(reader *r, const wn_yaml_node *mapping, size_t used, uint32_t level)
{
    for (const wn_yaml_item *item = mapping->items; item != NULL; item = item->next) {
        const wn_yaml_node *node = item->value;
        if (wn_yaml_is_null(node))
            continue;
        size_t longer = extend(r, item->key, used);
        int nested = node->kind == WN_YAML_MAPPING && node->count > 0;
        if (longer == 0) {
            r->is_good = 0;
        } else if (nested && level == WN_NUMBER_MAP_LEVELS) {
            wn_finding_add(r->findings, node->line, node->column,
                           "\"%s\" is nested too deeply: expected at most %d levels", r->path,
                           WN_NUMBER_MAP_LEVELS);
            r->is_good = 0;
        } else if (nested) {
            read_level(r, node, longer, level + 1);
        } else if (!read_number(r, node, longer)) {
            r->is_good = 0;
        }
        r->path[used] = '\0';
    }
}

int wn_number_map_read(const wn_config_field *field, const wn_yaml_node *node, wn_arena *arena,
                       wn_findings *findings, wn_value *value)
{
    reader r = {.field = field, .arena = arena, .findings = findings, .is_good = 1};
    if (node->kind == WN_YAML_MAPPING && node->count > 0) {
        r.names = wn_arena_take(arena, node->nodes * sizeof *r.names);
        r.numbers = wn_arena_take(arena, node->nodes * sizeof *r.numbers);
        if (r.names == NULL || r.numbers == NULL)
            return 0;
        snprintf(r.path, sizeof r.path, "%s", field->name);
        read_level(&r, node, strlen(r.path), 1);
    }
    if (r.is_good && r.count == 0) {
        wn_find_mismatch(findings, node, field->name, "a mapping of numbers ({a: 1, b: 2})");
        return 0;
    }
    value->names = r.names;
    value->numbers = r.numbers;
    value->count = r.count;
    return r.is_good;
}
