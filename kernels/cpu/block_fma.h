/* block_fma.h: the product of two packed blocks, register by register: what attention over many
 * query rows, latent attention and the window's scores spend their time in.
 *
 *   c[m][WN_PANEL] (+)= sum over k < n of a[k][m] * b[k][WN_PANEL]
 *
 * b is a panel: WN_PANEL rows (two vectors of lanes) of a matrix, transposed. a is a block: m rows
 * of another, transposed, each number broadcast to all lanes. c stays in registers over all of n,
 * so that nothing goes horizontally and each FMA has one operand from memory. A block has
 * WN_BLOCK_ROWS rows, or WN_BLOCK_FEW where so many are left; wn_block_cut cuts any number of rows
 * into such blocks. They lie one after another: block i begins at i * WN_BLOCK_ROWS * n, its number
 * k of row r at k * rows + r.
 *
 * With BF16 there is the same on pairs: a and b are uint32 of two bfloat16 that are neighbours in
 * k, n counts pairs, products are exact and sums are in fp32 (denormals count as zero).
 *
 * Results depend on the values and on n alone: k ascends, one FMA after another. */
#ifndef WN_CPU_BLOCK_FMA_H
#define WN_CPU_BLOCK_FMA_H

#include "kernels/cpu/vector.h"

#include <stdbool.h>

enum {
    WN_PANEL = 2 * WN_VL,
#ifdef __AVX512F__
    WN_BLOCK_ROWS = 8, /* 16 accumulators hide the latency; 12 rows gain nothing */
#else
    WN_BLOCK_ROWS = 6, /* 12 accumulators, 2 numbers of b, 2 of a: all 16 registers */
#endif
    WN_BLOCK_FEW = 4,
    WN_BLOCK_SLACK = 8, /* floats that a packer may write beyond its last number */
};

/* How `rows` rows are cut: first `whole` blocks of WN_BLOCK_ROWS, then `few` of WN_BLOCK_FEW. The
 * last block may have rows too many; a packer fills them with zeros. */
typedef struct wn_block_cut {
    int64_t whole, few;
} wn_block_cut;

WN_INLINE wn_block_cut wn_block_cut_of(int64_t rows)
{
    int64_t whole = rows / WN_BLOCK_ROWS, rest = rows % WN_BLOCK_ROWS;
    if (rest == 0)
        return (wn_block_cut){whole, 0};
    if (rest <= WN_BLOCK_ROWS - WN_BLOCK_FEW && WN_BLOCK_ROWS < 2 * WN_BLOCK_FEW && whole > 0)
        return (wn_block_cut){whole - 1, 2}; /* 6 + 2 are 4 + 4 */
    return rest <= WN_BLOCK_FEW ? (wn_block_cut){whole, 1} : (wn_block_cut){whole + 1, 0};
}
/* Rows with those that the last block has too many. */
WN_INLINE int64_t wn_block_cut_rows(wn_block_cut cut)
{
    return cut.whole * WN_BLOCK_ROWS + cut.few * WN_BLOCK_FEW;
}

/* ---------------------------------------------------------------- the products */

#ifdef __AVX512F__

/* c[rows][WN_PANEL]; rows and pairs are constants. 32 registers hold everything: no assembly. */
WN_INLINE void wn_block_product(const int rows, const bool pairs, bool accumulate, int64_t n,
                                const void *a, const void *b, float *c, const void *ahead)
{
    __m512 sum[WN_BLOCK_ROWS][2];
    const float *x = a, *y = b;
    const char *p = ahead != NULL ? ahead : a;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        sum[i][0] = accumulate ? _mm512_load_ps(c + i * WN_PANEL) : _mm512_setzero_ps();
        sum[i][1] = accumulate ? _mm512_load_ps(c + i * WN_PANEL + WN_VL) : _mm512_setzero_ps();
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < n; k++, x += rows, y += WN_PANEL, p += rows * 4) {
        __m512 y0 = _mm512_load_ps(y), y1 = _mm512_load_ps(y + WN_VL);
        _mm_prefetch(p, _MM_HINT_T0);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512 xi = _mm512_set1_ps(x[i]);
#ifdef __AVX512BF16__
            if (pairs) {
                sum[i][0] = _mm512_dpbf16_ps(sum[i][0], (__m512bh)y0, (__m512bh)xi);
                sum[i][1] = _mm512_dpbf16_ps(sum[i][1], (__m512bh)y1, (__m512bh)xi);
                continue;
            }
#endif
            sum[i][0] = _mm512_fmadd_ps(y0, xi, sum[i][0]);
            sum[i][1] = _mm512_fmadd_ps(y1, xi, sum[i][1]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        _mm512_store_ps(c + i * WN_PANEL, sum[i][0]);
        _mm512_store_ps(c + i * WN_PANEL + WN_VL, sum[i][1]);
    }
    (void)pairs;
}

WN_INLINE void wn_block_fma(const int rows, bool accumulate, int64_t n, const float *a,
                            const float *b, float *c, const void *ahead)
{
    wn_block_product(rows, false, accumulate, n, a, b, c, ahead);
}

#ifdef __AVX512BF16__
/* a[n][rows], b[n][WN_PANEL]: pairs of bfloat16. */
WN_INLINE void wn_block_dot(const int rows, bool accumulate, int64_t n, const uint32_t *a,
                            const uint32_t *b, float *c, const void *ahead)
{
    wn_block_product(rows, true, accumulate, n, a, b, c, ahead);
}
#endif

#else

/* The steps are assembly: gcc 12 spills accumulators of the form in intrinsics, which costs a
 * quarter of the speed. ymm0 .. ymm11 are the sums, ymm12 and ymm13 the two vectors of b, ymm14 and
 * ymm15 numbers of a in turn. A and B: bytes from the pointers to this step's numbers. */
#define WN_BLOCK_ROW_PAIR(A, first, s0, s1, s2, s3)                                                \
    "vbroadcastss " #A "+4*" #first "(%[a]),%%ymm14\n"                                             \
    "vbroadcastss " #A "+4*" #first "+4(%[a]),%%ymm15\n"                                           \
    "vfmadd231ps %%ymm12,%%ymm14,%%ymm" #s0 "\n"                                                   \
    "vfmadd231ps %%ymm13,%%ymm14,%%ymm" #s1 "\n"                                                   \
    "vfmadd231ps %%ymm12,%%ymm15,%%ymm" #s2 "\n"                                                   \
    "vfmadd231ps %%ymm13,%%ymm15,%%ymm" #s3 "\n"
#define WN_BLOCK_STEP_4(A, B)                                                                      \
    "vmovaps " #B "(%[b]),%%ymm12\n"                                                               \
    "vmovaps " #B "+32(%[b]),%%ymm13\n" WN_BLOCK_ROW_PAIR(A, 0, 0, 1, 2, 3)                        \
        WN_BLOCK_ROW_PAIR(A, 2, 4, 5, 6, 7)
#define WN_BLOCK_STEP_6(A, B) WN_BLOCK_STEP_4(A, B) WN_BLOCK_ROW_PAIR(A, 4, 8, 9, 10, 11)
#define WN_BLOCK_ZERO(s) "vxorps %%xmm" #s ",%%xmm" #s ",%%xmm" #s "\n"
#define WN_BLOCK_LOAD(s) "vmovaps 32*" #s "(%[c]),%%ymm" #s "\n"
#define WN_BLOCK_STORE(s) "vmovaps %%ymm" #s ",32*" #s "(%[c])\n"
#define WN_BLOCK_SUMS_4(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define WN_BLOCK_SUMS_6(F) WN_BLOCK_SUMS_4(F) F(8) F(9) F(10) F(11)
/* Four steps at a time, two lines prefetched for them; then the rest one by one. */
#define WN_BLOCK_RUN(BEGIN, SUMS, STEP, STRIDE)                                                    \
    __asm__ volatile(                                                                              \
        SUMS(BEGIN) "test %[fours],%[fours]\n jz 2f\n"                                             \
                    ".p2align 5\n"                                                                 \
                    "1: prefetcht0 (%[p])\n prefetcht0 64(%[p])\n"                                 \
                    "add $4*" #STRIDE ",%[p]\n" STEP(0, 0) STEP(STRIDE, 64) STEP(2 * STRIDE, 128)  \
                        STEP(3 * STRIDE, 192) "add $4*" #STRIDE ",%[a]\n add $256,%[b]\n"          \
                                              "dec %[fours]\n jnz 1b\n"                            \
                                              "2: test %[ones],%[ones]\n jz 4f\n"                  \
                                              "3:\n" STEP(0, 0) "add $" #STRIDE                    \
                                                                ",%[a]\n add $64,%[b]\n"           \
                                                                "dec %[ones]\n jnz 3b\n"           \
                                                                "4:\n" SUMS(WN_BLOCK_STORE)        \
        : [a] "+r"(a), [b] "+r"(b), [p] "+r"(p), [fours] "+r"(fours), [ones] "+r"(ones)            \
        : [c] "r"(c)                                                                               \
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",  \
          "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

WN_INLINE void wn_block_fma(const int rows, bool accumulate, int64_t n, const float *a,
                            const float *b, float *c, const void *ahead)
{
    int64_t fours = n / 4, ones = n % 4;
    const void *p = ahead != NULL ? ahead : a;
    if (rows == 6 && accumulate)
        WN_BLOCK_RUN(WN_BLOCK_LOAD, WN_BLOCK_SUMS_6, WN_BLOCK_STEP_6, 24);
    else if (rows == 6)
        WN_BLOCK_RUN(WN_BLOCK_ZERO, WN_BLOCK_SUMS_6, WN_BLOCK_STEP_6, 24);
    else if (accumulate)
        WN_BLOCK_RUN(WN_BLOCK_LOAD, WN_BLOCK_SUMS_4, WN_BLOCK_STEP_4, 16);
    else
        WN_BLOCK_RUN(WN_BLOCK_ZERO, WN_BLOCK_SUMS_4, WN_BLOCK_STEP_4, 16);
}
#endif

/* ---------------------------------------------------------------- packing */

/* An 8 x 8 block of 32-bit numbers, transposed in registers. */
WN_INLINE void wn_transpose_8x8(__m256 r[8])
{
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0x44);
            u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* The first n elements, n < 8, as wn_eight_from; nothing beyond is read, the others are 0. */
WN_INLINE __m256 wn_eight_from_first(uint32_t dtype, const void *p, int64_t n)
{
    size_t bytes = dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
    uint8_t copy[32] = {0};
    memcpy(copy, p, bytes * (size_t)n);
    return wn_eight_from(dtype, copy);
}

/* Numbers [k, k + n) of the rows, n <= 8; where `rows` and n are constants, nothing is asked. */
WN_INLINE void wn_pack_eight(const uint32_t dtype, const void *const *row, const int64_t rows,
                             const float *scale, int64_t k, const int64_t n, float *out,
                             int64_t stride)
{
    const int64_t bytes = dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
    __m256 r[8];
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; i++) {
        const uint8_t *p = i < rows ? (const uint8_t *)row[i] + k * bytes : NULL;
        r[i] = i >= rows ? _mm256_setzero_ps()
               : n < 8   ? wn_eight_from_first(dtype, p, n)
                         : wn_eight_from(dtype, p);
        if (scale != NULL && i < rows)
            r[i] = _mm256_mul_ps(r[i], _mm256_set1_ps(scale[i]));
    }
    wn_transpose_8x8(r);
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8 && i < n; i++)
        _mm256_storeu_ps(out + (k + i) * stride, r[i]);
}

WN_INLINE void wn_pack_rows_of(const uint32_t dtype, const void *const *row, int64_t rows,
                               const float *scale, int64_t n, float *out, int64_t stride)
{
    int64_t k = 0;
    if (rows == 8)
        for (; k + 8 <= n; k += 8)
            wn_pack_eight(dtype, row, 8, scale, k, 8, out, stride);
    else if (rows == WN_BLOCK_ROWS)
        for (; k + 8 <= n; k += 8)
            wn_pack_eight(dtype, row, WN_BLOCK_ROWS, scale, k, 8, out, stride);
    for (; k < n; k += 8)
        wn_pack_eight(dtype, row, rows, scale, k, n - k < 8 ? n - k : 8, out, stride);
}

/* out[k * stride + i] = row[i][k] * scale[i] for i < rows <= 8, k < n. Lanes i .. 7 become 0 (with
 * a stride below 8, those of the last k are the slack behind the block). row[i]: n elements of
 * dtype, contiguous, read no further. scale: NULL for 1. For a block, stride is its rows; for a
 * panel, WN_PANEL, eight lanes at a time. */
static inline __attribute__((unused)) void wn_pack_rows(uint32_t dtype, const void *const *row,
                                                        int64_t rows, const float *scale, int64_t n,
                                                        float *out, int64_t stride)
{
    switch (dtype) {
    case WN_F16:
        wn_pack_rows_of(WN_F16, row, rows, scale, n, out, stride);
        break;
    case WN_BF16:
        wn_pack_rows_of(WN_BF16, row, rows, scale, n, out, stride);
        break;
    case WN_F8_E4M3:
        wn_pack_rows_of(WN_F8_E4M3, row, rows, scale, n, out, stride);
        break;
    case WN_I8:
        wn_pack_rows_of(WN_I8, row, rows, scale, n, out, stride);
        break;
    default:
        wn_pack_rows_of(WN_F32, row, rows, scale, n, out, stride);
    }
}

#ifdef __AVX512BF16__
/* The same for pairs of bfloat16: out[j * stride + i] = elements 2j and 2j + 1 of row i, a zero
 * behind an odd end. n: elements. */
static inline __attribute__((unused)) void wn_pack_row_pairs(const uint16_t *const *row,
                                                             int64_t rows, int64_t n, uint32_t *out,
                                                             int64_t stride)
{
    int64_t k = 0;
    for (; rows == 8 && k + 16 <= n; k += 16) {
        __m256 r[8];
#pragma GCC unroll 8
        for (int64_t i = 0; i < 8; i++)
            r[i] = _mm256_loadu_ps((const float *)(row[i] + k));
        wn_transpose_8x8(r);
#pragma GCC unroll 8
        for (int64_t j = 0; j < 8; j++)
            _mm256_storeu_ps((float *)(out + (k / 2 + j) * stride), r[j]);
    }
    for (; k < n; k += 16) {
        int64_t pairs = n - k < 16 ? (n - k + 1) / 2 : 8;
        __m256 r[8];
        for (int64_t i = 0; i < 8; i++)
            r[i] = i < rows ? _mm256_castsi256_ps(_mm256_maskz_loadu_epi16(
                                  (__mmask16)((1u << (n - k < 16 ? n - k : 16)) - 1), row[i] + k))
                            : _mm256_setzero_ps();
        wn_transpose_8x8(r);
        for (int64_t j = 0; j < pairs; j++)
            _mm256_storeu_ps((float *)(out + (k / 2 + j) * stride), r[j]);
    }
}
#endif

#endif
