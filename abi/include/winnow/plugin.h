/* plugin.h: the entry point and the note of a plugin. An algorithm's source includes this alone.
 *
 * A plugin is a shared object that exports one function, wn_plugin_entry, and carries one ELF note,
 * .note.winnow, from which it can be listed without running any of its code. */
#ifndef WINNOW_PLUGIN_H
#define WINNOW_PLUGIN_H

#include "winnow/aux_pool.h"
#include "winnow/config.h"
#include "winnow/host.h"
#include "winnow/kernel_hook.h"
#include "winnow/layout.h"
#include "winnow/predictor.h"

#include <string.h>

typedef struct wn_plugin {
    uint32_t struct_size;
    uint32_t abi_version;  /* the WN_VERSION that the plugin chose from the host's range */
    const char *algorithm; /* as in the note: [a-z0-9_-]{1,63} */
    const char *version;   /* as in the note */
    /* An interface's table, or NULL for an id that the plugin does not know. [any] & concurrent */
    const void *(*get_interface)(const char *id);
} wn_plugin;
WN_STRUCT(wn_plugin, get_interface);

/* The one exported symbol. Returns a static struct, the same at every call, or NULL with a text in
 * host->error. [load] */
#define WN_PLUGIN_ENTRY "wn_plugin_entry"
#ifdef __cplusplus
extern "C" {
#endif
WN_EXPORT const wn_plugin *wn_plugin_entry(const wn_host *host);
#ifdef __cplusplus
}
#endif

/* For authors: the two things that every plugin would otherwise write out. `interfaces` is an array
 * that ends in {NULL, NULL}. The macro defines wn_plugin_entry, which refuses a host that does not
 * speak this ABI (rule WN-P-06), and the lookup by id behind it. Nothing else depends on it: a
 * plugin may write both functions itself.
 *   static const wn_interface interfaces[] = {{WN_INTERFACE_CONFIG, &config}, {NULL, NULL}};
 *   WN_PLUGIN_DEFINE("window", "1.0", interfaces); */
typedef struct wn_interface {
    const char *id;
    const void *table;
} wn_interface;

#define WN_PLUGIN_DEFINE(algorithm_, version_, interfaces_)                                        \
    static const void *wn_plugin_get_interface(const char *id)                                     \
    {                                                                                              \
        const wn_interface *at = (interfaces_);                                                    \
        while (at->id != NULL && strcmp(at->id, id) != 0)                                          \
            at++;                                                                                  \
        return at->table;                                                                          \
    }                                                                                              \
    const wn_plugin *wn_plugin_entry(const wn_host *host)                                          \
    {                                                                                              \
        static const wn_plugin plugin = {WN_SIZEOF(wn_plugin), WN_ABI_VERSION, (algorithm_),       \
                                         (version_), wn_plugin_get_interface};                     \
        if (host->abi_min <= WN_ABI_VERSION && WN_ABI_VERSION <= host->abi_max)                    \
            return &plugin;                                                                        \
        wn_fail(host->error, WN_EABI, "%s speaks ABI %u.%u and this host does not: rebuild it",    \
                (algorithm_), WN_ABI_MAJOR, WN_ABI_MINOR);                                         \
        return NULL;                                                                               \
    }                                                                                              \
    WN_STATIC_ASSERT(sizeof(algorithm_) <= 64, wn_algorithm_is_at_most_63_characters)

/* Bits of wn_note.interfaces. */
enum { WN_HAS_CONFIG = 1, WN_HAS_PREDICTOR = 2, WN_HAS_AUX_POOL = 4, WN_HAS_KERNEL_HOOK = 8 };

/* An ELF note: name "Winnow", type WN_NOTE_TYPE, descriptor = everything from `format` on. Strings
 * are NUL-terminated within their arrays. */
#define WN_NOTE_SECTION ".note.winnow"
#define WN_NOTE_NAME "Winnow\0"
#define WN_NOTE_TYPE 1u
#define WN_NOTE_FORMAT 1u

typedef struct wn_note {
    uint32_t format;                  /* WN_NOTE_FORMAT */
    uint32_t abi_built;               /* WN_ABI_VERSION of the headers it was built with */
    uint32_t abi_least;               /* least that it can work with */
    uint32_t interfaces;              /* WN_HAS_... */
    uint32_t devices;                 /* WN_DEVICES_... */
    uint32_t layout_low, layout_high; /* WN_ABI_LAYOUT of the headers it was built with */
    uint32_t reserved;
    char algorithm[64];
    char version[32];
    char license[32];
    char summary[128];
} wn_note;
WN_STRUCT(wn_note, summary);

typedef struct wn_note_record {
    uint32_t name_size, descriptor_size, type;
    char name[8];
    wn_note note;
} wn_note_record;
WN_STRUCT(wn_note_record, note);

/* Writes the note. Once per plugin, at file scope:
 *   WN_PLUGIN_NOTE("window", "1.0", "MIT", WN_HAS_CONFIG | WN_HAS_PREDICTOR, WN_DEVICES_CPU,
 *                  "sliding window with token sinks"); */
#define WN_PLUGIN_NOTE(algorithm_, version_, license_, interfaces_, devices_, summary_)            \
    __attribute__((used, aligned(4),                                                               \
                   section(WN_NOTE_SECTION))) static const wn_note_record wn_plugin_note = {       \
        8,                                                                                         \
        (uint32_t)sizeof(wn_note),                                                                 \
        WN_NOTE_TYPE,                                                                              \
        WN_NOTE_NAME,                                                                              \
        {WN_NOTE_FORMAT, WN_ABI_VERSION, WN_ABI_VERSION, (interfaces_), (devices_),                \
         (uint32_t)(WN_ABI_LAYOUT & 0xffffffffu), (uint32_t)(WN_ABI_LAYOUT >> 32), 0, algorithm_,  \
         version_, license_, summary_}}

#endif
