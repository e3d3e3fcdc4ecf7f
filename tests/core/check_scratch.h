/* check_scratch.h: a directory of a test's own, and copies of test plugins in it. */
#ifndef WN_CHECK_SCRATCH_H
#define WN_CHECK_SCRATCH_H

#include <stddef.h>

/* Where the plugins of bad_plugin/ are. */
#define BAD_PLUGINS WN_TEST_PLUGINS "/../../tests/bad_plugins"

/* Makes a new directory, mode 0700, and returns its path: static until the next call with the same
 * `which` (0 .. 7). */
const char *scratch_make(unsigned which);
/* Removes it with all that is in it. */
void scratch_remove(unsigned which);
/* "<directory which>/<name>", static, good for eight calls. */
const char *scratch_path(unsigned which, const char *name);
/* Copies BAD_PLUGINS/<plugin>.so to <directory>/<name> by way of a temporary name and a rename, as
 * an installer does. Returns the path of the copy. */
const char *scratch_install(unsigned which, const char *plugin, const char *name);
/* Writes a file. */
const char *scratch_write(unsigned which, const char *name, const void *bytes, size_t count);
/* Reads a file whole; *bytes is freed by the caller. */
unsigned char *scratch_read(const char *path, size_t *count);

#endif
