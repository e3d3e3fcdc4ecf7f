/* Entries of sparse_attention_config. */
#include "tests/suite.h"

#include "core/method_entry.h"

#include <string.h>

enum { CONTEXT = 1 << WN_PHASE_CONTEXT, GENERATION = 1 << WN_PHASE_GENERATION };

static wn_arena arena;
static wn_reason_list errors, notes;

static void reset(void)
{
    wn_arena_free(&arena);
    wn_reasons_clear(&errors);
    wn_reasons_clear(&notes);
}

/* text: the value of sparse_attention_config, in a file of its own. */
static wn_method_entry *parse(const char *text)
{
    wn_findings found = {0}, noted = {0};
    reset();
    const wn_yaml_node *root = wn_yaml_parse(text, strlen(text), &arena, &found);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    const wn_yaml_item item = {.value = root};
    wn_method_entry *entries = wn_method_entries_read(&item, &arena, &found, &noted);
    wn_findings_tell(&found, "f", &errors);
    wn_findings_tell(&noted, "f", &notes);
    return entries;
}

static void check_error(const char *text, const char *expected)
{
    parse(text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(errors.text);
    CU_ASSERT_STRING_EQUAL(errors.text, expected);
    if (strcmp(errors.text, expected) != 0)
        printf("\n  %s\n  %s\n", expected, errors.text);
}

static void mapping_and_list_are_read(void)
{
    wn_method_entry *entry = parse("algorithm: one\nbudget: 5\n");
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
    CU_ASSERT_STRING_EQUAL(entry->method.algorithm, "one");
    CU_ASSERT_EQUAL(entry->method.phases, CONTEXT | GENERATION);
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(entry->node, "budget")->text, "5");
    CU_ASSERT_PTR_NULL(entry->next);
    entry = parse("- algorithm: one\n  phases: [context]\n- {algorithm: two, phases: decode}\n");
    CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
    CU_ASSERT_PTR_NOT_NULL_FATAL(entry->next);
    CU_ASSERT_EQUAL(entry->method.phases, CONTEXT);
    CU_ASSERT_EQUAL(entry->next->method.phases, GENERATION);
    CU_ASSERT_STRING_EQUAL(entry->next->method.algorithm, "two");
    CU_ASSERT_EQUAL(entry->next->method.line, 3);
    CU_ASSERT_EQUAL(entry->next->method.column, 3);
    reset();
}

static void phases_have_synonyms(void)
{
    CU_ASSERT_EQUAL(wn_phase_bit("context"), CONTEXT);
    CU_ASSERT_EQUAL(wn_phase_bit("prefill"), CONTEXT);
    CU_ASSERT_EQUAL(wn_phase_bit("generation"), GENERATION);
    CU_ASSERT_EQUAL(wn_phase_bit("decode"), GENERATION);
    CU_ASSERT_EQUAL(wn_phase_bit("both"), 0);
    CU_ASSERT_EQUAL(parse("{algorithm: x, phases: [prefill, decode]}")->method.phases,
                    CONTEXT | GENERATION);
    CU_ASSERT_EQUAL(parse("{algorithm: x, phases: null}")->method.phases, CONTEXT | GENERATION);
    check_error("{algorithm: x, phases: [context, prefill]}",
                "f:1:34: \"phases\" names one phase twice");
    check_error("{algorithm: x, phases: []}",
                "f:1:24: \"phases\" is an empty list: leave it out for both phases");
    check_error("{algorithm: x, phases: 1}",
                "f:1:24: \"phases\" is 1: expected context, generation, prefill or decode");
    reset();
}

static void ignored_layers_win(void)
{
    const wn_method_entry *entry =
        parse("{algorithm: x, ignore: [layers.2], layers: ['layers.[1..3]']}");
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(wn_layer_rules_match(&entry->rules, 0), 0);
    CU_ASSERT_EQUAL(wn_layer_rules_match(&entry->rules, 1), 1);
    CU_ASSERT_EQUAL(wn_layer_rules_match(&entry->rules, 2), 0);
    CU_ASSERT_EQUAL(wn_layer_rules_match(&entry->rules, 3), 1);
    reset();
}

static void algorithm_is_required(void)
{
    check_error("budget: 5", "f:1:1: this entry names no algorithm: add \"algorithm: NAME\"");
    check_error("algoritm: x", "f:1:1: unknown key \"algoritm\" (did you mean \"algorithm\"?)");
    check_error("algorithm:", "f:1:11: \"algorithm\" has no value: expected a word");
    check_error("algorithm: ~", "f:1:1: this entry names no algorithm: add \"algorithm: NAME\"");
    check_error("algorithm: [x]", "f:1:12: \"algorithm\" is a list: expected a word");
    check_error("[]", "f:1:1: an empty list: leave \"sparse_attention_config\" out for dense "
                      "attention");
    check_error("[x]", "f:1:2: \"sparse_attention_config\" is x: expected a mapping (algorithm: "
                       "NAME) or a list of them");
    reset();
}

static void dense_takes_no_keys(void)
{
    parse("{algorithm: dense, phases: context, layers: '*', ignore: layers.1, budget: null}");
    CU_ASSERT_EQUAL(errors.count, 0);
    check_error("{algorithm: dense, budget: 5}",
                "f:1:20: dense attention has no key \"budget\": it takes phases, layers and "
                "ignore");
    reset();
}

static void lost_phases_are_restored(void)
{
    const wn_method_entry *entry =
        parse("algorithm: x\nfactor:\nprefill: 10\ndecode: 5\nbudget: 1\n");
    CU_ASSERT_EQUAL(errors.count, 0);
    CU_ASSERT_EQUAL(entry->node->count, 3);
    CU_ASSERT_STRING_EQUAL(wn_yaml_get(wn_yaml_get(entry->node, "factor"), "decode")->text, "5");
    CU_ASSERT_STRING_EQUAL(notes.text, "f:2:1: indentation lost: reading \"prefill\" and "
                                       "\"decode\" as part of \"factor\"");
    reset();
}

WN_SUITE("core.method_entry", {"mapping and list are read", mapping_and_list_are_read},
         {"phases have synonyms", phases_have_synonyms}, {"ignored layers win", ignored_layers_win},
         {"algorithm is required", algorithm_is_required},
         {"dense takes no keys", dense_takes_no_keys},
         {"lost phases are restored", lost_phases_are_restored})
