/* note.c: a reader of ELF notes that trusts nothing. It looks at the ELF header, at the program
 * headers of type PT_NOTE (they survive strip, section headers need not), and walks the notes in
 * them. All offsets come from the file, so each is checked against the file's size, in 64 bits and
 * without sums that could wrap, before it is used. Memory use is bounded by constants. */
#include "core/note.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A shared object has about a dozen program headers and a few hundred bytes of notes. */
#define MAX_PROGRAM_HEADERS 512
#define MAX_NOTES 4096

#if defined(__x86_64__)
#define THIS_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define THIS_MACHINE EM_AARCH64
#elif defined(__riscv)
#define THIS_MACHINE EM_RISCV
#elif defined(__powerpc64__)
#define THIS_MACHINE EM_PPC64
#else
#error "name this machine's ELF number here"
#endif

typedef struct elf_file {
    int fd;
    uint64_t bytes;
    const char *path;
    wn_error *error;
} elf_file;

/* Is [offset, offset + length) inside the file? */
static int inside(const elf_file *file, uint64_t offset, uint64_t length)
{
    return offset <= file->bytes && length <= file->bytes - offset;
}

/* Reads exactly `length` bytes. The file may have shrunk since its size was taken. */
static wn_status read_at(const elf_file *file, uint64_t offset, void *into, size_t length,
                         const char *what)
{
    if (!inside(file, offset, length))
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: the %s at offset %llu, %zu bytes, is not inside the file's %llu bytes; "
                       "the file is cut short or damaged: copy it again",
                       file->path, what, (unsigned long long)offset, length,
                       (unsigned long long)file->bytes);
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(file->fd, (char *)into + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return wn_fail(file->error, WN_EIO, "%s: cannot read the %s: %s", file->path, what,
                           got < 0 ? strerror(errno) : "the file became shorter");
        done += (size_t)got;
    }
    return WN_OK;
}

static wn_status read_elf_header(const elf_file *file, Elf64_Ehdr *header)
{
    memset(header, 0, sizeof *header);
    wn_status status = WN_OK;
    if (file->bytes >= EI_NIDENT)
        status = read_at(file, 0, header->e_ident, EI_NIDENT, "ELF identification");
    if (status != WN_OK)
        return status;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return wn_fail(file->error, WN_EFORMAT, "%s: not an ELF file, so not a plugin", file->path);
    if (header->e_ident[EI_CLASS] != ELFCLASS64)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: ELF class is %u, expected %u: not a 64-bit library; build it for this "
                       "machine",
                       file->path, header->e_ident[EI_CLASS], ELFCLASS64);
    if (header->e_ident[EI_DATA] !=
        (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB))
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: ELF byte order is %u, which is not this machine's; build it for this "
                       "machine",
                       file->path, header->e_ident[EI_DATA]);
    status = read_at(file, 0, header, sizeof *header, "ELF header");
    if (status != WN_OK)
        return status;
    if (header->e_machine != THIS_MACHINE)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: ELF machine is %u, expected %u; build it for this machine", file->path,
                       header->e_machine, THIS_MACHINE);
    if (header->e_type != ET_DYN)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: ELF type is %u, expected %u: not a shared object", file->path,
                       header->e_type, ET_DYN);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 ||
        header->e_phnum > MAX_PROGRAM_HEADERS)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: %u program headers of %u bytes, expected 1 to %u of %zu", file->path,
                       header->e_phnum, header->e_phentsize, MAX_PROGRAM_HEADERS,
                       sizeof(Elf64_Phdr));
    return WN_OK;
}

/* Checks one Winnow note found at `offset` and copies its descriptor. */
static wn_status take_note(const elf_file *file, const Elf64_Nhdr *header, uint64_t descriptor,
                           wn_note *note, uint32_t *found)
{
    if (header->n_type != WN_NOTE_TYPE)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note's type is %u, expected %u", file->path,
                       header->n_type, WN_NOTE_TYPE);
    if (header->n_descsz != sizeof(wn_note))
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note has %u bytes, expected %zu; write it with "
                       "WN_PLUGIN_NOTE",
                       file->path, header->n_descsz, sizeof(wn_note));
    if (++*found > 1)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: more than one Winnow note; WN_PLUGIN_NOTE belongs into "
                       "one source file of a plugin, once",
                       file->path);
    return read_at(file, descriptor, note, sizeof *note, "Winnow note");
}

/* Walks the notes of one segment. Notes are aligned as the segment is: to 8 or, mostly, to 4. */
static wn_status walk_segment(const elf_file *file, const Elf64_Phdr *segment, wn_note *note,
                              uint32_t *found)
{
    if (!inside(file, segment->p_offset, segment->p_filesz))
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: a note segment at offset %llu, %llu bytes, is not inside the file's "
                       "%llu bytes; the file is cut short or damaged: copy it again",
                       file->path, (unsigned long long)segment->p_offset,
                       (unsigned long long)segment->p_filesz, (unsigned long long)file->bytes);
    const uint64_t mask = segment->p_align == 8 ? 7 : 3;
    uint64_t at = segment->p_offset;
    const uint64_t end = at + segment->p_filesz; /* inside the file, so it does not wrap */
    for (uint32_t i = 0; end - at >= sizeof(Elf64_Nhdr); i++) {
        Elf64_Nhdr header;
        char name[sizeof WN_NOTE_NAME];
        wn_status status = read_at(file, at, &header, sizeof header, "note header");
        if (status != WN_OK)
            return status;
        /* 32-bit sizes added up in 64 bits. */
        uint64_t name_at = at + sizeof header;
        uint64_t descriptor = at + ((sizeof header + (uint64_t)header.n_namesz + mask) & ~mask);
        uint64_t next = descriptor + (((uint64_t)header.n_descsz + mask) & ~mask);
        if (i == MAX_NOTES || descriptor + header.n_descsz > end)
            return wn_fail(file->error, WN_EFORMAT,
                           "%s: the notes are malformed at offset %llu: name of %u bytes, content "
                           "of %u",
                           file->path, (unsigned long long)at, header.n_namesz, header.n_descsz);
        if (header.n_namesz == sizeof name) {
            status = read_at(file, name_at, name, sizeof name, "note's name");
            if (status == WN_OK && memcmp(name, WN_NOTE_NAME, sizeof name) == 0)
                status = take_note(file, &header, descriptor, note, found);
            if (status != WN_OK)
                return status;
        }
        if (next >= end)
            break;
        at = next;
    }
    return WN_OK;
}

int wn_algorithm_name_is_valid(const char *name, size_t capacity)
{
    size_t length = 0;
    for (; length < capacity && name[length] != '\0'; length++) {
        char c = name[length];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'))
            return 0;
    }
    return length >= 1 && length <= 63 && length < capacity;
}

/* Terminated within its array, not empty, and free of control characters: these strings are shown
 * on terminals. */
static wn_status check_text(const elf_file *file, const char *field, const char *text,
                            size_t capacity)
{
    size_t length = strnlen(text, capacity);
    if (length == capacity)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note's %s does not end within its %zu bytes",
                       file->path, field, capacity);
    if (length == 0)
        return wn_fail(file->error, WN_EFORMAT, "%s: rule WN-P-05: the note's %s is empty",
                       file->path, field);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || (unsigned char)text[i] == 0x7f)
            return wn_fail(file->error, WN_EFORMAT,
                           "%s: rule WN-P-05: the note's %s has the control character 0x%02x at "
                           "place %zu",
                           file->path, field, (unsigned char)text[i], i);
    return WN_OK;
}

static wn_status check_form(const elf_file *file, const wn_note *note)
{
    const uint32_t all_interfaces =
        WN_HAS_CONFIG | WN_HAS_PREDICTOR | WN_HAS_AUX_POOL | WN_HAS_KERNEL_HOOK;
    const uint32_t all_devices = WN_DEVICES_CPU | WN_DEVICES_CUDA;
    if (note->format != WN_NOTE_FORMAT)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note's format is %u, expected %u; build the plugin "
                       "with this Winnow's headers",
                       file->path, note->format, WN_NOTE_FORMAT);
    if (note->reserved != 0)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note's reserved field is %u, expected 0", file->path,
                       note->reserved);
    if ((note->interfaces & ~all_interfaces) != 0 || (note->interfaces & WN_HAS_CONFIG) == 0)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note's interfaces are 0x%x, expected a set within "
                       "0x%x that has WN_HAS_CONFIG (0x%x)",
                       file->path, note->interfaces, all_interfaces, WN_HAS_CONFIG);
    if ((note->devices & ~all_devices) != 0 || note->devices == 0)
        return wn_fail(file->error, WN_EFORMAT,
                       "%s: rule WN-P-05: the note's devices are 0x%x, expected a set within 0x%x, "
                       "not empty",
                       file->path, note->devices, all_devices);
    wn_status status = check_text(file, "algorithm", note->algorithm, sizeof note->algorithm);
    if (status == WN_OK && !wn_algorithm_name_is_valid(note->algorithm, sizeof note->algorithm))
        status =
            wn_fail(file->error, WN_EFORMAT,
                    "%s: rule WN-P-05: the note's algorithm is \"%s\", expected [a-z0-9_-]{1,63}",
                    file->path, note->algorithm);
    if (status == WN_OK)
        status = check_text(file, "version", note->version, sizeof note->version);
    if (status == WN_OK)
        status = check_text(file, "licence", note->license, sizeof note->license);
    if (status == WN_OK)
        status = check_text(file, "summary", note->summary, sizeof note->summary);
    return status;
}

wn_status wn_note_read(int fd, uint64_t bytes, const char *path, wn_note *note, wn_error *error)
{
    const elf_file file = {fd, bytes, path, error};
    Elf64_Ehdr header;
    uint32_t found = 0;
    wn_status status = read_elf_header(&file, &header);
    for (uint32_t i = 0; status == WN_OK && i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        uint64_t table = header.e_phoff, entry = (uint64_t)i * sizeof segment;
        if (table > UINT64_MAX - entry)
            table = UINT64_MAX, entry = 0; /* read_at refuses it */
        status = read_at(&file, table + entry, &segment, sizeof segment, "program header");
        if (status == WN_OK && segment.p_type == PT_NOTE)
            status = walk_segment(&file, &segment, note, &found);
    }
    if (status == WN_OK && found == 0)
        status = wn_fail(error, WN_ENOTFOUND,
                         "%s: has no Winnow note, so it is not a plugin; a plugin's source says "
                         "WN_PLUGIN_NOTE(...) once",
                         path);
    return status == WN_OK ? check_form(&file, note) : status;
}

wn_status wn_note_matches(const wn_note *note, const char *path, wn_error *error)
{
    const uint64_t layout = (uint64_t)note->layout_high << 32 | note->layout_low;
    if (WN_VERSION_MAJOR(note->abi_built) != WN_ABI_MAJOR ||
        WN_VERSION_MINOR(note->abi_built) != WN_ABI_MINOR || note->abi_least > WN_ABI_VERSION)
        return wn_fail(error, WN_EABI,
                       "%s: rule WN-P-06: built with ABI %u.%u and needs at least %u.%u, this "
                       "library speaks %u.%u alone (minors of 0.x are incompatible); build the "
                       "plugin with this Winnow's headers",
                       path, WN_VERSION_MAJOR(note->abi_built), WN_VERSION_MINOR(note->abi_built),
                       WN_VERSION_MAJOR(note->abi_least), WN_VERSION_MINOR(note->abi_least),
                       WN_ABI_MAJOR, WN_ABI_MINOR);
    if (layout != WN_ABI_LAYOUT)
        return wn_fail(error, WN_EABI,
                       "%s: rule WN-P-06: the note's layout fingerprint is 0x%016llx, this "
                       "library's is 0x%016llx: the headers differ; build the plugin with this "
                       "Winnow's headers",
                       path, (unsigned long long)layout, (unsigned long long)WN_ABI_LAYOUT);
    return WN_OK;
}
