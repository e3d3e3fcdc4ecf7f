/* test_summary.c: the sentences and the JSON of a run. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/summary.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static wn_trace *trace;
static wn_replay *replays[2];
static wn_fact *fact;
static wn_run run;

static void begin(void)
{
    trace = check_replay_trace();
    replays[0] = check_replay_make(trace, "dense", 0, 0);
    replays[1] = check_replay_make(trace, "method", 10, 50);
    if (wn_fact_find(trace, &fact, NULL) != WN_OK)
        abort();
    run = (wn_run){.trace = trace, .replays = replays, .count = 2, .fact = fact, .by_layer = 1};
}

static void end(void)
{
    wn_fact_free(fact);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    wn_trace_close(trace);
}

static void for_people(void)
{
    char *made = NULL;
    size_t bytes;
    begin();
    FILE *to = open_memstream(&made, &bytes);
    wn_summary_print(&run, to);
    fclose(to);
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "lost most in layer 3, head 0 (KV head 0)"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "lost the fact"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "50%"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "layer 5"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "Where the time went"));
    CU_ASSERT_PTR_NULL(strstr(made, "break-even"));
    for (const char *line = made; *line != '\0'; line += strcspn(line, "\n") + 1)
        CU_ASSERT(strcspn(line, "\n") <= 110);
    free(made);
    end();
}

static void the_oracle_has_a_table(void)
{
    char *made = NULL;
    size_t bytes;
    wn_oracle *oracles;
    begin();
    CU_ASSERT_EQUAL_FATAL(wn_oracle_measure(trace, replays, 2, &oracles, NULL), WN_OK);
    run.oracles = oracles;
    FILE *to = open_memstream(&made, &bytes);
    wn_summary_print(&run, to);
    fclose(to);
    const char *table = strstr(made, "Beside the oracle");
    CU_ASSERT_PTR_NOT_NULL_FATAL(table);
    CU_ASSERT_PTR_NOT_NULL(strstr(table, "method"));
    CU_ASSERT_PTR_NULL(strstr(table, "\ndense"));
    free(made);
    to = open_memstream(&made, &bytes);
    CU_ASSERT_EQUAL(wn_summary_print_json(&run, to), WN_OK);
    fclose(to);
    json_t *all = json_loads(made, 0, NULL);
    json_t *method = json_array_get(json_object_get(all, "methods"), 1);
    json_t *oracle = json_object_get(json_object_get(method, "oracle"), "generated_rows");
    double ratio = json_number_value(json_object_get(json_object_get(oracle, "ratio"), "mean"));
    wn_oracle both = wn_run_oracle(&run, 1, -1, WN_PHASE_GENERATION);
    CU_ASSERT_DOUBLE_EQUAL(ratio, both.ratio.mean, 1e-7);
    CU_ASSERT(json_is_null(json_object_get(json_object_get(method, "oracle"), "prompt_rows")));
    json_decref(all);
    free(made);
    free(oracles);
    end();
}

static void excess_is_said(void)
{
    char text[256];
    begin();
    wn_summary_excess(&run, replays[1], text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "");
    replays[1]->layers[0].lse[CHECK_CONTEXT * CHECK_HEADS + 1] += 3;
    wn_summary_excess(&run, replays[1], text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "something is wrong"));
    end();
}

static void short_buffers_are_kept(void)
{
    char text[24];
    begin();
    wn_summary_trace(trace, text, sizeof text);
    CU_ASSERT_EQUAL(strlen(text), sizeof text - 1);
    wn_summary_fact(&run, replays[1], -1, text, sizeof text);
    CU_ASSERT_EQUAL(strlen(text), sizeof text - 1);
    end();
}

static void for_programs(void)
{
    char *made = NULL;
    size_t bytes;
    begin();
    FILE *to = open_memstream(&made, &bytes);
    CU_ASSERT_EQUAL(wn_summary_print_json(&run, to), WN_OK);
    fclose(to);
    json_t *all = json_loads(made, JSON_REJECT_DUPLICATES, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(all);
    json_t *method = json_array_get(json_object_get(all, "methods"), 1);
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(method, "kept_share")), 0.5, 1e-9);
    CU_ASSERT_STRING_EQUAL(
        json_string_value(json_object_get(json_object_get(method, "fact"), "verdict")), "lost");
    CU_ASSERT_EQUAL(json_array_size(json_object_get(method, "layers")), 2);
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(method, "ms_per_prompt")), 4, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(method, "us_per_generated_token")),
                           125, 1e-9);
    CU_ASSERT(json_is_null(json_object_get(method, "time_verdict")));
    json_t *time = json_object_get(method, "generation_parts_seconds");
    CU_ASSERT_DOUBLE_EQUAL(json_number_value(json_object_get(time, "total")), 0.002, 1e-12);
    CU_ASSERT(json_is_real(json_object_get(time, "attend")));
    json_decref(all);
    free(made);
    end();
}

WN_SUITE("tools.summary", {"for people", for_people},
         {"the oracle has a table", the_oracle_has_a_table},
         {"excess mass is said", excess_is_said},
         {"short buffers are kept", short_buffers_are_kept}, {"for programs", for_programs})
