/* number_map.h: a mapping of numbers as one flat list: WN_FIELD_NUMBER_MAP. */
#ifndef WN_NUMBER_MAP_H
#define WN_NUMBER_MAP_H

#include "core/yaml_tree.h"
#include "winnow/config.h"

/* Mappings inside mappings, and bytes of a name with its field's in front. */
enum { WN_NUMBER_MAP_LEVELS = 8, WN_NUMBER_MAP_BYTES = 256 };

/* {prefill: {a: 1, b: 2}} becomes the names "prefill.a", "prefill.b" and their numbers, in the
 * order of the file; null is as good as absent. Answers whether all of it was read; if not, there
 * are findings. Names and numbers are the arena's. */
int wn_number_map_read(const wn_config_field *field, const wn_yaml_node *node, wn_arena *arena,
                       wn_findings *findings, wn_value *value);

#endif
