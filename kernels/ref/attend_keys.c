/* attend_keys.c: which keys a unit of attention meets, in what order, which row sees which of them,
 * and the scores. */
#include "kernels/ref/attend.h"
#include "kernels/ref/double_row.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t greatest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

wn_ref_row wn_ref_row_of(const wn_ref_unit *unit, int64_t r)
{
    const wn_attend_args *a = unit->args;
    int64_t token = unit->first_token + r / unit->num_heads;
    wn_ref_row row = {.q_row = a->q_begin[unit->request] + token,
                      .head = unit->first_head + r % unit->num_heads,
                      .last_slot = a->causal ? token + unit->shift : unit->length - 1};
    row.position = a->q_position != NULL ? a->q_position[row.q_row] : token + unit->shift;
    return row;
}

wn_ref_walk wn_ref_walk_begin(const wn_ref_unit *unit)
{
    const wn_attend_args *a = unit->args;
    const wn_selection *s = a->selection;
    wn_ref_walk walk = {.unit = unit, .end = unit->length};
    if (a->causal)
        walk.end = least(unit->length, unit->first_token + unit->num_tokens + unit->shift);
    if (s == NULL) {
        walk.slot_end = walk.end;
        return walk;
    }
    const int32_t *list = s->indices + unit->kv_head * s->head_stride;
    int64_t r = unit->selection_row;
    walk.entry = list + (s->offsets != NULL ? s->offsets[r] : r * s->width);
    walk.entry_end = list + (s->offsets != NULL ? s->offsets[r + 1] : (r + 1) * s->width);
    return walk;
}

/* Makes the next block the current one. Slots before walk->slot_end were met already: pages that
 * several blocks touch, and lists that are not sorted although they must be. */
static void open_block(wn_ref_walk *walk)
{
    const wn_attend_args *a = walk->unit->args;
    int64_t size = a->selection->block_size, page = a->kv.tokens_per_page;
    int64_t index = *walk->entry++;
    int64_t begin = index * size, end = begin + size;
    if (index < 0 || begin >= walk->unit->length)
        return;
    if (a->granularity == WN_GRANULARITY_PAGE) {
        begin = begin / page * page;
        end = (least(end, walk->unit->length) + page - 1) / page * page;
    }
    begin = greatest(begin, walk->slot_end);
    end = least(end, walk->end);
    if (begin < end) {
        walk->slot = begin;
        walk->slot_end = end;
    }
}

bool wn_ref_walk_next(wn_ref_walk *walk, wn_ref_strip *strip)
{
    const wn_attend_args *a = walk->unit->args;
    int64_t widest = greatest(a->kv.k.dim, a->kv.v.dim);
    int64_t most = least(WN_REF_STRIP_KEYS, WN_REF_STRIP_NUMBERS / widest);
    strip->tile = walk->ordinal / walk->unit->tile_k;
    most = least(most, (strip->tile + 1) * walk->unit->tile_k - walk->ordinal);
    strip->count = 0;
    while (strip->count < most) {
        while (walk->slot >= walk->slot_end && walk->entry != walk->entry_end)
            open_block(walk);
        if (walk->slot >= walk->slot_end)
            break;
        int64_t j = strip->count++;
        strip->slot[j] = walk->slot++;
        strip->position[j] =
            wn_kv_position(&a->kv, walk->unit->request, walk->unit->kv_head, strip->slot[j]);
    }
    walk->ordinal += strip->count;
    return strip->count > 0;
}

bool wn_ref_sees(const wn_ref_unit *unit, const wn_ref_row *row, int64_t slot, int64_t position)
{
    const wn_attend_args *a = unit->args;
    if (slot > row->last_slot)
        return false;
    return a->window == 0 || position > row->position - a->window || position < a->token_sinks;
}

int64_t wn_ref_strip_seen(const wn_ref_unit *unit, const wn_ref_strip *strip, int64_t first,
                          int64_t count)
{
    /* The heads of a token see the same keys. */
    int64_t oldest = first / unit->num_heads, newest = (first + count - 1) / unit->num_heads;
    int64_t seen = 0;
    for (int64_t j = 0; j < strip->count; j++) {
        bool found = false;
        /* The newest token sees the most, so it is asked first. */
        for (int64_t t = newest; t >= oldest && !found; t--) {
            wn_ref_row row = wn_ref_row_of(unit, t * unit->num_heads);
            found = wn_ref_sees(unit, &row, strip->slot[j], strip->position[j]);
        }
        seen += found;
    }
    return seen;
}

static void load(const wn_ref_unit *unit, const wn_kv_view *view, const wn_ref_strip *strip,
                 double *numbers)
{
    for (int64_t j = 0; j < strip->count; j++)
        wn_ref_load_slot(&unit->args->kv, view, unit->request, unit->kv_head, strip->slot[j],
                         numbers + j * view->dim);
}

void wn_ref_strip_load_k(const wn_ref_unit *unit, wn_ref_strip *strip)
{
    load(unit, &unit->args->kv.k, strip, strip->k);
}

void wn_ref_strip_load_v(const wn_ref_unit *unit, wn_ref_strip *strip)
{
    load(unit, &unit->args->kv.v, strip, strip->v);
}

double wn_ref_row_scores(const wn_ref_unit *unit, const wn_ref_row *row, const wn_ref_strip *strip,
                         double score[WN_REF_STRIP_KEYS])
{
    const wn_attend_args *a = unit->args;
    int64_t dim = a->kv.k.dim;
    int64_t start = row->q_row * a->q.stride[0] + row->head * a->q.stride[1];
    double q[WN_MAX_HEAD_DIM], top = -INFINITY;
    wn_ref_load_strided(&a->q, start, a->q.stride[2], dim, q);
    for (int64_t j = 0; j < strip->count; j++) {
        score[j] = -INFINITY;
        if (!wn_ref_sees(unit, row, strip->slot[j], strip->position[j]))
            continue;
        double s = a->softmax_scale * wn_ref_dot(q, strip->k + j * dim, dim);
        if (a->alibi_slopes != NULL)
            s += a->alibi_slopes[row->head] * (double)(strip->position[j] - row->position);
        if (a->soft_cap > 0)
            s = a->soft_cap * tanh(s / a->soft_cap);
        score[j] = s;
        if (s > top || isnan(s))
            top = s;
    }
    return top;
}
