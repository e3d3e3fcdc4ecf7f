/* yaml_tree.c: libyaml's events to a tree. Recursion is as deep as WN_YAML_DEPTH and no deeper; the
 * nodes are counted as if every alias were written out, so that no short file makes a large tree.
 * A problem that leaves the structure clear is noted and reading goes on; any other one stops. */
#include "core/yaml_tree.h"

#include "core/quote.h"

#include <string.h>
#include <yaml.h>

typedef struct anchor {
    const char *name;
    const wn_yaml_node *node; /* NULL while the node is being read */
    struct anchor *next;      /* older ones */
} anchor;

typedef struct builder {
    yaml_parser_t parser;
    yaml_event_t event; /* the one to look at; owned */
    const char *text;
    size_t bytes;
    wn_arena *arena;
    wn_findings *findings;
    anchor *anchors;
    uint64_t nodes;
    int stopped;
} builder;

static const wn_yaml_node *read_node(builder *b, uint32_t depth);

/* ---------------------------------------------------------------- places */

static void place_of_offset(const char *text, size_t offset, uint32_t *line, uint32_t *column)
{
    *line = *column = 1;
    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)text[i] & 0xc0) != 0x80)
            ++*column;
    }
}

/* The byte at a mark, which counts characters; NUL beyond the end. */
static char byte_at(const char *text, size_t bytes, yaml_mark_t mark)
{
    size_t i = 0;
    for (size_t line = 0; line < mark.line && i < bytes; i++)
        line += text[i] == '\n';
    for (size_t column = 0; i < bytes; i++)
        if (((unsigned char)text[i] & 0xc0) != 0x80 && column++ == mark.column)
            break;
    return i < bytes ? text[i] : '\0';
}

static uint32_t line_of(yaml_mark_t mark)
{
    return (uint32_t)mark.line + 1;
}

static uint32_t column_of(yaml_mark_t mark)
{
    return (uint32_t)mark.column + 1;
}

/* ---------------------------------------------------------------- what stops reading */

static void stop_at_mark(builder *b, yaml_mark_t mark, const char *text)
{
    if (!b->stopped)
        wn_finding_add(b->findings, line_of(mark), column_of(mark), "%s", text);
    b->stopped = 1;
}

static void out_of_memory(builder *b)
{
    b->arena->out_of_memory = 1;
    b->stopped = 1;
}

/* libyaml's own errors. Those of its reader come with a byte offset, the others with a mark. */
static void stop_at_problem(builder *b)
{
    const yaml_parser_t *p = &b->parser;
    uint32_t line = line_of(p->problem_mark), column = column_of(p->problem_mark);
    b->stopped = 1;
    if (p->error == YAML_MEMORY_ERROR) {
        out_of_memory(b);
        return;
    }
    if (p->error == YAML_READER_ERROR) {
        size_t offset = p->problem_offset < b->bytes ? p->problem_offset : b->bytes;
        place_of_offset(b->text, offset, &line, &column);
    }
    const char *problem = p->problem == NULL ? "this is not YAML" : p->problem;
    int tab = p->error == YAML_SCANNER_ERROR && byte_at(b->text, b->bytes, p->problem_mark) == '\t';
    wn_finding_add(b->findings, line, column, "%s%s%s%s", problem, p->context == NULL ? "" : " ",
                   p->context == NULL ? "" : p->context,
                   tab ? " (this is a tab: indent with spaces)" : "");
}

static int next_event(builder *b)
{
    yaml_event_delete(&b->event);
    if (b->stopped)
        return 0;
    if (!yaml_parser_parse(&b->parser, &b->event))
        stop_at_problem(b);
    return !b->stopped;
}

/* ---------------------------------------------------------------- nodes */

static int count_nodes(builder *b, uint64_t more)
{
    b->nodes += more;
    if (b->nodes > WN_YAML_NODES)
        stop_at_mark(b, b->event.start_mark,
                     "too large: more than 10000 values, those behind aliases counted");
    return !b->stopped;
}

static wn_yaml_node *new_node(builder *b, uint32_t kind)
{
    if (!count_nodes(b, 1))
        return NULL;
    wn_yaml_node *node = wn_arena_take(b->arena, sizeof *node);
    if (node == NULL) {
        out_of_memory(b);
        return NULL;
    }
    node->kind = kind;
    node->line = line_of(b->event.start_mark);
    node->column = column_of(b->event.start_mark);
    node->nodes = node->levels = 1;
    return node;
}

/* Appends to the list that ends at *end, and moves *end. */
static void append(builder *b, wn_yaml_node *node, wn_yaml_item ***end, const wn_yaml_node *key,
                   const wn_yaml_node *value)
{
    wn_yaml_item *item = wn_arena_take(b->arena, sizeof *item);
    if (item == NULL) {
        out_of_memory(b);
        return;
    }
    item->key = key;
    item->value = value;
    **end = item;
    *end = &item->next;
    node->count++;
    node->nodes += value->nodes + (key == NULL ? 0 : key->nodes);
    if (node->levels <= value->levels)
        node->levels = value->levels + 1;
}

static anchor *new_anchor(builder *b, const yaml_char_t *name)
{
    anchor *a = wn_arena_take(b->arena, sizeof *a);
    char *copy = wn_arena_text(b->arena, (const char *)name, strlen((const char *)name));
    if (a == NULL || copy == NULL) {
        out_of_memory(b);
        return NULL;
    }
    a->name = copy;
    a->next = b->anchors;
    b->anchors = a;
    return a;
}

static const wn_yaml_node *read_alias(builder *b, uint32_t depth)
{
    const char *name = (const char *)b->event.data.alias.anchor;
    const anchor *a = b->anchors;
    while (a != NULL && strcmp(a->name, name) != 0)
        a = a->next;
    if (a == NULL)
        stop_at_mark(b, b->event.start_mark, "this alias has no anchor before it");
    else if (a->node == NULL)
        stop_at_mark(b, b->event.start_mark, "this alias is inside its own anchor");
    else if (depth + a->node->levels > WN_YAML_DEPTH)
        stop_at_mark(b, b->event.start_mark, "nested deeper than 64 levels through this alias");
    else
        count_nodes(b, a->node->nodes);
    return b->stopped ? NULL : a->node;
}

static wn_yaml_node *read_scalar(builder *b)
{
    const char *value = (const char *)b->event.data.scalar.value;
    size_t length = b->event.data.scalar.length;
    if (memchr(value, '\0', length) != NULL) {
        stop_at_mark(b, b->event.start_mark, "a NUL character in a value");
        return NULL;
    }
    wn_yaml_node *node = new_node(b, WN_YAML_SCALAR);
    if (node == NULL)
        return NULL;
    node->plain = b->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->text = wn_arena_text(b->arena, value, length);
    if (node->text == NULL)
        out_of_memory(b);
    return node;
}

static wn_yaml_node *read_sequence(builder *b, uint32_t depth)
{
    wn_yaml_node *node = new_node(b, WN_YAML_SEQUENCE);
    if (node == NULL)
        return NULL;
    wn_yaml_item **end = &node->items;
    while (next_event(b) && b->event.type != YAML_SEQUENCE_END_EVENT) {
        const wn_yaml_node *value = read_node(b, depth + 1);
        if (value != NULL && !b->stopped)
            append(b, node, &end, NULL, value);
    }
    return node;
}

/* ---------------------------------------------------------------- mappings */

static const wn_yaml_item *find(const wn_yaml_node *mapping, const char *key)
{
    for (const wn_yaml_item *item = mapping->items; item != NULL; item = item->next)
        if (strcmp(item->key->text, key) == 0)
            return item;
    return NULL;
}

static void merge_mapping(builder *b, wn_yaml_node *into, wn_yaml_item ***end,
                          const wn_yaml_node *from)
{
    if (from->kind != WN_YAML_MAPPING) {
        wn_finding_add(b->findings, from->line, from->column,
                       "a merge key (<<) takes a mapping or a list of mappings");
        return;
    }
    for (const wn_yaml_item *item = from->items; item != NULL && !b->stopped; item = item->next)
        if (find(into, item->key->text) == NULL &&
            count_nodes(b, (uint64_t)item->key->nodes + item->value->nodes))
            append(b, into, end, item->key, item->value);
}

static void merge(builder *b, wn_yaml_node *into, wn_yaml_item ***end, const wn_yaml_node *from)
{
    if (from->kind != WN_YAML_SEQUENCE)
        merge_mapping(b, into, end, from);
    else
        for (const wn_yaml_item *item = from->items; item != NULL; item = item->next)
            merge_mapping(b, into, end, item->value);
}

/* Notes what is wrong with a key; answers whether it can be used. */
static int check_key(builder *b, const wn_yaml_node *mapping, const wn_yaml_node *key,
                     const wn_yaml_node *merged)
{
    char quoted[WN_QUOTE_BYTES];
    if (key->kind != WN_YAML_SCALAR) {
        wn_finding_add(b->findings, key->line, key->column,
                       "a key must be a word, not a list or a mapping");
        return 0;
    }
    int is_merge = key->plain && strcmp(key->text, "<<") == 0;
    const wn_yaml_item *first = find(mapping, key->text);
    if (first == NULL && !(is_merge && merged != NULL))
        return 1;
    const wn_yaml_node *place = first == NULL ? merged : first->key;
    wn_finding_add(b->findings, key->line, key->column, "duplicate key %s (first at %u:%u)",
                   wn_quote(quoted, key->text), place->line, place->column);
    return 0;
}

static wn_yaml_node *read_mapping(builder *b, uint32_t depth)
{
    wn_yaml_node *node = new_node(b, WN_YAML_MAPPING);
    if (node == NULL)
        return NULL;
    wn_yaml_item **end = &node->items;
    const wn_yaml_node *merge_key = NULL, *merged = NULL;
    while (next_event(b) && b->event.type != YAML_MAPPING_END_EVENT) {
        const wn_yaml_node *key = read_node(b, depth + 1);
        if (key == NULL || !next_event(b))
            break;
        const wn_yaml_node *value = read_node(b, depth + 1);
        if (value == NULL || b->stopped)
            break;
        if (!check_key(b, node, key, merge_key))
            continue;
        if (key->plain && strcmp(key->text, "<<") == 0) {
            merge_key = key;
            merged = value;
        } else
            append(b, node, &end, key, value);
    }
    if (merged != NULL && !b->stopped)
        merge(b, node, &end, merged);
    return node;
}

/* ---------------------------------------------------------------- the text as a whole */

/* A tag ("!!int") says how to read a value; here the key does. "!" alone stands for "a string". */
static void check_tag(builder *b, const yaml_char_t *tag)
{
    char quoted[WN_QUOTE_BYTES];
    if (tag != NULL && strcmp((const char *)tag, "!") != 0)
        wn_finding_add(b->findings, line_of(b->event.start_mark), column_of(b->event.start_mark),
                       "the tag %s has no meaning here: remove it",
                       wn_quote(quoted, (const char *)tag));
}

static const wn_yaml_node *read_node(builder *b, uint32_t depth)
{
    const yaml_char_t *name = NULL;
    anchor *a = NULL;
    wn_yaml_node *node = NULL;
    if (depth > WN_YAML_DEPTH) {
        stop_at_mark(b, b->event.start_mark, "nested deeper than 64 levels");
        return NULL;
    }
    yaml_event_type_t type = b->event.type;
    if (type == YAML_ALIAS_EVENT)
        return read_alias(b, depth - 1);
    if (type == YAML_SCALAR_EVENT) {
        name = b->event.data.scalar.anchor;
        check_tag(b, b->event.data.scalar.tag);
    } else if (type == YAML_SEQUENCE_START_EVENT) {
        name = b->event.data.sequence_start.anchor;
        check_tag(b, b->event.data.sequence_start.tag);
    } else {
        name = b->event.data.mapping_start.anchor;
        check_tag(b, b->event.data.mapping_start.tag);
    }
    if (name != NULL && (a = new_anchor(b, name)) == NULL)
        return NULL;
    if (type == YAML_SCALAR_EVENT)
        node = read_scalar(b);
    else if (type == YAML_SEQUENCE_START_EVENT)
        node = read_sequence(b, depth);
    else
        node = read_mapping(b, depth);
    if (a != NULL)
        a->node = node;
    return b->stopped ? NULL : node;
}

static const wn_yaml_node *read_stream(builder *b)
{
    if (!next_event(b) || !next_event(b) || b->event.type == YAML_STREAM_END_EVENT)
        return NULL;
    if (!next_event(b)) /* the first was DOCUMENT-START */
        return NULL;
    const wn_yaml_node *root = read_node(b, 1);
    if (root == NULL || !next_event(b) || !next_event(b))
        return NULL;
    if (b->event.type != YAML_STREAM_END_EVENT)
        stop_at_mark(b, b->event.start_mark, "a second document: a configuration is one document");
    return b->stopped ? NULL : root;
}

static int is_acceptable(const char *text, size_t bytes, wn_findings *findings)
{
    if (bytes > WN_YAML_BYTES) {
        wn_finding_add(findings, 0, 0, "larger than 1 MiB: this is no configuration");
        return 0;
    }
    if (bytes >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0)) {
        wn_finding_add(findings, 0, 0, "UTF-16 text: save it as UTF-8");
        return 0;
    }
    const char *nul = bytes == 0 ? NULL : memchr(text, '\0', bytes);
    if (nul != NULL) {
        uint32_t line, column;
        place_of_offset(text, (size_t)(nul - text), &line, &column);
        wn_finding_add(findings, line, column, "a NUL byte: this is no text file");
    }
    return nul == NULL;
}

const wn_yaml_node *wn_yaml_parse(const char *text, size_t bytes, wn_arena *arena,
                                  wn_findings *findings)
{
    builder b = {.text = text, .bytes = bytes, .arena = arena, .findings = findings};
    if (!is_acceptable(text, bytes, findings))
        return NULL;
    if (!yaml_parser_initialize(&b.parser)) {
        arena->out_of_memory = 1;
        return NULL;
    }
    yaml_parser_set_encoding(&b.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&b.parser, (const unsigned char *)(bytes == 0 ? "" : text), bytes);
    const wn_yaml_node *root = read_stream(&b);
    yaml_event_delete(&b.event);
    yaml_parser_delete(&b.parser);
    return root;
}

const wn_yaml_node *wn_yaml_get(const wn_yaml_node *mapping, const char *key)
{
    const wn_yaml_item *item = find(mapping, key);
    return item == NULL ? NULL : item->value;
}
