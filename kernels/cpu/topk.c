/* topk.c: the k greatest scores of each row. What is chosen is told by a threshold: every score
 * above it, and the first so many of those equal to it. Short rows stay in the first-level cache:
 * the k-th of the maxima of small groups is a lower bound, the few scores that reach it are the
 * candidates, and interpolation between scores, by how many reach each, finds the threshold among
 * them. Long rows take the bound from a sample, so that one streaming pass finds the candidates; no
 * branch in it depends on a score. Where so much is wanted that candidates do not fit, a bracket
 * from the sample leaves few scores undecided, and a second pass writes the indices. Whatever the
 * data, few passes end it: at worst some for each bit of a float. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pack_lanes.h"
#include "kernels/parallel.h"
#include "kernels/refuse.h"

#include <float.h>
#include <stdatomic.h>
#include <stdbool.h>

enum {
    BLOCK = 4096,           /* scores that are looked at together; shorter rows are one block */
    CANDIDATES = 7 * BLOCK, /* how many can be held */
    LINE = 16,              /* scores that are sampled together, being read together anyhow */
    SAMPLE_LINES = 256,     /* at most; one line in SAMPLED of the row */
    WIDE_LINES = 1024,      /* the same where the sample has to tell more */
    SAMPLED = 16,
    PACKED = 4096,    /* scores that are copied so that a search goes on among them alone */
    FEW = 2 * WN_VL,  /* scores that are ranked one by one */
    MARGIN = 8,       /* of scores, by which a search aims beyond its goal */
    TINY_WORK = 16384 /* scores of a call for which no thread is woken */
};

typedef struct score_row {
    const float *data;
    int64_t stride, length;
} score_row;

/* Scores in the order of their indices; index only where it is wanted. Room for whole vectors. */
typedef struct candidates {
    int64_t count;
    bool nan_met; /* while they were collected */
    _Alignas(64) float score[CANDIDATES + BLOCK + WN_VL];
    _Alignas(64) int32_t index[CANDIDATES + BLOCK + WN_VL];
} candidates;

/* Chosen are the scores > least, and the first `equal` of those == least, or ALL. */
typedef struct threshold {
    float least;
    int64_t equal;
} threshold;
#define ALL INT64_MAX

/* Scores [first, first + count) of a row, count <= BLOCK; copied only if they are scattered. */
static const float *block_of(const score_row *row, int64_t first, int64_t count, float *copy)
{
    if (row->stride == 1)
        return row->data + first;
    for (int64_t i = 0; i < count; i++)
        copy[i] = row->data[(first + i) * row->stride];
    return copy;
}

/* Lanes i .. of x[n]; -inf where there is none. */
WN_INLINE wn_vf load_scores(const float *x, int64_t i, int64_t n)
{
    if (n - i >= WN_VL)
        return wn_vf_load(x + i);
    return n > i ? wn_vf_load_scores(x + i, n - i) : wn_vf_set(-INFINITY);
}

WN_INLINE int64_t least_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---------------------------------------------------------------- the order of floats */

/* Signed integers in the order of the floats. -0 is just below 0, and because floats are compared
 * as floats, no more than that. */
static int64_t key_of(float score)
{
    int32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

static float score_of(int64_t key)
{
    int32_t bits = (int32_t)key;
    float score;
    bits = bits < 0 ? bits ^ 0x7fffffff : bits;
    memcpy(&score, &bits, sizeof score);
    return score;
}

static int64_t count_at_least(const float *x, int64_t n, float bound)
{
    wn_vf b = wn_vf_set(bound);
    wn_vi sum0 = wn_vi_set(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    int64_t i = 0;
    for (; i + 4 * WN_VL <= n; i += 4 * WN_VL) {
        sum0 = wn_count_at_least(sum0, wn_vf_load(x + i), b);
        sum1 = wn_count_at_least(sum1, wn_vf_load(x + i + WN_VL), b);
        sum2 = wn_count_at_least(sum2, wn_vf_load(x + i + 2 * WN_VL), b);
        sum3 = wn_count_at_least(sum3, wn_vf_load(x + i + 3 * WN_VL), b);
    }
    for (; i + WN_VL <= n; i += WN_VL)
        sum0 = wn_count_at_least(sum0, wn_vf_load(x + i), b);
    if (i < n)
        sum0 = wn_count_at_least(sum0, wn_vf_load_scores(x + i, n - i), b);
    return wn_vi_sum(wn_vi_add(wn_vi_add(sum0, sum1), wn_vi_add(sum2, sum3)));
}

/* What lies in [low, high]. */
typedef struct extent {
    float least, greatest; /* of the scores inside: +inf and -inf if there is none */
    int64_t count;         /* of scores >= low */
} extent;

WN_INLINE extent extent_inside(const float *x, int64_t n, float low, float high, bool capped)
{
    const wn_vf bottom = wn_vf_set(low), top = wn_vf_set(high);
    const wn_vf least_none = wn_vf_set(INFINITY), greatest_none = wn_vf_set(-INFINITY);
    wn_vf least = least_none, greatest = greatest_none;
    wn_vi count = wn_vi_set(0);
    float lanes[2 * WN_VL];
    for (int64_t i = 0; i < n; i += WN_VL) { /* NaN: the second operand is kept */
        wn_vf v = load_scores(x, i, n);
        count = wn_count_at_least(count, v, bottom);
        least = wn_vf_min(wn_vf_select(wn_vf_less(v, bottom), v, least_none), least);
        if (capped)
            v = wn_vf_select(wn_vf_less(top, v), v, greatest_none);
        greatest = wn_vf_max(v, greatest);
    }
    wn_vf_store(lanes, least);
    wn_vf_store(lanes + WN_VL, greatest);
    extent e = {INFINITY, -INFINITY, wn_vi_sum(count)};
    for (int i = 0; i < WN_VL; i++) {
        e.least = lanes[i] < e.least ? lanes[i] : e.least;
        e.greatest = lanes[WN_VL + i] > e.greatest ? lanes[WN_VL + i] : e.greatest;
    }
    return e;
}

/* Of all scores but -inf and NaN. */
static extent extent_of(const float *x, int64_t n)
{
    return extent_inside(x, n, -FLT_MAX, INFINITY, false);
}

/* Of the keys of scores: at_low >= k scores are >= low, at_high < k are >= high. */
typedef struct bracket {
    int64_t low, high, at_low, at_high;
} bracket;

/* To the scores that there are. What equals 0 may be -0: neither end moves outward for that. */
static void tighten(bracket *b, const extent *e)
{
    int64_t low = key_of(e->least), high = key_of(e->greatest + 0.0f) + 1;
    b->low = low > b->low ? low : b->low;
    b->high = least_of(high, b->high);
}

/* A key inside, as far beyond what is sought as the nearer end is before it, by the count of scores
 * that reach it; then little is left between the two. tail: the logarithms of counts lie evenly
 * between the ends, and not the counts; a float's bits are near enough to its logarithm. */
static int64_t aim(const bracket *b, int64_t k, int64_t slack, bool tail)
{
    int64_t over = b->at_low - k, under = k - b->at_high, goal = k + slack / 2;
    int64_t near = over < under ? over : under, far = over < under ? under : over;
    int64_t beyond = least_of(near > MARGIN ? near : MARGIN, far / 2);
    if (slack == 0)
        goal = over < under ? k - beyond : k + beyond;
    double counts[3] = {(double)b->at_low, (double)goal, (double)b->at_high};
    for (int i = 0; i < 3 && tail; i++)
        counts[i] = (double)key_of(counts[i] > 0 ? (float)counts[i] : 0.5f);
    double share = (counts[0] - counts[1]) / (counts[0] - counts[2]);
    double low = score_of(b->low), high = score_of(b->high - 1);
    high = high < FLT_MAX ? high : FLT_MAX;
    int64_t key = key_of((float)(low + (high - low) * share));
    return key <= b->low ? b->low + 1 : key >= b->high ? b->high - 1 : key;
}

/* What is inside, in its order. Room for a vector more. */
static int64_t pack_inside(const float *x, int64_t n, const bracket *b, float *inside)
{
    wn_vf low = wn_vf_set(score_of(b->low)), high = wn_vf_set(score_of(b->high));
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += WN_VL) {
        wn_vf v = load_scores(x, i, n);
        uint32_t mask = wn_lanes_at_least(v, low) & ~wn_lanes_at_least(v, high);
        wn_pack_ints((int32_t *)inside + count, mask, wn_vf_bits(v));
        count += __builtin_popcount(mask);
    }
    return count;
}

/* The threshold of the k greatest of few[count], count <= FEW: the one with the fewest below it
 * that still has less than k above. Room for a vector more. */
static threshold rank_few(float *few, int64_t count, int64_t k)
{
    _Alignas(64) int32_t at_most[FEW] = {0}; /* how many of the few are <= each */
    wn_vf_store(few + count, wn_vf_set(-INFINITY));
    for (int64_t i = 0; i < count; i += WN_VL) {
        wn_vf v = wn_vf_load(few + i);
        wn_vi sum = wn_vi_set(0);
        for (int64_t j = 0; j < count; j++)
            sum = wn_count_at_least(sum, v, wn_vf_set(few[j]));
        wn_vi_store(at_most + i, sum);
    }
    int32_t enough = (int32_t)(count - k), place = FEW + 1, equal = 0, at = 0;
    for (int i = 0; i < FEW; i++)
        place = at_most[i] > enough && at_most[i] < place ? at_most[i] : place;
    for (int i = 0; i < FEW; i++) {
        equal += at_most[i] == place;
        at = at_most[i] == place ? i : at;
    }
    return (threshold){few[at], equal == place - enough ? ALL : place - enough};
}

/* The threshold of the k greatest of x[n], whose extent is e, k >= 1; -FLT_MAX if fewer than k can
 * be chosen. With slack > 0 one that up to k + slack pass is good enough, all that equal it
 * included. */
static threshold threshold_within(const float *x, int64_t n, extent e, int64_t k, int64_t slack)
{
    if (e.count < k)
        return (threshold){-FLT_MAX, ALL};
    _Alignas(64) float packed[PACKED + WN_VL];
    bracket b = {key_of(-FLT_MAX), key_of(INFINITY) + 1, e.count, 0};
    tighten(&b, &e);
    int64_t before = 0; /* scores that are greater than those of x */
    bool tail = slack == 0, slow = false, halve = false;
    while (b.at_low > k + slack && b.high - b.low > 1 && b.at_low - b.at_high > FEW) {
        int64_t inside = b.at_low - b.at_high;
        if (before == 0 && inside <= PACKED && inside <= n / 4) {
            before = b.at_high;
            n = pack_inside(x, n, &b, packed);
            x = packed;
        }
        int64_t key = halve ? b.low + (b.high - b.low) / 2 : aim(&b, k, slack, tail);
        int64_t count = before + count_at_least(x, n, score_of(key));
        bool enough = count >= k;
        b.low = enough ? key : b.low;
        b.at_low = enough ? count : b.at_low;
        b.high = enough ? b.high : key;
        b.at_high = enough ? b.at_high : count;
        halve = slow && b.at_low - b.at_high > inside / 2;
        slow = !slow && b.at_low - b.at_high > inside / 2;
        tail = !tail;
        if (halve) { /* equal scores, or far from even */
            e = extent_inside(x, n, score_of(b.low), score_of(b.high - 1), true);
            tighten(&b, &e);
        }
    }
    if (b.at_low <= k + slack)
        return (threshold){score_of(b.low), ALL};
    if (b.high - b.low <= 1)
        return (threshold){score_of(b.low), k - b.at_high};
    n = pack_inside(x, n, &b, packed);
    return rank_few(packed, n, k - b.at_high);
}

static threshold find_threshold(const float *x, int64_t n, int64_t k, int64_t slack)
{
    return threshold_within(x, n, extent_of(x, n), k, slack);
}

/* ---------------------------------------------------------------- writing indices */

typedef struct writer {
    int32_t *out;
    int64_t stride, width; /* of the row of indices */
    int64_t wanted, found;
    threshold threshold; /* equal: how many may still come */
} writer;

WN_INLINE void write_lanes(writer *w, uint32_t mask, wn_vi index)
{
    if (w->stride == 1 && w->found + WN_VL <= w->width) { /* later writes overwrite the rest */
        wn_pack_ints(w->out + w->found, mask, index);
        w->found += __builtin_popcount(mask);
        return;
    }
    int32_t packed[WN_VL];
    wn_pack_ints(packed, mask, index);
    for (int i = 0, count = __builtin_popcount(mask); i < count; i++)
        w->out[w->found++ * w->stride] = packed[i];
}

/* The first of the lanes that equal the threshold, as many as may still come. */
WN_INLINE uint32_t take_equal(writer *w, uint32_t mask)
{
    int64_t count = __builtin_popcount(mask);
    if (count > w->threshold.equal) {
        mask = _pdep_u32((1u << w->threshold.equal) - 1, mask);
        count = w->threshold.equal;
    }
    w->threshold.equal -= count;
    return mask;
}

/* Writes what is chosen of x[n]. index: of each score, or NULL: first, first + 1, ... */
static void write_chosen(writer *to, const float *x, const int32_t *index, int64_t first, int64_t n)
{
    writer w = *to; /* in registers: indices are stored in between */
    wn_vf least = wn_vf_set(w.threshold.least);
    bool all_equal = w.threshold.equal == ALL;
    int64_t i = 0, room = w.stride == 1 && all_equal ? w.width - WN_VL : -1;
    for (; i + WN_VL <= n && w.found <= room; i += WN_VL) { /* as below, for the common case */
        uint32_t mask = wn_lanes_at_least(wn_vf_load(x + i), least);
        wn_pack_ints(w.out + w.found, mask,
                     index != NULL ? wn_vi_load(index + i) : wn_vi_ascending((int32_t)(first + i)));
        w.found += __builtin_popcount(mask);
    }
    for (; i < n && w.found < w.wanted; i += WN_VL) {
        wn_vf v = load_scores(x, i, n);
        uint32_t mask = all_equal ? wn_lanes_at_least(v, least) : wn_lanes_above(v, least);
        if (!all_equal && w.threshold.equal > 0)
            mask |= take_equal(&w, wn_lanes_equal(v, least));
        write_lanes(&w, mask,
                    index != NULL ? wn_vi_load(index + i) : wn_vi_ascending((int32_t)(first + i)));
    }
    *to = w;
}

static void write_row(writer *w, const score_row *row)
{
    float copy[BLOCK];
    for (int64_t i = 0; i < row->length && w->found < w->wanted; i += BLOCK) {
        int64_t n = least_of(BLOCK, row->length - i);
        write_chosen(w, block_of(row, i, n, copy), NULL, i, n);
    }
}

static void write_candidates(writer *w, const candidates *c)
{
    write_chosen(w, c->score, c->index, 0, c->count);
}

/* ---------------------------------------------------------------- candidates */

WN_INLINE int64_t pack_candidates(candidates *c, int64_t count, wn_vf v, wn_vf bound, int64_t index)
{
    uint32_t mask = wn_lanes_at_least(v, bound);
    wn_pack_pairs(c->score + count, c->index + count, mask, v, wn_vi_ascending((int32_t)index));
    return count + __builtin_popcount(mask);
}

/* Adds the scores of x[n] that are at least the bound. There is room. */
static void collect(candidates *c, const float *x, int64_t first, int64_t n, float bound)
{
    wn_vf least = wn_vf_set(bound);
    int64_t count = c->count, i = 0;
    wn_vm nan = wn_vm_first(0);
    for (; i + 2 * WN_VL <= n; i += 2 * WN_VL) {
        wn_vf v[2] = {wn_vf_load(x + i), wn_vf_load(x + i + WN_VL)};
        nan = wn_vm_or_nan(nan, v[0], v[1]);
        count = pack_candidates(c, count, v[0], least, first + i);
        count = pack_candidates(c, count, v[1], least, first + i + WN_VL);
    }
    for (; i < n; i += WN_VL) {
        wn_vf v = load_scores(x, i, n);
        nan = wn_vm_or_nan(nan, v, v);
        count = pack_candidates(c, count, v, least, first + i);
    }
    c->count = count;
    c->nan_met |= wn_vm_bits(nan) != 0;
}

WN_INLINE int64_t unpack_word(int32_t *to, uint64_t word, int32_t first)
{
    int64_t count = __builtin_popcountll(word);
    volatile int32_t *four = to; /* or gcc makes one vector of them, at the price of many stores */
    for (int i = 0; i < 4; i++, word &= word - 1)
        four[i] = first + (int32_t)_tzcnt_u64(word);
    for (int i = 4; word != 0; i++, word &= word - 1)
        to[i] = first + (int32_t)_tzcnt_u64(word);
    return count;
}

/* The same where few reach the bound: words of 64 bits are unpacked four bits at a time, whether
 * they are there or not, so that only a word of more costs a branch that was not foreseen. NaN are
 * collected too, which costs nothing here; whoever reads the candidates passes them over. */
static void collect_few(candidates *c, const float *x, int64_t first, int64_t n, float bound)
{
    wn_vf least = wn_vf_set(bound);
    int64_t before = c->count, count = before, i = 0;
    for (; i + 64 <= n; i += 64)
        count +=
            unpack_word(c->index + count, wn_word_not_below(x + i, least), (int32_t)(first + i));
    x -= first;
    for (int64_t j = before; j < count; j++)
        c->score[j] = x[c->index[j]];
    c->count = count;
    collect(c, x + first + i, first + i, n - i, bound);
}

/* All of a row that are at least the bound; false if they are too many. few: less than one score
 * in 16 is expected. */
static bool collect_row(candidates *c, const score_row *row, float bound, bool few)
{
    float copy[BLOCK];
    c->count = 0;
    c->nan_met = false;
    for (int64_t i = 0; i < row->length; i += BLOCK) {
        int64_t n = least_of(BLOCK, row->length - i);
        (few ? collect_few : collect)(c, block_of(row, i, n, copy), i, n, bound);
        if (c->count > CANDIDATES)
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------- short rows */

/* The maxima of groups of `size` vectors, lane by lane; fewer vectors in the last group. Returns
 * how many. */
static int64_t group_maxima(const float *x, int64_t n, int64_t size, float *maxima)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += size * WN_VL) {
        wn_vf most = wn_vf_set(-INFINITY);
        for (int64_t j = i; j < n && j < i + size * WN_VL; j += WN_VL)
            most = wn_vf_max(load_scores(x, j, n), most);
        wn_vf_store(maxima + count, most);
        count += WN_VL;
    }
    return count;
}

/* A row of one block. */
static void choose_short(writer *w, const float *x, int64_t n, int64_t k, candidates *c)
{
    int64_t size = n / (2 * k); /* of a group: of about 2k maxima, at least k reach the bound */
    if (size < 2) {
        w->threshold = find_threshold(x, n, k, 0);
        write_chosen(w, x, NULL, 0, n);
        return;
    }
    float maxima[BLOCK / 2 + 2 * WN_VL];
    int64_t groups = group_maxima(x, n, least_of(size, 16), maxima);
    c->count = 0;
    collect(c, x, 0, n, find_threshold(maxima, groups, k, k / 4).least);
    w->threshold = find_threshold(c->score, c->count, k, 0);
    write_candidates(w, c);
}

/* ---------------------------------------------------------------- long rows */

static int64_t lines_of(const score_row *row, int64_t most)
{
    return least_of(row->length / (SAMPLED * LINE), most);
}

/* Whole lines, one at a place of its own in each of equal parts of the row, so that a period of
 * the data does not meet that of the sample. Returned are the maxima of groups of about `size` of
 * them, lane by lane: of the greatest few of a sample hardly one is lost, and so little is left
 * that the search costs nothing. Parts of a group are far from one another: where scores rise or
 * fall along the row, the greatest are not in one group. */
static int64_t take_sample(const score_row *row, int64_t lines, int64_t size, float *maxima)
{
    int64_t count = 0;
    int64_t part = row->length / lines, room = part - 2 * LINE;
    int64_t before = row->stride == 1 ? (int64_t)((uintptr_t)row->data / sizeof(float) % LINE) : 0;
    uint32_t random = 1;
    int64_t groups = (lines + size - 1) / size;
    for (int64_t i = 0; i < groups; i++) {
        wn_vf most[LINE / WN_VL];
        for (int j = 0; j < LINE / WN_VL; j++)
            most[j] = wn_vf_set(-INFINITY);
        for (int64_t r = i; r < lines; r += groups) {
            random = random * 1664525u + 1013904223u;
            int64_t first = r * part + ((int64_t)(random >> 8) * room >> 24);
            float copy[LINE];
            first = (first + before + LINE - 1) / LINE * LINE - before;
            const float *x = block_of(row, first, LINE, copy);
            for (int j = 0; j < LINE / WN_VL; j++)
                most[j] = wn_vf_max(wn_vf_load(x + j * WN_VL), most[j]);
        }
        for (int j = 0; j < LINE / WN_VL; j++, count += WN_VL)
            wn_vf_store(maxima + count, most[j]);
    }
    return count;
}

/* What one pass tells of a bracket. */
typedef struct division {
    int64_t above, equal_high, inside, equal_low; /* scores > high, == high, between, == low */
} division;

/* Collects what is inside, without indices, as far as there is room. high: NaN for no bound. */
static division divide_row(const score_row *row, float low, float high, candidates *c)
{
    wn_vf least = wn_vf_set(low), most = wn_vf_set(high);
    division d = {0};
    float copy[BLOCK];
    c->count = 0;
    for (int64_t first = 0; first < row->length; first += BLOCK) {
        int64_t n = least_of(BLOCK, row->length - first);
        const float *x = block_of(row, first, n, copy);
        int64_t count = c->count < CANDIDATES ? c->count : CANDIDATES; /* full: overwritten */
        int64_t before = count;
        for (int64_t i = 0; i < n; i += WN_VL) {
            wn_vf v = load_scores(x, i, n);
            uint32_t reach = wn_lanes_at_least(v, most);
            uint32_t inside = wn_lanes_above(v, least) & ~reach;
            d.above += __builtin_popcount(wn_lanes_above(v, most));
            d.equal_high += __builtin_popcount(wn_lanes_equal(v, most));
            d.equal_low += __builtin_popcount(wn_lanes_equal(v, least));
            wn_pack_ints((int32_t *)c->score + count, inside, wn_vf_bits(v));
            count += __builtin_popcount(inside);
        }
        d.inside += count - before;
        c->count = count;
    }
    d.equal_low = low == high ? 0 : d.equal_low;
    return d;
}

/* The threshold of the k greatest of a row. low, high: keys, a first guess at what encloses it. It
 * is always in [least, greatest]; a guess that was wrong or left too many halves that. */
static threshold narrow(const score_row *row, int64_t k, int64_t low, int64_t high, candidates *c)
{
    int64_t least = key_of(-FLT_MAX), greatest = key_of(INFINITY);
    while (least <= greatest) {
        division d = divide_row(row, score_of(low), score_of(high), c);
        int64_t rest = k - d.above;
        if (rest <= 0)
            least = high + 1;
        else if (rest <= d.equal_high)
            return (threshold){score_of(high), rest};
        else if (rest <= d.equal_high + d.inside && d.inside == c->count)
            return find_threshold(c->score, c->count, rest - d.equal_high, 0);
        else if (rest <= d.equal_high + d.inside)
            least = low + 1, greatest = high - 1;
        else if (rest <= d.equal_high + d.inside + d.equal_low)
            return (threshold){score_of(low), rest - d.equal_high - d.inside};
        else
            greatest = low - 1;
        low = least + (greatest - least) / 2;
        high = greatest + 1;
    }
    return (threshold){-FLT_MAX, ALL}; /* fewer than k can be chosen */
}

/* Much of a row is wanted, or its sample deceived. sample: room for one. */
static void choose_wide(writer *w, const score_row *row, int64_t k, float *sample, candidates *c)
{
    int64_t n = take_sample(row, lines_of(row, WIDE_LINES), 1, sample);
    double expected = (double)k * (double)n / (double)row->length, spread = 5 * sqrt(expected) + 8;
    float low = -FLT_MAX, high = INFINITY;
    if (expected + spread < (double)n)
        low = find_threshold(sample, n, (int64_t)(expected + spread), 0).least;
    if (expected - spread >= 1)
        high = find_threshold(sample, n, (int64_t)(expected - spread), 0).least;
    w->threshold = narrow(row, k, key_of(low), key_of(high), c);
    write_row(w, row);
}

/* A bound that about share * length of the scores reach, NaN if it is one that very many equal. */
static float bound_of(const score_row *row, double share, float *sample)
{
    int64_t lines = lines_of(row, SAMPLE_LINES);
    double rank = share * (double)(lines * LINE);
    int64_t size = (int64_t)((double)(lines * LINE) / (4 * rank));
    int64_t n = take_sample(row, lines, size > 1 ? size : 1, sample);
    /* so many groups have one of them */
    int64_t groups = size > 1 ? (int64_t)(rank / (1 + rank / (double)(2 * n))) : (int64_t)rank;
    float bound = find_threshold(sample, n, groups, groups / 16).least;
    return count_at_least(sample, n, bound) > n - n / 8 ? NAN : bound;
}

/* A row of several blocks. The bound is the score of a rank of the sample that k scores of the row
 * reach almost surely; should they not, or should neighbours be so alike that the sample is worth
 * less than it looks, a lower one is tried. */
static void choose_long(writer *w, const score_row *row, int64_t k, candidates *c)
{
    _Alignas(64) float sample[WIDE_LINES * LINE];
    double n = (double)(lines_of(row, SAMPLE_LINES) * LINE);
    double share = (double)k / (double)row->length;
    share += (4 * sqrt(share * n) + 4) / n;
    for (; share < 1 && share * (double)row->length < 0.8 * CANDIDATES; share *= 2) {
        float bound = bound_of(row, share, sample);
        bool few = share < 1.0 / 16;
        if (isnan(bound) || !(collect_row(c, row, bound, few) ||
                              (few && collect_row(c, row, bound, false)))) /* without NaN */
            break;
        extent e = extent_of(c->score, c->count);
        c->nan_met |= e.count < c->count;
        if (e.count < k && bound > -FLT_MAX)
            continue;
        w->threshold = threshold_within(c->score, c->count, e, k, 0);
        write_candidates(w, c);
        return;
    }
    c->nan_met = true; /* nobody looked for them */
    choose_wide(w, row, k, sample, c);
}

/* ---------------------------------------------------------------- rows */

static int64_t count_nan(const float *x, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += WN_VL) {
        wn_vf v = load_scores(x, i, n);
        count += __builtin_popcount(wn_vm_bits(wn_vf_is_nan(v)));
    }
    return count;
}

static int64_t count_nan_row(const score_row *row)
{
    float copy[BLOCK];
    int64_t count = 0;
    for (int64_t i = 0; i < row->length; i += BLOCK) {
        int64_t n = least_of(BLOCK, row->length - i);
        count += count_nan(block_of(row, i, n, copy), n);
    }
    return count;
}

static void topk_row(const wn_topk_args *a, int64_t r)
{
    score_row row = {(const float *)a->scores.data + r * a->scores.stride[0], a->scores.stride[1],
                     a->length != NULL ? a->length[r] : a->scores.shape[1]};
    writer w = {.out = (int32_t *)a->indices.data + r * a->indices.stride[0],
                .stride = a->indices.stride[1],
                .width = a->indices.shape[1]};
    int64_t k = w.wanted = a->k != NULL ? a->k[r] : w.width;
    candidates c;
    float copy[BLOCK];
    c.nan_met = true;
    if (k > 0 && row.length > 0 && row.length <= BLOCK)
        choose_short(&w, block_of(&row, 0, row.length, copy), row.length, k, &c);
    else if (k > 0 && row.length > 0)
        choose_long(&w, &row, k, &c);
    if (a->count != NULL)
        a->count[r] = (int32_t)w.found;
    for (int64_t i = w.found; i < w.width; i++)
        w.out[i * w.stride] = -1;
    int64_t nans = a->nan_count != NULL && c.nan_met ? count_nan_row(&row) : 0;
    if (nans > 0)
        atomic_fetch_add_explicit((_Atomic int64_t *)a->nan_count, nans, memory_order_relaxed);
}

/* Neighbouring rows that make an item, so that dealing out short rows costs less than they do. */
static int64_t rows_per_item(const wn_topk_args *a)
{
    int64_t width = a->scores.shape[1];
    return width > 0 && width < TINY_WORK / 2 ? TINY_WORK / 2 / width : 1;
}

static void topk_body(void *argument, int64_t item)
{
    const wn_topk_args *a = argument;
    int64_t rows = rows_per_item(a), end = least_of((item + 1) * rows, a->scores.shape[0]);
    for (int64_t r = item * rows; r < end; r++)
        topk_row(a, r);
}

wn_status WN_CPU(topk)(const wn_topk_args *args)
{
    wn_status status = wn_refuse_topk(args);
    if (status != WN_OK)
        return status;
    int64_t rows = args->scores.shape[0], per_item = rows_per_item(args);
    bool tiny = rows * args->scores.shape[1] <= TINY_WORK;
    wn_for_each(tiny ? NULL : args->executor, (rows + per_item - 1) / per_item, topk_body,
                (void *)args);
    return WN_OK;
}
