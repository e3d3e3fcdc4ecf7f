/* scan.h: one look at all plugin directories. Reads notes; runs no plugin code. */
#ifndef WN_SCAN_H
#define WN_SCAN_H

#include "core/plugin_file.h"
#include "core/reasons.h"
#include "winnow/plugin.h"

/* One plugin file. */
typedef struct wn_found_plugin {
    char *path;
    wn_file_identity identity; /* zero if the file could not be opened */
    wn_note note;              /* zero if it could not be read */
    char *problem;             /* NULL: usable */
    uint32_t directory;        /* its place in the search order */
    uint32_t in_conflict;      /* with another file of the same directory */
} wn_found_plugin;

struct wn_claim; /* algorithm -> file, a hash table */

typedef struct wn_scan {
    wn_found_plugin *files; /* in search order, sorted by name within a directory */
    uint32_t num_files, capacity;
    struct wn_claim *claims;
    wn_reason_list searched; /* a line for each directory */
    struct wn_seen_directory {
        uint64_t device, inode;
    } * seen;
    uint32_t num_directories;
} wn_scan;

/* Looks through the caller's directories (path, separated by ':', or NULL), WINNOW_PLUGIN_PATH, the
 * user's and the installed plugin directory. Fails only for want of memory. */
wn_status wn_scan_run(const char *path, wn_scan **scan);
void wn_scan_free(wn_scan *scan);

/* The file that serves an algorithm; one with in_conflict set, whose problem says why nothing can;
 * or NULL. */
const wn_found_plugin *wn_scan_find(const wn_scan *scan, const char *algorithm);

#endif
