/* validate_elf.h: a plugin's file as ELF, read but never mapped for execution. Nothing in the file
 * is believed: every table is checked against the file's size before it is looked at. */
#ifndef WN_VALIDATE_ELF_H
#define WN_VALIDATE_ELF_H

#include "winnow/plugin.h"

#include <elf.h>
#include <stddef.h>

typedef struct wn_elf {
    uint8_t *bytes; /* the whole file, owned */
    size_t size;
    Elf64_Ehdr header;
    const Elf64_Phdr *segments; /* [header.e_phnum] */
    const Elf64_Dyn *dynamic;   /* [num_dynamic] */
    size_t num_dynamic;
    const Elf64_Sym *symbols; /* [num_symbols] of .dynsym */
    size_t num_symbols;
    const char *names; /* [names_size] of .dynstr, NUL at its end */
    size_t names_size;
} wn_elf;

/* Reads and checks the tables. On failure *elf is empty and error says what is wrong. */
wn_status wn_elf_read(const char *path, wn_elf *elf, wn_error *error);
void wn_elf_free(wn_elf *elf);

/* The first segment of this type, or NULL. */
const Elf64_Phdr *wn_elf_segment(const wn_elf *elf, uint32_t type);
/* The value of a dynamic entry; 0 and *found = 0 where there is none. */
uint64_t wn_elf_dynamic(const wn_elf *elf, int64_t tag, int *found);
/* A string of .dynstr; "(bad name)" for an offset outside it. */
const char *wn_elf_name(const wn_elf *elf, uint64_t offset);

/* Copies the Winnow note and returns how many there are; the first one counts. -1: a note segment
 * runs out of the file, or the note's size is not that of wn_note. */
int wn_elf_note(const wn_elf *elf, wn_note *note);

#endif
