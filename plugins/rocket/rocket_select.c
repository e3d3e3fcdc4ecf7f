/* rocket_select.c: stage 2, which keys a generated token attends to.
 *
 * Each landmark is scored from its minima and maxima (formula at wn_landmark_scores_args in ops.h).
 * With topk_unit landmark the topk best of each KV head are selected. With token, every token has
 * its landmark's score and the topk best tokens are: whole landmarks in the order of their scores,
 * and the lowest tokens of the last one; the softmax behind the scores is then over tokens. The
 * newest local_landmarks are selected in any case. A request with no more than topk to choose from
 * selects them all, unscored.
 *
 * Several query tokens of a request (speculative decoding) are asked for in rounds, the i-th token
 * of every request in round i, and each sees what it would have seen alone: before a round, the
 * landmarks that reach into the step's tokens are made anew up to the round's token. The last round
 * of a request leaves them complete. */
#include "rocket.h"

typedef struct select_space {
    float *scores;       /* [batch, num_kv_heads, landmarks] */
    int32_t *best;       /* [batch, num_kv_heads, num_best] landmarks, -1 behind them */
    int32_t *taken;      /* [num_best] how many tokens of each, in the row at hand */
    int32_t *row_length; /* [batch, num_kv_heads] landmarks to choose from */
    int32_t *q_row;      /* [batch] row of q of the round, -1: none */
    int32_t *count;      /* [batch] landmarks to score */
    int32_t *entries;    /* [batch] what the round's token sees (rocket_view) */
    int32_t *begin;      /* [batch] first entry whose landmark is made anew */
    void *gather;        /* for rocket_view_update */
    int64_t landmarks;   /* of the longest request */
    int64_t num_best;    /* most that a row chooses by their scores */
} select_space;

/* Does a row list tokens, or landmarks as blocks of page_size tokens? */
static int lists_tokens(const rocket *self)
{
    return self->token_unit || self->multi_turn;
}

static int selects_all(const rocket *self, int32_t entries)
{
    return (self->token_unit ? entries : rocket_landmark_count(self, entries)) <= self->topk;
}

/* Tokens of landmark l: the last one may be short. */
static int32_t tokens_of(const rocket *self, int32_t landmark, int32_t entries)
{
    const int32_t left = entries - landmark * self->page_size;
    return left < self->page_size ? left : self->page_size;
}

int64_t rocket_select_width(const rocket *self, int32_t length)
{
    const int64_t most = lists_tokens(self) ? length : rocket_landmark_count(self, length);
    const int64_t each = lists_tokens(self) && !self->token_unit ? self->page_size : 1;
    const int64_t width = most < self->topk * each ? most : self->topk * each;
    return width > 0 ? width : 1;
}

/* Landmarks to choose so that they have `topk` tokens, if that is the unit, whichever is the short
 * one: all but one are whole, and one token of the last may do. */
static int64_t best_count(const rocket *self, int64_t landmarks)
{
    const int64_t size = self->page_size, local = self->local_landmarks;
    int64_t wanted = self->topk - local;
    if (self->token_unit) {
        const int64_t least_local = local > 0 ? (local - 1) * size + 1 : 0;
        const int64_t tokens = self->topk - least_local;
        wanted = tokens > 0 ? (tokens + size - 2) / size + 1 : 0;
    }
    return landmarks < wanted ? landmarks : wanted;
}

static uint64_t place(const rocket *self, uint32_t batch, int32_t longest, void *workspace,
                      select_space *out)
{
    const uint64_t rows = (uint64_t)batch * self->model->num_kv_heads;
    rocket_space space = {workspace, 0};
    out->landmarks = rocket_landmark_count(self, longest);
    out->num_best = best_count(self, out->landmarks);
    out->scores = rocket_take(&space, rows * (uint64_t)out->landmarks * sizeof(float));
    out->best = rocket_take(&space, rows * (uint64_t)out->num_best * sizeof(int32_t));
    out->taken = rocket_take(&space, (uint64_t)out->num_best * sizeof(int32_t));
    out->row_length = rocket_take(&space, rows * sizeof(int32_t));
    out->q_row = rocket_take(&space, batch * sizeof(int32_t));
    out->count = rocket_take(&space, batch * sizeof(int32_t));
    out->entries = rocket_take(&space, batch * sizeof(int32_t));
    out->begin = rocket_take(&space, batch * sizeof(int32_t));
    out->gather = rocket_take(&space, self->multi_turn ? rocket_view_workspace(self, longest) : 0);
    return space.used;
}

uint64_t rocket_select_workspace(const rocket *self, const wn_step_limits *limits)
{
    select_space unused;
    return place(self, limits->batch, (int32_t)limits->max_length, NULL, &unused);
}

/* What round `round` asks of each request. Returns whether anything is to be scored. */
static int prepare(const rocket *self, const wn_step_args *args, int32_t round,
                   const select_space *space)
{
    const uint32_t heads = self->model->num_kv_heads;
    int any = 0;
    for (uint32_t b = 0; b < args->batch; b++) {
        const rocket_view view = rocket_view_of(self, args, b);
        const int32_t length = args->kv.length[b], old = length - args->q_len[b];
        const int32_t asks = round < args->q_len[b];
        const int32_t entries = rocket_view_entries(&view, asks ? old + round + 1 : length);
        const int32_t landmarks = rocket_landmark_count(self, entries);
        const int32_t scored = asks && !selects_all(self, entries) ? landmarks : 0;
        const int32_t first = rocket_view_entries(&view, old);
        space->entries[b] = entries;
        space->begin[b] = asks ? first - first % self->page_size : entries;
        space->q_row[b] = scored > 0 ? args->q_begin[b] + round : -1;
        space->count[b] = scored;
        for (uint32_t h = 0; h < heads; h++)
            space->row_length[b * heads + h] = scored > 0 ? scored - self->local_landmarks : 0;
        any |= scored > 0;
    }
    return any;
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
        .landmarks = rocket_find_landmarks(self, args).view,
    };
    wn_status status = WN_OK;
    update.kv.length = space->entries;
    if (!self->multi_turn)
        return args->ops->landmark_update(&update);
    for (uint32_t b = 0; b < args->batch && status == WN_OK; b++)
        if (space->begin[b] < space->entries[b])
            status = rocket_view_update(self, args, b, space->begin[b], space->entries[b],
                                        space->gather);
    return status;
}

static wn_status score(const rocket *self, const wn_step_args *args, const select_space *space)
{
    const int64_t heads = self->model->num_kv_heads;
    const rocket_landmarks landmarks = rocket_find_landmarks(self, args);
    const wn_landmark_scores_args scores = {
        .struct_size = WN_SIZEOF(wn_landmark_scores_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .q = args->q,
        .q_row = space->q_row,
        .landmarks = landmarks.view,
        .page_table = landmarks.page_table,
        .page_table_stride = landmarks.page_table_stride,
        .count = space->count,
        .batch = args->batch,
        .num_kv_heads = self->model->num_kv_heads,
        .tokens_per_page = landmarks.tokens_per_page,
        .topr = (uint32_t)self->topr,
        .softmax_scale = args->softmax_scale,
        .temperature = self->temperature,
        .scores = {.data = space->scores,
                   .shape = {args->batch, heads, space->landmarks},
                   .stride = {heads * space->landmarks, space->landmarks, 1},
                   .dtype = WN_F32,
                   .ndim = 3},
        .length = self->token_unit ? space->entries : NULL,
    };
    return args->ops->landmark_scores(&scores);
}

/* The best of each row, without the local landmarks. */
static wn_status choose(rocket *self, const wn_step_args *args, const select_space *space)
{
    const int64_t rows = (int64_t)args->batch * self->model->num_kv_heads;
    const wn_topk_args topk = {
        .struct_size = WN_SIZEOF(wn_topk_args),
        .executor = args->executor,
        .stream = args->stream,
        .error = args->error,
        .scores = rocket_matrix(space->scores, WN_F32, rows, space->landmarks),
        .length = space->row_length,
        .indices = rocket_matrix(space->best, WN_I32, rows, space->num_best),
        .nan_count = &self->nan_scores,
    };
    return space->num_best > 0 ? args->ops->topk(&topk) : WN_OK;
}

/* Takes back `excess` tokens: from the end of the worst landmark, then of the next. best [count]
 * ascends, so that the later of equals is the worse. */
static void take_back(const float *score, const int32_t *best, int64_t count, int32_t *taken,
                      int64_t excess)
{
    while (excess > 0) {
        int64_t worst = -1;
        for (int64_t i = 0; i < count; i++)
            if (taken[i] > 0 && (worst < 0 || score[best[i]] <= score[best[worst]]))
                worst = i;
        const int64_t back = excess < taken[worst] ? excess : taken[worst];
        taken[worst] -= (int32_t)back;
        excess -= back;
    }
}

/* The row's chosen landmarks, and in space->taken how many tokens of each. */
static int64_t count_taken(const rocket *self, const select_space *space, int64_t row,
                           int32_t entries, int32_t local_begin)
{
    const int32_t *best = space->best + row * space->num_best;
    const int64_t local = entries - (int64_t)local_begin * self->page_size; /* < 0: there is none */
    int64_t excess = (local > 0 ? local : 0) - self->topk, count = 0;
    for (; count < space->num_best && best[count] >= 0; count++) {
        space->taken[count] = tokens_of(self, best[count], entries);
        excess += space->taken[count];
    }
    if (self->token_unit)
        take_back(space->scores + row * space->landmarks, best, count, space->taken, excess);
    return count;
}

/* Writes the first `tokens` of a landmark, or the landmark. Returns what follows. */
static int32_t *put(const rocket *self, const rocket_view *view, uint32_t head, int32_t landmark,
                    int32_t tokens, int32_t *to)
{
    if (!lists_tokens(self)) {
        *to = landmark;
        return to + 1;
    }
    for (int32_t i = 0; i < tokens; i++)
        *to++ = rocket_view_slot(view, head, landmark * self->page_size + i);
    return to;
}

/* The lists of request b: chosen, local, -1 for the rest. */
static void write_row(const rocket *self, const wn_step_args *args, uint32_t b, int64_t row,
                      const select_space *space, wn_selection *out)
{
    const uint32_t heads = self->model->num_kv_heads;
    const rocket_view view = rocket_view_of(self, args, b);
    const int32_t entries = space->entries[b];
    const int32_t landmarks = rocket_landmark_count(self, entries);
    const int all = space->count[b] == 0;
    const int32_t local_begin = all ? 0 : landmarks - self->local_landmarks;
    for (uint32_t h = 0; h < heads; h++) {
        const int64_t at = (int64_t)b * heads + h;
        const int32_t *best = space->best + at * space->num_best;
        const int64_t count = all ? 0 : count_taken(self, space, at, entries, local_begin);
        int32_t *to = out->indices + h * out->head_stride + row * out->width;
        int32_t *end = to + out->width;
        for (int64_t i = 0; i < count; i++)
            to = put(self, &view, h, best[i], space->taken[i], to);
        for (int32_t landmark = local_begin; landmark < landmarks; landmark++)
            to = put(self, &view, h, landmark, tokens_of(self, landmark, entries), to);
        while (to < end)
            *to++ = -1;
    }
}

/* Copies the round's rows to their places. */
static void write_rows(const rocket *self, const wn_step_args *args, int32_t round,
                       const select_space *space, wn_selection *out)
{
    int64_t first_row = 0; /* of request b */
    for (uint32_t b = 0; b < args->batch; first_row += args->q_len[b], b++)
        if (round < args->q_len[b])
            write_row(self, args, b, first_row + round, space, out);
}

wn_status rocket_select(void *instance, const wn_step_args *args, wn_selection *out)
{
    rocket *self = instance;
    int32_t longest = 0, rounds = 0;
    int64_t rows = 0;
    for (uint32_t b = 0; b < args->batch; b++) {
        const rocket_view view = rocket_view_of(self, args, b);
        const int32_t entries = rocket_view_entries(&view, args->kv.length[b]);
        longest = entries > longest ? entries : longest;
        rounds = args->q_len[b] > rounds ? args->q_len[b] : rounds;
        rows += args->q_len[b];
    }
    select_space space;
    place(self, args->batch, longest, args->workspace, &space);
    out->block_size = lists_tokens(self) ? 1 : (uint32_t)self->page_size;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->query_block = 1;
    out->rows = (uint32_t)rows;
    out->width = rocket_select_width(self, longest);
    out->head_stride = rows * out->width;
    out->offsets = NULL;
    wn_status status = WN_OK;
    for (int32_t round = 0; round < rounds && status == WN_OK; round++) {
        const int any = prepare(self, args, round, &space);
        if (rounds > 1)
            status = remake_landmarks(self, args, &space);
        if (status == WN_OK && any)
            status = score(self, args, &space);
        if (status == WN_OK && any)
            status = choose(self, args, &space);
        if (status == WN_OK)
            write_rows(self, args, round, &space, out);
    }
    return status;
}
