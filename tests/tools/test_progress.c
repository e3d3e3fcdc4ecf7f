/* test_progress.c: silent where nobody looks, and a clock that goes forward. */
#include "suite.h"
#include "tools/progress.h"

static void silent_without_a_terminal(void)
{
    wn_progress progress;
    wn_progress_begin(&progress, "work", 0);
    progress.terminal = 0;
    progress.begun -= 100;
    wn_progress_show(&progress, 1);
    CU_ASSERT_EQUAL(progress.drawn, 0.0);
    wn_progress_end(&progress);
}

static void silent_at_first(void)
{
    wn_progress progress;
    wn_progress_begin(&progress, "work", 10);
    progress.terminal = 1;
    wn_progress_show(&progress, 5);
    CU_ASSERT_EQUAL(progress.drawn, 0.0);
    progress.begun -= 100;
    wn_progress_show(&progress, 10);
    CU_ASSERT(progress.drawn > 0);
    wn_progress_end(&progress);
    CU_ASSERT(wn_seconds() >= progress.begun + 100);
}

WN_SUITE("tools.progress", {"silent without a terminal", silent_without_a_terminal},
         {"silent for two seconds", silent_at_first})
