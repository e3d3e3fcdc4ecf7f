/* hf_config.c: from a model's own description to wn_model. Hugging Face has several names for one
 * thing; each row below lists them, the first found counts. */
#include "tools/hf_config.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const layer_keys[] = {"num_hidden_layers", "n_layer", "num_layers", NULL};
static const char *const head_keys[] = {"num_attention_heads", "n_head", "num_heads", NULL};
static const char *const kv_head_keys[] = {"num_key_value_heads", "num_kv_heads", NULL};
static const char *const hidden_keys[] = {"hidden_size", "n_embd", "d_model", NULL};
static const char *const position_keys[] = {"max_position_embeddings", "n_positions", "n_ctx",
                                            "max_seq_len", NULL};
static const char *const dtype_keys[] = {"dtype", "torch_dtype", NULL};

/* The value of the first of these keys that is there and not null, and which one it was. */
static json_t *find(json_t *root, const char *const *keys, const char **found)
{
    for (; *keys != NULL; keys++) {
        json_t *value = json_object_get(root, *keys);
        if (value != NULL && !json_is_null(value)) {
            *found = *keys;
            return value;
        }
    }
    return NULL;
}

/* A count within 1 .. greatest. Absent: `otherwise`, or an error where that is 0. */
static wn_status count(json_t *root, const char *const *keys, uint32_t otherwise, uint32_t greatest,
                       const char *path, uint32_t *to, wn_error *error)
{
    const char *key = keys[0];
    json_t *value = find(root, keys, &key);
    if (value == NULL && otherwise == 0)
        return wn_fail(error, WN_EFORMAT,
                       "%s: has no \"%s\", which says the model's attention "
                       "geometry",
                       path, keys[0]);
    if (value == NULL) {
        *to = otherwise;
        return WN_OK;
    }
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    if (number < 1 || number > greatest)
        return wn_fail(error, WN_EFORMAT, "%s: \"%s\" must be an integer from 1 to %u", path, key,
                       greatest);
    *to = (uint32_t)number;
    return WN_OK;
}

static wn_status read_dtype(json_t *root, const char *path, uint32_t *dtype, wn_error *error)
{
    const char *key = NULL;
    json_t *value = find(root, dtype_keys, &key);
    const char *name = json_string_value(value);
    *dtype = WN_BF16; /* what models are run in when the file does not say */
    if (value == NULL)
        return WN_OK;
    if (name != NULL && strncmp(name, "torch.", 6) == 0)
        name += 6;
    *dtype = name != NULL ? wn_dtype_from_name(name) : 0;
    if (*dtype == WN_F32 || *dtype == WN_F16 || *dtype == WN_BF16)
        return WN_OK;
    return wn_fail(error, WN_EUNSUPPORTED,
                   "%s: \"%s\" must be \"float32\", \"float16\" or "
                   "\"bfloat16\"",
                   path, key);
}

static wn_status finish(const char *path, wn_model_geometry *geometry, wn_error *error)
{
    wn_model *model = &geometry->model;
    if (model->num_heads % model->num_kv_heads != 0)
        return wn_fail(error, WN_EFORMAT, "%s: %u heads cannot share %u KV heads evenly", path,
                       model->num_heads, model->num_kv_heads);
    if (model->softmax_scale == 0)
        model->softmax_scale = 1.0f / sqrtf((float)model->head_dim);
    model->struct_size = WN_SIZEOF(wn_model);
    model->name = geometry->name;
    return WN_OK;
}

/* K and V per KV head. */
static wn_status read_heads(json_t *root, const char *path, wn_model *model, wn_error *error)
{
    static const char *const head_dim_keys[] = {"head_dim", NULL};
    uint32_t hidden = 0;
    wn_status status =
        count(root, kv_head_keys, model->num_heads, 65536, path, &model->num_kv_heads, error);
    if (status == WN_OK && json_object_get(root, "head_dim") == NULL)
        status = count(root, hidden_keys, 0, 1 << 24, path, &hidden, error);
    return status != WN_OK ? status
                           : count(root, head_dim_keys, hidden / model->num_heads, WN_MAX_HEAD_DIM,
                                   path, &model->head_dim, error);
}

static int is_latent(json_t *root)
{
    json_t *rank = json_object_get(root, "kv_lora_rank");
    return rank != NULL && !json_is_null(rank);
}

/* MLA in its absorbed form (wn_model.mla): per token kv_lora_rank channels of latent, of which the
 * values are made, and qk_rope_head_dim rotated ones. The scale is that of the heads before
 * absorption, and with YaRN times (0.1 * mscale_all_dim * ln(factor) + 1) squared, as DeepSeek's
 * model code has it. */
static wn_status read_latent(json_t *root, const char *path, wn_model *model, wn_error *error)
{
    static const char *const rank_keys[] = {"kv_lora_rank", NULL};
    static const char *const rope_keys[] = {"qk_rope_head_dim", NULL};
    static const char *const nope_keys[] = {"qk_nope_head_dim", NULL};
    uint32_t rank = 0, rope = 0, nope = 0;
    wn_status status = count(root, rank_keys, 0, WN_MAX_HEAD_DIM, path, &rank, error);
    if (status == WN_OK)
        status = count(root, rope_keys, 0, WN_MAX_HEAD_DIM, path, &rope, error);
    if (status == WN_OK)
        status = count(root, nope_keys, 0, 65536, path, &nope, error);
    if (status != WN_OK)
        return status;
    json_t *scaling = json_object_get(root, "rope_scaling");
    double factor = json_number_value(json_object_get(scaling, "factor"));
    double mscale = json_number_value(json_object_get(scaling, "mscale_all_dim"));
    double longer = factor > 1 ? 0.1 * mscale * log(factor) + 1 : 1;
    model->mla = 1;
    model->num_kv_heads = 1;
    model->head_dim = rank + rope;
    model->v_head_dim = rank;
    model->softmax_scale = (float)(longer * longer / sqrt((double)nope + rope));
    return WN_OK;
}

/* A lightning indexer, where the model has one. */
static wn_status read_indexer(json_t *root, const char *path, wn_model *model, wn_error *error)
{
    static const char *const names[3][2] = {
        {"index_n_heads", NULL}, {"index_head_dim", NULL}, {"index_topk", NULL}};
    uint32_t *const to[3] = {&model->index_n_heads, &model->index_head_dim, &model->index_topk};
    static const uint32_t greatest[3] = {1024, WN_MAX_HEAD_DIM, 1 << 30};
    wn_status status = WN_OK;
    for (int i = 0; i < 3 && status == WN_OK; i++)
        if (json_object_get(root, names[i][0]) != NULL)
            status = count(root, names[i], 0, greatest[i], path, to[i], error);
    return status;
}

static wn_status read_root(json_t *root, const char *path, wn_model_geometry *geometry,
                           wn_error *error)
{
    wn_model *model = &geometry->model;
    wn_status status = count(root, layer_keys, 0, 65536, path, &model->num_layers, error);
    if (status == WN_OK)
        status = count(root, head_keys, 0, 65536, path, &model->num_heads, error);
    if (status == WN_OK)
        status = is_latent(root) ? read_latent(root, path, model, error)
                                 : read_heads(root, path, model, error);
    if (status == WN_OK)
        status = read_indexer(root, path, model, error);
    if (status == WN_OK)
        status = count(root, position_keys, 0, INT32_MAX, path, &model->max_position, error);
    if (status == WN_OK)
        status = read_dtype(root, path, &model->dtype, error);
    if (status != WN_OK)
        return status;
    json_t *scalar = json_object_get(root, "query_pre_attn_scalar"); /* Gemma: scale is its -1/2 */
    if (json_is_number(scalar) && json_number_value(scalar) > 0)
        model->softmax_scale = (float)(1.0 / sqrt(json_number_value(scalar)));
    const char *type = json_string_value(json_object_get(root, "model_type"));
    snprintf(geometry->name, sizeof geometry->name, "%s", type != NULL ? type : path);
    return finish(path, geometry, error);
}

wn_status wn_hf_config_parse(const char *text, size_t bytes, const char *path,
                             wn_model_geometry *geometry, wn_error *error)
{
    json_error_t where;
    memset(geometry, 0, sizeof *geometry);
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL)
        return wn_fail(error, WN_EFORMAT, "%s:%d:%d: %s", path, where.line, where.column,
                       where.text);
    json_t *inner =
        json_object_get(root, "text_config"); /* multi-modal: the language model's part */
    wn_status status;
    if (!json_is_object(root))
        status = wn_fail(error, WN_EFORMAT,
                         "%s: expected an object, as in Hugging Face's "
                         "config.json",
                         path);
    else
        status = read_root(json_is_object(inner) ? inner : root, path, geometry, error);
    json_decref(root);
    return status;
}

wn_status wn_hf_config_load(const char *path, wn_model_geometry *geometry, wn_error *error)
{
    enum { LARGEST = 16 << 20 };
    FILE *file = fopen(path, "rb");
    char *text = file != NULL ? malloc(LARGEST) : NULL;
    size_t bytes = text != NULL ? fread(text, 1, LARGEST, file) : 0;
    wn_status status;
    if (file == NULL || text == NULL || ferror(file))
        status = wn_fail(error, WN_EIO, "%s: cannot be read", path);
    else if (bytes == LARGEST)
        status =
            wn_fail(error, WN_EFORMAT, "%s: larger than %d bytes: no config.json", path, LARGEST);
    else
        status = wn_hf_config_parse(text, bytes, path, geometry, error);
    if (file != NULL)
        fclose(file);
    free(text);
    return status;
}

/* ---------------------------------------------------------------- words */

static wn_status set_word(wn_model_geometry *geometry, const char *key, const char *value,
                          wn_error *error)
{
    wn_model *model = &geometry->model;
    const struct {
        const char *key;
        uint32_t *to;
        uint32_t greatest;
    } words[] = {{"layers", &model->num_layers, 65536},
                 {"heads", &model->num_heads, 65536},
                 {"kv_heads", &model->num_kv_heads, 65536},
                 {"head_dim", &model->head_dim, WN_MAX_HEAD_DIM},
                 {"v_head_dim", &model->v_head_dim, WN_MAX_HEAD_DIM},
                 {"max_position", &model->max_position, INT32_MAX}};
    char *end;
    if (strcmp(key, "dtype") == 0) {
        model->dtype = wn_dtype_from_name(value);
        return model->dtype == WN_F32 || model->dtype == WN_F16 || model->dtype == WN_BF16
                   ? WN_OK
                   : wn_fail(error, WN_EINVAL,
                             "dtype=%s: expected float32, float16 or "
                             "bfloat16",
                             value);
    }
    if (strcmp(key, "scale") == 0) {
        model->softmax_scale = strtof(value, &end);
        return end != value && *end == '\0' && model->softmax_scale > 0
                   ? WN_OK
                   : wn_fail(error, WN_EINVAL, "scale=%s: expected a number above 0", value);
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(key, words[i].key) == 0) {
            long long number = strtoll(value, &end, 10);
            if (end == value || *end != '\0' || number < 1 || number > words[i].greatest)
                return wn_fail(error, WN_EINVAL, "%s=%s: expected an integer from 1 to %u", key,
                               value, words[i].greatest);
            *words[i].to = (uint32_t)number;
            return WN_OK;
        }
    return wn_fail(error, WN_EINVAL,
                   "unknown word \"%s\": expected layers, heads, kv_heads, "
                   "head_dim, v_head_dim, dtype, max_position or scale",
                   key);
}

wn_status wn_geometry_parse(const char *text, wn_model_geometry *geometry, wn_error *error)
{
    char copy[1024], *rest = NULL;
    wn_status status = WN_OK;
    memset(geometry, 0, sizeof *geometry);
    snprintf(geometry->name, sizeof geometry->name, "%s", text);
    geometry->model.dtype = WN_BF16;
    geometry->model.max_position = 131072;
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return wn_fail(error, WN_EINVAL, "a geometry has at most %zu characters", sizeof copy - 1);
    for (char *word = strtok_r(copy, ",", &rest); status == WN_OK && word != NULL;
         word = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(word, '=');
        if (equals == NULL)
            return wn_fail(error, WN_EINVAL, "\"%s\": expected WORD=VALUE", word);
        *equals = '\0';
        status = set_word(geometry, word, equals + 1, error);
    }
    const wn_model *model = &geometry->model;
    if (status != WN_OK)
        return status;
    if (model->num_layers == 0 || model->num_heads == 0 || model->head_dim == 0)
        return wn_fail(error, WN_EINVAL,
                       "layers, heads and head_dim are needed: "
                       "layers=32,heads=32,kv_heads=8,head_dim=128");
    if (model->num_kv_heads == 0)
        geometry->model.num_kv_heads = model->num_heads;
    return finish(text, geometry, error);
}

wn_status wn_geometry_read(const char *argument, wn_model_geometry *geometry, wn_error *error)
{
    char path[4096];
    struct stat status;
    int there = stat(argument, &status) == 0;
    if (!there && strchr(argument, '=') != NULL)
        return wn_geometry_parse(argument, geometry, error);
    snprintf(path, sizeof path, "%s%s", argument,
             there && S_ISDIR(status.st_mode) ? "/config.json" : "");
    return wn_hf_config_load(path, geometry, error);
}
