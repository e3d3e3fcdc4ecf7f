/* host.c: host PLUGIN_DIRECTORY PLUGIN_FILE. A host as an outsider would write it. It opens a
 * registry on an empty directory, copies the plugin in, finds it by a rescan, and runs a prompt and
 * one generated token with it. Queries are zero, so attention is the mean of the values attended
 * to, and value t is t: the output shows which tokens were chosen. */
#include "winnow/winnow.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PROMPT = 100, HEADS = 2, DIM = 4 };

static void need(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s\n%s\n", what, wn_error_text());
    exit(1);
}

static void copy_file(const char *from, const char *to)
{
    static char bytes[1 << 22];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    need(in != NULL && out != NULL, from);
    size_t count = fread(bytes, 1, sizeof bytes, in);
    need(fwrite(bytes, 1, count, out) == count && fclose(out) == 0, to);
    need(chmod(to, 0644) == 0, to);
    fclose(in);
}

/* Is there a usable plugin of this algorithm? */
static int is_listed(wn_registry *registry, const char *algorithm)
{
    int found = 0;
    for (uint32_t i = 0; i < wn_registry_count(registry); i++) {
        wn_plugin_info info = {.struct_size = WN_SIZEOF(wn_plugin_info)};
        need(wn_registry_info(registry, i, &info) == WN_OK, "wn_registry_info");
        if (info.problem != NULL)
            fprintf(stderr, "%s: %s\n", info.path, info.problem);
        found |= info.problem == NULL && strcmp(info.algorithm, algorithm) == 0;
    }
    return found;
}

/* Runs tokens first .. first + count - 1 and returns the last one's output. */
static float step(wn_engine *engine, wn_sequence sequence, int first, int count, uint32_t flags)
{
    static float q[PROMPT * HEADS * DIM], k[PROMPT * DIM], v[PROMPT * DIM], o[PROMPT * HEADS * DIM];
    wn_batch *batch = NULL;
    wn_batch_item item = {.struct_size = WN_SIZEOF(wn_batch_item),
                          .flags = flags,
                          .sequence = sequence,
                          .num_tokens = count};
    for (int t = 0; t < count; t++)
        for (int d = 0; d < DIM; d++) {
            k[t * DIM + d] = 1;
            v[t * DIM + d] = (float)(first + t);
        }
    const int64_t wide[] = {count, HEADS, DIM}, narrow[] = {count, 1, DIM};
    need(wn_batch_begin(engine, &item, 1, &batch) == WN_OK, "wn_batch_begin");
    need(wn_attention(batch, 0,
                      WN_ARGS(wn_attention_args, .q = wn_tensor_make(q, WN_F32, 3, wide),
                              .k = wn_tensor_make(k, WN_F32, 3, narrow),
                              .v = wn_tensor_make(v, WN_F32, 3, narrow),
                              .out = wn_tensor_make(o, WN_F32, 3, wide))) == WN_OK,
         "wn_attention");
    need(wn_batch_end(batch) == WN_OK, "wn_batch_end");
    return o[(count - 1) * HEADS * DIM];
}

static void run_engine(wn_registry *registry)
{
    static const char yaml[] = "sparse_attention_config:\n  algorithm: sample\n  keep: 16\n";
    const wn_model model = {.struct_size = WN_SIZEOF(wn_model),
                            .num_layers = 1,
                            .num_heads = HEADS,
                            .num_kv_heads = 1,
                            .head_dim = DIM,
                            .dtype = WN_F32,
                            .max_position = 256,
                            .softmax_scale = 0.5f};
    wn_config *config = NULL;
    wn_engine *engine = NULL;
    wn_sequence sequence = 0;
    need(wn_config_parse(yaml, strlen(yaml), "inline.yaml", &config) == WN_OK, "wn_config_parse");
    need(wn_engine_create(registry, config, &model, NULL, &engine) == WN_OK, "wn_engine_create");
    wn_registry_close(registry); /* the engine holds on to what it uses */
    wn_config_free(config);
    need(wn_sequence_create(engine, &sequence) == WN_OK, "wn_sequence_create");
    float dense = step(engine, sequence, 0, PROMPT, WN_ITEM_CONTEXT);
    float sparse = step(engine, sequence, PROMPT, 1, 0);
    /* Dense: the mean of 0 .. 99. Sparse: slots 85 .. 100, widened to blocks of 16: 80 .. 100. */
    printf("prompt %g, expected 49.5; generated %g, expected 90\n", dense, sparse);
    need(fabsf(dense - 49.5f) < 1e-4f && fabsf(sparse - 90.0f) < 1e-4f, "wrong output");
    need(wn_engine_free(engine) == WN_OK, "wn_engine_free");
}

int main(int count, char **arguments)
{
    char installed[4096];
    const wn_config_interface *schema = NULL;
    wn_registry *registry = NULL;
    need(count == 3, "usage: host PLUGIN_DIRECTORY PLUGIN_FILE");
    need(wn_registry_open(arguments[1], &registry) == WN_OK, "wn_registry_open");
    need(!is_listed(registry, "sample"), "the plugin was there before it was installed");
    need(wn_registry_schema(registry, "sample", &schema) == WN_ENOTFOUND, "found too early");
    snprintf(installed, sizeof installed, "%s/sample.so", arguments[1]);
    copy_file(arguments[2], installed);
    need(wn_registry_rescan(registry) == WN_OK, "wn_registry_rescan");
    need(is_listed(registry, "sample"), wn_registry_searched(registry));
    need(wn_registry_schema(registry, "sample", &schema) == WN_OK, "wn_registry_schema");
    need(schema->num_fields == 1 && strcmp(schema->fields[0].name, "keep") == 0, "schema");
    run_engine(registry);
    return 0;
}
