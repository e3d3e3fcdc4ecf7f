/* attend_vote.c: before a unit attends, its rows go through the tiles in order and vote which of
 * them to leave out. A tile is left out if every row that sees any of it agrees; it then changes
 * nothing, the running maxima included. Taking the votes first costs the scores twice, and in turn
 * attention needs to hold only a few rows at a time. With WN_TILE_TWO_PASS the maxima are those of
 * all keys, found by going through the tiles once before. */
#include "kernels/ref/attend.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

static void add(int64_t *counter, int64_t amount)
{
    atomic_fetch_add_explicit((_Atomic int64_t *)counter, amount, memory_order_relaxed);
}

static void publish(const wn_ref_unit *unit, const wn_attend_counters *counted)
{
    if (unit->counters == NULL)
        return;
    add(&unit->counters->tiles_seen, counted->tiles_seen);
    add(&unit->counters->tiles_skipped, counted->tiles_skipped);
    add(&unit->counters->keys_read, counted->keys_read);
    add(&unit->counters->values_read, counted->values_read);
}

void wn_ref_count(const wn_ref_unit *unit)
{
    wn_attend_counters counted = {0};
    wn_ref_strip strip;
    int64_t last_seen = -1;
    for (wn_ref_walk walk = wn_ref_walk_begin(unit); wn_ref_walk_next(&walk, &strip);) {
        int64_t keys = wn_ref_strip_seen(unit, &strip, 0, wn_ref_rows(unit));
        counted.keys_read += keys;
        counted.values_read += keys;
        if (keys > 0 && strip.tile != last_seen) {
            counted.tiles_seen++;
            last_seen = strip.tile;
        }
    }
    publish(unit, &counted);
}

/* A unit in the middle of its vote. */
typedef struct ballot {
    const wn_ref_unit *unit;
    int64_t tile, keys; /* the tile being voted on; its keys that some row sees */
    double tile_max[WN_MAX_VOTING_ROWS];
    double running_max[WN_MAX_VOTING_ROWS]; /* of the tiles kept so far; two passes: of all */
    bool two_pass;
    wn_attend_counters counted;
} ballot;

/* NaN stays: a row with a NaN score never agrees. */
static double greater(double a, double b)
{
    return b > a || isnan(b) ? b : a;
}

/* Two passes: a row's greatest tile stays even with a threshold above 0, or nothing would. */
static bool decide(const wn_tile_policy *policy, const wn_tile_stats *stats)
{
    if (policy->kind == WN_TILE_VOTE)
        return policy->vote(policy->context, stats) == 1;
    for (uint32_t i = 0; i < stats->rows; i++) {
        double threshold = (double)policy->log_threshold[stats->request];
        if (!(stats->tile_max[i] - stats->running_max[i] < threshold))
            return false;
        if (wn_ref_policy_two_pass(policy) && stats->tile_max[i] == stats->running_max[i])
            return false;
    }
    return true;
}

/* Asks those rows that see the tile. */
static bool agreed(const ballot *b)
{
    const wn_ref_unit *unit = b->unit;
    double tile_max[WN_MAX_VOTING_ROWS], running_max[WN_MAX_VOTING_ROWS];
    wn_tile_stats stats = {.struct_size = WN_SIZEOF(wn_tile_stats),
                           .tile_max = tile_max,
                           .running_max = running_max,
                           .request = (int32_t)unit->request,
                           .head = (int32_t)unit->voting_head,
                           .first_key = b->tile * unit->tile_k};
    for (int64_t r = 0; r < wn_ref_rows(unit); r++) {
        if (b->tile_max[r] == -INFINITY)
            continue;
        tile_max[stats.rows] = b->tile_max[r];
        running_max[stats.rows++] = greater(b->running_max[r], b->tile_max[r]);
    }
    return stats.rows > 0 && decide(unit->args->tile, &stats);
}

/* Ends the current tile. */
static void close_tile(ballot *b, wn_ref_votes *votes)
{
    if (b->keys > 0) {
        bool skip = (b->counted.tiles_seen > 0 || b->two_pass) && agreed(b);
        b->counted.tiles_seen++;
        b->counted.tiles_skipped += skip;
        b->counted.keys_read += b->keys;
        b->counted.values_read += skip ? 0 : b->keys;
        if (skip)
            votes->skipped[b->tile / 8] |= (uint8_t)(1u << b->tile % 8);
        for (int64_t r = 0; r < wn_ref_rows(b->unit) && !skip; r++)
            b->running_max[r] = greater(b->running_max[r], b->tile_max[r]);
    }
    b->keys = 0;
    for (int64_t r = 0; r < wn_ref_rows(b->unit); r++)
        b->tile_max[r] = -INFINITY;
}

/* Raises each row's maximum by its scores for a strip. */
static void raise_maxima(const wn_ref_unit *unit, const wn_ref_strip *strip, double *maximum)
{
    double score[WN_REF_STRIP_KEYS];
    for (int64_t r = 0; r < wn_ref_rows(unit); r++) {
        wn_ref_row row = wn_ref_row_of(unit, r);
        maximum[r] = greater(maximum[r], wn_ref_row_scores(unit, &row, strip, score));
    }
}

/* The first of two passes. */
static void find_maxima(ballot *b, wn_ref_strip *strip)
{
    for (wn_ref_walk walk = wn_ref_walk_begin(b->unit); wn_ref_walk_next(&walk, strip);) {
        if (wn_ref_strip_seen(b->unit, strip, 0, wn_ref_rows(b->unit)) == 0)
            continue;
        wn_ref_strip_load_k(b->unit, strip);
        raise_maxima(b->unit, strip, b->running_max);
    }
}

void wn_ref_vote(const wn_ref_unit *unit, wn_ref_votes *votes)
{
    wn_ref_strip strip;
    ballot b = {.unit = unit, .two_pass = wn_ref_policy_two_pass(unit->args->tile)};
    memset(votes, 0, sizeof *votes);
    for (int64_t r = 0; r < wn_ref_rows(unit); r++)
        b.tile_max[r] = b.running_max[r] = -INFINITY;
    if (b.two_pass)
        find_maxima(&b, &strip);
    for (wn_ref_walk walk = wn_ref_walk_begin(unit); wn_ref_walk_next(&walk, &strip);) {
        if (strip.tile != b.tile)
            close_tile(&b, votes);
        b.tile = strip.tile;
        int64_t keys = wn_ref_strip_seen(unit, &strip, 0, wn_ref_rows(unit));
        if (keys == 0)
            continue;
        b.keys += keys;
        wn_ref_strip_load_k(unit, &strip);
        raise_maxima(unit, &strip, b.tile_max);
    }
    close_tile(&b, votes);
    publish(unit, &b.counted);
}
