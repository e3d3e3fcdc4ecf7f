/* host.c: what this library offers. To plugins: the host struct and its services, found by string
 * id. To hosts that want the arithmetic alone: the CPU op table. */
#include "core/log.h"
#include "core/registry.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

static void write_log(uint32_t level, const char *algorithm, const char *text)
{
    wn_log_line(level, "load", "%s: %s", algorithm != NULL ? algorithm : "(a plugin)",
                text != NULL ? text : "");
}

static void *allocate(uint64_t bytes, uint64_t alignment)
{
    void *memory = NULL;
    if ((alignment & (alignment - 1)) != 0 || bytes > SIZE_MAX || alignment > SIZE_MAX)
        return NULL;
    if (alignment < 16)
        alignment = 16;
    if (bytes == 0)
        bytes = 1; /* NULL means failure, so an empty piece has an address too */
    return posix_memalign(&memory, (size_t)alignment, (size_t)bytes) == 0 ? memory : NULL;
}

static const wn_log log_service = {WN_SIZEOF(wn_log), 0, write_log};
static const wn_memory memory_service = {WN_SIZEOF(wn_memory), 0, allocate, free};

static const void *get_service(const char *id)
{
    if (id == NULL)
        return NULL;
    if (strcmp(id, WN_SERVICE_LOG) == 0)
        return &log_service;
    if (strcmp(id, WN_SERVICE_MEMORY) == 0)
        return &memory_service;
    if (strcmp(id, WN_SERVICE_OPS) == 0)
        return wn_kernels_cpu();
    return NULL;
}

/* Text of an entry point's refusal. One buffer will do: the loader runs one entry at a time. */
static char entry_text[1024];
static wn_error entry_error = {WN_SIZEOF(wn_error), sizeof entry_text, entry_text};

static const wn_host host = {
    WN_SIZEOF(wn_host), WN_ABI_VERSION, WN_ABI_VERSION, 0, "libwinnow " WN_LIBRARY_VERSION,
    &entry_error,       get_service,
};

const wn_host *wn_core_host(void)
{
    return &host;
}

const wn_ops *wn_cpu_ops(void)
{
    return wn_kernels_cpu();
}

const char *wn_cpu_ops_report(void)
{
    return wn_kernels_cpu_report();
}

double wn_cpu_weight_rounding(void)
{
    return wn_kernels_weight_rounding();
}

const char *wn_cpu_variant_name(uint32_t index)
{
    return wn_kernels_variant_name(index);
}

const wn_ops *wn_cpu_variant_ops(const char *variant)
{
    return wn_kernels_variant(variant);
}

const char *wn_cpu_variant_of_op(const char *variant, const char *op)
{
    return wn_kernels_variant_of(variant, op);
}
