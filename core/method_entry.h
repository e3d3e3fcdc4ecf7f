/* method_entry.h: the entries of sparse_attention_config. What every entry may say is read here;
 * all other keys are the algorithm's own and wait for its schema. */
#ifndef WN_METHOD_ENTRY_H
#define WN_METHOD_ENTRY_H

#include "core/config_file.h"
#include "core/layer_rules.h"
#include "core/yaml_tree.h"

typedef struct wn_method_entry {
    wn_method_config method;
    wn_layer_rules rules;
    const wn_yaml_node *node; /* the entry, a mapping */
    struct wn_method_entry *next;
} wn_method_entry;

/* A mapping, or a list of them, to a list of entries in the arena; NULL if there are none. */
wn_method_entry *wn_method_entries_read(const wn_yaml_item *item, wn_arena *arena,
                                        wn_findings *findings, wn_findings *notes);

/* The keys that belong to every entry: algorithm, phases, layers, ignore; NULL-terminated. */
extern const char *const wn_method_entry_keys[];
int wn_method_entry_knows(const char *key);

/* Bit of a phase by any of its names: 1 << WN_PHASE_...; 0 for no phase's name. */
uint32_t wn_phase_bit(const char *name);

#endif
