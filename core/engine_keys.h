/* engine_keys.h: the keys of a file that are not an algorithm's: the cache and the engine. */
#ifndef WN_ENGINE_KEYS_H
#define WN_ENGINE_KEYS_H

#include "core/config_file.h"
#include "core/yaml_tree.h"

/* Reads the top level of a file, a mapping. *methods: the item of sparse_attention_config, left for
 * others to read; NULL if there is none. */
void wn_engine_keys_read(const wn_yaml_node *root, wn_engine_config *engine,
                         const wn_yaml_item **methods, wn_arena *arena, wn_findings *findings,
                         wn_findings *notes);

#endif
