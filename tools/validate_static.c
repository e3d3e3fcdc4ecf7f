/* validate_static.c: level 1. What the file itself shows, before a line of its code has run: how it
 * was linked, what it exports and imports, and what its note says. */
#include "tools/validate.h"
#include "tools/validate_elf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Appends an item to a comma list, for tests that name every finding. */
static void list_add(char *list, size_t capacity, const char *item)
{
    size_t used = strlen(list);
    if (used + 2 < capacity)
        snprintf(list + used, capacity - used, "%s%s", used > 0 ? ", " : "", item);
}

/* The file as ELF; a failure is the trial's. */
static int open_elf(wn_trial *trial, wn_elf *elf)
{
    wn_error error = {WN_SIZEOF(wn_error), WN_TRIAL_TEXT, trial->text};
    return wn_elf_read(trial->path, elf, &error) == WN_OK;
}

static wn_outcome elf_sane(wn_trial *trial)
{
    wn_elf elf;
    if (!open_elf(trial, &elf))
        return WN_FAILED;
    wn_elf_free(&elf);
    return WN_PASSED;
}

/* Tests of the note and of the links look at a sane file or are skipped: elf-sane has failed then.
 */
#define SKIP_UNLESS_ELF(trial, elf)                                                                \
    if (!open_elf(trial, elf))                                                                     \
    return WN_SKIPPED

static wn_outcome note_present(wn_trial *trial)
{
    wn_elf elf;
    wn_note note;
    SKIP_UNLESS_ELF(trial, &elf);
    int found = wn_elf_note(&elf, &note);
    wn_elf_free(&elf);
    if (found < 0)
        return wn_trial_says(trial, WN_FAILED, "its note segment is malformed");
    if (found != 1)
        return wn_trial_says(trial, WN_FAILED,
                             "%d Winnow notes, expected 1: write "
                             "WN_PLUGIN_NOTE(...) once, at file scope",
                             found);
    return WN_PASSED;
}

/* A text that ends inside its array. */
static int terminated(const char *text, size_t capacity)
{
    return memchr(text, '\0', capacity) != NULL;
}

static int algorithm_name(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    return length > 0 && length < 64 && name[length] == '\0';
}

static wn_outcome judge_note(wn_trial *trial, const wn_note *note)
{
    const uint32_t interfaces =
        WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_AUX_POOL | WN_HAS_KERNEL_HOOK;
    const uint32_t devices = WN_DEVICES_CPU | WN_DEVICES_CUDA;
    if (note->format != WN_NOTE_FORMAT)
        return wn_trial_says(trial, WN_FAILED, "note format %u, expected %u", note->format,
                             WN_NOTE_FORMAT);
    if (!terminated(note->algorithm, sizeof note->algorithm) ||
        !terminated(note->version, sizeof note->version) ||
        !terminated(note->license, sizeof note->license) ||
        !terminated(note->summary, sizeof note->summary))
        return wn_trial_says(trial, WN_FAILED,
                             "a text of the note fills its array: the room must "
                             "end with a NUL (algorithm 63 characters, version and licence 31, "
                             "summary 127)");
    if (!algorithm_name(note->algorithm))
        return wn_trial_says(trial, WN_FAILED, "algorithm \"%s\": expected 1 to 63 of a-z 0-9 _ -",
                             note->algorithm);
    if (note->version[0] == '\0' || note->license[0] == '\0' || note->summary[0] == '\0')
        return wn_trial_says(trial, WN_FAILED, "version, licence and summary must not be empty");
    if ((note->interfaces & WN_HAS_CONFIG) == 0 || (note->interfaces & ~interfaces) != 0)
        return wn_trial_says(trial, WN_FAILED,
                             "interfaces 0x%x: expected WN_HAS_CONFIG and no bit "
                             "outside 0x%x",
                             note->interfaces, interfaces);
    if (note->devices == 0 || (note->devices & ~devices) != 0)
        return wn_trial_says(trial, WN_FAILED, "devices 0x%x: expected a set of 0x%x",
                             note->devices, devices);
    if (note->reserved != 0)
        return wn_trial_says(trial, WN_FAILED, "reserved is 0x%x, expected 0", note->reserved);
    return WN_PASSED;
}

static wn_outcome judge_versions(wn_trial *trial, const wn_note *note)
{
    uint64_t layout = (uint64_t)note->layout_high << 32 | note->layout_low;
    if (note->abi_least > note->abi_built)
        return wn_trial_says(trial, WN_FAILED,
                             "needs ABI 0x%08x, newer than 0x%08x it was built "
                             "with",
                             note->abi_least, note->abi_built);
    if (WN_VERSION_MAJOR(note->abi_built) != WN_ABI_MAJOR || note->abi_least > WN_ABI_VERSION)
        return wn_trial_says(trial, WN_FAILED,
                             "needs ABI %u.%u and was built with %u.%u; this is "
                             "%u.%u: rebuild it with these headers",
                             WN_VERSION_MAJOR(note->abi_least), WN_VERSION_MINOR(note->abi_least),
                             WN_VERSION_MAJOR(note->abi_built), WN_VERSION_MINOR(note->abi_built),
                             WN_ABI_MAJOR, WN_ABI_MINOR);
    if (note->abi_built == WN_ABI_VERSION && layout != WN_ABI_LAYOUT)
        return wn_trial_says(trial, WN_FAILED,
                             "layout fingerprint 0x%016llx, expected 0x%016llx "
                             "for ABI %u.%u: its headers were changed",
                             (unsigned long long)layout, (unsigned long long)WN_ABI_LAYOUT,
                             WN_ABI_MAJOR, WN_ABI_MINOR);
    return WN_PASSED;
}

static wn_outcome with_note(wn_trial *trial, wn_outcome (*judge)(wn_trial *, const wn_note *))
{
    wn_elf elf;
    wn_note note;
    SKIP_UNLESS_ELF(trial, &elf);
    int found = wn_elf_note(&elf, &note);
    wn_elf_free(&elf);
    if (found < 1)
        return wn_trial_says(trial, WN_SKIPPED, "there is no note to look at");
    return judge(trial, &note);
}

static wn_outcome note_wellformed(wn_trial *trial)
{
    return with_note(trial, judge_note);
}
static wn_outcome note_abi_range(wn_trial *trial)
{
    return with_note(trial, judge_versions);
}

static wn_outcome exports_only_entry(wn_trial *trial)
{
    wn_elf elf;
    char extra[WN_TRIAL_TEXT / 2] = "";
    int entries = 0;
    SKIP_UNLESS_ELF(trial, &elf);
    for (size_t i = 1; i < elf.num_symbols; i++) {
        const Elf64_Sym *symbol = &elf.symbols[i];
        unsigned binding = ELF64_ST_BIND(symbol->st_info), kind = ELF64_ST_TYPE(symbol->st_info);
        if (symbol->st_shndx == SHN_UNDEF || (binding != STB_GLOBAL && binding != STB_WEAK))
            continue;
        const char *name = wn_elf_name(&elf, symbol->st_name);
        if (strcmp(name, WN_PLUGIN_ENTRY) == 0 && kind == STT_FUNC)
            entries++;
        else
            list_add(extra, sizeof extra, name);
    }
    wn_elf_free(&elf);
    if (extra[0] != '\0')
        return wn_trial_says(trial, WN_FAILED,
                             "exports more than " WN_PLUGIN_ENTRY ": %s; link "
                             "with winnow_add_plugin or a version script",
                             extra);
    if (entries != 1)
        return wn_trial_says(trial, WN_FAILED, "does not export the function " WN_PLUGIN_ENTRY);
    return WN_PASSED;
}

static wn_outcome no_gnu_unique(wn_trial *trial)
{
    wn_elf elf;
    char unique[WN_TRIAL_TEXT / 2] = "";
    SKIP_UNLESS_ELF(trial, &elf);
    for (size_t i = 1; i < elf.num_symbols; i++)
        if (ELF64_ST_BIND(elf.symbols[i].st_info) == STB_GNU_UNIQUE)
            list_add(unique, sizeof unique, wn_elf_name(&elf, elf.symbols[i].st_name));
    wn_elf_free(&elf);
    if (unique[0] != '\0')
        return wn_trial_says(trial, WN_FAILED,
                             "unique symbols keep it from ever being unloaded: "
                             "%s; compile with -fno-gnu-unique",
                             unique);
    return WN_PASSED;
}

static wn_outcome relro_now(wn_trial *trial)
{
    wn_elf elf;
    int now, flags_there, flags_1_there;
    SKIP_UNLESS_ELF(trial, &elf);
    const Elf64_Phdr *relro = wn_elf_segment(&elf, PT_GNU_RELRO);
    wn_elf_dynamic(&elf, DT_BIND_NOW, &now);
    uint64_t flags = wn_elf_dynamic(&elf, DT_FLAGS, &flags_there);
    uint64_t flags_1 = wn_elf_dynamic(&elf, DT_FLAGS_1, &flags_1_there);
    now = now || (flags & DF_BIND_NOW) != 0 || (flags_1 & DF_1_NOW) != 0;
    wn_elf_free(&elf);
    if (relro == NULL || !now)
        return wn_trial_says(trial, WN_FAILED, "%s: link with -z relro -z now",
                             relro == NULL ? "its relocated tables stay writable"
                                           : "its symbols are bound late");
    return WN_PASSED;
}

static wn_outcome no_textrel(wn_trial *trial)
{
    wn_elf elf;
    int found, flags_there;
    SKIP_UNLESS_ELF(trial, &elf);
    wn_elf_dynamic(&elf, DT_TEXTREL, &found);
    found = found || (wn_elf_dynamic(&elf, DT_FLAGS, &flags_there) & DF_TEXTREL) != 0;
    wn_elf_free(&elf);
    if (found)
        return wn_trial_says(trial, WN_FAILED,
                             "its code is relocated at load time: compile all of "
                             "it with -fPIC");
    return WN_PASSED;
}

static wn_outcome no_exec_stack(wn_trial *trial)
{
    wn_elf elf;
    SKIP_UNLESS_ELF(trial, &elf);
    const Elf64_Phdr *stack = wn_elf_segment(&elf, PT_GNU_STACK);
    int executable = stack == NULL || (stack->p_flags & PF_X) != 0;
    wn_elf_free(&elf);
    if (executable)
        return wn_trial_says(trial, WN_FAILED,
                             "it asks for an executable stack: link with "
                             "-z noexecstack and take no address of a nested function");
    return WN_PASSED;
}

static wn_outcome no_rpath(wn_trial *trial)
{
    wn_elf elf;
    int rpath, runpath;
    SKIP_UNLESS_ELF(trial, &elf);
    uint64_t old = wn_elf_dynamic(&elf, DT_RPATH, &rpath);
    uint64_t new = wn_elf_dynamic(&elf, DT_RUNPATH, &runpath);
    if (rpath || runpath)
        wn_trial_says(trial, WN_FAILED, "it looks for libraries in \"%s\": link without a run path",
                      wn_elf_name(&elf, rpath ? old : new));
    wn_elf_free(&elf);
    return rpath || runpath ? WN_FAILED : WN_PASSED;
}

static int one_of(const char *name, const char *const *list)
{
    while (*list != NULL)
        if (strcmp(name, *list++) == 0)
            return 1;
    return 0;
}

static wn_outcome needed_libs_allowed(wn_trial *trial)
{
    static const char *const allowed[] = {"libc.so.6",
                                          "libm.so.6",
                                          "libpthread.so.0",
                                          "libdl.so.2",
                                          "librt.so.1",
                                          "libgcc_s.so.1",
                                          "libstdc++.so.6",
                                          "ld-linux-x86-64.so.2",
                                          "ld-linux-aarch64.so.1",
                                          "libmvec.so.1",
#ifdef __SANITIZE_ADDRESS__ /* a validator with sanitizers is for plugins with sanitizers */
                                          "libasan.so.8",
                                          "libasan.so.6",
                                          "libubsan.so.1",
#endif
                                          NULL};
    wn_elf elf;
    char others[WN_TRIAL_TEXT / 2] = "";
    SKIP_UNLESS_ELF(trial, &elf);
    for (size_t i = 0; i < elf.num_dynamic && elf.dynamic[i].d_tag != DT_NULL; i++) {
        const char *name = wn_elf_name(&elf, elf.dynamic[i].d_un.d_val);
        if (elf.dynamic[i].d_tag == DT_NEEDED && !one_of(name, allowed))
            list_add(others, sizeof others, name);
    }
    wn_elf_free(&elf);
    if (others[0] != '\0')
        return wn_trial_says(trial, WN_FAILED,
                             "needs %s: only the C and C++ run-time libraries may "
                             "be needed; arithmetic comes from the host's op table",
                             others);
    return WN_PASSED;
}

static wn_outcome no_forbidden_imports(wn_trial *trial)
{
    /* What ends, forks or reconfigures the host's process. */
    static const char *const forbidden[] = {
        "abort",      "exit",        "_exit",           "_Exit",
        "quick_exit", "kill",        "raise",           "signal",
        "sigaction",  "sigprocmask", "pthread_sigmask", "sigset",
        "bsd_signal", "setlocale",   "uselocale",       "fork",
        "vfork",      "clone",       "posix_spawn",     "posix_spawnp",
        "system",     "popen",       "execv",           "execve",
        "execvp",     "execl",       "execlp",          "execle",
        "setenv",     "putenv",      "unsetenv",        "clearenv",
        "chdir",      "umask",       "setrlimit",       "alarm",
        "setitimer",  NULL};
    wn_elf elf;
    char found[WN_TRIAL_TEXT / 2] = "";
    SKIP_UNLESS_ELF(trial, &elf);
    for (size_t i = 1; i < elf.num_symbols; i++) {
        const char *name = wn_elf_name(&elf, elf.symbols[i].st_name);
        if (elf.symbols[i].st_shndx == SHN_UNDEF && one_of(name, forbidden))
            list_add(found, sizeof found, name);
    }
    wn_elf_free(&elf);
    if (found[0] != '\0')
        return wn_trial_says(trial, WN_FAILED,
                             "calls %s: a plugin returns a status and leaves the "
                             "host's process as it is",
                             found);
    return WN_PASSED;
}

/* Owner and mode of one path; failed with a text if others could change it. In a sticky directory
 * only owners rename and delete; that will do above the plugin's own directory. */
static wn_outcome check_owner(wn_trial *trial, const char *path, int directory, int sticky_is_fine)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return wn_trial_says(trial, WN_FAILED, "%s cannot be looked at", path);
    if (directory ? !S_ISDIR(status.st_mode) : !S_ISREG(status.st_mode))
        return wn_trial_says(trial, WN_FAILED, "%s is not a regular file", path);
    if (status.st_uid != 0 && status.st_uid != geteuid())
        return wn_trial_says(trial, WN_FAILED,
                             "%s belongs to user %u, neither root nor you: "
                             "chown it",
                             path, (unsigned)status.st_uid);
    int sticky = sticky_is_fine && (status.st_mode & S_ISVTX) != 0;
    if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && !sticky)
        return wn_trial_says(trial, WN_FAILED, "%s may be changed by others (mode %o): chmod go-w",
                             path, (unsigned)(status.st_mode & 07777));
    return WN_PASSED;
}

static wn_outcome file_permissions(wn_trial *trial)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s", trial->path) >= (int)sizeof path)
        return wn_trial_says(trial, WN_FAILED, "its path is longer than %zu characters",
                             sizeof path - 1);
    wn_outcome outcome = check_owner(trial, path, 0, 0);
    int above = 0;
    for (char *slash; outcome == WN_PASSED && (slash = strrchr(path, '/')) != NULL; above = 1) {
        *slash = '\0';
        outcome = check_owner(trial, slash == path ? "/" : path, 1, above);
    }
    return outcome;
}

const wn_trial_test wn_static_tests[] = {
    {"elf-sane", "WN-P-01", "a shared object for this machine, its tables inside the file",
     elf_sane},
    {"note-present", "WN-P-05", "one Winnow note", note_present},
    {"note-wellformed", "WN-P-05", "the note's texts, sets and sizes are as the ABI says",
     note_wellformed},
    {"note-abi-range", "WN-P-06", "built for an ABI and a layout that this host speaks",
     note_abi_range},
    {"exports-only-entry", "WN-P-01", "one exported symbol, " WN_PLUGIN_ENTRY, exports_only_entry},
    {"no-gnu-unique", "WN-P-02", "no symbol that makes it impossible to unload", no_gnu_unique},
    {"relro-now", "WN-P-03", "everything is bound at load time and read-only after it", relro_now},
    {"no-textrel", "WN-P-03", "code is not relocated", no_textrel},
    {"no-exec-stack", "WN-P-03", "the stack stays data", no_exec_stack},
    {"no-rpath", "WN-P-03", "no search path of its own", no_rpath},
    {"needed-libs-allowed", "WN-P-02", "needs the C and C++ run-time libraries alone",
     needed_libs_allowed},
    {"no-forbidden-imports", "WN-P-07", "does not end, fork or reconfigure the host's process",
     no_forbidden_imports},
    {"file-permissions", "WN-H-01",
     "file and directories belong to root or the caller and nobody "
     "else may change them",
     file_permissions},
    {NULL, NULL, NULL, NULL}};
