/* oracle.h: how well could a choice of the same size have done? For each row, the oracle takes as
 * many tokens as the method attended to, those with the most of dense attention's mass, for the set
 * of query heads that the method chose for together: the heads of one KV head, or all heads where
 * one list served all. No choice of tokens for such a set keeps more. */
#ifndef WN_TOOLS_ORACLE_H
#define WN_TOOLS_ORACLE_H

#include "tools/metrics.h"

/* Over the rows of one phase of one layer, or of several layers merged. Heads are the first of
 * their set. A method that skips tiles inside the kernel attended to the visible tokens times the
 * share of tiles that it computed. */
typedef struct wn_oracle {
    int64_t sets;  /* rows times sets per row; 0: nothing was measured */
    double tokens; /* attended to, mean */
    wn_worst mass; /* kept by the method: mean over a set's heads */
    wn_worst best; /* kept by the oracle with as many tokens */
    wn_worst ratio;
} wn_oracle;

/* What the oracle does beside each replay: [replays, trace->num_layers, WN_PHASE_COUNT], to be
 * freed. replays[0] is dense and is not measured. Rows of the prompt are measured where a replay
 * kept choices for them and no tile was skipped there. */
wn_status wn_oracle_measure(const wn_trace *trace, wn_replay *const *replays, uint32_t count,
                            wn_oracle **oracles, wn_error *error);
/* Adds what was measured on another layer. */
void wn_oracle_merge(wn_oracle *to, const wn_oracle *from);

#endif
