/* oracle.c: dense attention's mass in double, row by row, once for all replays; then for each of
 * them as many of the greatest as it attended to. */
#include "tools/oracle.h"

#include "tools/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct measuring {
    const wn_trace *trace;
    wn_replay *const *replays;
    uint32_t count, layer;
    int64_t row;
    double *group;    /* [kv heads, tokens] mass of the row, summed over the heads of a KV head */
    double *one;      /* [tokens] */
    double *shuffled; /* [tokens] */
    uint8_t *visible; /* [tokens] */
} measuring;

/* The sum of the k greatest of n values, which change places: Hoare's selection. */
static double sum_greatest(double *value, int64_t n, int64_t k)
{
    int64_t low = 0, high = n - 1;
    while (low < high && k < n) {
        double pivot = value[low + (high - low) / 2];
        int64_t i = low - 1, j = high + 1;
        for (;;) {
            do
                i++;
            while (value[i] > pivot);
            do
                j--;
            while (value[j] < pivot);
            if (i >= j)
                break;
            double swapped = value[i];
            value[i] = value[j];
            value[j] = swapped;
        }
        if (k <= j)
            high = j;
        else
            low = j + 1;
    }
    double sum = 0;
    for (int64_t i = 0; i < k && i < n; i++)
        sum += value[i];
    return sum;
}

/* ---------------------------------------------------------------- one row */

static void find_mass(const measuring *at)
{
    const wn_trace *trace = at->trace;
    uint32_t group = trace->num_heads / trace->num_kv_heads;
    memset(at->group, 0, sizeof(double) * (size_t)trace->tokens * trace->num_kv_heads);
    for (uint32_t head = 0; head < trace->num_heads; head++) {
        double *sum = at->group + head / group * trace->tokens;
        wn_dense_mass(trace, at->layer, at->row, head, at->one);
        for (int64_t t = 0; t <= at->row; t++)
            sum[t] += at->one[t];
    }
}

/* Tokens that the heads of kv_head attended to. */
static int64_t attended(const measuring *at, const wn_replay *replay, uint32_t kv_head)
{
    const wn_trace *trace = at->trace;
    int64_t seen = 0;
    wn_replay_visible(replay, at->layer, at->row, kv_head, at->visible);
    for (int64_t t = 0; t <= at->row; t++)
        seen += at->visible[t];
    if (at->row < trace->context)
        return seen;
    const float *share = replay->layers[at->layer].computed;
    return (int64_t)ceil((double)seen *
                         share[(at->row - trace->context) * trace->num_kv_heads + kv_head]);
}

static void count_worst(wn_worst *to, const measuring *at, double value, uint32_t head)
{
    if (to->row < 0 || value < to->worst)
        *to = (wn_worst){to->mean, value, at->row, at->layer, head};
    to->mean += value;
}

/* KV heads [first, first + number) as one set with k tokens; sums, until all rows are done. */
static void measure_set(const measuring *at, const wn_replay *replay, uint32_t first,
                        uint32_t number, int64_t k, wn_oracle *oracle)
{
    const wn_trace *trace = at->trace;
    uint32_t group = trace->num_heads / trace->num_kv_heads, head = first * group;
    double kept = 0, heads = (double)number * group;
    memcpy(at->shuffled, at->group + first * trace->tokens, sizeof(double) * (size_t)(at->row + 1));
    for (uint32_t h = first + 1; h < first + number; h++)
        for (int64_t t = 0; t <= at->row; t++)
            at->shuffled[t] += at->group[h * trace->tokens + t];
    for (uint32_t h = head; h < head + number * group; h++)
        kept += wn_mass_kept(replay, at->replays[0], at->layer, at->row, h) / heads;
    double best = sum_greatest(at->shuffled, at->row + 1, k) / heads;
    oracle->sets++;
    oracle->tokens += (double)k;
    count_worst(&oracle->mass, at, kept, head);
    count_worst(&oracle->best, at, best, head);
    count_worst(&oracle->ratio, at, best > 0 ? kept / best : 1, head);
}

static void measure_row(const measuring *at, const wn_replay *replay, wn_oracle *oracle)
{
    const wn_replay_layer *from = &replay->layers[at->layer];
    int generated = at->row >= at->trace->context;
    const wn_choices *choices = generated ? &from->generation : &from->prompt;
    uint32_t heads = at->trace->num_kv_heads;
    uint64_t skipped = from->counters[WN_PHASE_GENERATION].tiles_skipped;
    int64_t row = generated ? at->row - at->trace->context : at->row;
    if (choices->any && choices->chosen[row] && !choices->separate &&
        (!generated || skipped == 0)) {
        measure_set(at, replay, 0, heads, attended(at, replay, 0), oracle);
        return;
    }
    for (uint32_t h = 0; h < heads; h++)
        measure_set(at, replay, h, 1, attended(at, replay, h), oracle);
}

/* ---------------------------------------------------------------- all rows */

static int measures_prompt(const wn_replay *replay, uint32_t layer)
{
    const wn_replay_layer *from = &replay->layers[layer];
    return from->prompt.any && from->counters[WN_PHASE_CONTEXT].tiles_skipped == 0;
}

static wn_oracle *oracle_of(const measuring *at, wn_oracle *oracles, uint32_t replay, int phase)
{
    return &oracles[((size_t)replay * at->trace->num_layers + at->layer) * WN_PHASE_COUNT + phase];
}

static void measure_layer(measuring *at, wn_oracle *oracles, wn_progress *progress)
{
    const wn_trace *trace = at->trace;
    int prompt = 0;
    for (uint32_t i = 1; i < at->count; i++)
        prompt |= measures_prompt(at->replays[i], at->layer);
    for (at->row = prompt ? 0 : trace->context; at->row < trace->tokens; at->row++) {
        int phase = at->row < trace->context ? WN_PHASE_CONTEXT : WN_PHASE_GENERATION;
        find_mass(at);
        for (uint32_t i = 1; i < at->count; i++)
            if (phase == WN_PHASE_GENERATION || measures_prompt(at->replays[i], at->layer))
                measure_row(at, at->replays[i], oracle_of(at, oracles, i, phase));
        wn_progress_show(progress, at->layer * trace->tokens + at->row + 1);
    }
}

static void finish(wn_oracle *oracle)
{
    double sets = (double)oracle->sets;
    if (oracle->sets == 0)
        return;
    oracle->tokens /= sets;
    oracle->mass.mean /= sets;
    oracle->best.mean /= sets;
    oracle->ratio.mean /= sets;
}

wn_status wn_oracle_measure(const wn_trace *trace, wn_replay *const *replays, uint32_t count,
                            wn_oracle **oracles, wn_error *error)
{
    size_t cells = (size_t)count * trace->num_layers * WN_PHASE_COUNT;
    size_t tokens = (size_t)trace->tokens;
    measuring at = {.trace = trace, .replays = replays, .count = count};
    wn_progress progress;
    *oracles = calloc(cells, sizeof **oracles);
    double *room = malloc(sizeof(double) * tokens * (trace->num_kv_heads + 2));
    at.visible = malloc(tokens);
    wn_status status = WN_OK;
    if (*oracles == NULL || room == NULL || at.visible == NULL)
        status = wn_fail(error, WN_ENOMEM, "no memory for the oracle");
    for (size_t i = 0; i < cells && status == WN_OK; i++)
        (*oracles)[i].mass.row = (*oracles)[i].best.row = (*oracles)[i].ratio.row = -1;
    at.group = room;
    at.one = room != NULL ? room + tokens * trace->num_kv_heads : NULL;
    at.shuffled = room != NULL ? at.one + tokens : NULL;
    wn_progress_begin(&progress, "oracle", trace->num_layers * trace->tokens);
    for (at.layer = 0; at.layer < trace->num_layers && status == WN_OK; at.layer++)
        measure_layer(&at, *oracles, &progress);
    wn_progress_end(&progress);
    for (size_t i = 0; i < cells && status == WN_OK; i++)
        finish(&(*oracles)[i]);
    free(room);
    free(at.visible);
    if (status != WN_OK) {
        free(*oracles);
        *oracles = NULL;
    }
    return status;
}

static void merge_worst(wn_worst *to, const wn_worst *from, double share)
{
    double mean = to->mean * (1 - share) + from->mean * share;
    if (to->row < 0 || from->worst < to->worst)
        *to = *from;
    to->mean = mean;
}

void wn_oracle_merge(wn_oracle *to, const wn_oracle *from)
{
    if (from->sets == 0)
        return;
    if (to->sets == 0) {
        *to = *from;
        return;
    }
    double share = (double)from->sets / (double)(to->sets + from->sets);
    to->tokens = to->tokens * (1 - share) + from->tokens * share;
    merge_worst(&to->mass, &from->mass, share);
    merge_worst(&to->best, &from->best, share);
    merge_worst(&to->ratio, &from->ratio, share);
    to->sets += from->sets;
}
