/* test_save.c: what --save writes, read back. */
#include "suite.h"
#include "tools/check_file.h"
#include "tools/check_replay.h"
#include "tools/check_small_trace.h"
#include "tools/save.h"

#include <string.h>

/* In step 0 KV head 0 selects two positions and KV head 1 one; later steps select nothing. */
static void select_in_step_0(wn_choices *choices)
{
    choices->position = calloc(3, sizeof(int32_t));
    memcpy(choices->position, (int32_t[]){4, 9, 70}, 3 * sizeof(int32_t));
    choices->any = choices->chosen[0] = choices->separate = 1;
    choices->span[0] = (wn_span){0, 2};
    choices->span[1] = (wn_span){2, 3};
}

/* Prompt row 50 selects two positions for all KV heads; the other rows see what is before them. */
static void select_in_row_50(wn_choices *choices)
{
    choices->position = calloc(2, sizeof(int32_t));
    memcpy(choices->position, (int32_t[]){7, 50}, 2 * sizeof(int32_t));
    choices->span = calloc(CHECK_CONTEXT * CHECK_KV_HEADS, sizeof *choices->span);
    choices->chosen = calloc(CHECK_CONTEXT, 1);
    choices->any = choices->chosen[50] = 1;
    for (int h = 0; h < CHECK_KV_HEADS; h++)
        choices->span[50 * CHECK_KV_HEADS + h] = (wn_span){0, 2};
}

static void writes_what_there_is(void)
{
    char path[256];
    wn_safetensors *file;
    wn_trace *trace = check_replay_trace();
    wn_replay *replays[2] = {check_replay_make(trace, "dense", 0, 0),
                             check_replay_make(trace, "other", 10, 50)};
    select_in_step_0(&replays[1]->layers[1].generation);
    select_in_row_50(&replays[1]->layers[0].prompt);
    snprintf(path, sizeof path, "%s", check_file_path("saved.safetensors"));
    CU_ASSERT_EQUAL_FATAL(wn_save_replays(path, trace, replays, 2, NULL), WN_OK);
    CU_ASSERT_EQUAL_FATAL(wn_safetensors_open(path, &file, NULL), WN_OK);
    CU_ASSERT_EQUAL(wn_safetensors_count(file), 2 * 2 + 2 * 3 + 2);
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
    const wn_safetensor *context = wn_safetensors_find(file, "layers.3.other.select_context");
    CU_ASSERT_PTR_NOT_NULL_FATAL(context);
    CU_ASSERT_EQUAL(context->shape[0], CHECK_CONTEXT);
    CU_ASSERT_EQUAL(context->shape[1], 1); /* one list for all KV heads */
    CU_ASSERT_EQUAL(context->shape[2], CHECK_CONTEXT);
    list = (const int32_t *)context->data + 50 * CHECK_CONTEXT;
    CU_ASSERT(list[0] == 7 && list[1] == 50 && list[2] == -1);
    CU_ASSERT(list[CHECK_CONTEXT + 51] == 51 && list[CHECK_CONTEXT + 52] == -1);
    wn_safetensors_close(file);
    wn_replay_free(replays[0]);
    wn_replay_free(replays[1]);
    wn_trace_close(trace);
}

WN_SUITE("tools.save", {"writes what there is", writes_what_there_is})
