/* host.h: what the host offers a plugin. Services are found by string id, like interfaces. */
#ifndef WINNOW_HOST_H
#define WINNOW_HOST_H

#include "winnow/ops.h"
#include "winnow/status.h"

/* Handed to the entry point; valid as long as the plugin is loaded. */
typedef struct wn_host {
    uint32_t struct_size;
    uint32_t abi_min, abi_max; /* range of WN_VERSIONs that this host speaks */
    uint32_t reserved;
    const char *name; /* "libwinnow 0.1.0" */
    wn_error *error;  /* for the entry point's own refusal */
    /* A service's table, or NULL if the host has none of that id. [any] & concurrent */
    const void *(*get_service)(const char *id);
} wn_host;
WN_STRUCT(wn_host, get_service);

#define WN_SERVICE_LOG "winnow.log/1"
#define WN_SERVICE_MEMORY "winnow.memory/1"
#define WN_SERVICE_OPS "winnow.ops/1"

enum { WN_LOG_ERROR = 1, WN_LOG_WARNING = 2, WN_LOG_INFO = 3, WN_LOG_DEBUG = 4 };

typedef struct wn_log {
    uint32_t struct_size;
    uint32_t reserved;
    /* One line, without a newline. Never from a step. [load] [control] & concurrent */
    void (*write)(uint32_t level, const char *algorithm, const char *text);
} wn_log;
WN_STRUCT(wn_log, write);

typedef struct wn_memory {
    uint32_t struct_size;
    uint32_t reserved;
    /* NULL when there is none left. alignment: a power of two; 0: 16. [load] [control] & concurrent
     */
    void *(*allocate)(uint64_t bytes, uint64_t alignment);
    void (*release)(void *memory); /* NULL is fine */
} wn_memory;
WN_STRUCT(wn_memory, release);

/* winnow.ops/1 is a `const wn_ops *`: the CPU table. In a step use wn_step_args.ops, which is the
 * table of the device that the step runs on. */

#endif
