/* plugin_file.c: see plugin_file.h. The way to a directory is walked from "/" component by
 * component, each opened relative to its already checked parent without following links, so that
 * nobody who could not have changed the result legitimately can change it between check and use. */
#include "core/plugin_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int wn_file_identity_equals(const wn_file_identity *a, const wn_file_identity *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->modified_seconds == b->modified_seconds &&
           a->modified_nanoseconds == b->modified_nanoseconds;
}

static wn_status fail_errno(wn_error *error, const char *what, const char *path)
{
    int number = errno;
    return wn_fail(error, number == ENOENT || number == ENOTDIR ? WN_ENOTFOUND : WN_EIO,
                   "%s: cannot open the %s: %s", path, what, strerror(number));
}

/* Owner and mode. A sticky directory may be writable by all: there, only owners rename or delete.
 */
static wn_status check_trust(const struct stat *at, const char *what, const char *path,
                             int sticky_is_fine, wn_error *error)
{
    if (at->st_uid != 0 && at->st_uid != geteuid())
        return wn_fail(error, WN_ETRUST,
                       "%s: the %s is owned by user %lu, expected root or user %lu, who runs this; "
                       "if you trust it: chown %lu '%s'",
                       path, what, (unsigned long)at->st_uid, (unsigned long)geteuid(),
                       (unsigned long)geteuid(), path);
    if ((at->st_mode & (S_IWGRP | S_IWOTH)) != 0 &&
        !(sticky_is_fine && (at->st_mode & S_ISVTX) != 0))
        return wn_fail(error, WN_ETRUST,
                       "%s: the %s has mode %04o, writable by %s; if you trust its contents: chmod "
                       "go-w '%s'",
                       path, what, (unsigned)(at->st_mode & 07777),
                       (at->st_mode & S_IWOTH) != 0 ? "everybody" : "its group", path);
    return WN_OK;
}

/* The form of a path, before the file system is asked. */
static wn_status check_path(const char *path, wn_error *error)
{
    if (path == NULL || path[0] == '\0')
        return wn_fail(error, WN_ETRUST, "the path is empty; give an absolute path");
    if (strlen(path) >= PATH_MAX)
        return wn_fail(error, WN_ETRUST,
                       "the path of %zu bytes is too long, at most %d are allowed", strlen(path),
                       PATH_MAX - 1);
    if (path[0] != '/')
        return wn_fail(error, WN_ETRUST,
                       "%s: is relative, so it depends on the working directory; give an absolute "
                       "path",
                       path);
    for (const char *at = path; *at != '\0';) {
        size_t length = strcspn(at, "/");
        if (length == 2 && at[0] == '.' && at[1] == '.')
            return wn_fail(error, WN_ETRUST, "%s: has a component \"..\"; give the path without it",
                           path);
        at += length + (at[length] == '/');
    }
    return WN_OK;
}

/* Opens `resolved`, an absolute path without links or dots, checking each directory on the way.
 * The string is cut and mended in place to name them. */
static wn_status walk(char *resolved, int *fd, wn_error *error)
{
    /* Directories above may be passable without being readable; the last one will be read. */
    const int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    wn_status status = WN_OK;
    int here = open("/", flags | (resolved[1] == '\0' ? O_RDONLY : O_PATH));
    char *at = resolved;
    for (;;) {
        /* `here` is the directory whose name ends at `at`. */
        struct stat about;
        char kept = *at;
        int last = kept == '\0' || (kept == '/' && at[1] == '\0');
        *at = '\0';
        const char *name = at == resolved ? "/" : resolved;
        if (here < 0 || fstat(here, &about) != 0)
            status = fail_errno(error, "directory", name);
        else
            status = check_trust(&about, "directory", name, !last, error);
        *at = kept;
        if (status != WN_OK || last)
            break;
        char *end = at + 1 + strcspn(at + 1, "/");
        kept = *end;
        *end = '\0';
        int next = openat(here, at + 1, flags | (kept == '\0' ? O_RDONLY : O_PATH));
        int number = errno;
        *end = kept;
        close(here);
        errno = number;
        here = next;
        at = end;
    }
    if (status != WN_OK && here >= 0)
        close(here);
    else
        *fd = here;
    return status;
}

wn_status wn_plugin_directory_open(const char *path, int *fd, wn_error *error)
{
    wn_status status = check_path(path, error);
    if (status != WN_OK)
        return status;
    char *resolved = realpath(path, NULL);
    if (resolved == NULL)
        return fail_errno(error, "directory", path);
    status = walk(resolved, fd, error);
    free(resolved);
    return status;
}

wn_status wn_plugin_file_open_at(int directory, const char *directory_path, const char *name,
                                 wn_plugin_file *file, wn_error *error)
{
    char path[PATH_MAX];
    struct stat about;
    if (name[0] == '\0' || strchr(name, '/') != NULL ||
        snprintf(path, sizeof path, "%s/%s", directory_path, name) >= (int)sizeof path)
        return wn_fail(error, WN_ETRUST, "%s: \"%s\" is no name for a plugin file", directory_path,
                       name);
    /* O_NONBLOCK: a FIFO put here must not make us wait. */
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ELOOP)
        return wn_fail(error, WN_ETRUST,
                       "%s: is a symbolic link; put the file itself into the plugin directory",
                       path);
    if (fd < 0 || fstat(fd, &about) != 0) {
        wn_status status = fail_errno(error, "file", path);
        if (fd >= 0)
            close(fd);
        return status;
    }
    wn_status status = WN_OK;
    if (!S_ISREG(about.st_mode))
        status = wn_fail(error, WN_ETRUST, "%s: is not a regular file (mode %07o)", path,
                         (unsigned)about.st_mode);
    else
        status = check_trust(&about, "file", path, 0, error);
    if (status != WN_OK) {
        close(fd);
        return status;
    }
    file->fd = fd;
    file->identity =
        (wn_file_identity){(uint64_t)about.st_dev, (uint64_t)about.st_ino, (uint64_t)about.st_size,
                           about.st_mtim.tv_sec, about.st_mtim.tv_nsec};
    return WN_OK;
}

wn_status wn_plugin_file_open(const char *path, wn_plugin_file *file, wn_error *error)
{
    char directory_path[PATH_MAX];
    int directory;
    wn_status status = check_path(path, error);
    if (status != WN_OK)
        return status;
    const char *slash = strrchr(path, '/');
    size_t length = slash == path ? 1 : (size_t)(slash - path);
    memcpy(directory_path, path, length);
    directory_path[length] = '\0';
    status = wn_plugin_directory_open(directory_path, &directory, error);
    if (status != WN_OK)
        return status;
    status = wn_plugin_file_open_at(directory, directory_path, slash + 1, file, error);
    close(directory);
    return status;
}
