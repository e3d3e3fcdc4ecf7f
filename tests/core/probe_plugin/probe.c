/* probe.c: a method whose every behaviour is a key of its configuration: for tests of the engine.
 * Built under several names (PROBE_NAME), and once with an extra input (PROBE_INPUT). It keeps one
 * auxiliary pool: the first channel of each stored key, as float32, so that a test can see whether
 * the pool follows its pages. */
#include "winnow/plugin.h"

#ifdef PROBE_INPUT
#define POOL_FLAGS 0 /* what comes from an extra input cannot be rebuilt from the keys */
#else
#define POOL_FLAGS WN_AUX_RECOMPUTABLE
#endif

#ifndef PROBE_NAME
#define PROBE_NAME "probe"
#endif

WN_PLUGIN_NOTE(PROBE_NAME, "1.0", "MIT", 15, WN_DEVICES_CPU, "a method that does as it is told");

enum { KEEP, SELECT, FORM, TILE, THRESHOLD, ATTEND, FAIL, MEMORY, NUM_FIELDS };
enum { FORM_CSR, FORM_FIXED, FORM_SHARED, FORM_LOGICAL, FORM_UNSORTED, FORM_LIE, FORM_OUTSIDE };
enum { FAIL_NEVER, FAIL_SELECT, FAIL_RETAIN, FAIL_OBSERVE, FAIL_TILE, FAIL_ATTEND, FAIL_COUNT };
static const char *const forms[] = {"csr",      "fixed", "shared",  "logical",
                                    "unsorted", "lie",   "outside", NULL};
static const char *const failures[] = {"never", "select", "retain", "observe",
                                       "tile",  "attend", "count",  NULL};

#define FIELD(type, name, text, least, greatest, names)                                            \
    {                                                                                              \
        WN_SIZEOF(wn_config_field), type, 0, 0, name, "", name, text, least, greatest, names       \
    }
static const wn_config_field fields[NUM_FIELDS] = {
    FIELD(WN_FIELD_INT, "keep", "0", 0, 1 << 20, NULL),   /* newest tokens kept; 0: no retain */
    FIELD(WN_FIELD_INT, "select", "0", 0, 1 << 20, NULL), /* newest tokens selected; 0: no select */
    FIELD(WN_FIELD_ENUM, "form", "csr", 0, 0, forms),
    FIELD(WN_FIELD_BOOL, "tile", "false", 0, 1, NULL),
    FIELD(WN_FIELD_FLOAT, "threshold", "-1e30", -1e30, 0, NULL),
    FIELD(WN_FIELD_BOOL, "attend", "false", 0, 1, NULL),
    FIELD(WN_FIELD_ENUM, "fail", "never", 0, 0, failures),
    FIELD(WN_FIELD_INT, "memory", "0", 0, 1 << 20, NULL), /* bytes of step memory to use */
};

typedef struct probe {
    wn_model model;
    int64_t keep, select, form, tile, attend, fail, memory;
    double threshold;
} probe;

static probe slots[64];
static uint32_t used;

static wn_status create(const wn_model *model, const wn_value *values, void **instance,
                        wn_error *error)
{
    (void)error;
    probe *p = &slots[used++ % 64];
    p->model = *model;
    p->keep = values[KEEP].i;
    p->select = values[SELECT].i;
    p->form = values[FORM].i;
    p->tile = values[TILE].i;
    p->threshold = values[THRESHOLD].f;
    p->attend = values[ATTEND].i;
    p->fail = values[FAIL].i;
    p->memory = values[MEMORY].i;
    *instance = p;
    return WN_OK;
}

static void destroy(void *instance)
{
    (void)instance;
}

static wn_status check(const wn_model *model, const wn_value *values, const wn_reasons *reasons)
{
    (void)model;
    if (values[KEEP].i != 13)
        return WN_OK;
    reasons->add(reasons->context, "13 brings bad luck");
    reasons->add(reasons->context, "and one more reason");
    return WN_ECONFIG;
}

static wn_status lower(void *instance, uint32_t layer, uint32_t phase, uint32_t *roles, char *why,
                       uint64_t why_capacity, wn_error *error)
{
    const probe *p = instance;
    (void)layer, (void)error;
    *roles = (p->keep && phase == WN_PHASE_CONTEXT ? WN_ROLE_RETAIN : 0u) |
             (p->select ? WN_ROLE_SELECT : 0u) | (p->tile ? WN_ROLE_TILE_POLICY : 0u) |
             (p->attend ? WN_ROLE_ATTEND : 0u);
    snprintf(why, why_capacity, "nothing is switched on");
    return WN_OK;
}

static wn_status bounds(void *instance, uint32_t layer, const wn_step_limits *limits,
                        wn_step_bounds *out, wn_error *error)
{
    const probe *p = instance;
    (void)layer, (void)error;
    uint64_t heads = p->model.num_kv_heads;
    out->select_indices = heads * limits->tokens * (uint64_t)(p->select ? p->select : 1);
    out->select_offsets = limits->tokens + 1u;
    out->step_bytes = (uint64_t)p->memory;
    out->retain_indices = heads * limits->batch * (uint64_t)(p->keep ? p->keep : 1);
    return WN_OK;
}

static int32_t retained_count(void *instance, int32_t length)
{
    const probe *p = instance;
    return p->keep > 0 && length > p->keep ? (int32_t)p->keep : length;
}

/* Head h drops one more of the newest tokens than head h-1, so that heads differ. */
static wn_status retain(void *instance, const wn_step_args *args, wn_selection *out)
{
    const probe *p = instance;
    int32_t n = 0;
    if (p->fail == FAIL_RETAIN)
        return wn_fail(args->error, WN_EUNSUPPORTED, "told to fail");
    int64_t count = p->fail == FAIL_COUNT ? p->keep - 1 : p->keep;
    out->head_stride = args->batch * count;
    for (uint32_t b = 0; b < args->batch; b++, n += (int32_t)count)
        for (uint32_t h = 0; h < args->kv.num_kv_heads; h++)
            for (int64_t i = 0; i < count; i++) {
                int32_t first = args->kv.length[b] - (int32_t)count - (int32_t)h;
                out->indices[h * out->head_stride + n + i] = (first > 0 ? first : 0) + (int32_t)i;
            }
    for (uint32_t b = 0; b <= args->batch; b++)
        out->offsets[b] = (int32_t)(b * count);
    return WN_OK;
}

/* Layer 0 fills the step's memory with a mark of its method, phase and first sequence; a later
 * layer must find it so. */
static wn_status remember(const probe *p, const wn_step_args *args)
{
    uint8_t *memory = args->step_memory;
    uint8_t mark = (uint8_t)(PROBE_NAME[0] ^ args->phase ^ (uint64_t)args->sequence[0] * 16);
    if (p->memory == 0 && memory != NULL)
        return wn_fail(args->error, WN_EPLUGIN, "step memory that nobody asked for");
    if (p->memory > (int64_t)args->step_memory_bytes || (uintptr_t)memory % 64 != 0)
        return wn_fail(args->error, WN_EPLUGIN, "%u bytes of step memory at %p",
                       (unsigned)args->step_memory_bytes, (void *)memory);
    for (int64_t i = 0; i < p->memory; i++) {
        if (args->layer == 0)
            memory[i] = mark;
        else if (memory[i] != mark)
            return wn_fail(args->error, WN_EPLUGIN, "step memory was lost");
    }
    return WN_OK;
}

static wn_status select_newest(void *instance, const wn_step_args *args, wn_selection *out)
{
    const probe *p = instance;
    uint32_t row = 0;
    if (p->fail == FAIL_SELECT)
        return wn_fail(args->error, WN_EUNSUPPORTED, "told to fail");
    wn_status status = remember(p, args);
    if (status != WN_OK)
        return status;
    uint32_t lists = p->form == FORM_SHARED ? 1 : args->kv.num_kv_heads;
    for (uint32_t b = 0; b < args->batch; b++)
        out->rows += (uint32_t)args->q_len[b];
    out->query_block = 1;
    out->width = p->select;
    out->head_stride = p->form == FORM_SHARED ? 0 : out->rows * p->select;
    out->flags = p->form == FORM_UNSORTED ? 0 : WN_SELECTION_SORTED;
    if (p->form == FORM_LOGICAL)
        out->index_space = WN_INDEX_LOGICAL;
    for (uint32_t b = 0; b < args->batch; b++)
        for (int32_t q = 0; q < args->q_len[b]; q++, row++)
            for (uint32_t h = 0; h < lists; h++)
                for (int32_t i = 0; i < p->select; i++) {
                    int32_t end = p->form == FORM_LOGICAL
                                      ? args->position[args->q_begin[b] + q] + 1
                                      : args->kv.length[b] - args->q_len[b] + q + 1;
                    int32_t at = end - (int32_t)p->select + i;
                    if (p->form == FORM_UNSORTED || p->form == FORM_LIE)
                        at = end - 1 - i;
                    if (p->form == FORM_UNSORTED && i == 1)
                        at = end - 1; /* a duplicate */
                    if (p->form == FORM_OUTSIDE && i == 0)
                        at = 1 << 30;
                    out->indices[h * out->head_stride + row * p->select + i] = at < 0 ? -1 : at;
                }
    if (p->form != FORM_CSR) {
        out->offsets = NULL;
        return WN_OK;
    }
    for (uint32_t r = 0; r <= out->rows; r++)
        out->offsets[r] = (int32_t)(r * p->select);
    out->width = 0;
    return WN_OK;
}

static wn_status declare(void *instance, uint32_t layer, uint32_t tokens_per_page,
                         wn_aux_pool *pools, uint32_t *count, wn_error *error)
{
    (void)instance, (void)layer, (void)error;
    pools[0] = (wn_aux_pool){WN_SIZEOF(wn_aux_pool), WN_AUX_PAGE,          POOL_FLAGS, 1, "first",
                             PROBE_NAME ".first",    tokens_per_page * 4u, 4,          0};
    *count = 1;
    return WN_OK;
}

/* Reads float32 keys of a strided layout: all that the tests use it with. */
static wn_status observe(void *instance, const wn_step_args *args)
{
    const probe *p = instance;
    const wn_kv_view *k = &args->kv.k;
    if (p->fail == FAIL_OBSERVE)
        return wn_fail(args->error, WN_EUNSUPPORTED, "told to fail");
    for (uint32_t b = 0; b < args->batch && k->dtype == WN_F32; b++)
        for (int32_t s = args->dirty_begin[b]; s < args->kv.length[b]; s++)
            for (uint32_t h = 0; h < args->kv.num_kv_heads; h++) {
                uint32_t size = args->kv.tokens_per_page, place = (uint32_t)s % size;
                int64_t page =
                    args->kv.page_table[b * args->kv.page_table_stride + (uint32_t)s / size];
                const float *key = (const float *)k->data + page * k->page_stride +
                                   h * k->head_stride + place * k->token_stride;
                ((float *)(args->aux[0].data + page * args->aux[0].page_stride +
                           h * args->aux[0].head_stride))[place] = key[0];
            }
    return WN_OK;
}

static wn_status tile_policy(void *instance, const wn_step_args *args, wn_tile_policy *out)
{
    const probe *p = instance;
    if (p->fail == FAIL_TILE)
        return wn_fail(args->error, WN_EUNSUPPORTED, "told to fail");
    out->kind = WN_TILE_SKIP_SOFTMAX;
    out->tile_q = out->tile_k = 8;
    for (uint32_t b = 0; b < args->batch; b++)
        out->log_threshold[b] = (float)p->threshold;
    return remember(p, args);
}

/* The built-in kernel through the plugin's door. */
static wn_status attend(void *instance, const wn_step_args *args, const wn_attend_args *built_in)
{
    const probe *p = instance;
    if (p->fail == FAIL_ATTEND)
        return wn_fail(args->error, WN_EUNSUPPORTED, "told to fail");
    return args->ops->context(built_in);
}

#ifdef PROBE_INPUT
static const char *const inputs[] = {"probe.extra", NULL};
#else
#define inputs NULL
#endif
static const wn_config_interface config = {
    WN_SIZEOF(wn_config_interface), NUM_FIELDS, fields, inputs, check, create, destroy, lower, NULL};
static const wn_predictor_interface predictor = {
    WN_SIZEOF(wn_predictor_interface), 0, bounds, retained_count, retain, select_newest, NULL};
static const wn_aux_pool_interface aux_pool = {WN_SIZEOF(wn_aux_pool_interface), 0, declare,
                                               observe};
static const wn_kernel_hook_interface hook = {WN_SIZEOF(wn_kernel_hook_interface), 0, tile_policy,
                                              attend};

static const void *get_interface(const char *id)
{
    static const struct {
        const char *id;
        const void *table;
    } tables[] = {{WN_INTERFACE_CONFIG, &config},
                  {WN_INTERFACE_PREDICTOR, &predictor},
                  {WN_INTERFACE_AUX_POOL, &aux_pool},
                  {WN_INTERFACE_KERNEL_HOOK, &hook}};
    for (uint32_t i = 0; i < 4; i++) {
        const char *a = tables[i].id, *b = id;
        for (; *a != 0 && *a == *b; a++)
            b++;
        if (*a == *b)
            return tables[i].table;
    }
    return NULL;
}

const wn_plugin *wn_plugin_entry(const wn_host *host)
{
    static const wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, PROBE_NAME, "1.0",
                                     get_interface};
    if (WN_ABI_VERSION < host->abi_min || WN_ABI_VERSION > host->abi_max) {
        wn_fail(host->error, WN_EABI, "needs ABI %u.%u", WN_ABI_MAJOR, WN_ABI_MINOR);
        return NULL;
    }
    return &plugin;
}
