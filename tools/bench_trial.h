/* bench_trial.h: engines of one layer through the public API, dense and each method, stepped in
 * turns at one length: what --steps, --break-even and the step of standard measure. */
#ifndef WN_TOOLS_BENCH_TRIAL_H
#define WN_TOOLS_BENCH_TRIAL_H

#include "tools/bench_measure.h"
#include "tools/bench_steps.h"
#include "tools/step_time.h"

enum {
    WN_TRIAL_PLAYERS = 17,
    WN_TRIAL_INPUTS = 8,
    WN_TRIAL_TILE = 64,    /* keys; three of four tiles are cold */
    WN_TRIAL_SHORTEST = 64 /* tokens of a prompt, and of the last chunk of one */
};

/* Figures of a step: its parts (WN_PART_...), and the whole from wn_batch_begin to wn_batch_end. */
enum { WN_TRIAL_STEP = WN_PART_COUNT, WN_TRIAL_FIGURES };

/* A configuration with the name that it has in tables. */
typedef struct wn_trial_method {
    char name[48];
    wn_config *config;
} wn_trial_method;

/* One engine at work. */
typedef struct wn_trial_player {
    const wn_trial_method *method;
    wn_engine *engine;
    wn_sequence *sequence;                  /* [batch] */
    wn_named_input inputs[WN_TRIAL_INPUTS]; /* of CHUNK tokens */
    uint32_t num_inputs;
    double *samples[WN_TRIAL_FIGURES]; /* [steps] */
    double before[WN_TRIAL_FIGURES];   /* the counters before the last step */
    wn_bench_spread part[WN_TRIAL_FIGURES];
    int32_t kept; /* tokens of a request in the cache in the end */
    int32_t late; /* 1: its prompt would have taken too long */
} wn_trial_player;

typedef struct wn_trial {
    const wn_bench *bench;
    wn_executor executor;
    wn_registry *registry;
    wn_trial_method methods[WN_TRIAL_PLAYERS]; /* dense first */
    uint32_t num_methods;
    wn_bench_shape shape; /* heads, kv_heads, head_dim, batch, page; dtype: of the cache */
    int64_t length;
    double prompt_seconds;
    wn_bench_scene numbers; /* memory and random numbers for what follows */
    wn_tensor q, k, v, out; /* CHUNK tokens */
    uint32_t num_players;
    wn_trial_player players[WN_TRIAL_PLAYERS];
    wn_error *error;
} wn_trial;

/* A trial with the options' shape and plugins and dense attention as its only method. NULL: error
 * says why. */
wn_trial *wn_trial_open(const wn_bench *bench, const wn_steps_options *options, wn_error *error);
void wn_trial_free(wn_trial *s); /* NULL is fine */

/* One more method from YAML; or those of the options: its files, or without any a set of this
 * command's. */
wn_status wn_trial_add(wn_trial *s, const char *name, const char *yaml);
wn_status wn_trial_add_all(wn_trial *s, const wn_steps_options *options);

/* Steps of the methods [count] of this trial, `which` being their indices, dense first, at
 * s->length. The players hold the figures until wn_trial_clear, which is due also when it failed.
 */
wn_status wn_trial_measure(wn_trial *s, const uint32_t *which, uint32_t count, uint32_t samples);
void wn_trial_clear(wn_trial *s);

#endif
