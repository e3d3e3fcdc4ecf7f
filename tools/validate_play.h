/* validate_play.h: the scene of one step, which the files that play sequences share. Everybody else
 * needs validate_stage.h alone. */
#ifndef WN_VALIDATE_PLAY_H
#define WN_VALIDATE_PLAY_H

#include "tools/validate_stage.h"

/* The tensors of one layer of one step, rows of all plays in order. */
enum { WN_SCENE_MAX_INPUTS = 16 };

typedef struct wn_scene {
    wn_engine *engine;
    const wn_model *model;
    wn_play *plays;
    uint32_t count;
    uint32_t mode;     /* WN_PLAY_... */
    int is_context;    /* these tokens belong to the prompts */
    int32_t step;      /* context: number of the chunk; else the generated token, from 0 */
    int32_t *physical; /* [count, layers] stored tokens before this step */
    int64_t rows;
    float *q, *k, *v, *out, *lse;
    wn_named_input inputs[WN_SCENE_MAX_INPUTS]; /* float32, of this step's rows */
    uint32_t num_inputs;
    wn_play_report *report;
} wn_scene;

static inline int32_t wn_play_tokens(const wn_play *play)
{
    return play->prompt + play->steps;
}

/* The tokens of one play in this step: the first and how many. */
int32_t wn_scene_first(const wn_scene *at, const wn_play *play);
int32_t wn_scene_count(const wn_scene *at, const wn_play *play);

/* Holds what the methods chose on a layer to the contract; the first breach goes into the report.
 */
void wn_choice_judge(wn_scene *at, const wn_choice *choice, uint32_t layer);
/* Notes in play->visible what the choice lets each row of the step see. */
void wn_choice_mark(wn_scene *at, const wn_choice *choice, uint32_t layer);

#endif
