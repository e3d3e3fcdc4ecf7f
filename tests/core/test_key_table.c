/* Mappings read by tables. */
#include "tests/suite.h"

#include "core/key_table.h"

#include <string.h>

static void take(void *context, const wn_yaml_item *item)
{
    strcat(context, item->key->text);
    strcat(context, "=");
    strcat(context, item->value->text);
    strcat(context, ";");
}

static const wn_key_rule rules[] = {{"width", take}, {"height", take}, {NULL, NULL}};

static void check(const char *text, const char *expected, const char *expected_errors)
{
    wn_arena arena = {0};
    wn_findings findings = {0};
    wn_reason_list told = {0};
    char taken[200] = "";
    const wn_yaml_node *root = wn_yaml_parse(text, strlen(text), &arena, &findings);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    wn_keys_read(root, "box", rules, taken, &findings);
    wn_findings_tell(&findings, "f", &told);
    CU_ASSERT_STRING_EQUAL(taken, expected);
    CU_ASSERT_STRING_EQUAL(told.text == NULL ? "" : told.text, expected_errors);
    wn_reasons_clear(&told);
    wn_arena_free(&arena);
}

static void keys_go_to_their_rules(void)
{
    check("{height: 2, width: 1}", "height=2;width=1;", "");
    check("{height: 2, width: null}", "height=2;", "");
    check("{}", "", "");
    CU_ASSERT(wn_keys_know(rules, "width"));
    CU_ASSERT_FALSE(wn_keys_know(rules, "widt"));
}

static void others_are_errors(void)
{
    check("{widht: 2, depth: 1}", "",
          "f:1:2: unknown key \"widht\" (did you mean \"width\"?)\nf:1:12: unknown key \"depth\"");
    check("[1]", "", "f:1:1: \"box\" is a list: expected a mapping (key: value)");
}

WN_SUITE("core.key_table", {"keys go to their rules", keys_go_to_their_rules},
         {"others are errors", others_are_errors})
