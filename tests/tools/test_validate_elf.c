/* test_validate_elf.c: the ELF reader on a real plugin, and on a thousand damaged copies of it: it
 * must answer, one way or the other, and touch nothing outside the file (the sanitizers watch). */
#include "suite.h"

#include "tools/validate_elf.h"

#include <string.h>
#include <unistd.h>

#define PLUGIN WN_TEST_PLUGINS "/window.so"

static char text[512];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

static void reads_a_plugin(void)
{
    wn_elf elf;
    wn_note note;
    int found;
    CU_ASSERT_EQUAL_FATAL(wn_elf_read(PLUGIN, &elf, &error), WN_OK);
    CU_ASSERT_EQUAL(wn_elf_note(&elf, &note), 1);
    CU_ASSERT_STRING_EQUAL(note.algorithm, "window");
    CU_ASSERT_PTR_NOT_NULL(wn_elf_segment(&elf, PT_GNU_RELRO));
    wn_elf_dynamic(&elf, DT_STRTAB, &found);
    CU_ASSERT_EQUAL(found, 1);
    wn_elf_dynamic(&elf, DT_RPATH, &found);
    CU_ASSERT_EQUAL(found, 0);
    CU_ASSERT_STRING_EQUAL(wn_elf_name(&elf, elf.names_size), "(bad name)");
    wn_elf_free(&elf);
}

/* Asks everything that the static tests ask. */
static void ask_all(const char *path)
{
    wn_elf elf;
    wn_note note;
    int found;
    if (wn_elf_read(path, &elf, &error) != WN_OK)
        return;
    size_t characters = 0;
    wn_elf_note(&elf, &note);
    wn_elf_dynamic(&elf, DT_FLAGS_1, &found);
    for (size_t i = 0; i < elf.num_symbols; i++)
        characters += strlen(wn_elf_name(&elf, elf.symbols[i].st_name));
    CU_ASSERT_TRUE(characters <= elf.size * elf.num_symbols);
    wn_elf_free(&elf);
}

static void write_file(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fwrite(bytes, 1, size, file);
    fclose(file);
}

static void survives_damage(void)
{
    wn_elf whole;
    char path[] = "/tmp/winnow_damaged_XXXXXX";
    int fd = mkstemp(path);
    uint64_t state = wn_test_seed();
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    close(fd);
    CU_ASSERT_EQUAL_FATAL(wn_elf_read(PLUGIN, &whole, &error), WN_OK);
    uint8_t *copy = malloc(whole.size);
    for (int round = 0; round < 1000; round++) {
        memcpy(copy, whole.bytes, whole.size);
        /* Mostly where the tables are: the header, the segments, the dynamic section. */
        const Elf64_Phdr *dynamic = wn_elf_segment(&whole, PT_DYNAMIC);
        for (int hit = 0; hit < 4; hit++) {
            size_t at = hit == 0   ? wn_random_below(&state, (uint32_t)whole.size)
                        : hit == 1 ? wn_random_below(&state, 64)
                        : hit == 2 ? 64 + wn_random_below(&state, 56u * whole.header.e_phnum)
                                   : dynamic->p_offset +
                                         wn_random_below(&state, (uint32_t)dynamic->p_filesz);
            if (wn_random_below(&state, 2) == 0)
                copy[at] = (uint8_t)wn_random(&state);
        }
        if (round % 2 == 0 && whole.header.e_shoff < whole.size)
            copy[whole.header.e_shoff +
                 wn_random_below(&state, (uint32_t)(whole.size - whole.header.e_shoff))] =
                (uint8_t)wn_random(&state);
        size_t size = round % 5 == 0 ? wn_random_below(&state, (uint32_t)whole.size) : whole.size;
        write_file(path, copy, size);
        ask_all(path);
    }
    free(copy);
    wn_elf_free(&whole);
    unlink(path);
}

WN_SUITE("tools.validate_elf", {"reads a plugin", reads_a_plugin},
         {"survives damage", survives_damage})
