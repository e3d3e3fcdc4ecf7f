/* check_file.c: temporary files of the tools' tests. */
#include "tools/check_file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[64];

static void remove_directory(void)
{
    DIR *open = opendir(directory);
    for (struct dirent *entry; open != NULL && (entry = readdir(open)) != NULL;)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(open), entry->d_name, 0);
    if (open != NULL)
        closedir(open);
    rmdir(directory);
}

const char *check_file_path(const char *name)
{
    static char path[256];
    if (directory[0] == '\0') {
        snprintf(directory, sizeof directory, "/tmp/winnow_tests.XXXXXX");
        if (mkdtemp(directory) == NULL)
            abort();
        atexit(remove_directory);
    }
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

const char *check_file_write(const char *name, const void *bytes, size_t count)
{
    const char *path = check_file_path(name);
    FILE *to = fopen(path, "wb");
    if (to == NULL || fwrite(bytes, 1, count, to) != count || fclose(to) != 0)
        abort();
    return path;
}

const char *check_file_safetensors(const char *header, size_t data_bytes)
{
    size_t length = strlen(header);
    char *bytes = calloc(8 + length + data_bytes, 1);
    if (bytes == NULL)
        abort();
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(length >> (8 * i));
    memcpy(bytes + 8, header, length);
    const char *path = check_file_write("made.safetensors", bytes, 8 + length + data_bytes);
    free(bytes);
    return path;
}

char *check_file_read(const char *path, size_t *count)
{
    FILE *from = fopen(path, "rb");
    if (from == NULL)
        return NULL;
    fseek(from, 0, SEEK_END);
    long size = ftell(from);
    rewind(from);
    char *bytes = malloc((size_t)size + 1);
    if (bytes == NULL || fread(bytes, 1, (size_t)size, from) != (size_t)size)
        abort();
    bytes[size] = '\0';
    *count = (size_t)size;
    fclose(from);
    return bytes;
}
