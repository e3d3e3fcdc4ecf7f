/* row_block.h: the register-blocked product of latent attention, with one operand left in its rows.
 *
 *   c[i][lanes] += sum over k < n of a(i, k) * b[k][lanes],   i < WN_ROW_BLOCK
 *
 * a is a block of keys, one after another in memory, `stride` words apart. For Q K^T its rows are
 * keys and k goes over channels: a(i, k) = a[i * stride + k], wn_row_block_keys. For P V its rows
 * are channels and k goes over keys: a(i, k) = a[k * stride + i], wn_row_block_channels. So a key
 * is converted and written once and serves as key and as value, without being packed twice
 * (block_fma.h, whose operands are both packed, is for keys and values that differ). b and c are
 * panels of one or two vectors of lanes (query heads), 64-byte aligned.
 *
 * A word is a float or, with BF16 and `pairs`, two bfloat16 that are neighbours in k. What comes
 * out of a lane depends on the values and on n alone: k ascends, one FMA after another. */
#ifndef WN_CPU_ROW_BLOCK_H
#define WN_CPU_ROW_BLOCK_H

#include "kernels/cpu/vector.h"

#include <stdbool.h>

#ifdef __AVX512F__
enum { WN_ROW_BLOCK = 8 }; /* 16 accumulators of 32 registers; 12 rows are no faster */
#else
enum { WN_ROW_BLOCK = 6 }; /* 12 accumulators, 2 vectors of b, 2 numbers of a: all 16 registers */
#endif

WN_INLINE wn_vf wn_row_block_multiply(const bool pairs, wn_vf a, wn_vf b, wn_vf sum)
{
#ifdef __AVX512BF16__
    if (pairs)
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
    (void)pairs;
    return wn_vf_fma(a, b, sum);
}

/* Any width and either form; vectors, pairs, row and step are constants where it matters. */
WN_INLINE void wn_row_block_plain(const int vectors, const bool pairs, int64_t n, const float *a,
                                  int64_t row, int64_t step, const float *b, float *c)
{
    wn_vf sum[WN_ROW_BLOCK][2];
#pragma GCC unroll 8
    for (int i = 0; i < WN_ROW_BLOCK; i++)
        for (int v = 0; v < vectors; v++)
            sum[i][v] = wn_vf_load(c + (i * vectors + v) * WN_VL);
    for (int64_t k = 0; k < n; k++, a += step, b += vectors * WN_VL) {
        wn_vf b0 = wn_vf_load(b), b1 = vectors == 2 ? wn_vf_load(b + WN_VL) : b0;
#pragma GCC unroll 8
        for (int i = 0; i < WN_ROW_BLOCK; i++) {
            wn_vf x = wn_vf_set(a[i * row]);
            sum[i][0] = wn_row_block_multiply(pairs, x, b0, sum[i][0]);
            if (vectors == 2)
                sum[i][1] = wn_row_block_multiply(pairs, x, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < WN_ROW_BLOCK; i++)
        for (int v = 0; v < vectors; v++)
            wn_vf_store(c + (i * vectors + v) * WN_VL, sum[i][v]);
}

#ifndef __AVX512F__
/* Two vectors with AVX2 in assembly: gcc 12 spills accumulators of the form in intrinsics. ymm0 ..
 * ymm11 are the sums, ymm12 and ymm13 the vectors of b, ymm14 and ymm15 numbers of a in turn. */
#define WN_ROW_BLOCK_TWO(x, y, s0, s1, s2, s3)                                                     \
    "vbroadcastss " x ",%%ymm14\n vbroadcastss " y ",%%ymm15\n"                                    \
    "vfmadd231ps %%ymm12,%%ymm14,%%ymm" #s0 "\n vfmadd231ps %%ymm13,%%ymm14,%%ymm" #s1 "\n"        \
    "vfmadd231ps %%ymm12,%%ymm15,%%ymm" #s2 "\n vfmadd231ps %%ymm13,%%ymm15,%%ymm" #s3 "\n"
#define WN_ROW_BLOCK_B(k) "vmovaps 64*" #k "(%[b]),%%ymm12\n vmovaps 64*" #k "+32(%[b]),%%ymm13\n"
/* Step k of four: rows that are keys, `s` bytes apart; s3 and s5 are 3 s and 5 s. */
#define WN_ROW_BLOCK_KEYS(k, at)                                                                   \
    WN_ROW_BLOCK_B(k)                                                                              \
    WN_ROW_BLOCK_TWO("4*" #k "(%[a])", "4*" #k "(%[a],%[s])", 0, 1, 2, 3)                          \
    WN_ROW_BLOCK_TWO("4*" #k "(%[a],%[s],2)", "4*" #k "(%[a],%[s3])", 4, 5, 6, 7)                  \
    WN_ROW_BLOCK_TWO("4*" #k "(%[a],%[s],4)", "4*" #k "(%[a],%[s5])", 8, 9, 10, 11)
/* Rows that are channels; `at` is the address of key k. */
#define WN_ROW_BLOCK_CHANNELS(k, at)                                                               \
    WN_ROW_BLOCK_B(k)                                                                              \
    WN_ROW_BLOCK_TWO("0" at, "4" at, 0, 1, 2, 3)                                                   \
    WN_ROW_BLOCK_TWO("8" at, "12" at, 4, 5, 6, 7)                                                  \
    WN_ROW_BLOCK_TWO("16" at, "20" at, 8, 9, 10, 11)
#define WN_ROW_BLOCK_LOAD(i) "vmovaps 32*" #i "(%[c]),%%ymm" #i "\n"
#define WN_ROW_BLOCK_STORE(i) "vmovaps %%ymm" #i ",32*" #i "(%[c])\n"
#define WN_ROW_BLOCK_SUMS(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
/* Four steps at a time, then the rest one by one. NEXT4, NEXT1: how a moves on. */
#define WN_ROW_BLOCK_RUN(STEP, NEXT4, NEXT1)                                                       \
    __asm__ volatile(                                                                              \
        WN_ROW_BLOCK_SUMS(WN_ROW_BLOCK_LOAD) "test %[fours],%[fours]\n jz 2f\n"                    \
                                             ".p2align 5\n"                                        \
                                             "1:\n" STEP(0, "(%[a])") STEP(1, "(%[a],%[s])")       \
                                                 STEP(2, "(%[a],%[s],2)") STEP(3, "(%[a],%[s3])")  \
                                                     NEXT4 "add $256,%[b]\n"                       \
                                                           "dec %[fours]\n jnz 1b\n"               \
                                                           "2: test %[ones],%[ones]\n jz 4f\n"     \
                                                           "3:\n" STEP(0, "(%[a])") NEXT1          \
        "add $64,%[b]\n"                                                                           \
        "dec %[ones]\n jnz 3b\n"                                                                   \
        "4:\n" WN_ROW_BLOCK_SUMS(WN_ROW_BLOCK_STORE)                                               \
        : [a] "+r"(a), [b] "+r"(b), [fours] "+r"(fours), [ones] "+r"(ones)                         \
        : [c] "r"(c), [s] "r"(s), [s3] "r"(3 * s), [s5] "r"(5 * s)                                 \
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",  \
          "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
#endif

WN_INLINE void wn_row_block_keys(const int vectors, const bool pairs, int64_t n, const float *a,
                                 int64_t stride, const float *b, float *c)
{
#ifndef __AVX512F__
    int64_t fours = n / 4, ones = n % 4, s = 4 * stride;
    if (vectors == 2) {
        WN_ROW_BLOCK_RUN(WN_ROW_BLOCK_KEYS, "add $16,%[a]\n", "add $4,%[a]\n");
        return;
    }
#endif
    wn_row_block_plain(vectors, pairs, n, a, stride, 1, b, c);
}

WN_INLINE void wn_row_block_channels(const int vectors, const bool pairs, int64_t n, const float *a,
                                     int64_t stride, const float *b, float *c)
{
#ifndef __AVX512F__
    int64_t fours = n / 4, ones = n % 4, s = 4 * stride;
    if (vectors == 2) {
        WN_ROW_BLOCK_RUN(WN_ROW_BLOCK_CHANNELS, "lea (%[a],%[s],4),%[a]\n", "add %[s],%[a]\n");
        return;
    }
#endif
    wn_row_block_plain(vectors, pairs, n, a, 1, stride, b, c);
}

#endif
