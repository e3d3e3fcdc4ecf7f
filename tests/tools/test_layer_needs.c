/* test_layer_needs.c: a method that needs the input probe.extra, and traces that have it here and
 * there. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/check_small_trace.h"
#include "tools/layer_needs.h"

#include <string.h>

/* check_small_trace.h's trace, whose layer 5 has the extra input `name`. */
static wn_trace *open_with_input(const char *name)
{
    wn_trace *trace;
    CU_ASSERT_EQUAL_FATAL(
        wn_trace_open(check_small_trace_write("needy.safetensors"), NULL, 0, &trace, NULL), WN_OK);
    trace->layers[1].inputs[0] = trace->layers[1].k;
    trace->layers[1].input_names[0] = name;
    trace->layers[1].num_inputs = 1;
    return trace;
}

static uint32_t needs(const wn_trace *trace, const char *yaml, uint8_t lacks[2], char why[256])
{
    wn_registry *registry;
    wn_config *config;
    memset(lacks, 0, 2);
    CU_ASSERT_EQUAL_FATAL(wn_registry_open(WN_TEST_PROBES, &registry), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config), WN_OK);
    uint32_t found = wn_layer_needs(registry, config, trace, lacks, why, 256);
    wn_config_free(config);
    wn_registry_close(registry);
    return found;
}

static const char wanting[] = "sparse_attention_config:\n  algorithm: wanting\n  select: 4\n";

static void finds_who_lacks(void)
{
    char why[256];
    uint8_t lacks[2];
    wn_trace *trace = open_with_input("probe.extra");
    CU_ASSERT_EQUAL(needs(trace, wanting, lacks, why), 1);
    CU_ASSERT(lacks[0] == 1 && lacks[1] == 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "probe.extra"));
    wn_trace_close(trace);
}

static void asks_only_what_is_needed(void)
{
    char why[256];
    uint8_t lacks[2];
    wn_trace *trace = open_with_input("probe.extra");
    CU_ASSERT_EQUAL(needs(trace, "sparse_attention_config:\n  algorithm: probe\n", lacks, why), 0);
    CU_ASSERT_STRING_EQUAL(why, "");
    CU_ASSERT_EQUAL(needs(trace,
                          "sparse_attention_config:\n  algorithm: wanting\n  select: 4\n"
                          "  ignore: layers.3\n",
                          lacks, why),
                    0);
    wn_trace_close(trace);
}

/* No layer has it: the engine will say so when the trace is replayed. */
static void leaves_the_rest_to_the_replay(void)
{
    char why[256];
    uint8_t lacks[2];
    wn_trace *trace = open_with_input("other");
    CU_ASSERT_EQUAL(needs(trace, wanting, lacks, why), 1); /* layer 5 has what it has */
    CU_ASSERT(lacks[0] == 1 && lacks[1] == 0);
    trace->layers[1].num_inputs = 0;
    CU_ASSERT_EQUAL(needs(trace, wanting, lacks, why), 0);
    wn_trace_close(trace);
}

WN_SUITE("tools.layer_needs", {"finds who lacks an input", finds_who_lacks},
         {"asks only what is needed", asks_only_what_is_needed},
         {"leaves the rest to the replay", leaves_the_rest_to_the_replay})
