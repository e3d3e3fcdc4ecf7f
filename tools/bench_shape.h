/* bench_shape.h: the sizes of one row of the benchmark, as words: "length=32768,heads=32,...". An
 * op's defaults name every key that it knows; another key is an error, so that no typo is measured.
 */
#ifndef WN_TOOLS_BENCH_SHAPE_H
#define WN_TOOLS_BENCH_SHAPE_H

#include "winnow/winnow.h"

/* X(key, greatest, what). Only what is 0 in an op's defaults may be 0. */
#define WN_SHAPE_LIST(X)                                                                           \
    X(batch, 1 << 16, "requests")                                                                  \
    X(length, 1 << 24, "tokens in the cache of each request")                                      \
    X(others, 1 << 16, "further requests of others_length")                                        \
    X(others_length, 1 << 24, "")                                                                  \
    X(queries, 1 << 20, "query tokens of each request; context, 0: length")                        \
    X(tokens, 1 << 20, "new tokens")                                                               \
    X(heads, 1 << 14, "query heads")                                                               \
    X(kv_heads, 1 << 14, "")                                                                       \
    X(head_dim, 1024, "channels")                                                                  \
    X(v_head_dim, 1024, "channels of a value")                                                     \
    X(page, 1 << 16, "tokens per page")                                                            \
    X(rows, 1 << 24, "")                                                                           \
    X(n, 1 << 24, "numbers of a row, or pages")                                                    \
    X(k, 1 << 20, "how many are chosen of a row")                                                  \
    X(parts, 4096, "")                                                                             \
    X(selected, 1 << 24, "tokens that stay or are attended to; 0: all")                            \
    X(window, 1 << 24, "newest positions visible; 0: all. Of window_scores: its queries")          \
    X(landmark, 1 << 16, "tokens of a landmark")                                                   \
    X(topr, 1024, "channels that count")                                                           \
    X(block, 1 << 16, "of a selection: tokens; of scales: channels, 0: a row")                     \
    X(kernel, 1 << 16, "width of the maximum")                                                     \
    X(cold, 100, "percent of the tiles that a tile policy can leave out; 0: no policy")            \
    X(tile_q, 64, "")                                                                              \
    X(tile_k, 256, "")

typedef struct wn_bench_shape {
#define WN_SHAPE_FIELD(key, greatest, what) int64_t key;
    WN_SHAPE_LIST(WN_SHAPE_FIELD)
#undef WN_SHAPE_FIELD
    uint32_t dtype; /* of the cache, the keys or the codes */
    uint32_t reserved;
} wn_bench_shape;

/* defaults, then words over it (NULL: none). A failure's text says what is known. */
wn_status wn_bench_shape_read(const char *op, const char *defaults, const char *words,
                              wn_bench_shape *shape, wn_error *error);

#endif
