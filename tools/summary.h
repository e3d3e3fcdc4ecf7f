/* summary.h: what `winnow run` says at the end, for people and for programs. */
#ifndef WN_TOOLS_SUMMARY_H
#define WN_TOOLS_SUMMARY_H

#include "tools/fact.h"
#include "tools/oracle.h"

/* A whole run: replays[0] is dense. */
typedef struct wn_run {
    const wn_trace *trace;
    wn_replay **replays;
    uint32_t count;
    uint32_t by_layer;        /* 1: the table has a row per layer, too */
    const wn_fact *fact;      /* NULL: the trace has no needle */
    const wn_check *check;    /* NULL: no expectation was at hand */
    const char *expected;     /* the expectation's path */
    const wn_oracle *oracles; /* as wn_oracle_measure gives them; NULL: not asked for */
} wn_run;

/* First generated row, or 0 if nothing was generated: qualities are measured from here on. */
int64_t wn_run_first_row(const wn_run *run);

/* The oracle beside replays[replay] in WN_PHASE_...; layer: index in the trace, or -1 for all. */
wn_oracle wn_run_oracle(const wn_run *run, uint32_t replay, int32_t layer, uint32_t phase);

/* Tables, worst cases, fact, verdict of the check. */
void wn_summary_print(const wn_run *run, FILE *to);
/* The same and every layer's figures, as one JSON object. WN_ENOMEM or WN_EIO. */
wn_status wn_summary_print_json(const wn_run *run, FILE *to);

/* Sentences, also used by the page. bytes: room in text; always NUL-terminated. */
void wn_summary_trace(const wn_trace *trace, char *text, size_t bytes);
/* Where replay lost most, over all layers (-1) or in one. */
void wn_summary_loss(const wn_run *run, const wn_replay *replay, int32_t layer, char *text,
                     size_t bytes);
/* Did replay keep the fact? run->fact must be there. */
void wn_summary_fact(const wn_run *run, const wn_replay *replay, int32_t layer, char *text,
                     size_t bytes);
/* Who reads the fact in dense attention. */
void wn_summary_readers(const wn_run *run, char *text, size_t bytes);
void wn_summary_check(const wn_run *run, char *text, size_t bytes);
/* Nothing ("") or a warning that replay has more mass than dense attention. */
void wn_summary_excess(const wn_run *run, const wn_replay *replay, char *text, size_t bytes);

#endif
