/* generation.c: attention of a few query tokens per request over a paged cache. Every row of K and
 * V is read once for all query heads of its group and all query tokens (attend_rows.h does the
 * arithmetic); here the work is cut and dealt.
 *
 * The keys of a request are cut into parts, by their number alone: one part for a short request,
 * at most 64. A part's result (outputs, maximum, sum) is merged with those of the earlier parts in
 * their order. Where the workspace has room, an item is one part of one request and takes all KV
 * heads, each page's heads before the next page's; the item that finishes last merges. Where it has
 * not, an item goes through the parts one after the other and merges likewise: the same bits. How
 * many heads an item has, and so how many items there are, is free: heads do not meet.
 *
 * A tile policy needs a tile's scores of all rows before its values: one item per KV head goes
 * through the tiles in order. */
#include "kernels/cpu/attend_result.h"
#include "kernels/cpu/cpu.h"
#include "kernels/parallel.h"
#include "kernels/ref/ref.h"
#include "kernels/refuse.h"

#include <stdatomic.h>

enum {
    KEYS_PER_PART = 2048,
    MOST_PARTS = 64,
    REQUESTS_AT_ONCE = 256, /* planned on the stack and dealt together */
    ITEMS_PER_THREAD = 4,   /* at least so many, if there are heads to give */
    TINY_BYTES = 32 << 10   /* of K and V: less is done by the calling thread */
};

/* How one request is cut. */
typedef struct request_plan {
    int64_t first_item;
    int64_t parts;
    int64_t sharers;    /* items that share a row's parts: parts, or 1 */
    int64_t runs;       /* of query tokens that share a selection row */
    int64_t row_blocks; /* of a run */
    int64_t groups;     /* of KV heads */
    bool votes;         /* a policy may leave out tiles */
    bool too_wide;      /* more voting rows than are held at once */
    float *results;     /* of the parts, in the workspace; NULL: not shared */
} request_plan;

typedef struct call {
    const wn_attend_args *args;
    int64_t group; /* query heads per KV head */
    int64_t rows_at_once;
    int64_t tile_k;
    int64_t first_request, num_requests;
    request_plan plan[REQUESTS_AT_ONCE];
} call;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Query tokens of a request that share a selection row. */
static int64_t run_tokens(const wn_attend_args *a, int64_t b)
{
    return a->selection != NULL ? (int64_t)a->selection->query_block : a->q_len[b];
}

static bool policy_votes(const wn_attend_args *a, int64_t b)
{
    const wn_tile_policy *p = a->tile;
    if (p == NULL || p->kind == WN_TILE_NONE)
        return false;
    /* With -inf nothing is left out: dense, bit for bit. */
    return p->kind == WN_TILE_VOTE || p->log_threshold[b] > -INFINITY;
}

/* ---------------------------------------------------------------- counters */

static void count_keys(const wn_attend_counters *counted, wn_attend_counters *total)
{
    atomic_fetch_add_explicit((_Atomic int64_t *)&total->tiles_seen, counted->tiles_seen,
                              memory_order_relaxed);
    atomic_fetch_add_explicit((_Atomic int64_t *)&total->tiles_skipped, counted->tiles_skipped,
                              memory_order_relaxed);
    atomic_fetch_add_explicit((_Atomic int64_t *)&total->keys_read, counted->keys_read,
                              memory_order_relaxed);
    atomic_fetch_add_explicit((_Atomic int64_t *)&total->values_read, counted->values_read,
                              memory_order_relaxed);
}

/* Of a run of queries that leaves out no tile. */
static void count_run(const call *c, int64_t b, int64_t head, int64_t first_token,
                      int64_t num_tokens, int64_t row)
{
    const wn_attend_args *a = c->args;
    wn_attend_counters counted = {0};
    wn_key_walk walk = wn_key_walk_begin(a, b, head, first_token, num_tokens, row, c->tile_k);
    if (a->selection == NULL && a->window == 0) {
        counted.keys_read = walk.end;
        counted.tiles_seen = ceil_div(walk.end, c->tile_k);
    } else {
        wn_key_block block;
        while (wn_key_walk_next(&walk, &block)) {
            counted.keys_read += block.count;
            counted.tiles_seen += block.count > 0;
        }
    }
    counted.values_read = counted.keys_read;
    count_keys(&counted, a->counters + head);
}

/* ---------------------------------------------------------------- without votes */

/* A walk's blocks, one ahead of the one at work. */
typedef struct block_pair {
    wn_key_block block[2];
} block_pair;

static bool next_block(wn_key_walk *walk, wn_key_block *b)
{
    bool found = wn_key_walk_next(walk, b);
    wn_key_pad(b);
    return found;
}

static void clear_offsets(block_pair *p) /* they are prefetched from, whatever they hold */
{
    for (int i = 0; i < 2; i++) {
        memset(p->block[i].k, 0, sizeof p->block[i].k);
        memset(p->block[i].v, 0, sizeof p->block[i].v);
    }
}

/* Asks at once for a block's rows of K, then of V, at some KV heads: for keys that nobody asked for
 * before, or that the products ask for too late or in vain. */
WN_INLINE void fetch_block(const wn_attend_args *a, const wn_key_block *b, int64_t first,
                           int64_t heads)
{
    const wn_kv_view *views[] = {&a->kv.k, &a->kv.v};
    const int64_t *offsets[] = {b->k, b->v};
    for (int i = 0; i < 2; i++) {
        const wn_kv_view *view = views[i];
        int64_t size = wn_code_bytes(view->dtype), bytes = view->dim * size;
        for (int64_t h = first; h < first + heads && wn_is_direct(view); h++)
            for (int64_t j = 0; j < b->count; j++)
                wn_fetch_row((const char *)view->data +
                                 (offsets[i][j] + h * view->head_stride) * size,
                             bytes, false);
    }
}

/* KV heads [first, first + count), whose blocks are the same, over part `part` of `parts`. */
static void attend_heads(wn_rows *w, int64_t first, int64_t count, int64_t selection_row,
                         int64_t part, int64_t parts)
{
    block_pair pair;
    wn_row_quad quads[WN_ROWS_MOST / WN_ROWS_SHARED];
    int64_t token = wn_rows_token(w, 0), tokens = wn_rows_token(w, w->num_rows - 1) - token + 1;
    int64_t distance = least(2, count); /* KV heads from here to prefetch */
    wn_key_walk walk =
        wn_key_walk_begin(w->args, w->request, first, token, tokens, selection_row, WN_KEYS_USUAL);
    if (parts > 1)
        wn_key_walk_part(&walk, part, parts);
    clear_offsets(&pair);
    wn_key_block *now = &pair.block[0], *ahead = &pair.block[1];
    bool more = next_block(&walk, now);
    if (more)
        fetch_block(w->args, now, first, distance);
    while (more) {
        more = next_block(&walk, ahead);
        if (more && w->args->selection != NULL) /* short pieces anywhere: asked for twice */
            fetch_block(w->args, ahead, first, distance);
        for (int64_t h = 0; h < count && now->count > 0; h++) {
            bool same = h + distance < count || !more;
            const wn_key_block *from = same ? now : ahead;
            int64_t from_head = first + (h + distance) % count;
            wn_rows_score_block(w, &walk, now, first + h, from, from_head, quads);
            wn_rows_add_block(w, now, first + h, from, from_head, quads);
        }
        wn_key_block *done = now;
        now = ahead;
        ahead = done;
    }
}

static void attend_part(wn_rows *w, int64_t selection_row, int64_t part, int64_t parts)
{
    int64_t together = wn_keys_are_shared(w->args) ? w->num_heads : 1;
    for (int64_t h = 0; h < w->num_heads; h += together)
        attend_heads(w, w->first_head + h, together, selection_row, part, parts);
}

static void finish_rows(wn_rows *w)
{
    for (int64_t h = 0; h < w->num_heads; h++)
        for (int64_t r = 0; r < w->num_rows; r++) {
            int64_t i = h * w->num_rows + r;
            wn_unfold(w->v_dtype, w->out + i * w->v_padded, w->v_padded);
            wn_rows_finish(w, w->first_head + h, r, wn_rows_state(w, i), w->out + i * w->v_padded);
        }
}

/* Parts one after the other. */
static void attend_parts_in_turn(wn_rows *w, int64_t selection_row, int64_t parts)
{
    _Alignas(64) float merged[WN_ROWS_NUMBERS];
    wn_row_state state[WN_ROWS_HELD];
    int64_t rows = w->num_heads * w->num_rows, numbers = rows * w->v_padded;
    memset(merged, 0, (size_t)numbers * sizeof *merged);
    for (int64_t i = 0; i < rows; i++)
        state[i] = wn_row_begin();
    for (int64_t part = 0; part < parts; part++) {
        wn_rows_clear(w);
        attend_part(w, selection_row, part, parts);
        for (int64_t i = 0; i < rows; i++)
            wn_merge_part(&state[i], merged + i * w->v_padded, wn_rows_state(w, i),
                          w->out + i * w->v_padded, w->v_padded);
    }
    memcpy(w->out, merged, (size_t)numbers * sizeof *merged);
    for (int64_t i = 0; i < rows; i++) {
        w->maximum[i] = state[i].maximum;
        w->sum[i] = state[i].sum;
        w->divisor[i] = state[i].divisor;
    }
    finish_rows(w);
}

/* ---- parts that share the workspace */

/* A row's result of one part: v_dim outputs in the order of memory, its state, and in the first
 * part a counter of the items that are done. */
enum { STATE_FLOATS = sizeof(wn_row_state) / sizeof(float) };
static int64_t result_floats(const wn_attend_args *a)
{
    return a->kv.v.dim + 16;
}

static float *result_of(const wn_rows *w, const request_plan *plan, int64_t part, int64_t head,
                        int64_t row)
{
    const wn_attend_args *a = w->args;
    int64_t tokens = a->q_len[w->request];
    int64_t at =
        (part * tokens + wn_rows_token(w, row)) * a->q.shape[1] + wn_rows_query_head(w, head, row);
    return plan->results + at * result_floats(a);
}

static _Atomic int32_t *counter_of(const wn_rows *w, const request_plan *plan)
{
    float *result = result_of(w, plan, 0, w->first_head, 0);
    return (_Atomic int32_t *)(void *)(result + w->args->kv.v.dim + STATE_FLOATS);
}

static void keep_results(wn_rows *w, const request_plan *plan, int64_t part)
{
    int64_t dim = w->args->kv.v.dim;
    for (int64_t h = 0; h < w->num_heads; h++)
        for (int64_t r = 0; r < w->num_rows; r++) {
            int64_t i = h * w->num_rows + r;
            float *to = result_of(w, plan, part, w->first_head + h, r);
            float *out = w->out + i * w->v_padded;
            wn_unfold(w->v_dtype, out, w->v_padded);
            memcpy(to, out, (size_t)dim * sizeof *to);
            wn_row_state state = wn_rows_state(w, i);
            memcpy(to + dim, &state, sizeof state);
        }
}

static void merge_results(wn_rows *w, const request_plan *plan)
{
    int64_t dim = w->args->kv.v.dim;
    for (int64_t h = 0; h < w->num_heads; h++)
        for (int64_t r = 0; r < w->num_rows; r++) {
            wn_row_state row = wn_row_begin(), state;
            float *out = w->out;
            memset(out, 0, (size_t)dim * sizeof *out);
            for (int64_t part = 0; part < plan->parts; part++) {
                const float *from = result_of(w, plan, part, w->first_head + h, r);
                memcpy(&state, from + dim, sizeof state);
                wn_merge_part(&row, out, state, from, dim);
            }
            wn_rows_finish(w, w->first_head + h, r, row, out);
        }
}

static void attend_shared_part(wn_rows *w, const request_plan *plan, int64_t selection_row,
                               int64_t part)
{
    attend_part(w, selection_row, part, plan->parts);
    keep_results(w, plan, part);
    if (atomic_fetch_add_explicit(counter_of(w, plan), 1, memory_order_acq_rel) == plan->parts - 1)
        merge_results(w, plan);
}

/* ---------------------------------------------------------------- with votes */

/* The maxima of the tiles kept so far, of one KV head's rows; two passes: of all. */
typedef struct ballot {
    const call *call;
    double threshold; /* of a rule that has one, in base 2 */
    float running[WN_ROWS_MOST];
    wn_attend_counters counted;
} ballot;

static bool vote(const ballot *v, const wn_rows *w, const float *tile_max, int64_t tile)
{
    const wn_tile_policy *policy = v->call->args->tile;
    double top[WN_ROWS_MOST], running[WN_ROWS_MOST];
    wn_tile_stats stats = {.struct_size = WN_SIZEOF(wn_tile_stats),
                           .tile_max = top,
                           .running_max = running,
                           .request = (int32_t)w->request,
                           .head = (int32_t)w->first_head,
                           .first_key = tile * v->call->tile_k};
    for (int64_t r = 0; r < w->num_rows; r++) {
        if (tile_max[r] == -INFINITY)
            continue;
        float greatest =
            tile_max[r] > v->running[r] || isnan(tile_max[r]) ? tile_max[r] : v->running[r];
        top[stats.rows] = tile_max[r] * WN_LN_2;
        running[stats.rows++] = greatest * WN_LN_2;
        if (policy->kind == WN_TILE_VOTE)
            continue;
        if (!((double)tile_max[r] - greatest < v->threshold))
            return false;
        if (policy->flags & WN_TILE_TWO_PASS && tile_max[r] == greatest)
            return false;
    }
    if (stats.rows == 0 || policy->kind != WN_TILE_VOTE)
        return stats.rows > 0;
    return policy->vote(policy->context, &stats) == 1;
}

/* Greatest score of each row in the block; NaN if there is one. */
static void find_tile_max(const wn_rows *w, const wn_row_quad *quads, int64_t count,
                          float tile_max[WN_ROWS_MOST])
{
    for (int64_t r = 0; r < w->num_rows; r++) {
        const wn_row_quad *quad = &quads[r / WN_ROWS_SHARED];
        int lane = (int)(r % WN_ROWS_SHARED);
        tile_max[r] = wn_rows_has_nan(quad, count, lane) ? NAN : quad->top[lane];
    }
}

static void raise_running(ballot *v, const wn_rows *w, const float tile_max[WN_ROWS_MOST])
{
    for (int64_t r = 0; r < w->num_rows; r++)
        if (tile_max[r] > v->running[r] || isnan(tile_max[r]))
            v->running[r] = tile_max[r];
}

/* All tiles in order; with only_maxima to find the maxima of all, else to vote and attend. */
static void go_through_tiles(ballot *v, wn_rows *w, int64_t selection_row, bool only_maxima)
{
    bool two_pass = v->call->args->tile->flags & WN_TILE_TWO_PASS;
    block_pair pair;
    wn_row_quad quads[WN_ROWS_MOST / WN_ROWS_SHARED];
    float tile_max[WN_ROWS_MOST];
    int64_t token = wn_rows_token(w, 0), tokens = wn_rows_token(w, w->num_rows - 1) - token + 1;
    wn_key_walk walk = wn_key_walk_begin(w->args, w->request, w->first_head, token, tokens,
                                         selection_row, v->call->tile_k);
    clear_offsets(&pair);
    wn_key_block *now = &pair.block[0], *ahead = &pair.block[1];
    for (bool more = next_block(&walk, now); more;) {
        more = next_block(&walk, ahead);
        const wn_key_block *from = more ? ahead : now;
        bool skip = false;
        if (now->count > 0) {
            wn_rows_score_block(w, &walk, now, w->first_head, from, w->first_head, quads);
            find_tile_max(w, quads, now->count, tile_max);
        }
        if (now->count > 0 && !only_maxima) {
            skip = (v->counted.tiles_seen > 0 || two_pass) && vote(v, w, tile_max, now->tile);
            v->counted.tiles_seen++;
            v->counted.tiles_skipped += skip;
            v->counted.keys_read += now->count;
            v->counted.values_read += skip ? 0 : now->count;
            if (!skip)
                wn_rows_add_block(w, now, w->first_head, from, w->first_head, quads);
        }
        if (now->count > 0 && !skip)
            raise_running(v, w, tile_max);
        wn_key_block *done = now;
        now = ahead;
        ahead = done;
    }
}

static void attend_with_votes(const call *c, wn_rows *w, int64_t selection_row)
{
    const wn_tile_policy *policy = c->args->tile;
    ballot v = {.call = c};
    if (policy->kind == WN_TILE_SKIP_SOFTMAX)
        v.threshold = policy->log_threshold[w->request] * WN_LOG2_E;
    for (int64_t r = 0; r < w->num_rows; r++)
        v.running[r] = -INFINITY;
    if (policy->flags & WN_TILE_TWO_PASS)
        go_through_tiles(&v, w, selection_row, true);
    go_through_tiles(&v, w, selection_row, false);
    finish_rows(w);
    if (c->args->counters != NULL)
        count_keys(&v.counted, c->args->counters + w->first_head);
}

/* A vote for a request that the reference takes for the only one. */
typedef struct renumbered_vote {
    const wn_tile_policy *policy;
    int32_t request;
} renumbered_vote;

static int32_t vote_renumbered(void *context, const wn_tile_stats *stats)
{
    const renumbered_vote *v = context;
    wn_tile_stats true_stats = *stats;
    true_stats.request = v->request;
    return v->policy->vote(v->policy->context, &true_stats);
}

/* Units of more rows than are held at once are rare where a policy votes (64 query heads of a
 * group, or dozens of query tokens): the reference's doubles do them, request by request. */
static void attend_by_reference(const wn_attend_args *a, int64_t b)
{
    renumbered_vote renumbered = {a->tile, (int32_t)b};
    wn_tile_policy policy = *a->tile;
    wn_attend_args one = *a;
    if (policy.kind == WN_TILE_VOTE) {
        policy.vote = vote_renumbered;
        policy.context = &renumbered;
    }
    policy.log_threshold += policy.log_threshold != NULL ? b : 0;
    one.executor = NULL;
    one.error = NULL;
    one.tile = &policy;
    one.q_begin += b;
    one.q_len += b;
    one.kv.batch = 1;
    one.kv.length += b;
    one.kv.page_table += b * a->kv.page_table_stride;
    one.selection_row += one.selection_row != NULL ? b : 0;
    wn_ref_generation(&one);
}

/* ---------------------------------------------------------------- items */

static int64_t request_of_item(const call *c, int64_t item)
{
    int64_t low = 0, high = c->num_requests;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (c->plan[middle].first_item <= item)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* KV heads of a group of them. */
static int64_t heads_from(const call *c, const request_plan *plan, int64_t group)
{
    return c->args->kv.num_kv_heads * group / plan->groups;
}

/* From the outside in: part, run, block of rows, group of KV heads. */
static void run_item(void *argument, int64_t item)
{
    const call *c = argument;
    const wn_attend_args *a = c->args;
    int64_t request = request_of_item(c, item), b = c->first_request + request;
    const request_plan *plan = &c->plan[request];
    int64_t i = item - plan->first_item;
    if (plan->too_wide) {
        attend_by_reference(a, b);
        return;
    }
    int64_t group = i % plan->groups, row_block = i / plan->groups % plan->row_blocks;
    int64_t run = i / plan->groups / plan->row_blocks % plan->runs;
    int64_t part = i / plan->groups / plan->row_blocks / plan->runs;
    int64_t first = run * run_tokens(a, b), end = least(a->q_len[b], first + run_tokens(a, b));
    int64_t rows = (end - first) * c->group,
            row = a->selection != NULL ? a->selection_row[b] + run : 0;
    wn_rows w;
    w.args = a;
    w.request = b;
    w.group = c->group;
    w.first_head = heads_from(c, plan, group);
    w.num_heads = heads_from(c, plan, group + 1) - w.first_head;
    w.first_token = first;
    w.first_row = row_block * c->rows_at_once;
    w.num_rows = least(rows - w.first_row, c->rows_at_once);
    if (w.num_rows <= 0)
        return; /* the last run has fewer tokens */
    if (a->counters != NULL && !plan->votes && part == 0 && row_block == 0)
        for (int64_t h = 0; h < w.num_heads; h++)
            count_run(c, b, w.first_head + h, first, end - first, row);
    wn_rows_begin(&w);
    if (plan->votes) {
        attend_with_votes(c, &w, row);
    } else if (plan->sharers > 1) {
        attend_shared_part(&w, plan, row, part);
    } else if (plan->parts > 1) {
        attend_parts_in_turn(&w, row, plan->parts);
    } else {
        attend_part(&w, row, 0, 1);
        finish_rows(&w);
    }
}

/* ---------------------------------------------------------------- planning */

/* Keys of a request, or with a selection no fewer than a row of it has. Depends on the request
 * alone. */
static int64_t keys_of_request(const wn_attend_args *a, int64_t b)
{
    const wn_selection *s = a->selection;
    if (s == NULL) {
        wn_key_walk walk = wn_key_walk_begin(a, b, 0, 0, a->q_len[b], 0, WN_KEYS_USUAL);
        return walk.end - (walk.gap_end - walk.gap_begin);
    }
    int64_t most = 0, count, width = s->block_size;
    int64_t heads = s->head_stride == 0 ? 1 : a->kv.num_kv_heads;
    if (a->granularity == WN_GRANULARITY_PAGE && width < a->kv.tokens_per_page)
        width = a->kv.tokens_per_page;
    for (int64_t run = 0; run < ceil_div(a->q_len[b], s->query_block); run++)
        for (int64_t h = 0; h < heads; h++) {
            wn_key_list(s, h, a->selection_row[b] + run, &count);
            most = count > most ? count : most;
        }
    return least(most * width, a->kv.length[b]);
}

static request_plan plan_of(const call *c, int64_t b, int64_t *bytes)
{
    const wn_attend_args *a = c->args;
    request_plan p = {.sharers = 1, .groups = a->kv.num_kv_heads};
    *bytes = 0;
    if (a->q_len[b] == 0)
        return p;
    int64_t keys = keys_of_request(a, b), rows = least(run_tokens(a, b), a->q_len[b]) * c->group;
    p.runs = ceil_div(a->q_len[b], run_tokens(a, b));
    p.row_blocks = ceil_div(rows, c->rows_at_once);
    p.votes = policy_votes(a, b);
    p.too_wide = p.votes && p.row_blocks > 1;
    p.parts = p.votes ? 1 : least(ceil_div(keys, KEYS_PER_PART), MOST_PARTS);
    p.parts = p.parts > 1 ? p.parts : 1;
    *bytes =
        keys * p.runs * p.row_blocks * a->kv.num_kv_heads *
        (a->kv.k.dim * wn_code_bytes(a->kv.k.dtype) + a->kv.v.dim * wn_code_bytes(a->kv.v.dtype));
    return p;
}

/* Gives the workspace to those requests that have at least `bytes`. Returns where it goes on. */
static float *share_workspace(call *c, const int64_t *bytes, int64_t at_least, float *free_floats)
{
    const wn_attend_args *a = c->args;
    const float *end = (const float *)a->workspace + a->workspace_bytes / (int64_t)sizeof(float);
    for (int64_t i = 0; i < c->num_requests; i++) {
        request_plan *p = &c->plan[i];
        int64_t rows = a->q_len[c->first_request + i] * a->q.shape[1];
        int64_t floats = rows * p->parts * result_floats(a);
        if (p->parts < 2 || p->results != NULL || bytes[i] < at_least || floats > end - free_floats)
            continue;
        p->results = free_floats;
        p->sharers = p->parts;
        free_floats += floats;
        for (int64_t r = 0; r < rows; r++) /* the counters of the items that are done */
            memset(p->results + r * result_floats(a) + a->kv.v.dim + STATE_FLOATS, 0,
                   sizeof(int32_t));
    }
    return free_floats;
}

/* Deals the KV heads of each request to items, and numbers the items. Returns their number. */
static int64_t deal(call *c, int64_t threads)
{
    const wn_attend_args *a = c->args;
    int64_t heads = a->kv.num_kv_heads, units = 0, items = 0;
    for (int64_t i = 0; i < c->num_requests; i++)
        units += c->plan[i].sharers * c->plan[i].runs * c->plan[i].row_blocks;
    int64_t wanted = units > 0 ? ceil_div(threads > 1 ? threads * ITEMS_PER_THREAD : 1, units) : 1;
    for (int64_t i = 0; i < c->num_requests; i++) {
        request_plan *p = &c->plan[i];
        int64_t rows = least(
            c->rows_at_once,
            least(run_tokens(a, c->first_request + i), a->q_len[c->first_request + i]) * c->group);
        p->first_item = items;
        if (rows == 0)
            continue;
        p->groups = ceil_div(heads, wn_heads_that_fit(a, rows));
        p->groups = p->votes ? heads : p->groups > wanted ? p->groups : least(wanted, heads);
        items += p->too_wide ? 1 : p->sharers * p->runs * p->row_blocks * p->groups;
    }
    return items;
}

static void attend_requests(call *c)
{
    const wn_attend_args *a = c->args;
    const wn_executor *executor = a->executor;
    int64_t bytes[REQUESTS_AT_ONCE], total = 0;
    for (int64_t i = 0; i < c->num_requests; i++) {
        c->plan[i] = plan_of(c, c->first_request + i, &bytes[i]);
        total += bytes[i];
    }
    if (total < TINY_BYTES)
        executor = NULL;
    int64_t threads = executor != NULL ? executor->num_threads : 1;
    if (threads > 1 && a->workspace != NULL) {
        float *rest = share_workspace(c, bytes, total / (threads * ITEMS_PER_THREAD), a->workspace);
        share_workspace(c, bytes, 0, rest);
    }
    int64_t items = deal(c, threads);
    wn_for_each(executor, items, run_item, c);
}

wn_status WN_CPU(generation)(const wn_attend_args *args)
{
    wn_status status = wn_refuse_generation(args);
    if (status != WN_OK || args->kv.batch == 0)
        return status;
    call c; /* most of its plan is never touched */
    c.args = args;
    c.group = args->q.shape[1] / args->kv.num_kv_heads;
    c.rows_at_once = wn_rows_that_fit(args);
    c.tile_k = args->tile != NULL && args->tile->tile_k > 0 ? args->tile->tile_k : 64;
    for (int64_t b = 0; b < args->kv.batch; b += REQUESTS_AT_ONCE) {
        c.first_request = b;
        c.num_requests = least(args->kv.batch - b, REQUESTS_AT_ONCE);
        attend_requests(&c);
    }
    return WN_OK;
}
