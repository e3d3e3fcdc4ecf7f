/* attend_row.c: softmax(scores) V for the rows of a unit, one pass over the keys in ascending order
 * (running_softmax.h), doubles throughout. */
#include "kernels/number_format.h"
#include "kernels/ref/attend.h"
#include "kernels/ref/running_softmax.h"

/* So many rows are held at once, and so many numbers of their outputs. */
enum { ROWS = 64, NUMBERS = 8192 };

static void write_row(const wn_ref_unit *unit, const wn_ref_row *row, wn_ref_softmax *s)
{
    const wn_attend_args *a = unit->args;
    int64_t dim = a->kv.v.dim;
    bool empty = s->sum == 0;
    if (a->sinks != NULL && !empty) {
        double sink = a->sinks[row->head];
        if (sink > s->maximum)
            wn_ref_softmax_rescale(s, sink, dim);
        s->sum += exp(sink - s->maximum);
    }
    int64_t start = row->q_row * a->out.stride[0] + row->head * a->out.stride[1];
    for (int64_t d = 0; d < dim; d++)
        wn_store(a->out.data, a->out.dtype, start + d * a->out.stride[2],
                 empty ? 0 : s->out[d] / s->sum);
    if (a->lse.data != NULL)
        wn_store(a->lse.data, a->lse.dtype,
                 row->q_row * a->lse.stride[0] + row->head * a->lse.stride[1],
                 empty ? -INFINITY : s->maximum + log(s->sum));
}

/* Rows [first, first + count) of the unit, count <= ROWS. */
static void attend(const wn_ref_unit *unit, const wn_ref_votes *votes, int64_t first, int64_t count)
{
    int64_t dim = unit->args->kv.v.dim;
    double out[NUMBERS] = {0}, score[WN_REF_STRIP_KEYS];
    wn_ref_softmax state[ROWS];
    wn_ref_strip strip;
    for (int64_t r = 0; r < count; r++)
        state[r] = (wn_ref_softmax){-INFINITY, 0, out + r * dim};
    for (wn_ref_walk walk = wn_ref_walk_begin(unit); wn_ref_walk_next(&walk, &strip);) {
        if (votes != NULL && wn_ref_is_skipped(votes, strip.tile))
            continue;
        if (wn_ref_strip_seen(unit, &strip, first, count) == 0)
            continue;
        wn_ref_strip_load_k(unit, &strip);
        wn_ref_strip_load_v(unit, &strip);
        for (int64_t r = 0; r < count; r++) {
            wn_ref_row row = wn_ref_row_of(unit, first + r);
            wn_ref_row_scores(unit, &row, &strip, score);
            for (int64_t j = 0; j < strip.count; j++)
                wn_ref_softmax_add(&state[r], score[j], strip.v + j * dim, dim);
        }
    }
    for (int64_t r = 0; r < count; r++) {
        wn_ref_row row = wn_ref_row_of(unit, first + r);
        write_row(unit, &row, &state[r]);
    }
}

void wn_ref_attend_rows(const wn_ref_unit *unit, const wn_ref_votes *votes)
{
    int64_t rows = wn_ref_rows(unit), most = NUMBERS / unit->args->kv.v.dim;
    if (most > ROWS)
        most = ROWS;
    for (int64_t first = 0; first < rows; first += most)
        attend(unit, votes, first, rows - first < most ? rows - first : most);
}
