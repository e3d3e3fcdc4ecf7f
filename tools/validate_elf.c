/* validate_elf.c: a bounds-checked reader for the parts of ELF that the static tests look at:
 * program headers, the dynamic section, dynamic symbols and notes of a 64-bit little-endian file.
 */
#include "tools/validate_elf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LARGEST_FILE ((size_t)1 << 30)

#if defined(__x86_64__)
#define THIS_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define THIS_MACHINE EM_AARCH64
#elif defined(__riscv)
#define THIS_MACHINE EM_RISCV
#else
#define THIS_MACHINE EM_NONE
#endif

static wn_status read_file(const char *path, wn_elf *elf, wn_error *error)
{
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &status) != 0 || !S_ISREG(status.st_mode)) {
        if (file != NULL)
            fclose(file);
        return wn_fail(error, WN_EIO, "%s: cannot be read as a regular file", path);
    }
    size_t size = (size_t)status.st_size;
    uint8_t *bytes = size <= LARGEST_FILE ? malloc(size + 1) : NULL;
    size_t got = bytes != NULL ? fread(bytes, 1, size, file) : 0;
    fclose(file);
    if (bytes == NULL || got != size) {
        free(bytes);
        return wn_fail(error, WN_EIO, "%s: %zu bytes could not be read", path, size);
    }
    elf->bytes = bytes;
    elf->size = size;
    return WN_OK;
}

/* [count] entries of `each` bytes at `offset`, or NULL if they are not in the file or not aligned:
 * the buffer comes from malloc, so alignment in the file is alignment in memory. */
static const void *table(const wn_elf *elf, uint64_t offset, uint64_t count, size_t each)
{
    if (offset % 8 != 0 || offset > elf->size || count > (elf->size - offset) / each)
        return NULL;
    return elf->bytes + offset;
}

static wn_status check_header(wn_elf *elf, wn_error *error)
{
    if (elf->size < sizeof elf->header || memcmp(elf->bytes, ELFMAG, SELFMAG) != 0)
        return wn_fail(error, WN_EFORMAT, "not an ELF file");
    memcpy(&elf->header, elf->bytes, sizeof elf->header);
    const Elf64_Ehdr *header = &elf->header;
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB)
        return wn_fail(error, WN_EFORMAT, "not a 64-bit little-endian ELF file");
    if (header->e_type != ET_DYN)
        return wn_fail(error, WN_EFORMAT, "ELF type %u, expected %d (a shared object)",
                       header->e_type, ET_DYN);
    if (THIS_MACHINE != EM_NONE && header->e_machine != THIS_MACHINE)
        return wn_fail(error, WN_EFORMAT, "built for machine %u, this one is %d", header->e_machine,
                       THIS_MACHINE);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0)
        return wn_fail(error, WN_EFORMAT, "no program headers");
    elf->segments = table(elf, header->e_phoff, header->e_phnum, sizeof(Elf64_Phdr));
    if (elf->segments == NULL)
        return wn_fail(error, WN_EFORMAT, "program headers outside the file");
    return WN_OK;
}

static wn_status find_dynamic(wn_elf *elf, wn_error *error)
{
    const Elf64_Phdr *segment = wn_elf_segment(elf, PT_DYNAMIC);
    if (segment == NULL)
        return wn_fail(error, WN_EFORMAT, "no dynamic section: not linked as a shared object");
    elf->num_dynamic = (size_t)(segment->p_filesz / sizeof(Elf64_Dyn));
    elf->dynamic = table(elf, segment->p_offset, elf->num_dynamic, sizeof(Elf64_Dyn));
    if (elf->dynamic == NULL)
        return wn_fail(error, WN_EFORMAT, "dynamic section outside the file");
    return WN_OK;
}

static wn_status find_symbols(wn_elf *elf, wn_error *error)
{
    const Elf64_Ehdr *header = &elf->header;
    const Elf64_Shdr *sections = NULL;
    if (header->e_shentsize == sizeof(Elf64_Shdr) && header->e_shnum > 0)
        sections = table(elf, header->e_shoff, header->e_shnum, sizeof(Elf64_Shdr));
    if (sections == NULL)
        return wn_fail(error, WN_EFORMAT, "no section headers: its symbols cannot be read");
    for (uint32_t i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_DYNSYM || sections[i].sh_link >= header->e_shnum)
            continue;
        const Elf64_Shdr *strings = &sections[sections[i].sh_link];
        elf->num_symbols = (size_t)(sections[i].sh_size / sizeof(Elf64_Sym));
        elf->symbols = table(elf, sections[i].sh_offset, elf->num_symbols, sizeof(Elf64_Sym));
        elf->names_size = (size_t)strings->sh_size;
        if (elf->symbols == NULL || strings->sh_offset > elf->size ||
            strings->sh_size > elf->size - strings->sh_offset || strings->sh_size == 0 ||
            elf->bytes[strings->sh_offset + strings->sh_size - 1] != '\0')
            return wn_fail(error, WN_EFORMAT, "dynamic symbols outside the file");
        elf->names = (const char *)elf->bytes + strings->sh_offset;
        return WN_OK;
    }
    return wn_fail(error, WN_EFORMAT, "no dynamic symbols");
}

wn_status wn_elf_read(const char *path, wn_elf *elf, wn_error *error)
{
    memset(elf, 0, sizeof *elf);
    wn_status status = read_file(path, elf, error);
    if (status == WN_OK)
        status = check_header(elf, error);
    if (status == WN_OK)
        status = find_dynamic(elf, error);
    if (status == WN_OK)
        status = find_symbols(elf, error);
    if (status != WN_OK)
        wn_elf_free(elf);
    return status;
}

void wn_elf_free(wn_elf *elf)
{
    free(elf->bytes);
    memset(elf, 0, sizeof *elf);
}

const Elf64_Phdr *wn_elf_segment(const wn_elf *elf, uint32_t type)
{
    for (uint32_t i = 0; i < elf->header.e_phnum; i++)
        if (elf->segments[i].p_type == type)
            return &elf->segments[i];
    return NULL;
}

uint64_t wn_elf_dynamic(const wn_elf *elf, int64_t tag, int *found)
{
    *found = 0;
    for (size_t i = 0; i < elf->num_dynamic && elf->dynamic[i].d_tag != DT_NULL; i++)
        if (elf->dynamic[i].d_tag == tag) {
            *found = 1;
            return elf->dynamic[i].d_un.d_val;
        }
    return 0;
}

const char *wn_elf_name(const wn_elf *elf, uint64_t offset)
{
    return offset < elf->names_size ? elf->names + offset : "(bad name)";
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 3) / 4 * 4;
}

/* The notes of one segment: name size, descriptor size, type, name and descriptor padded to 4. */
static int notes_in(const uint8_t *at, uint64_t left, wn_note *note, int found)
{
    uint32_t head[3]; /* name size, descriptor size, type */
    while (left >= sizeof head) {
        memcpy(head, at, sizeof head);
        uint64_t name = padded(head[0]), descriptor = padded(head[1]);
        if (name + descriptor > left - sizeof head)
            return -1;
        const uint8_t *text = at + sizeof head;
        if (head[0] == sizeof WN_NOTE_NAME && memcmp(text, WN_NOTE_NAME, head[0]) == 0 &&
            head[2] == WN_NOTE_TYPE) {
            if (head[1] != sizeof *note)
                return -1;
            if (found++ == 0)
                memcpy(note, text + name, sizeof *note);
        }
        at += sizeof head + name + descriptor;
        left -= sizeof head + name + descriptor;
    }
    return found;
}

int wn_elf_note(const wn_elf *elf, wn_note *note)
{
    int found = 0;
    memset(note, 0, sizeof *note);
    for (uint32_t i = 0; i < elf->header.e_phnum && found >= 0; i++) {
        const Elf64_Phdr *segment = &elf->segments[i];
        /* Other segments are aligned to 8 and padded differently; ours is made for 4. */
        if (segment->p_type != PT_NOTE || segment->p_align > 4)
            continue;
        if (segment->p_offset > elf->size || segment->p_filesz > elf->size - segment->p_offset)
            return -1;
        found = notes_in(elf->bytes + segment->p_offset, segment->p_filesz, note, found);
    }
    return found;
}
