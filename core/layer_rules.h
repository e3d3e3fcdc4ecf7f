/* layer_rules.h: on which layers does a method work? An entry's `layers:` and `ignore:`.
 *
 * A pattern is fnmatch's (*, ?, [abc]) and is held against each name a layer N may have:
 * model.layers.N.self_attn, model.layers.N.attention, model.layers.N, and the three without
 * "model.". [first..last] in a pattern stands for N itself and says in which range it is. */
#ifndef WN_LAYER_RULES_H
#define WN_LAYER_RULES_H

#include "core/yaml_tree.h"

typedef struct wn_layer_rule {
    const char *pattern; /* the tree's */
    uint32_t enable;
    struct wn_layer_rule *next;
} wn_layer_rule;

/* Zeroed: no rules, every layer. */
typedef struct wn_layer_rules {
    wn_layer_rule *first, *last;
    uint32_t enabling; /* rules that enable: without any, what matches no rule is on */
} wn_layer_rules;

/* Appends rules from a pattern or a list of patterns and {pattern: ..., enable: true|false}. A
 * plain pattern enables, or disables if `enable` is 0 (`ignore:`). key: the name in messages.
 * notes: receives warnings about classes like [0-12]. */
void wn_layer_rules_read(wn_layer_rules *rules, const wn_yaml_node *node, const char *key,
                         uint32_t enable, wn_arena *arena, wn_findings *findings,
                         wn_findings *notes);

/* The last rule that matches decides. */
int wn_layer_rules_match(const wn_layer_rules *rules, uint32_t layer_number);

#endif
