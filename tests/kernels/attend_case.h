/* attend_case.h: a random case of attention and what must come out of it, for the checks of context
 * and generation. The oracle is brute force in doubles from the formulas in winnow/ops.h: every
 * score of every query is computed, votes are taken on whole columns, nothing is incremental. */
#ifndef WN_TESTS_ATTEND_CASE_H
#define WN_TESTS_ATTEND_CASE_H

#include "check.h"

/* What a case has besides random shapes, masks and transforms. */
enum {
    WN_CASE_SELECTION = 1,
    WN_CASE_POLICY = 2,
    WN_CASE_COUNTERS = 4,
    WN_CASE_PLAIN = 8,
    WN_CASE_LONG = 16,  /* thousands of keys, around multiples of 1024: what is cut into parts */
    WN_CASE_BLOCKS = 32 /* hundreds of keys and queries, around multiples of 64: several blocks */
};

enum { WN_CASE_BATCH = 5 };

typedef struct wn_attend_case {
    wn_check *check;
    bool by_kv_head; /* generation */
    wn_attend_args args;
    wn_check_cache cache;
    wn_selection selection;
    wn_tile_policy policy;
    int64_t rows, heads, group, k_dim, v_dim;
    int64_t out_elements; /* of out's buffer, gaps included */
    /* Expected. out is [rows][heads][v_dim], lse [rows][heads]; rows that belong to no request are
     * not `used`. */
    double *out, *lse;
    /* How far a variant in floats may be off beyond the table of tolerances: the scores' rounding,
     * which is absolute and grows with the operands, as it comes out in each result. */
    double *out_error, *lse_error;
    bool *used;
    wn_attend_counters *counters; /* [heads or KV heads] */
    bool ambiguous;               /* a vote hangs on rounding: the case says nothing about tiles */
    /* Which slots' K and V some query needs; [batch][num_kv_heads][longest]. */
    bool *k_needed, *v_needed;
    int64_t longest;
} wn_attend_case;

/* Makes args, all buffers and the expected results. */
void wn_attend_case_make(wn_check *check, wn_attend_case *c, bool by_kv_head, uint32_t wanted);
void wn_attend_case_free(wn_attend_case *c);
/* Compares out, lse and counters of args with what is expected, and gaps with 0xff. */
void wn_attend_case_compare(wn_attend_case *c);
/* Overwrites K and V with NaN in slots where no query needs them: not seen, not selected, and for
 * V left out by votes. */
void wn_attend_case_poison(wn_attend_case *c);
/* For query token i, head h of request b: the softmax mass (of the dense distribution, without
 * sinks) and the mean value of the keys that mask and window allow but the selection lacks. False
 * if nothing is allowed. */
bool wn_attend_case_dropped(wn_attend_case *c, int64_t b, int64_t i, int64_t h, double *mass,
                            double *mean /* [v_dim] */);

#endif
