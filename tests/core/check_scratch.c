/* check_scratch.c: scratch directories for the tests of files and plugins. */
#include "check_scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directories[8][256];

static void need(int good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(2);
}

const char *scratch_make(unsigned which)
{
    const char *base = getenv("TMPDIR");
    snprintf(directories[which], sizeof directories[which], "%s/winnow-test-XXXXXX",
             base != NULL && base[0] == '/' ? base : "/tmp");
    need(mkdtemp(directories[which]) != NULL, "mkdtemp");
    return directories[which];
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    return remove(path);
}

void scratch_remove(unsigned which)
{
    if (directories[which][0] != '\0')
        nftw(directories[which], remove_one, 16, FTW_DEPTH | FTW_PHYS);
    directories[which][0] = '\0';
}

const char *scratch_path(unsigned which, const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directories[which], name);
    return path;
}

unsigned char *scratch_read(const char *path, size_t *count)
{
    struct stat about;
    FILE *file = fopen(path, "rb");
    need(file != NULL && fstat(fileno(file), &about) == 0, path);
    unsigned char *bytes = malloc((size_t)about.st_size + 1);
    need(bytes != NULL, path);
    *count = fread(bytes, 1, (size_t)about.st_size, file);
    need(*count == (size_t)about.st_size, path);
    fclose(file);
    return bytes;
}

const char *scratch_write(unsigned which, const char *name, const void *bytes, size_t count)
{
    const char *path = scratch_path(which, name);
    FILE *file = fopen(path, "wb");
    need(file != NULL, path);
    need(fwrite(bytes, 1, count, file) == count && fclose(file) == 0, path);
    need(chmod(path, 0644) == 0, path);
    return path;
}

const char *scratch_install(unsigned which, const char *plugin, const char *name)
{
    char source[512];
    size_t count;
    snprintf(source, sizeof source, "%s/%s.so", BAD_PLUGINS, plugin);
    unsigned char *bytes = scratch_read(source, &count);
    const char *temporary = scratch_write(which, ".being-copied", bytes, count);
    const char *path = scratch_path(which, name);
    need(rename(temporary, path) == 0, path);
    free(bytes);
    return path;
}
