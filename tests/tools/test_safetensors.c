/* test_safetensors.c: the reader against files that lie, and what the writer writes read back. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/safetensors.h"

#include <math.h>
#include <string.h>

static char text[4096];
static wn_error error = {WN_SIZEOF(wn_error), sizeof text, text};

/* The file is refused with this status, and the complaint contains the words. */
static void refuse(const char *path, wn_status status, const char *words)
{
    wn_safetensors *file = NULL;
    text[0] = '\0';
    CU_ASSERT_EQUAL(wn_safetensors_open(path, &file, &error), status);
    CU_ASSERT_PTR_NULL(file);
    if (strstr(text, words) == NULL) {
        printf("\n  expected \"%s\" in \"%s\"\n", words, text);
        CU_FAIL("another complaint");
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "made.safetensors"));
}

static void refuse_header(const char *header, size_t data_bytes, const char *words)
{
    refuse(check_file_safetensors(header, data_bytes), WN_EFORMAT, words);
}

static void reads_back_what_it_wrote(void)
{
    const float floats[6] = {1, -2.5f, NAN, INFINITY, 0, 4};
    const int32_t ints[3] = {7, -1, 2};
    const uint8_t odd[3] = {1, 2, 3};
    const wn_safetensor tensors[] = {{"odd", WN_U8, 1, {3}, 3, odd},
                                     {"floats", WN_F32, 3, {1, 2, 3}, sizeof floats, floats},
                                     {"ints", WN_I32, 1, {3}, sizeof ints, ints},
                                     {"empty", WN_F32, 2, {0, 9}, 0, floats},
                                     {"scalar", WN_I32, 0, {0}, 4, ints}};
    const char *const metadata[] = {"who", "a \"test\" \xc3\xa9", NULL};
    char path[256];
    wn_safetensors *file;
    snprintf(path, sizeof path, "%s", check_file_path("made.safetensors"));
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_write(path, tensors, 5, metadata, &error), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(path, &file, &error), WN_OK);
    CU_ASSERT_EQUAL(wn_safetensors_count(file), 5);
    CU_ASSERT_STRING_EQUAL(wn_safetensors_metadata(file, "who"), metadata[1]);
    CU_ASSERT_PTR_NULL(wn_safetensors_metadata(file, "nobody"));
    CU_ASSERT_PTR_NULL(wn_safetensors_find(file, "nothing"));
    for (int i = 0; i < 5; i++) {
        const wn_safetensor *read = wn_safetensors_find(file, tensors[i].name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(read);
        CU_ASSERT_EQUAL(read->dtype, tensors[i].dtype);
        CU_ASSERT_EQUAL(read->ndim, tensors[i].ndim);
        CU_ASSERT_EQUAL(memcmp(read->shape, tensors[i].shape, sizeof read->shape), 0);
        CU_ASSERT_EQUAL_FATAL(read->bytes, tensors[i].bytes);
        CU_ASSERT_EQUAL(memcmp(read->data, tensors[i].data, read->bytes), 0);
        CU_ASSERT_EQUAL((uintptr_t)read->data % 16, 0);
    }
    wn_safetensors_close(file);
}

static void writer_refuses(void)
{
    const wn_safetensor twice[] = {{"a", WN_U8, 1, {1}, 1, "x"}, {"a", WN_U8, 1, {1}, 1, "y"}};
    char path[256];
    size_t bytes;
    snprintf(path, sizeof path, "%s", check_file_path("twice.safetensors"));
    CU_ASSERT_EQUAL(wn_safetensors_write(path, twice, 2, NULL, &error), WN_EINVAL);
    CU_ASSERT_PTR_NULL(check_file_read(path, &bytes));
    CU_ASSERT_EQUAL(wn_safetensors_write("/nonexistent/x", twice, 1, NULL, &error), WN_EIO);
}

static void lying_lengths(void)
{
    unsigned char bytes[64] = {0};
    refuse(check_file_write("made.safetensors", bytes, 0), WN_EFORMAT, "too few");
    refuse(check_file_write("made.safetensors", bytes, 7), WN_EFORMAT, "too few");
    memset(bytes, 0xff, 8); /* 2^64 - 1: giant, and -1 for who reads it signed */
    refuse(check_file_write("made.safetensors", bytes, 64), WN_EFORMAT, "most allowed");
    memset(bytes, 0, 8);
    bytes[3] = 1; /* 16 MiB that are not there */
    refuse(check_file_write("made.safetensors", bytes, 64), WN_EFORMAT, "only 56 follow");
    bytes[3] = 0;
    bytes[0] = 57;
    refuse(check_file_write("made.safetensors", bytes, 64), WN_EFORMAT, "cut short");
    refuse("/made.safetensors/not/there", WN_EIO, "No such file");
}

static void header_is_no_json(void)
{
    refuse_header("", 0, "no valid JSON");
    refuse_header("hello", 0, "no valid JSON");
    refuse_header("[1, 2]", 0, "no object");
    refuse_header("{\"a\": 1} trailing", 0, "no valid JSON");
    refuse_header("{\"a\": \"\\u0000\"}", 0, "no valid JSON");
    refuse_header("{\"__metadata__\": [1]}", 0, "__metadata__ is no object");
    refuse_header("{\"__metadata__\": {\"a\": 1}}", 0, "\"a\" is no string");
    refuse_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                  "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                  1, "duplicate");
}

static void nesting_bomb(void)
{
    enum { DEPTH = 200000 };
    char *header = malloc(DEPTH + 8);
    CU_ASSERT_PTR_NOT_NULL_FATAL(header);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    header[DEPTH + 5] = '\0';
    refuse_header(header, 0, "no valid JSON");
    free(header);
}

static void entries_that_lie(void)
{
    static const struct {
        const char *entry, *words;
    } lies[] = {
        {"7", "no object"},
        {"{\"shape\":[1],\"data_offsets\":[0,1]}", "no dtype"},
        {"{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,1]}", "\"F33\""},
        {"{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}", "no dtype"},
        {"{\"dtype\":\"U8\",\"data_offsets\":[0,1]}", "no shape"},
        {"{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}", "whole number"},
        {"{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}", "whole number"},
        {"{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}", "more than 8"},
        {"{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}",
         "overflows"},
        {"{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}", "overflows"},
        {"{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}", "JSON"},
        {"{\"dtype\":\"U8\",\"shape\":[1]}", "no data_offsets"},
        {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}", "no data_offsets"},
        {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}", "no data_offsets"},
        {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\"0\",1]}", "no data_offsets"},
        {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}", "[-1, 0]"},
        {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]}", "[2, 1]"},
        {"{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}", "holds 8 bytes"},
        {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775807,"
         "9223372036854775807]}",
         "holds 8 bytes"},
        {"{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,4]}", "dtype and shape make 3"}};
    char header[256];
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        snprintf(header, sizeof header, "{\"liar\":%s}", lies[i].entry);
        refuse_header(header, 8, lies[i].words);
        if (strcmp(lies[i].words, "JSON") != 0)
            CU_ASSERT_PTR_NOT_NULL(strstr(text, "liar"));
    }
}

static void overlaps(void)
{
    refuse_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
                  8, "overlap");
    refuse_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                  8, "overlap");
}

static void gaps_and_misalignment_are_fine(void)
{
    wn_safetensors *file;
    const char *path =
        check_file_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]},"
                               "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[7,8]}}",
                               8);
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(path, &file, &error), WN_OK);
    CU_ASSERT_EQUAL(*(const float *)wn_safetensors_find(file, "a")->data, 0.0f);
    wn_safetensors_close(file);
}

/* A sound file cut at every length, and with any byte of its header changed, is either refused with
 * a text or read; nothing else. The sanitizers watch. */
static void survives_cuts_and_flips(void)
{
    const char header[] =
        "{\"__metadata__\":{\"a\":\"b\"},\"x\":{\"dtype\":\"BF16\",\"shape\":[2,3],"
        "\"data_offsets\":[0,12]},\"y\":{\"dtype\":\"I64\",\"shape\":[2],"
        "\"data_offsets\":[12,28]}}";
    size_t size;
    char *whole = check_file_read(check_file_safetensors(header, 28), &size);
    uint64_t state = wn_test_seed();
    wn_safetensors *file;
    CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
    for (size_t cut = 0; cut < size; cut++) {
        const char *path = check_file_write("cut.safetensors", whole, cut);
        CU_ASSERT_NOT_EQUAL(wn_safetensors_open(path, &file, &error), WN_OK);
        CU_ASSERT_PTR_NULL(file);
    }
    for (int i = 0; i < 3000; i++) {
        size_t at = wn_random_below(&state, (uint32_t)size - 28);
        char before = whole[at];
        whole[at] = (char)wn_random(&state);
        text[0] = '\0';
        wn_status status =
            wn_safetensors_open(check_file_write("flip.safetensors", whole, size), &file, &error);
        CU_ASSERT((status == WN_OK) == (file != NULL));
        CU_ASSERT(status == WN_OK || text[0] != '\0');
        wn_safetensors_close(file);
        whole[at] = before;
    }
    free(whole);
}

WN_SUITE("tools.safetensors", {"reads back what it wrote", reads_back_what_it_wrote},
         {"the writer refuses doubles and bad paths", writer_refuses},
         {"lengths that lie", lying_lengths}, {"a header that is no JSON", header_is_no_json},
         {"a nesting bomb", nesting_bomb}, {"entries that lie", entries_that_lie},
         {"overlapping tensors", overlaps},
         {"gaps and odd offsets are fine", gaps_and_misalignment_are_fine},
         {"cut and flipped files", survives_cuts_and_flips})
