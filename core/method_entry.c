/* method_entry.c: algorithm, phases and layers of each entry of sparse_attention_config. */
#include "core/method_entry.h"

#include "core/lost_indent.h"
#include "core/nearest_key.h"
#include "core/quote.h"
#include "core/yaml_scalar.h"

#include <string.h>

const char *const wn_method_entry_keys[] = {"algorithm", "phases", "layers", "ignore", NULL};

/* Even places are the context phase's names, odd ones generation's. */
static const char *const phase_names[] = {"context", "generation", "prefill", "decode", NULL};

typedef struct reader {
    wn_arena *arena;
    wn_findings *findings, *notes;
} reader;

int wn_method_entry_knows(const char *key)
{
    for (const char *const *name = wn_method_entry_keys; *name != NULL; name++)
        if (strcmp(*name, key) == 0)
            return 1;
    return 0;
}

uint32_t wn_phase_bit(const char *name)
{
    for (uint32_t i = 0; phase_names[i] != NULL; i++)
        if (strcmp(phase_names[i], name) == 0)
            return 1u << (i % 2 == 0 ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION);
    return 0;
}

/* ---------------------------------------------------------------- the keys */

static void read_phase(reader *r, const wn_yaml_node *node, uint32_t *phases)
{
    int64_t which;
    if (!wn_read_enum(node, "phases", phase_names, r->findings, &which))
        return;
    uint32_t bit = wn_phase_bit(phase_names[which]);
    if (*phases & bit)
        wn_finding_add(r->findings, node->line, node->column, "\"phases\" names one phase twice");
    *phases |= bit;
}

static void read_phases(reader *r, const wn_yaml_node *node, uint32_t *phases)
{
    *phases = 0;
    if (node->kind != WN_YAML_SEQUENCE)
        read_phase(r, node, phases);
    else if (node->count == 0)
        wn_finding_add(r->findings, node->line, node->column,
                       "\"phases\" is an empty list: leave it out for both phases");
    else
        for (const wn_yaml_item *item = node->items; item != NULL; item = item->next)
            read_phase(r, item->value, phases);
}

static void read_key(reader *r, wn_method_entry *entry, const wn_yaml_item *item)
{
    const char *key = item->key->text;
    if (wn_yaml_is_null(item->value))
        return;
    if (strcmp(key, "algorithm") == 0)
        wn_read_string(item->value, key, r->findings, &entry->method.algorithm);
    else if (strcmp(key, "phases") == 0)
        read_phases(r, item->value, &entry->method.phases);
    else if (strcmp(key, "layers") == 0)
        wn_layer_rules_read(&entry->rules, item->value, key, 1, r->arena, r->findings, r->notes);
}

/* After all of `layers`, wherever it stands in the entry: ignoring wins. */
static void read_ignored(reader *r, wn_method_entry *entry)
{
    const wn_yaml_node *node = wn_yaml_get(entry->node, "ignore");
    if (node != NULL && !wn_yaml_is_null(node))
        wn_layer_rules_read(&entry->rules, node, "ignore", 0, r->arena, r->findings, r->notes);
}

/* ---------------------------------------------------------------- one entry */

static void find_missing_algorithm(reader *r, const wn_yaml_node *node)
{
    char quoted[WN_QUOTE_BYTES], hint[WN_HINT_BYTES];
    if (wn_yaml_get(node, "algorithm") != NULL && !wn_yaml_is_null(wn_yaml_get(node, "algorithm")))
        return; /* present, of the wrong type, and reported */
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next) {
        wn_nearest nearest = wn_nearest_begin(item->key->text);
        wn_nearest_try(&nearest, "algorithm");
        if (nearest.best == NULL || wn_method_entry_knows(item->key->text))
            continue;
        wn_finding_add(r->findings, item->key->line, item->key->column, "unknown key %s%s",
                       wn_quote(quoted, item->key->text), wn_nearest_hint(&nearest, hint));
        return;
    }
    wn_finding_add(r->findings, node->line, node->column,
                   "this entry names no algorithm: add \"algorithm: NAME\"");
}

static void refuse_keys_of_dense(reader *r, const wn_yaml_node *node)
{
    char quoted[WN_QUOTE_BYTES];
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next)
        if (!wn_method_entry_knows(item->key->text) && !wn_yaml_is_null(item->value))
            wn_finding_add(r->findings, item->key->line, item->key->column,
                           "dense attention has no key %s: it takes phases, layers and ignore",
                           wn_quote(quoted, item->key->text));
}

static int opens_phases(const char *key)
{
    return !wn_method_entry_knows(key) && wn_phase_bit(key) == 0;
}

static int is_phase(const char *key)
{
    return wn_phase_bit(key) != 0;
}

static wn_method_entry *read_entry(reader *r, const wn_yaml_node *node)
{
    static const wn_indent_rule phases = {opens_phases, is_phase};
    if (node->kind != WN_YAML_MAPPING) {
        wn_find_mismatch(r->findings, node, "sparse_attention_config",
                         "a mapping (algorithm: NAME) or a list of them");
        return NULL;
    }
    wn_method_entry *entry = wn_arena_take(r->arena, sizeof *entry);
    node = wn_indent_restore(node, &phases, r->arena, r->notes);
    if (entry == NULL || node == NULL)
        return NULL;
    entry->node = node;
    entry->method.line = node->line;
    entry->method.column = node->column;
    entry->method.phases = 1u << WN_PHASE_CONTEXT | 1u << WN_PHASE_GENERATION;
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next)
        read_key(r, entry, item);
    read_ignored(r, entry);
    if (entry->method.algorithm == NULL)
        find_missing_algorithm(r, node);
    else if (strcmp(entry->method.algorithm, "dense") == 0)
        refuse_keys_of_dense(r, node);
    return entry;
}

wn_method_entry *wn_method_entries_read(const wn_yaml_item *item, wn_arena *arena,
                                        wn_findings *findings, wn_findings *notes)
{
    reader r = {arena, findings, notes};
    const wn_yaml_node *node = item->value;
    if (node->kind != WN_YAML_SEQUENCE)
        return read_entry(&r, node);
    if (node->count == 0)
        wn_finding_add(findings, node->line, node->column,
                       "an empty list: leave \"sparse_attention_config\" out for dense attention");
    wn_method_entry *first = NULL, **end = &first;
    for (const wn_yaml_item *each = node->items; each != NULL; each = each->next) {
        wn_method_entry *entry = read_entry(&r, each->value);
        if (entry == NULL)
            continue;
        *end = entry;
        end = &entry->next;
    }
    return first;
}
