/* safetensors.h: reading and writing safetensors files (8 bytes of header length, a JSON header,
 * the tensors). The reader trusts nothing: header size, JSON, dtypes, shapes, offsets and overlaps
 * are checked before a byte of a tensor is used, and every complaint names the file, the tensor and
 * the numbers. Values may be anything, NaN included. */
#ifndef WN_TOOLS_SAFETENSORS_H
#define WN_TOOLS_SAFETENSORS_H

#include "winnow/status.h"
#include "winnow/tensor.h"

#define WN_SAFETENSORS_MAX_DIMS 8
#define WN_SAFETENSORS_MAX_HEADER 100000000ull /* bytes, as the format's own readers have it */

typedef struct wn_safetensor {
    const char *name;
    uint32_t dtype; /* WN_F32 ... */
    uint32_t ndim;  /* 0: a scalar */
    int64_t shape[WN_SAFETENSORS_MAX_DIMS];
    uint64_t bytes;
    const void *data; /* contiguous, aligned to 16 bytes; not NULL even where bytes is 0 */
} wn_safetensor;

typedef struct wn_safetensors wn_safetensors;

/* Reads the whole file. Everything belongs to *file. */
wn_status wn_safetensors_open(const char *path, wn_safetensors **file, wn_error *error);
void wn_safetensors_close(wn_safetensors *file); /* NULL is fine */

uint32_t wn_safetensors_count(const wn_safetensors *file);
const wn_safetensor *wn_safetensors_at(const wn_safetensors *file, uint32_t index);
/* NULL if there is none of that name. */
const wn_safetensor *wn_safetensors_find(const wn_safetensors *file, const char *name);
/* The text under __metadata__, or NULL. */
const char *wn_safetensors_metadata(const wn_safetensors *file, const char *key);

/* metadata: key, text, key, text ... NULL; or NULL for none. Tensors are stored in order of falling
 * element size, so that each lies aligned. The file appears whole or not at all: it is written as
 * PATH.tmp and then renamed. */
wn_status wn_safetensors_write(const char *path, const wn_safetensor *tensors, uint32_t count,
                               const char *const *metadata, wn_error *error);

#endif
