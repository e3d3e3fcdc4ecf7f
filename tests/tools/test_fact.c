/* test_fact.c: a planted fact that is kept, partly kept and lost. */
#include "suite.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/fact.h"

static int32_t judge(const wn_fact *fact, int64_t drop_begin, int64_t drop_end, wn_fact_view *view)
{
    wn_replay *replay = check_replay_make(fact->trace, "method", drop_begin, drop_end);
    int32_t verdict;
    uint32_t worst;
    CU_ASSERT_EQUAL(wn_fact_judge(fact, replay, -1, &verdict, &worst, view, NULL), WN_OK);
    wn_replay_free(replay);
    return verdict;
}

static void verdicts(void)
{
    wn_trace *trace = check_replay_trace();
    wn_fact *fact;
    wn_fact_view view;
    CU_ASSERT_EQUAL_FATAL(wn_fact_find(trace, &fact, NULL), WN_OK);
    CU_ASSERT_EQUAL_FATAL(fact->num_readers, 1);
    CU_ASSERT_EQUAL(fact->readers[0].layer, 0);
    CU_ASSERT_EQUAL(fact->readers[0].head, 0);
    CU_ASSERT(fact->readers[0].mass > 0.9);
    CU_ASSERT_EQUAL(judge(fact, 0, 0, &view), WN_FACT_KEPT);
    CU_ASSERT_EQUAL(view.visible, 4);
    CU_ASSERT_EQUAL(judge(fact, 30, 70, &view), WN_FACT_KEPT);
    CU_ASSERT_EQUAL(judge(fact, CHECK_NEEDLE, CHECK_NEEDLE_END, &view), WN_FACT_LOST);
    CU_ASSERT_EQUAL(view.in_cache, 0);
    CU_ASSERT_EQUAL(view.share, 0.0);
    CU_ASSERT_EQUAL(judge(fact, CHECK_NEEDLE, CHECK_NEEDLE + 1, &view), WN_FACT_PARTLY);
    CU_ASSERT_EQUAL(view.in_cache, 3);
    wn_fact_free(fact);
    wn_trace_close(trace);
}

static void selection_counts(void)
{
    wn_trace *trace = check_replay_trace();
    wn_fact *fact;
    wn_fact_view view;
    wn_replay *replay = check_replay_make(trace, "method", 0, 0);
    CU_ASSERT_EQUAL_FATAL(wn_fact_find(trace, &fact, NULL), WN_OK);
    wn_choices *choices = &replay->layers[0].generation;
    choices->position = calloc(1, sizeof(int32_t));
    choices->position[0] = CHECK_NEEDLE + 1; /* KV head 0 of that step sees this token only */
    choices->any = choices->chosen[fact->readers[0].step] = 1;
    choices->span[fact->readers[0].step * CHECK_KV_HEADS] = (wn_span){0, 1};
    CU_ASSERT_EQUAL(wn_fact_look(fact, replay, 0, &view, NULL), WN_OK);
    CU_ASSERT_EQUAL(view.in_cache, 4);
    CU_ASSERT_EQUAL(view.visible, 1);
    CU_ASSERT(view.share > 0.1 && view.share < 0.5);
    wn_replay_free(replay);
    wn_fact_free(fact);
    wn_trace_close(trace);
}

static void no_needle_no_fact(void)
{
    wn_trace *trace = check_replay_trace();
    wn_fact *fact;
    trace->needle_begin = trace->needle_end;
    CU_ASSERT_EQUAL(wn_fact_find(trace, &fact, NULL), WN_OK);
    CU_ASSERT_PTR_NULL(fact);
    wn_trace_close(trace);
}

WN_SUITE("tools.fact", {"kept, partly kept, lost", verdicts},
         {"what is not selected is not seen", selection_counts},
         {"a trace without a needle", no_needle_no_fact})
