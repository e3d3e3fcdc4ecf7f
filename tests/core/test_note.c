/* test_note.c: the reader of ELF notes, fed with good, wrong and damaged files. */
#include "check_scratch.h"
#include "suite.h"

#include "core/note.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char text[2048];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

/* Reads the note of a file that holds these bytes. The file lives in memory. */
static wn_status read_bytes(const void *bytes, size_t count, wn_note *note)
{
    int fd = memfd_create("note", MFD_CLOEXEC);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(write(fd, bytes, count), (ssize_t)count);
    text[0] = '\0';
    wn_status status = wn_note_read(fd, count, "the file", note, &error);
    close(fd);
    return status;
}

static unsigned char *good(size_t *count)
{
    return scratch_read(BAD_PLUGINS "/good.so", count);
}

static void good_plugin(void)
{
    size_t count;
    wn_note note;
    unsigned char *bytes = good(&count);
    CU_ASSERT_EQUAL(read_bytes(bytes, count, &note), WN_OK);
    CU_ASSERT_STRING_EQUAL(note.algorithm, "sample");
    CU_ASSERT_STRING_EQUAL(note.version, "1.0");
    CU_ASSERT_STRING_EQUAL(note.license, "MIT");
    CU_ASSERT_EQUAL(note.interfaces, WN_HAS_CONFIG | WN_HAS_PREDICTOR);
    CU_ASSERT_EQUAL(wn_note_matches(&note, "the file", &error), WN_OK);
    free(bytes);
}

/* What a variant of the family says. */
static wn_status read_plugin(const char *name, wn_note *note)
{
    char path[512];
    size_t count;
    snprintf(path, sizeof path, BAD_PLUGINS "/%s.so", name);
    unsigned char *bytes = scratch_read(path, &count);
    wn_status status = read_bytes(bytes, count, note);
    free(bytes);
    return status;
}

static void expect_text(const char *part)
{
    if (strstr(text, part) == NULL)
        printf("\nexpected \"%s\" in: %s\n", part, text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, part));
}

static void malformed_notes(void)
{
    wn_note note;
    CU_ASSERT_EQUAL(read_plugin("no_note", &note), WN_ENOTFOUND);
    expect_text("no Winnow note");
    CU_ASSERT_EQUAL(read_plugin("two_notes", &note), WN_EFORMAT);
    expect_text("more than one");
    CU_ASSERT_EQUAL(read_plugin("algorithm_characters", &note), WN_EFORMAT);
    expect_text("algorithm is \"Sample/1\"");
    CU_ASSERT_EQUAL(read_plugin("note_format", &note), WN_EFORMAT);
    expect_text("format is 99, expected 1");
    CU_ASSERT_EQUAL(read_plugin("note_control", &note), WN_EFORMAT);
    expect_text("control character 0x1b");
}

static void other_versions(void)
{
    wn_note note;
    CU_ASSERT_EQUAL(read_plugin("old_abi", &note), WN_OK);
    CU_ASSERT_EQUAL(wn_note_matches(&note, "the file", &error), WN_EABI);
    expect_text("ABI 0.0");
    CU_ASSERT_EQUAL(read_plugin("new_abi", &note), WN_OK);
    CU_ASSERT_EQUAL(wn_note_matches(&note, "the file", &error), WN_EABI);
    expect_text("ABI 7.3 and needs at least 7.0, this library speaks 0.1");
    CU_ASSERT_EQUAL(read_plugin("other_layout", &note), WN_OK);
    CU_ASSERT_EQUAL(wn_note_matches(&note, "the file", &error), WN_EABI);
    expect_text("0x0123456789abcdef");
}

/* Finds the note's descriptor in the bytes of the good plugin. */
static wn_note *inside(unsigned char *bytes, size_t count)
{
    static const char name[] = WN_NOTE_NAME;
    unsigned char *at = memmem(bytes, count, name, sizeof name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    return (wn_note *)(void *)(at + sizeof name);
}

#define WITH_CHANGED(expected_status, expected_text, ...)                                          \
    do {                                                                                           \
        size_t count;                                                                              \
        wn_note got;                                                                               \
        unsigned char *bytes = good(&count);                                                       \
        wn_note *note = inside(bytes, count);                                                      \
        Elf64_Ehdr *elf = (Elf64_Ehdr *)(void *)bytes;                                             \
        (void)note, (void)elf;                                                                     \
        __VA_ARGS__;                                                                               \
        CU_ASSERT_EQUAL(read_bytes(bytes, count, &got), expected_status);                          \
        expect_text(expected_text);                                                                \
        free(bytes);                                                                               \
    } while (0)

static void wrong_fields(void)
{
    WITH_CHANGED(WN_EFORMAT, "algorithm does not end",
                 memset(note->algorithm, 'a', sizeof note->algorithm));
    WITH_CHANGED(WN_EFORMAT, "summary does not end",
                 memset(note->summary, 'a', sizeof note->summary));
    WITH_CHANGED(WN_EFORMAT, "version is empty", note->version[0] = '\0');
    WITH_CHANGED(WN_EFORMAT, "licence is empty", note->license[0] = '\0');
    WITH_CHANGED(WN_EFORMAT, "algorithm is empty", note->algorithm[0] = '\0');
    WITH_CHANGED(WN_EFORMAT, "interfaces are 0x2,", note->interfaces = WN_HAS_PREDICTOR);
    WITH_CHANGED(WN_EFORMAT, "interfaces are 0x101,", note->interfaces = 0x101);
    WITH_CHANGED(WN_EFORMAT, "devices are 0x0,", note->devices = 0);
    WITH_CHANGED(WN_EFORMAT, "reserved field is 3", note->reserved = 3);
    WITH_CHANGED(WN_EFORMAT, "has 100 bytes, expected 288", ((uint32_t *)(void *)note)[-4] = 100);
    WITH_CHANGED(WN_EFORMAT, "malformed", ((uint32_t *)(void *)note)[-4] = 0xfffffff0u);
    WITH_CHANGED(WN_EFORMAT, "malformed", ((uint32_t *)(void *)note)[-5] = 0xffffffffu);
    WITH_CHANGED(WN_EFORMAT, "type is 9", ((uint32_t *)(void *)note)[-3] = 9);
}

static void wrong_elf(void)
{
    WITH_CHANGED(WN_EFORMAT, "not an ELF file", elf->e_ident[0] = 'X');
    WITH_CHANGED(WN_EFORMAT, "not a 64-bit", elf->e_ident[EI_CLASS] = ELFCLASS32);
    WITH_CHANGED(WN_EFORMAT, "byte order", elf->e_ident[EI_DATA] ^= 3);
    WITH_CHANGED(WN_EFORMAT, "machine is 40", elf->e_machine = EM_ARM);
    WITH_CHANGED(WN_EFORMAT, "not a shared object", elf->e_type = ET_REL);
    WITH_CHANGED(WN_EFORMAT, "program headers", elf->e_phnum = 0);
    WITH_CHANGED(WN_EFORMAT, "program headers", elf->e_phnum = 0xffff);
    WITH_CHANGED(WN_EFORMAT, "program headers", elf->e_phentsize = 1);
    WITH_CHANGED(WN_EFORMAT, "not inside", elf->e_phoff = UINT64_MAX - 8);
    WITH_CHANGED(WN_EFORMAT, "not inside", elf->e_phoff = count - 8);
    wn_note note;
    CU_ASSERT_EQUAL(read_bytes("", 0, &note), WN_EFORMAT);
    expect_text("not an ELF file");
    CU_ASSERT_EQUAL(read_bytes("INPUT(libm.so)\n", 15, &note), WN_EFORMAT);
    expect_text("not an ELF file");
}

/* A file that became shorter after its size was taken. */
static void file_shrinks(void)
{
    size_t count;
    wn_note note;
    unsigned char *bytes = good(&count);
    int fd = memfd_create("note", MFD_CLOEXEC);
    CU_ASSERT_EQUAL(write(fd, bytes, 100), 100);
    CU_ASSERT_EQUAL(wn_note_read(fd, count, "the file", &note, &error), WN_EIO);
    expect_text("became shorter");
    close(fd);
    free(bytes);
}

/* Cut anywhere, a file is refused or read right, with a text; sanitizers watch the rest. */
static void truncated_anywhere(void)
{
    size_t count, refused = 0;
    unsigned char *bytes = good(&count);
    for (size_t length = 0; length < count; length += length < 2048 ? 1 : 97) {
        wn_note note;
        unsigned char *cut = malloc(length + 1);
        memcpy(cut, bytes, length);
        wn_status status = read_bytes(cut, length, &note);
        CU_ASSERT(status == WN_OK || status == WN_EFORMAT || status == WN_ENOTFOUND);
        CU_ASSERT(status == WN_OK || text[0] != '\0');
        refused += status != WN_OK;
        free(cut);
    }
    CU_ASSERT(refused > 500);
    free(bytes);
}

/* Bytes of the header, of the program headers and of the notes changed at random. */
static void flipped_bytes(void)
{
    size_t count;
    uint64_t state = wn_test_seed();
    unsigned char *bytes = good(&count);
    size_t head = sizeof(Elf64_Ehdr) + 16 * sizeof(Elf64_Phdr);
    size_t note_at = (size_t)((unsigned char *)inside(bytes, count) - bytes);
    unsigned counts[3] = {0, 0, 0};
    for (int round = 0; round < 20000; round++) {
        size_t at[4];
        unsigned char kept[4];
        wn_note note;
        for (int i = 0; i < 4; i++) {
            at[i] = (wn_random_below(&state, 2) ? wn_random_below(&state, (uint32_t)head)
                                                : note_at - 64 + wn_random_below(&state, 400)) %
                    count;
            kept[i] = bytes[at[i]];
            bytes[at[i]] = (unsigned char)wn_random(&state);
        }
        wn_status status = read_bytes(bytes, count < 16384 ? count : 16384, &note);
        CU_ASSERT(status == WN_OK || status == WN_EFORMAT || status == WN_ENOTFOUND);
        CU_ASSERT(status == WN_OK || text[0] != '\0');
        counts[status == WN_OK ? 0 : status == WN_EFORMAT ? 1 : 2]++;
        if (status == WN_OK)
            CU_ASSERT(wn_algorithm_name_is_valid(note.algorithm, sizeof note.algorithm));
        for (int i = 4; i-- > 0;)
            bytes[at[i]] = kept[i];
    }
    CU_ASSERT(counts[0] > 0 && counts[1] > 0 && counts[2] > 0);
    free(bytes);
}

static void algorithm_names(void)
{
    char longest[65];
    memset(longest, 'a', sizeof longest);
    CU_ASSERT(wn_algorithm_name_is_valid("a", 64));
    CU_ASSERT(wn_algorithm_name_is_valid("two_parts-3", 64));
    CU_ASSERT(!wn_algorithm_name_is_valid("", 64));
    CU_ASSERT(!wn_algorithm_name_is_valid("Window", 64));
    CU_ASSERT(!wn_algorithm_name_is_valid("a b", 64));
    CU_ASSERT(!wn_algorithm_name_is_valid("../a", 64));
    CU_ASSERT(!wn_algorithm_name_is_valid(longest, 64));
    longest[63] = '\0';
    CU_ASSERT(wn_algorithm_name_is_valid(longest, 64));
}

WN_SUITE("core.note", {"good plugin", good_plugin}, {"malformed notes", malformed_notes},
         {"other versions", other_versions}, {"wrong fields", wrong_fields},
         {"wrong ELF", wrong_elf}, {"file shrinks", file_shrinks},
         {"truncated anywhere", truncated_anywhere}, {"flipped bytes", flipped_bytes},
         {"algorithm names", algorithm_names})
