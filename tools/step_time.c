/* step_time.c: the engine's clock by part, summed over layers, in a table and in a sentence. */
#include "tools/step_time.h"

#include "tools/table.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

const char *const wn_part_names[WN_PART_COUNT] = {"append", "observe", "select", "attend",
                                                  "retain"};

wn_step_time wn_step_time_measure(const wn_replay *replay, uint32_t phase, int32_t layer)
{
    wn_step_time time = {.rest = 0};
    double parts = 0;
    for (uint32_t l = 0; l < replay->trace->num_layers; l++) {
        if (layer >= 0 && l != (uint32_t)layer)
            continue;
        const wn_counters *c = &replay->layers[l].counters[phase];
        const uint64_t ns[WN_PART_COUNT] = {c->append_ns, c->observe_ns, c->select_ns, c->attend_ns,
                                            c->retain_ns};
        for (int i = 0; i < WN_PART_COUNT; i++)
            time.part[i] += 1e-9 * (double)ns[i];
    }
    for (int i = 0; i < WN_PART_COUNT; i++)
        parts += time.part[i];
    time.total = layer >= 0                  ? parts
                 : phase == WN_PHASE_CONTEXT ? replay->context_seconds
                                             : replay->generation_seconds;
    time.rest = time.total > parts ? time.total - parts : 0;
    return time;
}

void wn_step_time_verdict(const wn_replay *replay, const wn_replay *dense, char *text, size_t bytes)
{
    const double least = 1.05;
    const double prompt = replay->context_seconds, dense_prompt = dense->context_seconds;
    const double steps = (double)replay->steps;
    const double token = steps > 0 ? replay->generation_seconds / steps : 0;
    const double dense_token = steps > 0 ? dense->generation_seconds / steps : 0;
    text[0] = '\0';
    if (token > least * dense_token)
        snprintf(text, bytes,
                 "slower than dense here: %.1f us a generated token, dense %.1f: %" PRId64
                 " tokens are below its break-even",
                 1e6 * token, 1e6 * dense_token, replay->trace->tokens);
    else if (prompt > least * dense_prompt && least * token < dense_token)
        snprintf(
            text, bytes,
            "takes %.1f ms more for the prompt than dense, %.1f us less for a generated token: "
            "faster from %.0f tokens on",
            1e3 * (prompt - dense_prompt), 1e6 * (dense_token - token),
            ceil((prompt - dense_prompt) / (dense_token - token)));
    else if (prompt > least * dense_prompt)
        snprintf(text, bytes,
                 "slower than dense here: %.1f ms for the prompt, dense %.1f: %" PRId64
                 " tokens are below its break-even",
                 1e3 * prompt, 1e3 * dense_prompt, replay->trace->tokens);
}

static void add_row(wn_table *table, const wn_replay *replay, uint32_t phase)
{
    const int prompt = phase == WN_PHASE_CONTEXT;
    const double unit = prompt ? 1e3 : replay->steps > 0 ? 1e6 / (double)replay->steps : 0;
    const wn_step_time time = wn_step_time_measure(replay, phase, -1);
    wn_table_cell(table, prompt ? "%.32s, prompt ms" : "%.32s, token us", replay->name);
    wn_table_cell(table, "%.1f", unit * time.total);
    for (int i = 0; i < WN_PART_COUNT; i++)
        wn_table_cell(table, unit * time.part[i] >= 0.05 ? "%.1f" : "-", unit * time.part[i]);
    wn_table_cell(table, "%.1f", unit * time.rest);
}

void wn_step_time_print(wn_replay *const *replays, uint32_t count, FILE *to)
{
    wn_table table;
    wn_table_init(&table, WN_PART_COUNT + 3);
    wn_table_cell(&table, "%s", "");
    wn_table_cell(&table, "all");
    for (int i = 0; i < WN_PART_COUNT; i++)
        wn_table_cell(&table, "%s", wn_part_names[i]);
    wn_table_cell(&table, "rest");
    for (uint32_t i = 0; i < count; i++) {
        add_row(&table, replays[i], WN_PHASE_CONTEXT);
        if (replays[i]->steps > 0)
            add_row(&table, replays[i], WN_PHASE_GENERATION);
    }
    wn_table_print(&table, 1, to);
    wn_table_free(&table);
}
