/* fact.h: did the method keep the planted fact? A trace may say where in its prompt a fact stands
 * that is asked for at the end. The heads that read it there, in dense attention, are found from
 * the trace itself; for each, how much of what it read was still visible under the method. */
#ifndef WN_TOOLS_FACT_H
#define WN_TOOLS_FACT_H

#include "tools/replay.h"

/* A head reads the fact in a generation step in which it puts this much of its mass there. */
#define WN_FACT_READER_MASS 0.5
/* Kept: of what every reader reads, at least this share is visible. Lost: for some reader, less. */
#define WN_FACT_KEPT_SHARE 0.9
#define WN_FACT_LOST_SHARE 0.5

/* One query head of one layer that reads the fact, at the step where it reads it most. */
typedef struct wn_fact_reader {
    uint32_t layer, head; /* layer: index in the trace */
    int64_t step;
    double mass; /* dense mass on the fact's tokens in that step */
} wn_fact_reader;

typedef struct wn_fact {
    const wn_trace *trace;
    wn_fact_reader *readers; /* by falling mass */
    uint32_t num_readers;
    uint32_t reserved;
    float *token_mass; /* [num_readers, needle tokens] dense mass on each token of the fact */
} wn_fact;

/* Looks for readers. *fact is NULL if the trace has no needle. */
wn_status wn_fact_find(const wn_trace *trace, wn_fact **fact, wn_error *error);
void wn_fact_free(wn_fact *fact); /* NULL is fine */

enum { WN_FACT_KEPT = 1, WN_FACT_PARTLY = 2, WN_FACT_LOST = 3, WN_FACT_UNREAD = 4 };

/* What one reader could still see. */
typedef struct wn_fact_view {
    int64_t in_cache; /* tokens of the fact in the cache of the reader's KV head */
    int64_t visible;  /* of those, selected in the reader's step */
    double share;     /* of the reader's mass on the fact: what lies on visible tokens */
} wn_fact_view;

wn_status wn_fact_look(const wn_fact *fact, const wn_replay *replay, uint32_t reader,
                       wn_fact_view *view, wn_error *error);
/* WN_FACT_... over all readers, and the reader that sees least of it in *worst. layer: index in the
 * trace, or -1 for all. */
wn_status wn_fact_judge(const wn_fact *fact, const wn_replay *replay, int32_t layer,
                        int32_t *verdict, uint32_t *worst, wn_fact_view *view, wn_error *error);

#endif
