/* bench_steps.c: an engine of one layer through the public API: a prompt, then generation steps,
 * dense and each method in turns at the same length.
 *
 * The prompt's own attention is not what is measured, and at 128 Ki tokens it would take minutes.
 * Dense engines only append it. A method has to see its prompt attended to, so there each query
 * sees its own key alone (window 1), which touches what methods observe, keys and queries, in no
 * way.
 *
 * The numbers are random, and three of four tiles of 64 keys lie far below the others, so that
 * rules that look at the scores have something to leave out. */
#include "tools/bench_steps.h"

#include "tools/bench_report.h"
#include "tools/bench_threads.h"
#include "tools/command.h"
#include "tools/found_config.h"
#include "tools/found_plugins.h"
#include "tools/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 2048, /* prompt tokens of a step; a multiple of the period of cold tiles */
    LAST_CHUNK = 64,
    TILE = 64,
    COLD_OF = 4,
    MAX_PLAYERS = 17,
    MAX_INPUTS = 8,
    WARM_STEPS = 3,
    MAX_BATCH = 256,
    MAX_LENGTHS = 32
};

/* ---------------------------------------------------------------- parts of a step */

#define PART_LIST(X) X(append) X(observe) X(select) X(attend) X(retain)

enum {
#define PART(name) PART_##name,
    PART_LIST(PART)
#undef PART
        PART_TOTAL, /* from wn_batch_begin to wn_batch_end */
    NUM_PARTS
};
static const char *const part_names[] = {
#define PART(name) #name,
    PART_LIST(PART)
#undef PART
        "total"};

static void read_parts(const wn_counters *c, double seconds[NUM_PARTS])
{
#define PART(name) seconds[PART_##name] = (double)c->name##_ns * 1e-9;
    PART_LIST(PART)
#undef PART
}

/* ---------------------------------------------------------------- what is measured */

typedef struct geometry {
    wn_bench_shape shape; /* heads, kv_heads, head_dim, batch, page, dtype */
    int64_t length;
} geometry;

static const char geometry_words[] =
    "batch=1,heads=32,kv_heads=8,head_dim=128,page=32,dtype=bfloat16";

/* A configuration with the name that it has in tables. */
typedef struct method {
    char name[48];
    wn_config *config;
} method;

/* One engine at work. */
typedef struct player {
    const method *method;
    wn_engine *engine;
    wn_sequence *sequence;             /* [batch] */
    wn_named_input inputs[MAX_INPUTS]; /* of CHUNK tokens */
    uint32_t num_inputs;
    double *samples[NUM_PARTS]; /* [steps] */
    double before[NUM_PARTS];   /* the counters before the last step */
    wn_bench_spread part[NUM_PARTS];
    int32_t kept; /* tokens of a request in the cache in the end */
    int32_t late; /* 1: its prompt would have taken too long */
} player;

typedef struct stage {
    const wn_bench *bench;
    wn_executor executor;
    wn_registry *registry;
    geometry at;
    double prompt_seconds;
    wn_bench_scene numbers; /* memory and random numbers for what follows */
    wn_tensor q, k, v, out; /* CHUNK tokens */
    player players[MAX_PLAYERS];
    uint32_t num_players;
    wn_error *error;
} stage;

static wn_status library_failed(const stage *s, const player *p, wn_status status)
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

static void fresh_numbers(stage *s, player *p)
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
        set_channel(&s->k, t, t / TILE % COLD_OF == 0 ? 0 : MINUS_16);
    }
}

static wn_status make_numbers(stage *s)
{
    const wn_bench_shape *g = &s->at.shape;
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
static wn_status make_inputs(stage *s, player *p)
{
    const char *name;
    wn_tensor like;
    for (p->num_inputs = 0; p->num_inputs < MAX_INPUTS; p->num_inputs++) {
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
static void input_rows(const player *p, int64_t first, wn_named_input inputs[MAX_INPUTS])
{
    for (uint32_t i = 0; i < p->num_inputs; i++) {
        wn_tensor *t = &inputs[i].tensor;
        inputs[i] = p->inputs[i];
        t->data = (uint8_t *)t->data + first * t->stride[0] * wn_dtype_bytes(t->dtype);
        t->shape[0] -= first;
    }
}

/* ---------------------------------------------------------------- engines */

static wn_status open_engine(stage *s, player *p, int64_t steps)
{
    const wn_bench_shape *g = &s->at.shape;
    wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                      .num_layers = 1,
                      .num_heads = (uint32_t)g->heads,
                      .num_kv_heads = (uint32_t)g->kv_heads,
                      .head_dim = (uint32_t)g->head_dim,
                      .dtype = WN_BF16,
                      .max_position = (uint32_t)(s->at.length + steps + 1),
                      .softmax_scale = 1 / sqrtf((float)g->head_dim)};
    uint64_t each = (uint64_t)((s->at.length + steps) / g->page + 2) * (uint64_t)g->page;
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
    for (int i = 0; i < NUM_PARTS; i++)
        p->samples[i] = calloc((size_t)steps, sizeof(double));
    wn_engine_timing(p->engine, 1);
    return WN_OK;
}

static void close_player(player *p)
{
    wn_engine_free(p->engine);
    free(p->sequence);
    for (int i = 0; i < NUM_PARTS; i++)
        free(p->samples[i]);
}

/* ---------------------------------------------------------------- the prompt */

/* Dense is the first player. */
static int is_dense(const stage *s, const player *p)
{
    return p == &s->players[0];
}

static wn_status prompt_chunk(stage *s, player *p, wn_sequence sequence, int64_t first,
                              int64_t count)
{
    wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                          .sequence = sequence,
                          .num_tokens = (int32_t)count,
                          .flags =
                              WN_ITEM_CONTEXT | (first + count < s->at.length ? WN_ITEM_MORE : 0)};
    wn_batch *batch;
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
    wn_status status = wn_batch_begin(p->engine, &item, 1, &batch);
    if (status != WN_OK)
        return library_failed(s, p, status);
    status = wn_attention(batch, 0, &args);
    if (status != WN_OK) {
        status = library_failed(s, p, status);
        wn_batch_abort(batch);
        return status;
    }
    status = wn_batch_end(batch);
    return status == WN_OK ? WN_OK : library_failed(s, p, status);
}

/* The whole prompt, in chunks, the last one small; p->late if it would take too long. */
static wn_status read_prompt(stage *s, player *p, wn_sequence sequence, double begun,
                             int64_t already)
{
    int64_t length = s->at.length, batch = s->at.shape.batch;
    for (int64_t first = 0, count; first < length; first += count) {
        int64_t left = length - first;
        count = left > LAST_CHUNK ? left - LAST_CHUNK : left;
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

static wn_status read_prompts(stage *s, player *p)
{
    double begun = wn_seconds();
    for (int64_t b = 0; b < s->at.shape.batch && !p->late; b++) {
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

/* What the counters grew by in the last step. */
static void read_step(player *p, double seconds[NUM_PARTS])
{
    double now[NUM_PARTS] = {0};
    wn_counters counters = {.struct_size = WN_SIZEOF(wn_counters)};
    wn_engine_counters(p->engine, 0, WN_PHASE_GENERATION, &counters);
    read_parts(&counters, now);
    for (int i = 0; i < PART_TOTAL; i++) {
        seconds[i] = now[i] - p->before[i];
        p->before[i] = now[i];
    }
}

static wn_status step(stage *s, player *p, int64_t number, double seconds[NUM_PARTS])
{
    int64_t batch_size = s->at.shape.batch, first = number * batch_size % (CHUNK - MAX_BATCH);
    wn_batch_item items[MAX_BATCH];
    wn_named_input inputs[MAX_INPUTS];
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
    wn_batch *batch;
    double begun = wn_seconds();
    wn_status status = wn_batch_begin(p->engine, items, (uint32_t)batch_size, &batch);
    if (status != WN_OK)
        return library_failed(s, p, status);
    status = wn_attention(batch, 0, &args);
    if (status != WN_OK) {
        status = library_failed(s, p, status);
        wn_batch_abort(batch);
        return status;
    }
    status = wn_batch_end(batch);
    if (status != WN_OK)
        return library_failed(s, p, status);
    seconds[PART_TOTAL] = wn_seconds() - begun;
    read_step(p, seconds);
    return WN_OK;
}

static wn_status take_steps(stage *s, uint32_t samples)
{
    for (uint32_t i = 0; i < WARM_STEPS + samples; i++)
        for (uint32_t n = 0; n < s->num_players; n++) {
            player *p = &s->players[n];
            double seconds[NUM_PARTS] = {0};
            wn_status status = p->late ? WN_OK : step(s, p, i, seconds);
            if (status != WN_OK)
                return status;
            for (int part = 0; part < NUM_PARTS && i >= WARM_STEPS; part++)
                p->samples[part][i - WARM_STEPS] = seconds[part];
        }
    for (uint32_t n = 0; n < s->num_players; n++) {
        player *p = &s->players[n];
        for (int part = 0; part < NUM_PARTS; part++)
            p->part[part] = wn_bench_spread_of(p->samples[part], p->late ? 0 : samples);
        if (!p->late)
            wn_sequence_length(p->engine, p->sequence[0], 0, NULL, &p->kept);
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- one length */

/* Methods [count] beside dense at s->at; the players hold the figures. Closed by close_point. */
static wn_status measure_point(stage *s, const method *methods, uint32_t count, uint32_t samples)
{
    wn_status status = make_numbers(s);
    for (s->num_players = 0; s->num_players < count && status == WN_OK;) {
        player *p = &s->players[s->num_players++];
        *p = (player){.method = &methods[s->num_players - 1]};
        status = open_engine(s, p, WARM_STEPS + samples);
        if (status == WN_OK)
            status = make_inputs(s, p);
        if (status == WN_OK && s->numbers.memory.failed)
            status = wn_fail(s->error, WN_ENOMEM, "no memory for a step's inputs");
        if (status == WN_OK)
            status = read_prompts(s, p);
    }
    return status == WN_OK ? take_steps(s, samples) : status;
}

static void close_point(stage *s)
{
    for (uint32_t n = 0; n < s->num_players; n++)
        close_player(&s->players[n]);
    s->num_players = 0;
    wn_bench_release(&s->numbers.memory);
}

/* ---------------------------------------------------------------- configurations */

static const struct {
    const char *name, *yaml;
} own_methods[] = {
    {"dense", "sparse_attention_config:\n  algorithm: dense\n"},
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

static wn_status parse_method(const char *name, const char *yaml, method *to, wn_error *error)
{
    snprintf(to->name, sizeof to->name, "%s", name);
    wn_status status = wn_config_parse(yaml, strlen(yaml), name, &to->config);
    return status == WN_OK ? WN_OK : wn_fail(error, status, "%s", wn_error_text());
}

/* Dense first; then the files, or this file's set. */
static wn_status open_methods(const wn_steps_options *o, method methods[MAX_PLAYERS],
                              uint32_t *count, wn_error *error)
{
    wn_status status = parse_method("dense", own_methods[0].yaml, &methods[0], error);
    *count = 1;
    for (uint32_t i = 1; o->num_configs == 0 && i < OWN_METHODS && status == WN_OK; i++)
        status =
            parse_method(own_methods[i].name, own_methods[i].yaml, &methods[(*count)++], error);
    for (uint32_t i = 0; i < o->num_configs && status == WN_OK; i++) {
        if (*count == MAX_PLAYERS)
            return wn_fail(error, WN_ERANGE, "more than %d configurations", MAX_PLAYERS - 1);
        method *to = &methods[(*count)++];
        const char *slash = strrchr(o->configs[i], '/');
        snprintf(to->name, sizeof to->name, "%.40s", slash != NULL ? slash + 1 : o->configs[i]);
        to->name[strcspn(to->name, ".")] = '\0';
        status = wn_found_config(o->configs[i], &to->config, error);
    }
    return status;
}

static void close_methods(method *methods, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        wn_config_free(methods[i].config);
}

static wn_status open_stage(const wn_bench *bench, const wn_steps_options *o, stage *s)
{
    s->bench = bench;
    s->executor = wn_bench_executor(bench->threads);
    s->prompt_seconds = o->prompt_seconds;
    wn_status status =
        wn_bench_shape_read("steps", geometry_words, o->shape, &s->at.shape, s->error);
    if (status != WN_OK)
        return status;
    if (s->at.shape.batch < 1 || s->at.shape.batch > MAX_BATCH)
        return wn_fail(s->error, WN_ERANGE, "steps: batch: expected 1 to %d", MAX_BATCH);
    s->registry = wn_found_plugins("bench", o->plugin_path);
    return s->registry != NULL ? WN_OK : wn_fail(s->error, WN_EIO, "no plugins");
}

/* ---------------------------------------------------------------- --steps */

/* One line of the answer. */
typedef struct step_row {
    char method[48];
    int64_t length, batch;
    wn_bench_spread part[NUM_PARTS];
    double ratio; /* dense's time over this one's */
    int32_t kept, late;
} step_row;

static void keep_rows(const stage *s, step_row *rows_, uint32_t *count)
{
    double dense = s->players[0].part[PART_TOTAL].median;
    for (uint32_t n = 0; n < s->num_players; n++) {
        const player *p = &s->players[n];
        step_row *r = &rows_[(*count)++];
        *r = (step_row){.length = s->at.length, .batch = s->at.shape.batch};
        memcpy(r->method, p->method->name, sizeof r->method);
        memcpy(r->part, p->part, sizeof r->part);
        r->kept = p->kept;
        r->late = p->late;
        r->ratio = p->late ? 0 : dense / p->part[PART_TOTAL].median;
    }
}

static const char *remark_of(const step_row *r)
{
    if (r->late)
        return "its prompt takes too long here";
    return r->ratio > 0 && r->ratio < 1 ? "below break-even" : "";
}

static json_t *step_json(const step_row *r)
{
    json_t *row =
        json_pack("{s:s, s:I, s:I, s:b}", "method", r->method, "length", (json_int_t)r->length,
                  "batch", (json_int_t)r->batch, "measured", !r->late);
    if (r->late)
        return row;
    for (int i = 0; i < NUM_PARTS; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_ms", part_names[i]);
        json_object_set_new(row, key, wn_number_json(r->part[i].median * 1e3));
    }
    const wn_bench_spread *total = &r->part[PART_TOTAL];
    json_object_set_new(
        row, "spread",
        json_pack("[o,o]", wn_number_json(total->low * 1e3), wn_number_json(total->high * 1e3)));
    json_object_set_new(row, "kept_tokens", json_integer(r->kept));
    json_object_set_new(row, "ratio_dense", wn_number_json(r->ratio));
    json_object_set_new(row, "below_break_even", json_boolean(r->ratio < 1));
    return row;
}

static void print_steps_table(const step_row *list, uint32_t count, int form)
{
    static const char *const head[] = {"method",
                                       "length",
                                       "batch",
                                       "step",
#define PART(name) #name,
                                       PART_LIST(PART)
#undef PART
                                           "kept",
                                       "x faster than dense",
                                       "remark"};
    enum { COLUMNS = sizeof head / sizeof head[0] };
    char(*cells)[48] = calloc((size_t)count * COLUMNS + 1, sizeof *cells);
    for (uint32_t i = 0; i < count && cells != NULL; i++) {
        const step_row *r = &list[i];
        char(*cell)[48] = cells + (size_t)i * COLUMNS, text[16];
        snprintf(cell[0], 48, "%s", r->method);
        snprintf(cell[1], 48, "%lld", (long long)r->length);
        snprintf(cell[2], 48, "%lld", (long long)r->batch);
        for (int part = 0; part < NUM_PARTS; part++)
            snprintf(cell[part == PART_TOTAL ? 3 : 4 + part], 48, "%s",
                     r->late ? "-" : wn_seconds_text(r->part[part].median, text));
        snprintf(cell[9], 48, "%d", r->kept);
        snprintf(cell[10], 48, r->late ? "-" : "%.2f", r->ratio);
        snprintf(cell[11], 48, "%s", remark_of(r));
    }
    if (cells != NULL)
        wn_bench_table_print(head, COLUMNS, cells, count, form, stdout);
    free(cells);
}

static void print_steps(const stage *s, const step_row *list, uint32_t count, int form)
{
    if (form != WN_REPORT_JSON) {
        wn_bench_head_print(s->bench, form, stdout);
        print_steps_table(list, count, form);
        return;
    }
    json_t *whole = wn_bench_head_json(s->bench), *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(array, step_json(&list[i]));
    json_object_set_new(whole, "steps", array);
    json_dumpf(whole, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(whole);
}

/* "4k,32k" into lengths; 0: it makes no sense. */
static uint32_t read_lengths(const char *text, int64_t lengths[MAX_LENGTHS])
{
    uint32_t count = 0;
    while (*text != '\0' && count < MAX_LENGTHS) {
        char *end;
        int64_t value = strtoll(text, &end, 10);
        if (end == text)
            return 0;
        if (*end == 'k') {
            value *= 1024;
            end++;
        }
        if (value < LAST_CHUNK || value > 1 << 24 || (*end != ',' && *end != '\0'))
            return 0;
        lengths[count++] = value;
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

static wn_status all_lengths(stage *s, const int64_t *lengths, uint32_t num_lengths,
                             const method *methods, uint32_t num_methods, step_row *list,
                             uint32_t *count)
{
    wn_progress progress;
    wn_status status = WN_OK;
    wn_progress_begin(&progress, "steps", num_lengths);
    for (uint32_t i = 0; i < num_lengths && status == WN_OK; i++) {
        s->at.length = lengths[i];
        status = measure_point(s, methods, num_methods, s->bench->samples);
        if (status == WN_OK)
            keep_rows(s, list, count);
        close_point(s);
        wn_progress_show(&progress, i + 1);
    }
    wn_progress_end(&progress);
    return status;
}

static int said(const wn_error *error)
{
    fprintf(stderr, "winnow bench: %s\n", error->text);
    return WN_EXIT_FAILED;
}

int wn_bench_steps(const wn_bench *bench, const wn_steps_options *options)
{
    char text[2048] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    int64_t lengths[MAX_LENGTHS];
    const char *asked = options->lengths != NULL ? options->lengths
                        : bench->quick           ? "128,300"
                                                 : "4k,8k,16k,32k,64k,128k";
    uint32_t num_lengths = read_lengths(asked, lengths), num_methods = 0, count = 0;
    if (num_lengths == 0)
        return wn_usage_error(&wn_usage_bench, "--lengths wants numbers such as 4k,32k from %d on",
                              LAST_CHUNK);
    static step_row list[MAX_LENGTHS * MAX_PLAYERS];
    method methods[MAX_PLAYERS] = {0};
    stage *s = calloc(1, sizeof *s);
    if (s == NULL)
        return WN_EXIT_FAILED;
    s->error = &error;
    wn_status status = open_stage(bench, options, s);
    if (status == WN_OK)
        status = open_methods(options, methods, &num_methods, &error);
    if (status == WN_OK)
        status = all_lengths(s, lengths, num_lengths, methods, num_methods, list, &count);
    if (status == WN_OK)
        print_steps(s, list, count, options->form);
    close_methods(methods, num_methods);
    wn_registry_close(s->registry);
    free(s);
    return status == WN_OK ? WN_EXIT_FINE : said(&error);
}

/* ---------------------------------------------------------------- --break-even */

enum { SHORTEST = 256, BISECTIONS = 3, FEW_SAMPLES = 9 };
static const int64_t batches[] = {1, 4, 16};
enum { NUM_BATCHES = sizeof batches / sizeof batches[0] };

/* The answer for a method and a batch size. */
typedef struct break_even {
    const char *method;
    int64_t batch;
    int64_t slower, faster; /* the nearest lengths of either kind; 0: none was found */
    double ratio;           /* dense's time over the method's at `faster`, else at `slower` */
    int32_t late;
} break_even;

/* Dense's time over the method's at s->at.length. */
static wn_status ratio_at(stage *s, const method pair[2], int64_t length, double *ratio,
                          int32_t *late)
{
    s->at.length = length;
    wn_status status = measure_point(s, pair, 2, s->bench->quick ? 3 : FEW_SAMPLES);
    if (status == WN_OK) {
        *late = s->players[0].late || s->players[1].late;
        *ratio =
            *late ? 0
                  : s->players[0].part[PART_TOTAL].median / s->players[1].part[PART_TOTAL].median;
    }
    close_point(s);
    return status;
}

static void note_length(break_even *to, int64_t length, double ratio)
{
    if (ratio >= 1) {
        to->faster = length;
        to->ratio = ratio;
        return;
    }
    to->slower = length;
    if (to->faster == 0)
        to->ratio = ratio;
}

/* Powers of two until the method is the faster one, then between the last two. */
static wn_status search(stage *s, const method pair[2], int64_t longest, break_even *to)
{
    double ratio = 0;
    wn_status status = WN_OK;
    for (int64_t length = SHORTEST; length <= longest && to->faster == 0; length *= 2) {
        status = ratio_at(s, pair, length, &ratio, &to->late);
        if (status != WN_OK || to->late)
            return status;
        note_length(to, length, ratio);
    }
    for (int i = 0; i < BISECTIONS && to->faster > 0 && to->slower > 0; i++) {
        int64_t middle = (to->slower + to->faster) / 2 / TILE * TILE;
        if (middle <= to->slower || middle >= to->faster)
            break;
        status = ratio_at(s, pair, middle, &ratio, &to->late);
        if (status != WN_OK || to->late)
            return status;
        note_length(to, middle, ratio);
    }
    return status;
}

static void print_break_even(const stage *s, const break_even *list, uint32_t count,
                             const wn_steps_options *o)
{
    static const char *const head[] = {"method",    "requests",       "faster from",
                                       "slower at", "x faster there", "remark"};
    enum { COLUMNS = sizeof head / sizeof head[0] };
    json_t *array = json_array();
    char(*cells)[48] = calloc((size_t)count * COLUMNS + 1, sizeof *cells);
    for (uint32_t i = 0; i < count && cells != NULL; i++) {
        const break_even *b = &list[i];
        char(*cell)[48] = cells + (size_t)i * COLUMNS;
        const char *remark = b->late          ? "its prompt takes too long here"
                             : b->faster == 0 ? "never faster in the lengths searched"
                             : b->slower == 0 ? "faster at every length searched"
                                              : "";
        snprintf(cell[0], 48, "%s", b->method);
        snprintf(cell[1], 48, "%lld", (long long)b->batch);
        snprintf(cell[2], 48, b->faster > 0 ? "%lld" : "-", (long long)b->faster);
        snprintf(cell[3], 48, b->slower > 0 ? "%lld" : "-", (long long)b->slower);
        snprintf(cell[4], 48, "%.2f", b->ratio);
        snprintf(cell[5], 48, "%s", remark);
        json_array_append_new(
            array, json_pack("{s:s, s:I, s:o, s:o, s:o, s:s}", "method", b->method, "batch",
                             (json_int_t)b->batch, "faster_from",
                             b->faster > 0 ? json_integer(b->faster) : json_null(), "slower_at",
                             b->slower > 0 ? json_integer(b->slower) : json_null(), "ratio_dense",
                             wn_number_json(b->ratio), "remark", remark));
    }
    if (o->form == WN_REPORT_JSON) {
        json_t *whole = wn_bench_head_json(s->bench);
        json_object_set(whole, "break_even", array);
        json_dumpf(whole, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(whole);
    } else if (cells != NULL) {
        wn_bench_head_print(s->bench, o->form, stdout);
        wn_bench_table_print(head, COLUMNS, cells, count, o->form, stdout);
    }
    json_decref(array);
    free(cells);
}

int wn_bench_break_even(const wn_bench *bench, const wn_steps_options *options)
{
    char text[2048] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    uint32_t num_methods = 0, count = 0;
    break_even list[MAX_PLAYERS * NUM_BATCHES] = {0};
    method methods[MAX_PLAYERS] = {0};
    stage *s = calloc(1, sizeof *s);
    if (s == NULL)
        return WN_EXIT_FAILED;
    s->error = &error;
    wn_status status = open_stage(bench, options, s);
    if (status == WN_OK)
        status = open_methods(options, methods, &num_methods, &error);
    for (uint32_t m = 1; m < num_methods && status == WN_OK; m++)
        for (int b = 0; b < NUM_BATCHES && status == WN_OK; b++) {
            method pair[2] = {methods[0], methods[m]};
            break_even *to = &list[count++];
            *to = (break_even){.method = methods[m].name, .batch = batches[b]};
            s->at.shape.batch = batches[b];
            status = search(s, pair, options->longest, to);
        }
    if (status == WN_OK)
        print_break_even(s, list, count, options);
    close_methods(methods, num_methods);
    wn_registry_close(s->registry);
    free(s);
    return status == WN_OK ? WN_EXIT_FINE : said(&error);
}

/* ---------------------------------------------------------------- a row of standard */

static void fill_result(const stage *s, const char *name, wn_bench_result *result)
{
    const player *dense = &s->players[0], *of = &s->players[1];
    *result = (wn_bench_result){.roof = WN_ROOF_NONE,
                                .skipped = -1,
                                .threads = s->bench->threads,
                                .samples = s->bench->samples,
                                .time = of->part[PART_TOTAL],
                                .status = of->late ? WN_EUNSUPPORTED : WN_OK};
    snprintf(result->name, sizeof result->name, "%s", name);
    if (of->late)
        return;
    char text[16];
    result->ratio_base = dense->part[PART_attend].median / of->part[PART_TOTAL].median;
    snprintf(result->note, sizeof result->note, "base: dense's attend, %s",
             wn_seconds_text(dense->part[PART_attend].median, text));
}

wn_status wn_bench_step_row(const wn_bench *bench, const char *name, const char *yaml,
                            int64_t length, const char *plugin_path, wn_bench_result *result,
                            wn_error *error)
{
    wn_steps_options options = {.plugin_path = plugin_path, .prompt_seconds = 120};
    method pair[2] = {0};
    stage *s = calloc(1, sizeof *s);
    if (s == NULL)
        return wn_fail(error, WN_ENOMEM, "no memory");
    s->error = error;
    wn_status status = open_stage(bench, &options, s);
    if (status == WN_OK)
        status = parse_method("dense", own_methods[0].yaml, &pair[0], error);
    if (status == WN_OK)
        status = parse_method(name, yaml, &pair[1], error);
    s->at.length = length;
    if (status == WN_OK)
        status = measure_point(s, pair, 2, bench->samples);
    if (status == WN_OK)
        fill_result(s, name, result);
    close_point(s);
    close_methods(pair, 2);
    wn_registry_close(s->registry);
    free(s);
    return status;
}
