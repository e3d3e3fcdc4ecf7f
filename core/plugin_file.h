/* plugin_file.h: opens plugin files and their directories with the checks that make loading code
 * from them defensible. What has been opened is what was checked: checks are made on descriptors,
 * and the loader maps the descriptor, never the name again. */
#ifndef WN_PLUGIN_FILE_H
#define WN_PLUGIN_FILE_H

#include "winnow/status.h"

#include <sys/stat.h>

/* Which file it is, and which edition of it. */
typedef struct wn_file_identity {
    uint64_t device, inode, bytes;
    int64_t modified_seconds, modified_nanoseconds;
} wn_file_identity;

typedef struct wn_plugin_file {
    int fd; /* the caller closes it */
    wn_file_identity identity;
} wn_plugin_file;

int wn_file_identity_equals(const wn_file_identity *a, const wn_file_identity *b);

/* Opens the directory `path` and checks it and every directory above it: owned by root or by this
 * process's effective user, and writable by nobody else (above it, sticky directories such as /tmp
 * are fine). path must be absolute, without "..". Symbolic links on the way are followed first;
 * what they lead to is checked. *fd: the caller closes it.
 *   WN_ENOTFOUND  there is none      WN_ETRUST  a check failed; the text says which, and how to
 * mend it WN_EIO        it cannot be read */
wn_status wn_plugin_directory_open(const char *path, int *fd, wn_error *error);

/* Opens the file `name` of a directory opened as above: a regular file, no symbolic link, owner and
 * mode as for directories. directory_path stands in messages. Same statuses. */
wn_status wn_plugin_file_open_at(int directory, const char *directory_path, const char *name,
                                 wn_plugin_file *file, wn_error *error);

/* Both in one: path is an absolute path of a file. */
wn_status wn_plugin_file_open(const char *path, wn_plugin_file *file, wn_error *error);

#endif
