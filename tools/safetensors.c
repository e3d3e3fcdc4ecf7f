/* safetensors.c: the reader and the writer. Every tensor is read into memory of its own: a file
 * that is cut short while it is read is an error here and not a SIGBUS later, and the data is
 * aligned whatever the file's offsets are. */
#include "tools/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct wn_safetensors {
    json_t *header;
    wn_safetensor *tensors;
    uint64_t *begin; /* [count] where each lies in the data section */
    uint32_t count;
};

/* What is known while a file is read. */
typedef struct source {
    FILE *stream;
    const char *path;
    uint64_t header_bytes;
    uint64_t data_bytes; /* of the section after the header */
    wn_error *error;
} source;

static const struct {
    const char *name;
    uint32_t dtype, bytes;
} dtypes[] = {{"F64", WN_F64, 8},   {"F32", WN_F32, 4},         {"F16", WN_F16, 2},
              {"BF16", WN_BF16, 2}, {"F8_E4M3", WN_F8_E4M3, 1}, {"F8_E5M2", WN_F8_E5M2, 1},
              {"I64", WN_I64, 8},   {"I32", WN_I32, 4},         {"I8", WN_I8, 1},
              {"U8", WN_U8, 1}};
enum { NUM_DTYPES = sizeof dtypes / sizeof dtypes[0] };

static uint32_t dtype_bytes(uint32_t dtype)
{
    for (int i = 0; i < NUM_DTYPES; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].bytes;
    return 0;
}

static const char *dtype_text(uint32_t dtype)
{
    for (int i = 0; i < NUM_DTYPES; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    return NULL;
}

/* ---------------------------------------------------------------- header */

static uint64_t little_endian_64(const unsigned char *at)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* Finds the file's two parts and checks that they fit. */
static wn_status measure(source *from)
{
    struct stat about;
    unsigned char length[8];
    if (fstat(fileno(from->stream), &about) != 0)
        return wn_fail(from->error, WN_EIO, "%s: %s", from->path, strerror(errno));
    if (!S_ISREG(about.st_mode))
        return wn_fail(from->error, WN_EIO, "%s: not a regular file", from->path);
    uint64_t size = (uint64_t)about.st_size;
    if (size < 8 || fread(length, 1, 8, from->stream) != 8)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: %" PRIu64 " bytes are too few for a "
                       "safetensors file, which begins with 8 bytes of header length",
                       from->path, size);
    from->header_bytes = little_endian_64(length);
    if (from->header_bytes > WN_SAFETENSORS_MAX_HEADER)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: says that its header has %" PRIu64
                       " bytes; the most allowed is %llu. Is it a safetensors file?",
                       from->path, from->header_bytes, WN_SAFETENSORS_MAX_HEADER);
    if (from->header_bytes > size - 8)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: says that its header has %" PRIu64 " bytes, but only %" PRIu64
                       " follow: the file is cut short or is no "
                       "safetensors file",
                       from->path, from->header_bytes, size - 8);
    from->data_bytes = size - 8 - from->header_bytes;
    return WN_OK;
}

static wn_status parse_header(source *from, json_t **header)
{
    json_error_t where;
    char *text = malloc(from->header_bytes + 1);
    if (text == NULL)
        return wn_fail(from->error, WN_ENOMEM, "%s: no memory for a header of %" PRIu64 " bytes",
                       from->path, from->header_bytes);
    if (fread(text, 1, from->header_bytes, from->stream) != from->header_bytes) {
        free(text);
        return wn_fail(from->error, WN_EIO, "%s: the header cannot be read", from->path);
    }
    *header = json_loadb(text, from->header_bytes, JSON_REJECT_DUPLICATES, &where);
    free(text);
    if (*header == NULL)
        return wn_fail(from->error, WN_EFORMAT, "%s: the header is no valid JSON: %s (byte %d)",
                       from->path, where.text, where.position);
    if (!json_is_object(*header))
        return wn_fail(from->error, WN_EFORMAT, "%s: the header is JSON, but no object",
                       from->path);
    return WN_OK;
}

static wn_status check_metadata(const source *from, json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return wn_fail(from->error, WN_EFORMAT, "%s: __metadata__ is no object", from->path);
    json_object_foreach(metadata, key, value) if (!json_is_string(value)) return wn_fail(
        from->error, WN_EFORMAT, "%s: __metadata__ key \"%s\" is no string", from->path, key);
    return WN_OK;
}

/* ---------------------------------------------------------------- one entry */

static wn_status read_dtype(const source *from, wn_safetensor *tensor, const json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (name == NULL)
        return wn_fail(from->error, WN_EFORMAT, "%s: tensor \"%s\" has no dtype", from->path,
                       tensor->name);
    for (int i = 0; i < NUM_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            tensor->dtype = dtypes[i].dtype;
    if (tensor->dtype == 0)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: tensor \"%s\" has dtype \"%s\", which is none "
                       "of those read here (F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I8 U8)",
                       from->path, tensor->name, name);
    return WN_OK;
}

/* Also computes tensor->bytes, with every product checked. */
static wn_status read_shape(const source *from, wn_safetensor *tensor, const json_t *entry)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > WN_SAFETENSORS_MAX_DIMS)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: tensor \"%s\" has no shape, or one of more "
                       "than %d dimensions",
                       from->path, tensor->name, WN_SAFETENSORS_MAX_DIMS);
    tensor->ndim = (uint32_t)json_array_size(shape);
    uint64_t bytes = dtype_bytes(tensor->dtype);
    for (uint32_t i = 0; i < tensor->ndim; i++) {
        const json_t *extent = json_array_get(shape, i);
        tensor->shape[i] = json_integer_value(extent);
        if (!json_is_integer(extent) || tensor->shape[i] < 0)
            return wn_fail(from->error, WN_EFORMAT,
                           "%s: tensor \"%s\", dimension %u of the shape "
                           "is no whole number of 0 or more",
                           from->path, tensor->name, i);
        if (tensor->shape[i] > 0 && bytes > (uint64_t)INT64_MAX / (uint64_t)tensor->shape[i])
            return wn_fail(from->error, WN_EFORMAT,
                           "%s: tensor \"%s\" has a shape whose product "
                           "overflows",
                           from->path, tensor->name);
        bytes *= (uint64_t)tensor->shape[i];
    }
    tensor->bytes = bytes;
    return WN_OK;
}

static wn_status read_offsets(const source *from, wn_safetensor *tensor, uint64_t *begin,
                              const json_t *entry)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: tensor \"%s\" has no data_offsets of two whole "
                       "numbers",
                       from->path, tensor->name);
    json_int_t from_byte = json_integer_value(first), to_byte = json_integer_value(last);
    if (from_byte < 0 || to_byte < from_byte || (uint64_t)to_byte > from->data_bytes)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: tensor \"%s\" has data_offsets [%lld, %lld], "
                       "but the file holds %" PRIu64 " bytes of data",
                       from->path, tensor->name, (long long)from_byte, (long long)to_byte,
                       from->data_bytes);
    if ((uint64_t)(to_byte - from_byte) != tensor->bytes)
        return wn_fail(from->error, WN_EFORMAT,
                       "%s: tensor \"%s\" has data_offsets [%lld, %lld], "
                       "which is %lld bytes, but its dtype and shape make %" PRIu64,
                       from->path, tensor->name, (long long)from_byte, (long long)to_byte,
                       (long long)(to_byte - from_byte), tensor->bytes);
    *begin = (uint64_t)from_byte;
    return WN_OK;
}

static wn_status read_entry(const source *from, wn_safetensor *tensor, uint64_t *begin,
                            const json_t *entry)
{
    wn_status status = WN_OK;
    if (!json_is_object(entry))
        return wn_fail(from->error, WN_EFORMAT, "%s: tensor \"%s\" is described by no object",
                       from->path, tensor->name);
    if ((status = read_dtype(from, tensor, entry)) != WN_OK)
        return status;
    if ((status = read_shape(from, tensor, entry)) != WN_OK)
        return status;
    return read_offsets(from, tensor, begin, entry);
}

static wn_status read_entries(const source *from, wn_safetensors *file)
{
    const char *name;
    json_t *entry;
    size_t most = json_object_size(file->header);
    file->tensors = calloc(most + 1, sizeof *file->tensors);
    file->begin = calloc(most + 1, sizeof *file->begin);
    if (file->tensors == NULL || file->begin == NULL)
        return wn_fail(from->error, WN_ENOMEM, "%s: no memory for %zu tensors", from->path, most);
    json_object_foreach(file->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            wn_status status = check_metadata(from, entry);
            if (status != WN_OK)
                return status;
            continue;
        }
        wn_safetensor *tensor = &file->tensors[file->count];
        tensor->name = name; /* lives as long as the header */
        wn_status status = read_entry(from, tensor, &file->begin[file->count], entry);
        if (status != WN_OK)
            return status;
        file->count++;
    }
    return WN_OK;
}

/* ---------------------------------------------------------------- data */

typedef struct extent {
    uint64_t begin, end;
    const char *name;
} extent;

static int by_begin(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static wn_status check_overlaps(const source *from, const wn_safetensors *file)
{
    extent *extents = malloc((file->count + 1) * sizeof *extents);
    wn_status status = WN_OK;
    if (extents == NULL)
        return wn_fail(from->error, WN_ENOMEM, "%s: no memory", from->path);
    for (uint32_t i = 0; i < file->count; i++)
        extents[i] = (extent){file->begin[i], file->begin[i] + file->tensors[i].bytes,
                              file->tensors[i].name};
    qsort(extents, file->count, sizeof *extents, by_begin);
    for (uint32_t i = 1; i < file->count && status == WN_OK; i++)
        if (extents[i].begin < extents[i - 1].end)
            status = wn_fail(from->error, WN_EFORMAT,
                             "%s: tensors \"%s\" [%" PRIu64 ", %" PRIu64 "] and \"%s\" [%" PRIu64
                             ", %" PRIu64 "] overlap",
                             from->path, extents[i - 1].name, extents[i - 1].begin,
                             extents[i - 1].end, extents[i].name, extents[i].begin, extents[i].end);
    free(extents);
    return status;
}

static wn_status read_data(const source *from, wn_safetensors *file)
{
    for (uint32_t i = 0; i < file->count; i++) {
        wn_safetensor *tensor = &file->tensors[i];
        void *data = malloc(tensor->bytes + 16);
        if (data == NULL)
            return wn_fail(from->error, WN_ENOMEM,
                           "%s: no memory for tensor \"%s\" of %" PRIu64 " bytes", from->path,
                           tensor->name, tensor->bytes);
        tensor->data = data;
        off_t at = (off_t)(8 + from->header_bytes + file->begin[i]);
        if (fseeko(from->stream, at, SEEK_SET) != 0 ||
            fread(data, 1, tensor->bytes, from->stream) != tensor->bytes)
            return wn_fail(from->error, WN_EIO, "%s: tensor \"%s\" cannot be read: %s", from->path,
                           tensor->name, ferror(from->stream) ? strerror(errno) : "cut short");
    }
    return WN_OK;
}

wn_status wn_safetensors_open(const char *path, wn_safetensors **file, wn_error *error)
{
    source from = {fopen(path, "rb"), path, 0, 0, error};
    *file = NULL;
    if (from.stream == NULL)
        return wn_fail(error, WN_EIO, "%s: %s", path, strerror(errno));
    wn_status status = WN_OK;
    wn_safetensors *made = calloc(1, sizeof *made);
    if (made == NULL)
        status = wn_fail(error, WN_ENOMEM, "%s: no memory", path);
    if (status == WN_OK)
        status = measure(&from);
    if (status == WN_OK)
        status = parse_header(&from, &made->header);
    if (status == WN_OK)
        status = read_entries(&from, made);
    if (status == WN_OK)
        status = check_overlaps(&from, made);
    if (status == WN_OK)
        status = read_data(&from, made);
    fclose(from.stream);
    if (status == WN_OK)
        *file = made;
    else
        wn_safetensors_close(made);
    return status;
}

void wn_safetensors_close(wn_safetensors *file)
{
    if (file == NULL)
        return;
    for (uint32_t i = 0; i < file->count; i++)
        free((void *)file->tensors[i].data);
    free(file->tensors);
    free(file->begin);
    json_decref(file->header);
    free(file);
}

uint32_t wn_safetensors_count(const wn_safetensors *file)
{
    return file->count;
}

const wn_safetensor *wn_safetensors_at(const wn_safetensors *file, uint32_t index)
{
    return index < file->count ? &file->tensors[index] : NULL;
}

const wn_safetensor *wn_safetensors_find(const wn_safetensors *file, const char *name)
{
    for (uint32_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return &file->tensors[i];
    return NULL;
}

const char *wn_safetensors_metadata(const wn_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

/* ---------------------------------------------------------------- writing */

/* Sort key of the writer: falling element size, then the caller's order. */
typedef struct place {
    uint32_t element_bytes, index;
} place;

static int by_element_size(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->element_bytes != y->element_bytes)
        return x->element_bytes > y->element_bytes ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static json_t *describe(const wn_safetensor *tensor, uint64_t begin)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < tensor->ndim; i++)
        json_array_append_new(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_text(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + tensor->bytes));
}

/* The header's text, padded with spaces to a multiple of 8 bytes; freed by the caller. */
static char *make_header(const wn_safetensor *tensors, const place *places, uint32_t count,
                         const char *const *metadata, size_t *bytes)
{
    json_t *header = json_object(), *about = json_object();
    uint64_t begin = 0;
    for (; metadata != NULL && metadata[0] != NULL; metadata += 2)
        json_object_set_new(about, metadata[0], json_string(metadata[1]));
    json_object_set_new(header, "__metadata__", about);
    for (uint32_t i = 0; i < count; i++) {
        const wn_safetensor *tensor = &tensors[places[i].index];
        json_object_set_new(header, tensor->name, describe(tensor, begin));
        begin += tensor->bytes;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    int complete = json_object_size(header) == count + 1;
    json_decref(header);
    if (text == NULL || !complete) {
        free(text);
        return NULL;
    }
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    char *grown = realloc(text, padded + 1);
    if (grown == NULL) {
        free(text);
        return NULL;
    }
    memset(grown + length, ' ', padded - length);
    *bytes = padded;
    return grown;
}

static int write_all(FILE *to, const char *header, size_t header_bytes,
                     const wn_safetensor *tensors, const place *places, uint32_t count)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)(header_bytes >> (8 * i));
    int fine = fwrite(length, 1, 8, to) == 8 && fwrite(header, 1, header_bytes, to) == header_bytes;
    for (uint32_t i = 0; i < count && fine; i++) {
        const wn_safetensor *tensor = &tensors[places[i].index];
        if (tensor->bytes > 0)
            fine = fwrite(tensor->data, 1, tensor->bytes, to) == tensor->bytes;
    }
    return fine;
}

static wn_status write_file(const char *path, const char *header, size_t header_bytes,
                            const wn_safetensor *tensors, const place *places, uint32_t count,
                            wn_error *error)
{
    char temporary[4096];
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp", path) >= sizeof temporary)
        return wn_fail(error, WN_EIO, "%s: the path is too long", path);
    FILE *to = fopen(temporary, "wb");
    if (to == NULL)
        return wn_fail(error, WN_EIO, "%s: %s", temporary, strerror(errno));
    int fine = write_all(to, header, header_bytes, tensors, places, count);
    fine = fclose(to) == 0 && fine;
    if (fine && rename(temporary, path) == 0)
        return WN_OK;
    wn_status status = wn_fail(error, WN_EIO, "%s: cannot be written: %s", path, strerror(errno));
    unlink(temporary);
    return status;
}

wn_status wn_safetensors_write(const char *path, const wn_safetensor *tensors, uint32_t count,
                               const char *const *metadata, wn_error *error)
{
    place *places = malloc((count + 1) * sizeof *places);
    if (places == NULL)
        return wn_fail(error, WN_ENOMEM, "%s: no memory", path);
    for (uint32_t i = 0; i < count; i++)
        places[i] = (place){dtype_bytes(tensors[i].dtype), i};
    qsort(places, count, sizeof *places, by_element_size);
    size_t bytes = 0;
    char *header = make_header(tensors, places, count, metadata, &bytes);
    wn_status status = header != NULL
                           ? write_file(path, header, bytes, tensors, places, count, error)
                           : wn_fail(error, WN_EINVAL,
                                     "%s: no memory for the header, or a name given twice", path);
    free(header);
    free(places);
    return status;
}
