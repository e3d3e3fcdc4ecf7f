/* lost_indent.h: mappings whose indentation was lost on the way through a web page.
 *
 *     kv_cache_config:              kv_cache_config:
 *     tokens_per_block: 32    is      tokens_per_block: 32
 *     on_error: dense               on_error: dense
 *
 * where kv_cache_config wants a mapping and has no value, and tokens_per_block is not a key of the
 * level it stands on. */
#ifndef WN_LOST_INDENT_H
#define WN_LOST_INDENT_H

#include "core/yaml_tree.h"

typedef struct wn_indent_rule {
    int (*opens)(const char *key);   /* wants a mapping, if it has no value */
    int (*belongs)(const char *key); /* is read as part of it */
} wn_indent_rule;

/* The mapping with such runs moved where they belong, each with a note; the mapping itself if there
 * are none. NULL when memory is out. */
const wn_yaml_node *wn_indent_restore(const wn_yaml_node *mapping, const wn_indent_rule *rule,
                                      wn_arena *arena, wn_findings *notes);

#endif
