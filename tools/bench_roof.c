/* bench_roof.c: loops that do nothing but read, or nothing but multiply and add. They are the one
 * place outside kernels/cpu with compiler extensions: a roof is a statement about instructions, and
 * the command may not look into the kernels' folder. Everything is compiled for the baseline; the
 * functions for more carry their target and are asked for only where the processor has it.
 *
 * Reading: a single stream per core leaves a third of the bandwidth unused, and how many streams
 * and whether to prefetch differs between machines, so the best of twelve ways is taken, per number
 * of threads. Arithmetic: twelve independent accumulators on operands that are no zeros, because
 * multiplying zeros takes less power and so clocks higher. */
#include "tools/bench_roof.h"

#include "tools/bench_memory.h"
#include "tools/progress.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define WIDE(target_text) __attribute__((noinline, target(target_text)))
#endif

enum {
    MAX_THREADS = 1024,
    STEP = 256,    /* bytes that a stream advances at a time */
    STAGGER = 8448 /* between streams beyond their length: no power of two */
};

/* ---------------------------------------------------------------- reading */

/* The sum of ns streams of `length` bytes each from `from`; the answer keeps the loads alive. */
typedef uint64_t (*read_function)(const uint8_t *from, size_t length);

#if defined(__x86_64__)
static inline __attribute__((always_inline, target("avx2"))) uint64_t
read_streams(const uint8_t *from, size_t length, size_t streams, size_t ahead)
{
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                      _mm256_setzero_si256()};
    for (size_t at = 0; at < length; at += STEP)
        for (size_t s = 0; s < streams; s++) {
            const uint8_t *line = from + s * (length + STAGGER) + at;
            if (ahead > 0)
                for (size_t i = 0; i < STEP; i += 64)
                    _mm_prefetch((const char *)line + ahead + i, _MM_HINT_T0);
            for (size_t i = 0; i < STEP; i += 128)
                for (size_t j = 0; j < 4; j++)
                    sum[j] = _mm256_xor_si256(
                        sum[j], _mm256_loadu_si256((const __m256i *)(line + i + 32 * j)));
        }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    return (uint64_t)_mm256_extract_epi64(sum[0], 0);
}
#define WAY(streams, ahead)                                                                        \
    static WIDE("avx2") uint64_t read_##streams##_##ahead(const uint8_t *from, size_t length)      \
    {                                                                                              \
        return read_streams(from, length, streams, ahead);                                         \
    }
#define WAYS(X)                                                                                    \
    X(1, 0)                                                                                        \
    X(1, 1024)                                                                                     \
    X(1, 4096)                                                                                     \
    X(2, 0) X(2, 1024) X(2, 4096) X(4, 0) X(4, 1024) X(4, 4096) X(8, 0) X(8, 1024) X(8, 4096)
WAYS(WAY)
#undef WAY
#endif

static uint64_t read_plainly(const uint8_t *from, size_t length)
{
    uint64_t sum[4] = {0};
    for (size_t at = 0; at + 32 <= length; at += 32)
        for (size_t j = 0; j < 4; j++) {
            uint64_t word;
            memcpy(&word, from + at + 8 * j, 8);
            sum[j] ^= word;
        }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

typedef struct read_way {
    read_function read;
    uint32_t streams;
    uint32_t wide; /* needs AVX2 */
} read_way;

static const read_way read_ways[] = {{read_plainly, 1, 0},
#if defined(__x86_64__)
#define WAY(streams, ahead) {read_##streams##_##ahead, streams, 1},
                                     WAYS(WAY)
#undef WAY
#endif
};
enum { NUM_READ_WAYS = sizeof read_ways / sizeof read_ways[0] };

/* ---------------------------------------------------------------- arithmetic */

enum { ACCUMULATORS = 12 };

/* `count` rounds of ACCUMULATORS operations; the answer keeps them alive. */
typedef float (*peak_function)(int64_t count);

static float peak_plain(int64_t count)
{
    float a[ACCUMULATORS * 4];
    for (int i = 0; i < ACCUMULATORS * 4; i++)
        a[i] = 0.01f * (float)i;
    for (int64_t n = 0; n < count; n++)
        for (int i = 0; i < ACCUMULATORS * 4; i++)
            a[i] = a[i] * 0.91f + 0.13f;
    float sum = 0;
    for (int i = 0; i < ACCUMULATORS * 4; i++)
        sum += a[i];
    return sum;
}

#if defined(__x86_64__)
static WIDE("avx2,fma") float peak_avx2(int64_t count)
{
    const __m256 b = _mm256_setr_ps(.91f, .83f, .77f, .96f, .71f, .65f, .88f, .93f);
    const __m256 c = _mm256_setr_ps(.13f, .27f, .39f, .41f, .53f, .67f, .71f, .83f);
    __m256 a[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++)
        a[i] = _mm256_mul_ps(b, _mm256_set1_ps((float)i));
    for (int64_t n = 0; n < count; n++)
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            a[i] = _mm256_fmadd_ps(a[i], b, c);
    for (int i = 1; i < ACCUMULATORS; i++)
        a[0] = _mm256_add_ps(a[0], a[i]);
    return _mm256_cvtss_f32(a[0]);
}

static WIDE("avx512f") float peak_avx512(int64_t count)
{
    const __m512 b = _mm512_setr_ps(.91f, .83f, .77f, .96f, .71f, .65f, .88f, .93f, .61f, .67f,
                                    .73f, .79f, .81f, .87f, .89f, .97f);
    const __m512 c = _mm512_mul_ps(b, _mm512_set1_ps(.37f));
    __m512 a[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++)
        a[i] = _mm512_mul_ps(b, _mm512_set1_ps((float)i));
    for (int64_t n = 0; n < count; n++)
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            a[i] = _mm512_fmadd_ps(a[i], b, c);
    for (int i = 1; i < ACCUMULATORS; i++)
        a[0] = _mm512_add_ps(a[0], a[i]);
    return _mm512_cvtss_f32(a[0]);
}

/* Operands as 32-bit words: pairs of bfloat16 near 0.8, or four int8. */
static WIDE("avx512f,avx512bf16") float peak_bf16(int64_t count)
{
    __m512i words =
        _mm512_setr_epi32(0x3f4a3f5b, 0x3f6c3f3d, 0x3f2e3f7f, 0x3f503f41, 0x3f323f53, 0x3f643f75,
                          0x3f463f27, 0x3f383f49, 0x3f5a3f6b, 0x3f4c3f3d, 0x3f5e3f2f, 0x3f403f61,
                          0x3f723f33, 0x3f443f55, 0x3f663f37, 0x3f483f59);
    const __m512bh b = (__m512bh)words;
    __m512 a[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (int64_t n = 0; n < count; n++)
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            a[i] = _mm512_dpbf16_ps(a[i], b, b);
    for (int i = 1; i < ACCUMULATORS; i++)
        a[0] = _mm512_add_ps(a[0], a[i]);
    return _mm512_cvtss_f32(a[0]);
}

static WIDE("avx512f,avx512vnni") float peak_int8(int64_t count)
{
    const __m512i b =
        _mm512_setr_epi32(0x1a2b3c4d, 0x5e6f7081, 0x12233445, 0x56677889, 0x0a1b2c3d, 0x4e5f6071,
                          0x72635445, 0x36271809, 0x1b2c3d4e, 0x5f607182, 0x13243546, 0x5768798a,
                          0x0b1c2d3e, 0x4f506172, 0x73645546, 0x37281910);
    __m512i a[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++)
        a[i] = _mm512_set1_epi32(i);
    for (int64_t n = 0; n < count; n++)
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            a[i] = _mm512_dpbusd_epi32(a[i], b, b);
    for (int i = 1; i < ACCUMULATORS; i++)
        a[0] = _mm512_add_epi32(a[0], a[i]);
    return (float)_mm512_cvtsi512_si32(a[0]);
}
#endif

typedef struct peak_way {
    int roof;
    peak_function run;
    double operations; /* of one round: a multiplication and an addition count two */
    int exists;
} peak_way;

enum { MAX_PEAK_WAYS = 5 };

static int list_peak_ways(peak_way ways[MAX_PEAK_WAYS])
{
    int n = 0;
    ways[n++] = (peak_way){WN_ROOF_FMA, peak_plain, ACCUMULATORS * 8, 1};
#if defined(__x86_64__)
    int fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int wide = __builtin_cpu_supports("avx512f");
    ways[n++] = (peak_way){WN_ROOF_FMA, peak_avx2, ACCUMULATORS * 16, fma};
    ways[n++] = (peak_way){WN_ROOF_FMA, peak_avx512, ACCUMULATORS * 32, wide};
    ways[n++] = (peak_way){WN_ROOF_BF16, peak_bf16, ACCUMULATORS * 64,
                           wide && __builtin_cpu_supports("avx512bf16")};
    ways[n++] = (peak_way){WN_ROOF_INT8, peak_int8, ACCUMULATORS * 128,
                           wide && __builtin_cpu_supports("avx512vnni")};
#endif
    return n;
}

/* ---------------------------------------------------------------- samples */

struct wn_roofs {
    wn_bench_memory memory;
    uint8_t *data;
    int64_t dram_bytes, l3_bytes; /* of data, read in a sample */
    peak_way peaks[MAX_PEAK_WAYS];
    int num_peaks;
    int quick;
    uint8_t best[WN_ROOF_COUNT][MAX_THREADS + 1]; /* 1 + index of the best way; 0: not known */
    volatile uint64_t kept[64];                   /* where sums go, so that no loop is left out */
};

typedef struct job {
    wn_roofs *roofs;
    const read_way *read;
    const peak_way *peak;
    int64_t bytes, repeat; /* of one thread */
    int64_t rounds;
} job;

/* Bytes of one stream of a thread: the staggered streams must fit in the thread's part. */
static int64_t stream_length(const job *j)
{
    int64_t length = j->bytes / j->read->streams;
    if (j->read->streams > 1)
        length -= STAGGER;
    return length > 0 ? length & ~(int64_t)(STEP - 1) : 0;
}

static void read_body(void *argument, int64_t i)
{
    const job *j = argument;
    size_t length = (size_t)stream_length(j);
    const uint8_t *from = j->roofs->data + i * j->bytes;
    uint64_t sum = 0;
    for (int64_t r = 0; r < j->repeat; r++)
        sum ^= j->read->read(from, length);
    j->roofs->kept[i % 64] = sum;
}

static double read_sample(wn_roofs *roofs, int roof, const wn_executor *executor, int way)
{
    int64_t whole = roof == WN_ROOF_DRAM ? roofs->dram_bytes : roofs->l3_bytes;
    int64_t threads = executor->num_threads;
    job j = {.roofs = roofs,
             .read = &read_ways[way],
             .bytes = whole / threads & ~(int64_t)4095,
             .repeat = roof == WN_ROOF_DRAM || roofs->quick ? 1 : 6};
    double read = (double)(stream_length(&j) * j.read->streams * threads * j.repeat);
    if (roof == WN_ROOF_L3) /* what another sample has pushed out comes back first */
        executor->parallel_for(executor->context, threads, read_body, &j);
    double begun = wn_seconds();
    executor->parallel_for(executor->context, threads, read_body, &j);
    return read / (wn_seconds() - begun) * 1e-9;
}

static void peak_body(void *argument, int64_t i)
{
    const job *j = argument;
    j->roofs->kept[i % 64] = j->peak->run(j->rounds) > 0;
}

static double peak_sample(wn_roofs *roofs, const wn_executor *executor, int way)
{
    const peak_way *peak = &roofs->peaks[way];
    int64_t threads = executor->num_threads;
    job j = {.roofs = roofs, .peak = peak, .rounds = roofs->quick ? 1000 : 400000};
    double begun = wn_seconds();
    executor->parallel_for(executor->context, threads, peak_body, &j);
    return peak->operations * (double)(j.rounds * threads) / (wn_seconds() - begun) * 1e-9;
}

/* Is this way one for the roof, on this machine? */
static int fits(const wn_roofs *roofs, int roof, int way)
{
    if (roof == WN_ROOF_DRAM || roof == WN_ROOF_L3) {
#if defined(__x86_64__)
        return way < NUM_READ_WAYS && (!read_ways[way].wide || __builtin_cpu_supports("avx2"));
#else
        return way < NUM_READ_WAYS;
#endif
    }
    return way < roofs->num_peaks && roofs->peaks[way].roof == roof && roofs->peaks[way].exists;
}

static double sample_way(wn_roofs *roofs, int roof, const wn_executor *executor, int way)
{
    if (roof == WN_ROOF_DRAM || roof == WN_ROOF_L3)
        return read_sample(roofs, roof, executor, way);
    return peak_sample(roofs, executor, way);
}

static int find_best(wn_roofs *roofs, int roof, const wn_executor *executor)
{
    int best = -1;
    double most = 0;
    for (int way = 0; way < NUM_READ_WAYS || way < MAX_PEAK_WAYS; way++) {
        if (!fits(roofs, roof, way))
            continue;
        double a = sample_way(roofs, roof, executor, way);
        for (int again = 0; again < (roofs->quick ? 0 : 3); again++) {
            double b = sample_way(roofs, roof, executor, way);
            a = b > a ? b : a;
        }
        if (a > most) {
            most = a;
            best = way;
        }
    }
    return best;
}

double wn_roof_sample(wn_roofs *roofs, int roof, const wn_executor *executor)
{
    uint32_t threads = executor->num_threads;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (roofs->best[roof][threads] == 0)
        roofs->best[roof][threads] = (uint8_t)(1 + find_best(roofs, roof, executor));
    int way = roofs->best[roof][threads] - 1;
    return way >= 0 ? sample_way(roofs, roof, executor, way) : 0;
}

/* ---------------------------------------------------------------- the rest */

/* What one process may count on: half of the last cache, and no more than half of 32 MiB, because
 * others may share it and a virtual machine is told of all of it. */
static int64_t last_cache_bytes(void)
{
    int64_t bytes = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    if (bytes <= 0 || bytes > 32 << 20)
        bytes = 32 << 20;
    return bytes / 2;
}

wn_roofs *wn_roofs_open(int quick)
{
    wn_roofs *roofs = calloc(1, sizeof *roofs);
    if (roofs == NULL)
        return NULL;
    roofs->quick = quick;
    roofs->l3_bytes = quick ? 1 << 20 : last_cache_bytes();
    roofs->dram_bytes = quick ? 4 << 20 : 256 << 20;
    roofs->num_peaks = list_peak_ways(roofs->peaks);
    int64_t bytes = roofs->dram_bytes + (1 << 20); /* prefetches reach beyond the end */
    roofs->data = wn_bench_take(&roofs->memory, bytes);
    if (roofs->data == NULL) {
        wn_roofs_close(roofs);
        return NULL;
    }
    for (int64_t i = 0; i < bytes; i += 8) {
        uint64_t word = (uint64_t)i * UINT64_C(0x9E3779B97F4A7C15);
        memcpy(roofs->data + i, &word, 8);
    }
    return roofs;
}

void wn_roofs_close(wn_roofs *roofs)
{
    if (roofs != NULL)
        wn_bench_release(&roofs->memory);
    free(roofs);
}

int64_t wn_roofs_cache_bytes(const wn_roofs *roofs)
{
    return roofs->quick ? last_cache_bytes() : roofs->l3_bytes;
}

int wn_roof_exists(const wn_roofs *roofs, int roof)
{
    for (int way = 0; way < NUM_READ_WAYS || way < MAX_PEAK_WAYS; way++)
        if (fits(roofs, roof, way))
            return 1;
    return 0;
}

const char *wn_roof_name(int roof)
{
    static const char *const names[] = {
#define ROW(name, text, unit) text,
        WN_ROOF_LIST(ROW)
#undef ROW
    };
    return roof >= 0 ? names[roof] : "-";
}

const char *wn_roof_unit(int roof)
{
    static const char *const units[] = {
#define ROW(name, text, unit) unit,
        WN_ROOF_LIST(ROW)
#undef ROW
    };
    return roof >= 0 ? units[roof] : "-";
}
