/* scan.c: finds plugin files and settles which of them serves which algorithm. A file that cannot
 * be used stays in the list with its problem, so that nobody has to guess why it is not taken. */
#include "core/scan.h"

#include "core/log.h"
#include "core/note.h"
#include "winnow/host.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

/* By default uthash leaves the process when memory is short; here, a flag is set. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(claim) ((claim)->lost = 1)
#include <uthash.h>

typedef struct wn_claim {
    const char *algorithm; /* in the file's note */
    uint32_t file;
    uint32_t lost;
    UT_hash_handle hh;
} wn_claim;

#define TEXT_BYTES 2048

/* ---------------------------------------------------------------- files */

/* A new, zeroed file at the end of the list, or NULL. */
static wn_found_plugin *add_file(wn_scan *scan, const char *directory, const char *name)
{
    char path[PATH_MAX];
    if (scan->num_files == scan->capacity) {
        uint32_t capacity = scan->capacity * 2 + 16;
        wn_found_plugin *grown = realloc(scan->files, capacity * sizeof *grown);
        if (grown == NULL)
            return NULL;
        scan->files = grown;
        scan->capacity = capacity;
    }
    wn_found_plugin *file = &scan->files[scan->num_files];
    memset(file, 0, sizeof *file);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file->path = strdup(path);
    file->directory = scan->num_directories;
    if (file->path == NULL)
        return NULL;
    scan->num_files++;
    return file;
}

/* One file of a directory. WN_ENOTFOUND: it is none of ours. */
static wn_status read_file(int directory, const char *directory_path, const char *name,
                           wn_plugin_file *file, wn_note *note, wn_error *error)
{
    wn_status status = wn_plugin_file_open_at(directory, directory_path, name, file, error);
    if (status != WN_OK)
        return status;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory_path, name);
    wn_note read;
    status = wn_note_read(file->fd, file->identity.bytes, path, &read, error);
    close(file->fd);
    if (status != WN_OK)
        return status;
    *note = read;
    return wn_note_matches(note, path, error);
}

static wn_status take_file(wn_scan *scan, int directory, const char *directory_path,
                           const char *name)
{
    char text[TEXT_BYTES] = "";
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    wn_plugin_file opened = {0};
    wn_note note = {0};
    wn_status status = read_file(directory, directory_path, name, &opened, &note, &error);
    if (status == WN_ENOTFOUND) {
        wn_log_line(WN_LOG_INFO, "search", "passed over %s", text);
        return WN_OK;
    }
    wn_found_plugin *file = add_file(scan, directory_path, name);
    if (file == NULL)
        return WN_ENOMEM;
    file->identity = opened.identity;
    file->note = note;
    if (status != WN_OK && (file->problem = strdup(text)) == NULL)
        return WN_ENOMEM;
    wn_log_line(WN_LOG_INFO, "search", "found %s", status == WN_OK ? file->path : text);
    return WN_OK;
}

/* ---------------------------------------------------------------- directories */

static int is_plugin_name(const char *name)
{
    size_t length = strlen(name);
    return length > 3 && name[0] != '.' && strcmp(name + length - 3, ".so") == 0;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* The names of a directory that could be plugins, sorted: readdir's order is nobody's. */
static wn_status list_names(DIR *stream, char ***names, uint32_t *count)
{
    uint32_t capacity = 0;
    struct dirent *entry;
    while ((entry = readdir(stream)) != NULL) {
        if (!is_plugin_name(entry->d_name))
            continue;
        if (*count == capacity) {
            capacity = capacity * 2 + 16;
            char **grown = realloc(*names, capacity * sizeof *grown);
            if (grown == NULL)
                return WN_ENOMEM;
            *names = grown;
        }
        if (((*names)[*count] = strdup(entry->d_name)) == NULL)
            return WN_ENOMEM;
        ++*count;
    }
    if (*count > 0)
        qsort(*names, *count, sizeof **names, by_name);
    return WN_OK;
}

/* Has it been searched already, under this name or another? Notes it if not. -1: out of memory. */
static int seen_before(wn_scan *scan, int fd)
{
    struct stat about;
    if (fstat(fd, &about) != 0)
        return 0;
    for (uint32_t i = 0; i < scan->num_directories; i++)
        if (scan->seen[i].device == about.st_dev && scan->seen[i].inode == about.st_ino)
            return 1;
    void *grown = realloc(scan->seen, (scan->num_directories + 1) * sizeof *scan->seen);
    if (grown == NULL)
        return -1;
    scan->seen = grown;
    scan->seen[scan->num_directories].device = about.st_dev;
    scan->seen[scan->num_directories].inode = about.st_ino;
    return 0;
}

/* Searches an opened directory, and closes it. */
static wn_status search_opened(wn_scan *scan, int fd, const char *path, const char *origin)
{
    char **names = NULL;
    uint32_t count = 0;
    uint32_t before = scan->num_files;
    int seen = seen_before(scan, fd);
    DIR *stream = seen == 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        if (seen == 1)
            wn_reason_add(&scan->searched, "  %s (%s): searched already", path, origin);
        else if (seen == 0)
            wn_reason_add(&scan->searched, "  %s (%s): not searched: %s", path, origin,
                          strerror(errno));
        close(fd);
        return seen < 0 ? WN_ENOMEM : WN_OK;
    }
    wn_status status = list_names(stream, &names, &count);
    for (uint32_t i = 0; status == WN_OK && i < count; i++)
        status = take_file(scan, dirfd(stream), path, names[i]);
    for (uint32_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    closedir(stream);
    scan->num_directories++;
    uint32_t found = scan->num_files - before;
    wn_reason_add(&scan->searched, "  %s (%s): %u plugin%s", path, origin, found,
                  found == 1 ? "" : "s");
    return status;
}

/* origin: who named the directory, for the remark. */
static wn_status search_directory(wn_scan *scan, const char *path, const char *origin)
{
    char text[TEXT_BYTES];
    wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};
    int fd;
    wn_status status = wn_plugin_directory_open(path, &fd, &error);
    if (status == WN_OK)
        return search_opened(scan, fd, path, origin);
    if (status == WN_ENOTFOUND)
        wn_reason_add(&scan->searched, "  %s (%s): there is no such directory", path, origin);
    else
        wn_reason_add(&scan->searched, "  %s (%s): not searched: %s", path, origin, text);
    return WN_OK;
}

/* A list of directories separated by ':'. */
static wn_status search_list(wn_scan *scan, const char *list, const char *origin)
{
    wn_status status = WN_OK;
    while (status == WN_OK) {
        size_t length = strcspn(list, ":");
        char *path = strndup(list, length);
        if (path == NULL)
            return WN_ENOMEM;
        for (size_t end = length; end > 1 && path[end - 1] == '/'; end--)
            path[end - 1] = '\0';
        if (length == 0)
            wn_reason_add(&scan->searched,
                          "  (%s): an empty name, not searched: the working directory is never "
                          "searched",
                          origin);
        else
            status = search_directory(scan, path, origin);
        free(path);
        if (list[length] == '\0')
            break;
        list += length + 1;
    }
    return status;
}

/* Does somebody else's environment steer this process? */
static int privileges_differ(void)
{
    return getauxval(AT_SECURE) != 0 || getuid() != geteuid() || getgid() != getegid();
}

/* The directories that the environment names. */
static wn_status search_environment(wn_scan *scan)
{
    char path[PATH_MAX];
    if (privileges_differ()) {
        wn_reason_add(
            &scan->searched,
            "  WINNOW_PLUGIN_PATH and the user's directory: ignored, because this process "
            "has other privileges than the user who started it");
        return WN_OK;
    }
    const char *list = secure_getenv("WINNOW_PLUGIN_PATH");
    wn_status status = WN_OK;
    if (list != NULL && list[0] != '\0')
        status = search_list(scan, list, "WINNOW_PLUGIN_PATH");
    if (status != WN_OK)
        return status;
    const char *data = secure_getenv("XDG_DATA_HOME");
    const char *home = secure_getenv("HOME");
    int length = 0;
    if (data != NULL && data[0] != '\0')
        length = snprintf(path, sizeof path, "%s/winnow/plugins", data);
    else if (home != NULL && home[0] != '\0')
        length = snprintf(path, sizeof path, "%s/.local/share/winnow/plugins", home);
    if (length > 0 && length < (int)sizeof path)
        return search_directory(scan, path, "user");
    wn_reason_add(&scan->searched, "  the user's directory: %s",
                  length > 0 ? "its name is too long" : "neither XDG_DATA_HOME nor HOME is set");
    return WN_OK;
}

/* ---------------------------------------------------------------- who serves what */

static wn_status set_problem(wn_found_plugin *file, const char *format, ...) WN_PRINTF(2, 3);
static wn_status set_problem(wn_found_plugin *file, const char *format, ...)
{
    char text[TEXT_BYTES + 2 * PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    free(file->problem);
    file->problem = strdup(text);
    return file->problem != NULL ? WN_OK : WN_ENOMEM;
}

/* Two of one directory. The first may be in conflict with another already. */
static wn_status conflict(wn_found_plugin *first, wn_found_plugin *second)
{
    wn_found_plugin *files[] = {second, first};
    wn_status status = WN_OK;
    for (int i = 0; status == WN_OK && i < 2; i++)
        if (!files[i]->in_conflict) {
            files[i]->in_conflict = 1;
            status =
                set_problem(files[i],
                            "%s and %s are both algorithm \"%s\", in one directory; neither is "
                            "used: remove one",
                            files[i]->path, files[!i]->path, first->note.algorithm);
        }
    return status;
}

static wn_status settle(wn_scan *scan)
{
    for (uint32_t i = 0; i < scan->num_files; i++) {
        wn_found_plugin *file = &scan->files[i];
        wn_claim *claim = NULL;
        wn_status status = WN_OK;
        if (file->problem != NULL)
            continue; /* it cannot serve, so it hides nothing either */
        HASH_FIND_STR(scan->claims, file->note.algorithm, claim);
        if (claim != NULL) {
            wn_found_plugin *first = &scan->files[claim->file];
            status = first->directory == file->directory
                         ? conflict(first, file)
                         : set_problem(file,
                                       "%s: is not used, because %s, found earlier, is algorithm "
                                       "\"%s\" too",
                                       file->path, first->path, file->note.algorithm);
        } else if ((claim = calloc(1, sizeof *claim)) != NULL) {
            claim->algorithm = file->note.algorithm;
            claim->file = i;
            HASH_ADD_KEYPTR(hh, scan->claims, claim->algorithm, strlen(claim->algorithm), claim);
            if (claim->lost) {
                free(claim);
                status = WN_ENOMEM;
            }
        } else {
            status = WN_ENOMEM;
        }
        if (status != WN_OK)
            return status;
    }
    return WN_OK;
}

wn_status wn_scan_run(const char *path, wn_scan **out)
{
    wn_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL)
        return WN_ENOMEM;
    wn_status status = path != NULL ? search_list(scan, path, "given") : WN_OK;
    if (status == WN_OK)
        status = search_environment(scan);
    if (status == WN_OK)
        status = search_directory(scan, WINNOW_PLUGIN_DIRECTORY, "installed");
    if (status == WN_OK)
        status = settle(scan);
    if (status == WN_OK && scan->searched.out_of_memory)
        status = WN_ENOMEM;
    if (status != WN_OK) {
        wn_scan_free(scan);
        return status;
    }
    *out = scan;
    return WN_OK;
}

void wn_scan_free(wn_scan *scan)
{
    wn_claim *claim, *next;
    if (scan == NULL)
        return;
    HASH_ITER(hh, scan->claims, claim, next)
    {
        HASH_DEL(scan->claims, claim);
        free(claim);
    }
    for (uint32_t i = 0; i < scan->num_files; i++) {
        free(scan->files[i].path);
        free(scan->files[i].problem);
    }
    wn_reasons_clear(&scan->searched);
    free(scan->files);
    free(scan->seen);
    free(scan);
}

const wn_found_plugin *wn_scan_find(const wn_scan *scan, const char *algorithm)
{
    wn_claim *claim = NULL;
    HASH_FIND_STR(scan->claims, algorithm, claim);
    return claim != NULL ? &scan->files[claim->file] : NULL;
}
