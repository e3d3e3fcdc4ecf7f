/* dsa_select.c: which keys each query attends to.
 *
 * A producer scores, with w the weights, S_j the key's scale and s_h the query's:
 *   score(t, j) = S_j * sum over heads h of w[t,h] * s_h * max(q[t,h] . k_j, 0)
 * and takes the width best of the keys that t sees; equal scores: the lower slot. A query that sees
 * no more than that takes them all. Query tokens are scored in runs of at most `chunk`, so that the
 * workspace is bounded; what a query chooses depends on nothing but itself and the keys before it,
 * so that chunks, batches, speculation and one-by-one all choose the same.
 *
 * A consumer takes what its producer chose earlier in this step. The choice waits in step memory,
 * one record for each row of q, so that the two phases of a mixed step keep out of each other's
 * way: record: the producer's layer, the keys that the row saw, width slots (int32) */
#include "dsa.h"

enum { RECORD_LAYER, RECORD_SEEN, RECORD_SLOTS };

/* For one run of query tokens. */
typedef struct select_space {
    uint16_t *q;      /* [chunk, heads, dim] bfloat16 */
    uint8_t *codes;   /* likewise, e4m3; NULL for keys that are not e4m3 */
    float *q_scale;   /* [chunk, heads]; likewise */
    float *weights;   /* [chunk, heads] */
    float *heap;      /* [chunk, width], the op's */
    int32_t *q_begin; /* [batch] first row of each request within the run */
    int32_t *q_len;   /* [batch] rows of each request that are scored in the run */
    int32_t *length;  /* [batch] keys that the last of them sees */
    void *parts;      /* the op's, for long rows that threads share */
    uint64_t part_bytes;
} select_space;

/* Rows that threads may share, all of them cut into as many parts as there can be. More rows keep
 * threads busy as they are. */
enum { SHARED_ROWS = 4, MOST_PARTS = 64 };

static uint64_t place(const dsa *self, uint32_t batch, uint64_t rows, void *workspace,
                      select_space *out)
{
    const uint64_t chunk = rows < self->chunk ? rows : self->chunk;
    const uint64_t vectors = chunk * self->heads, channels = vectors * self->dim;
    const uint64_t shared = rows < SHARED_ROWS ? rows : SHARED_ROWS;
    const int quantised = self->key_dtype == WN_F8_E4M3; /* int8 keys: the op rounds queries */
    dsa_space space = {workspace, 0};
    out->q = dsa_take(&space, channels * sizeof *out->q);
    out->codes = quantised ? dsa_take(&space, channels) : NULL;
    out->q_scale = quantised ? dsa_take(&space, vectors * sizeof *out->q_scale) : NULL;
    out->weights = dsa_take(&space, vectors * sizeof *out->weights);
    out->heap = dsa_take(&space, chunk * self->width * sizeof *out->heap);
    out->q_begin = dsa_take(&space, batch * sizeof *out->q_begin);
    out->q_len = dsa_take(&space, batch * sizeof *out->q_len);
    out->length = dsa_take(&space, batch * sizeof *out->length);
    out->part_bytes = shared * MOST_PARTS * (8 * (uint64_t)self->width + 64);
    out->parts = dsa_take(&space, out->part_bytes);
    return space.used;
}

uint64_t dsa_select_workspace(const dsa *self, const wn_step_limits *limits)
{
    select_space unused;
    return place(self, limits->batch, limits->tokens, NULL, &unused);
}

/* ---------------------------------------------------------------- which rows are scored */

/* Keys that query token i of request b sees. */
static int32_t seen_by(const wn_step_args *args, uint32_t b, int32_t i)
{
    return args->kv.length[b] - args->q_len[b] + i + 1;
}

/* The first query token of request b that is scored; those before it take all they see. */
static int32_t first_scored(const dsa *self, const wn_step_args *args, uint32_t b)
{
    const int64_t unscored = (int64_t)self->width - seen_by(args, b, -1);
    if (!self->skip_short || unscored <= 0)
        return 0;
    return unscored < args->q_len[b] ? (int32_t)unscored : args->q_len[b];
}

static void take_all(int32_t seen, uint32_t width, int32_t *slots)
{
    for (int32_t i = 0; i < (int32_t)width; i++)
        slots[i] = i < seen ? i : -1;
}

/* ---------------------------------------------------------------- one run of rows */

/* What rows [begin, end) of the selection ask of each request. Returns how many are scored. */
static int64_t plan_run(const dsa *self, const wn_step_args *args, int64_t begin, int64_t end,
                        const select_space *space)
{
    int64_t scored = 0, row = 0; /* row: of the request's first query token */
    for (uint32_t b = 0; b < args->batch; row += args->q_len[b], b++) {
        int64_t from = row + first_scored(self, args, b), to = row + args->q_len[b];
        from = from > begin ? from : begin;
        to = to < end ? to : end;
        space->q_begin[b] = space->q_len[b] = space->length[b] = 0;
        if (from >= to)
            continue;
        space->q_begin[b] = (int32_t)(from - begin);
        space->q_len[b] = (int32_t)(to - from);
        space->length[b] = seen_by(args, b, (int32_t)(to - row - 1));
        scored += to - from;
    }
    return scored;
}

/* Prepared queries to e4m3, a scale for each vector. */
static wn_status quantise_rows(const dsa *self, const wn_step_args *args, int64_t first,
                               int64_t count, const select_space *space)
{
    const int64_t heads = self->heads, dim = self->dim;
    const wn_quantise_args quantise = {
        .struct_size = WN_SIZEOF(wn_quantise_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .in = dsa_matrix(space->q + first * heads * dim, WN_BF16, count * heads, dim),
        .out = dsa_matrix(space->codes + first * heads * dim, WN_F8_E4M3, count * heads, dim),
        .scale = space->q_scale + first * heads,
        .scale_rule = self->scale_rule,
        .least_amax = DSA_LEAST_AMAX,
    };
    return args->ops->quantise(&quantise);
}

/* Rows [source, source + count) of the inputs to rows `target`.. of the run. */
static wn_status load_rows(const dsa *self, const wn_step_args *args, const wn_tensor inputs[3],
                           int64_t source, int64_t target, int64_t count, const select_space *space)
{
    const int64_t heads = self->heads;
    wn_tensor weights = inputs[DSA_INPUT_WEIGHTS];
    const int64_t bytes = weights.dtype == WN_F32 ? 4 : 2;
    weights.data = (uint8_t *)weights.data + source * weights.stride[0] * bytes;
    weights.shape[0] = count;
    wn_status status = dsa_convert(
        args, weights, dsa_matrix(space->weights + target * heads, WN_F32, count, heads));
    if (status == WN_OK)
        status = dsa_prepare(self, args, &inputs[DSA_INPUT_Q], source, count,
                             space->q + target * heads * self->dim);
    if (status == WN_OK && space->codes != NULL)
        status = quantise_rows(self, args, target, count, space);
    return status;
}

/* Loads all rows of the run that are scored; requests that follow each other in q in one go. */
static wn_status load_run(const dsa *self, const wn_step_args *args, const wn_tensor inputs[3],
                          int64_t begin, const select_space *space)
{
    int64_t source = 0, target = 0, count = 0, row = 0;
    wn_status status = WN_OK;
    for (uint32_t b = 0; b < args->batch && status == WN_OK; row += args->q_len[b], b++) {
        const int64_t to = space->q_begin[b];
        const int64_t from = args->q_begin[b] + (begin + to - row);
        if (space->q_len[b] == 0)
            continue;
        if (from != source + count || to != target + count) {
            if (count > 0)
                status = load_rows(self, args, inputs, source, target, count, space);
            source = from;
            target = to;
            count = 0;
        }
        count += space->q_len[b];
    }
    if (status == WN_OK && count > 0)
        status = load_rows(self, args, inputs, source, target, count, space);
    return status;
}

/* The best keys of the run's rows, straight to the selection. Rows that are not scored stay. */
static wn_status score_run(dsa *self, const wn_step_args *args, int64_t rows,
                           const select_space *space, int32_t *slots)
{
    const int64_t heads = self->heads, dim = self->dim;
    const wn_indexer_topk_args topk = {
        .struct_size = WN_SIZEOF(wn_indexer_topk_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .q = space->codes != NULL ? dsa_cube(space->codes, WN_F8_E4M3, rows, heads, dim)
                                  : dsa_cube(space->q, WN_BF16, rows, heads, dim),
        .q_scale = space->q_scale,
        .weights = dsa_matrix(space->weights, WN_F32, rows, heads),
        .keys = dsa_keys(self, args),
        .page_table = args->kv.page_table,
        .page_table_stride = args->kv.page_table_stride,
        .q_begin = space->q_begin,
        .q_len = space->q_len,
        .length = space->length,
        .batch = args->batch,
        .weight_scale = 1, /* a positive factor would change no choice */
        .indices = dsa_matrix(slots, WN_I32, rows, self->width),
        .workspace = space->heap,
        .nan_count = &self->nan_scores,
        .part_workspace = space->parts,
        .part_workspace_bytes = (int64_t)space->part_bytes,
    };
    return args->ops->indexer_topk(&topk);
}

/* ---------------------------------------------------------------- producer */

static wn_status produce(dsa *self, const wn_step_args *args, wn_selection *out)
{
    const int64_t rows = out->rows, chunk = rows < self->chunk ? rows : self->chunk;
    select_space space;
    wn_tensor inputs[3];
    wn_status status = WN_OK;
    if (rows == 0)
        return WN_OK;
    place(self, args->batch, (uint64_t)rows, args->workspace, &space);
    for (uint32_t i = 0; i < 3 && status == WN_OK; i++)
        status = dsa_input(self, args, i, dsa_rows(args), &inputs[i]);
    int32_t *slots = out->indices;
    for (uint32_t b = 0; b < args->batch && status == WN_OK; b++) {
        for (int32_t i = 0; i < first_scored(self, args, b); i++)
            take_all(seen_by(args, b, i), self->width, slots + i * out->width);
        slots += args->q_len[b] * out->width;
    }
    for (int64_t begin = 0; begin < rows && status == WN_OK; begin += chunk) {
        const int64_t end = begin + chunk < rows ? begin + chunk : rows;
        if (plan_run(self, args, begin, end, &space) == 0)
            continue;
        status = load_run(self, args, inputs, begin, &space);
        if (status == WN_OK)
            status = score_run(self, args, end - begin, &space, out->indices + begin * out->width);
    }
    return status;
}

/* ---------------------------------------------------------------- sharing */

static int64_t record_entries(const dsa *self)
{
    return RECORD_SLOTS + (int64_t)self->width;
}

uint64_t dsa_shared_bytes(const dsa *self, const wn_step_limits *limits)
{
    if (!self->has_consumers)
        return 0;
    return limits->tokens * (uint64_t)record_entries(self) * sizeof(int32_t);
}

/* Leaves a choice for consumers; one that failed as such, so that they fail too. */
static void share(const dsa *self, const wn_step_args *args, wn_status status,
                  const wn_selection *chosen)
{
    const int32_t *slots = chosen->indices;
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t i = 0; i < args->q_len[b]; i++, slots += chosen->width) {
            int32_t *record =
                (int32_t *)args->step_memory + (args->q_begin[b] + i) * record_entries(self);
            record[RECORD_LAYER] = status == WN_OK ? (int32_t)args->layer : -1;
            record[RECORD_SEEN] = seen_by(args, b, i);
            if (status == WN_OK)
                memcpy(record + RECORD_SLOTS, slots, self->width * sizeof *slots);
        }
}

static wn_status consume(const dsa *self, const wn_step_args *args, wn_selection *out)
{
    const int32_t source = (int32_t)self->source[args->layer];
    int32_t *slots = out->indices;
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t i = 0; i < args->q_len[b]; i++, slots += out->width) {
            const int32_t *record =
                (const int32_t *)args->step_memory + (args->q_begin[b] + i) * record_entries(self);
            if (record[RECORD_LAYER] != source || record[RECORD_SEEN] != seen_by(args, b, i))
                return wn_fail(args->error, WN_ESTATE,
                               "sequence %lld: layer %d, whose choice this layer shares, made none "
                               "for these %d keys in this step: run it first, and let no method "
                               "evict on only one of the two",
                               (long long)args->sequence[b], source, seen_by(args, b, i));
            memcpy(slots, record + RECORD_SLOTS, self->width * sizeof *slots);
        }
    return WN_OK;
}

/* ---------------------------------------------------------------- the call */

wn_status dsa_select(void *instance, const wn_step_args *args, wn_selection *out)
{
    dsa *self = instance;
    uint32_t rows = 0;
    for (uint32_t b = 0; b < args->batch; b++)
        rows += (uint32_t)args->q_len[b];
    out->block_size = 1;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->query_block = 1;
    out->rows = rows;
    out->width = self->width;
    out->head_stride = 0;
    out->offsets = NULL;
    if (self->source[args->layer] != args->layer)
        return consume(self, args, out);
    wn_status status = produce(self, args, out);
    if (self->has_consumers)
        share(self, args, status, out);
    return status;
}
