/* test_steady_state.c: a step that has been run before costs no allocation, no lock and no log line
 * in any wn_attention, whatever the method, on one thread or several; beginning and ending a step
 * cost no allocation, and locks that the engine's threads need. This program takes the place of the
 * allocator, of mmap and of pthread_mutex_lock, for the library, the plugins and libgomp alike, and
 * counts what passes through. With the address sanitizer, whose allocator must stay, it listens to
 * that allocator's hooks instead. */
#include "core/log.h"
#include "suite.h"
#include "winnow/host.h"
#include "winnow/winnow.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---------------------------------------------------------------- what is counted */

static struct {
    atomic_int on;                         /* all threads count */
    atomic_long allocations, locks, lines; /* freeing is an allocation too */
} seen;

static void count(atomic_long *what)
{
    if (atomic_load(&seen.on))
        atomic_fetch_add(what, 1);
}

#ifdef __SANITIZE_ADDRESS__
int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void *, size_t),
                                              void (*freed)(const volatile void *));

static void allocated(const volatile void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
    count(&seen.allocations);
}

static void freed(const volatile void *data)
{
    (void)data;
    count(&seen.allocations);
}

static void listen(void)
{
    __sanitizer_install_malloc_and_free_hooks(allocated, freed);
}
#else
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *data, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *data);

WN_EXPORT void *malloc(size_t bytes)
{
    count(&seen.allocations);
    return __libc_malloc(bytes);
}

WN_EXPORT void *calloc(size_t number, size_t bytes)
{
    count(&seen.allocations);
    return __libc_calloc(number, bytes);
}

WN_EXPORT void *realloc(void *data, size_t bytes)
{
    count(&seen.allocations);
    return __libc_realloc(data, bytes);
}

WN_EXPORT void *aligned_alloc(size_t alignment, size_t bytes)
{
    count(&seen.allocations);
    return __libc_memalign(alignment, bytes);
}

WN_EXPORT int posix_memalign(void **data, size_t alignment, size_t bytes)
{
    count(&seen.allocations);
    *data = __libc_memalign(alignment, bytes);
    return *data == NULL;
}

WN_EXPORT void free(void *data)
{
    count(&seen.allocations);
    __libc_free(data);
}

static void listen(void)
{
}
#endif

WN_EXPORT void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    count(&seen.allocations);
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
}

WN_EXPORT int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    static int (*_Atomic real)(pthread_mutex_t *);
    int (*lock)(pthread_mutex_t *) = real;
    count(&seen.locks);
    if (lock == NULL) {
        lock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
        real = lock;
    }
    return lock(mutex);
}

static void log_sink(void *context, uint32_t level, const char *topic, const char *text)
{
    (void)context, (void)level, (void)topic, (void)text;
    count(&seen.lines);
}

typedef struct cost {
    long allocations, locks, lines;
} cost;

static void start(void)
{
    seen.allocations = seen.locks = seen.lines = 0;
    seen.on = 1;
}

/* Adds what happened since start(). */
static void stop(cost *total)
{
    seen.on = 0;
    total->allocations += seen.allocations;
    total->locks += seen.locks;
    total->lines += seen.lines;
}

/* ---------------------------------------------------------------- an engine at work */

enum { LAYERS = 2, SEQUENCES = 2, HEADS = 4, DIM = 24, V_DIM = 16, MOST = 80, INDEX_DIM = 16 };

typedef struct method {
    const char *yaml;
    uint32_t mla, indexer;
} method;

static const method methods[] = {
    {"{algorithm: dense}", 0, 0},
    {"{algorithm: dense}", 1, 0},
    {"{algorithm: rocket, window_size: 8, prompt_budget: 32, page_size: 3, topk: 4}", 0, 0},
    {"{algorithm: rocket, window_size: 8, prompt_budget: 32, topk: 4, multi_turn: true}", 0, 0},
    {"{algorithm: skip_softmax, threshold_scale_factor: 20}", 0, 0},
    {"{algorithm: dsa, index_n_heads: 2, index_head_dim: 16, index_topk: 12}", 1, 1},
    {"{algorithm: dsa, index_n_heads: 2, index_head_dim: 16, index_topk: 12, "
     "layer_roles: [producer, consumer]}",
     1, 1},
};

typedef struct world {
    const method *method;
    wn_registry *registry;
    wn_engine *engine;
    wn_sequence sequence[SEQUENCES];
    float data[MOST * HEADS * DIM], out[MOST * HEADS * DIM];
    cost attention, frame; /* frame: begin and end */
} world;

static void must(wn_status status)
{
    if (status != WN_OK)
        fprintf(stderr, "%s: %s\n", wn_status_name(status), wn_error_text());
    CU_ASSERT_EQUAL_FATAL(status, WN_OK);
}

static world *open_world(const method *plugged, const wn_executor *executor)
{
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = LAYERS,
                            .num_heads = HEADS,
                            .num_kv_heads = plugged->mla ? 1 : 2,
                            .head_dim = DIM,
                            .v_head_dim = V_DIM,
                            .dtype = WN_F32,
                            .max_position = 256,
                            .softmax_scale = 0.3f,
                            .mla = plugged->mla};
    const wn_engine_options options = {.struct_size = WN_SIZEOF(wn_engine_options),
                                       .tokens_per_page = 4,
                                       .max_tokens = 1024,
                                       .max_sequences = 6,
                                       .max_step_tokens = MOST,
                                       .executor = executor};
    char yaml[256];
    uint64_t random = wn_test_seed();
    wn_config *config;
    world *w = calloc(1, sizeof *w);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    w->method = plugged;
    snprintf(yaml, sizeof yaml, "sparse_attention_config: %s\n", plugged->yaml);
    must(wn_registry_open(WN_TEST_PLUGINS, &w->registry));
    must(wn_config_parse(yaml, strlen(yaml), "test.yaml", &config));
    must(wn_engine_create(w->registry, config, &model, &options, &w->engine));
    wn_config_free(config);
    for (size_t i = 0; i < sizeof w->data / sizeof *w->data; i++)
        w->data[i] = (float)wn_random_signed(&random);
    return w;
}

static void close_world(world *w)
{
    must(wn_engine_free(w->engine));
    wn_registry_close(w->registry);
    free(w);
}

static wn_tensor cube(float *data, int64_t rows, int64_t heads, int64_t dim)
{
    return wn_tensor_make(data, WN_F32, 3, (const int64_t[]){rows, heads, dim});
}

/* As many tokens of each sequence. */
static void step(world *w, const int32_t tokens[SEQUENCES], uint32_t flags)
{
    const int64_t rows = tokens[0] + tokens[1];
    const wn_tensor none = {0};
    const wn_named_input inputs[] = {
        {"indexer.q", cube(w->data, rows, 2, INDEX_DIM)},
        {"indexer.k", wn_tensor_make(w->data, WN_F32, 2, (const int64_t[]){rows, INDEX_DIM})},
        {"indexer.weights", wn_tensor_make(w->data, WN_F32, 2, (const int64_t[]){rows, 2})}};
    const wn_attention_args args = {
        .struct_size = WN_SIZEOF(wn_attention_args),
        .q = cube(w->data, rows, HEADS, DIM),
        .k = cube(w->data, rows, w->method->mla ? 1 : 2, DIM),
        .v = w->method->mla ? none : cube(w->data, rows, 2, V_DIM),
        .out = cube(w->out, rows, HEADS, V_DIM),
        .inputs = inputs,
        .num_inputs = w->method->indexer ? 3 : 0,
    };
    wn_batch_item items[SEQUENCES];
    wn_batch *batch;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        items[s] = (wn_batch_item){.struct_size = WN_SIZEOF(wn_batch_item),
                                   .flags = flags,
                                   .sequence = w->sequence[s],
                                   .num_tokens = tokens[s]};
    start();
    wn_status status = wn_batch_begin(w->engine, items, SEQUENCES, &batch);
    stop(&w->frame);
    must(status);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        start();
        status = wn_attention(batch, layer, &args);
        stop(&w->attention);
        must(status);
    }
    start();
    status = wn_batch_end(batch);
    stop(&w->frame);
    must(status);
}

/* Two requests from prompt to end: steps of both phases, pages taken on the way. Returns how many
 * steps it were. */
static uint32_t play(world *w)
{
    static const int32_t prompts[SEQUENCES] = {61, 9}, one[SEQUENCES] = {1, 1};
    enum { GENERATED = 20 };
    for (uint32_t s = 0; s < SEQUENCES; s++)
        must(wn_sequence_create(w->engine, &w->sequence[s]));
    step(w, prompts, WN_ITEM_CONTEXT);
    for (uint32_t t = 0; t < GENERATED; t++)
        step(w, one, 0);
    for (uint32_t s = 0; s < SEQUENCES; s++)
        must(wn_sequence_free(w->engine, w->sequence[s]));
    return 1 + GENERATED;
}

/* ---------------------------------------------------------------- tests */

/* Counters that never count would pass everything. strdup allocates inside the C library. */
static void what_is_planted_is_seen(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    cost c = {0};
    setenv("WINNOW_LOG", "all", 1);
    wn_log_to(log_sink, NULL);
    start();
    stop(&c);
    CU_ASSERT(c.allocations == 0 && c.locks == 0 && c.lines == 0);
    start();
    char *text = strdup("planted");
    stop(&c);
    free(text);
    CU_ASSERT_EQUAL(c.allocations, 1);
    start();
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stop(&c);
    munmap(page, 4096);
    CU_ASSERT(c.allocations == 2 && c.locks == 0);
    start();
    pthread_mutex_lock(&mutex);
    stop(&c);
    pthread_mutex_unlock(&mutex);
    CU_ASSERT(c.locks == 1 && c.lines == 0);
    start();
    wn_log_line(WN_LOG_INFO, "step", "planted");
    stop(&c);
    CU_ASSERT(c.lines == 1);
    wn_log_to(NULL, NULL);
    unsetenv("WINNOW_LOG");
}

static void expect_nothing(const wn_executor *executor)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        world *w = open_world(&methods[i], executor);
        play(w); /* the batch is made, and libgomp's threads */
        w->attention = w->frame = (cost){0};
        setenv("WINNOW_LOG", "all", 1);
        wn_log_to(log_sink, NULL);
        const uint32_t steps = play(w);
        wn_log_to(NULL, NULL);
        unsetenv("WINNOW_LOG");
        const cost *a = &w->attention, *f = &w->frame;
        if (a->allocations != 0 || a->locks != 0 || a->lines != 0 || f->allocations != 0)
            printf("\n  %s: wn_attention: %ld allocations, %ld locks, %ld lines; begin and end: "
                   "%ld allocations\n",
                   methods[i].yaml, a->allocations, a->locks, a->lines, f->allocations);
        CU_ASSERT(a->allocations == 0 && a->locks == 0 && a->lines == 0);
        CU_ASSERT(f->allocations == 0 && f->lines == 0);
        printf("%s%ld", i == 0 ? "\n  locks of begin and end, a step: " : ", ",
               f->locks / (long)steps);
        CU_ASSERT(f->locks > 0);
        close_world(w);
    }
    printf(" ");
}

static void with_threads(void)
{
    expect_nothing(NULL);
}

static void one_by_one(void *context, int64_t number, void (*body)(void *argument, int64_t i),
                       void *argument)
{
    (void)context;
    for (int64_t i = 0; i < number; i++)
        body(argument, i);
}

static void without_threads(void)
{
    const wn_executor executor = {WN_SIZEOF(wn_executor), 1, NULL, one_by_one};
    expect_nothing(&executor);
}

static void all(void)
{
    listen();
    what_is_planted_is_seen();
}

WN_SUITE("plugins.steady_state", {"what is planted is seen", all},
         {"with threads, nothing is taken", with_threads},
         {"without threads, nothing is taken", without_threads})
