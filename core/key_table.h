/* key_table.h: a mapping read by a table of its keys. */
#ifndef WN_KEY_TABLE_H
#define WN_KEY_TABLE_H

#include "core/yaml_tree.h"

typedef struct wn_key_rule {
    const char *name;
    /* Takes the value of the key. Not called for `null`, which is as good as absent. */
    void (*read)(void *context, const wn_yaml_item *item);
} wn_key_rule;

/* Hands each item to its rule. rules: ends with a NULL name. A key without a rule is a finding with
 * the nearest name; so is a value that is no mapping. `where` names the mapping in messages. */
void wn_keys_read(const wn_yaml_node *mapping, const char *where, const wn_key_rule *rules,
                  void *context, wn_findings *findings);

int wn_keys_know(const wn_key_rule *rules, const char *name);

#endif
