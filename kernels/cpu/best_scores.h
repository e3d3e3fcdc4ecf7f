/* best_scores.h: the k greatest of scores that come in the order of their slots, kept while they
 * come. New scores that beat the threshold wait in a small buffer; when it is full, the k-th
 * greatest of what is kept and what waits becomes the threshold, and what is below it goes. Both
 * lists stay in the order of the slots, so ties fall to the lower slot by themselves and nothing is
 * ever sorted. The result is a function of the scores alone, not of the buffer's size.
 *
 * A score is kept as an integer of the same order (its key): -0 is +0, and NaN and -inf never come
 * this far. */
#ifndef WN_CPU_BEST_SCORES_H
#define WN_CPU_BEST_SCORES_H

#include "kernels/cpu/vector.h"

/* Scores that may wait, and room for them: whole vectors are written. */
enum { WN_BEST_WAITING = 2048, WN_BEST_ROOM = WN_BEST_WAITING + WN_VL };

typedef struct wn_best {
    int32_t *key, *slot;                 /* [k] kept: caller's */
    int32_t *waiting_key, *waiting_slot; /* [WN_BEST_ROOM] */
    int64_t k, count, waiting;
    int32_t least;   /* with k kept: the key of the least of them; else below every key */
    float threshold; /* the same as a score: only greater ones can enter */
} wn_best;

#ifdef __AVX512F__
WN_INLINE wn_vi wn_best_keys(wn_vf score)
{
    __m512i bits = _mm512_castps_si512(wn_vf_add(score, wn_vf_zero())); /* -0 becomes +0 */
    return _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
}
/* The lanes of a mask first, in their order. */
WN_INLINE wn_vi wn_best_pack(wn_vi x, uint32_t lanes)
{
    return _mm512_maskz_compress_epi32((__mmask16)lanes, x);
}
WN_INLINE wn_vi wn_best_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}
WN_INLINE void wn_best_store(int32_t *p, wn_vi x)
{
    _mm512_storeu_si512(p, x);
}
WN_INLINE uint32_t wn_best_greater(wn_vi a, wn_vi b)
{
    return _mm512_cmpgt_epi32_mask(a, b);
}
WN_INLINE uint32_t wn_best_equal(wn_vi a, wn_vi b)
{
    return _mm512_cmpeq_epi32_mask(a, b);
}
/* slot, slot + 1, ... */
WN_INLINE wn_vi wn_best_slots(int64_t slot)
{
    return _mm512_add_epi32(wn_vi_set((int32_t)slot), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8,
                                                                        9, 10, 11, 12, 13, 14, 15));
}
#else
WN_INLINE wn_vi wn_best_keys(wn_vf score)
{
    __m256i bits = _mm256_castps_si256(wn_vf_add(score, wn_vf_zero()));
    return _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
}
WN_INLINE wn_vi wn_best_pack(wn_vi x, uint32_t lanes)
{
    uint64_t bytes = _pdep_u64(lanes, 0x0101010101010101) * 255;
    uint64_t order = _pext_u64(0x0706050403020100, bytes);
    return _mm256_permutevar8x32_epi32(x, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)order)));
}
WN_INLINE wn_vi wn_best_load(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
WN_INLINE void wn_best_store(int32_t *p, wn_vi x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}
WN_INLINE uint32_t wn_best_greater(wn_vi a, wn_vi b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)));
}
WN_INLINE uint32_t wn_best_equal(wn_vi a, wn_vi b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)));
}
WN_INLINE wn_vi wn_best_slots(int64_t slot)
{
    return _mm256_add_epi32(wn_vi_set((int32_t)slot), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

WN_INLINE float wn_best_score(int32_t key)
{
    float score;
    key ^= (int32_t)((uint32_t)(key >> 31) >> 1);
    memcpy(&score, &key, sizeof score);
    return score;
}

static inline wn_best wn_best_begin(int64_t k, int32_t *key, int32_t *slot, int32_t *waiting_key,
                                    int32_t *waiting_slot)
{
    return (wn_best){.key = key,
                     .slot = slot,
                     .waiting_key = waiting_key,
                     .waiting_slot = waiting_slot,
                     .k = k,
                     .least = INT32_MIN,
                     .threshold = k > 0 ? -INFINITY : INFINITY};
}

/* How many of key[count] are at least `least`. */
static inline int64_t wn_best_count(const int32_t *key, int64_t count, int32_t least)
{
    const wn_vi below = wn_vi_set(least - 1);
    int64_t found = 0, i = 0;
#ifdef __AVX512F__
    for (; i + 16 <= count; i += 16)
        found += __builtin_popcount(wn_best_greater(wn_best_load(key + i), below));
#else
    __m256i sum = _mm256_setzero_si256();
    for (; i + 8 <= count; i += 8) /* a lane that is greater is -1 */
        sum = _mm256_sub_epi32(sum, _mm256_cmpgt_epi32(wn_best_load(key + i), below));
    int32_t lane[8];
    wn_best_store(lane, sum);
    for (int j = 0; j < 8; j++)
        found += lane[j];
#endif
    for (; i < count; i++)
        found += key[i] >= least;
    return found;
}

/* Widens [*low, *high] to hold key[count]. */
static inline void wn_best_range(const int32_t *key, int64_t count, int32_t *low, int32_t *high)
{
    for (int64_t i = 0; i < count; i++) {
        *low = key[i] < *low ? key[i] : *low;
        *high = key[i] > *high ? key[i] : *high;
    }
}

/* The key of the k-th greatest of all, found bit by bit below those that all have in common; more
 * than k are there. *equal: how many of those with this very key are among the k greatest. */
static inline int32_t wn_best_kth(const wn_best *b, int64_t *equal)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    wn_best_range(b->key, b->count, &low, &high);
    wn_best_range(b->waiting_key, b->waiting, &low, &high);
    *equal = b->k;
    if (low == high)
        return low;
    int64_t above = 0; /* keys that are greater than the known bits allow */
    uint32_t bit = 0x80000000u >> __builtin_clz((uint32_t)low ^ (uint32_t)high);
    uint32_t known = ((uint32_t)low ^ 0x80000000u) & ~(bit | (bit - 1)); /* as if unsigned */
    for (; bit != 0; bit >>= 1) {
        int32_t candidate = (int32_t)((known | bit) ^ 0x80000000u);
        int64_t count = wn_best_count(b->key, b->count, candidate) +
                        wn_best_count(b->waiting_key, b->waiting, candidate);
        if (count >= b->k)
            known |= bit;
        else
            above = count;
        if (count == b->k) { /* the k greatest are those from here on */
            *equal = b->count + b->waiting;
            return candidate;
        }
    }
    *equal = b->k - above;
    return (int32_t)(known ^ 0x80000000u);
}

/* Those of key[count] that belong to the k greatest, to the end of what is kept, which may be the
 * very same list. Whole vectors are written where that reaches nothing that is still needed. */
static inline void wn_best_keep(wn_best *b, const int32_t *key, const int32_t *slot, int64_t count,
                                int32_t least, int64_t *equal)
{
    int64_t kept = b->count, i = 0;
    for (; i + WN_VL <= count && kept + WN_VL <= b->k && *equal > WN_VL; i += WN_VL) {
        wn_vi x = wn_best_load(key + i), at = wn_best_load(slot + i);
        uint32_t same = wn_best_equal(x, wn_vi_set(least));
        uint32_t lanes = wn_best_greater(x, wn_vi_set(least)) | same;
        *equal -= __builtin_popcount(same);
        wn_best_store(b->key + kept, wn_best_pack(x, lanes));
        wn_best_store(b->slot + kept, wn_best_pack(at, lanes));
        kept += __builtin_popcount(lanes);
    }
    for (; i < count; i++) {
        int32_t x = key[i], at = slot[i];
        int64_t is_equal = x == least && *equal > 0;
        *equal -= is_equal;
        if (x > least || is_equal) {
            b->key[kept] = x;
            b->slot[kept++] = at;
        }
    }
    b->count = kept;
}

/* Nothing waits any longer. */
static inline void wn_best_merge(wn_best *b)
{
    int64_t equal, count = b->count;
    if (count + b->waiting <= b->k) {
        memcpy(b->key + count, b->waiting_key, (size_t)b->waiting * sizeof *b->key);
        memcpy(b->slot + count, b->waiting_slot, (size_t)b->waiting * sizeof *b->slot);
        b->count += b->waiting;
        b->waiting = 0;
        return;
    }
    int32_t least = wn_best_kth(b, &equal);
    b->count = 0;
    wn_best_keep(b, b->key, b->slot, count, least, &equal);
    wn_best_keep(b, b->waiting_key, b->waiting_slot, b->waiting, least, &equal);
    b->waiting = 0;
    b->least = least;
    b->threshold = wn_best_score(least);
}

/* Before up to `count` scores are offered. */
WN_INLINE void wn_best_reserve(wn_best *b, int64_t count)
{
    if (b->waiting + count > WN_BEST_WAITING)
        wn_best_merge(b);
}

/* The scores in these lanes, of slots slot + lane; there must be room. */
WN_INLINE void wn_best_enter(wn_best *b, wn_vf score, int64_t slot, uint32_t lanes)
{
    wn_best_store(b->waiting_key + b->waiting, wn_best_pack(wn_best_keys(score), lanes));
    wn_best_store(b->waiting_slot + b->waiting, wn_best_pack(wn_best_slots(slot), lanes));
    b->waiting += __builtin_popcount(lanes);
}

/* Up to WN_VL keys that another choice has kept, those above the threshold; there must be room. */
WN_INLINE void wn_best_enter_kept(wn_best *b, const int32_t *key, const int32_t *slot,
                                  int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        b->waiting_key[b->waiting] = key[i];
        b->waiting_slot[b->waiting] = slot[i];
        b->waiting += key[i] > b->least;
    }
}

#endif
