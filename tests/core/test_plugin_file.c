/* test_plugin_file.c: which files and directories are trusted, and what a refusal says. */
#include "check_scratch.h"
#include "suite.h"

#include "core/plugin_file.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char text[4096];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

static void expect(const char *path, wn_status expected, const char *part)
{
    wn_plugin_file file = {.fd = -1};
    text[0] = '\0';
    wn_status status = wn_plugin_file_open(path, &file, &error);
    if (status != expected || strstr(text, part) == NULL)
        printf("\n%s: status %d, expected %d and \"%s\": %s\n", path, status, expected, part, text);
    CU_ASSERT_EQUAL(status, expected);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, part));
    if (status == WN_OK)
        close(file.fd);
}

static const char *make_file(void)
{
    return scratch_write(0, "a.so", "x", 1);
}

static void good_file(void)
{
    scratch_make(0);
    wn_plugin_file file, again;
    const char *path = make_file();
    CU_ASSERT_EQUAL_FATAL(wn_plugin_file_open(path, &file, &error), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_plugin_file_open(path, &again, &error), WN_OK);
    CU_ASSERT_EQUAL(file.identity.bytes, 1);
    CU_ASSERT(wn_file_identity_equals(&file.identity, &again.identity));
    close(again.fd);
    scratch_write(0, "new", "y", 1);
    CU_ASSERT_EQUAL(rename(scratch_path(0, "new"), path), 0);
    CU_ASSERT_EQUAL_FATAL(wn_plugin_file_open(path, &again, &error), WN_OK);
    CU_ASSERT(!wn_file_identity_equals(&file.identity, &again.identity));
    close(again.fd);
    close(file.fd);
    scratch_remove(0);
}

static void writable_file(void)
{
    scratch_make(0);
    const char *path = make_file();
    chmod(path, 0664);
    expect(path, WN_ETRUST, "the file has mode 0664, writable by its group");
    chmod(path, 0646);
    expect(path, WN_ETRUST, "the file has mode 0646, writable by everybody");
    expect(path, WN_ETRUST, "chmod go-w '");
    CU_ASSERT_PTR_NOT_NULL(strstr(text, path));
    chmod(path, 0444);
    expect(path, WN_OK, "");
    scratch_remove(0);
}

static void writable_directory(void)
{
    const char *directory = scratch_make(0);
    const char *path = make_file();
    chmod(directory, 0777);
    expect(path, WN_ETRUST, "the directory has mode 0777, writable by everybody");
    chmod(directory, 0770);
    expect(path, WN_ETRUST, "the directory has mode 0770, writable by its group");
    /* Sticky helps a directory above, not the one that holds plugins: files can be added to it. */
    chmod(directory, 01777);
    expect(path, WN_ETRUST, "the directory has mode 1777");
    chmod(directory, 0755);
    expect(path, WN_OK, "");
    scratch_remove(0);
}

static void writable_directory_above(void)
{
    const char *above = scratch_make(0);
    CU_ASSERT_EQUAL(mkdir(scratch_path(0, "in"), 0755), 0);
    const char *path = scratch_write(0, "in/a.so", "x", 1);
    expect(path, WN_OK, "");
    chmod(above, 0777);
    expect(path, WN_ETRUST, "the directory has mode 0777, writable by everybody");
    CU_ASSERT_NSTRING_EQUAL(text, above, strlen(above));
    CU_ASSERT_EQUAL(text[strlen(above)], ':'); /* names the directory, not the file */
    chmod(above, 01777);
    expect(path, WN_OK, "");
    chmod(above, 0711);
    expect(path, WN_OK, "");
    scratch_remove(0);
}

static void not_a_file(void)
{
    scratch_make(0);
    const char *path = make_file();
    expect(scratch_path(0, "none.so"), WN_ENOTFOUND, "No such file");
    CU_ASSERT_EQUAL(symlink(path, scratch_path(0, "link.so")), 0);
    expect(scratch_path(0, "link.so"), WN_ETRUST, "symbolic link");
    CU_ASSERT_EQUAL(mkdir(scratch_path(0, "directory.so"), 0755), 0);
    expect(scratch_path(0, "directory.so"), WN_ETRUST, "not a regular file");
    CU_ASSERT_EQUAL(mkfifo(scratch_path(0, "fifo.so"), 0600), 0);
    expect(scratch_path(0, "fifo.so"), WN_ETRUST, "not a regular file"); /* and does not hang */
    expect("/dev/null", WN_ETRUST, "not a regular file");
    scratch_remove(0);
}

static void form_of_a_path(void)
{
    char path[8192];
    scratch_make(0);
    make_file();
    expect("", WN_ETRUST, "the path is empty");
    expect("a.so", WN_ETRUST, "relative");
    expect("./a.so", WN_ETRUST, "relative");
    expect("../a.so", WN_ETRUST, "relative");
    expect(scratch_path(0, "../a.so"), WN_ETRUST, "\"..\"");
    expect("/..", WN_ETRUST, "\"..\"");
    expect("/", WN_ETRUST, "no name");
    expect(scratch_path(0, ""), WN_ETRUST, "no name");
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    expect(path, WN_ETRUST, "too long");
    expect(scratch_path(0, "a..so"), WN_ENOTFOUND, ""); /* dots in a name are fine */
    scratch_remove(0);
}

/* A link on the way to a directory is followed, and what it leads to is checked. */
static void linked_directory(void)
{
    scratch_make(0);
    mkdir(scratch_path(0, "real"), 0755);
    scratch_write(0, "real/a.so", "x", 1);
    CU_ASSERT_EQUAL(symlink("real", scratch_path(0, "link")), 0);
    expect(scratch_path(0, "link/a.so"), WN_OK, "");
    chmod(scratch_path(0, "real"), 0777);
    expect(scratch_path(0, "link/a.so"), WN_ETRUST, "/real: the directory has mode 0777");
    scratch_remove(0);
}

/* Only root can give files away. */
static void other_owner(void)
{
    if (geteuid() != 0)
        return;
    const char *directory = scratch_make(0);
    const char *path = make_file();
    CU_ASSERT_EQUAL(chown(path, 4242, 4242), 0);
    expect(path, WN_ETRUST, "the file is owned by user 4242, expected root or user 0");
    CU_ASSERT_EQUAL(chown(path, 0, 4242), 0);
    CU_ASSERT_EQUAL(chown(directory, 4242, 0), 0);
    expect(path, WN_ETRUST, "the directory is owned by user 4242");
    scratch_remove(0);
}

WN_SUITE("core.plugin_file", {"good file", good_file}, {"writable file", writable_file},
         {"writable directory", writable_directory},
         {"writable directory above", writable_directory_above}, {"not a file", not_a_file},
         {"form of a path", form_of_a_path}, {"linked directory", linked_directory},
         {"other owner", other_owner})
