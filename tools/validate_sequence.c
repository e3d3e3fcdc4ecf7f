/* validate_sequence.c: tests of what may happen to a sequence: prompts in chunks, forks, cuts,
 * pages anywhere, and requests without tokens. What comes out must be what a fresh sequence gives
 * that has seen the same tokens. */
#include "tools/validate_stage.h"

#include <string.h>

enum { PROMPT = 150, STEPS = 3 };

static const wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                          .tokens_per_page = 16,
                                          .max_tokens = 1024,
                                          .max_sequences = 16,
                                          .max_step_tokens = 512};

/* The plugin with tight budgets and two plays of the same tokens. */
typedef struct pair {
    wn_stage_plugin plugin;
    wn_budgets tight;
    wn_play a, b;
    wn_play_report report;
} pair;

static int open_pair(wn_trial *trial, pair *two)
{
    memset(two, 0, sizeof *two);
    if (!wn_stage_find(trial, &two->plugin))
        return 0;
    wn_budgets_tight(&two->plugin, &two->tight);
    if (wn_play_open(&two->plugin.model, trial->seed, PROMPT, STEPS, &two->a) &&
        wn_play_open(&two->plugin.model, trial->seed, PROMPT, STEPS, &two->b))
        return 1;
    wn_trial_says(trial, WN_SKIPPED, "out of memory");
    return 0;
}

/* Runs a play alone in an engine of its own. */
static int run_alone(wn_trial *trial, pair *two, wn_play *play)
{
    return wn_stage_perform(trial, &two->plugin, &two->tight, &options, WN_PLAY_WHOLE, play, 1,
                            &two->report) == WN_PASSED;
}

static wn_engine *open_engine(wn_trial *trial, const pair *two)
{
    wn_engine *engine = wn_stage_engine(&two->plugin, &two->tight, &options);
    if (engine == NULL)
        wn_trial_says(trial, WN_SKIPPED, "no engine: %s", wn_error_text());
    return engine;
}

static wn_outcome call_fails(wn_trial *trial, const char *what, wn_status status)
{
    return wn_trial_says(trial, WN_FAILED, "%s: %s: %s", what, wn_status_text(status),
                         wn_error_text());
}

/* In chunks of 64: rules that decide for 64 queries at a time see the same ones. */
wn_outcome wn_test_chunked_prompt(wn_trial *trial)
{
    pair two;
    if (!open_pair(trial, &two) || !run_alone(trial, &two, &two.a))
        return WN_SKIPPED;
    two.b.chunk = 64;
    if (!run_alone(trial, &two, &two.b))
        return wn_trial_says(trial, WN_FAILED, "the prompt runs at once and not in chunks: %s",
                             wn_error_text());
    double off = wn_play_distance(&two.plugin.model, &two.a, &two.b, 0);
    if (!(off <= WN_PLAY_BOUND))
        return wn_trial_says(trial, WN_FAILED,
                             "in chunks of 64 a prompt of %d tokens gives an output "
                             "%g away from the one at once, at most %g is allowed",
                             PROMPT, off, WN_PLAY_BOUND);
    return WN_PASSED;
}

/* a: parent, b: child, which go on with other tokens, the parent first. */
wn_outcome wn_test_fork_then_diverge(wn_trial *trial)
{
    pair two;
    wn_play fresh[2];
    if (!open_pair(trial, &two))
        return WN_SKIPPED;
    const wn_model *model = &two.plugin.model;
    two.b.other_steps = 1000;
    for (int i = 0; i < 2; i++) {
        if (!wn_play_open(model, trial->seed, PROMPT, STEPS, &fresh[i]))
            return wn_trial_says(trial, WN_SKIPPED, "out of memory");
        fresh[i].other_steps = i == 0 ? 0 : two.b.other_steps;
        if (!run_alone(trial, &two, &fresh[i]))
            return WN_SKIPPED;
    }
    wn_engine *engine = open_engine(trial, &two);
    if (engine == NULL)
        return WN_SKIPPED;
    wn_status status = wn_play_prompts(engine, model, &two.a, 1, WN_PLAY_WHOLE, &two.report);
    if (status == WN_OK)
        status = wn_sequence_fork(engine, two.a.sequence, &two.b.sequence);
    if (status == WN_OK)
        status = wn_play_steps(engine, model, &two.a, 1, WN_PLAY_WHOLE, &two.report);
    if (status == WN_OK)
        status = wn_play_steps(engine, model, &two.b, 1, WN_PLAY_WHOLE, &two.report);
    if (status != WN_OK)
        return call_fails(trial, "a fork after the prompt, and steps on both sides", status);
    for (int i = 0; i < 2; i++)
        if (wn_play_distance(model, i == 0 ? &two.a : &two.b, &fresh[i], PROMPT) != 0)
            return wn_trial_says(trial, WN_FAILED,
                                 "a forked sequence's %s goes on in another way than "
                                 "a fresh sequence of the same tokens",
                                 i == 0 ? "parent" : "child");
    wn_play_end(engine, &two.a, 1);
    wn_play_end(engine, &two.b, 1);
    wn_engine_free(engine);
    return WN_PASSED;
}

/* a: generates three tokens, is cut back to its prompt, and generates others. */
wn_outcome wn_test_truncate_then_append(wn_trial *trial)
{
    pair two;
    if (!open_pair(trial, &two))
        return WN_SKIPPED;
    const wn_model *model = &two.plugin.model;
    two.b.other_steps = 1000;
    wn_engine *engine = run_alone(trial, &two, &two.b) ? open_engine(trial, &two) : NULL;
    if (engine == NULL)
        return WN_SKIPPED;
    wn_status status = wn_play_prompts(engine, model, &two.a, 1, WN_PLAY_WHOLE, &two.report);
    if (status == WN_OK)
        status = wn_play_steps(engine, model, &two.a, 1, WN_PLAY_WHOLE, &two.report);
    if (status == WN_OK)
        status = wn_sequence_truncate(engine, two.a.sequence, PROMPT);
    if (status == WN_ERANGE)
        return wn_trial_says(trial, WN_SKIPPED, "generated tokens cannot be cut off: %s",
                             wn_error_text());
    two.a.other_steps = two.b.other_steps;
    if (status == WN_OK)
        status = wn_play_steps(engine, model, &two.a, 1, WN_PLAY_WHOLE, &two.report);
    if (status != WN_OK)
        return call_fails(trial, "steps, a cut back to the prompt, and other steps", status);
    if (wn_play_distance(model, &two.a, &two.b, PROMPT) != 0)
        return wn_trial_says(trial, WN_FAILED,
                             "after generated tokens were cut off, others give "
                             "another output than in a fresh sequence");
    wn_play_end(engine, &two.a, 1);
    wn_engine_free(engine);
    return WN_PASSED;
}

/* Takes pages for several prompts and gives them back out of order. */
static wn_status shuffle_pages(wn_trial *trial, wn_engine *engine, pair *two)
{
    static const int order[] = {3, 0, 5, 2, 4, 1};
    enum { COUNT = sizeof order / sizeof order[0] };
    wn_play plays[COUNT];
    wn_status status = WN_OK;
    memset(plays, 0, sizeof plays);
    for (int i = 0; status == WN_OK && i < COUNT; i++)
        status = wn_play_open(&two->plugin.model, trial->seed + 50, 40 + 16 * (i % 3), 0, &plays[i])
                     ? wn_play_prompts(engine, &two->plugin.model, &plays[i], 1, WN_PLAY_WHOLE,
                                       &two->report)
                     : WN_ENOMEM;
    for (int i = 0; i < COUNT; i++) {
        wn_play_end(engine, &plays[order[i]], 1);
        wn_play_close(&plays[order[i]]);
    }
    return status;
}

wn_outcome wn_test_pages_do_not_matter(wn_trial *trial)
{
    pair two;
    if (!open_pair(trial, &two) || !run_alone(trial, &two, &two.a))
        return WN_SKIPPED;
    wn_engine *engine = open_engine(trial, &two);
    if (engine == NULL)
        return WN_SKIPPED;
    wn_status status = shuffle_pages(trial, engine, &two);
    if (status == WN_OK)
        status = wn_play_run(engine, &two.plugin.model, &two.b, 1, WN_PLAY_WHOLE, &two.report);
    if (status != WN_OK)
        return call_fails(trial, "a sequence on pages out of order", status);
    if (wn_play_distance(&two.plugin.model, &two.a, &two.b, 0) != 0)
        return wn_trial_says(trial, WN_FAILED,
                             "on pages out of order a sequence gives another output "
                             "than on pages in order");
    wn_engine_free(engine);
    return WN_PASSED;
}

/* A play between two others of so many tokens. */
static wn_status play_between(wn_trial *trial, pair *two, wn_play *play, int32_t prompt,
                              int32_t steps)
{
    wn_play plays[3] = {{0}, *play, {0}};
    wn_status status = WN_ENOMEM;
    wn_engine *engine = open_engine(trial, two);
    if (engine != NULL &&
        wn_play_open(&two->plugin.model, trial->seed + 1, prompt, steps, &plays[0]) &&
        wn_play_open(&two->plugin.model, trial->seed + 2, prompt, steps, &plays[2]))
        status = wn_play_run(engine, &two->plugin.model, plays, 3, WN_PLAY_WHOLE, &two->report);
    wn_play_close(&plays[0]);
    wn_play_close(&plays[2]);
    wn_engine_free(engine);
    return status;
}

/* Compared with a batch of three that all have tokens: what a batch alone changes is another test's
 * subject. */
wn_outcome wn_test_empty_request(wn_trial *trial)
{
    pair two;
    if (!open_pair(trial, &two))
        return WN_SKIPPED;
    if (play_between(trial, &two, &two.a, 1, STEPS) != WN_OK)
        return wn_trial_says(trial, WN_SKIPPED, "a batch of three fails: %s", wn_error_text());
    wn_status status = play_between(trial, &two, &two.b, 0, 0);
    if (status != WN_OK)
        return call_fails(trial, "a batch with requests of no tokens", status);
    if (wn_play_distance(&two.plugin.model, &two.a, &two.b, 0) != 0)
        return wn_trial_says(trial, WN_FAILED,
                             "beside requests of no tokens a sequence gives another "
                             "output than beside others");
    return WN_PASSED;
}
