/* bench_scene.c: memory, random numbers and paged caches for the rows of the benchmark. */
#include "tools/bench_scene.h"

#include <stdlib.h>
#include <string.h>

void *wn_scene_take(wn_bench_scene *scene, int64_t bytes)
{
    return wn_bench_take(&scene->memory, bytes > 0 ? bytes : 1);
}

/* ---------------------------------------------------------------- random numbers */

static uint32_t random_word(wn_bench_scene *scene)
{
    uint64_t x = scene->random != 0 ? scene->random : UINT64_C(88172645463325252);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    scene->random = x;
    return (uint32_t)(x >> 16);
}

uint32_t wn_scene_below(wn_bench_scene *scene, uint32_t end)
{
    return (uint32_t)((uint64_t)random_word(scene) * end >> 32);
}

/* One element's bits. Floats: any sign and fraction, an exponent of the five below 1. */
static uint32_t random_bits(wn_bench_scene *scene, uint32_t dtype)
{
    uint32_t word = random_word(scene), down = (word >> 24) % 5;
    switch (dtype) {
    case WN_F32:
        return (word & 0x8000ffff) << 0 | (126 - down) << 23;
    case WN_BF16:
        return (word & 0x807f) | (126 - down) << 7;
    case WN_F16:
        return (word & 0x83ff) | (14 - down) << 10;
    case WN_F8_E5M2:
        return (word & 0x83) | (14 - down) << 2;
    case WN_F8_E4M3:
        return (word & 0x7f) == 0x7f ? word & 0x80 : word & 0xff;
    default:
        return word & 0xff;
    }
}

enum { PATTERN = 1 << 16, RUN = 4096 };

/* A pattern once, then pieces of it from random places: memory fills at the speed of copying. */
void wn_scene_fill(wn_bench_scene *scene, void *data, uint32_t dtype, int64_t count)
{
    int64_t width = wn_dtype_bytes(dtype), made = count < PATTERN ? count : PATTERN;
    uint8_t *bytes = data;
    if (data == NULL)
        return;
    for (int64_t i = 0; i < made; i++) {
        uint32_t bits = random_bits(scene, dtype);
        memcpy(bytes + i * width, &bits, (size_t)width); /* little-endian, as all of Winnow */
    }
    for (int64_t i = made; i < count; i += RUN) {
        int64_t run = count - i < RUN ? count - i : RUN;
        int64_t from = wn_scene_below(scene, PATTERN - RUN);
        memcpy(bytes + i * width, bytes + from * width, (size_t)(run * width));
    }
}

static int64_t product(uint32_t ndim, const int64_t *shape)
{
    int64_t count = 1;
    for (uint32_t i = 0; i < ndim; i++)
        count *= shape[i];
    return count;
}

wn_tensor wn_scene_output(wn_bench_scene *scene, uint32_t dtype, uint32_t ndim,
                          const int64_t *shape)
{
    void *data = wn_scene_take(scene, product(ndim, shape) * wn_dtype_bytes(dtype));
    if (data != NULL) /* first touch is not what is to be timed */
        memset(data, 0, (size_t)(product(ndim, shape) * wn_dtype_bytes(dtype)));
    return wn_tensor_make(data, dtype, ndim, shape);
}

wn_tensor wn_scene_tensor(wn_bench_scene *scene, uint32_t dtype, uint32_t ndim,
                          const int64_t *shape)
{
    wn_tensor tensor = wn_scene_output(scene, dtype, ndim, shape);
    wn_scene_fill(scene, tensor.data, dtype, product(ndim, shape));
    return tensor;
}

int32_t *wn_scene_constants(wn_bench_scene *scene, int64_t count, int32_t value)
{
    int32_t *numbers = wn_scene_take(scene, count * (int64_t)sizeof *numbers);
    for (int64_t i = 0; i < count && numbers != NULL; i++)
        numbers[i] = value;
    return numbers;
}

void wn_scene_ascending(wn_bench_scene *scene, int32_t *out, int64_t count, int64_t end)
{
    int64_t taken = 0; /* each number with the chance that makes the count come out */
    for (int64_t i = 0; i < end && taken < count; i++)
        if (wn_scene_below(scene, (uint32_t)(end - i)) < count - taken)
            out[taken++] = (int32_t)i;
}

/* ---------------------------------------------------------------- caches */

int32_t *wn_scene_page_table(wn_bench_scene *scene, int64_t requests, int64_t pages)
{
    int32_t *table = wn_scene_take(scene, requests * pages * (int64_t)sizeof *table);
    for (int64_t i = 0; i < requests * pages && table != NULL; i++) { /* shuffled inside out */
        int64_t j = wn_scene_below(scene, (uint32_t)(i + 1));
        table[i] = table[j];
        table[j] = (int32_t)i;
    }
    return table;
}

static int is_code(uint32_t dtype)
{
    return dtype == WN_F8_E4M3 || dtype == WN_I8;
}

static wn_kv_view pool(wn_bench_scene *scene, int64_t pages, int64_t heads, int64_t dim)
{
    int64_t size = scene->shape.page;
    uint32_t dtype = scene->shape.dtype;
    int64_t count = pages * heads * size * dim;
    wn_kv_view view = {.dtype = dtype, .layout = WN_LAYOUT_STRIDED, .dim = (uint32_t)dim};
    view.tensor_scale = 1;
    view.token_stride = dim;
    view.head_stride = size * dim;
    view.page_stride = heads * size * dim;
    view.data = wn_scene_take(scene, count * wn_dtype_bytes(dtype));
    wn_scene_fill(scene, view.data, dtype, count);
    if (!is_code(dtype))
        return view;
    view.scale_head_stride = size;
    view.scale_page_stride = heads * size;
    view.scale = wn_scene_take(scene, pages * heads * size * (int64_t)sizeof *view.scale);
    float greatest = dtype == WN_I8 ? 127 : 448;
    for (int64_t i = 0; i < pages * heads * size && view.scale != NULL; i++)
        view.scale[i] = (0.5f + (float)wn_scene_below(scene, 64) / 128) / greatest;
    return view;
}

wn_paged_kv wn_scene_cache(wn_bench_scene *scene, int64_t kv_heads, int64_t k_dim, int64_t v_dim)
{
    const wn_bench_shape *s = &scene->shape;
    int64_t requests = s->batch + s->others;
    int64_t longest = s->length > s->others_length || s->others == 0 ? s->length : s->others_length;
    int64_t stride = (longest + s->page - 1) / s->page, used = 0;
    int32_t *length = wn_scene_take(scene, requests * (int64_t)sizeof *length);
    int32_t *table = wn_scene_take(scene, requests * stride * (int64_t)sizeof *table);
    for (int64_t b = 0; b < requests && length != NULL; b++) {
        length[b] = (int32_t)(b < s->batch ? s->length : s->others_length);
        used += (length[b] + s->page - 1) / s->page;
    }
    int32_t *deck = wn_scene_page_table(scene, 1, used);
    int64_t dealt = 0;
    for (int64_t b = 0; b < requests && !scene->memory.failed; b++)
        for (int64_t p = 0; p * s->page < length[b]; p++)
            table[b * stride + p] = deck[dealt++];
    return (wn_paged_kv){.k = pool(scene, used, kv_heads, k_dim),
                         .v = v_dim > 0 ? pool(scene, used, kv_heads, v_dim) : (wn_kv_view){0},
                         .page_table = table,
                         .page_table_stride = stride,
                         .length = length,
                         .batch = (uint32_t)requests,
                         .tokens_per_page = (uint32_t)s->page,
                         .num_kv_heads = (uint32_t)kv_heads};
}

static double view_bytes(const wn_kv_view *view)
{
    if (view->layout == WN_LAYOUT_MLA_FP8)
        return WN_MLA_RECORD_BYTES;
    return view->dim * wn_dtype_bytes(view->dtype) + (view->scale != NULL ? sizeof(float) : 0);
}

double wn_scene_token_bytes(const wn_paged_kv *kv)
{
    double bytes = view_bytes(&kv->k) + (kv->v.data != NULL ? view_bytes(&kv->v) : 0);
    return bytes * kv->num_kv_heads;
}
