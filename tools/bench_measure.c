/* bench_measure.c: the sampling. The speed of a machine changes within seconds, so nothing is
 * measured in one go: each sample of the kernel has one of the roofs, of the base and of the peer
 * beside it, and what is compared are medians of the same stretch of time. */
#include "tools/bench_measure.h"

#include "tools/bench_threads.h"
#include "tools/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_SAMPLES = 1000, FEWEST_SAMPLES = 3 };
static const double SHORT_SAMPLE = 100e-6; /* calls are repeated until a sample takes this long */
static const double WARM_UP = 2e-3; /* processors that have slept take so long to full speed */
static const double STEADY_SAMPLE = 50e-3; /* from here on that is nothing */
static const double LONG_SAMPLE = 0.5;     /* from here on there are fewer samples */
static const double LONG_ROW = 10;         /* so that a row of long ones takes about this long */
/* The reference's speed, roughly: operations and bytes a second and thread. */
static const double REFERENCE_FLOPS = 1.5e9, REFERENCE_BYTES = 5e7, LONGEST_REFERENCE = 5;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

wn_bench_spread wn_bench_spread_of(double *samples, uint32_t count)
{
    if (count == 0)
        return (wn_bench_spread){0, 0, 0};
    qsort(samples, count, sizeof *samples, ascending);
    return (wn_bench_spread){samples[count / 2], samples[count / 10],
                             samples[count - 1 - count / 10]};
}

const char *wn_bench_variant_of(const wn_bench_op *op, const wn_ops *ops)
{
    const char *name;
    for (uint32_t i = 0; (name = wn_cpu_variant_name(i)) != NULL; i++) {
        const wn_ops *table = wn_cpu_variant_ops(name);
        if (table != NULL && op->same(table, ops))
            return name; /* the lowest that has this function: later ones have taken it over */
    }
    return "ref";
}

/* ---------------------------------------------------------------- one row at work */

enum { BASE_NONE, BASE_SHAPE, BASE_DENSE };

typedef struct work {
    const wn_bench *bench;
    const wn_bench_op *op;
    const wn_ops *ops;
    wn_executor executor;
    wn_bench_scene scene, base_scene;
    int base;
    int64_t calls; /* per sample */
    int warm;      /* the data fit the last cache: calls before each sample bring them back */
    int warms_up;  /* there are calls before each sample, for this or to wake the processors */
    int peer;
    int memory_roof, compute_roof;
    uint32_t samples;
    double *time, *base_time, *peer_time, *memory, *compute; /* [samples] each */
} work;

static wn_status call(const work *w, const wn_ops *ops, wn_bench_scene *scene)
{
    scene->turns++;
    if (scene->turn != NULL)
        scene->turn(scene);
    return w->op->call(ops, scene);
}

/* Seconds of one call, the mean of `calls`. */
static double timed(const work *w, const wn_ops *ops, wn_bench_scene *scene, int64_t calls)
{
    double begun = wn_seconds();
    for (int64_t i = 0; i < calls; i++)
        call(w, ops, scene);
    return (wn_seconds() - begun) / (double)calls;
}

/* Threads that have just worked still look for more for a while, bound ones for tens of
 * milliseconds: whoever is next should not find them on the processors. */
static void settle(int64_t milliseconds)
{
    nanosleep(&(struct timespec){0, (long)milliseconds * 1000000}, NULL);
}

/* Calls that are not timed: through all inputs that take turns, and for WARM_UP at least. */
static void warm_up(const work *w, wn_bench_scene *scene)
{
    double begun = wn_seconds(), least = w->bench->quick ? 0 : WARM_UP;
    do
        timed(w, w->ops, scene, scene->fresh > 1 ? scene->fresh : 1);
    while (wn_seconds() - begun < least);
}

static double sample(const work *w, wn_bench_scene *scene)
{
    if (w->warms_up)
        warm_up(w, scene);
    return timed(w, w->ops, scene, w->calls);
}

/* The base's time on the same data, or on its own. */
static double sample_base(work *w)
{
    if (w->base == BASE_SHAPE)
        return sample(w, &w->base_scene);
    const wn_tile_policy *tile = w->scene.args.context.tile;
    w->scene.args.context.tile = NULL; /* context and generation have the same struct */
    double seconds = sample(w, &w->scene);
    w->scene.args.context.tile = tile;
    return seconds;
}

static void choose_roofs(work *w, const char *variant)
{
    const wn_roofs *roofs = w->bench->roofs;
    double bytes = w->scene.bytes;
    w->memory_roof = w->compute_roof = WN_ROOF_NONE;
    w->warm = bytes <= (double)wn_roofs_cache_bytes(roofs) * 1.1;
    w->warms_up |= w->warm;
    if (bytes > 0)
        w->memory_roof = w->warm ? WN_ROOF_L3 : WN_ROOF_DRAM;
    if (w->scene.flops == 0)
        return;
    w->compute_roof = WN_ROOF_FMA;
    int narrow = strstr(variant, "bf16") != NULL;
    if (narrow && w->scene.shape.dtype != WN_F32)
        w->compute_roof = WN_ROOF_BF16;
    if ((narrow || strstr(variant, "vnni") != NULL) && w->scene.shape.dtype == WN_I8 &&
        strcmp(w->op->name, "indexer_topk") == 0)
        w->compute_roof = WN_ROOF_INT8;
    if (!wn_roof_exists(roofs, w->compute_roof))
        w->compute_roof = WN_ROOF_FMA;
}

/* One call that may refuse, and then how many calls and samples it takes. */
static wn_status plan_samples(work *w)
{
    wn_status status = call(w, w->ops, &w->scene);
    if (status == WN_OK && w->base == BASE_SHAPE)
        status = call(w, w->ops, &w->base_scene);
    if (status != WN_OK)
        return status;
    double seconds = timed(w, w->ops, &w->scene, 1), least = w->bench->quick ? 0 : SHORT_SAMPLE;
    if (seconds < least) { /* once more: the first ones are slow */
        seconds = timed(w, w->ops, &w->scene, 8);
        w->calls = (int64_t)ceil(least / seconds);
    }
    w->calls = w->calls < 1 ? 1 : w->calls > 4096 ? 4096 : w->calls;
    w->warms_up = seconds < STEADY_SAMPLE && !w->bench->quick;
    w->samples = w->bench->samples;
    if (seconds > LONG_SAMPLE) {
        double few = LONG_ROW / seconds;
        if (few < w->samples)
            w->samples = few < FEWEST_SAMPLES ? FEWEST_SAMPLES : (uint32_t)few;
    }
    if (w->samples > MOST_SAMPLES)
        w->samples = MOST_SAMPLES;
    return WN_OK;
}

static wn_status take_samples(work *w, wn_error *error)
{
    wn_roofs *roofs = w->bench->roofs;
    double *room = calloc(5 * (size_t)w->samples, sizeof *room);
    if (room == NULL)
        return wn_fail(error, WN_ENOMEM, "no memory for samples");
    double **arrays[] = {&w->time, &w->base_time, &w->peer_time, &w->memory, &w->compute};
    for (int i = 0; i < 5; i++)
        *arrays[i] = room + (size_t)i * w->samples;
    for (uint32_t i = 0; i < w->samples; i++) {
        w->time[i] = sample(w, &w->scene);
        if (w->base != BASE_NONE)
            w->base_time[i] = sample_base(w);
        if (w->memory_roof >= 0)
            w->memory[i] = wn_roof_sample(roofs, w->memory_roof, &w->executor);
        if (w->compute_roof >= 0)
            w->compute[i] = wn_roof_sample(roofs, w->compute_roof, &w->executor);
        if (!w->peer)
            continue;
        settle(3);
        if (w->warms_up)
            wn_peer_sample(w->bench->peer);
        w->peer_time[i] = wn_peer_sample(w->bench->peer);
        settle(40);
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- the result */

static void judge(const work *w, wn_bench_result *result)
{
    double memory = wn_bench_spread_of(w->memory, w->samples).median;
    double compute = wn_bench_spread_of(w->compute, w->samples).median;
    double seconds = result->time.median;
    /* A tile that is left out has had its scores computed: the half of its work. */
    double flops = w->scene.flops * (result->skipped > 0 ? 1 - result->skipped / 2 : 1);
    result->gbps = w->scene.bytes / seconds * 1e-9;
    result->gflops = flops / seconds * 1e-9;
    result->roof = WN_ROOF_NONE;
    if (w->memory_roof >= 0 && memory > 0) {
        result->roofs[w->memory_roof] = memory;
        result->roof = w->memory_roof;
        result->share = result->gbps / memory;
    }
    if (w->compute_roof >= 0 && compute > 0) {
        result->roofs[w->compute_roof] = compute;
        if (result->roof == WN_ROOF_NONE || result->gflops / compute > result->share) {
            result->roof = w->compute_roof;
            result->share = result->gflops / compute;
        }
    }
}

/* The share of tiles that the policy leaves out, from one more call. */
static double count_skipped(work *w)
{
    wn_attend_args *a = &w->scene.args.context;
    if (w->scene.counters == NULL)
        return -1;
    a->counters = w->scene.counters;
    call(w, w->ops, &w->scene);
    a->counters = NULL;
    int64_t seen = 0, skipped = 0;
    for (uint64_t h = 0; h < w->scene.num_counters; h++) {
        seen += w->scene.counters[h].tiles_seen;
        skipped += w->scene.counters[h].tiles_skipped;
    }
    return seen > 0 ? (double)skipped / (double)seen : 0;
}

/* A few samples of the reference, if it is expected to be done soon: it is not made to be fast. */
static double reference_time(work *w)
{
    double threads = w->executor.num_threads, expected = w->scene.flops / REFERENCE_FLOPS / threads;
    if (w->scene.flops == 0)
        expected = w->scene.bytes / REFERENCE_BYTES / threads;
    if (w->bench->ref == NULL || w->op->same(w->bench->ref, w->ops) || expected > LONGEST_REFERENCE)
        return 0;
    double times[3] = {0};
    uint32_t n = 0;
    do {
        times[n++] = timed(w, w->bench->ref, &w->scene, 1);
    } while (n < 3 && times[0] < 1);
    return wn_bench_spread_of(times, n).median;
}

static void conclude(work *w, wn_bench_result *result)
{
    result->samples = w->samples;
    result->time = wn_bench_spread_of(w->time, w->samples);
    result->skipped = count_skipped(w);
    judge(w, result);
    double seconds = result->time.median;
    if (w->base != BASE_NONE)
        result->ratio_base = wn_bench_spread_of(w->base_time, w->samples).median / seconds;
    if (w->peer)
        result->ratio_torch = wn_bench_spread_of(w->peer_time, w->samples).median / seconds;
    result->ratio_ref = reference_time(w) / seconds;
    if (w->scene.unit != NULL)
        snprintf(result->note, sizeof result->note, "%.1f ns per %s and thread",
                 seconds * 1e9 * result->threads / w->scene.units, w->scene.unit);
}

/* For --quick: what it does, not how fast it is. */
static void shrink(wn_bench_shape *s)
{
    struct {
        int64_t *size, most;
    } caps[] = {{&s->length, 512}, {&s->others_length, 64}, {&s->others, 3},
                {&s->queries, 64}, {&s->n, 2048},           {&s->rows, 64},
                {&s->heads, 16},   {&s->kv_heads, 4},       {&s->selected, 64},
                {&s->k, 32},       {&s->tokens, 16}};
    int divides = s->kv_heads > 0 && s->heads % s->kv_heads == 0;
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++)
        if (*caps[i].size > caps[i].most)
            *caps[i].size = caps[i].most;
    if (divides && s->heads % s->kv_heads != 0)
        s->heads = 4 * s->kv_heads;
}

static wn_status open_scene(work *w, const char *words, wn_bench_scene *scene, wn_error *error)
{
    wn_bench_shape shape;
    wn_status status = wn_bench_shape_read(w->op->name, w->op->defaults, words, &shape, error);
    if (status != WN_OK)
        return status;
    if (w->bench->quick)
        shrink(&shape);
    return wn_bench_scene_open(w->op, &shape, &w->executor, scene, error);
}

static wn_status open_scenes(work *w, const wn_bench_row *row, wn_error *error)
{
    wn_status status = open_scene(w, row->shape, &w->scene, error);
    if (status != WN_OK || row->base == NULL)
        return status;
    w->base = strcmp(row->base, "dense") == 0 ? BASE_DENSE : BASE_SHAPE;
    return w->base == BASE_SHAPE ? open_scene(w, row->base, &w->base_scene, error) : WN_OK;
}

wn_status wn_bench_measure(const wn_bench *bench, const wn_bench_row *row, const char *variant,
                           wn_bench_result *result, wn_error *error)
{
    work w = {.bench = bench, .op = wn_bench_op_find(row->op), .calls = 1};
    w.ops = variant != NULL ? wn_cpu_variant_ops(variant) : wn_cpu_ops();
    *result = (wn_bench_result){.roof = WN_ROOF_NONE, .skipped = -1};
    snprintf(result->name, sizeof result->name, "%s", row->name);
    result->threads = row->threads > 0 ? row->threads : bench->threads;
    result->variant = wn_bench_variant_of(w.op, w.ops);
    w.executor = wn_bench_executor(result->threads);
    wn_status status = open_scenes(&w, row, error);
    if (status == WN_OK)
        status = plan_samples(&w);
    if (status == WN_OK) {
        choose_roofs(&w, result->variant);
        w.peer = bench->peer != NULL &&
                 wn_peer_prepare(bench->peer, row->op, &w.scene.shape, result->threads);
        status = take_samples(&w, error);
    }
    if (status == WN_OK)
        conclude(&w, result);
    result->status = status;
    free(w.time);
    wn_bench_scene_close(&w.scene);
    wn_bench_scene_close(&w.base_scene);
    return status == WN_EUNSUPPORTED ? WN_OK : status;
}
