/* validate_host.c: services with bookkeeping, and the models that plugins are tried on. */
#include "tools/validate_host.h"

#include "tools/validate_elf.h"
#include "winnow/winnow.h"

#include <dlfcn.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static char error_text[1024];
static wn_error entry_error = {WN_SIZEOF(wn_error), sizeof error_text, error_text};

/* ---------------------------------------------------------------- winnow.memory/1 */

/* Stands before each block: how to free it, and a mark that tells our blocks from others. */
typedef struct block_head {
    uint64_t mark;
    uint64_t bytes;
    void *start; /* what malloc gave */
} block_head;

#define BLOCK_MARK 0x57696e6e6f774d65ULL

static atomic_int_fast64_t blocks_held, bytes_held, bad_releases;

static void *count_allocate(uint64_t bytes, uint64_t alignment)
{
    uint64_t align = alignment > 16 ? alignment : 16;
    if ((align & (align - 1)) != 0 || bytes > (uint64_t)1 << 40 || align > 1 << 20)
        return NULL;
    uint8_t *start = malloc(bytes + align + sizeof(block_head));
    if (start == NULL)
        return NULL;
    uintptr_t at = ((uintptr_t)start + sizeof(block_head) + align - 1) & ~(uintptr_t)(align - 1);
    block_head head = {BLOCK_MARK, bytes, start};
    memcpy((uint8_t *)at - sizeof head, &head, sizeof head);
    memset((void *)at, 0xa5, bytes); /* nobody may rely on zeros */
    atomic_fetch_add(&blocks_held, 1);
    atomic_fetch_add(&bytes_held, (int_fast64_t)bytes);
    return (void *)at;
}

static void count_release(void *memory)
{
    block_head head;
    if (memory == NULL)
        return;
    memcpy(&head, (uint8_t *)memory - sizeof head, sizeof head);
    if (head.mark != BLOCK_MARK) {
        atomic_fetch_add(&bad_releases, 1);
        return;
    }
    memset((uint8_t *)memory - sizeof head, 0, sizeof head);
    atomic_fetch_sub(&blocks_held, 1);
    atomic_fetch_sub(&bytes_held, (int_fast64_t)head.bytes);
    free(head.start);
}

wn_trial_memory wn_trial_memory_held(void)
{
    return (wn_trial_memory){atomic_load(&blocks_held), atomic_load(&bytes_held),
                             atomic_load(&bad_releases)};
}

/* ---------------------------------------------------------------- the host */

static void quiet_write(uint32_t level, const char *algorithm, const char *text)
{
    (void)level, (void)algorithm, (void)text;
}

static const void *get_service(const char *id)
{
    static const wn_log log = {WN_SIZEOF(wn_log), 0, quiet_write};
    static const wn_memory memory = {WN_SIZEOF(wn_memory), 0, count_allocate, count_release};
    if (id == NULL)
        return NULL;
    if (strcmp(id, WN_SERVICE_LOG) == 0)
        return &log;
    if (strcmp(id, WN_SERVICE_MEMORY) == 0)
        return &memory;
    if (strcmp(id, WN_SERVICE_OPS) == 0)
        return wn_cpu_ops();
    return NULL;
}

const wn_host *wn_trial_host(uint32_t abi_min, uint32_t abi_max)
{
    static wn_host host = {
        WN_SIZEOF(wn_host), 0,          0, 0, "winnow validate " WN_LIBRARY_VERSION,
        &entry_error,       get_service};
    host.abi_min = abi_min;
    host.abi_max = abi_max;
    error_text[0] = '\0';
    return &host;
}

const char *wn_trial_host_error(void)
{
    return error_text;
}

/* ---------------------------------------------------------------- loading */

int wn_trial_load(wn_trial *trial, wn_trial_plugin *loaded)
{
    wn_elf elf;
    wn_error error = {WN_SIZEOF(wn_error), WN_TRIAL_TEXT, trial->text};
    memset(loaded, 0, sizeof *loaded);
    if (wn_elf_read(trial->path, &elf, &error) != WN_OK)
        return 0;
    wn_elf_note(&elf, &loaded->note);
    wn_elf_free(&elf);
    void *handle = dlopen(trial->path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        wn_trial_says(trial, WN_FAILED, "%s", dlerror());
        return 0;
    }
    /* The way POSIX shows for turning dlsym's answer into a function. */
    *(void **)&loaded->entry = dlsym(handle, WN_PLUGIN_ENTRY);
    if (loaded->entry == NULL)
        wn_trial_says(trial, WN_FAILED, "has no " WN_PLUGIN_ENTRY);
    return loaded->entry != NULL;
}

int wn_trial_enter(wn_trial *trial, wn_trial_plugin *loaded)
{
    if (!wn_trial_load(trial, loaded))
        return 0;
    const wn_plugin *plugin =
        loaded->entry(wn_trial_host(WN_VERSION(WN_ABI_MAJOR, 0), WN_ABI_VERSION));
    if (plugin == NULL || plugin->get_interface == NULL) {
        wn_trial_says(trial, WN_FAILED, "the entry refuses ABI %u.%u: %s", WN_ABI_MAJOR,
                      WN_ABI_MINOR, plugin != NULL ? "no get_interface" : error_text);
        return 0;
    }
    loaded->plugin = plugin;
    loaded->config = plugin->get_interface(WN_INTERFACE_CONFIG);
    loaded->predictor = plugin->get_interface(WN_INTERFACE_PREDICTOR);
    loaded->aux_pool = plugin->get_interface(WN_INTERFACE_AUX_POOL);
    loaded->kernel_hook = plugin->get_interface(WN_INTERFACE_KERNEL_HOOK);
    if (loaded->config == NULL)
        wn_trial_says(trial, WN_FAILED, "has no interface " WN_INTERFACE_CONFIG);
    return loaded->config != NULL;
}

/* ---------------------------------------------------------------- models */

int wn_trial_model(uint32_t number, wn_model *model)
{
    static const struct {
        uint32_t heads, kv_heads, head_dim;
    } shapes[] = {
        {4, 2, 64}, /* grouped */
        {2, 2, 32}, /* one query head per KV head */
        {4, 1, 64}, /* one KV head */
    };
    if (number >= sizeof shapes / sizeof shapes[0])
        return 0;
    memset(model, 0, sizeof *model);
    model->struct_size = WN_SIZEOF(wn_model);
    model->num_layers = 2;
    model->num_heads = shapes[number].heads;
    model->num_kv_heads = shapes[number].kv_heads;
    model->head_dim = shapes[number].head_dim;
    model->v_head_dim = shapes[number].head_dim;
    model->dtype = WN_F32;
    model->max_position = 4096;
    model->softmax_scale = 1.0f / sqrtf((float)model->head_dim);
    model->index_n_heads = 2; /* for methods with an indexer: a small one */
    model->index_head_dim = 16;
    model->name = "validator's model";
    return 1;
}
