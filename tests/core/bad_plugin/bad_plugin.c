/* bad_plugin.c: one small, correct plugin, "sample", and, with -DBUG_..., a family of plugins that
 * differ from it in one mistake each. Without a bug it must load and pass the validator: in the
 * generation phase a query attends to the newest `keep` tokens, rounded up to blocks of 16.
 *
 * To add a mistake: put it here under its own BUG_NAME, and `name` into the list in CMakeLists.txt.
 * The file is then tests/bad_plugins/name.so of the build directory. */
#include "winnow/plugin.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 16

#ifdef BUG_ALGORITHM_CHARACTERS
#define NOTE_ALGORITHM "Sample/1"
#else
#define NOTE_ALGORITHM "sample"
#endif

#if defined(BUG_INTERFACE_ABSENT)
#define CLAIMED (WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_AUX_POOL)
#elif defined(BUG_INTERFACE_UNCLAIMED)
#define CLAIMED WN_HAS_CONFIG
#else
#define CLAIMED (WN_HAS_CONFIG | WN_HAS_PREDICTOR)
#endif

/* Holds device code, as it says: for tests of what is never unloaded. Not a mistake. */
#ifdef BUG_NONE_CUDA
#define DEVICES (WN_DEVICES_CPU | WN_DEVICES_CUDA)
#else
#define DEVICES WN_DEVICES_CPU
#endif

/* Another edition of the same algorithm: for tests of replacement. Not a mistake. */
#ifdef BUG_NONE_NEWER
#define VERSION "2.0"
#else
#define VERSION "1.0"
#endif

#if defined(BUG_NO_NOTE)
/* Looks like any other library. */
#elif defined(BUG_OLD_ABI) || defined(BUG_NEW_ABI) || defined(BUG_OTHER_LAYOUT) ||                 \
    defined(BUG_NOTE_FORMAT) || defined(BUG_NOTE_CONTROL)
__attribute__((used, aligned(4), section(WN_NOTE_SECTION))) static const wn_note_record note = {
    8,
    sizeof(wn_note),
    WN_NOTE_TYPE,
    WN_NOTE_NAME,
    {
#ifdef BUG_NOTE_FORMAT
        99,
#else
        WN_NOTE_FORMAT,
#endif
#if defined(BUG_OLD_ABI)
        WN_VERSION(0, 0), WN_VERSION(0, 0),
#elif defined(BUG_NEW_ABI)
        WN_VERSION(7, 3), WN_VERSION(7, 0),
#else
        WN_ABI_VERSION, WN_ABI_VERSION,
#endif
        CLAIMED, DEVICES,
#ifdef BUG_OTHER_LAYOUT
        0x89abcdef, 0x01234567,
#else
        (uint32_t)WN_ABI_LAYOUT, (uint32_t)(WN_ABI_LAYOUT >> 32),
#endif
        0, NOTE_ALGORITHM, VERSION, "MIT",
#ifdef BUG_NOTE_CONTROL
        "clears your \033[2J screen"
#else
        "newest tokens"
#endif
    }};
#else
WN_PLUGIN_NOTE(NOTE_ALGORITHM, VERSION, "MIT", CLAIMED, DEVICES, "newest tokens");
#endif
#ifdef BUG_TWO_NOTES
__attribute__((used, aligned(4), section(WN_NOTE_SECTION))) static const wn_note_record second = {
    8,
    sizeof(wn_note),
    WN_NOTE_TYPE,
    WN_NOTE_NAME,
    {WN_NOTE_FORMAT, WN_ABI_VERSION, WN_ABI_VERSION, CLAIMED, DEVICES, (uint32_t)WN_ABI_LAYOUT,
     (uint32_t)(WN_ABI_LAYOUT >> 32), 0, "other", "1.0", "MIT", "another one"}};
#endif

/* Leaves a trace when any of the plugin's code runs: the file that WN_TEST_MARKER names. */
__attribute__((constructor)) static void leave_a_trace(void)
{
    const char *path = getenv("WN_TEST_MARKER");
    FILE *file = path != NULL ? fopen(path, "w") : NULL;
    if (file != NULL)
        fclose(file);
}

#ifdef BUG_EXPORT_EXTRA
WN_EXPORT int shared_name(void);
int shared_name(void)
{
    return 1;
}
#endif

#ifdef BUG_UNDEFINED
int nobody_has_this(void);
#endif

/* ---------------------------------------------------------------- config */

static const wn_config_field fields[] = {
    {
#ifdef BUG_FIELD_SIZE
        8,
#else
        WN_SIZEOF(wn_config_field),
#endif
#ifdef BUG_FIELD_TYPE
        77,
#else
        WN_FIELD_INT,
#endif
        WN_FIELD_BUDGET, 0,
#ifdef BUG_FIELD_NAME
        "Keep It",
#else
        "keep",
#endif
        "tokens", "newest tokens that a query attends to",
#if defined(BUG_DEFAULT)
        "many",
#elif defined(BUG_DEFAULT_RANGE)
        "0",
#else
        "64",
#endif
#ifdef BUG_RANGE
        100, 10,
#else
        1, 1 << 30,
#endif
        NULL},
#ifdef BUG_FIELD_TWICE
    {WN_SIZEOF(wn_config_field), WN_FIELD_BOOL, 0, 0, "keep", "", "again", "true", 0, 1, NULL},
#endif
};

typedef struct sample {
    uint32_t keep;
} sample;

static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    (void)model;
    sample *made = malloc(sizeof *made);
    if (made == NULL)
        return wn_fail(error, WN_ENOMEM, "sample: out of memory");
#ifdef BUG_UNDEFINED
    made->keep = (uint32_t)nobody_has_this();
#endif
    made->keep = (uint32_t)values[0].i;
    *instance = made;
    return WN_OK;
}

static void destroy(void *instance)
{
    free(instance);
}

static wn_status lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    (void)instance, (void)layer, (void)error;
    *roles = phase == WN_PHASE_GENERATION ? WN_ROLE_SELECT : 0;
    if (*roles == 0)
        snprintf(why, (size_t)why_capacity, "sample acts in the generation phase only");
    return WN_OK;
}

static const wn_config_interface config = {
#ifdef BUG_SHORT_CONFIG
    8,
#else
    WN_SIZEOF(wn_config_interface),
#endif
    sizeof fields / sizeof fields[0],
    fields,
    NULL,
    NULL,
#ifdef BUG_NULL_CREATE
    NULL,
#else
    create,
#endif
#ifdef BUG_NULL_DESTROY
    NULL,
#else
    destroy,
#endif
#ifdef BUG_NULL_LOWER
    NULL,
#else
    lower,
#endif
    NULL,
};

/* ---------------------------------------------------------------- predictor */

static wn_status bounds(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    const sample *self = instance;
    (void)layer, (void)error;
    uint64_t longest = self->keep < limits->max_length ? self->keep : limits->max_length;
    out->retain_indices = 0;
    out->select_indices = limits->tokens * (longest / BLOCK + 2);
    out->select_offsets = (uint64_t)limits->tokens + 1;
    out->workspace_bytes = 0;
    return WN_OK;
}

/* A row per query token, shared by all heads: the blocks of slots [own + 1 - keep, own]. */
static wn_status choose(void *instance, const wn_step_args *args, wn_selection *out)
{
    const sample *self = instance;
    int32_t used = 0;
    out->block_size = BLOCK;
    out->index_space = WN_INDEX_PHYSICAL;
    out->flags = WN_SELECTION_SORTED;
    out->query_block = 1;
    out->rows = 0;
    out->width = 0;
    out->head_stride = 0;
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t i = 0; i < args->q_len[b]; i++) {
            int64_t own = (int64_t)args->kv.length[b] - args->q_len[b] + i;
            int64_t first = own + 1 - (int64_t)self->keep;
            out->offsets[out->rows++] = used;
            for (int64_t block = (first > 0 ? first : 0) / BLOCK; block <= own / BLOCK; block++)
                out->indices[used++] = (int32_t)block;
        }
    out->offsets[out->rows] = used;
    return WN_OK;
}

static const wn_predictor_interface predictor = {
    WN_SIZEOF(wn_predictor_interface),
    0,
#ifdef BUG_NULL_BOUNDS
    NULL,
#else
    bounds,
#endif
    NULL,
    NULL,
    choose,
    NULL,
};

/* ---------------------------------------------------------------- entry */

static const void *get_interface(const char *id)
{
#ifndef BUG_NO_CONFIG
    if (strcmp(id, WN_INTERFACE_CONFIG) == 0)
        return &config;
#endif
    if (strcmp(id, WN_INTERFACE_PREDICTOR) == 0)
        return &predictor;
    return NULL;
}

static const wn_plugin plugin = {
#ifdef BUG_SHORT_PLUGIN
    8,
#else
    WN_SIZEOF(wn_plugin),
#endif
#ifdef BUG_LYING_ABI
    WN_VERSION(9, 9),
#else
    WN_ABI_VERSION,
#endif
#ifdef BUG_ALGORITHM_DIFFERS
    "another",
#else
    "sample",
#endif
#ifdef BUG_VERSION_DIFFERS
    "1.0.1",
#else
    VERSION,
#endif
#ifdef BUG_NULL_GET_INTERFACE
    NULL,
#else
    get_interface,
#endif
};

#ifndef BUG_NO_ENTRY
const wn_plugin *wn_plugin_entry(const wn_host *host)
{
#ifdef BUG_ENTRY_REFUSES
    wn_fail(host->error, WN_EUNSUPPORTED, "sample: this machine has no abacus");
    return NULL;
#endif
#ifdef BUG_ENTRY_NULL
    return NULL;
#endif
    if (host->abi_min > WN_ABI_VERSION || host->abi_max < WN_ABI_VERSION) {
        wn_fail(host->error, WN_EABI, "sample: speaks ABI %u.%u, the host %u.%u to %u.%u",
                WN_ABI_MAJOR, WN_ABI_MINOR, WN_VERSION_MAJOR(host->abi_min),
                WN_VERSION_MINOR(host->abi_min), WN_VERSION_MAJOR(host->abi_max),
                WN_VERSION_MINOR(host->abi_max));
        return NULL;
    }
    return &plugin;
}
#endif
