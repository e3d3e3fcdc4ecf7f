/* layer_rules.c: patterns over layer names. */
#include "core/layer_rules.h"

#include "core/key_table.h"
#include "core/quote.h"
#include "core/yaml_scalar.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST_PATTERN = 255, NUMBER_BYTES = 11 };

/* ---------------------------------------------------------------- the range form */

typedef struct range {
    uint32_t first, last;
    size_t bytes; /* of the text, brackets included */
} range;

static const char *read_number(const char *text, uint32_t *number)
{
    uint64_t value = 0;
    const char *c = text;
    while (*c >= '0' && *c <= '9' && value <= UINT32_MAX)
        value = value * 10 + (uint64_t)(*c++ - '0');
    *number = (uint32_t)value;
    return c == text || value > UINT32_MAX ? NULL : c;
}

/* Does "[first..last]" begin at text? */
static int read_range(const char *text, range *out)
{
    const char *c = *text == '[' ? read_number(text + 1, &out->first) : NULL;
    if (c == NULL || strncmp(c, "..", 2) != 0)
        return 0;
    c = read_number(c + 2, &out->last);
    if (c == NULL || *c != ']')
        return 0;
    out->bytes = (size_t)(c + 1 - text);
    return 1;
}

/* The pattern with the number in the place of each range; 0 if the number is outside one. */
static int fill_in(const char *pattern, uint32_t number, char *out, size_t capacity)
{
    size_t used = 0;
    while (*pattern != '\0' && used + NUMBER_BYTES < capacity) {
        range r;
        if (!read_range(pattern, &r)) {
            out[used++] = *pattern++;
            continue;
        }
        if (number < r.first || number > r.last)
            return 0;
        used += (size_t)snprintf(out + used, capacity - used, "%u", number);
        pattern += r.bytes;
    }
    out[used] = '\0';
    return *pattern == '\0';
}

/* ---------------------------------------------------------------- what is wrong with a pattern */

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "0, 1 or 2": the digits that a class matches, as fnmatch sees it. */
static void write_digits(const char *class, char out[48])
{
    char digits[11];
    size_t count = 0, used = 0;
    for (char d = '0'; d <= '9'; d++)
        if (fnmatch(class, (char[]){d, '\0'}, 0) == 0)
            digits[count++] = d;
    out[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        const char *joint = i == 0 ? "" : i + 1 == count ? " or " : ", ";
        used += (size_t)snprintf(out + used, 48 - used, "%s%c", joint, digits[i]);
    }
}

/* Warns of [0-12]: a character class, not a range of numbers. */
static void warn_of_class(const wn_yaml_node *node, const char *class, size_t bytes,
                          wn_findings *notes)
{
    uint32_t first, last;
    const char *dash = read_number(class + 1, &first);
    const char *end = dash == NULL || *dash != '-' ? NULL : read_number(dash + 1, &last);
    if (end == NULL || *end != ']' || (dash - class == 2 && end - dash == 2))
        return;
    char copy[LONGEST_PATTERN + 1], digits[48];
    memcpy(copy, class, bytes);
    copy[bytes] = '\0';
    write_digits(copy, digits);
    wn_finding_add(notes, node->line, node->column,
                   "%s is a character class and matches one character: %s. For layers %u to %u "
                   "write [%u..%u]",
                   copy, digits, first, last, first, last);
}

/* One bracket, from '[' to ']'. Answers what is wrong with it, or NULL. */
static const char *check_bracket(const wn_yaml_node *node, const char *bracket, size_t bytes,
                                 wn_findings *notes)
{
    range r;
    const char *dots = strstr(bracket, "..");
    if (read_range(bracket, &r)) {
        if (r.first > r.last)
            return "its range runs backwards";
        if ((bracket > node->text && is_digit(bracket[-1])) || is_digit(bracket[r.bytes]))
            return "a range stands for the whole number of a layer: no digit may touch it";
    } else if (dots != NULL && dots < bracket + bytes)
        return "a range is written [first..last], two numbers";
    else
        warn_of_class(node, bracket, bytes, notes);
    return NULL;
}

static const char *check_pattern(const wn_yaml_node *node, wn_findings *notes)
{
    const char *text = node->text;
    if (strlen(text) > LONGEST_PATTERN)
        return "longer than 255 characters";
    if (wn_yaml_is_integer(node))
        return "a number matches no layer's name: write layers.[first..last]";
    while ((text = strchr(text, '[')) != NULL) {
        /* A ']' right after "[", "[!" or "[^" belongs to the class. */
        size_t skip = text[1] == '\0' ? 1 : text[1] == '!' || text[1] == '^' ? 3 : 2;
        const char *end = strlen(text) < skip ? NULL : strchr(text + skip, ']');
        if (end == NULL)
            return "a '[' without its ']'";
        const char *problem = check_bracket(node, text, (size_t)(end + 1 - text), notes);
        if (problem != NULL)
            return problem;
        text = end + 1;
    }
    return NULL;
}

/* ---------------------------------------------------------------- reading */

typedef struct reader {
    wn_layer_rules *rules;
    const char *key;
    uint32_t enable; /* of the rule being read */
    const wn_yaml_node *pattern;
    wn_arena *arena;
    wn_findings *findings, *notes;
} reader;

static void add_rule(reader *r, const wn_yaml_node *node)
{
    char quoted[WN_QUOTE_BYTES];
    const char *pattern;
    if (!wn_read_string(node, r->key, r->findings, &pattern))
        return;
    const char *problem = check_pattern(node, r->notes);
    if (problem != NULL) {
        wn_finding_add(r->findings, node->line, node->column, "layer pattern %s: %s",
                       wn_quote(quoted, pattern), problem);
        return;
    }
    wn_layer_rule *rule = wn_arena_take(r->arena, sizeof *rule);
    if (rule == NULL)
        return;
    rule->pattern = pattern;
    rule->enable = r->enable;
    *(r->rules->last == NULL ? &r->rules->first : &r->rules->last->next) = rule;
    r->rules->last = rule;
    r->rules->enabling += r->enable;
}

static void read_pattern(void *context, const wn_yaml_item *item)
{
    ((reader *)context)->pattern = item->value;
}

static void read_enable(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    int64_t enable;
    if (wn_read_bool(item->value, "enable", r->findings, &enable))
        r->enable = (uint32_t)enable;
}

static void read_rule(reader *r, const wn_yaml_node *node, uint32_t enable)
{
    static const wn_key_rule keys[] = {
        {"pattern", read_pattern}, {"enable", read_enable}, {NULL, NULL}};
    r->enable = enable;
    r->pattern = node;
    if (node->kind == WN_YAML_MAPPING) {
        r->pattern = NULL;
        wn_keys_read(node, r->key, keys, r, r->findings);
        if (r->pattern == NULL)
            wn_finding_add(r->findings, node->line, node->column,
                           "a layer rule needs a pattern: {pattern: \"layers.[0..3]\", enable: "
                           "false}");
    }
    if (r->pattern != NULL)
        add_rule(r, r->pattern);
}

void wn_layer_rules_read(wn_layer_rules *rules, const wn_yaml_node *node, const char *key,
                         uint32_t enable, wn_arena *arena, wn_findings *findings,
                         wn_findings *notes)
{
    reader r = {rules, key, enable, NULL, arena, findings, notes};
    if (node->kind != WN_YAML_SEQUENCE) {
        read_rule(&r, node, enable);
        return;
    }
    if (node->count == 0)
        wn_finding_add(findings, node->line, node->column, "\"%s\" is an empty list: leave it out",
                       key);
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next)
        read_rule(&r, item->value, enable);
}

/* ---------------------------------------------------------------- matching */

static int matches(const char *pattern, uint32_t number)
{
    static const char *const forms[] = {
        "model.layers.%u.self_attn", "layers.%u.self_attn", "model.layers.%u.attention",
        "layers.%u.attention",       "model.layers.%u",     "layers.%u",
    };
    char filled[LONGEST_PATTERN + 64], name[64];
    if (!fill_in(pattern, number, filled, sizeof filled))
        return 0;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        snprintf(name, sizeof name, forms[i], number);
        if (fnmatch(filled, name, 0) == 0)
            return 1;
    }
    return 0;
}

int wn_layer_rules_match(const wn_layer_rules *rules, uint32_t layer_number)
{
    uint32_t on = rules->enabling == 0;
    for (const wn_layer_rule *rule = rules->first; rule != NULL; rule = rule->next)
        if (matches(rule->pattern, layer_number))
            on = rule->enable;
    return (int)on;
}
