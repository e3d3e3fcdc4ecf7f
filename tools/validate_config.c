/* validate_config.c: the test config-every-field: configurations that users write. Each field alone
 * with everything of validate_texts.h, then fields together at random. What the schema must refuse
 * is refused with the field's name; the rest makes an engine that runs, or is refused with a
 * reason. */
#include "tools/validate_stage.h"
#include "tools/validate_texts.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { PROMPT = 40, STEPS = 2, NUM_RANDOM = 40, NUM_LIVES = 4 };

/* An engine that plans more is not made: the plan has told its host in time. */
#define MOST_BYTES ((uint64_t)256 << 20)

/* Beyond this an allocation fails: a plugin that takes what a field says must live with that. */
#define MOST_ADDRESSES ((rlim_t)8 << 30)

static const wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                          .tokens_per_page = 16,
                                          .max_tokens = 256,
                                          .max_sequences = 2,
                                          .max_step_tokens = 64};

typedef struct contest {
    wn_trial *trial;
    wn_stage_plugin plugin;
    wn_field_texts *texts; /* [num_fields] */
    uint64_t ran, refused;
} contest;

/* The fields that the configuration sets, for a message. */
static void describe(const contest *at, const wn_budgets *set, char *text, size_t capacity)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < at->plugin.schema->num_fields && used < capacity; i++)
        if (set->text[i] != NULL)
            used += (size_t)snprintf(text + used, capacity - used, "%s%s: %s", used > 0 ? ", " : "",
                                     at->plugin.schema->fields[i].name, set->text[i]);
}

static wn_outcome complain(contest *at, const wn_budgets *set, const char *what, const char *why)
{
    char fields[768];
    describe(at, set, fields, sizeof fields);
    return wn_trial_says(at->trial, WN_FAILED, "{%s} %s: %.900s", fields, what, why);
}

/* A refusal is fine if it says why and is not a breach of the contract. */
static wn_outcome judge_refusal(contest *at, const wn_budgets *set, const char *what,
                                wn_status status)
{
    const char *why = wn_error_text();
    at->refused++;
    if (status == WN_EPLUGIN)
        return complain(at, set, what, why);
    /* The core's words where check() returns an error and adds no reason. */
    if (why[0] == '\0' || strstr(why, "without a reason") != NULL)
        return complain(at, set, what, "without a reason");
    return WN_PASSED;
}

/* A prompt and two steps, in an engine that is there already. */
static wn_status play_short(contest *at, wn_engine *engine)
{
    wn_play play;
    wn_play_report report;
    if (!wn_play_open(&at->plugin.model, at->trial->seed, PROMPT, STEPS, &play))
        return WN_ENOMEM;
    wn_status status = wn_play_run(engine, &at->plugin.model, &play, 1, WN_PLAY_WHOLE, &report);
    wn_play_close(&play);
    return status;
}

/* One life of an engine with this configuration, however it ends. */
static wn_outcome live(contest *at, const wn_budgets *set)
{
    wn_memory_plan plan = {.struct_size = WN_SIZEOF(wn_memory_plan)};
    wn_engine *engine = NULL;
    wn_config *config = wn_stage_config(&at->plugin, set);
    if (config == NULL)
        return judge_refusal(at, set, "cannot be read", WN_ECONFIG);
    wn_status status =
        wn_engine_check(at->plugin.registry, config, &at->plugin.model, &options, NULL, &plan);
    if (status == WN_OK && plan.total_bytes <= MOST_BYTES)
        status =
            wn_engine_create(at->plugin.registry, config, &at->plugin.model, &options, &engine);
    wn_config_free(config);
    if (status != WN_OK)
        return judge_refusal(at, set, "is refused", status);
    if (engine == NULL) /* planned, and too large for here */
        return WN_PASSED;
    at->ran++;
    if (!wn_stage_needs_inputs(&at->plugin))
        status = play_short(at, engine);
    wn_outcome outcome =
        status == WN_OK ? WN_PASSED : judge_refusal(at, set, "fails in a step", status);
    if (wn_engine_free(engine) != WN_OK)
        return complain(at, set, "its engine cannot be freed", wn_error_text());
    return outcome;
}

/* The same, watching the heap. What is set up once is no leak; what grows at every life is. */
static wn_outcome live_cleanly(contest *at, const wn_budgets *set)
{
    size_t before = mallinfo2().uordblks, after = before;
    for (int life = 0; life < NUM_LIVES; life++, before = after) {
        if (live(at, set) != WN_PASSED)
            return WN_FAILED;
        after = mallinfo2().uordblks;
        if (after <= before)
            return WN_PASSED;
    }
    return complain(at, set, "leaves memory behind", "the heap grows from each life to the next");
}

static wn_outcome must_refuse(contest *at, const wn_budgets *set, const char *name)
{
    wn_config *config = wn_stage_config(&at->plugin, set);
    wn_status status = config == NULL ? WN_ECONFIG
                                      : wn_engine_check(at->plugin.registry, config,
                                                        &at->plugin.model, &options, NULL, NULL);
    wn_config_free(config);
    if (status == WN_OK)
        return complain(at, set, "is accepted", "the schema does not allow it");
    if (strstr(wn_error_text(), name) == NULL)
        return complain(at, set, "is refused without the field's name", wn_error_text());
    return WN_PASSED;
}

static wn_outcome each_field(contest *at)
{
    for (uint32_t i = 0; i < at->plugin.schema->num_fields; i++) {
        const wn_field_texts *texts = &at->texts[i];
        wn_budgets set;
        wn_budgets_default(&at->plugin, &set);
        for (uint32_t t = 0; t < texts->num_good; t++) {
            set.text[i] = texts->good[t];
            if (live_cleanly(at, &set) != WN_PASSED)
                return WN_FAILED;
        }
        for (uint32_t t = 0; t < texts->num_bad; t++) {
            set.text[i] = texts->bad[t];
            if (must_refuse(at, &set, at->plugin.schema->fields[i].name) != WN_PASSED)
                return WN_FAILED;
        }
    }
    return WN_PASSED;
}

/* xorshift64*: a number below `end`. */
static uint32_t draw(uint64_t *state, uint32_t end)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 0x2545f4914f6cdd1dULL >> 33) % end);
}

/* A third of the fields at an end, a third at a small number, a third left as they are. */
static wn_outcome together(contest *at)
{
    static const char *const small[] = {"1", "2", "3", "4", "8", "16", "32", "64"};
    uint64_t state = at->trial->seed * 2 + 1;
    for (int round = 0; round < NUM_RANDOM; round++) {
        wn_budgets set;
        wn_budgets_default(&at->plugin, &set);
        for (uint32_t i = 0; i < at->plugin.schema->num_fields; i++) {
            const wn_config_field *field = &at->plugin.schema->fields[i];
            uint32_t which = draw(&state, 3), number = draw(&state, 8), text = draw(&state, 64);
            int fits = field->type == WN_FIELD_INT && atof(small[number]) >= field->least &&
                       atof(small[number]) <= field->greatest;
            if (which == 1 && fits)
                set.text[i] = small[number];
            else if (which > 0 && at->texts[i].num_good > 0)
                set.text[i] = at->texts[i].good[text % at->texts[i].num_good];
        }
        if (live(at, &set) != WN_PASSED)
            return WN_FAILED;
    }
    return WN_PASSED;
}

static void limit_addresses(void)
{
#ifndef __SANITIZE_ADDRESS__ /* whose shadow is larger than any limit */
    struct rlimit most = {MOST_ADDRESSES, MOST_ADDRESSES};
    setrlimit(RLIMIT_AS, &most);
#endif
}

wn_outcome wn_test_config_every_field(wn_trial *trial)
{
    contest at = {.trial = trial};
    wn_budgets defaults, tight;
    if (!wn_stage_open(trial, &at.plugin))
        return WN_SKIPPED;
    const wn_config_interface *schema = at.plugin.schema;
    if (schema->num_fields == 0)
        return wn_trial_says(trial, WN_SKIPPED, "it has no fields");
    at.texts = calloc(schema->num_fields, sizeof *at.texts);
    if (at.texts == NULL)
        return wn_trial_says(trial, WN_SKIPPED, "out of memory");
    for (uint32_t i = 0; i < schema->num_fields; i++)
        wn_field_texts_make(&schema->fields[i], &at.texts[i]);
    limit_addresses();
    wn_budgets_default(&at.plugin, &defaults);
    wn_budgets_tight(&at.plugin, &tight);
    /* What fails with values that suit everybody is the subject of steps-run and others. */
    if (live(&at, &defaults) != WN_PASSED || live(&at, &tight) != WN_PASSED)
        return WN_SKIPPED;
    wn_outcome outcome = each_field(&at);
    if (outcome == WN_PASSED)
        outcome = together(&at);
    free(at.texts);
    return outcome;
}
