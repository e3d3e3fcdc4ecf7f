/* test_layout.c: the layout of every shared struct, as text: compared with abi/layout/0.1.txt, its
 * FNV-1a 64 with WN_ABI_LAYOUT. With WN_LAYOUT_WRITE=1 in the environment it writes both instead;
 * abi/layout/README.md says when that is right. */
#include "suite.h"

#include "winnow/plugin.h"

#include <dirent.h>
#include <stddef.h>
#include <string.h>

#define LAYOUT_FILE WN_TEST_DATA "/../../abi/layout/0.1.txt"
#define HEADERS WN_TEST_DATA "/../../abi/include/winnow"

typedef struct line {
    const char *type;
    const char *field; /* NULL: the end of the struct */
    size_t offset, bytes;
} line;

static const line lines[] = {
#define STRUCT(type)
#define FIELD(type, field) {#type, #field, offsetof(type, field), sizeof(((type *)0)->field)},
#define END(type) {#type, NULL, sizeof(type), 0},
#include "abi/layout.def"
#undef STRUCT
#undef FIELD
#undef END
};
#define NUM_LINES (sizeof lines / sizeof lines[0])

/* Caller frees. */
static char *describe(void)
{
    size_t capacity = NUM_LINES * 128, used = 0;
    char *text = malloc(capacity);
    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < NUM_LINES; i++) {
        const line *at = &lines[i];
        int n = at->field != NULL ? snprintf(text + used, capacity - used, "%s %s %zu %zu\n",
                                             at->type, at->field, at->offset, at->bytes)
                                  : snprintf(text + used, capacity - used, "%s (whole) 0 %zu\n",
                                             at->type, at->offset);
        used += (size_t)n;
    }
    return text;
}

static uint64_t fnv1a(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3ULL;
    return hash;
}

/* Caller frees. NULL if it cannot be read. */
static char *read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    if (file != NULL && text != NULL)
        text[fread(text, 1, (1 << 20) - 1, file)] = '\0';
    if (file != NULL)
        fclose(file);
    if (file == NULL) {
        free(text);
        text = NULL;
    }
    return text;
}

static int write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return 0;
    int good = fputs(text, file) >= 0;
    return fclose(file) == 0 && good;
}

/* Puts the fingerprint into layout.h. */
static void write_fingerprint(uint64_t hash)
{
    char *header = read_file(HEADERS "/layout.h");
    CU_ASSERT_PTR_NOT_NULL_FATAL(header);
    char *at = strstr(header, "WN_ABI_LAYOUT 0x");
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    char digits[17];
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash);
    memcpy(at + strlen("WN_ABI_LAYOUT 0x"), digits, 16);
    CU_ASSERT(write_file(HEADERS "/layout.h", header));
    free(header);
}

/* Each field begins where the one before it ends, and the last ends where the struct does: there is
 * no padding without a name, and layout.def has forgotten no field. */
static void fields_leave_no_gap(void)
{
    size_t end = 0;
    for (size_t i = 0; i < NUM_LINES; i++) {
        if (lines[i].offset != end)
            printf("\n%s: there is a gap before %s, at %zu\n", lines[i].type,
                   lines[i].field != NULL ? lines[i].field : "the end", end);
        CU_ASSERT_EQUAL(lines[i].offset, end);
        end = lines[i].field != NULL ? lines[i].offset + lines[i].bytes : 0;
    }
}

static int is_listed(const char *type, size_t length)
{
    for (size_t i = 0; i < NUM_LINES; i++)
        if (strlen(lines[i].type) == length && memcmp(lines[i].type, type, length) == 0)
            return 1;
    return 0;
}

/* Each WN_STRUCT(type, ...) of a header is in layout.def. */
static void no_struct_is_missed(void)
{
    DIR *directory = opendir(HEADERS);
    struct dirent *entry;
    int seen = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(directory);
    while ((entry = readdir(directory)) != NULL) {
        char path[1024];
        snprintf(path, sizeof path, HEADERS "/%s", entry->d_name);
        if (entry->d_name[0] == '.')
            continue;
        char *text = read_file(path);
        CU_ASSERT_PTR_NOT_NULL_FATAL(text);
        for (char *at = text; (at = strstr(at, "\nWN_STRUCT(")) != NULL;) {
            at += strlen("\nWN_STRUCT(");
            size_t length = strcspn(at, ",");
            int listed = is_listed(at, length);
            if (!listed)
                printf("\n%.*s of %s is not in layout.def\n", (int)length, at, entry->d_name);
            CU_ASSERT(listed);
            seen++;
        }
        free(text);
    }
    closedir(directory);
    CU_ASSERT(seen > 40);
}

static void layout_is_the_recorded_one(void)
{
    char *text = describe();
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    if (getenv("WN_LAYOUT_WRITE") != NULL) {
        CU_ASSERT(write_file(LAYOUT_FILE, text));
        write_fingerprint(fnv1a(text));
        printf("\nwrote %s and the fingerprint; build again\n", LAYOUT_FILE);
        free(text);
        return;
    }
    char *recorded = read_file(LAYOUT_FILE);
    CU_ASSERT_PTR_NOT_NULL_FATAL(recorded);
    size_t same = 0;
    while (text[same] != '\0' && text[same] == recorded[same])
        same++;
    if (text[same] != recorded[same]) {
        while (same > 0 && text[same - 1] != '\n')
            same--;
        printf("\nthe layout differs from %s:\n  recorded: %.*s\n  now:      %.*s\n"
               "see abi/layout/README.md\n",
               LAYOUT_FILE, (int)strcspn(recorded + same, "\n"), recorded + same,
               (int)strcspn(text + same, "\n"), text + same);
    }
    CU_ASSERT_STRING_EQUAL(text, recorded);
    if (fnv1a(text) != WN_ABI_LAYOUT)
        printf("\nWN_ABI_LAYOUT is 0x%016llx, expected 0x%016llx; see abi/layout/README.md\n",
               (unsigned long long)WN_ABI_LAYOUT, (unsigned long long)fnv1a(text));
    CU_ASSERT_EQUAL(fnv1a(text), WN_ABI_LAYOUT);
    free(recorded);
    free(text);
}

WN_SUITE("abi.layout", {"fields leave no gap", fields_leave_no_gap},
         {"no struct is missed", no_struct_is_missed},
         {"layout is the recorded one", layout_is_the_recorded_one})
