/* fact.c: readers of the planted fact, and what they still see. */
#include "tools/fact.h"

#include "tools/metrics.h"

#include <stdlib.h>
#include <string.h>

static double sum_needle(const wn_trace *trace, const double *mass)
{
    double sum = 0;
    for (int64_t t = trace->needle_begin; t < trace->needle_end; t++)
        sum += mass[t];
    return sum;
}

/* The step in which this head reads the fact most; its mass per token of the fact into token_mass.
 */
static wn_fact_reader strongest(const wn_trace *trace, uint32_t layer, uint32_t head, double *mass,
                                float *token_mass)
{
    wn_fact_reader best = {layer, head, 0, -1};
    for (int64_t row = trace->context; row < trace->tokens; row++) {
        wn_dense_mass(trace, layer, row, head, mass);
        double sum = sum_needle(trace, mass);
        if (!(sum > best.mass))
            continue;
        best.mass = sum;
        best.step = row - trace->context;
        for (int64_t t = trace->needle_begin; t < trace->needle_end; t++)
            token_mass[t - trace->needle_begin] = (float)mass[t];
    }
    return best;
}

/* Insertion by falling mass; there are few readers. */
static void insert(wn_fact *fact, wn_fact_reader reader, const float *token_mass, size_t needle)
{
    uint32_t at = fact->num_readers++;
    for (; at > 0 && fact->readers[at - 1].mass < reader.mass; at--) {
        fact->readers[at] = fact->readers[at - 1];
        memcpy(fact->token_mass + at * needle, fact->token_mass + (at - 1) * needle,
               needle * sizeof *token_mass);
    }
    fact->readers[at] = reader;
    memcpy(fact->token_mass + at * needle, token_mass, needle * sizeof *token_mass);
}

static wn_status find(wn_fact *fact, double *mass, float *token_mass)
{
    const wn_trace *trace = fact->trace;
    size_t needle = (size_t)(trace->needle_end - trace->needle_begin);
    for (uint32_t layer = 0; layer < trace->num_layers; layer++)
        for (uint32_t head = 0; head < trace->num_heads; head++) {
            wn_fact_reader reader = strongest(trace, layer, head, mass, token_mass);
            if (reader.mass >= WN_FACT_READER_MASS)
                insert(fact, reader, token_mass, needle);
        }
    return WN_OK;
}

wn_status wn_fact_find(const wn_trace *trace, wn_fact **fact, wn_error *error)
{
    *fact = NULL;
    size_t needle = (size_t)(trace->needle_end - trace->needle_begin);
    size_t heads = (size_t)trace->num_layers * trace->num_heads;
    if (needle == 0)
        return WN_OK;
    wn_fact *made = calloc(1, sizeof *made);
    double *mass = malloc(sizeof *mass * (size_t)trace->tokens);
    float *token_mass = malloc(sizeof *token_mass * needle);
    if (made != NULL) {
        made->trace = trace;
        made->readers = malloc(sizeof *made->readers * heads);
        made->token_mass = malloc(sizeof *made->token_mass * heads * needle);
    }
    wn_status status = WN_ENOMEM;
    if (made != NULL && made->readers != NULL && made->token_mass != NULL && mass != NULL &&
        token_mass != NULL)
        status = find(made, mass, token_mass);
    else
        wn_fail(error, status, "%s: no memory", trace->path);
    free(mass);
    free(token_mass);
    if (status == WN_OK)
        *fact = made;
    else
        wn_fact_free(made);
    return status;
}

void wn_fact_free(wn_fact *fact)
{
    if (fact == NULL)
        return;
    free(fact->readers);
    free(fact->token_mass);
    free(fact);
}

static int64_t count_in_cache(const wn_replay *replay, uint32_t layer, uint32_t kv_head)
{
    const wn_trace *trace = replay->trace;
    const wn_replay_layer *from = &replay->layers[layer];
    if (from->retain == NULL)
        return trace->needle_end - trace->needle_begin;
    int64_t count = 0;
    for (int32_t i = 0; i < from->kept; i++) {
        int32_t t = from->retain[(int64_t)kv_head * from->kept + i];
        count += t >= trace->needle_begin && t < trace->needle_end;
    }
    return count;
}

wn_status wn_fact_look(const wn_fact *fact, const wn_replay *replay, uint32_t reader,
                       wn_fact_view *view, wn_error *error)
{
    const wn_trace *trace = fact->trace;
    const wn_fact_reader *who = &fact->readers[reader];
    uint32_t kv_head = who->head / (trace->num_heads / trace->num_kv_heads);
    int64_t needle = trace->needle_end - trace->needle_begin;
    uint8_t *visible = malloc((size_t)trace->tokens);
    if (visible == NULL)
        return wn_fail(error, WN_ENOMEM, "%s: no memory", trace->path);
    wn_replay_visible(replay, who->layer, trace->context + who->step, kv_head, visible);
    *view = (wn_fact_view){.in_cache = count_in_cache(replay, who->layer, kv_head)};
    double seen = 0;
    for (int64_t i = 0; i < needle; i++)
        if (visible[trace->needle_begin + i]) {
            view->visible++;
            seen += fact->token_mass[reader * needle + i];
        }
    view->share = seen / who->mass;
    free(visible);
    return WN_OK;
}

wn_status wn_fact_judge(const wn_fact *fact, const wn_replay *replay, int32_t layer,
                        int32_t *verdict, uint32_t *worst, wn_fact_view *view, wn_error *error)
{
    *verdict = WN_FACT_UNREAD;
    *worst = 0;
    *view = (wn_fact_view){0, 0, 2};
    for (uint32_t i = 0; i < fact->num_readers; i++) {
        wn_fact_view seen;
        if (layer >= 0 && fact->readers[i].layer != (uint32_t)layer)
            continue;
        wn_status status = wn_fact_look(fact, replay, i, &seen, error);
        if (status != WN_OK)
            return status;
        if (seen.share < view->share) {
            *view = seen;
            *worst = i;
        }
        *verdict = view->share >= WN_FACT_KEPT_SHARE   ? WN_FACT_KEPT
                   : view->share >= WN_FACT_LOST_SHARE ? WN_FACT_PARTLY
                                                       : WN_FACT_LOST;
    }
    return WN_OK;
}
