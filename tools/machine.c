/* machine.c: read from /proc, from uname and from git. */
#include "tools/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* The value of the first line "key : value" of a file of /proc; "" if there is none. */
static void read_line(const char *path, const char *key, char *value, size_t capacity)
{
    char line[4096];
    FILE *file = fopen(path, "r");
    value[0] = '\0';
    while (file != NULL && value[0] == '\0' && fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || colon == NULL)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(value, capacity, "%s", colon);
    }
    if (file != NULL)
        fclose(file);
}

static int in_words(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word))
        if ((at == text || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return 1;
    return 0;
}

/* Of the processor's many flags those that a kernel could be written for. */
static void vector_flags(char *text, size_t capacity)
{
    static const char *const wanted[] = {
        "avx",         "avx2",        "fma",         "f16c",     "avx512f",  "avx512bw", "avx512vl",
        "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd",
        "asimdhp",     "bf16",        "sve",         "sve2",     NULL};
    char flags[4096];
    size_t used = 0;
    read_line("/proc/cpuinfo", "flags", flags, sizeof flags);
    if (flags[0] == '\0')
        read_line("/proc/cpuinfo", "Features", flags, sizeof flags);
    text[0] = '\0';
    for (int i = 0; wanted[i] != NULL && used < capacity; i++)
        if (in_words(flags, wanted[i]))
            used += (size_t)snprintf(text + used, capacity - used, "%s%s", used > 0 ? " " : "",
                                     wanted[i]);
}

wn_machine wn_machine_read(void)
{
    wn_machine m = {.processors = sysconf(_SC_NPROCESSORS_ONLN)};
    struct utsname system = {0};
    uname(&system);
    read_line("/proc/cpuinfo", "model name", m.processor, sizeof m.processor);
    if (m.processor[0] == '\0')
        snprintf(m.processor, sizeof m.processor, "unknown");
    read_line("/proc/meminfo", "MemTotal", m.memory, sizeof m.memory);
    vector_flags(m.flags, sizeof m.flags);
    snprintf(m.system, sizeof m.system, "%.80s %.80s %.80s", system.sysname, system.release,
             system.machine);
    return m;
}

void wn_machine_commit(char text[64])
{
    FILE *git = popen("git -C '" WINNOW_SOURCE
                      "' describe --always --dirty --exclude='*' --abbrev=12 2>/dev/null",
                      "r");
    snprintf(text, 64, "unknown");
    if (git == NULL)
        return;
    char line[64];
    if (fgets(line, sizeof line, git) != NULL && strcspn(line, "\n") > 0)
        snprintf(text, 64, "%.*s", (int)strcspn(line, "\n"), line);
    pclose(git);
}
