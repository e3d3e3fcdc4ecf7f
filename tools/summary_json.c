/* summary_json.c: the run's figures for programs: names as in summary.h and metrics.h, bytes,
 * seconds and shares of 1. */
#include "tools/summary.h"

#include "tools/step_time.h"

#include <jansson.h>
#include <math.h>

/* JSON has no NaN and no infinity: null. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *worst_case(const wn_trace *trace, const wn_worst *worst)
{
    if (worst->row < 0)
        return json_null();
    return json_pack("{s:o, s:o, s:I, s:I, s:I}", "mean", number(worst->mean), "worst",
                     number(worst->worst), "layer", (json_int_t)trace->layers[worst->layer].number,
                     "head", (json_int_t)worst->head, "row", (json_int_t)worst->row);
}

static json_t *quality(const wn_run *run, const wn_replay *replay, int32_t layer, int64_t first,
                       int64_t last)
{
    wn_quality of = wn_quality_measure(replay, run->replays[0], layer, first, last);
    return json_pack("{s:o, s:o, s:o}", "retained_mass", worst_case(run->trace, &of.mass),
                     "output_error", worst_case(run->trace, &of.error), "greatest_mass",
                     number(of.greatest_mass));
}

static json_t *phase(const wn_counters *c)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "query_tokens",
        (json_int_t)c->query_tokens, "keys_visible", (json_int_t)c->keys_visible, "keys_selected",
        (json_int_t)c->keys_selected, "keys_attended", (json_int_t)c->keys_attended, "k_bytes_read",
        (json_int_t)c->k_bytes_read, "v_bytes_read", (json_int_t)c->v_bytes_read, "aux_bytes_read",
        (json_int_t)c->aux_bytes_read, "tiles_seen", (json_int_t)c->tiles_seen, "tiles_skipped",
        (json_int_t)c->tiles_skipped, "tokens_dropped", (json_int_t)c->tokens_dropped,
        "dense_fallbacks", (json_int_t)c->dense_fallbacks);
}

/* Seconds, of all steps of a phase. */
static json_t *parts(const wn_replay *replay, uint32_t phase, int32_t layer)
{
    const wn_step_time time = wn_step_time_measure(replay, phase, layer);
    json_t *to = json_pack("{s:o}", "total", number(time.total));
    for (int i = 0; i < WN_PART_COUNT; i++)
        json_object_set_new(to, wn_part_names[i], number(time.part[i]));
    json_object_set_new(to, "rest", number(time.rest));
    return to;
}

static void add_times(json_t *to, const wn_run *run, const wn_replay *replay)
{
    char verdict[256];
    const double steps = (double)replay->steps;
    wn_step_time_verdict(replay, run->replays[0], verdict, sizeof verdict);
    json_object_set_new(to, "ms_per_prompt", number(1e3 * replay->context_seconds));
    json_object_set_new(to, "us_per_generated_token",
                        steps > 0 ? number(1e6 * replay->generation_seconds / steps) : json_null());
    json_object_set_new(to, "time_verdict", *verdict != '\0' ? json_string(verdict) : json_null());
}

static void add_common(json_t *to, const wn_run *run, const wn_replay *replay, int32_t layer)
{
    const wn_trace *trace = run->trace;
    wn_cost cost = wn_cost_measure(replay, layer);
    json_object_set_new(to, "context_parts_seconds", parts(replay, WN_PHASE_CONTEXT, layer));
    json_object_set_new(to, "generation_parts_seconds", parts(replay, WN_PHASE_GENERATION, layer));
    json_object_set_new(to, "kept_bytes", number(cost.kept_bytes));
    json_object_set_new(to, "kept_share", number(cost.kept_share));
    json_object_set_new(to, "read_bytes_per_token", number(cost.read_bytes));
    json_object_set_new(to, "context_tiles_skipped", number(cost.context_skipped));
    json_object_set_new(to, "generation_tiles_skipped", number(cost.generation_skipped));
    json_object_set_new(to, "prompt_rows", quality(run, replay, layer, 0, trace->context));
    json_object_set_new(to, "generated_rows",
                        quality(run, replay, layer, trace->context, trace->tokens));
}

static json_t *oracle_phase(const wn_run *run, uint32_t replay, int32_t layer, uint32_t phase)
{
    wn_oracle of = wn_run_oracle(run, replay, layer, phase);
    if (of.sets == 0)
        return json_null();
    return json_pack("{s:I, s:o, s:o, s:o, s:o}", "sets", (json_int_t)of.sets, "tokens",
                     number(of.tokens), "retained_mass", worst_case(run->trace, &of.mass), "oracle",
                     worst_case(run->trace, &of.best), "ratio", worst_case(run->trace, &of.ratio));
}

static void add_oracle(json_t *to, const wn_run *run, uint32_t replay, int32_t layer)
{
    if (run->oracles != NULL && replay > 0)
        json_object_set_new(to, "oracle",
                            json_pack("{s:o, s:o}", "prompt_rows",
                                      oracle_phase(run, replay, layer, WN_PHASE_CONTEXT),
                                      "generated_rows",
                                      oracle_phase(run, replay, layer, WN_PHASE_GENERATION)));
}

static json_t *layer_figures(const wn_run *run, uint32_t index, uint32_t layer)
{
    const wn_trace *trace = run->trace;
    const wn_replay *replay = run->replays[index];
    const wn_replay_layer *from = &replay->layers[layer];
    json_t *to =
        json_pack("{s:I, s:I, s:b, s:o, s:o}", "layer", (json_int_t)trace->layers[layer].number,
                  "kept_tokens", (json_int_t)from->kept, "selects", from->generation.any, "context",
                  phase(&from->counters[WN_PHASE_CONTEXT]), "generation",
                  phase(&from->counters[WN_PHASE_GENERATION]));
    json_t *heads = json_array();
    for (uint32_t h = 0; h < trace->num_heads; h++) {
        double least, mean = wn_quality_head(replay, run->replays[0], layer, h,
                                             wn_run_first_row(run), trace->tokens, &least);
        json_array_append_new(
            heads, json_pack("{s:o, s:o}", "mean", number(mean), "worst", number(least)));
    }
    add_common(to, run, replay, (int32_t)layer);
    add_oracle(to, run, index, (int32_t)layer);
    json_object_set_new(to, "retained_mass_by_head", heads);
    return to;
}

static json_t *fact_figures(const wn_run *run, const wn_replay *replay)
{
    static const char *const verdicts[] = {"", "kept", "partly", "lost", "unread"};
    json_t *readers = json_array();
    int32_t verdict;
    uint32_t worst;
    wn_fact_view view;
    if (wn_fact_judge(run->fact, replay, -1, &verdict, &worst, &view, NULL) != WN_OK)
        verdict = 0;
    for (uint32_t i = 0; i < run->fact->num_readers; i++) {
        const wn_fact_reader *who = &run->fact->readers[i];
        if (wn_fact_look(run->fact, replay, i, &view, NULL) != WN_OK)
            continue;
        json_array_append_new(
            readers, json_pack("{s:I, s:I, s:I, s:o, s:I, s:I, s:o}", "layer",
                               (json_int_t)run->trace->layers[who->layer].number, "head",
                               (json_int_t)who->head, "step", (json_int_t)who->step, "mass",
                               number(who->mass), "in_cache", (json_int_t)view.in_cache, "visible",
                               (json_int_t)view.visible, "share", number(view.share)));
    }
    return json_pack("{s:s, s:o}", "verdict", verdicts[verdict], "readers", readers);
}

static json_t *method_figures(const wn_run *run, uint32_t index)
{
    const wn_replay *replay = run->replays[index];
    json_t *layers = json_array();
    for (uint32_t l = 0; l < run->trace->num_layers; l++)
        json_array_append_new(layers, layer_figures(run, index, l));
    json_t *to = json_object();
    json_object_set_new(to, "name", json_string(replay->name));
    json_object_set_new(to, "context_seconds", number(replay->context_seconds));
    json_object_set_new(to, "generation_seconds", number(replay->generation_seconds));
    add_times(to, run, replay);
    json_object_set_new(to, "plan", json_string(replay->plan));
    add_common(to, run, replay, -1);
    add_oracle(to, run, index, -1);
    if (run->fact != NULL)
        json_object_set_new(to, "fact", fact_figures(run, replay));
    json_object_set_new(to, "layers", layers);
    return to;
}

static json_t *check_figures(const wn_run *run)
{
    const wn_check *c = run->check;
    return json_pack("{s:s, s:b, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "file", run->expected, "pass",
                     c->pass, "rows", (json_int_t)c->rows, "out_error", number(c->out_error),
                     "out_share_of_bound", number(c->out_share), "out_bound_relative",
                     number(c->out_relative), "out_bound_of_greatest_v", number(c->out_slack),
                     "lse_error", number(c->lse_error), "lse_bound", number(c->lse_bound));
}

wn_status wn_summary_print_json(const wn_run *run, FILE *to)
{
    const wn_trace *trace = run->trace;
    json_t *all = json_object(), *methods = json_array();
    json_object_set_new(all, "format", json_string("winnow.summary/1"));
    json_object_set_new(all, "trace", json_string(trace->path));
    json_object_set_new(all, "model", json_string(trace->model));
    json_object_set_new(all, "tokens", json_integer(trace->tokens));
    json_object_set_new(all, "context_length", json_integer(trace->context));
    for (uint32_t i = 0; i < run->count; i++)
        json_array_append_new(methods, method_figures(run, i));
    json_object_set_new(all, "methods", methods);
    if (run->check != NULL)
        json_object_set_new(all, "check", check_figures(run));
    int failed = json_dumpf(all, to, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(all);
    fputc('\n', to);
    return failed ? WN_EIO : WN_OK;
}
