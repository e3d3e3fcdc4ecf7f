/* test_position_runs.c: where a sequence goes on, after appends with gaps and after cuts. */
#include "kvcache/position_runs.h"

#include "suite.h"

static void without_gaps_position_is_length(void)
{
    wn_position_runs runs = {0};
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 0), 0);
    wn_position_runs_append(&runs, 0, 7, 7);
    wn_position_runs_append(&runs, 7, 1, 8);
    CU_ASSERT_EQUAL(runs.count, 1);
    for (int32_t length = 0; length <= 8; length++)
        CU_ASSERT_EQUAL(wn_position_runs_next(&runs, length), length);
}

static void gaps_are_remembered(void)
{
    wn_position_runs runs = {0};
    wn_position_runs_append(&runs, 0, 4, 4);   /* 0 1 2 3 */
    wn_position_runs_append(&runs, 4, 2, 12);  /* 10 11 */
    wn_position_runs_append(&runs, 6, 3, 103); /* 100 101 102 */
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 9), 103);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 7), 101);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 6), 12);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 4), 4);
}

/* The run that began behind the cut must not come back when the sequence grows again. */
static void a_cut_forgets_what_followed(void)
{
    wn_position_runs runs = {0};
    wn_position_runs_append(&runs, 0, 20, 20);
    wn_position_runs_append(&runs, 20, 5, 30); /* offset 5 from token 20 on */
    wn_position_runs_truncate(&runs, 15);
    wn_position_runs_append(&runs, 15, 10, 30); /* offset 5 from token 15 on */
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 18), 23);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 15), 15);
    wn_position_runs_truncate(&runs, 0);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 0), 0);
    wn_position_runs_append(&runs, 0, 2, 52);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 1), 51);
}

static void the_oldest_run_is_absorbed(void)
{
    wn_position_runs runs = {0};
    for (int32_t i = 0; i <= WN_POSITION_RUNS; i++)
        wn_position_runs_append(&runs, i, 1, 100 * i + 1); /* token i is at 100 i */
    CU_ASSERT_EQUAL(runs.count, WN_POSITION_RUNS);
    for (int32_t length = 2; length <= WN_POSITION_RUNS + 1; length++)
        CU_ASSERT_EQUAL(wn_position_runs_next(&runs, length), 100 * (length - 1) + 1);
    CU_ASSERT_EQUAL(wn_position_runs_next(&runs, 1),
                    100); /* token 0 counts as the one before 100 */
    wn_position_runs_truncate(&runs, 1);
    CU_ASSERT_EQUAL(runs.count, 1);
}

WN_SUITE("kvcache.position_runs",
         {"without gaps, position is length", without_gaps_position_is_length},
         {"gaps are remembered", gaps_are_remembered},
         {"a cut forgets what followed", a_cut_forgets_what_followed},
         {"the oldest run is absorbed", the_oldest_run_is_absorbed})
