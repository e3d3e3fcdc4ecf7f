/* note.h: reads the ELF note of a plugin file with bounds-checked reads, before any of the plugin's
 * code runs. Every byte of the file is treated as hostile. */
#ifndef WN_NOTE_H
#define WN_NOTE_H

#include "winnow/plugin.h"

/* Reads the note of the file behind fd, of `bytes` bytes, and checks its form (rule WN-P-05).
 *   WN_OK         *note is filled in, its strings are terminated and printable
 *   WN_ENOTFOUND  a sound ELF file that has no Winnow note: some other library
 *   WN_EFORMAT    not an ELF file, one for another machine, or a malformed note
 *   WN_EIO        the file could not be read
 * path stands in messages only. The file position is left alone. */
wn_status wn_note_read(int fd, uint64_t bytes, const char *path, wn_note *note, wn_error *error);

/* Can this library work with a plugin built like that (rule WN-P-06)? WN_EABI names the
 * field and both values. */
wn_status wn_note_matches(const wn_note *note, const char *path, wn_error *error);

/* Is it an algorithm's name, [a-z0-9_-]{1,63}? Reads at most `capacity` bytes. */
int wn_algorithm_name_is_valid(const char *name, size_t capacity);

#endif
