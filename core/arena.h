/* arena.h: memory for many small things that die together: the nodes of a parsed file. */
#ifndef WN_ARENA_H
#define WN_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct wn_arena_chunk wn_arena_chunk;

/* Zeroed: an empty one. */
typedef struct wn_arena {
    wn_arena_chunk *chunks;
    size_t used, capacity;  /* of the newest chunk */
    uint32_t out_of_memory; /* set once an allocation has failed */
} wn_arena;

/* Zeroed memory, aligned for anything; NULL, and out_of_memory set, when there is none. */
void *wn_arena_take(wn_arena *arena, size_t bytes);
/* A NUL-terminated copy of `bytes` bytes; NULL as above. */
char *wn_arena_text(wn_arena *arena, const char *text, size_t bytes);
void wn_arena_free(wn_arena *arena);

#endif
