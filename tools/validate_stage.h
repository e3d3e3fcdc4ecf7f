/* validate_stage.h: a plugin in a real engine, playing prompts and generated tokens made from a
 * seed, through the public host API alone. */
#ifndef WN_VALIDATE_STAGE_H
#define WN_VALIDATE_STAGE_H

#include "tools/validate.h"
#include "winnow/winnow.h"

/* What is known of the plugin before anything is staged. */
typedef struct wn_stage_plugin {
    wn_registry *registry; /* sees the plugin's directory first */
    const char *algorithm;
    const wn_config_interface *schema;
    wn_model model; /* one that accepts the defaults */
} wn_stage_plugin;

/* 0: trial->text says why the plugin cannot be staged (the test is then skipped). */
int wn_stage_find(wn_trial *trial, wn_stage_plugin *plugin);

/* Values for the BUDGET fields, [schema->num_fields]; entries of other fields are not looked at.
 * NAN: the field's default. */
enum { WN_STAGE_MAX_FIELDS = 64 };
typedef struct wn_budgets {
    double value[WN_STAGE_MAX_FIELDS];
    uint32_t count; /* BUDGET fields there are */
} wn_budgets;
void wn_budgets_default(const wn_stage_plugin *plugin, wn_budgets *budgets);
void wn_budgets_greatest(const wn_stage_plugin *plugin, wn_budgets *budgets);
/* Each as small as check() accepts, out of 4, 8, 16 ... 256. */
void wn_budgets_tight(const wn_stage_plugin *plugin, wn_budgets *budgets);

/* An engine of the plugin's algorithm; budgets NULL: of plain dense attention. On failure NULL, and
 * wn_error_text() says why. */
wn_engine *wn_stage_engine(const wn_stage_plugin *plugin, const wn_budgets *budgets,
                           const wn_engine_options *options);

/* One sequence: a prompt, then `steps` generated tokens, one per step. Arrays are the caller's, made
 * by wn_play_open. Token t is the same whatever the play's length, given the seed. */
typedef struct wn_play {
    uint64_t seed;
    int32_t prompt, steps;
    uint8_t *poison;   /* [layers, prompt + steps, kv_heads] 1: this V row is NaN */
    uint8_t *attended; /* the same shape, out: what the last step attended to */
    float *out;        /* [layers, prompt + steps, heads * v_head_dim], out */
    wn_sequence sequence; /* freed by wn_play_run */
} wn_play;

int wn_play_open(const wn_model *model, uint64_t seed, int32_t prompt, int32_t steps, wn_play *play);
void wn_play_close(wn_play *play);

enum {
    WN_PLAY_WHOLE = 0,
    WN_PLAY_NAN = 1 /* the prompt alone, K and V all NaN, unfinished: nothing is evicted */
};

/* What came of it beside the outputs. */
typedef struct wn_play_report {
    wn_status status; /* what wn_play_run returned */
    uint64_t selections, retentions; /* lists seen */
    int choice_bad;  /* a choice breaks the contract; text says which */
    char text[512];
} wn_play_report;

/* Plays all at once, in one ragged batch per step. A choice that breaks the contract is reported
 * and does not stop the play. All plays have the same number of steps. */
wn_status wn_play_run(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                      uint32_t mode, wn_play_report *report);

/* Elements of play->out. */
size_t wn_play_out_count(const wn_model *model, const wn_play *play);

#endif
