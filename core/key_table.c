/* key_table.c: a mapping read by a table of its keys. */
#include "core/key_table.h"

#include "core/nearest_key.h"
#include "core/quote.h"
#include "core/yaml_scalar.h"

#include <string.h>

static const wn_key_rule *rule_of(const wn_key_rule *rules, const char *name)
{
    for (; rules->name != NULL; rules++)
        if (strcmp(rules->name, name) == 0)
            return rules;
    return NULL;
}

int wn_keys_know(const wn_key_rule *rules, const char *name)
{
    return rule_of(rules, name) != NULL;
}

static void find_unknown(const wn_yaml_node *key, const wn_key_rule *rules, wn_findings *findings)
{
    char quoted[WN_QUOTE_BYTES], hint[WN_HINT_BYTES];
    wn_nearest nearest = wn_nearest_begin(key->text);
    for (; rules->name != NULL; rules++)
        wn_nearest_try(&nearest, rules->name);
    wn_finding_add(findings, key->line, key->column, "unknown key %s%s",
                   wn_quote(quoted, key->text), wn_nearest_hint(&nearest, hint));
}

void wn_keys_read(const wn_yaml_node *mapping, const char *where, const wn_key_rule *rules,
                  void *context, wn_findings *findings)
{
    if (mapping->kind != WN_YAML_MAPPING) {
        wn_find_mismatch(findings, mapping, where, "a mapping (key: value)");
        return;
    }
    for (const wn_yaml_item *item = mapping->items; item != NULL; item = item->next) {
        const wn_key_rule *rule = rule_of(rules, item->key->text);
        if (rule == NULL)
            find_unknown(item->key, rules, findings);
        else if (!wn_yaml_is_null(item->value))
            rule->read(context, item);
    }
}
