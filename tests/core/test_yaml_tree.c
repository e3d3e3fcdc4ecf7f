/* The YAML tree: structure, places, bounds, and the texts of its errors. */
#include "tests/suite.h"

#include "core/yaml_tree.h"

#include <string.h>
#include <time.h>

static wn_arena arena;
static wn_findings findings;
static wn_reason_list told;

static const wn_yaml_node *parse_bytes(const char *text, size_t bytes)
{
    wn_arena_free(&arena);
    wn_reasons_clear(&told);
    const wn_yaml_node *root = wn_yaml_parse(text, bytes, &arena, &findings);
    wn_findings_tell(&findings, "f", &told);
    return root;
}

static const wn_yaml_node *parse(const char *text)
{
    return parse_bytes(text, strlen(text));
}

static const char *errors(void)
{
    return told.text == NULL ? "" : told.text;
}

static void done(void)
{
    wn_arena_free(&arena);
    wn_reasons_clear(&told);
}

static void structure_and_places_are_kept(void)
{
    const wn_yaml_node *root = parse("a: 1\nb:\n  - x\n  - 'y'\nc: {d: \"e\", f: [1, 2]}\n");
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    CU_ASSERT_EQUAL(root->kind, WN_YAML_MAPPING);
    CU_ASSERT_EQUAL(root->count, 3);
    CU_ASSERT_STRING_EQUAL(root->items->key->text, "a");
    CU_ASSERT_EQUAL(root->items->value->plain, 1);
    const wn_yaml_node *b = wn_yaml_get(root, "b");
    CU_ASSERT_EQUAL(b->kind, WN_YAML_SEQUENCE);
    CU_ASSERT_EQUAL(b->items->next->value->line, 4);
    CU_ASSERT_EQUAL(b->items->next->value->column, 5);
    CU_ASSERT_EQUAL(b->items->next->value->plain, 0);
    CU_ASSERT_PTR_NULL(b->items->key);
    const wn_yaml_node *c = wn_yaml_get(root, "c");
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(c, "d")->text, "e");
    CU_ASSERT_EQUAL(wn_yaml_get(c, "f")->count, 2);
    CU_ASSERT_EQUAL(wn_yaml_get(c, "f")->items->next->value->column, 20);
    CU_ASSERT_PTR_NULL(wn_yaml_get(root, "d"));
    CU_ASSERT_EQUAL(root->nodes, 15);
    CU_ASSERT_EQUAL(root->levels, 4);
    done();
}

static void columns_count_characters(void)
{
    const wn_yaml_node *root = parse("\xef\xbb\xbf{\"\xc3\xa9\xc3\xa9\": x}\n");
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    CU_ASSERT_EQUAL(root->items->value->column, 9); /* the byte order mark is one */
    root = parse("{\"\xc3\xa9\xc3\xa9\": x}\r\n");
    CU_ASSERT_EQUAL(root->items->value->column, 8);
    done();
}

static void aliases_and_merges_work(void)
{
    const wn_yaml_node *root = parse("base: &b {x: 1, y: 2}\n"
                                     "other: &o {y: 5, z: 3}\n"
                                     "one: {<<: *b, x: 7}\n"
                                     "two: {<<: [*b, *o]}\n"
                                     "same: *b\n");
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    CU_ASSERT_STRING_EQUAL(errors(), "");
    const wn_yaml_node *one = wn_yaml_get(root, "one"), *two = wn_yaml_get(root, "two");
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(one, "x")->text, "7");
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(one, "y")->text, "2");
    CU_ASSERT_EQUAL(one->count, 2);
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(two, "y")->text, "2");
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(two, "z")->text, "3");
    CU_ASSERT_PTR_EQUAL(wn_yaml_get(root, "same"), wn_yaml_get(root, "base"));
    CU_ASSERT_EQUAL(wn_yaml_get(wn_yaml_get(root, "same"), "x")->line, 1);
    done();
}

typedef struct fault {
    const char *text, *error;
} fault;

static void errors_name_their_place(void)
{
    static const fault faults[] = {
        {"a: 1\nb: 2\na: 3\n", "f:3:1: duplicate key \"a\" (first at 1:1)"},
        {"a: 1\n\"a\": 2\nb: {c: 1, c: 2}\n",
         "f:2:1: duplicate key \"a\" (first at 1:1)\nf:3:11: duplicate key \"c\" (first at 3:5)"},
        {"a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "f:2:13: duplicate key \"<<\" (first at 2:5)"},
        {"a: 1\n---\nb: 2\n", "f:2:1: a second document: a configuration is one document"},
        {"a: *x\n", "f:1:4: this alias has no anchor before it"},
        {"a: &x [1, *x]\n", "f:1:11: this alias is inside its own anchor"},
        {"? [1, 2]\n: 3\n", "f:1:3: a key must be a word, not a list or a mapping"},
        {"a: {<<: 5}\n", "f:1:9: a merge key (<<) takes a mapping or a list of mappings"},
        {"a: !!int \"5\"\n",
         "f:1:4: the tag \"tag:yaml.org,2002:int\" has no meaning here: remove it"},
        {"a: \"x\\0y\"\n", "f:1:4: a NUL character in a value"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        parse(faults[i].text);
        CU_ASSERT_STRING_EQUAL(errors(), faults[i].error);
        if (strcmp(errors(), faults[i].error) != 0)
            printf("\n  %s\n  %s\n", faults[i].error, errors());
    }
    done();
}

/* The words are libyaml's: only the place and the remark are fixed here. */
static void syntax_errors_name_their_place(void)
{
    static const fault faults[] = {
        {"a: [1, 2\nb: 3\n", "f:2:2: "},
        {"a: 1\n\tb: 2\n", "f:2:1: "},
        {"a: 'x\n", "f:2:1: "},
        {"a: 1\nb: %x\n", "f:2:4: "},
        {"\xc3\xa9: 1\nb: \xff\n", "f:2:4: "},
        {"a: 1\nb: \x01\n", "f:2:4: "},
        {"a: 1\nb: \xed\xa0\x80\n", "f:2:4: "},
        {"a: 1\nb: \xc3", "f:2:4: "},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        CU_ASSERT_PTR_NULL(parse(faults[i].text));
        CU_ASSERT_NSTRING_EQUAL(errors(), faults[i].error, strlen(faults[i].error));
        if (strncmp(errors(), faults[i].error, strlen(faults[i].error)) != 0)
            printf("\n  %s\n  %s\n", faults[i].error, errors());
    }
    parse("a: 1\n\tb: 2\n");
    CU_ASSERT_PTR_NOT_NULL(strstr(errors(), "(this is a tab: indent with spaces)"));
    parse("\xc3\xa9: 1\nb: %x\n");
    CU_ASSERT_PTR_NULL(strstr(errors(), "tab"));
    done();
}

static void other_files_are_refused(void)
{
    CU_ASSERT_PTR_NULL(parse_bytes("a: 1\nb: \0", 9));
    CU_ASSERT_STRING_EQUAL(errors(), "f:2:4: a NUL byte: this is no text file");
    CU_ASSERT_PTR_NULL(parse_bytes("\xff\xfe"
                                   "a\0",
                                   4));
    CU_ASSERT_STRING_EQUAL(errors(), "f: UTF-16 text: save it as UTF-8");
    CU_ASSERT_PTR_NULL(parse(""));
    CU_ASSERT_STRING_EQUAL(errors(), "");
    CU_ASSERT_PTR_NULL(parse("# a remark\n"));
    CU_ASSERT_STRING_EQUAL(errors(), "");
    CU_ASSERT_PTR_NULL(parse_bytes(NULL, 0));
    done();
}

/* Nested `depth` deep, by lists. */
static const wn_yaml_node *parse_nested(size_t depth)
{
    char *text = malloc(2 * depth + 1);
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    text[2 * depth] = '\0';
    const wn_yaml_node *root = parse(text);
    free(text);
    return root;
}

static void depth_is_bounded(void)
{
    CU_ASSERT_PTR_NOT_NULL(parse_nested(64));
    CU_ASSERT_PTR_NULL(parse_nested(65));
    CU_ASSERT_STRING_EQUAL(errors(), "f:1:65: nested deeper than 64 levels");
    CU_ASSERT_PTR_NULL(parse_nested(10000));
    CU_ASSERT_STRING_EQUAL(errors(), "f:1:65: nested deeper than 64 levels");
    done();
}

/* Each line nests the one before by an alias: 2 levels each, few nodes. */
static void depth_through_aliases_is_bounded(void)
{
    char text[8000] = "a0: &a0 [1]\n";
    size_t used = strlen(text);
    for (int i = 1; i < 100; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "a%d: &a%d [*a%d]\n", i, i, i - 1);
    CU_ASSERT_PTR_NULL(parse(text));
    CU_ASSERT_STRING_EQUAL(errors(), "f:63:12: nested deeper than 64 levels through this alias");
    done();
}

/* A short file that would be 10^9 nodes with its aliases written out. */
static void aliases_cannot_multiply(void)
{
    char text[8000] = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
    size_t used = strlen(text);
    for (int i = 1; i < 9; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "a%d: &a%d [", i, i);
        for (int j = 0; j < 10; j++)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s*a%d", j ? ", " : "", i - 1);
        used += (size_t)snprintf(text + used, sizeof text - used, "]\n");
    }
    CU_ASSERT_PTR_NULL(parse(text));
    CU_ASSERT_PTR_NOT_NULL(strstr(errors(), "too large: more than 10000 values"));
    done();
}

static double seconds_to_parse(const char *text, size_t bytes)
{
    clock_t begin = clock();
    parse_bytes(text, bytes);
    return (double)(clock() - begin) / CLOCKS_PER_SEC;
}

static void large_files_are_refused_quickly(void)
{
    static const char *const pieces[] = {"[",     "{",    "- ", "a: ", "x: 1\n", "? ",
                                         "*a ",   "&a ",  "\"", "'",   "# ",     "\n",
                                         "- [\n", "{a: ", "!",  "|\n", " ",      "%"};
    size_t bytes = 10u << 20;
    char *text = malloc(bytes);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        size_t length = strlen(pieces[i]);
        for (size_t j = 0; j < bytes; j++)
            text[j] = pieces[i][j % length];
        CU_ASSERT(seconds_to_parse(text, bytes) < 0.1);
        CU_ASSERT_STRING_EQUAL(errors(), "f: larger than 1 MiB: this is no configuration");
        CU_ASSERT(seconds_to_parse(text, WN_YAML_BYTES) < 3);
    }
    free(text);
    done();
}

static void many_different_keys_are_fine(void)
{
    char *text = malloc(200000);
    size_t used = 0;
    for (int i = 0; i < 4999; i++)
        used += (size_t)snprintf(text + used, 200000 - used, "key_%d: %d\n", i, i);
    const wn_yaml_node *root = parse(text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    CU_ASSERT_EQUAL(root->count, 4999);
    snprintf(text + used, 200000 - used, "x: 1\n");
    CU_ASSERT_PTR_NULL(parse(text));
    CU_ASSERT_PTR_NOT_NULL(strstr(errors(), "too large"));
    free(text);
    done();
}

WN_SUITE("core.yaml_tree", {"structure and places are kept", structure_and_places_are_kept},
         {"columns count characters", columns_count_characters},
         {"aliases and merges work", aliases_and_merges_work},
         {"errors name their place", errors_name_their_place},
         {"syntax errors name their place", syntax_errors_name_their_place},
         {"other files are refused", other_files_are_refused},
         {"depth is bounded", depth_is_bounded},
         {"depth through aliases is bounded", depth_through_aliases_is_bounded},
         {"aliases cannot multiply", aliases_cannot_multiply},
         {"large files are refused quickly", large_files_are_refused_quickly},
         {"many different keys are fine", many_different_keys_are_fine})
