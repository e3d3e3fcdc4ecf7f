/* test_save.c: what --save writes, read back. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/save.h"

#include <string.h>

/* In step 0 KV head 0 selects two positions and KV head 1 one; later steps select nothing. */
static void select_in_step_0(wn_replay_layer *layer, int64_t steps)
{
    layer->selected = calloc(3, sizeof(int32_t));
    memcpy(layer->selected, (int32_t[]){4, 9, 70}, 3 * sizeof(int32_t));
    layer->select_step[0] = 1;
    layer->selects = 1;
    layer->select_begin[1] = 2;
    for (int64_t i = 2; i <= steps * CHECK_KV_HEADS; i++)
        layer->select_begin[i] = 3;
}

static void writes_what_there_is(void)
{
    char path[256];
    wn_safetensors *file;
    wn_trace *trace = check_replay_trace();
    wn_replay *replays[2] = {check_replay_make(trace, "dense", 0, 0),
                             check_replay_make(trace, "other", 10, 50)};
    select_in_step_0(&replays[1]->layers[1], replays[1]->steps);
    snprintf(path, sizeof path, "%s", check_file_path("saved.safetensors"));
    CU_ASSERT_EQUAL_FATAL(wn_save_replays(path, trace, replays, 2, NULL), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(path, &file, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_safetensors_count(file), 2 * 2 + 2 * 3 + 1);
    CU_ASSERT_PTR_NULL(wn_safetensors_find(file, "layers.3.dense.retain"));
    CU_ASSERT_PTR_NULL(wn_safetensors_find(file, "layers.3.other.select"));
    const wn_safetensor *out = wn_safetensors_find(file, "layers.5.other.out");
    CU_ASSERT_PTR_NOT_NULL_FATAL(out);
    CU_ASSERT_EQUAL(out->dtype, WN_F32);
    CU_ASSERT_EQUAL(memcmp(out->data, replays[1]->layers[1].out, out->bytes), 0);
    const wn_safetensor *retain = wn_safetensors_find(file, "layers.3.other.retain");
    CU_ASSERT_PTR_NOT_NULL_FATAL(retain);
    CU_ASSERT_EQUAL(retain->shape[1], 40);
    CU_ASSERT_EQUAL(((const int32_t *)retain->data)[10], 50);
    const wn_safetensor *select = wn_safetensors_find(file, "layers.5.other.select");
    CU_ASSERT_PTR_NOT_NULL_FATAL(select);
    const int32_t *list = select->data;
    int64_t width = select->shape[2];
    CU_ASSERT_EQUAL(select->shape[0], CHECK_TOKENS - CHECK_CONTEXT);
    CU_ASSERT_EQUAL(width, 40 + 16); /* the last step sees what stayed and all that was generated */
    CU_ASSERT(list[0] == 4 && list[1] == 9 && list[2] == -1);
    CU_ASSERT(list[width] == 70 && list[width + 1] == -1);
    CU_ASSERT_EQUAL(list[2 * width + 41], CHECK_CONTEXT + 1); /* step 1 sees everything */
    CU_ASSERT_EQUAL(list[2 * width + 42], -1);
    wn_safetensors_close(file);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    wn_trace_close(trace);
}

WN_SUITE("tools.save", {"writes what there is", writes_what_there_is})
