/* rocket_select.c: stage 2, which keys a generated token attends to.
 *
 * Each landmark is scored from its minima and maxima (formula at wn_landmark_scores_args in ops.h)
 * and the topk best of each KV head are selected, the newest local_landmarks among them in any
 * case. A request with no more than topk landmarks selects them all, unscored.
 *
 * Several query tokens of a request (speculative decoding) are asked for in rounds, the i-th token
 * of every request in round i, and each sees what it would have seen alone: before a round, the
 * landmarks that reach into the step's tokens are made anew up to the round's token. The last round
 * of a request leaves them complete. */
#include "rocket.h"

typedef struct select_space {
    float *scores;       /* [batch, num_kv_heads, landmarks] */
    int32_t *best;       /* [batch, num_kv_heads, width] */
    int32_t *row_length; /* [batch, num_kv_heads] landmarks to choose from */
    int32_t *q_row;      /* [batch] row of q of the round, -1: none */
    int32_t *count;      /* [batch] landmarks to score */
    int32_t *seen;       /* [batch] slots that the round's token sees */
    int32_t *begin;      /* [batch] first slot whose landmark is made anew */
    int64_t landmarks;   /* of the longest request */
    int64_t width;       /* most that a row selects */
} select_space;

static int32_t landmark_count(const rocket *self, int32_t length)
{
    return (int32_t)(((int64_t)length + self->page_size - 1) / self->page_size);
}

int32_t rocket_select_width(const rocket *self, int32_t length)
{
    const int32_t landmarks = landmark_count(self, length);
    const int32_t width = landmarks < self->topk ? landmarks : self->topk;
    return width > 0 ? width : 1;
}

static uint64_t place(const rocket *self, uint32_t batch, int32_t longest, void *workspace,
                      select_space *out)
{
    const uint64_t rows = (uint64_t)batch * self->model->num_kv_heads;
    rocket_space space = {workspace, 0};
    out->landmarks = landmark_count(self, longest);
    out->width = rocket_select_width(self, longest);
    out->scores = rocket_take(&space, rows * (uint64_t)out->landmarks * sizeof(float));
    out->best = rocket_take(&space, rows * (uint64_t)out->width * sizeof(int32_t));
    out->row_length = rocket_take(&space, rows * sizeof(int32_t));
    out->q_row = rocket_take(&space, batch * sizeof(int32_t));
    out->count = rocket_take(&space, batch * sizeof(int32_t));
    out->seen = rocket_take(&space, batch * sizeof(int32_t));
    out->begin = rocket_take(&space, batch * sizeof(int32_t));
    return space.used;
}

uint64_t rocket_select_workspace(const rocket *self, const wn_step_limits *limits)
{
    select_space unused;
    return place(self, limits->batch, (int32_t)limits->max_length, NULL, &unused);
}

/* What round `round` asks of each request. */
static void prepare(const rocket *self, const wn_step_args *args, int32_t round,
                    const select_space *space)
{
    const uint32_t heads = self->model->num_kv_heads;
    for (uint32_t b = 0; b < args->batch; b++) {
        const int32_t length = args->kv.length[b], old = length - args->q_len[b];
        const int32_t asks = round < args->q_len[b];
        const int32_t seen = asks ? old + round + 1 : length;
        const int32_t landmarks = landmark_count(self, seen);
        const int32_t scored = asks && landmarks > self->topk ? landmarks : 0;
        space->seen[b] = seen;
        space->begin[b] = asks ? old - old % self->page_size : length;
        space->q_row[b] = scored > 0 ? args->q_begin[b] + round : -1;
        space->count[b] = scored;
        for (uint32_t h = 0; h < heads; h++)
            space->row_length[b * heads + h] = scored > 0 ? scored - self->local_landmarks : 0;
    }
}

static wn_status remake_landmarks(const rocket *self, const wn_step_args *args,
                                  const select_space *space)
{
    wn_landmark_update_args update = {
        .struct_size = WN_SIZEOF(wn_landmark_update_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .kv = args->kv,
        .begin = space->begin,
        .landmarks = rocket_landmarks(self, args),
    };
    update.kv.length = space->seen;
    return args->ops->landmark_update(&update);
}

static wn_status score(const rocket *self, const wn_step_args *args, const select_space *space)
{
    const int64_t heads = self->model->num_kv_heads;
    const wn_landmark_scores_args scores = {
        .struct_size = WN_SIZEOF(wn_landmark_scores_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .q = args->q,
        .q_row = space->q_row,
        .landmarks = rocket_landmarks(self, args),
        .page_table = args->kv.page_table,
        .page_table_stride = args->kv.page_table_stride,
        .count = space->count,
        .batch = args->batch,
        .num_kv_heads = self->model->num_kv_heads,
        .tokens_per_page = args->kv.tokens_per_page,
        .topr = (uint32_t)self->topr,
        .softmax_scale = args->softmax_scale,
        .scores = {.data = space->scores,
                   .shape = {args->batch, heads, space->landmarks},
                   .stride = {heads * space->landmarks, space->landmarks, 1},
                   .dtype = WN_F32,
                   .ndim = 3},
    };
    return args->ops->landmark_scores(&scores);
}

/* The best of each row, without the local landmarks. */
static wn_status choose(rocket *self, const wn_step_args *args, const select_space *space)
{
    const int64_t rows = (int64_t)args->batch * self->model->num_kv_heads;
    wn_tensor best = rocket_matrix(space->best, WN_I32, rows, space->width);
    best.shape[1] = space->width - self->local_landmarks;
    const wn_topk_args topk = {
        .struct_size = WN_SIZEOF(wn_topk_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .scores = rocket_matrix(space->scores, WN_F32, rows, space->landmarks),
        .length = space->row_length,
        .indices = best,
        .nan_count = &self->nan_scores,
    };
    return best.shape[1] > 0 ? args->ops->topk(&topk) : WN_OK;
}

/* Copies the round's rows to their places: chosen, local, -1 for the rest. */
static void write_rows(const rocket *self, const wn_step_args *args, int32_t round,
                       const select_space *space, wn_selection *out)
{
    const uint32_t heads = self->model->num_kv_heads;
    int64_t first_row = 0; /* of request b */
    for (uint32_t b = 0; b < args->batch; first_row += args->q_len[b], b++) {
        if (round >= args->q_len[b])
            continue;
        const int32_t landmarks = landmark_count(self, space->seen[b]);
        const int all = space->count[b] == 0;
        const int32_t local_begin = all ? 0 : landmarks - self->local_landmarks;
        const int64_t num_best = all ? 0 : space->width - self->local_landmarks;
        for (uint32_t h = 0; h < heads; h++) {
            const int32_t *best = space->best + (b * heads + h) * space->width;
            int32_t *to = out->indices + h * out->head_stride + (first_row + round) * out->width;
            int32_t *end = to + out->width;
            for (int64_t i = 0; i < num_best && best[i] >= 0; i++)
                *to++ = best[i];
            for (int32_t landmark = local_begin; landmark < landmarks; landmark++)
                *to++ = landmark;
            while (to < end)
                *to++ = -1;
        }
    }
}

wn_status rocket_select(void *instance, const wn_step_args *args, wn_selection *out)
{
    rocket *self = instance;
    int32_t longest = 0, rounds = 0;
    int64_t rows = 0;
    for (uint32_t b = 0; b < args->batch; b++) {
        longest = args->kv.length[b] > longest ? args->kv.length[b] : longest;
        rounds = args->q_len[b] > rounds ? args->q_len[b] : rounds;
        rows += args->q_len[b];
    }
    select_space space;
    place(self, args->batch, longest, args->workspace, &space);
    out->block_size = (uint32_t)self->page_size;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->query_block = 1;
    out->rows = (uint32_t)rows;
    out->width = space.width;
    out->head_stride = rows * space.width;
    out->offsets = NULL;
    wn_status status = WN_OK;
    for (int32_t round = 0; round < rounds && status == WN_OK; round++) {
        prepare(self, args, round, &space);
        if (rounds > 1)
            status = remake_landmarks(self, args, &space);
        if (status == WN_OK && space.landmarks > self->topk)
            status = score(self, args, &space);
        if (status == WN_OK && space.landmarks > self->topk)
            status = choose(self, args, &space);
        if (status == WN_OK)
            write_rows(self, args, round, &space, out);
    }
    return status;
}
