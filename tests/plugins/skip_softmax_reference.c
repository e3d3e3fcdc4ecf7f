/* skip_softmax_reference.c: see skip_softmax_reference.h. */
#include "skip_softmax_reference.h"

#include <math.h>
#include <stdlib.h>

float skip_softmax_reference_threshold(double factor, int64_t min_seq_len, int32_t length)
{
    const double lambda = factor / length;
    if (length < min_seq_len || lambda <= 0 || lambda >= 1)
        return -INFINITY;
    return (float)log(lambda);
}

/* The greatest score of each row over all keys. */
static void find_maxima(const double *score, int32_t rows, int32_t n, double *maximum)
{
    for (int32_t r = 0; r < rows; r++)
        for (int32_t j = 0; j < n; j++)
            maximum[r] = fmax(maximum[r], score[(int64_t)r * n + j]);
}

void skip_softmax_reference(const double *score, int32_t rows, int32_t n, int32_t tile_k,
                            float log_threshold, int two_pass, uint8_t *kept, int64_t *tiles_seen,
                            int64_t *tiles_skipped)
{
    double *running = malloc((size_t)rows * sizeof *running);
    for (int32_t r = 0; r < rows; r++)
        running[r] = -INFINITY;
    if (two_pass)
        find_maxima(score, rows, n, running);
    *tiles_seen = *tiles_skipped = 0;
    for (int32_t first = 0; first < n; first += tile_k) {
        const int32_t end = first + tile_k < n ? first + tile_k : n;
        int seen = 0, all_agree = 1;
        for (int32_t r = 0; r < rows; r++) {
            double greatest = -INFINITY;
            for (int32_t j = first; j < end; j++)
                greatest = fmax(greatest, score[(int64_t)r * n + j]);
            if (greatest == -INFINITY)
                continue; /* a row that sees nothing of the tile does not vote */
            seen = 1;
            all_agree &= greatest - fmax(running[r], greatest) < log_threshold;
        }
        const int skip = seen && all_agree && (*tiles_seen > 0 || two_pass);
        *tiles_seen += seen;
        *tiles_skipped += skip;
        for (int32_t j = first; j < end; j++) {
            kept[j] = seen && !skip;
            for (int32_t r = 0; r < rows && !skip; r++)
                running[r] = fmax(running[r], score[(int64_t)r * n + j]);
        }
    }
    free(running);
}
