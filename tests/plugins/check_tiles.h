/* check_tiles.h: one voting unit of a tile rule, held to the references: which tiles are left out,
 * what each row's output is then, and what may be lost by it. For tests of the ops and of engines.
 */
#ifndef WN_TESTS_CHECK_TILES_H
#define WN_TESTS_CHECK_TILES_H

#include "winnow/ops.h"

typedef struct check_tiles {
    int32_t rows, n, dim, v_dim; /* v_dim <= dim */
    double *q;                   /* [rows, dim] */
    double *k, *v;               /* [n, dim]; of v the first v_dim channels of a key count */
    int32_t *last;               /* [rows] greatest key that each row sees */
    const float **out;           /* [rows] of each row's output, [v_dim] */
    double scale;
    float threshold; /* ln(lambda) */
    int32_t tile;    /* keys per tile */
    int32_t two_pass;
} check_tiles;

/* Memory for rows and keys; freed by check_tiles_free. */
check_tiles check_tiles_make(int32_t rows, int32_t n, int32_t dim);
void check_tiles_free(check_tiles *unit);

/* Asserts that outputs are attention over the tiles that the reference keeps, that the universal
 * oracle holds, and that no row lost more than lambda for each key left out. Adds the reference's
 * tile counts. */
void check_tiles_compare(const check_tiles *unit, wn_attend_counters *expected);

#endif
