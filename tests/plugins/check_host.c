/* check_host.c: see check_host.h. */
#include "check_host.h"

#include "kernels/kernels.h"
#include "suite.h"

#include <math.h>
#include <string.h>

static size_t element_bytes(const check_host *host)
{
    return host->shape.dtype == WN_F32 ? 4 : 2;
}

static void *take(uint64_t bytes, int rubbish)
{
    void *memory = malloc(bytes > 0 ? (size_t)bytes : 1);
    CHECK_REQUIRE(memory != NULL);
    memset(memory, rubbish, (size_t)bytes);
    return memory;
}

/* Copies floats that are exact in the dtype: bfloat16 is the upper half of a float32. */
static void store(uint32_t dtype, void *to, const float *from, size_t count)
{
    if (dtype == WN_F32) {
        memcpy(to, from, count * sizeof *from);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        CHECK_REQUIRE((bits & 0xffffu) == 0);
        ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
    }
}

static wn_kv_view make_view(const check_host *host, void *data)
{
    const check_shape *s = &host->shape;
    const int64_t dim = s->head_dim, place = s->tokens_per_page;
    return (wn_kv_view){.data = data,
                        .page_stride = dim * place * s->num_kv_heads,
                        .head_stride = dim * place,
                        .token_stride = dim,
                        .dtype = s->dtype,
                        .layout = WN_LAYOUT_STRIDED,
                        .dim = s->head_dim,
                        .tensor_scale = 1};
}

/* Pages of all requests, dealt out in random order. */
static void shuffle_pages(check_host *host, uint64_t seed)
{
    for (uint32_t i = 0; i < host->num_pages; i++)
        host->page_table[i] = (int32_t)i;
    for (uint32_t i = host->num_pages - 1; i > 0; i--) {
        uint32_t j = wn_random_below(&seed, i + 1);
        int32_t page = host->page_table[i];
        host->page_table[i] = host->page_table[j];
        host->page_table[j] = page;
    }
}

static uint64_t stride_of(const wn_aux_pool *pool)
{
    return (pool->bytes + pool->alignment - 1) / pool->alignment * pool->alignment;
}

static void make_pools(check_host *host)
{
    const check_shape *s = &host->shape;
    if (host->plugin->aux_pool == NULL)
        return;
    for (uint32_t i = 0; i < WN_MAX_AUX_POOLS; i++)
        host->pools[i].struct_size = WN_SIZEOF(wn_aux_pool);
    CHECK_REQUIRE(host->plugin->aux_pool->declare(host->instance, 0, s->tokens_per_page,
                                                  host->pools, &host->num_pools,
                                                  &host->error) == WN_OK);
    for (uint32_t i = 0; i < host->num_pools; i++) {
        const uint64_t stride = stride_of(&host->pools[i]);
        const int per_page = host->pools[i].scope == WN_AUX_PAGE;
        const uint64_t pieces =
            per_page ? (uint64_t)host->num_pages * s->num_kv_heads : (uint64_t)s->batch;
        host->aux[i].data = take(pieces * stride, per_page ? 0xa5 : 0);
        host->aux[i].page_stride = (int64_t)(per_page ? stride * s->num_kv_heads : stride);
        host->aux[i].head_stride = (int64_t)(per_page ? stride : 0);
    }
}

static void make_bounds(check_host *host)
{
    const check_shape *s = &host->shape;
    for (uint32_t phase = 0; phase < WN_PHASE_COUNT; phase++) {
        const wn_step_limits limits = {
            WN_SIZEOF(wn_step_limits), phase,         s->batch,
            s->max_step_tokens,        s->max_length, s->tokens_per_page};
        host->bounds[phase].struct_size = WN_SIZEOF(wn_step_bounds);
        if (host->plugin->predictor != NULL)
            CHECK_REQUIRE(host->plugin->predictor->bounds(host->instance, 0, &limits,
                                                          &host->bounds[phase],
                                                          &host->error) == WN_OK);
    }
}

check_host *check_host_create(const check_shape *shape, const check_plugin *plugin,
                              const check_setting *settings, const check_tokens *tokens,
                              uint64_t seed)
{
    check_host *host = take(sizeof *host, 0);
    host->shape = *shape;
    host->plugin = plugin;
    host->tokens = tokens;
    host->ops = wn_kernels_variant("ref");
    CHECK_REQUIRE(host->ops != NULL);
    host->error = (wn_error){WN_SIZEOF(wn_error), sizeof host->error_text, host->error_text};
    host->model = (wn_model){
        .struct_size = WN_SIZEOF(wn_model),
        .num_layers = 1,
        .num_heads = shape->num_heads,
        .num_kv_heads = shape->num_kv_heads,
        .head_dim = shape->head_dim,
        .dtype = shape->dtype,
        .max_position = shape->max_length,
        .softmax_scale = shape->softmax_scale > 0 ? shape->softmax_scale
                                                  : (float)(1 / sqrt((double)shape->head_dim)),
    };
    check_plugin_values(plugin, settings, host->values);
    const char *reasons = check_plugin_reasons(plugin, &host->model, host->values);
    if (reasons[0] != '\0')
        fprintf(stderr, "%s\n", reasons);
    CHECK_REQUIRE(reasons[0] == '\0');
    CHECK_REQUIRE(
        plugin->config->create(&host->model, host->values, &host->instance, &host->error) == WN_OK);

    const uint32_t batch = shape->batch;
    host->logical = take(batch * sizeof(int32_t), 0);
    host->physical = take(batch * sizeof(int32_t), 0);
    host->token_of_slot =
        take((uint64_t)batch * shape->num_kv_heads * shape->max_length * sizeof(int32_t), 0);
    host->pages_per_request =
        (shape->max_length + shape->tokens_per_page - 1) / shape->tokens_per_page;
    host->num_pages = batch * host->pages_per_request;
    host->page_table = take(host->num_pages * sizeof(int32_t), 0);
    shuffle_pages(host, seed);
    const uint64_t pool_bytes = (uint64_t)host->num_pages * shape->tokens_per_page *
                                shape->num_kv_heads * shape->head_dim * element_bytes(host);
    host->k = take(pool_bytes, 0xa5);
    host->v = take(pool_bytes, 0xa5);
    host->kv = (wn_paged_kv){.k = make_view(host, host->k),
                             .v = make_view(host, host->v),
                             .page_table = host->page_table,
                             .page_table_stride = host->pages_per_request,
                             .length = host->physical,
                             .batch = batch,
                             .tokens_per_page = shape->tokens_per_page,
                             .num_kv_heads = shape->num_kv_heads};
    make_pools(host);
    make_bounds(host);
    host->q_begin = take(batch * sizeof(int32_t), 0);
    host->q_len = take(batch * sizeof(int32_t), 0);
    host->dirty_begin = take(batch * sizeof(int32_t), 0);
    host->sequence_slot = take(batch * sizeof(int32_t), 0);
    host->sequence = take(batch * sizeof(int64_t), 0);
    host->request_flags = take(batch * sizeof(uint32_t), 0);
    host->position = take(shape->max_step_tokens * sizeof(int32_t), 0);
    host->q = take((uint64_t)shape->max_step_tokens * shape->num_heads * shape->head_dim * 4, 0);
    for (uint32_t b = 0; b < batch; b++) {
        host->sequence_slot[b] = (int32_t)(batch - 1 - b);
        host->sequence[b] = 1000 + b;
    }
    return host;
}

void check_host_destroy(check_host *host)
{
    host->plugin->config->destroy(host->instance);
    for (uint32_t i = 0; i < host->num_pools; i++)
        free(host->aux[i].data);
    void *all[] = {host->logical,
                   host->physical,
                   host->token_of_slot,
                   host->page_table,
                   host->k,
                   host->v,
                   host->q_begin,
                   host->q_len,
                   host->dirty_begin,
                   host->position,
                   host->sequence_slot,
                   host->sequence,
                   host->request_flags,
                   host->q,
                   host->workspace,
                   host->indices,
                   host->offsets};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    free(host);
}

wn_step_args check_host_args(check_host *host)
{
    const check_shape *s = &host->shape;
    const int64_t dim = s->head_dim, heads = s->num_heads;
    int64_t rows = 0;
    for (uint32_t b = 0; b < s->batch; b++)
        rows += host->q_len[b];
    free(host->workspace);
    const uint64_t bytes = host->bounds[host->phase].workspace_bytes;
    host->workspace = aligned_alloc(64, bytes > 0 ? (size_t)(bytes + 63) / 64 * 64 : 64);
    CHECK_REQUIRE(host->workspace != NULL);
    memset(host->workspace, 0xa5, (size_t)bytes);
    return (wn_step_args){
        .struct_size = WN_SIZEOF(wn_step_args),
        .phase = host->phase,
        .batch = s->batch,
        .model = &host->model,
        .q = {.data = host->q,
              .shape = {rows, heads, dim},
              .stride = {heads * dim, dim, 1},
              .dtype = s->dtype,
              .ndim = 3},
        .q_begin = host->q_begin,
        .q_len = host->q_len,
        .position = host->position,
        .logical_length = host->logical,
        .dirty_begin = host->dirty_begin,
        .request_flags = host->request_flags,
        .sequence = host->sequence,
        .sequence_slot = host->sequence_slot,
        .kv = host->kv,
        .aux = host->aux,
        .num_aux = host->num_pools,
        .softmax_scale = host->model.softmax_scale,
        .device = WN_DEVICE_CPU,
        .workspace = host->workspace,
        .workspace_bytes = bytes,
        .ops = host->ops,
        .error = &host->error,
    };
}

int32_t check_host_token(const check_host *host, uint32_t b, uint32_t h, int32_t slot)
{
    const uint64_t row = (uint64_t)b * host->shape.num_kv_heads + h;
    return host->token_of_slot[row * host->shape.max_length + (uint32_t)slot];
}

/* Writes one token of request b to its next slot. */
static void write_token(check_host *host, uint32_t b, int32_t token)
{
    const check_shape *s = &host->shape;
    const int32_t slot = host->physical[b]++, place = slot % (int32_t)s->tokens_per_page;
    CHECK_REQUIRE(slot < (int32_t)s->max_length);
    const int64_t page =
        host->page_table[b * host->pages_per_request + (uint32_t)slot / s->tokens_per_page];
    for (uint32_t h = 0; h < s->num_kv_heads; h++) {
        const wn_kv_view *view = &host->kv.k;
        const size_t to = (size_t)(page * view->page_stride + h * view->head_stride +
                                   place * view->token_stride) *
                          element_bytes(host);
        const size_t from = ((size_t)token * s->num_kv_heads + h) * s->head_dim;
        store(s->dtype, host->k + to, host->tokens[b].k + from, s->head_dim);
        store(s->dtype, host->v + to, host->tokens[b].v + from, s->head_dim);
        host->token_of_slot[((uint64_t)b * s->num_kv_heads + h) * s->max_length + (uint32_t)slot] =
            token;
    }
}

static wn_status observe(check_host *host)
{
    if (host->plugin->aux_pool == NULL)
        return WN_OK;
    wn_step_args args = check_host_args(host);
    return host->plugin->aux_pool->observe(host->instance, &args);
}

wn_status check_host_append(check_host *host, uint32_t phase, const int32_t *count)
{
    const check_shape *s = &host->shape;
    const size_t row = (size_t)s->num_heads * s->head_dim;
    int32_t rows = 0;
    host->phase = phase;
    for (uint32_t b = 0; b < s->batch; b++) {
        host->q_begin[b] = rows;
        host->q_len[b] = count[b];
        host->dirty_begin[b] = host->physical[b];
        host->request_flags[b] = host->logical[b] == 0 ? WN_REQUEST_FIRST_CHUNK : 0;
        CHECK_REQUIRE(rows + count[b] <= (int32_t)s->max_step_tokens);
        for (int32_t i = 0; i < count[b]; i++, rows++) {
            const int32_t token = host->logical[b]++;
            host->position[rows] = token;
            store(s->dtype, host->q + (size_t)rows * row * element_bytes(host),
                  host->tokens[b].q + (size_t)token * row, row);
            write_token(host, b, token);
        }
    }
    return observe(host);
}

static void lend(check_host *host, uint64_t indices, uint64_t offsets)
{
    free(host->indices);
    free(host->offsets);
    host->indices = take(indices * sizeof(int32_t), 0xa5);
    host->offsets = take(offsets * sizeof(int32_t), 0xa5);
    host->selection = (wn_selection){.struct_size = WN_SIZEOF(wn_selection),
                                     .indices = host->indices,
                                     .capacity = (int64_t)indices,
                                     .offsets = host->offsets,
                                     .offsets_capacity = (int64_t)offsets};
}

wn_status check_host_select(check_host *host)
{
    const wn_step_bounds *bounds = &host->bounds[host->phase];
    wn_step_args args = check_host_args(host);
    lend(host, bounds->select_indices, bounds->select_offsets);
    return host->plugin->predictor->select(host->instance, &args, &host->selection);
}

int64_t check_host_list(const check_host *host, uint32_t row, uint32_t h, const int32_t **list)
{
    const wn_selection *s = &host->selection;
    int64_t count;
    *list = s->indices + h * s->head_stride;
    if (s->offsets != NULL) {
        *list += s->offsets[row];
        return s->offsets[row + 1] - s->offsets[row];
    }
    *list += row * s->width;
    for (count = 0; count < s->width && (*list)[count] >= 0;)
        count++;
    return count;
}

/* The arguments of the requests whose prompts end and must shrink, closed up at the front of
 * arrays of their own, as the engine gives them. */
typedef struct shrinking {
    wn_step_args args;
    uint32_t count, *request; /* which requests of the host these are */
    int32_t *q_begin, *q_len, *logical, *dirty, *slot, *length, *page_table;
    int64_t *sequence;
} shrinking;

static shrinking make_shrinking(check_host *host, const int32_t *ends)
{
    const uint32_t batch = host->shape.batch, pages = host->pages_per_request;
    shrinking s = {.args = check_host_args(host), .request = take(batch * 4, 0)};
    int32_t **arrays[] = {&s.q_begin, &s.q_len, &s.logical, &s.dirty, &s.slot, &s.length};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        *arrays[i] = take(batch * sizeof(int32_t), 0);
    s.page_table = take((uint64_t)batch * pages * sizeof(int32_t), 0);
    s.sequence = take(batch * sizeof(int64_t), 0);
    for (uint32_t b = 0; b < batch; b++) {
        const int32_t length = host->physical[b];
        if ((ends != NULL && ends[b] == 0) ||
            host->plugin->predictor->retained_count(host->instance, length) == length)
            continue;
        const uint32_t i = s.count++;
        s.request[i] = b;
        s.q_begin[i] = host->q_begin[b]; /* q_len stays 0: the queries are gone */
        s.logical[i] = host->logical[b];
        s.slot[i] = host->sequence_slot[b];
        s.length[i] = length;
        s.sequence[i] = host->sequence[b];
        memcpy(s.page_table + i * pages, host->page_table + b * pages, pages * sizeof(int32_t));
    }
    s.args.batch = s.args.kv.batch = s.count;
    s.args.q_begin = s.q_begin;
    s.args.q_len = s.q_len;
    s.args.logical_length = s.logical;
    s.args.dirty_begin = s.dirty;
    s.args.sequence = s.sequence;
    s.args.sequence_slot = s.slot;
    s.args.kv.length = s.length;
    s.args.kv.page_table = s.page_table;
    return s;
}

static void free_shrinking(shrinking *s)
{
    void *all[] = {s->request, s->q_begin, s->q_len,      s->logical, s->dirty,
                   s->slot,    s->length,  s->page_table, s->sequence};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* Follows a compaction in token_of_slot and in the physical lengths. */
static void follow(check_host *host, const shrinking *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const uint32_t b = s->request[i];
        int64_t kept = 0;
        for (uint32_t h = 0; h < host->shape.num_kv_heads; h++) {
            int32_t *tokens = host->token_of_slot +
                              ((uint64_t)b * host->shape.num_kv_heads + h) * host->shape.max_length;
            const int32_t *list;
            kept = check_host_list(host, i, h, &list);
            for (int64_t j = 0; j < kept; j++)
                tokens[j] = tokens[list[j]];
        }
        host->physical[b] = s->length[i] = (int32_t)kept;
    }
}

wn_status check_host_retain(check_host *host, const int32_t *ends, uint32_t *num_asked)
{
    shrinking s = make_shrinking(host, ends);
    const wn_predictor_interface *predictor = host->plugin->predictor;
    wn_status status = WN_OK;
    lend(host, host->bounds[host->phase].retain_indices, host->shape.batch + 1);
    host->selection.rows = s.count;
    if (num_asked != NULL)
        *num_asked = s.count;
    if (s.count > 0)
        status = predictor->retain(host->instance, &s.args, &host->selection);
    if (s.count > 0 && status == WN_OK) {
        const wn_compact_args compact = {.struct_size = WN_SIZEOF(wn_compact_args),
                                         .error = &host->error,
                                         .kv = s.args.kv,
                                         .indices = host->selection.indices,
                                         .offsets = host->selection.offsets,
                                         .head_stride = host->selection.head_stride};
        status = host->ops->compact(&compact);
    }
    if (s.count > 0 && status == WN_OK) {
        follow(host, &s);
        status = host->plugin->aux_pool->observe(host->instance, &s.args);
    }
    free_shrinking(&s);
    return status;
}

void check_host_truncate(check_host *host, uint32_t b, int32_t tokens)
{
    host->logical[b] -= tokens;
    host->physical[b] -= tokens;
}

wn_status check_host_attend(check_host *host, const wn_selection *selection,
                            const wn_tile_policy *tile, float *out, wn_attend_counters *counters)
{
    const int64_t dim = host->shape.head_dim, heads = host->shape.num_heads;
    wn_step_args step = check_host_args(host);
    int32_t *row = take(host->shape.batch * sizeof(int32_t), 0);
    uint32_t rows = 0;
    for (uint32_t b = 0; b < host->shape.batch; b++) {
        row[b] = (int32_t)rows;
        if (selection != NULL)
            rows +=
                ((uint32_t)host->q_len[b] + selection->query_block - 1) / selection->query_block;
    }
    const wn_attend_args args = {
        .struct_size = WN_SIZEOF(wn_attend_args),
        .error = &host->error,
        .q = step.q,
        .q_begin = host->q_begin,
        .q_len = host->q_len,
        .kv = host->kv,
        .causal = 1,
        .softmax_scale = step.softmax_scale,
        .selection = selection,
        .selection_row = row,
        .tile = tile,
        .out = {.data = out,
                .shape = {step.q.shape[0], heads, dim},
                .stride = {heads * dim, dim, 1},
                .dtype = WN_F32,
                .ndim = 3},
        .counters = counters,
    };
    wn_status status =
        host->phase == WN_PHASE_CONTEXT ? host->ops->context(&args) : host->ops->generation(&args);
    free(row);
    return status;
}

static float *random_floats(size_t count, double size, uint64_t *seed)
{
    float *values = take(count * sizeof *values, 0);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        values[i] = (float)(size * wn_random_signed(seed));
        memcpy(&bits, &values[i], sizeof bits);
        bits &= 0xffff0000u;
        memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
}

check_tokens check_random_tokens(const check_shape *shape, int32_t num_tokens, double size,
                                 uint64_t *seed)
{
    const size_t n = (size_t)num_tokens * shape->head_dim;
    check_tokens tokens;
    tokens.q = random_floats(n * shape->num_heads, size, seed);
    tokens.k = random_floats(n * shape->num_kv_heads, size, seed);
    tokens.v = random_floats(n * shape->num_kv_heads, size, seed);
    return tokens;
}

void check_free_tokens(check_tokens *tokens, uint32_t count)
{
    for (uint32_t b = 0; b < count; b++) {
        free((void *)tokens[b].q);
        free((void *)tokens[b].k);
        free((void *)tokens[b].v);
    }
}
