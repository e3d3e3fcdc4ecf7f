/* bench_rows.c: one entry per op of the table, with the shape that is measured by default. An op
 * that is added to wn_ops and not here does not compile. */
#include "tools/bench_rows.h"

#include <string.h>

enum {
#define COUNT(op, type) INDEX_##op,
    WN_BENCH_OPS(COUNT)
#undef COUNT
        NUM_OPS
};

#define FUNCTION_SIZE sizeof(wn_status(*)(const wn_append_args *))
_Static_assert(sizeof(wn_ops) == offsetof(wn_ops, append) + NUM_OPS * FUNCTION_SIZE,
               "wn_ops has an op that WN_BENCH_OPS lacks");

#define DEFAULTS_append "tokens=64,heads=32,kv_heads=8,head_dim=128,page=32,dtype=bfloat16"
#define DEFAULTS_compact                                                                           \
    "batch=1,length=32k,selected=2048,kv_heads=8,head_dim=128,page=32,dtype=bfloat16"
#define DEFAULTS_gather_pages "batch=1,length=32k,selected=2048,block=4,kv_heads=8,page=32"
#define DEFAULTS_copy_pages "n=64,kv_heads=8,head_dim=128,page=32,dtype=bfloat16"
#define DEFAULTS_context                                                                           \
    "batch=1,length=2048,queries=0,heads=8,kv_heads=2,head_dim=128,page=32,dtype=bfloat16,"        \
    "window=0,cold=0,tile_q=64,tile_k=64"
#define DEFAULTS_generation                                                                        \
    "batch=1,length=32k,others=0,others_length=512,queries=1,heads=32,kv_heads=8,head_dim=128,"    \
    "page=32,dtype=bfloat16,window=0,selected=0,block=4,cold=0,tile_k=64"
#define DEFAULTS_merge_states "parts=4,rows=16,heads=32,head_dim=128,dtype=float32"
#define DEFAULTS_window_scores                                                                     \
    "batch=1,length=32k,window=32,heads=32,kv_heads=8,head_dim=128,page=32,dtype=bfloat16"
#define DEFAULTS_pool_max "rows=8,n=32k,kernel=63"
#define DEFAULTS_topk "rows=1,n=128k,k=2048"
#define DEFAULTS_landmark_update                                                                   \
    "batch=1,length=32k,tokens=0,kv_heads=8,head_dim=128,page=32,landmark=4,dtype=bfloat16"
#define DEFAULTS_landmark_scores                                                                   \
    "batch=1,length=2048,heads=32,kv_heads=8,head_dim=128,page=32,landmark=4,topr=128,"            \
    "dtype=float8_e5m2"
#define DEFAULTS_quantise "rows=8192,n=128,block=0,dtype=float8_e4m3"
#define DEFAULTS_dequantise "rows=8192,n=128,dtype=float8_e4m3"
#define DEFAULTS_mla                                                                               \
    "batch=1,length=16k,heads=128,head_dim=576,v_head_dim=512,page=64,selected=0,dtype=bfloat16"
#define DEFAULTS_rope "tokens=64,heads=40,head_dim=128,dtype=bfloat16"
#define DEFAULTS_hadamard "rows=4096,n=128,dtype=bfloat16"
#define DEFAULTS_indexer_append "tokens=64,head_dim=128,page=64,dtype=float8_e4m3"
#define DEFAULTS_indexer_topk                                                                      \
    "batch=1,length=32k,queries=1,heads=64,head_dim=128,k=2048,page=64,dtype=float8_e4m3"

#define CALL(op, type)                                                                             \
    static wn_status call_##op(const wn_ops *ops, const wn_bench_scene *scene)                     \
    {                                                                                              \
        return ops->op(&scene->args.op);                                                           \
    }                                                                                              \
    static int same_##op(const wn_ops *a, const wn_ops *b)                                         \
    {                                                                                              \
        return a->op == b->op;                                                                     \
    }
WN_BENCH_OPS(CALL)
#undef CALL

static const wn_bench_op ops_[] = {
#define ROW(op, type) {#op, DEFAULTS_##op, wn_scene_##op, call_##op, same_##op},
    WN_BENCH_OPS(ROW)
#undef ROW
};

const wn_bench_op *wn_bench_op_at(uint32_t index)
{
    return index < NUM_OPS ? &ops_[index] : NULL;
}

const wn_bench_op *wn_bench_op_find(const char *name)
{
    for (int i = 0; i < NUM_OPS; i++)
        if (strcmp(ops_[i].name, name) == 0)
            return &ops_[i];
    return NULL;
}

wn_status wn_bench_scene_open(const wn_bench_op *op, const wn_bench_shape *shape,
                              const wn_executor *executor, wn_bench_scene *scene, wn_error *error)
{
    *scene = (wn_bench_scene){.shape = *shape};
    if (shape->kv_heads > 0 && shape->heads % shape->kv_heads != 0)
        return wn_fail(error, WN_EINVAL, "%s: heads=%lld is no multiple of kv_heads=%lld", op->name,
                       (long long)shape->heads, (long long)shape->kv_heads);
    if (shape->selected > shape->length)
        return wn_fail(error, WN_EINVAL, "%s: selected=%lld is more than length=%lld", op->name,
                       (long long)shape->selected, (long long)shape->length);
    if (shape->others > 0 && (shape->others_length < 1 || shape->selected > shape->others_length))
        return wn_fail(error, WN_EINVAL, "%s: others_length=%lld: expected at least 1 and selected",
                       op->name, (long long)shape->others_length);
    op->make(scene);
    /* All args begin with the same five fields. */
    scene->args.append.executor = executor;
    scene->args.append.error = error;
    if (!scene->memory.failed)
        return WN_OK;
    wn_bench_scene_close(scene);
    return wn_fail(error, WN_ENOMEM, "%s: no memory for this shape", op->name);
}

void wn_bench_scene_close(wn_bench_scene *scene)
{
    wn_bench_release(&scene->memory);
}

#define GENERATION_32_32 "heads=32,kv_heads=32,length=32k"

const wn_bench_row wn_bench_standard[] = {
    {"generation 32/8, 4 Ki", "generation", "length=4k", 0, NULL},
    {"generation 32/8, 32 Ki", "generation", "length=32k", 0, NULL},
    {"generation 32/8, 128 Ki", "generation", "length=128k", 0, NULL},
    {"generation 32/4, 32 Ki", "generation", "kv_heads=4,length=32k", 0, NULL},
    {"generation 32/32, 32 Ki", "generation", GENERATION_32_32, 0, NULL},
    {"generation 32/32, 32 Ki, fp8", "generation", GENERATION_32_32 ",dtype=float8_e4m3", 0,
     GENERATION_32_32},
    {"generation 32/32, 32 Ki, int8", "generation", GENERATION_32_32 ",dtype=int8", 0,
     GENERATION_32_32},
    {"generation 32/8, 1 x 32 Ki + 63 x 512", "generation", "length=32k,others=63", 0, NULL},
    {"mla 128 heads, 16 Ki", "mla", "length=16k", 0, NULL},
    {"mla 128 heads, 16 Ki, fp8 records", "mla", "length=16k,dtype=float8_e4m3", 0, NULL},
    {"sparse mla, 2048 of 64 Ki", "mla", "length=64k,selected=2048", 0, NULL},
    {"sparse mla, 2048 of 64 Ki, fp8 records", "mla", "length=64k,selected=2048,dtype=float8_e4m3",
     0, NULL},
    {"context 8/2, 2 Ki", "context", "length=2k", 0, NULL},
    {"context 8/2, 8 Ki", "context", "length=8k", 0, NULL},
    {"skip softmax 50 %, 8 Ki", "context", "length=8k,cold=50", 0, "dense"},
    {"skip softmax 75 %, 8 Ki", "context", "length=8k,cold=75", 0, "dense"},
    {"top 2048 of 131072", "topk", "n=128k,k=2048", 1, NULL},
    {"top 64 of 1024", "topk", "n=1k,k=64", 1, NULL},
    {"indexer 64 x 128, 32 Ki, bf16", "indexer_topk", "dtype=bfloat16", 1, NULL},
    {"indexer 64 x 128, 32 Ki, fp8", "indexer_topk", "dtype=float8_e4m3", 1, NULL},
    {"indexer 64 x 128, 32 Ki, int8", "indexer_topk", "dtype=int8", 1, NULL},
    {0}};
