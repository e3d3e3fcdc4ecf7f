/* engine_keys.c: the keys of a file that are not an algorithm's, as two tables: the top level and
 * kv_cache_config. To add a key, write its reader and its line in a table. */
#include "core/engine_keys.h"

#include "core/key_table.h"
#include "core/lost_indent.h"
#include "core/yaml_scalar.h"

#include <strings.h>

typedef struct reader {
    wn_engine_config *engine;
    const wn_yaml_item *methods;
    const wn_yaml_item *page_tokens, *sequences; /* where they were first said */
    wn_arena *arena;
    wn_findings *findings, *notes;
} reader;

/* ---------------------------------------------------------------- kinds of values */

static void read_u32(reader *r, const wn_yaml_item *item, double greatest, const char *unit,
                     uint32_t *out)
{
    int64_t value;
    if (wn_read_int(item->value, item->key->text, 1, greatest, unit, r->findings, &value))
        *out = (uint32_t)value;
}

static void note(reader *r, const wn_yaml_item *item, const char *text)
{
    wn_finding_add(r->notes, item->key->line, item->key->column, "\"%s\": %s", item->key->text,
                   text);
}

/* Two names of one setting: answers whether this is the first of them. */
static int is_first(reader *r, const wn_yaml_item *item, const wn_yaml_item **first)
{
    if (*first == NULL) {
        *first = item;
        return 1;
    }
    const wn_yaml_node *key = (*first)->key;
    wn_finding_add(r->findings, item->key->line, item->key->column,
                   "\"%s\" says again what \"%s\" says at %u:%u: keep one of them", item->key->text,
                   key->text, key->line, key->column);
    return 0;
}

/* ---------------------------------------------------------------- kv_cache_config */

static void read_block_reuse(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    int64_t on;
    if (wn_read_bool(item->value, item->key->text, r->findings, &on) && on)
        wn_find_mismatch(r->findings, item->value, item->key->text,
                         "false, because prefix reuse is not available in this version");
}

static void read_page_tokens(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    if (is_first(r, item, &r->page_tokens))
        read_u32(r, item, 65536, "tokens", &r->engine->tokens_per_page);
}

static void read_max_tokens(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    int64_t value;
    if (wn_read_int(item->value, item->key->text, 1, 1099511627776.0, "tokens", r->findings,
                    &value))
        r->engine->max_tokens = (uint64_t)value;
}

static void read_dtype(void *context, const wn_yaml_item *item)
{
    static const char *const names[] = {"auto",        "float32", "float16", "bfloat16",
                                        "float8_e4m3", "fp8",     "int8",    NULL};
    static const uint32_t dtypes[] = {0, WN_F32, WN_F16, WN_BF16, WN_F8_E4M3, WN_F8_E4M3, WN_I8};
    reader *r = context;
    int64_t which;
    if (wn_read_enum(item->value, item->key->text, names, r->findings, &which))
        r->engine->kv_dtype = dtypes[which];
}

static void read_layout(void *context, const wn_yaml_item *item)
{
    static const char *const names[] = {"hnd", "nhd", "vec", NULL};
    reader *r = context;
    int64_t which;
    if (wn_read_enum(item->value, item->key->text, names, r->findings, &which))
        r->engine->layout = names[which];
}

static void read_memory_fraction(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    double fraction;
    if (wn_read_float(item->value, item->key->text, 0, 1, "", r->findings, &fraction))
        note(r, item,
             "a share of GPU memory has no meaning for caches in CPU memory, whose size "
             "max_tokens sets");
}

static void read_max_sequences(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    if (is_first(r, item, &r->sequences))
        read_u32(r, item, 1 << 20, "sequences", &r->engine->max_sequences);
}

static const wn_key_rule cache_keys[] = {
    {"enable_block_reuse", read_block_reuse},
    {"tokens_per_block", read_page_tokens},
    {"tokens_per_page", read_page_tokens},
    {"max_tokens", read_max_tokens},
    {"dtype", read_dtype},
    {"layout", read_layout},
    {"free_gpu_memory_fraction", read_memory_fraction},
    {"max_sequences", read_max_sequences},
    {NULL, NULL},
};

/* ---------------------------------------------------------------- the top level */

static void read_cache(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    wn_keys_read(item->value, item->key->text, cache_keys, r, r->findings);
}

static void read_methods(void *context, const wn_yaml_item *item)
{
    ((reader *)context)->methods = item;
}

static void read_max_batch(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    read_u32(r, item, 1 << 20, "requests", &r->engine->max_batch);
}

static void read_max_step_tokens(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    read_u32(r, item, INT32_MAX, "tokens", &r->engine->max_step_tokens);
}

static void read_chunked_prefill(void *context, const wn_yaml_item *item)
{
    reader *r = context;
    int64_t on;
    if (wn_read_bool(item->value, item->key->text, r->findings, &on))
        note(r, item, "the host decides how it cuts prompts into chunks, and any way is fine");
}

/* Other systems' names are read in any case: they are written in capitals there. */
static void read_backend(void *context, const wn_yaml_item *item)
{
    static const char *const names[] = {"auto",   "cpu",        "cuda", "vanilla",
                                        "TRTLLM", "FLASHINFER", NULL};
    static const uint32_t devices[] = {0, WN_DEVICE_CPU, WN_DEVICE_CUDA, WN_DEVICE_CPU, 0, 0};
    reader *r = context;
    int64_t which = 0;
    const char *text = item->value->kind == WN_YAML_SCALAR ? item->value->text : "";
    while (names[which] != NULL && strcasecmp(names[which], text) != 0)
        which++;
    if (names[which] == NULL) {
        wn_read_enum(item->value, item->key->text, names, r->findings, &which);
        return;
    }
    r->engine->device = devices[which];
    if (which == 3)
        note(r, item, "vanilla is read as cpu");
    else if (which > 3)
        note(r, item, "this backend of another system is read as auto");
}

static void read_on_error(void *context, const wn_yaml_item *item)
{
    static const char *const names[] = {"fail", "dense", NULL};
    reader *r = context;
    int64_t which;
    if (wn_read_enum(item->value, item->key->text, names, r->findings, &which))
        r->engine->on_error_dense = which == 1;
}

static void read_granularity(void *context, const wn_yaml_item *item)
{
    static const char *const names[] = {"exact", "page", NULL};
    reader *r = context;
    int64_t which;
    if (wn_read_enum(item->value, item->key->text, names, r->findings, &which))
        r->engine->granularity_page = which == 1;
}

static const wn_key_rule top_keys[] = {
    {"sparse_attention_config", read_methods},
    {"kv_cache_config", read_cache},
    {"max_batch_size", read_max_batch},
    {"max_num_tokens", read_max_step_tokens},
    {"max_sequences", read_max_sequences},
    {"enable_chunked_prefill", read_chunked_prefill},
    {"attn_backend", read_backend},
    {"on_error", read_on_error},
    {"granularity", read_granularity},
    {NULL, NULL},
};

/* The first two take mappings. */
static int is_section(const char *key)
{
    const wn_key_rule sections[] = {top_keys[0], top_keys[1], {NULL, NULL}};
    return wn_keys_know(sections, key);
}

static int is_foreign(const char *key)
{
    return !wn_keys_know(top_keys, key);
}

void wn_engine_keys_read(const wn_yaml_node *root, wn_engine_config *engine,
                         const wn_yaml_item **methods, wn_arena *arena, wn_findings *findings,
                         wn_findings *notes)
{
    static const wn_indent_rule sections = {is_section, is_foreign};
    reader r = {.engine = engine, .arena = arena, .findings = findings, .notes = notes};
    *methods = NULL;
    root = wn_indent_restore(root, &sections, arena, notes);
    if (root == NULL)
        return;
    wn_keys_read(root, "the file", top_keys, &r, findings);
    *methods = r.methods;
}
