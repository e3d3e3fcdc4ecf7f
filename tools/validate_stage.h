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

/* 0: trial->text says why the plugin cannot be staged (the test is then skipped). wn_stage_open
 * does not mind that it needs inputs, for tests that run no steps; wn_stage_find does. */
int wn_stage_open(wn_trial *trial, wn_stage_plugin *plugin);
int wn_stage_find(wn_trial *trial, wn_stage_plugin *plugin);
/* Does it need inputs that cannot be made up? */
int wn_stage_needs_inputs(const wn_stage_plugin *plugin);

/* What a configuration sets, [schema->num_fields] each. */
enum { WN_STAGE_MAX_FIELDS = 64 };
typedef struct wn_budgets {
    /* Of BUDGET fields; entries of other fields are not looked at. NAN: the default. */
    double value[WN_STAGE_MAX_FIELDS];
    const char
        *text[WN_STAGE_MAX_FIELDS]; /* of any field, as it stands in a file; wins. NULL: no text */
    uint32_t count;                 /* BUDGET fields there are */
} wn_budgets;
void wn_budgets_default(const wn_stage_plugin *plugin, wn_budgets *budgets);
void wn_budgets_greatest(const wn_stage_plugin *plugin, wn_budgets *budgets);
/* Each as small as check() accepts, out of 4, 8, 16 ... 256. */
void wn_budgets_tight(const wn_stage_plugin *plugin, wn_budgets *budgets);

/* Would an engine for plugin->model work? If not, wn_error_text() says why. */
int wn_stage_accepts(const wn_stage_plugin *plugin, const wn_budgets *budgets);
/* The configuration itself; NULL and wn_error_text() if the text cannot even be read. */
wn_config *wn_stage_config(const wn_stage_plugin *plugin, const wn_budgets *budgets);
/* An engine of the plugin's algorithm; budgets NULL: of plain dense attention. On failure NULL, and
 * wn_error_text() says why. */
wn_engine *wn_stage_engine(const wn_stage_plugin *plugin, const wn_budgets *budgets,
                           const wn_engine_options *options);

/* One sequence: a prompt, then `steps` generated tokens, one per step. Arrays are the caller's,
 * made by wn_play_open. Token t is the same whatever the play's length, given the seed. */
typedef struct wn_play {
    uint64_t seed;
    uint64_t other_steps;  /* added to the seed of generated tokens: the same prompt goes on
                              differently */
    int32_t prompt, steps; /* 0 steps: an empty request in every step */
    int32_t chunk;     /* tokens of the prompt per step; 0: all at once. Only for a play alone */
    uint8_t *poison;   /* [layers, tokens, kv_heads] 1: this V row is NaN */
    uint8_t *visible;  /* [layers, tokens, kv_heads, tokens], out: which positions a row saw, as far
                          as choices tell */
    int32_t *position; /* [layers, kv_heads, tokens], out: of each slot, in the last step */
    float *out;        /* [layers, tokens, heads * v_head_dim], out */
    float *lse;        /* [layers, tokens, heads], out */
    wn_sequence sequence; /* between wn_play_prompts and wn_play_end */
} wn_play;

int wn_play_open(const wn_model *model, uint64_t seed, int32_t prompt, int32_t steps,
                 wn_play *play);
void wn_play_close(wn_play *play);

enum {
    WN_PLAY_WHOLE = 0,
    WN_PLAY_NAN = 1, /* the prompt alone, K and V all NaN, unfinished: nothing is evicted */
    /* Channel c of V is 1 for token c and 0 for the others, so that the output is the softmax
     * itself and shows which tokens are in it (v_head_dim >= tokens); every second run of 64 keys
     * is small, so that whole tiles of keys matter little. */
    WN_PLAY_PROBE = 2
};

enum { WN_TOKEN_Q = 1, WN_TOKEN_K = 2, WN_TOKEN_V = 3 };
/* What the model would hand over for one token: [heads, head_dim] or [kv_heads, dim of K or V]. */
void wn_play_token(const wn_model *model, const wn_play *play, uint32_t mode, uint32_t kind,
                   uint32_t layer, int32_t token, float *to);

/* What came of it beside the outputs. */
typedef struct wn_play_report {
    wn_status status;                /* what the latest wn_play_... returned */
    uint64_t selections, retentions; /* lists seen */
    int choice_bad;                  /* a choice breaks the contract; text says which */
    char text[512];
} wn_play_report;

/* Plays all at once, in one ragged batch per step. A choice that breaks the contract is reported
 * and does not stop the play. wn_play_run is the three after it in a row. */
wn_status wn_play_run(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                      uint32_t mode, wn_play_report *report);
wn_status wn_play_prompts(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                          uint32_t mode, wn_play_report *report);
wn_status wn_play_steps(wn_engine *engine, const wn_model *model, wn_play *plays, uint32_t count,
                        uint32_t mode, wn_play_report *report);
void wn_play_end(wn_engine *engine, wn_play *plays, uint32_t count);

/* Elements of play->out. */
size_t wn_play_out_count(const wn_model *model, const wn_play *play);
/* The greatest distance between two outputs of tokens `from` and beyond, NaN counting as infinite.
 */
double wn_play_distance(const wn_model *model, const wn_play *a, const wn_play *b, int32_t from);

/* V lies in [-1, 1) and so does the output; both sums run in float32 over a few hundred keys, in
 * another order where a selection cuts the keys into other tiles. */
#define WN_PLAY_BOUND 2e-5

/* An engine that plays `plays` and is gone afterwards. WN_PASSED: it ran. Otherwise the test is
 * skipped, and its text says why: that steps run is another test's subject. */
wn_outcome wn_stage_perform(wn_trial *trial, const wn_stage_plugin *plugin,
                            const wn_budgets *budgets, const wn_engine_options *options,
                            uint32_t mode, wn_play *plays, uint32_t count, wn_play_report *report);

/* Tests that have a file of their own. */
wn_outcome wn_test_oracle_identity(wn_trial *trial);
wn_outcome wn_test_config_every_field(wn_trial *trial);
wn_outcome wn_test_chunked_prompt(wn_trial *trial);
wn_outcome wn_test_fork_then_diverge(wn_trial *trial);
wn_outcome wn_test_truncate_then_append(wn_trial *trial);
wn_outcome wn_test_pages_do_not_matter(wn_trial *trial);
wn_outcome wn_test_empty_request(wn_trial *trial);

#endif
