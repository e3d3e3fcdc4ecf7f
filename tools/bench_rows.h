/* bench_rows.h: the rows of the benchmark: an op with its default shape each, and the set of rows
 * whose figures are published. */
#ifndef WN_TOOLS_BENCH_ROWS_H
#define WN_TOOLS_BENCH_ROWS_H

#include "tools/bench_scene.h"

typedef struct wn_bench_op {
    const char *name;
    const char *defaults; /* its shape; names every key that it knows */
    void (*make)(wn_bench_scene *scene);
    wn_status (*call)(const wn_ops *ops, const wn_bench_scene *scene);
    /* Do both tables have the same function for it? */
    int (*same)(const wn_ops *a, const wn_ops *b);
} wn_bench_op;

/* By index, in the op table's order; NULL beyond. */
const wn_bench_op *wn_bench_op_at(uint32_t index);
const wn_bench_op *wn_bench_op_find(const char *name);

/* Makes the scene; freed by wn_bench_scene_close. */
wn_status wn_bench_scene_open(const wn_bench_op *op, const wn_bench_shape *shape,
                              const wn_executor *executor, wn_bench_scene *scene, wn_error *error);
void wn_bench_scene_close(wn_bench_scene *scene);

/* A row that is asked for: an op, a shape over its defaults, and, if wanted, what it is beside. */
typedef struct wn_bench_row {
    const char *name;
    const char *op;
    const char *shape;
    uint32_t threads; /* 0: as the command line says */
    const char *base; /* the same op's shape to which it is compared; "dense": this one without its
                         tile policy; NULL: none */
} wn_bench_row;

/* The rows of `winnow bench standard`; NULL name beyond the last. */
extern const wn_bench_row wn_bench_standard[];

#endif
