/* bench_trial.c: an engine of one layer per method: a prompt, then generation steps in turns.
 *
 * The prompt's own attention is not what is measured, and at 128 Ki tokens it would take minutes.
 * Dense engines only append it. A method has to see its prompt attended to, so there each query
 * sees its own key alone (window 1), which touches what methods observe, keys and queries, in no
 * way.
 *
 * The numbers are random, and three of four tiles of 64 keys lie far below the others, so that
 * rules that look at the scores have something to leave out. */
#include "tools/bench_trial.h"

#include "tools/bench_threads.h"
#include "tools/found_config.h"
#include "tools/found_plugins.h"
#include "tools/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 2048, /* prompt tokens of a step; a multiple of the period of cold tiles */
    COLD_OF = 4,
    WARM_STEPS = 3,
    MAX_BATCH = 256
};

static const char shape_words[] = "batch=1,heads=32,kv_heads=8,head_dim=128,page=32,dtype=bfloat16";

static wn_status library_failed(const wn_trial *s, const wn_trial_player *p, wn_status status)
{
    return wn_fail(s->error, status, "%s: %s", p->method->name, wn_error_text());
}

/* ---------------------------------------------------------------- numbers */

/* Channel 0 decides: 16 in queries, -16 in keys of cold tiles, 0 in the others. */
static void set_channel(const wn_tensor *t, int64_t token, uint16_t bits)
{
    for (int64_t h = 0; h < t->shape[1]; h++)
        ((uint16_t *)t->data)[token * t->stride[0] + h * t->stride[1]] = bits;
}

static void fresh_numbers(wn_trial *s, wn_trial_player *p)
{
    enum { PLUS_16 = 0x4180, MINUS_16 = 0xc180 }; /* bfloat16 */
    wn_tensor *all[] = {&s->q, &s->k, &s->v};
    for (int i = 0; i < 3; i++)
        wn_scene_fill(&s->numbers, all[i]->data, WN_BF16, all[i]->shape[0] * all[i]->stride[0]);
    for (uint32_t i = 0; i < p->num_inputs; i++) {
        const wn_tensor *t = &p->inputs[i].tensor;
        wn_scene_fill(&s->numbers, t->data, t->dtype, t->shape[0] * t->stride[0]);
    }
    for (int64_t t = 0; t < CHUNK; t++) {
        set_channel(&s->q, t, PLUS_16);
        set_channel(&s->k, t, t / WN_TRIAL_TILE % COLD_OF == 0 ? 0 : MINUS_16);
    }
}

static wn_status make_numbers(wn_trial *s)
{
    const wn_bench_shape *g = &s->shape;
    int64_t q[] = {CHUNK, g->heads, g->head_dim}, k[] = {CHUNK, g->kv_heads, g->head_dim};
    s->q = wn_scene_output(&s->numbers, WN_BF16, 3, q);
    s->k = wn_scene_output(&s->numbers, WN_BF16, 3, k);
    s->v = wn_scene_output(&s->numbers, WN_BF16, 3, k);
    s->out = wn_scene_output(&s->numbers, WN_BF16, 3, q);
    if (s->numbers.memory.failed)
        return wn_fail(s->error, WN_ENOMEM, "no memory for a step's inputs");
    return WN_OK;
}

static wn_tensor rows(wn_tensor t, int64_t first, int64_t count)
{
    t.data = (uint16_t *)t.data + first * t.stride[0];
    t.shape[0] = count;
    return t;
}

/* What a method asks the host to bring, for as many tokens as a chunk may have. */
static wn_status make_inputs(wn_trial *s, wn_trial_player *p)
{
    const char *name;
    wn_tensor like;
    for (p->num_inputs = 0; p->num_inputs < WN_TRIAL_INPUTS; p->num_inputs++) {
        wn_status status = wn_engine_input(p->engine, p->num_inputs, CHUNK, &name, &like);
        if (status == WN_ENOTFOUND)
            return WN_OK;
        if (status != WN_OK)
            return library_failed(s, p, status);
        p->inputs[p->num_inputs] =
            (wn_named_input){name, wn_scene_tensor(&s->numbers, like.dtype, like.ndim, like.shape)};
    }
    return WN_OK;
}

/* All rows from `first` on. */
static void input_rows(const wn_trial_player *p, int64_t first,
                       wn_named_input inputs[WN_TRIAL_INPUTS])
{
    for (uint32_t i = 0; i < p->num_inputs; i++) {
        wn_tensor *t = &inputs[i].tensor;
        inputs[i] = p->inputs[i];
        t->data = (uint8_t *)t->data + first * t->stride[0] * wn_dtype_bytes(t->dtype);
        t->shape[0] -= first;
    }
}

/* ---------------------------------------------------------------- engines */

static wn_status open_engine(wn_trial *s, wn_trial_player *p, int64_t steps)
{
    const wn_bench_shape *g = &s->shape;
    wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                      .num_layers = 1,
                      .num_heads = (uint32_t)g->heads,
                      .num_kv_heads = (uint32_t)g->kv_heads,
                      .head_dim = (uint32_t)g->head_dim,
                      .dtype = WN_BF16,
                      .max_position = (uint32_t)(s->length + steps + 1),
                      .softmax_scale = 1 / sqrtf((float)g->head_dim)};
    uint64_t each = (uint64_t)((s->length + steps) / g->page + 2) * (uint64_t)g->page;
    wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                 .tokens_per_page = (uint32_t)g->page,
                                 .max_tokens = each * (uint64_t)g->batch,
                                 .max_sequences = (uint32_t)g->batch,
                                 .max_step_tokens = CHUNK,
                                 .kv_dtype = g->dtype,
                                 .executor = &s->executor};
    wn_status status =
        wn_engine_create(s->registry, p->method->config, &model, &options, &p->engine);
    if (status != WN_OK)
        return library_failed(s, p, status);
    p->sequence = calloc((size_t)g->batch, sizeof *p->sequence);
    for (int i = 0; i < WN_TRIAL_FIGURES; i++)
        p->samples[i] = calloc((size_t)steps, sizeof(double));
    wn_engine_timing(p->engine, 1);
    return WN_OK;
}

static void close_player(wn_trial_player *p)
{
    wn_engine_free(p->engine);
    free(p->sequence);
    for (int i = 0; i < WN_TRIAL_FIGURES; i++)
        free(p->samples[i]);
}

/* ---------------------------------------------------------------- the prompt */

/* Dense is the first player. */
static int is_dense(const wn_trial *s, const wn_trial_player *p)
{
    return p == &s->players[0];
}

/* One step of the one layer, begun and ended. */
static wn_status one_step(wn_trial *s, wn_trial_player *p, const wn_batch_item *items,
                          uint32_t count, const wn_attention_args *args)
{
    wn_batch *batch;
    wn_status status = wn_batch_begin(p->engine, items, count, &batch);
    if (status != WN_OK)
        return library_failed(s, p, status);
    status = wn_attention(batch, 0, args);
    if (status != WN_OK) {
        status = library_failed(s, p, status);
        wn_batch_abort(batch);
        return status;
    }
    status = wn_batch_end(batch);
    return status == WN_OK ? WN_OK : library_failed(s, p, status);
}

static wn_status prompt_chunk(wn_trial *s, wn_trial_player *p, wn_sequence sequence, int64_t first,
                              int64_t count)
{
    wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                          .sequence = sequence,
                          .num_tokens = (int32_t)count,
                          .flags =
                              WN_ITEM_CONTEXT | (first + count < s->length ? WN_ITEM_MORE : 0)};
    fresh_numbers(s, p);
    wn_attention_args args = {.struct_size = WN_SIZEOF(wn_attention_args),
                              .q = rows(s->q, 0, count),
                              .k = rows(s->k, 0, count),
                              .v = rows(s->v, 0, count),
                              .inputs = p->inputs,
                              .num_inputs = p->num_inputs};
    if (!is_dense(s, p)) {
        args.out = rows(s->out, 0, count);
        args.window = 1;
    }
    return one_step(s, p, &item, 1, &args);
}

/* The whole prompt, in chunks, the last one small; p->late if it would take too long. */
static wn_status read_prompt(wn_trial *s, wn_trial_player *p, wn_sequence sequence, double begun,
                             int64_t already)
{
    int64_t length = s->length, batch = s->shape.batch;
    for (int64_t first = 0, count; first < length; first += count) {
        int64_t left = length - first;
        count = left > WN_TRIAL_SHORTEST ? left - WN_TRIAL_SHORTEST : left;
        count = count > CHUNK ? CHUNK : count;
        wn_status status = prompt_chunk(s, p, sequence, first, count);
        if (status != WN_OK)
            return status;
        /* Time grows with the square of the length, at worst. */
        double done = (double)(first + count) / (double)length;
        double all = (wn_seconds() - begun) * (double)batch / ((double)already + done * done);
        if (all > s->prompt_seconds && wn_seconds() - begun > s->prompt_seconds / 20) {
            p->late = 1;
            return WN_OK;
        }
    }
    return WN_OK;
}

static wn_status read_prompts(wn_trial *s, wn_trial_player *p)
{
    double begun = wn_seconds();
    for (int64_t b = 0; b < s->shape.batch && !p->late; b++) {
        wn_status status = wn_sequence_create(p->engine, &p->sequence[b]);
        if (status != WN_OK)
            return library_failed(s, p, status);
        status = read_prompt(s, p, p->sequence[b], begun, b);
        if (status != WN_OK)
            return status;
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- generation */

static void read_parts(const wn_counters *c, double seconds[WN_PART_COUNT])
{
    seconds[WN_PART_APPEND] = (double)c->append_ns * 1e-9;
    seconds[WN_PART_OBSERVE] = (double)c->observe_ns * 1e-9;
    seconds[WN_PART_SELECT] = (double)c->select_ns * 1e-9;
    seconds[WN_PART_ATTEND] = (double)c->attend_ns * 1e-9;
    seconds[WN_PART_RETAIN] = (double)c->retain_ns * 1e-9;
}

/* What the counters grew by in the last step. */
static void read_step(wn_trial_player *p, double seconds[WN_TRIAL_FIGURES])
{
    double now[WN_PART_COUNT];
    wn_counters counters = {.struct_size = WN_SIZEOF(wn_counters)};
    wn_engine_counters(p->engine, 0, WN_PHASE_GENERATION, &counters);
    read_parts(&counters, now);
    for (int i = 0; i < WN_PART_COUNT; i++) {
        seconds[i] = now[i] - p->before[i];
        p->before[i] = now[i];
    }
}

static wn_status step(wn_trial *s, wn_trial_player *p, int64_t number,
                      double seconds[WN_TRIAL_FIGURES])
{
    int64_t batch_size = s->shape.batch, first = number * batch_size % (CHUNK - MAX_BATCH);
    wn_batch_item items[MAX_BATCH];
    wn_named_input inputs[WN_TRIAL_INPUTS];
    for (int64_t b = 0; b < batch_size; b++)
        items[b] = (wn_batch_item){
            .struct_size = WN_SIZEOF(wn_batch_item), .sequence = p->sequence[b], .num_tokens = 1};
    input_rows(p, first, inputs);
    wn_attention_args args = {.struct_size = WN_SIZEOF(wn_attention_args),
                              .q = rows(s->q, first, batch_size),
                              .k = rows(s->k, first, batch_size),
                              .v = rows(s->v, first, batch_size),
                              .out = rows(s->out, 0, batch_size),
                              .inputs = inputs,
                              .num_inputs = p->num_inputs};
    double begun = wn_seconds();
    wn_status status = one_step(s, p, items, (uint32_t)batch_size, &args);
    if (status != WN_OK)
        return status;
    seconds[WN_TRIAL_STEP] = wn_seconds() - begun;
    read_step(p, seconds);
    return WN_OK;
}

static wn_status take_steps(wn_trial *s, uint32_t samples)
{
    for (uint32_t i = 0; i < WARM_STEPS + samples; i++)
        for (uint32_t n = 0; n < s->num_players; n++) {
            wn_trial_player *p = &s->players[n];
            double seconds[WN_TRIAL_FIGURES] = {0};
            wn_status status = p->late ? WN_OK : step(s, p, i, seconds);
            if (status != WN_OK)
                return status;
            for (int part = 0; part < WN_TRIAL_FIGURES && i >= WARM_STEPS; part++)
                p->samples[part][i - WARM_STEPS] = seconds[part];
        }
    for (uint32_t n = 0; n < s->num_players; n++) {
        wn_trial_player *p = &s->players[n];
        for (int part = 0; part < WN_TRIAL_FIGURES; part++)
            p->part[part] = wn_bench_spread_of(p->samples[part], p->late ? 0 : samples);
        if (!p->late)
            wn_sequence_length(p->engine, p->sequence[0], 0, NULL, &p->kept);
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- one length */

static wn_status prepare(wn_trial *s, wn_trial_player *p, uint32_t samples)
{
    wn_status status = open_engine(s, p, WARM_STEPS + samples);
    if (status == WN_OK)
        status = make_inputs(s, p);
    if (status == WN_OK && s->numbers.memory.failed)
        status = wn_fail(s->error, WN_ENOMEM, "no memory for a step's inputs");
    return status == WN_OK ? read_prompts(s, p) : status;
}

wn_status wn_trial_measure(wn_trial *s, const uint32_t *which, uint32_t count, uint32_t samples)
{
    wn_status status = make_numbers(s);
    for (s->num_players = 0; s->num_players < count && status == WN_OK;) {
        wn_trial_player *p = &s->players[s->num_players];
        *p = (wn_trial_player){.method = &s->methods[which[s->num_players++]]};
        status = prepare(s, p, samples);
    }
    return status == WN_OK ? take_steps(s, samples) : status;
}

void wn_trial_clear(wn_trial *s)
{
    for (uint32_t n = 0; n < s->num_players; n++)
        close_player(&s->players[n]);
    s->num_players = 0;
    wn_bench_release(&s->numbers.memory);
}

/* ---------------------------------------------------------------- the trial */

static const struct {
    const char *name, *yaml;
} own_methods[] = {
    {"rocket", "sparse_attention_config:\n  algorithm: rocket\n  prompt_budget: 2048\n"
               "  topk: 64\n"},
    {"skip_softmax",
     "sparse_attention_config:\n  algorithm: skip_softmax\n  threshold: {decode: 0.00001}\n"},
    {"dsa", "sparse_attention_config:\n  algorithm: dsa\n  phases: [generation]\n"
            "  index_topk: 2048\n"},
    {"rocket + skip_softmax",
     "sparse_attention_config:\n"
     "  - algorithm: skip_softmax\n    threshold: {decode: 0.00001}\n"
     "  - algorithm: rocket\n    phases: [context, generation]\n    prompt_budget: 2048\n"
     "    topk: 64\n"},
};
enum { OWN_METHODS = sizeof own_methods / sizeof own_methods[0] };

static wn_trial_method *new_method(wn_trial *s, const char *name)
{
    if (s->num_methods == WN_TRIAL_PLAYERS)
        return NULL;
    wn_trial_method *method = &s->methods[s->num_methods++];
    snprintf(method->name, sizeof method->name, "%s", name);
    return method;
}

wn_status wn_trial_add(wn_trial *s, const char *name, const char *yaml)
{
    wn_trial_method *to = new_method(s, name);
    if (to == NULL)
        return wn_fail(s->error, WN_ERANGE, "more than %d configurations", WN_TRIAL_PLAYERS - 1);
    wn_status status = wn_config_parse(yaml, strlen(yaml), name, &to->config);
    return status == WN_OK ? WN_OK : wn_fail(s->error, status, "%s", wn_error_text());
}

/* "rocket" for "examples/rocket.yaml". */
static wn_status add_file(wn_trial *s, const char *path)
{
    char name[48];
    const char *slash = strrchr(path, '/');
    snprintf(name, sizeof name, "%.40s", slash != NULL ? slash + 1 : path);
    name[strcspn(name, ".")] = '\0';
    wn_trial_method *to = new_method(s, name);
    if (to == NULL)
        return wn_fail(s->error, WN_ERANGE, "more than %d configurations", WN_TRIAL_PLAYERS - 1);
    return wn_found_config(path, &to->config, s->error);
}

wn_status wn_trial_add_all(wn_trial *s, const wn_steps_options *options)
{
    wn_status status = WN_OK;
    for (uint32_t i = 0; options->num_configs == 0 && i < OWN_METHODS && status == WN_OK; i++)
        status = wn_trial_add(s, own_methods[i].name, own_methods[i].yaml);
    for (uint32_t i = 0; i < options->num_configs && status == WN_OK; i++)
        status = add_file(s, options->configs[i]);
    return status;
}

static wn_status fill_trial(wn_trial *s, const wn_steps_options *options)
{
    wn_status status =
        wn_bench_shape_read("steps", shape_words, options->shape, &s->shape, s->error);
    if (status != WN_OK)
        return status;
    if (s->shape.batch < 1 || s->shape.batch > MAX_BATCH)
        return wn_fail(s->error, WN_ERANGE, "steps: batch: expected 1 to %d", MAX_BATCH);
    s->registry = wn_found_plugins("bench", options->plugin_path);
    if (s->registry == NULL)
        return wn_fail(s->error, WN_EIO, "the plugins cannot be searched for");
    return wn_trial_add(s, "dense", "sparse_attention_config:\n  algorithm: dense\n");
}

wn_trial *wn_trial_open(const wn_bench *bench, const wn_steps_options *options, wn_error *error)
{
    wn_trial *s = calloc(1, sizeof *s);
    if (s == NULL) {
        wn_fail(error, WN_ENOMEM, "no memory");
        return NULL;
    }
    s->error = error;
    s->bench = bench;
    s->executor = wn_bench_executor(bench->threads);
    s->prompt_seconds = options->prompt_seconds;
    if (fill_trial(s, options) == WN_OK)
        return s;
    wn_trial_free(s);
    return NULL;
}

void wn_trial_free(wn_trial *s)
{
    if (s == NULL)
        return;
    wn_trial_clear(s);
    for (uint32_t i = 0; i < s->num_methods; i++)
        wn_config_free(s->methods[i].config);
    wn_registry_close(s->registry);
    free(s);
}
