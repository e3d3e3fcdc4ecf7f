/* arena.c: a list of chunks; each takes from its start and nothing goes back before the end. */
#include "core/arena.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

struct wn_arena_chunk {
    wn_arena_chunk *next;
    alignas(max_align_t) unsigned char data[];
};

enum { CHUNK_BYTES = 8192, ALIGN = alignof(max_align_t) };

void *wn_arena_take(wn_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) {
        arena->out_of_memory = 1;
        return NULL;
    }
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (arena->capacity - arena->used < rounded) {
        size_t capacity = rounded > CHUNK_BYTES ? rounded : CHUNK_BYTES;
        wn_arena_chunk *chunk = calloc(1, sizeof *chunk + capacity);
        if (chunk == NULL) {
            arena->out_of_memory = 1;
            return NULL;
        }
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->capacity = capacity;
        arena->used = 0;
    }
    void *memory = arena->chunks == NULL ? NULL : arena->chunks->data + arena->used;
    arena->used += rounded;
    return memory;
}

char *wn_arena_text(wn_arena *arena, const char *text, size_t bytes)
{
    char *copy = wn_arena_take(arena, bytes + 1);
    if (copy != NULL && bytes > 0)
        memcpy(copy, text, bytes);
    return copy;
}

void wn_arena_free(wn_arena *arena)
{
    while (arena->chunks != NULL) {
        wn_arena_chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    *arena = (wn_arena){0};
}
