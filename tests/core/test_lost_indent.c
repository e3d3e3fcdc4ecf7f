/* Lost indentation. */
#include "tests/suite.h"

#include "core/lost_indent.h"

#include <string.h>

static int opens(const char *key)
{
    return key[0] == 'M';
}

static int belongs(const char *key)
{
    return key[0] == 'x';
}

static const wn_indent_rule rule = {opens, belongs};

/* The mapping after restoring, in one line: {a:1 M:{x1:1 x2:2} b:2}. */
static void write_node(const wn_yaml_node *node, char *out, size_t bytes)
{
    size_t used = strlen(out);
    if (node->kind == WN_YAML_SCALAR) {
        snprintf(out + used, bytes - used, "%s", node->text);
        return;
    }
    strcat(out, "{");
    for (const wn_yaml_item *item = node->items; item != NULL; item = item->next) {
        strcat(out, item->key->text);
        strcat(out, ":");
        write_node(item->value, out, bytes);
        strcat(out, item->next == NULL ? "" : " ");
    }
    strcat(out, "}");
}

static void check(const char *text, const char *expected, const char *expected_notes)
{
    wn_arena arena = {0};
    wn_findings findings = {0}, notes = {0};
    wn_reason_list told = {0};
    char written[500] = "";
    const wn_yaml_node *root = wn_yaml_parse(text, strlen(text), &arena, &findings);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    const wn_yaml_node *restored = wn_indent_restore(root, &rule, &arena, &notes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(restored);
    write_node(restored, written, sizeof written);
    wn_findings_tell(&notes, "f", &told);
    CU_ASSERT_STRING_EQUAL(written, expected);
    CU_ASSERT_STRING_EQUAL(told.text == NULL ? "" : told.text, expected_notes);
    if (expected_notes[0] == '\0')
        CU_ASSERT_PTR_EQUAL(restored, root);
    wn_reasons_clear(&told);
    wn_arena_free(&arena);
}

static void runs_move_under_their_header(void)
{
    check("a: 1\nM:\nx1: 1\nx2: 2\nb: 2\n", "{a:1 M:{x1:1 x2:2} b:2}",
          "f:2:1: indentation lost: reading \"x1\" and \"x2\" as part of \"M\"");
    check("M:\nx1: 1\nx2: 2\nx3: 3\n", "{M:{x1:1 x2:2 x3:3}}",
          "f:1:1: indentation lost: reading \"x1\" to \"x3\" as part of \"M\"");
    check("M1:\nx1: 1\nM2:\nx2: 2\n", "{M1:{x1:1} M2:{x2:2}}",
          "f:1:1: indentation lost: reading \"x1\" as part of \"M1\"\n"
          "f:3:1: indentation lost: reading \"x2\" as part of \"M2\"");
}

static void what_is_in_order_stays(void)
{
    check("a: 1\nb: 2\n", "{a:1 b:2}", "");
    check("M:\n  x1: 1\nx2: 2\n", "{M:{x1:1} x2:2}", "");
    check("M: null\nx1: 1\n", "{M:null x1:1}", "");
    check("M: ''\nx1: 1\n", "{M: x1:1}", "");
    check("M:\na: 1\nx1: 1\n", "{M: a:1 x1:1}", "");
    check("a:\nx1: 1\n", "{a: x1:1}", "");
    check("M:\n", "{M:}", "");
}

WN_SUITE("core.lost_indent", {"runs move under their header", runs_move_under_their_header},
         {"what is in order stays", what_is_in_order_stays})
