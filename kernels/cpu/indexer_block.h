/* indexer_block.h: the arithmetic of indexer scores. A query's heads lie in the lanes, packed once;
 * a key is broadcast four bytes (a word) at a time. What a word holds is the form:
 *
 *   F32   a float        FMA; any keys and queries
 *   BF16  two bfloat16   vdpbf16ps, twice the rate; keys and queries that are exact in bfloat16
 *   I8    four bytes     keys as code + 64 (or + 128), queries as codes of seven bits; integer
 * sums, hence exact: vpdpbusd, or vpmaddubsw where two of its results add up in 16 bits because all
 * are of seven
 *
 * A block is some keys by some vectors of heads, whose dot products stay in registers until all
 * channels are in; then max(., 0) times the head's weight is added to a vector per key. Each
 * score's arithmetic is the same wherever its key lies in a block, and whoever shares it. */
#ifndef WN_CPU_INDEXER_BLOCK_H
#define WN_CPU_INDEXER_BLOCK_H

#include "kernels/cpu/vector.h"

enum wn_indexer_form { WN_INDEXER_F32, WN_INDEXER_BF16, WN_INDEXER_I8, WN_INDEXER_I8_WIDE };

/* Keys by vectors of heads of a block. */
#ifdef __AVX512F__
enum { WN_BLOCK_KEYS = 6, WN_BLOCK_VECTORS = 4, WN_BYTE_KEYS = 6, WN_BYTE_VECTORS = 4 };
#else
enum { WN_BLOCK_KEYS = 6, WN_BLOCK_VECTORS = 2, WN_BYTE_KEYS = 2, WN_BYTE_VECTORS = 4 };
#endif

/* Keys that are converted at once: a multiple of the keys of a block, and of 8. */
enum { WN_INDEXER_STRIP = 48 };

/* WN_VL heads, packed: words[words][WN_VL], then a vector each of
 *   the weights; 0 for lanes without a head
 *   F32, BF16: all bits set where there is a head
 *   I8: what the sum begins with, to make up for the keys' offset of 64; and of 128 */
enum { WN_PACKED_EXTRA = 3 };

static inline int64_t wn_packed_stride(int64_t words)
{
    return (words + WN_PACKED_EXTRA) * WN_VL;
}

/* ---------------------------------------------------------------- integer vectors */

#ifdef __AVX512F__
#define WN_VI(name) _mm512_##name
WN_INLINE wn_vi wn_vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
WN_INLINE wn_vi wn_vi_and(wn_vi a, wn_vi b)
{
    return _mm512_and_si512(a, b);
}
WN_INLINE wn_vi wn_vi_zero(void)
{
    return _mm512_setzero_si512();
}
#else
#define WN_VI(name) _mm256_##name
WN_INLINE wn_vi wn_vi_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
WN_INLINE wn_vi wn_vi_and(wn_vi a, wn_vi b)
{
    return _mm256_and_si256(a, b);
}
WN_INLINE wn_vi wn_vi_zero(void)
{
    return _mm256_setzero_si256();
}
#endif

/* A word in every lane, in a register. */
WN_INLINE wn_vi wn_word(const uint32_t *p)
{
    wn_vi x;
    __asm__("vpbroadcastd %1, %0" : "=v"(x) : "m"(*p));
    return x;
}

/* ---------------------------------------------------------------- sums of products */

#define WN_MOST_KEYS 6
#define WN_MOST_VECTORS 4
typedef wn_vi wn_sums[WN_MOST_KEYS][WN_MOST_VECTORS];

/* Forms of which a word is one step: sum + key word * head words. Assembly, because gcc 12 spills
 * the sums of the intrinsics' form. */
WN_INLINE void wn_step(int form, wn_vi *sum, wn_vi key, wn_vi head)
{
    if (form == WN_INDEXER_BF16)
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(*sum) : "v"(key), "v"(head));
    else if (form == WN_INDEXER_I8_WIDE)
        __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(key), "v"(head));
    else
        __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(key), "v"(head));
}

WN_INLINE void wn_sum_words(int form, const uint32_t *heads, int64_t stride, const uint32_t *keys,
                            int64_t words, int num_keys, int num_vectors, wn_sums sum)
{
    for (int64_t w = 0; w < words; w++) {
        wn_vi head[WN_MOST_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < num_vectors; v++) {
            head[v] = wn_vi_load(heads + v * stride + w * WN_VL);
            __asm__("" : "+v"(head[v]));
        }
#pragma GCC unroll 6
        for (int i = 0; i < num_keys; i++) {
            wn_vi key = wn_word(keys + i * words + w);
#pragma GCC unroll 4
            for (int v = 0; v < num_vectors; v++)
                wn_step(form, &sum[i][v], key, head[v]);
        }
    }
}

/* Bytes without dot product instructions. words: a multiple of 2. */
WN_INLINE void wn_sum_bytes(int is_wide, const uint32_t *heads, int64_t stride,
                            const uint32_t *keys, int64_t words, int num_keys, int num_vectors,
                            wn_sums sum)
{
    const wn_vi one = WN_VI(set1_epi16)(1);
    for (int64_t w = 0; w < words; w += 2) {
        wn_vi key[WN_MOST_KEYS][2];
#pragma GCC unroll 6
        for (int i = 0; i < num_keys; i++) {
            key[i][0] = wn_word(keys + i * words + w);
            key[i][1] = wn_word(keys + i * words + w + 1);
        }
#pragma GCC unroll 4
        for (int v = 0; v < num_vectors; v++) {
            wn_vi a = wn_vi_load(heads + v * stride + w * WN_VL);
            wn_vi b = wn_vi_load(heads + v * stride + (w + 1) * WN_VL);
            __asm__("" : "+v"(a), "+v"(b));
#pragma GCC unroll 6
            for (int i = 0; i < num_keys; i++) {
                wn_vi x = WN_VI(maddubs_epi16)(key[i][0], a),
                      y = WN_VI(maddubs_epi16)(key[i][1], b);
                if (is_wide)
                    x = wn_vi_add(WN_VI(madd_epi16)(x, one), WN_VI(madd_epi16)(y, one));
                else
                    x = WN_VI(madd_epi16)(WN_VI(add_epi16)(x, y), one);
                sum[i][v] = wn_vi_add(sum[i][v], x);
            }
        }
    }
}

/* ---------------------------------------------------------------- one block */

/* total[num_keys][WN_VL] += weight * max(dot product, 0), heads in the order of their vectors. */
WN_INLINE void wn_block(int form, const uint32_t *heads, const uint32_t *keys, int64_t words,
                        int num_keys, int num_vectors, float *total)
{
    const int is_byte = form == WN_INDEXER_I8 || form == WN_INDEXER_I8_WIDE;
    const int64_t stride = wn_packed_stride(words);
    const uint32_t *extra = heads + words * WN_VL;
    wn_sums sum;
#pragma GCC unroll 4
    for (int v = 0; v < num_vectors; v++)
#pragma GCC unroll 6
        for (int i = 0; i < num_keys; i++)
            sum[i][v] =
                is_byte
                    ? wn_vi_load(extra + v * stride + (form == WN_INDEXER_I8_WIDE ? 2 : 1) * WN_VL)
                    : wn_vi_zero();
#ifdef __AVX512VNNI__
    wn_sum_words(form, heads, stride, keys, words, num_keys, num_vectors, sum);
#else
    if (is_byte)
        wn_sum_bytes(form == WN_INDEXER_I8_WIDE, heads, stride, keys, words, num_keys, num_vectors,
                     sum);
    else
        wn_sum_words(form, heads, stride, keys, words, num_keys, num_vectors, sum);
#endif
#pragma GCC unroll 6
    for (int i = 0; i < num_keys; i++) {
        wn_vf s = wn_vf_load(total + i * WN_VL);
#pragma GCC unroll 4
        for (int v = 0; v < num_vectors; v++) {
            wn_vf weight = wn_vf_load((const float *)(extra + v * stride)), dot;
            if (is_byte)
                dot = WN_VI(cvtepi32_ps)(WN_VI(max_epi32)(sum[i][v], wn_vi_zero()));
            else /* NaN passes max: it is the second operand */
                dot = wn_vi_as_float(
                    wn_vi_and(wn_vf_bits(wn_vf_max(wn_vf_zero(), wn_vi_as_float(sum[i][v]))),
                              wn_vi_load(extra + v * stride + WN_VL)));
            s = wn_vf_fma(dot, weight, s);
        }
        wn_vf_store(total + i * WN_VL, s);
    }
}

/* A function for each form and number of vectors, so that nothing else wants registers. */
#define WN_BLOCKS(X)                                                                               \
    X(WN_INDEXER_F32, WN_BLOCK_KEYS, 1)                                                            \
    X(WN_INDEXER_F32, WN_BLOCK_KEYS, 2)                                                            \
    WN_BLOCKS_WIDER(X)                                                                             \
    X(WN_INDEXER_I8_WIDE, WN_BYTE_KEYS, 1)                                                         \
    X(WN_INDEXER_I8_WIDE, WN_BYTE_KEYS, 2)                                                         \
    X(WN_INDEXER_I8_WIDE, WN_BYTE_KEYS, 3)                                                         \
    X(WN_INDEXER_I8_WIDE, WN_BYTE_KEYS, 4)                                                         \
    WN_BLOCKS_NARROW(X) WN_BLOCKS_BF16(X)
#ifdef __AVX512F__
#define WN_BLOCKS_WIDER(X) X(WN_INDEXER_F32, WN_BLOCK_KEYS, 3) X(WN_INDEXER_F32, WN_BLOCK_KEYS, 4)
#else
#define WN_BLOCKS_WIDER(X)
#endif
#ifdef __AVX512VNNI__
#define WN_BLOCKS_NARROW(X)
#else
#define WN_BLOCKS_NARROW(X)                                                                        \
    X(WN_INDEXER_I8, WN_BYTE_KEYS, 1)                                                              \
    X(WN_INDEXER_I8, WN_BYTE_KEYS, 2)                                                              \
    X(WN_INDEXER_I8, WN_BYTE_KEYS, 3)                                                              \
    X(WN_INDEXER_I8, WN_BYTE_KEYS, 4)
#endif
#ifdef __AVX512BF16__
#define WN_BLOCKS_BF16(X)                                                                          \
    X(WN_INDEXER_BF16, WN_BLOCK_KEYS, 1)                                                           \
    X(WN_INDEXER_BF16, WN_BLOCK_KEYS, 2)                                                           \
    X(WN_INDEXER_BF16, WN_BLOCK_KEYS, 3)                                                           \
    X(WN_INDEXER_BF16, WN_BLOCK_KEYS, 4)
#else
#define WN_BLOCKS_BF16(X)
#endif

typedef void wn_block_function(const uint32_t *heads, const uint32_t *keys, int64_t words,
                               float *total);
#define WN_BLOCK_NAME(form, vectors) block_##form##_##vectors
#define WN_BLOCK_DEFINE(form, keys_, vectors)                                                      \
    static __attribute__((noinline)) void WN_BLOCK_NAME(form, vectors)(                            \
        const uint32_t *heads, const uint32_t *keys, int64_t words, float *total)                  \
    {                                                                                              \
        wn_block(form, heads, keys, words, keys_, vectors, total);                                 \
    }
WN_BLOCKS(WN_BLOCK_DEFINE)
#define WN_BLOCK_ENTRY(form, keys_, vectors) [form][vectors] = WN_BLOCK_NAME(form, vectors),
static wn_block_function *const wn_block_functions[4][WN_MOST_VECTORS + 1] = {
    WN_BLOCKS(WN_BLOCK_ENTRY)};

/* All heads of a query with the first `count` keys of a strip, a multiple of the block's keys.
 * ahead: as many addresses whose `ahead_bytes` are fetched on the way; or NULL. */
static inline void wn_blocks(int form, const uint32_t *heads, int64_t num_vectors,
                             const uint32_t *keys, int64_t words, int64_t count,
                             const uint8_t *const *ahead, int64_t ahead_bytes, float *total)
{
    const int is_byte = form == WN_INDEXER_I8 || form == WN_INDEXER_I8_WIDE;
    const int block_keys = is_byte ? WN_BYTE_KEYS : WN_BLOCK_KEYS;
    const int most = is_byte ? WN_BYTE_VECTORS : WN_BLOCK_VECTORS;
    for (int64_t v = 0; v < num_vectors; v += most) {
        const int64_t vectors = num_vectors - v < most ? num_vectors - v : most;
        for (int64_t i = 0; i < count; i += block_keys) {
            for (int64_t j = i; v == 0 && ahead != NULL && j < i + block_keys; j++)
                for (int64_t byte = 0; byte < ahead_bytes && ahead[j] != NULL; byte += 64)
                    __builtin_prefetch(ahead[j] + byte, 0, 2);
            wn_block_functions[form][vectors](heads + v * wn_packed_stride(words), keys + i * words,
                                              words, total + i * WN_VL);
        }
    }
}

/* ---------------------------------------------------------------- scores */

/* The 8 lanes of a total, 16 of them added in halves. */
WN_INLINE __m256 wn_fold(const float *total)
{
#ifdef __AVX512F__
    return _mm256_add_ps(_mm256_loadu_ps(total), _mm256_loadu_ps(total + 8));
#else
    return _mm256_loadu_ps(total);
#endif
}

/* score[i] = scale[i] * the sum of total[i], for 8 keys. */
WN_INLINE void wn_score_8(const float *total, const float *scale, float *score)
{
    __m256 pair[4], half[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        pair[i] =
            _mm256_hadd_ps(wn_fold(total + 2 * i * WN_VL), wn_fold(total + (2 * i + 1) * WN_VL));
    half[0] = _mm256_hadd_ps(pair[0], pair[1]); /* keys 0 .. 3 of the low lanes, of the high ones */
    half[1] = _mm256_hadd_ps(pair[2], pair[3]);
    __m256 sum = _mm256_add_ps(_mm256_permute2f128_ps(half[0], half[1], 0x20),
                               _mm256_permute2f128_ps(half[0], half[1], 0x31));
    _mm256_storeu_ps(score, _mm256_mul_ps(sum, _mm256_loadu_ps(scale)));
}

/* Scores of one query with `count` keys, whose words and scales are there up to a multiple of 8
 * and 6.
 */
static inline void wn_score_strip(int form, const uint32_t *heads, int64_t num_vectors,
                                  const uint32_t *keys, const float *scale, int64_t words,
                                  int64_t count, const uint8_t *const *ahead, int64_t ahead_bytes,
                                  float *score)
{
    _Alignas(64) float total[WN_INDEXER_STRIP * WN_VL] = {0};
    const int64_t keys_of_block = WN_BLOCK_KEYS > WN_BYTE_KEYS ? WN_BLOCK_KEYS : WN_BYTE_KEYS;
    count = (count + keys_of_block - 1) / keys_of_block * keys_of_block;
    wn_blocks(form, heads, num_vectors, keys, words, count, ahead, ahead_bytes, total);
    for (int64_t i = 0; i < count; i += 8)
        wn_score_8(total + i * WN_VL, scale + i, score + i);
}

#endif
