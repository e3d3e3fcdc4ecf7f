/* check_harness.c: cases, guarded memory, executors, runs and comparisons: the part of the harness
 * that knows nothing of caches or numbers. */
#include "check.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_BUFFERS = 64, MAX_THREADS = 3, RUNS = MAX_THREADS + 1, MAX_PRINTED = 8 };

/* One buffer: guard page, region (whole pages, 0xff where the user's bytes are not), guard page. */
typedef struct buffer {
    uint8_t *map, *region, *user;
    size_t map_bytes, region_bytes, bytes;
    uint8_t *before; /* the region as it was before the first run */
    uint8_t *first;  /* the region after the first run */
    bool output;
} buffer;

struct wn_check_state {
    buffer buffers[MAX_BUFFERS];
    uint32_t num_buffers;
    uint32_t printed; /* failures of this case */
    int run;
    wn_error error;
    char error_text[512];
};

/* ---------------------------------------------------------------- failures and cases */

void wn_check_fail(wn_check *check, const char *format, ...)
{
    check->failures++;
    if (check->quiet || check->state->printed++ >= MAX_PRINTED)
        return;
    printf("\n    %s, %s [%s]: ", check->op, check->variant, check->text);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

static void free_buffers(struct wn_check_state *state)
{
    for (uint32_t i = 0; i < state->num_buffers; i++) {
        munmap(state->buffers[i].map, state->buffers[i].map_bytes);
        free(state->buffers[i].before);
        free(state->buffers[i].first);
    }
    state->num_buffers = 0;
}

void wn_check_case(wn_check *check, const char *format, ...)
{
    free_buffers(check->state);
    check->state->printed = 0;
    check->cases++;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(check->text, sizeof check->text, format, arguments);
    va_end(arguments);
}

/* ---------------------------------------------------------------- memory */

static void *guarded(wn_check *check, size_t bytes, bool output)
{
    struct wn_check_state *state = check->state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (state->num_buffers == MAX_BUFFERS) {
        fprintf(stderr, "check_harness.c: more than %d buffers in a case\n", MAX_BUFFERS);
        abort();
    }
    buffer *b = &state->buffers[state->num_buffers++];
    memset(b, 0, sizeof *b);
    b->region_bytes = (bytes + page - 1) / page * page;
    b->map_bytes = b->region_bytes + 2 * page;
    b->map = mmap(NULL, b->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->map == MAP_FAILED || (b->region_bytes > 0 && mprotect(b->map + page, b->region_bytes,
                                                                 PROT_READ | PROT_WRITE) != 0)) {
        perror("check_harness.c: no memory for a guarded buffer");
        abort();
    }
    b->region = b->map + page;
    b->bytes = bytes;
    b->output = output;
    b->user = b->region + (wn_random_below(&check->random, 2) ? b->region_bytes - bytes : 0);
    if (b->region_bytes > 0)
        memset(b->region, 0xff, b->region_bytes);
    return b->user;
}

void *wn_check_input(wn_check *check, size_t bytes)
{
    return guarded(check, bytes, false);
}

void *wn_check_output(wn_check *check, size_t bytes)
{
    return guarded(check, bytes, true);
}

int32_t *wn_check_ints(wn_check *check, size_t count)
{
    return wn_check_input(check, count * sizeof(int32_t));
}

void *wn_check_copy(const void *data, size_t bytes)
{
    void *copy = malloc(bytes + 1);
    if (copy == NULL)
        abort();
    if (bytes > 0)
        memcpy(copy, data, bytes);
    return copy;
}

/* The bytes around the user's in its pages. */
static bool slack_is_untouched(const buffer *b)
{
    size_t head = (size_t)(b->user - b->region), end = head + b->bytes;
    return memcmp(b->region, b->before, head) == 0 &&
           memcmp(b->region + end, b->before + end, b->region_bytes - end) == 0;
}

/* ---------------------------------------------------------------- executors */

typedef struct team {
    void (*body)(void *argument, int64_t i);
    void *argument;
    int64_t count;
    atomic_llong next;
} team;

static void *work(void *argument)
{
    team *t = argument;
    for (int64_t i = atomic_fetch_add(&t->next, 1); i < t->count; i = atomic_fetch_add(&t->next, 1))
        t->body(t->argument, i);
    return NULL;
}

static void run_backwards(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                          void *argument)
{
    (void)context;
    for (int64_t i = count; i-- > 0;)
        body(argument, i);
}

/* context: the number of threads. */
static void run_threads(void *context, int64_t count, void (*body)(void *argument, int64_t i),
                        void *argument)
{
    team t = {.body = body, .argument = argument, .count = count};
    int others = *(const int *)context - 1;
    pthread_t threads[MAX_THREADS];
    for (int i = 0; i < others; i++)
        if (pthread_create(&threads[i], NULL, work, &t) != 0)
            abort();
    work(&t);
    for (int i = 0; i < others; i++)
        pthread_join(threads[i], NULL);
}

const wn_executor *wn_check_executor(uint32_t num_threads)
{
    static int two = 2, three = 3;
    static const wn_executor executors[] = {
        {WN_SIZEOF(wn_executor), 1, NULL, run_backwards},
        {WN_SIZEOF(wn_executor), 2, &two, run_threads},
        {WN_SIZEOF(wn_executor), 3, &three, run_threads},
    };
    return num_threads == 0 ? NULL : &executors[num_threads - 1];
}

/* ---------------------------------------------------------------- runs */

static void snapshot(wn_check *check)
{
    struct wn_check_state *state = check->state;
    for (uint32_t i = 0; i < state->num_buffers; i++) {
        buffer *b = &state->buffers[i];
        free(b->before);
        free(b->first);
        b->before = wn_check_copy(b->region, b->region_bytes);
        b->first = NULL;
    }
    state->error = (wn_error){WN_SIZEOF(wn_error), sizeof state->error_text, state->error_text};
    state->error_text[0] = 0;
}

void wn_check_begin(wn_check *check)
{
    snapshot(check);
    check->state->run = -1;
}

bool wn_check_next(wn_check *check, const wn_executor **executor, wn_error **error)
{
    struct wn_check_state *state = check->state;
    if (++state->run == RUNS)
        return false;
    for (uint32_t i = 0; i < state->num_buffers && state->run > 0; i++)
        if (state->buffers[i].output)
            memcpy(state->buffers[i].region, state->buffers[i].before,
                   state->buffers[i].region_bytes);
    *executor = wn_check_executor((uint32_t)state->run);
    *error = &state->error;
    return true;
}

void wn_check_ran(wn_check *check, wn_status status)
{
    struct wn_check_state *state = check->state;
    if (status != WN_OK)
        wn_check_fail(check, "%d threads: status %d: %s", state->run, status, state->error_text);
    for (uint32_t i = 0; i < state->num_buffers; i++) {
        buffer *b = &state->buffers[i];
        if (!slack_is_untouched(b))
            wn_check_fail(check, "%d threads: wrote outside buffer %u", state->run, i);
        if (!b->output && memcmp(b->region, b->before, b->region_bytes) != 0)
            wn_check_fail(check, "%d threads: changed the input in buffer %u", state->run, i);
        if (b->output && state->run == 0)
            b->first = wn_check_copy(b->region, b->region_bytes);
        else if (b->output && memcmp(b->region, b->first, b->region_bytes) != 0)
            wn_check_fail(check, "%d threads: other bits than serially in buffer %u", state->run,
                          i);
    }
}

void wn_check_begin_refused(wn_check *check, const wn_executor **executor, wn_error **error)
{
    snapshot(check);
    *executor = NULL;
    *error = &check->state->error;
}

void wn_check_refused(wn_check *check, wn_status status, wn_status expected)
{
    struct wn_check_state *state = check->state;
    if (status != expected)
        wn_check_fail(check, "status %d where %d was expected: %s", status, expected,
                      state->error_text);
    else if (state->error_text[0] == 0)
        wn_check_fail(check, "refused without a text");
    for (uint32_t i = 0; i < state->num_buffers; i++)
        if (memcmp(state->buffers[i].region, state->buffers[i].before,
                   state->buffers[i].region_bytes) != 0)
            wn_check_fail(check, "refused, but changed buffer %u", i);
}

uint32_t wn_check_table(const char *op, const char *variant, const wn_ops *ops, uint64_t seed,
                        void (*run)(wn_check *check), bool quiet)
{
    struct wn_check_state *state = calloc(1, sizeof *state);
    wn_check check = {
        .op = op, .variant = variant, .ops = ops, .random = seed, .quiet = quiet, .state = state};
    if (state == NULL)
        abort();
    for (const char *c = op; *c != 0; c++) /* another sequence for each op */
        check.random = check.random * 31 + (uint64_t)*c;
    run(&check);
    free_buffers(state);
    free(state);
    if (!quiet)
        printf("[%s: %u cases] ", variant, check.cases);
    fflush(stdout);
    return check.failures + (check.cases == 0);
}

void wn_check_every_variant(const char *op, uint64_t seed, void (*run)(wn_check *check))
{
    const char *name, *only = getenv("WN_TEST_VARIANT");
    for (uint32_t i = 0; (name = wn_kernels_variant_name(i)) != NULL; i++) {
        const wn_ops *ops = wn_kernels_variant(name);
        if (only != NULL && only[0] != 0 && strcmp(only, name) != 0)
            continue;
        if (ops == NULL) {
            printf("[%s: this machine lacks it] ", name);
            continue;
        }
        if (strcmp(wn_kernels_variant_of(name, op), name) != 0)
            continue; /* the op of a variant below it, which has been checked */
        uint32_t failures = wn_check_table(op, name, ops, seed, run, false);
        CU_ASSERT_EQUAL(failures, 0);
    }
}

/* ---------------------------------------------------------------- comparing */

static wn_tolerance tolerance_of(const char *op, uint32_t dtype)
{
    static const wn_tolerance table[] = {
#define ROW(op_, dtype_, absolute_, relative_) {op_, dtype_, absolute_, relative_},
        WN_TOLERANCES(ROW)
#undef ROW
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].op, op) == 0 && (table[i].dtype == 0 || table[i].dtype == dtype))
            return table[i];
    return (wn_tolerance){op, dtype, 0, 0};
}

bool wn_check_close(wn_check *check, const char *name, int64_t index, double actual,
                    double expected, uint32_t dtype)
{
    return wn_check_near(check, name, index, actual, expected, dtype, 0);
}

bool wn_check_near(wn_check *check, const char *name, int64_t index, double actual, double expected,
                   uint32_t dtype, double more)
{
    if (actual == expected || (isnan(actual) && isnan(expected)))
        return true;
    wn_tolerance t = tolerance_of(check->op, dtype);
    double allowed = t.absolute + t.relative * fabs(expected) + more;
    if (isfinite(expected) && fabs(actual - expected) <= allowed)
        return true;
    wn_check_fail(check, "%s[%lld] is %.9g, expected %.9g within %.3g", name, (long long)index,
                  actual, expected, allowed);
    return false;
}

bool wn_check_equal(wn_check *check, const char *name, int64_t index, int64_t actual,
                    int64_t expected)
{
    if (actual != expected)
        wn_check_fail(check, "%s[%lld] is %lld, expected %lld", name, (long long)index,
                      (long long)actual, (long long)expected);
    return actual == expected;
}

bool wn_check_bytes(wn_check *check, const char *name, const void *actual, const void *expected,
                    size_t bytes)
{
    const uint8_t *a = actual, *e = expected;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != e[i]) {
            wn_check_fail(check, "%s: byte %zu of %zu is 0x%02x, expected 0x%02x", name, i, bytes,
                          a[i], e[i]);
            return false;
        }
    }
    return true;
}

bool wn_check_untouched(wn_check *check, const char *name, const void *data, size_t bytes)
{
    const uint8_t *a = data;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != 0xff) {
            wn_check_fail(check, "%s: byte %zu of %zu was written", name, i, bytes);
            return false;
        }
    }
    return true;
}
