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

/* Scores that may wait. */
enum { WN_BEST_WAITING = 2048 };

typedef struct wn_best {
    int32_t *key, *slot;                 /* [k] kept: caller's */
    int32_t *waiting_key, *waiting_slot; /* [WN_BEST_WAITING] */
    int64_t k, count, waiting;
    int32_t least;   /* with k kept: the key of the least of them; else below every key */
    float threshold; /* the same as a score: only greater ones can enter */
} wn_best;

WN_INLINE int32_t wn_best_key(float score)
{
    int32_t bits;
    score += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &score, sizeof bits);
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

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
    int64_t found = 0, i = 0;
#ifdef __AVX512F__
    for (; i < count; i += 16) {
        __mmask16 valid = wn_vm_first(count - i < 16 ? count - i : 16);
        __m512i x = _mm512_maskz_loadu_epi32(valid, key + i);
        found +=
            __builtin_popcount(_mm512_mask_cmpge_epi32_mask(valid, x, _mm512_set1_epi32(least)));
    }
#else
    __m256i sum = _mm256_setzero_si256(), below = _mm256_set1_epi32(least - 1);
    for (; i + 8 <= count; i += 8)
        sum = _mm256_sub_epi32(
            sum, _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)(key + i)), below));
    int32_t lane[8];
    _mm256_storeu_si256((__m256i *)lane, sum);
    for (int j = 0; j < 8; j++)
        found += lane[j];
    for (; i < count; i++)
        found += key[i] >= least;
#endif
    return found;
}

/* The key of the k-th greatest of all, found bit by bit from the top; more than k are there.
 * *equal: how many of those with this very key are among the k greatest. */
static inline int32_t wn_best_kth(const wn_best *b, int64_t *equal)
{
    uint32_t known = 0; /* the key's bits, as if unsigned */
    int64_t above = 0;  /* keys that are greater than any of these bits allows */
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
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

/* Those of key[count] that belong to the k greatest, to the end of what is kept (which may be the
 * very same list). */
static inline void wn_best_keep(wn_best *b, const int32_t *key, const int32_t *slot, int64_t count,
                                int32_t least, int64_t *equal)
{
    int64_t kept = b->count;
    for (int64_t i = 0; i < count; i++) {
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

/* There must be room. */
WN_INLINE void wn_best_enter(wn_best *b, int32_t key, int64_t slot)
{
    b->waiting_key[b->waiting] = key;
    b->waiting_slot[b->waiting++] = (int32_t)slot;
}

#endif
