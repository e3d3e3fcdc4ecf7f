/* yaml_tree.h: a YAML text as a tree whose every node knows its place.
 *
 * Bounded, because configurations come from elsewhere: WN_YAML_BYTES of text, WN_YAML_NODES nodes
 * with every alias written out, WN_YAML_DEPTH levels. Aliases share their anchor's node; a merge
 * key ("<<") adds what the mapping does not say itself. Refused: duplicate keys, keys that are not
 * scalars, tags, a second document, NUL characters. */
#ifndef WN_YAML_TREE_H
#define WN_YAML_TREE_H

#include "core/arena.h"
#include "core/findings.h"

enum { WN_YAML_BYTES = 1 << 20, WN_YAML_NODES = 10000, WN_YAML_DEPTH = 64 };

enum { WN_YAML_SCALAR = 1, WN_YAML_SEQUENCE = 2, WN_YAML_MAPPING = 3 };

typedef struct wn_yaml_node wn_yaml_node;
typedef struct wn_yaml_item wn_yaml_item;

struct wn_yaml_node {
    uint32_t kind;         /* WN_YAML_... */
    uint32_t line, column; /* from 1 */
    uint32_t plain;        /* scalar: written without quotes and not as a block */
    uint32_t nodes;        /* of this tree, aliases written out */
    uint32_t levels;       /* of this tree: 1 for a scalar */
    const char *text;      /* scalar; NUL-terminated UTF-8 without NULs inside */
    uint32_t count;        /* items */
    wn_yaml_item *items;   /* sequence, mapping: a list, in the order of the file */
};

struct wn_yaml_item {
    const wn_yaml_node *key; /* a scalar; sequence: NULL */
    const wn_yaml_node *value;
    wn_yaml_item *next;
};

/* The tree of a text, in the arena; NULL if there is none, and the findings say why. Errors that
 * leave a tree (duplicate keys) are found too: ask findings->count. NULL without a finding for a
 * text that has no document in it, or when memory is out (arena->out_of_memory). */
const wn_yaml_node *wn_yaml_parse(const char *text, size_t bytes, wn_arena *arena,
                                  wn_findings *findings);

/* The value of a key of a mapping; NULL if there is none. */
const wn_yaml_node *wn_yaml_get(const wn_yaml_node *mapping, const char *key);

#endif
