/* check_file.h: small files for the tests of the tools: written to a fresh temporary directory that
 * goes away at exit. */
#ifndef WN_TESTS_CHECK_FILE_H
#define WN_TESTS_CHECK_FILE_H

#include <stddef.h>

/* Writes bytes as `name` and returns the path, valid until the next call. */
const char *check_file_write(const char *name, const void *bytes, size_t count);
/* Where a file of that name would be; valid until the next call. */
const char *check_file_path(const char *name);
/* A safetensors file made of a header's text and data_bytes bytes of zeros. */
const char *check_file_safetensors(const char *header, size_t data_bytes);
/* The whole file with a NUL behind it, or NULL; freed by the caller. */
char *check_file_read(const char *path, size_t *count);

#endif
