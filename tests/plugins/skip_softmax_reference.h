/* skip_softmax_reference.h: skip softmax (BLASST) as its rule says it, in float64, one voting unit
 * at a time, written for reading. Shares no code with kernels or plugins. */
#ifndef WN_TESTS_SKIP_SOFTMAX_REFERENCE_H
#define WN_TESTS_SKIP_SOFTMAX_REFERENCE_H

#include <stdint.h>

/* ln(lambda) with lambda = factor / length, rounded to float32 as the kernels are given it; -inf,
 * dense, where lambda is not in (0, 1) or the request is shorter than min_seq_len. */
float skip_softmax_reference_threshold(double factor, int64_t min_seq_len, int32_t length);

/* One voting unit: `rows` queries with their scaled scores, [rows, n] (-inf: the row does not see
 * the key), keys in tiles of tile_k. kept [n]: 1 for keys in tiles that are computed. Tiles that no
 * row sees are not counted and count as not kept. two_pass: tiles are compared with each row's
 * greatest score of all, and the first one is no exception. */
void skip_softmax_reference(const double *score, int32_t rows, int32_t n, int32_t tile_k,
                            float log_threshold, int two_pass, uint8_t *kept, int64_t *tiles_seen,
                            int64_t *tiles_skipped);

#endif
