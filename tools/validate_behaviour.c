/* validate_behaviour.c: level 3. The plugin runs in an engine on random queries, keys and values,
 * and is held to what every method must satisfy, whatever it does: no test here knows an algorithm.
 *
 * Budgets. With default budgets of thousands of tokens a short test would select everything. So the
 * tests that need something to be left out run with "tight" budgets: each BUDGET field as small as
 * check() accepts, out of 4, 8, 16 ... 256.
 *
 * What may be poisoned. Only V of tokens that the last step left out, on the layer and KV head that
 * left them out: their K may rightly influence the choice (a summary of keys, say). And everything
 * in slots that hold no token: nobody may look there at all. */
#include "tools/validate_stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 3 };

/* Lengths around a page of 16 tokens and beyond several. */
static const int32_t lengths[] = {1, 2, 15, 16, 17, 100, 257, 300};
enum { NUM_LENGTHS = sizeof lengths / sizeof lengths[0] };

static const wn_engine_options stage_options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                                .tokens_per_page = 16,
                                                .max_tokens = 4096,
                                                .max_sequences = 16,
                                                .max_step_tokens = 2048};

/* Plays of all the lengths, seeds apart. */
static int open_ragged(const wn_trial *trial, const wn_stage_plugin *plugin, wn_play *plays)
{
    int fine = 1;
    memset(plays, 0, NUM_LENGTHS * sizeof *plays);
    for (int i = 0; fine && i < NUM_LENGTHS; i++)
        fine =
            wn_play_open(&plugin->model, trial->seed + (uint64_t)i, lengths[i], STEPS, &plays[i]);
    return fine;
}

static void close_all(wn_play *plays, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        wn_play_close(&plays[i]);
}

/* One ragged run with tight or default budgets; *status is the run's. */
static int run_ragged(wn_trial *trial, const wn_stage_plugin *plugin, int tight, wn_status *status,
                      wn_play *plays, wn_play_report *report)
{
    wn_budgets budgets;
    if (tight)
        wn_budgets_tight(plugin, &budgets);
    else
        wn_budgets_default(plugin, &budgets);
    wn_engine *engine = wn_stage_engine(plugin, &budgets, &stage_options);
    if (engine == NULL || !open_ragged(trial, plugin, plays)) {
        wn_trial_says(trial, WN_FAILED,
                      "no engine for a configuration that wn_engine_check "
                      "accepts: %s",
                      wn_error_text());
        wn_engine_free(engine);
        return 0;
    }
    *status = wn_play_run(engine, &plugin->model, plays, NUM_LENGTHS, WN_PLAY_WHOLE, report);
    if (*status != WN_OK)
        wn_trial_says(trial, WN_FAILED, "%s budgets: %s: %s", tight ? "tight" : "default",
                      wn_status_text(*status), wn_error_text());
    wn_engine_free(engine);
    return 1;
}

static int all_finite(const wn_model *model, const wn_play *play)
{
    size_t count = wn_play_out_count(model, play);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(play->out[i]))
            return 0;
    return 1;
}

static wn_outcome steps_run(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_play plays[NUM_LENGTHS];
    wn_play_report report;
    wn_status status;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    for (int tight = 0; tight < 2; tight++) {
        if (!run_ragged(trial, &plugin, tight, &status, plays, &report))
            return WN_FAILED;
        if (status == WN_EPLUGIN) /* selection-in-range-and-sorted is about that */
            return WN_SKIPPED;
        if (status != WN_OK)
            return WN_FAILED;
        for (int i = 0; i < NUM_LENGTHS; i++)
            if (!all_finite(&plugin.model, &plays[i]))
                return wn_trial_says(trial, WN_FAILED,
                                     "the output of a prompt of %d tokens and %d "
                                     "steps is not finite",
                                     lengths[i], STEPS);
        close_all(plays, NUM_LENGTHS);
    }
    return WN_PASSED;
}

static wn_outcome selection_in_range_and_sorted(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_play plays[NUM_LENGTHS];
    wn_play_report report;
    wn_status status;
    uint64_t choices = 0;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    for (int tight = 0; tight < 2; tight++) {
        if (!run_ragged(trial, &plugin, tight, &status, plays, &report))
            return WN_SKIPPED;
        if (status != WN_OK) /* with WN_EPLUGIN the engine itself has seen a bad choice */
            return status == WN_EPLUGIN ? WN_FAILED : WN_SKIPPED;
        if (report.choice_bad)
            return wn_trial_says(trial, WN_FAILED, "%s", report.text);
        choices += report.selections + report.retentions;
        close_all(plays, NUM_LENGTHS);
    }
    if (choices == 0)
        return wn_trial_says(trial, WN_SKIPPED, "it neither retains nor selects");
    return WN_PASSED;
}

static wn_outcome full_budget_equals_dense(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_budgets greatest;
    wn_play sparse, dense;
    wn_play_report report;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    wn_budgets_greatest(&plugin, &greatest);
    if (greatest.count == 0)
        return wn_trial_says(trial, WN_SKIPPED, "none of its fields is a WN_FIELD_BUDGET");
    if (!wn_play_open(&plugin.model, trial->seed, 300, STEPS, &sparse) ||
        !wn_play_open(&plugin.model, trial->seed, 300, STEPS, &dense))
        return wn_trial_says(trial, WN_SKIPPED, "out of memory");
    if (wn_stage_perform(trial, &plugin, NULL, &stage_options, WN_PLAY_WHOLE, &dense, 1, &report) !=
        WN_PASSED)
        return WN_SKIPPED;
    if (wn_stage_perform(trial, &plugin, &greatest, &stage_options, WN_PLAY_WHOLE, &sparse, 1,
                         &report) != WN_PASSED) {
        if (report.status == WN_EPLUGIN) /* selection-in-range-and-sorted is about that */
            return WN_SKIPPED;
        char reason[WN_TRIAL_TEXT / 2];
        snprintf(reason, sizeof reason, "%.1000s", trial->text);
        return wn_trial_says(trial, WN_FAILED, "with every BUDGET field at its greatest: %s",
                             reason);
    }
    double off = wn_play_distance(&plugin.model, &sparse, &dense, 0);
    if (!(off <= WN_PLAY_BOUND))
        return wn_trial_says(trial, WN_FAILED,
                             "with every BUDGET field at its greatest the output "
                             "is %g away from dense attention, at most %g is allowed: the method "
                             "leaves something out",
                             off, WN_PLAY_BOUND);
    return WN_PASSED;
}

/* ---------------------------------------------------------------- poison */

/* What the last token saw on a layer and KV head: [tokens]. */
static const uint8_t *seen_last(const wn_model *model, const wn_play *play, size_t layer,
                                size_t head)
{
    size_t tokens = (size_t)(play->prompt + play->steps);
    size_t row = (layer * tokens + tokens - 1) * model->num_kv_heads + head;
    return play->visible + row * tokens;
}

/* Marks what the last step left out; how many rows that are. */
static uint64_t poison_left_out(const wn_model *model, const wn_play *from, wn_play *to)
{
    size_t tokens = (size_t)(from->prompt + from->steps);
    uint64_t left_out = 0;
    for (size_t layer = 0; layer < model->num_layers; layer++)
        for (size_t head = 0; head < model->num_kv_heads; head++) {
            const uint8_t *seen = seen_last(model, from, layer, head);
            for (size_t t = 0; t < tokens; t++) {
                to->poison[(layer * tokens + t) * model->num_kv_heads + head] = !seen[t];
                left_out += !seen[t];
            }
        }
    return left_out;
}

static int saw_the_same(const wn_model *model, const wn_play *a, const wn_play *b)
{
    for (size_t layer = 0; layer < model->num_layers; layer++)
        for (size_t head = 0; head < model->num_kv_heads; head++)
            if (memcmp(seen_last(model, a, layer, head), seen_last(model, b, layer, head),
                       (size_t)(a->prompt + a->steps)) != 0)
                return 0;
    return 1;
}

/* The outputs of the last token, on every layer, bit for bit. */
static int last_equal(const wn_model *model, const wn_play *a, const wn_play *b)
{
    size_t tokens = (size_t)(a->prompt + a->steps),
           count = (size_t)model->num_heads * model->v_head_dim;
    for (size_t layer = 0; layer < model->num_layers; layer++) {
        size_t at = (layer * tokens + tokens - 1) * count;
        if (memcmp(a->out + at, b->out + at, count * sizeof(float)) != 0)
            return 0;
    }
    return 1;
}

static wn_outcome nan_in_unselected(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_budgets tight;
    wn_play clean, poisoned;
    wn_play_report report;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    wn_budgets_tight(&plugin, &tight);
    if (!wn_play_open(&plugin.model, trial->seed, 300, STEPS, &clean) ||
        !wn_play_open(&plugin.model, trial->seed, 300, STEPS, &poisoned))
        return wn_trial_says(trial, WN_SKIPPED, "out of memory");
    if (wn_stage_perform(trial, &plugin, &tight, &stage_options, WN_PLAY_WHOLE, &clean, 1,
                         &report) != WN_PASSED)
        return WN_SKIPPED;
    if (poison_left_out(&plugin.model, &clean, &poisoned) == 0)
        return wn_trial_says(trial, WN_SKIPPED, "it leaves no token out in generation");
    if (wn_stage_perform(trial, &plugin, &tight, &stage_options, WN_PLAY_WHOLE, &poisoned, 1,
                         &report) != WN_PASSED)
        return WN_SKIPPED;
    if (!saw_the_same(&plugin.model, &clean, &poisoned))
        return wn_trial_says(trial, WN_SKIPPED,
                             "its choice depends on V, so that V of what it "
                             "leaves out cannot be poisoned");
    if (!last_equal(&plugin.model, &clean, &poisoned))
        return wn_trial_says(trial, WN_FAILED,
                             "NaN in values that it leaves out reaches the output");
    return WN_PASSED;
}

/* Fills the whole cache with NaN and gives it back. */
static wn_outcome soil(wn_trial *trial, wn_engine *engine, const wn_stage_plugin *plugin)
{
    wn_play dirt;
    wn_play_report report;
    if (!wn_play_open(&plugin->model, trial->seed + 99, 512, 0, &dirt))
        return wn_trial_says(trial, WN_SKIPPED, "out of memory");
    wn_status status = wn_play_run(engine, &plugin->model, &dirt, 1, WN_PLAY_NAN, &report);
    wn_play_close(&dirt);
    if (status == WN_OK)
        return WN_PASSED;
    return wn_trial_says(trial, WN_SKIPPED, "a prompt of NaN fails: %s", wn_error_text());
}

static wn_outcome nan_in_unused_slots(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_budgets tight;
    wn_play clean, after;
    wn_play_report report;
    wn_engine_options options = stage_options;
    options.max_tokens = 512;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    wn_budgets_tight(&plugin, &tight);
    wn_engine *engine = wn_stage_engine(&plugin, &tight, &options);
    if (engine == NULL || !wn_play_open(&plugin.model, trial->seed, 100, STEPS, &clean) ||
        !wn_play_open(&plugin.model, trial->seed, 100, STEPS, &after))
        return wn_trial_says(trial, WN_SKIPPED, "no engine: %s", wn_error_text());
    if (wn_stage_perform(trial, &plugin, &tight, &options, WN_PLAY_WHOLE, &clean, 1, &report) !=
            WN_PASSED ||
        soil(trial, engine, &plugin) != WN_PASSED)
        return WN_SKIPPED;
    wn_status status = wn_play_run(engine, &plugin.model, &after, 1, WN_PLAY_WHOLE, &report);
    if (status != WN_OK)
        return wn_trial_says(trial, WN_FAILED, "a sequence on pages that held NaN before fails: %s",
                             wn_error_text());
    wn_engine_free(engine);
    if (wn_play_distance(&plugin.model, &clean, &after, 0) != 0)
        return wn_trial_says(trial, WN_FAILED,
                             "what an earlier sequence left in its pages reaches "
                             "the output: slots beyond the length, or auxiliary memory, are read");
    return WN_PASSED;
}

/* ---------------------------------------------------------------- what must not matter */

static wn_outcome alone_equals_batch(wn_trial *trial)
{
    wn_stage_plugin plugin;
    wn_budgets tight;
    wn_play together[NUM_LENGTHS], alone;
    wn_play_report report;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    wn_budgets_tight(&plugin, &tight);
    if (!open_ragged(trial, &plugin, together) ||
        wn_stage_perform(trial, &plugin, &tight, &stage_options, WN_PLAY_WHOLE, together,
                         NUM_LENGTHS, &report) != WN_PASSED)
        return WN_SKIPPED;
    for (uint64_t i = 0; i < NUM_LENGTHS; i++) {
        if (!wn_play_open(&plugin.model, trial->seed + i, lengths[i], STEPS, &alone) ||
            wn_stage_perform(trial, &plugin, &tight, &stage_options, WN_PLAY_WHOLE, &alone, 1,
                             &report) != WN_PASSED)
            return WN_SKIPPED;
        if (wn_play_distance(&plugin.model, &together[i], &alone, 0) != 0)
            return wn_trial_says(trial, WN_FAILED,
                                 "a prompt of %d tokens gives another output alone "
                                 "than in a batch",
                                 lengths[i]);
        wn_play_close(&alone);
    }
    return WN_PASSED;
}

/* Runs backwards, on the calling thread. */
static void backwards(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                      void *argument)
{
    (void)context;
    while (count-- > 0)
        body(argument, count);
}

static wn_outcome threads_do_not_matter(wn_trial *trial)
{
    static const wn_executor one_thread = {WN_SIZEOF(wn_executor), 1, NULL, backwards};
    wn_stage_plugin plugin;
    wn_budgets tight;
    wn_play many[NUM_LENGTHS], one[NUM_LENGTHS];
    wn_play_report report;
    wn_engine_options options = stage_options;
    options.executor = &one_thread;
    if (!wn_stage_find(trial, &plugin))
        return WN_SKIPPED;
    wn_budgets_tight(&plugin, &tight);
    if (!open_ragged(trial, &plugin, many) || !open_ragged(trial, &plugin, one) ||
        wn_stage_perform(trial, &plugin, &tight, &stage_options, WN_PLAY_WHOLE, many, NUM_LENGTHS,
                         &report) != WN_PASSED ||
        wn_stage_perform(trial, &plugin, &tight, &options, WN_PLAY_WHOLE, one, NUM_LENGTHS,
                         &report) != WN_PASSED)
        return WN_SKIPPED;
    for (int i = 0; i < NUM_LENGTHS; i++)
        if (wn_play_distance(&plugin.model, &many[i], &one[i], 0) != 0)
            return wn_trial_says(trial, WN_FAILED,
                                 "a prompt of %d tokens gives another output on "
                                 "one thread than on several",
                                 lengths[i]);
    return WN_PASSED;
}

const wn_trial_test wn_behaviour_tests[] = {
    {"steps-run", "WN-P-17", "prompts of many lengths and steps after them run; output is finite",
     steps_run},
    {"selection-in-range-and-sorted", "WN-P-21",
     "choices ascend, without duplicates, inside the "
     "sequence, as many as promised",
     selection_in_range_and_sorted},
    {"full-budget-equals-dense", "WN-P-26",
     "with every BUDGET field at its greatest the output is "
     "dense attention's",
     full_budget_equals_dense},
    {"nan-in-unselected", "WN-P-24", "NaN in values that were left out never reaches the output",
     nan_in_unselected},
    {"nan-in-unused-slots", "WN-P-24", "what an earlier sequence left in a page is never read",
     nan_in_unused_slots},
    {"alone-equals-batch", "WN-P-19",
     "a sequence's output does not depend on the rest of the batch", alone_equals_batch},
    {"threads-do-not-matter", "WN-P-19", "the output does not depend on threads or their order",
     threads_do_not_matter},
    {"pages-do-not-matter", "WN-P-19", "the output does not depend on where a sequence's pages lie",
     wn_test_pages_do_not_matter},
    {"empty-request", "WN-P-19", "a request without tokens in a step runs and changes no other",
     wn_test_empty_request},
    {"chunked-prompt", "WN-P-25", "a prompt in chunks of 64 tokens gives what it gives at once",
     wn_test_chunked_prompt},
    {"fork-then-diverge", "WN-P-25", "a fork and its parent go on as sequences of their own would",
     wn_test_fork_then_diverge},
    {"truncate-then-append", "WN-P-25", "a sequence cut back to its prompt goes on as a fresh one",
     wn_test_truncate_then_append},
    {"oracle-identity", "WN-P-27",
     "output and LSE are those of the dense softmax over what was kept", wn_test_oracle_identity},
    {"config-every-field", "WN-P-12",
     "every field at its limits, beyond them, of a wrong type, and at "
     "random: runs or is refused with a reason",
     wn_test_config_every_field},
    {NULL, NULL, NULL, NULL}};
