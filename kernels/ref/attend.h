/* attend.h: attention for one unit, the piece of work of the reference's context and generation:
 * some query tokens and query heads that share a KV head, a selection row and a tile's vote. A unit
 * takes its keys in strips that are converted to double once and then used by all of its rows.
 *
 *   attend.c       the two ops: checks the arguments and cuts the work into units
 *   attend_keys.c  which keys a unit meets, in what order; who sees which; scores
 *   attend_vote.c  before attention: votes on the tiles, counters
 *   attend_row.c   attention itself, row by row
 *
 * A row's arithmetic depends on nothing but the keys that it attends to, in ascending order: not on
 * tiles, strips, other rows or the op. That is what makes dense, a threshold of -inf and a
 * selection of everything equal bit for bit. */
#ifndef WN_REF_ATTEND_H
#define WN_REF_ATTEND_H

#include "winnow/ops.h"

#include <stdbool.h>

/* A strip has at most so many keys, and so many numbers of K and of V: 64 KiB each, since all of a
 * unit's memory is on the stack of an executor's thread. */
enum { WN_REF_STRIP_KEYS = 64, WN_REF_STRIP_NUMBERS = 8192 };

/* A policy's tiles are remembered as bits: so many per unit. */
enum { WN_REF_MAX_TILES = 1 << 18 };

typedef struct wn_ref_unit {
    const wn_attend_args *args;
    int64_t request, kv_head;
    int64_t first_head, num_heads;   /* query heads */
    int64_t first_token, num_tokens; /* query tokens, counted from the request's first */
    int64_t length;                  /* keys of the request */
    int64_t shift;                   /* token i is at slot i + shift */
    int64_t selection_row;
    int64_t tile_k;
    int64_t voting_head;          /* that counters and votes speak of: query or KV head */
    wn_attend_counters *counters; /* of that head, or NULL */
} wn_ref_unit;

/* Row r of a unit: token r / num_heads, head r % num_heads. */
typedef struct wn_ref_row {
    int64_t q_row, head; /* in q, out and lse */
    int64_t last_slot;   /* greatest slot that it may see */
    int64_t position;
} wn_ref_row;

static inline int64_t wn_ref_rows(const wn_ref_unit *unit)
{
    return unit->num_heads * unit->num_tokens;
}
wn_ref_row wn_ref_row_of(const wn_ref_unit *unit, int64_t r);

/* ---- attend_keys.c */

/* Keys of one tile, neighbours in the unit's order. */
typedef struct wn_ref_strip {
    int64_t tile;  /* its keys are numbers tile * tile_k ... of those that the unit attends to */
    int64_t count; /* 1 .. WN_REF_STRIP_KEYS */
    int64_t slot[WN_REF_STRIP_KEYS], position[WN_REF_STRIP_KEYS];
    double k[WN_REF_STRIP_NUMBERS], v[WN_REF_STRIP_NUMBERS]; /* [count][dim], once loaded */
} wn_ref_strip;

/* Goes through a unit's keys: all slots up to the last one that any row may see, or those of the
 * selection row; strictly ascending, each once. */
typedef struct wn_ref_walk {
    const wn_ref_unit *unit;
    const int32_t *entry, *entry_end; /* blocks of the selection still to come */
    int64_t slot, slot_end;           /* the rest of the current block */
    int64_t end;                      /* no key from here on */
    int64_t ordinal;                  /* of the next key */
} wn_ref_walk;

wn_ref_walk wn_ref_walk_begin(const wn_ref_unit *unit);
/* Fills in the next strip, without k and v. False at the end. */
bool wn_ref_walk_next(wn_ref_walk *walk, wn_ref_strip *strip);

bool wn_ref_sees(const wn_ref_unit *unit, const wn_ref_row *row, int64_t slot, int64_t position);
/* How many keys of a strip are seen by some row in [first, first + count) of the unit. */
int64_t wn_ref_strip_seen(const wn_ref_unit *unit, const wn_ref_strip *strip, int64_t first,
                          int64_t count);
void wn_ref_strip_load_k(const wn_ref_unit *unit, wn_ref_strip *strip);
void wn_ref_strip_load_v(const wn_ref_unit *unit, wn_ref_strip *strip);
/* A row's scores for the strip's keys, softmax scale, ALiBi and soft cap included; -inf for keys
 * that it does not see. Returns the greatest, NaN if there is a NaN. */
double wn_ref_row_scores(const wn_ref_unit *unit, const wn_ref_row *row, const wn_ref_strip *strip,
                         double score[WN_REF_STRIP_KEYS]);

/* ---- attend_vote.c */

typedef struct wn_ref_votes {
    uint8_t skipped[WN_REF_MAX_TILES / 8]; /* a bit per tile */
} wn_ref_votes;

static inline bool wn_ref_policy_votes(const wn_tile_policy *policy)
{
    return policy != NULL && policy->kind != WN_TILE_NONE;
}
static inline bool wn_ref_policy_two_pass(const wn_tile_policy *policy)
{
    return policy->kind == WN_TILE_SKIP_SOFTMAX && (policy->flags & WN_TILE_TWO_PASS);
}
/* Lets the unit vote on its tiles and adds to its counters. */
void wn_ref_vote(const wn_ref_unit *unit, wn_ref_votes *votes);
/* Without a policy: only the counters. */
void wn_ref_count(const wn_ref_unit *unit);
static inline bool wn_ref_is_skipped(const wn_ref_votes *votes, int64_t tile)
{
    return votes->skipped[tile / 8] >> tile % 8 & 1;
}

/* ---- attend_row.c */

/* Writes out and lse for the unit's rows. votes NULL: no tile is left out. */
void wn_ref_attend_rows(const wn_ref_unit *unit, const wn_ref_votes *votes);

#endif
