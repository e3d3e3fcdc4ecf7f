/* test_step_time.c: sums by part, and what is said of them. No clock is read here: a replay is
 * given its times. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/step_time.h"

#include <stdlib.h>
#include <string.h>

static wn_trace *trace;
static wn_replay *dense, *method;

static void begin(void)
{
    trace = check_replay_trace();
    dense = check_replay_make(trace, "dense", 0, 0);
    method = check_replay_make(trace, "method", 10, 50);
}

static void end(void)
{
    wn_replay_free(dense);
    wn_replay_free(method);
    wn_trace_close(trace);
}

static void parts_add_up(void)
{
    begin();
    for (uint32_t l = 0; l < 2; l++)
        method->layers[l].counters[WN_PHASE_GENERATION] = (wn_counters){.append_ns = 100000,
                                                                        .observe_ns = 20000,
                                                                        .select_ns = 300000 + l,
                                                                        .attend_ns = 500000,
                                                                        .retain_ns = 0};
    wn_step_time all = wn_step_time_measure(method, WN_PHASE_GENERATION, -1);
    CU_ASSERT_DOUBLE_EQUAL(all.part[WN_PART_APPEND], 200e-6, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(all.part[WN_PART_SELECT], 600001e-9, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(all.total, method->generation_seconds, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(all.rest, 0.002 - 1840001e-9, 1e-12);
    wn_step_time one = wn_step_time_measure(method, WN_PHASE_GENERATION, 1);
    CU_ASSERT_DOUBLE_EQUAL(one.part[WN_PART_OBSERVE], 20e-6, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(one.total, 920001e-9, 1e-12);
    CU_ASSERT_EQUAL(one.rest, 0);
    CU_ASSERT_EQUAL(wn_step_time_measure(method, WN_PHASE_CONTEXT, 0).total, 0);
    end();
}

/* dense: 4 ms for the prompt, 125 us for each of 16 tokens. */
static void expect(double prompt, double generation, const char *word)
{
    char text[256];
    begin();
    method->context_seconds = prompt;
    method->generation_seconds = generation;
    wn_step_time_verdict(method, dense, text, sizeof text);
    CU_ASSERT(*word != '\0' ? strstr(text, word) != NULL : *text == '\0');
    if (*word != '\0' && strstr(text, word) == NULL)
        printf("\n  expected \"%s\" in \"%s\"\n", word, text);
    end();
}

static void verdicts(void)
{
    expect(0.004, 0.002, "");
    expect(0.0041, 0.0019, "");
    expect(0.003, 0.001, "");
    expect(0.003, 0.004,
           "slower than dense here: 250.0 us a generated token, dense 125.0: 96 tokens are below "
           "its break-even");
    expect(0.006, 0.002, "slower than dense here: 6.0 ms for the prompt, dense 4.0: 96 tokens");
    expect(
        0.006, 0.001,
        "takes 2.0 ms more for the prompt than dense, 62.5 us less for a generated token: faster "
        "from 32 tokens on");
}

static void the_table_is_narrow(void)
{
    char *made = NULL;
    size_t bytes;
    begin();
    method->layers[0].counters[WN_PHASE_CONTEXT].retain_ns = 1500000;
    wn_replay *const replays[] = {dense, method};
    FILE *to = open_memstream(&made, &bytes);
    wn_step_time_print(replays, 2, to);
    fclose(to);
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "dense, token us"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "method, prompt ms"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "1.5"));
    for (const char *line = made; *line != '\0'; line += strcspn(line, "\n") + 1)
        CU_ASSERT(strcspn(line, "\n") <= 110);
    free(made);
    end();
}

WN_SUITE("tools.step_time", {"parts add up", parts_add_up}, {"verdicts", verdicts},
         {"the table is narrow", the_table_is_narrow})
