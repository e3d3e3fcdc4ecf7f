/* test_scan.c: where plugins are looked for, in which order, and who wins. */
#include "check_scratch.h"
#include "suite.h"

#include "core/scan.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Nothing of this machine's user may take part. */
static void clean_environment(void)
{
    setenv("HOME", "/nonexistent", 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("WINNOW_PLUGIN_PATH");
}

static wn_scan *look(const char *path)
{
    wn_scan *scan = NULL;
    CU_ASSERT_EQUAL_FATAL(wn_scan_run(path, &scan), WN_OK);
    return scan;
}

static void expect_searched(const wn_scan *scan, const char *part)
{
    if (strstr(scan->searched.text, part) == NULL)
        printf("\nexpected \"%s\" in:\n%s\n", part, scan->searched.text);
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->searched.text, part));
}

static void finds_and_passes_over(void)
{
    clean_environment();
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "b.so");
    scratch_install(0, "no_note", "other_library.so");
    scratch_install(0, "good", "a.so.bak");
    scratch_install(0, "good", ".hidden.so");
    scratch_write(0, "README", "text", 4);
    scratch_write(0, "a.so", "cut short", 9);
    mkdir(scratch_path(0, "deeper"), 0755);
    scratch_install(0, "good", "deeper/c.so"); /* subdirectories are not searched */
    wn_scan *scan = look(directory);
    CU_ASSERT_EQUAL_FATAL(scan->num_files, 2);
    CU_ASSERT_STRING_EQUAL(scan->files[0].path, scratch_path(0, "a.so"));
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[0].problem, "not an ELF file"));
    CU_ASSERT_STRING_EQUAL(scan->files[0].note.algorithm, "");
    CU_ASSERT_STRING_EQUAL(scan->files[1].path, scratch_path(0, "b.so"));
    CU_ASSERT_PTR_NULL(scan->files[1].problem);
    CU_ASSERT_STRING_EQUAL(scan->files[1].note.algorithm, "sample");
    CU_ASSERT_PTR_EQUAL(wn_scan_find(scan, "sample"), &scan->files[1]);
    CU_ASSERT_PTR_NULL(wn_scan_find(scan, "sampl"));
    expect_searched(scan, "(given): 2 plugins");
    wn_scan_free(scan);
    scratch_remove(0);
}

static void runs_no_code(void)
{
    clean_environment();
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "plugin.so");
    setenv("WN_TEST_MARKER", scratch_path(0, "marker"), 1);
    wn_scan *scan = look(directory);
    CU_ASSERT_EQUAL(scan->num_files, 1);
    CU_ASSERT_NOT_EQUAL(access(scratch_path(0, "marker"), F_OK), 0);
    unsetenv("WN_TEST_MARKER");
    wn_scan_free(scan);
    scratch_remove(0);
}

static void two_in_one_directory(void)
{
    clean_environment();
    char path[600];
    const char *first = scratch_make(0), *second = scratch_make(1);
    scratch_install(0, "good", "a.so");
    scratch_install(0, "none_newer", "b.so");
    scratch_install(0, "good", "c.so");
    scratch_install(1, "good", "a.so");
    snprintf(path, sizeof path, "%s:%s", first, second);
    wn_scan *scan = look(path);
    CU_ASSERT_EQUAL_FATAL(scan->num_files, 4);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_PTR_NOT_NULL_FATAL(scan->files[i].problem);
    for (int i = 0; i < 2; i++) { /* both are named by both */
        CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[i].problem, scan->files[0].path));
        CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[i].problem, scan->files[1].path));
        CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[i].problem, "in one directory"));
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[2].problem, scan->files[2].path));
    CU_ASSERT_EQUAL_FATAL(wn_scan_find(scan, "sample") != NULL, 1);
    CU_ASSERT(wn_scan_find(scan, "sample")->in_conflict);
    wn_scan_free(scan);
    scratch_remove(0);
    scratch_remove(1);
}

static void earlier_directory_wins(void)
{
    clean_environment();
    char path[900];
    const char *first = scratch_make(0), *second = scratch_make(1), *third = scratch_make(2);
    scratch_install(0, "other_layout", "a.so"); /* cannot serve, so it hides nothing */
    scratch_install(1, "none_newer", "a.so");
    scratch_install(2, "good", "a.so");
    snprintf(path, sizeof path, "%s:%s/:%s:%s", first, second, third, second);
    wn_scan *scan = look(path);
    CU_ASSERT_EQUAL_FATAL(scan->num_files, 3);
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[0].problem, "fingerprint"));
    CU_ASSERT_STRING_EQUAL(scan->files[0].note.algorithm, "sample");
    CU_ASSERT_PTR_NULL(scan->files[1].problem);
    CU_ASSERT_PTR_NOT_NULL_FATAL(scan->files[2].problem);
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[2].problem, scan->files[1].path));
    CU_ASSERT_STRING_EQUAL(wn_scan_find(scan, "sample")->note.version, "2.0");
    expect_searched(scan, "searched already");
    wn_scan_free(scan);
    for (unsigned i = 0; i < 3; i++)
        scratch_remove(i);
}

static void order_of_places(void)
{
    char path[900];
    clean_environment();
    const char *given = scratch_make(0), *named = scratch_make(1), *home = scratch_make(2);
    mkdir(scratch_path(2, ".local"), 0755);
    mkdir(scratch_path(2, ".local/share"), 0755);
    mkdir(scratch_path(2, ".local/share/winnow"), 0755);
    mkdir(scratch_path(2, ".local/share/winnow/plugins"), 0755);
    scratch_install(0, "good", "a.so");
    scratch_install(1, "good", "a.so");
    scratch_install(2, "good", ".local/share/winnow/plugins/a.so");
    setenv("WINNOW_PLUGIN_PATH", named, 1);
    setenv("HOME", home, 1);
    wn_scan *scan = look(given);
    CU_ASSERT_EQUAL_FATAL(scan->num_files, 3);
    CU_ASSERT_PTR_NULL(scan->files[0].problem);
    CU_ASSERT_STRING_EQUAL(scan->files[0].path, scratch_path(0, "a.so"));
    CU_ASSERT_STRING_EQUAL(scan->files[1].path, scratch_path(1, "a.so"));
    CU_ASSERT_STRING_EQUAL(scan->files[2].path,
                           scratch_path(2, ".local/share/winnow/plugins/a.so"));
    const char *last = strrchr(scan->searched.text, '\n');
    CU_ASSERT_PTR_NOT_NULL_FATAL(last);
    CU_ASSERT_PTR_NOT_NULL(strstr(last, "(installed)"));
    wn_scan_free(scan);
    /* XDG_DATA_HOME takes the place of ~/.local/share. */
    snprintf(path, sizeof path, "%s/.local/share", home);
    setenv("XDG_DATA_HOME", path, 1);
    setenv("HOME", "/nonexistent", 1);
    unsetenv("WINNOW_PLUGIN_PATH");
    scan = look(NULL);
    CU_ASSERT_EQUAL(scan->num_files, 1);
    wn_scan_free(scan);
    for (unsigned i = 0; i < 3; i++)
        scratch_remove(i);
    clean_environment();
}

static void remarks(void)
{
    clean_environment();
    const char *directory = scratch_make(0);
    char path[900];
    scratch_install(0, "good", "a.so");
    chmod(directory, 0777);
    snprintf(path, sizeof path, "%s::plugins:.:/no/such/place:%s/../x:", directory, directory);
    unsetenv("HOME");
    CU_ASSERT_EQUAL(chdir(directory), 0); /* where a.so is: it must not be found */
    wn_scan *scan = look(path);
    CU_ASSERT_EQUAL(scan->num_files, 0);
    expect_searched(scan, "the directory has mode 0777, writable by everybody");
    expect_searched(scan, "chmod go-w");
    expect_searched(scan, "(given): an empty name, not searched");
    expect_searched(scan, "plugins (given): not searched: plugins: is relative");
    expect_searched(scan, "/no/such/place (given): there is no such directory");
    expect_searched(scan, "component \"..\"");
    expect_searched(scan, "neither XDG_DATA_HOME nor HOME is set");
    wn_scan_free(scan);
    CU_ASSERT_EQUAL(chdir("/"), 0);
    scratch_remove(0);
    clean_environment();
}

static void bad_files_do_not_hide_good_ones(void)
{
    clean_environment();
    const char *directory = scratch_make(0);
    scratch_install(0, "good", "m.so");
    chmod(scratch_install(0, "good", "a.so"), 0666);
    scratch_install(0, "two_notes", "b.so");
    scratch_install(0, "new_abi", "z.so");
    wn_scan *scan = look(directory);
    CU_ASSERT_EQUAL_FATAL(scan->num_files, 4);
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[0].problem, "writable by everybody"));
    CU_ASSERT_STRING_EQUAL(scan->files[0].note.algorithm, "");
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[1].problem, "more than one"));
    CU_ASSERT_PTR_NULL(scan->files[2].problem);
    CU_ASSERT_PTR_NOT_NULL(strstr(scan->files[3].problem, "ABI 7.3"));
    CU_ASSERT_PTR_EQUAL(wn_scan_find(scan, "sample"), &scan->files[2]);
    wn_scan_free(scan);
    scratch_remove(0);
}

/* With other privileges than the caller's the environment is not believed. Needs root to arrange.
 */
static void other_privileges(void)
{
    if (geteuid() != 0)
        return;
    clean_environment();
    const char *named = scratch_make(0);
    scratch_install(0, "good", "a.so");
    setenv("WINNOW_PLUGIN_PATH", named, 1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        wn_scan *scan = NULL;
        int good = setresuid(4242, 0, 0) == 0 && wn_scan_run(NULL, &scan) == WN_OK &&
                   scan->num_files == 0 &&
                   strstr(scan->searched.text, "WINNOW_PLUGIN_PATH and the user's directory: "
                                               "ignored") != NULL;
        _exit(good ? 0 : 1);
    }
    int status = -1;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    scratch_remove(0);
    clean_environment();
}

WN_SUITE("core.scan", {"finds and passes over", finds_and_passes_over},
         {"runs no code", runs_no_code}, {"two in one directory", two_in_one_directory},
         {"earlier directory wins", earlier_directory_wins}, {"order of places", order_of_places},
         {"remarks", remarks}, {"bad files do not hide good ones", bad_files_do_not_hide_good_ones},
         {"other privileges", other_privileges})
