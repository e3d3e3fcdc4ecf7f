/* context_vote.h: tile policies in context attention. The rows of a voting unit (one query head,
 * tile_q tokens) lie in neighbouring panels; a tile's vote needs their maxima in it and those of
 * the tiles kept before it. */
#ifndef WN_CPU_CONTEXT_VOTE_H
#define WN_CPU_CONTEXT_VOTE_H

#include "kernels/cpu/context_panel.h"

#include <stdatomic.h>

enum { UNIT_PANELS = 64 / WN_PANEL };

/* A unit in the middle of its votes. */
typedef struct context_unit {
    const wn_tile_policy *policy;
    context_panel *panel; /* [panels] */
    int64_t panels, request, head, tile_k;
    wn_attend_counters counted;
    uint32_t nan[UNIT_PANELS]; /* rows that have met a NaN: they never agree */
    float running[UNIT_PANELS][WN_PANEL] __attribute__((aligned(64)));
} context_unit;

static void unit_begin(context_unit *u)
{
    for (int64_t i = 0; i < u->panels; i++) {
        u->nan[i] = 0;
        for (int64_t lane = 0; lane < WN_PANEL; lane++)
            u->running[i][lane] = -INFINITY;
    }
}

static uint32_t lanes_of(const context_panel *p)
{
    return p->lanes == 32 ? UINT32_MAX : (1u << p->lanes) - 1;
}

/* Maxima of the keys [begin, end), and which of the panel's rows have a NaN there. */
static uint32_t maxima_and_nan(const context_panel *p, const float *scores, int64_t begin,
                               int64_t end, float *top)
{
    uint32_t low = 0, high = 0;
    if (!maxima_of(true, scores, begin, end, top))
        return 0;
    for (int64_t t = begin; t < end; t++) {
        low |= wn_vm_bits(wn_vf_is_nan(wn_vf_load(scores + t * WN_PANEL)));
        high |= wn_vm_bits(wn_vf_is_nan(wn_vf_load(scores + t * WN_PANEL + WN_VL)));
    }
    return (low | high << WN_VL) & lanes_of(p);
}

/* Which rows of a panel see the tile, and which of them do not agree. threshold: base 2. */
static void ask(const context_shape *shape, const float *top, const float *running, float threshold,
                uint32_t *voters, uint32_t *against)
{
    *voters = *against = 0;
    for (int64_t i = 0; i < WN_PANEL; i += WN_VL) {
        wn_vf t = wn_vf_load(top + i), m = wn_vf_max(t, wn_vf_load(running + i));
        wn_vf gap = wn_vf_mul(wn_vf_sub(t, m), wn_vf_set(shape->after));
        uint32_t votes = wn_vm_bits(wn_vf_less(wn_vf_set(-INFINITY), t));
        uint32_t agree = wn_vm_bits(wn_vf_less(gap, wn_vf_set(threshold)));
        *voters |= votes << i;
        *against |= (votes & ~agree) << i;
    }
}

/* The policy's own function. */
static bool call_vote(const context_shape *shape, const context_unit *u,
                      const float top[][WN_PANEL], const uint32_t *nan, int64_t first_key)
{
    double tile_max[64], running_max[64], unit = (double)shape->after * 0.69314718055994531;
    wn_tile_stats stats = {.struct_size = WN_SIZEOF(wn_tile_stats),
                           .tile_max = tile_max,
                           .running_max = running_max,
                           .request = (int32_t)u->request,
                           .head = (int32_t)u->head,
                           .first_key = first_key};
    for (int64_t i = 0; i < u->panels; i++)
        for (int64_t lane = 0; lane < u->panel[i].lanes; lane++) {
            double t = top[i][lane] * unit, m = u->running[i][lane] * unit;
            if (nan[i] >> lane & 1)
                t = (double)NAN;
            if (t == -INFINITY)
                continue;
            tile_max[stats.rows] = t;
            running_max[stats.rows++] = u->nan[i] >> lane & 1 || isnan(t) ? (double)NAN
                                        : t > m                           ? t
                                                                          : m;
        }
    return stats.rows > 0 && u->policy->vote(u->policy->context, &stats) == 1;
}

/* Votes on a tile of `keys` keys that some row sees: is it left out? top: the rows' maxima in it;
 * nan: those that have a NaN in it. */
static bool vote(const context_shape *shape, context_unit *u, const float top[][WN_PANEL],
                 const uint32_t *nan, int64_t first_key, int64_t keys)
{
    bool skip = u->counted.tiles_seen > 0;
    if (skip && u->policy->kind == WN_TILE_VOTE)
        skip = call_vote(shape, u, top, nan, first_key);
    else if (skip) {
        uint32_t voters, against, any = 0;
        for (int64_t i = 0; i < u->panels && skip; i++) {
            ask(shape, top[i], u->running[i], u->policy->log_threshold[u->request] * 1.44269504f,
                &voters, &against);
            against |= nan[i] | (u->nan[i] & voters);
            any |= (voters | nan[i]) & lanes_of(&u->panel[i]);
            skip = (against & lanes_of(&u->panel[i])) == 0;
        }
        skip = skip && any != 0;
    }
    u->counted.tiles_seen++;
    u->counted.tiles_skipped += skip;
    u->counted.keys_read += keys;
    u->counted.values_read += skip ? 0 : keys;
    for (int64_t i = 0; i < u->panels && !skip; i++) {
        u->nan[i] |= nan[i];
        for (int64_t j = 0; j < WN_PANEL; j += WN_VL)
            wn_vf_store(u->running[i] + j,
                        wn_vf_max(wn_vf_load(top[i] + j), wn_vf_load(u->running[i] + j)));
    }
    return skip;
}

static void add_counters(wn_attend_counters *to, const wn_attend_counters *counted)
{
    int64_t *sum[] = {&to->tiles_seen, &to->tiles_skipped, &to->keys_read, &to->values_read};
    const int64_t add[] = {counted->tiles_seen, counted->tiles_skipped, counted->keys_read,
                           counted->values_read};
    for (int i = 0; i < 4; i++)
        atomic_fetch_add_explicit((_Atomic int64_t *)sum[i], add[i], memory_order_relaxed);
}

/* A block for one unit whose tiles lie in blocks as they are: votes and attends. scores: [panels]
 * [keys][WN_PANEL]. */
static void vote_and_attend(const context_shape *shape, context_unit *u, context_block *b,
                            float *scores)
{
    int64_t n[UNIT_PANELS], size = shape->keys * WN_PANEL;
    uint32_t kept = 0, nan[UNIT_PANELS];
    float top[UNIT_PANELS][WN_PANEL] __attribute__((aligned(64)));
    for (int64_t i = 0; i < u->panels; i++) {
        n[i] = keys_in_reach(b, &u->panel[i]);
        if (n[i] > 0)
            score_panel(shape, b, &u->panel[i], scores + i * size, n[i]);
    }
    for (int64_t tile = 0; tile < b->tiles; tile++) {
        int64_t begin = b->tile_begin[tile], end = b->tile_begin[tile + 1];
        for (int64_t i = 0; i < u->panels; i++) {
            int64_t to = end < n[i] ? end : n[i];
            nan[i] = maxima_and_nan(&u->panel[i], scores + i * size, begin, to, top[i]);
        }
        if (vote(shape, u, top, nan, b->tile[tile] * u->tile_k, end - begin))
            continue;
        kept |= 1u << tile;
        pack_values(shape, b, tile);
    }
    for (int64_t i = 0; i < u->panels && kept != 0; i++)
        attend_tiles(shape, b, &u->panel[i], scores + i * size, n[i], kept, u->running[i]);
}

/* Votes alone, for tiles that do not lie in blocks as they are; a bit per tile that is left out.
 * The source's blocks are parts of tiles. */
static void vote_before(const context_shape *shape, context_unit *u, context_source *source,
                        context_block *b, float *scores, uint8_t *skipped)
{
    int64_t tile = -1, keys = 0;
    uint32_t nan[UNIT_PANELS] = {0};
    float top[UNIT_PANELS][WN_PANEL] __attribute__((aligned(64)));
    float part[WN_PANEL] __attribute__((aligned(64)));
    for (bool more = true; more;) {
        more = source_next(source, b);
        if (tile >= 0 && (!more || b->tile[0] != tile) &&
            vote(shape, u, top, nan, tile * u->tile_k, keys))
            skipped[tile / 8] |= (uint8_t)(1u << tile % 8);
        if (!more)
            break;
        bool fresh = b->tile[0] != tile;
        keys = (fresh ? 0 : keys) + b->count;
        tile = b->tile[0];
        pack_keys(shape, b);
        for (int64_t i = 0; i < u->panels; i++) {
            int64_t n = keys_in_reach(b, &u->panel[i]);
            if (n > 0)
                score_panel(shape, b, &u->panel[i], scores, n);
            uint32_t odd = maxima_and_nan(&u->panel[i], scores, 0, n, part);
            for (int64_t j = 0; j < WN_PANEL; j++)
                top[i][j] = fresh || part[j] > top[i][j] ? part[j] : top[i][j];
            nan[i] = (fresh ? 0 : nan[i]) | odd;
        }
    }
}

#endif
