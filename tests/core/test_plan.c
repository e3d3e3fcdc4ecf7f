/* test_plan.c: who does what, and every reason why not. */
#include "check_engine.h"

#include "core/engine.h"

#include <string.h>

static void refused(const char *yaml, wn_status status, const char *first, const char *second)
{
    check_engine c = {0};
    CU_ASSERT_EQUAL(check_try_open(&c, yaml, NULL), status);
    CU_ASSERT_PTR_NULL(c.engine);
    int found = strstr(wn_error_text(), first) != NULL && strstr(wn_error_text(), second) != NULL;
    if (!found)
        printf("\n  got: %s\n", wn_error_text());
    CU_ASSERT(found);
    wn_config_free(c.config);
    wn_registry_close(c.registry);
}

static void refusals_give_all_reasons(void)
{
    refused("sparse_attention_config:\n  - {algorithm: probe, select: 3}\n"
            "  - {algorithm: other, select: 4}\n",
            WN_ECONFLICT, "context phase: \"probe\" and \"other\"",
            "generation phase: \"probe\" and \"other\"");
    refused("sparse_attention_config:\n  - {algorithm: probe, tile: true, keep: 3}\n"
            "  - {algorithm: other, keep: 4, tile: true}\n",
            WN_ECONFLICT, "role retain", "role tile_policy");
    refused("sparse_attention_config: {algorithm: probe, keep: 13}\n", WN_ECONFIG,
            "probe: 13 brings bad luck", "probe: and one more reason");
    refused("sparse_attention_config:\n  - {algorithm: probe, keep: 3}\n"
            "  - {algorithm: wanting, select: 4}\n",
            WN_ECONFLICT, "\"probe\" evicts keys", "pool \"first\" of \"wanting\"");
    refused("sparse_attention_config: {algorithm: prob}\n", WN_ENOTFOUND, "probe", "probe_plugins");
    refused("sparse_attention_config:\n  - {algorithm: probe, selct: 3}\n"
            "  - {algorithm: other, keep: many}\n",
            WN_ECONFIG, "select", "many");
}

static void plan_says(const char *yaml, const char *plan, uint32_t groups)
{
    static const uint32_t numbers[4] = {0, 1, 7, 8};
    check_engine c = {.model = check_model()};
    c.model.num_layers = 4;
    c.model.layer_number = numbers;
    check_open(&c, yaml, NULL);
    CU_ASSERT_STRING_EQUAL(wn_engine_plan(c.engine), plan);
    if (strcmp(wn_engine_plan(c.engine), plan) != 0)
        printf("\n  got: %s", wn_engine_plan(c.engine));
    CU_ASSERT_EQUAL(c.engine->num_groups, groups);
    check_close(&c);
}

static void plans_are_told(void)
{
    plan_says("", "layers 0..8: context: dense; generation: dense\n", 1);
    plan_says(
        "sparse_attention_config: {algorithm: probe}\n",
        "layers 0..8: context: dense (probe: nothing is switched on); generation: dense (probe: "
        "nothing is switched on)\n",
        1);
    plan_says("sparse_attention_config:\n"
              "  - {algorithm: probe, tile: true, phases: [context]}\n"
              "  - {algorithm: other, keep: 5, select: 3, layers: ['layers.[7..8]']}\n",
              "layers 0..1: context: tile_policy probe; generation: no probe (limited by phases:)\n"
              "layers 7..8: context: tile_policy probe, retain other, select other; generation: no "
              "probe (limited by phases:), select other\n",
              2);
}

WN_SUITE("core.plan", {"refusals give all reasons", refusals_give_all_reasons},
         {"plans are told", plans_are_told})
