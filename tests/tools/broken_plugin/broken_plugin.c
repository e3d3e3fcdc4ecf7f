/* broken_plugin.c: one small, correct plugin, "broken", that keeps the newest tokens of a prompt
 * and selects the newest in generation; and, with -DBUG_..., a family that differs from it in one
 * mistake each. tests/tools/test_validator.py says which test of `winnow validate` must find which
 * mistake.
 *
 * To add a mistake: put it here under its own BUG_NAME, `name` into the list in CMakeLists.txt, and
 * the test that finds it into test_validator.py. */
#include "winnow/plugin.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(BUG_NO_NOTE)
/* Looks like any other library. */
#elif defined(BUG_OTHER_LAYOUT)
__attribute__((used, aligned(4), section(WN_NOTE_SECTION))) static const wn_note_record note = {
    8,
    (uint32_t)sizeof(wn_note),
    WN_NOTE_TYPE,
    WN_NOTE_NAME,
    {WN_NOTE_FORMAT, WN_ABI_VERSION, WN_ABI_VERSION,
     WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_KERNEL_HOOK, WN_DEVICES_CPU, 1, 2, 0, "broken",
     "1.0", "MIT", "newest tokens"}};
#else
#ifdef BUG_NOTE_DEVICES
#define DEVICES 0
#else
#define DEVICES WN_DEVICES_CPU
#endif
WN_PLUGIN_NOTE("broken", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_KERNEL_HOOK,
               DEVICES, "newest tokens");
#endif

/* ---------------------------------------------------------------- mistakes of the file */

/* Writes where nothing is, and no optimiser can know that. */
static inline void crash(void)
{
    volatile int *volatile nowhere = NULL;
    *nowhere = 1;
}

#ifdef BUG_EXPORT_EXTRA
WN_EXPORT int broken_extra(void);
int broken_extra(void)
{
    return 1;
}
#endif
#ifdef BUG_GNU_UNIQUE
__asm__(".data\n.globl broken_unique\n.type broken_unique, @gnu_unique_object\n"
        ".size broken_unique, 8\nbroken_unique: .quad 1\n.text\n");
#endif
#ifdef BUG_TEXTREL
__asm__(".text\n.balign 8\nbroken_address: .quad broken_address\n");
#endif
#ifdef BUG_EXIT
void (*broken_leave)(int) = exit;
#endif

#ifdef BUG_THREAD
static void *idle(void *nothing)
{
    pause();
    return nothing;
}
__attribute__((constructor)) static void start(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, idle, NULL);
}
#endif

#ifdef BUG_CRASH_AT_LOAD
__attribute__((constructor)) static void crash_at_load(void)
{
    crash();
}
#endif

/* ---------------------------------------------------------------- config */

static const wn_memory *memory;

enum { KEEP, NEWEST, DEPTH, MODE, LOUD, WEIGHT, DEPTHS, NAMES, NUMBERS, NUM_FIELDS };
static const char *const modes[] = {"calm", "wild", NULL};
static const wn_config_field fields[NUM_FIELDS] = {
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT, WN_FIELD_BUDGET, 0, "keep", "tokens",
#ifdef BUG_NO_HELP
     "",
#else
     "newest tokens of a prompt that stay",
#endif
#ifdef BUG_DEFAULT_RANGE
     "0", 1, 1 << 30, NULL},
#else
     "128", 1, 1 << 30, NULL},
#endif
    {WN_SIZEOF(wn_config_field)
#ifdef BUG_FIELD_SIZE
         - 8
#endif
     ,
     WN_FIELD_INT, WN_FIELD_BUDGET, 0, "newest", "tokens", "newest tokens attended to", "64", 1,
     1 << 30, NULL},
    /* One of each type, which only mistakes read. */
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT, 0, 0, "depth", "", "a number", "1", 1, 64, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_ENUM, 0, 0, "mode", "", "a name", "calm", 0, 0, modes},
    {WN_SIZEOF(wn_config_field), WN_FIELD_BOOL, 0, 0, "loud", "", "yes or no", "false", 0, 0, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_PHASE_FLOAT, 0, 0, "weight", "", "by phase", "0.5", 0, 1,
     NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_INT_LIST, 0, 0,
#ifdef BUG_TAKEN_NAME
     "layers",
#else
     "depths",
#endif
     "", "integers", "[1, 2]", 0, 9, NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_STRING_LIST, 0, 0, "names", "", "words", "[a, b]", 0, 0,
     NULL},
    {WN_SIZEOF(wn_config_field), WN_FIELD_NUMBER_MAP, 0, 0, "numbers", "", "a mapping", "{a: 1}",
     -1, 1, NULL},
};

typedef struct instance {
    int64_t keep, newest;
    int shaken; /* an event came that its mistake does not live with */
} instance;

static wn_status check(const wn_model *model, const wn_value *values, const wn_reasons *reasons)
{
    (void)model, (void)values, (void)reasons;
#ifdef BUG_REASON_AND_OK
    reasons->add(reasons->context, "I do not like it");
#endif
#ifdef BUG_REFUSES_WITHOUT_REASON
    if (values[DEPTH].i == 64)
        return WN_ECONFIG;
#endif
    return WN_OK;
}

static wn_status create(const wn_model *model, const wn_value *values, void **out, wn_error *error)
{
    (void)model;
    static int lives;
    lives++;
#ifdef BUG_HANG
    while (lives == 50)
        pause();
#endif
#ifdef BUG_CRASH
    if (lives == 50)
        crash();
#endif
#ifdef BUG_LEAVE
    if (lives == 50)
        syscall(SYS_exit_group, 0);
#endif
    instance *self = memory->allocate(sizeof *self, 0);
    if (self == NULL)
        return wn_fail(error, WN_ENOMEM, "no memory");
#ifdef BUG_LEAK_MALLOC
    static void *volatile lost; /* volatile: an optimiser may drop a malloc that nobody looks at */
    lost = malloc(100);
#endif
#ifdef BUG_CRASH_AT_GREATEST
    if (values[DEPTH].i == 64)
        crash();
#endif
#ifdef BUG_HANG_AT_NAME
    while (values[MODE].i == 1)
        pause();
#endif
#ifdef BUG_LEAK_AT_NAME
    static void *volatile left;
    if (values[MODE].i == 1)
        left = malloc(100);
#endif
    self->shaken = 0;
    self->keep = values[KEEP].i;
    self->newest = values[NEWEST].i;
    *out = self;
    return WN_OK;
}

static void destroy(void *self)
{
#ifndef BUG_LEAK
    memory->release(self);
#else
    (void)self;
#endif
}

static wn_status lower(void *self, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    (void)self, (void)layer, (void)error;
    *roles = phase == WN_PHASE_CONTEXT ? WN_ROLE_RETAIN : WN_ROLE_SELECT;
#if defined(BUG_ATTEND_ALL) || defined(BUG_LSE_BASE_2) || defined(BUG_NOT_NORMALISED)
    *roles |= phase == WN_PHASE_GENERATION ? WN_ROLE_ATTEND : 0;
#endif
#ifdef BUG_NO_REASON
    *roles = 0;
    why[0] = '\0';
#else
    snprintf(why, why_capacity, "%s", "");
#endif
    return WN_OK;
}

/* ---------------------------------------------------------------- predictor */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static wn_status bounds(void *self, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    (void)self, (void)layer, (void)error;
    out->retain_indices = (uint64_t)limits->batch * limits->max_length;
    out->select_indices = (uint64_t)limits->tokens * limits->max_length;
    out->select_offsets = (uint64_t)limits->tokens + 1;
    return WN_OK;
}

static int32_t retained_count(void *self, int32_t length)
{
    int64_t keep = ((instance *)self)->keep;
#ifdef BUG_BUDGET_LIES
    keep = least(keep, 64);
#endif
#ifdef BUG_RETAINED_COUNT
    if (length > 60000)
        return length + 1;
#endif
    return (int32_t)least(keep, length);
}

#ifdef BUG_READS_BEYOND
/* Is there NaN where the next token would be stored? */
static int nan_beyond(const wn_step_args *args, uint32_t b)
{
    const wn_paged_kv *kv = &args->kv;
    int32_t slot = kv->length[b], page_size = (int32_t)kv->tokens_per_page;
    if (slot % page_size == 0)
        return 0;
    int64_t page = kv->page_table[b * kv->page_table_stride + slot / page_size];
    return isnan(((const float *)kv->k
                      .data)[page * kv->k.page_stride + slot % page_size * kv->k.token_stride]);
}
#endif

static wn_status retain(void *self, const wn_step_args *args, wn_selection *out)
{
    int32_t used = 0;
    out->block_size = 1;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->width = out->head_stride = 0;
    for (uint32_t b = 0; b < args->batch; b++) {
        int32_t length = args->kv.length[b], count = retained_count(self, length), first = used;
        out->offsets[b] = used;
#ifdef BUG_RETAIN_FEWER
        count--;
#endif
#ifdef BUG_READS_BEYOND
        if (nan_beyond(args, b))
            length = count; /* keeps the oldest */
#endif
#ifdef BUG_DEPENDS_ON_PAGES
        const int32_t *page = args->kv.page_table + b * args->kv.page_table_stride;
        if (length > (int32_t)args->kv.tokens_per_page && page[1] != page[0] + 1)
            length = count; /* keeps the oldest */
#endif
#ifdef BUG_DEPENDS_ON_CHUNKS
        if (!(args->request_flags[b] & WN_REQUEST_FIRST_CHUNK))
            length = count; /* keeps the oldest */
#endif
        for (int32_t i = length - count; i < length; i++)
            out->indices[used++] = i;
#ifdef BUG_RETAIN_UNSORTED
        if (count > 1) {
            out->indices[first] = out->indices[used - 1];
            out->indices[used - 1] = length - count;
        }
#endif
#ifdef BUG_RETAIN_OUTSIDE
        out->indices[used - 1] = length;
#endif
        (void)first;
    }
    out->offsets[args->batch] = used;
    return WN_OK;
}

static wn_status choose(void *self, const wn_step_args *args, wn_selection *out)
{
    int32_t used = 0;
    out->block_size = out->query_block = 1;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->width = out->head_stride = 0;
    out->rows = 0;
#ifdef BUG_FAILS_IN_BATCH
    if (args->batch > 1)
        return wn_fail(args->error, WN_EINVAL, "one at a time, please");
#endif
#ifdef BUG_EMPTY_REQUEST
    for (uint32_t b = 0; b < args->batch; b++)
        if (args->q_len[b] == 0)
            return wn_fail(args->error, WN_EINVAL, "who asks for nothing?");
#endif
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t i = 1; i <= args->q_len[b]; i++) {
            int64_t newest = ((instance *)self)->newest;
#ifdef BUG_DEPENDS_ON_BATCH
            newest = args->batch > 1 ? 1 : newest;
#endif
            newest = ((instance *)self)->shaken ? 1 : newest;
#ifdef BUG_DEPENDS_ON_THREADS
            newest = args->executor->num_threads > 1 ? newest : 1;
#endif
            int32_t end = args->kv.length[b] - args->q_len[b] + i;
            int32_t begin = end - (int32_t)least(newest, end), first = used;
            out->offsets[out->rows++] = used;
            for (int32_t slot = begin; slot < end; slot++)
                out->indices[used++] = slot;
#ifdef BUG_SELECT_UNSORTED
            if (used - first > 1) {
                out->indices[first] = end - 1;
                out->indices[used - 1] = begin;
            }
#endif
            (void)first;
        }
    out->offsets[out->rows] = used;
    return WN_OK;
}

/* Events that shake those who make a mistake of them. */
static wn_status event(void *self, const wn_sequence_event *what)
{
    (void)self, (void)what;
#ifdef BUG_FORGETS_FORK
    ((instance *)self)->shaken |= what->kind == WN_EVENT_FORK;
#endif
#ifdef BUG_FORGETS_TRUNCATE
    ((instance *)self)->shaken |= what->kind == WN_EVENT_TRUNCATE;
#endif
    return WN_OK;
}

/* ---------------------------------------------------------------- kernel hook */

/* Only mistakes claim ATTEND. */
static wn_status attend_all(const wn_step_args *args, const wn_attend_args *given)
{
    wn_attend_args all = *given;
    all.selection = NULL;
    all.selection_row = NULL;
    return args->ops->generation(&all);
}

#if defined(BUG_LSE_BASE_2) || defined(BUG_NOT_NORMALISED)
static float *lse_at(const wn_attend_args *given, int64_t row, uint32_t head)
{
    return (float *)given->lse.data + row * given->lse.stride[0] + head * given->lse.stride[1];
}

/* In base 2; or with weights that sum to the mass of what was selected instead of to 1. */
static void spoil(const wn_attend_args *given, int64_t row, uint32_t head, float all)
{
    float *lse = lse_at(given, row, head);
#ifdef BUG_LSE_BASE_2
    (void)all;
    *lse *= 1.44269504f;
#else
    float *out =
        (float *)given->out.data + row * given->out.stride[0] + head * given->out.stride[1];
    for (int64_t c = 0; c < given->out.shape[2]; c++)
        out[c] *= expf(*lse - all);
#endif
}

static wn_status attend_spoiled(const wn_step_args *args, const wn_attend_args *given)
{
    int64_t rows = given->lse.shape[0], heads = given->lse.shape[1];
    float all[64 * 64];
    if (given->lse.data == NULL || rows > 64 || heads > 64)
        return args->ops->generation(given);
    wn_status status = attend_all(args, given);
    for (int64_t i = 0; i < rows * heads; i++)
        all[i] = *lse_at(given, i / heads, (uint32_t)(i % heads));
    if (status == WN_OK)
        status = args->ops->generation(given);
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t r = given->q_begin[b]; r < given->q_begin[b] + given->q_len[b]; r++)
            for (uint32_t h = 0; h < heads; h++)
                spoil(given, r, h, all[r * heads + h]);
    return status;
}
#endif

static wn_status attend(void *self, const wn_step_args *args, const wn_attend_args *given)
{
    (void)self;
#if defined(BUG_LSE_BASE_2) || defined(BUG_NOT_NORMALISED)
    return attend_spoiled(args, given);
#else
    return attend_all(args, given);
#endif
}

/* ---------------------------------------------------------------- tables */

static const wn_config_interface config = {
    .struct_size = WN_SIZEOF(wn_config_interface),
    .num_fields = NUM_FIELDS,
    .fields = fields,
    .check = check,
    .create = create,
    .destroy = destroy,
#ifndef BUG_NULL_LOWER
    .lower = lower,
#endif
};
static const wn_predictor_interface predictor = {
    .struct_size = WN_SIZEOF(wn_predictor_interface),
    .bounds = bounds,
    .retained_count = retained_count,
    .retain = retain,
    .select = choose,
    .event = event,
};
static const wn_kernel_hook_interface hook = {
    .struct_size = WN_SIZEOF(wn_kernel_hook_interface),
    .attend = attend,
};

static const void *get_interface(const char *id)
{
#ifdef BUG_INTERFACE_PREFIX
    if (strncmp(id, WN_INTERFACE_CONFIG, strlen(WN_INTERFACE_CONFIG)) == 0)
        return &config;
#endif
    return strcmp(id, WN_INTERFACE_CONFIG) == 0        ? (const void *)&config
           : strcmp(id, WN_INTERFACE_PREDICTOR) == 0   ? (const void *)&predictor
           : strcmp(id, WN_INTERFACE_KERNEL_HOOK) == 0 ? (const void *)&hook
                                                       : NULL;
}

static wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, "broken",
#ifdef BUG_VERSION_DIFFERS
                           "1.1",
#else
                           "1.0",
#endif
                           get_interface};

const wn_plugin *wn_plugin_entry(const wn_host *host)
{
#ifndef BUG_ANY_HOST
    if (host->abi_min > WN_ABI_VERSION || host->abi_max < WN_ABI_VERSION) {
#ifndef BUG_REFUSES_SILENTLY
        wn_fail(host->error, WN_EABI, "speaks ABI %u.%u", WN_ABI_MAJOR, WN_ABI_MINOR);
#endif
        return NULL;
    }
#endif
    memory = host->get_service(WN_SERVICE_MEMORY);
#ifdef BUG_ANOTHER_EACH_TIME
    static wn_plugin copies[8];
    static int next;
    copies[next % 8] = plugin;
    return &copies[next++ % 8];
#else
    return &plugin;
#endif
}
