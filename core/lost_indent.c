/* lost_indent.c: see the header. The tree is never changed, because aliases share its nodes: what
 * differs is made anew. */
#include "core/lost_indent.h"

#include "core/quote.h"

static int starts_run(const wn_yaml_item *item, const wn_indent_rule *rule)
{
    const wn_yaml_node *value = item->value;
    return value->kind == WN_YAML_SCALAR && value->plain && value->text[0] == '\0' &&
           item->next != NULL && rule->opens(item->key->text) &&
           rule->belongs(item->next->key->text);
}

static wn_yaml_item *append(wn_yaml_node *node, wn_yaml_item ***end, const wn_yaml_item *from,
                            wn_arena *arena)
{
    wn_yaml_item *item = wn_arena_take(arena, sizeof *item);
    if (item == NULL)
        return NULL;
    item->key = from->key;
    item->value = from->value;
    **end = item;
    *end = &item->next;
    node->count++;
    return item;
}

static wn_yaml_node *empty_mapping(const wn_yaml_node *place, wn_arena *arena)
{
    wn_yaml_node *node = wn_arena_take(arena, sizeof *node);
    if (node != NULL) {
        node->kind = WN_YAML_MAPPING;
        node->line = place->line;
        node->column = place->column;
    }
    return node;
}

static void note_run(const wn_yaml_item *header, const wn_yaml_node *run, wn_findings *notes)
{
    char name[WN_QUOTE_BYTES], first[WN_QUOTE_BYTES], last[WN_QUOTE_BYTES];
    const wn_yaml_item *item = run->items;
    while (item->next != NULL)
        item = item->next;
    wn_quote(name, header->key->text);
    wn_quote(first, run->items->key->text);
    wn_quote(last, item->key->text);
    if (run->count == 1)
        wn_finding_add(notes, header->key->line, header->key->column,
                       "indentation lost: reading %s as part of %s", first, name);
    else
        wn_finding_add(notes, header->key->line, header->key->column,
                       "indentation lost: reading %s %s %s as part of %s", first,
                       run->count == 2 ? "and" : "to", last, name);
}

/* The mapping made of the items after the header; *last is the last of them. */
static wn_yaml_node *take_run(const wn_yaml_item *header, const wn_indent_rule *rule,
                              wn_arena *arena, const wn_yaml_item **last)
{
    wn_yaml_node *run = empty_mapping(header->next->key, arena);
    if (run == NULL)
        return NULL;
    wn_yaml_item **end = &run->items;
    const wn_yaml_item *item = header;
    while (item->next != NULL && rule->belongs(item->next->key->text)) {
        item = item->next;
        if (append(run, &end, item, arena) == NULL)
            return NULL;
    }
    *last = item;
    return run;
}

const wn_yaml_node *wn_indent_restore(const wn_yaml_node *mapping, const wn_indent_rule *rule,
                                      wn_arena *arena, wn_findings *notes)
{
    int any = 0;
    for (const wn_yaml_item *item = mapping->items; item != NULL; item = item->next)
        any |= starts_run(item, rule);
    if (!any)
        return mapping;
    wn_yaml_node *restored = empty_mapping(mapping, arena);
    if (restored == NULL)
        return NULL;
    wn_yaml_item **end = &restored->items;
    for (const wn_yaml_item *item = mapping->items; item != NULL; item = item->next) {
        wn_yaml_item *copy = append(restored, &end, item, arena);
        if (copy == NULL)
            return NULL;
        if (!starts_run(item, rule))
            continue;
        wn_yaml_node *run = take_run(item, rule, arena, &item);
        if (run == NULL)
            return NULL;
        note_run(copy, run, notes);
        copy->value = run;
    }
    return restored;
}
