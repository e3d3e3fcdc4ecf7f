/* shadow_reference.c: see shadow_reference.h. */
#include "shadow_reference.h"

#include <string.h>

#include "suite.h"

/* ---------------------------------------------------------------- sequences */

shadow_sequence *shadow_find(shadow *of, int64_t id)
{
    for (uint32_t i = 0; i < of->count; i++)
        if (of->sequence[i].id == id)
            return &of->sequence[i];
    return NULL;
}

shadow_sequence *shadow_add(shadow *of, int64_t id, const shadow_sequence *parent)
{
    if (of->count == SHADOW_SEQUENCES)
        return NULL;
    shadow_sequence *added = &of->sequence[of->count++];
    if (parent != NULL)
        *added = *parent;
    else
        memset(added, 0, sizeof *added);
    added->id = id;
    return added;
}

void shadow_remove(shadow *of, int64_t id)
{
    shadow_sequence *removed = shadow_find(of, id);
    shadow_sequence *last = &of->sequence[--of->count];
    if (removed != last)
        *removed = *last;
}

void shadow_truncate(shadow_sequence *sequence, int32_t length)
{
    for (uint32_t group = 0; group < CACHE_GROUPS; group++)
        sequence->length[group] -= sequence->logical - length;
    sequence->logical = length;
    sequence->next_position = length > 0 ? sequence->position_of[length - 1] + 1 : 0;
}

/* ---------------------------------------------------------------- bytes */

/* The bytes that a stamp stands for. */
static void expand(uint64_t stamp, uint32_t layer, uint32_t head, uint32_t kind, uint8_t *bytes,
                   size_t count)
{
    uint64_t state = stamp * 0x9e3779b97f4a7c15ULL + layer * 64 + head * 8 + kind;
    for (size_t done = 0; done < count; done += 8) {
        uint64_t word = wn_random(&state);
        memcpy(bytes + done, &word, count - done < 8 ? count - done : 8);
    }
}

enum {
    LARGEST = 656,
    LARGEST_PIECE = 64
}; /* bytes of one token and head, or of one auxiliary piece */

/* A sequence's way through one layer's pools. */
typedef struct walk {
    wn_paged_kv kv;
    int32_t table[SHADOW_PAGES];
    int32_t length;
    uint32_t layer;
} walk;

static walk walk_layer(const shadow *of, int64_t id, uint32_t layer)
{
    walk made = {.layer = layer};
    wn_kvcache_tables(of->cache, of->shape->layer_group[layer], &id, 1, made.table, SHADOW_PAGES,
                      &made.length);
    wn_kvcache_view(of->cache, layer, &made.kv);
    if (of->shape->mla)
        made.kv.v.data = NULL; /* a part of K: neither visited nor moved by itself */
    return made;
}

/* Writes (or, with a fault count, compares) one token and head of K or V. */
static uint32_t visit_codes(const walk *at, const wn_kv_view *view, uint32_t kind, uint32_t head,
                            int32_t slot, uint64_t stamp, int write)
{
    uint8_t bytes[LARGEST + sizeof(float)];
    uint32_t tokens = at->kv.tokens_per_page, size = cache_element_bytes(view);
    uint32_t count = cache_elements(view);
    uint32_t place = (uint32_t)slot % tokens, differences = 0;
    int32_t page = at->table[slot / tokens];
    expand(stamp, at->layer, head, kind, bytes, count * size + sizeof(float));
    for (uint32_t d = 0; d < count; d++) {
        void *element = cache_element(view, tokens, page, head, place, d);
        if (write)
            memcpy(element, bytes + d * size, size);
        else
            differences += memcmp(element, bytes + d * size, size) != 0;
    }
    if (view->scale == NULL)
        return differences;
    float *scale = view->scale + page * view->scale_page_stride + head * view->scale_head_stride;
    if (write)
        memcpy(scale + place, bytes + count * size, sizeof(float));
    else
        differences += memcmp(scale + place, bytes + count * size, sizeof(float)) != 0;
    return differences;
}

static int32_t *position_at(const walk *at, uint32_t head, int32_t slot)
{
    uint32_t tokens = at->kv.tokens_per_page;
    return at->kv.position + at->table[slot / tokens] * at->kv.position_page_stride +
           head * at->kv.position_head_stride + (uint32_t)slot % tokens;
}

static uint32_t visit_token(const walk *at, const shadow_sequence *sequence, uint32_t head,
                            int32_t slot, int write)
{
    uint64_t stamp = sequence->token[at->layer][head][slot];
    int32_t position = sequence->position[at->layer][head][slot];
    uint32_t differences = visit_codes(at, &at->kv.k, 0, head, slot, stamp, write);
    if (at->kv.v.data != NULL)
        differences += visit_codes(at, &at->kv.v, 1, head, slot, stamp, write);
    if (at->kv.position != NULL && write)
        *position_at(at, head, slot) = position;
    else if (at->kv.position != NULL)
        differences += *position_at(at, head, slot) != position;
    return differences;
}

static uint32_t visit_piece(uint8_t *data, uint64_t bytes, uint64_t stamp, uint32_t aux,
                            uint32_t head, int write)
{
    uint8_t expected[LARGEST_PIECE] = {0};
    if (stamp != 0)
        expand(stamp, aux, head, 2, expected, bytes);
    if (write)
        memcpy(data, expected, bytes);
    return memcmp(data, expected, bytes) != 0;
}

static wn_aux_view aux_view(const shadow *of, uint32_t aux)
{
    uint32_t index = 0;
    while (index < aux && of->shape->aux[aux - index - 1].layer == of->shape->aux[aux].layer)
        index++;
    wn_aux_view view;
    wn_kvcache_aux_view(of->cache, of->shape->aux[aux].layer, index, &view);
    return view;
}

/* Pages [first, end of the sequence) of one page-scope pool. */
static uint32_t visit_aux_pages(const shadow *of, shadow_sequence *sequence, uint32_t aux,
                                uint32_t first, int write)
{
    const wn_kvcache_aux *declared = &of->shape->aux[aux];
    walk at = walk_layer(of, sequence->id, declared->layer);
    wn_aux_view view = aux_view(of, aux);
    uint32_t heads = declared->pool.flags & WN_AUX_SHARED_HEADS ? 1 : of->shape->num_kv_heads;
    uint32_t tokens = of->shape->tokens_per_page, differences = 0;
    int32_t length = sequence->length[of->shape->layer_group[declared->layer]];
    for (uint32_t page = first; page * tokens < (uint32_t)length; page++)
        for (uint32_t head = 0; head < heads; head++) {
            uint8_t *data = view.data + at.table[page] * view.page_stride + head * view.head_stride;
            differences += visit_piece(data, declared->pool.bytes,
                                       sequence->aux_page[aux][page][head], aux, head, write);
        }
    return differences;
}

static uint32_t visit_aux_sequence(const shadow *of, shadow_sequence *sequence, uint32_t aux,
                                   int write)
{
    wn_aux_view view = aux_view(of, aux);
    uint8_t *data =
        view.data + wn_kvcache_sequence_slot(of->cache, sequence->id) * view.page_stride;
    return visit_piece(data, of->shape->aux[aux].pool.bytes, sequence->aux_sequence[aux], aux, 0,
                       write);
}

/* ---------------------------------------------------------------- writing */

/* New stamps for what a plugin may rewrite after slots [first, length) changed. */
static void write_aux(shadow *of, shadow_sequence *sequence, uint32_t aux, int32_t first)
{
    const wn_aux_pool *pool = &of->shape->aux[aux].pool;
    if (pool->scope == WN_AUX_SEQUENCE) {
        sequence->aux_sequence[aux] = ++of->last_stamp;
        visit_aux_sequence(of, sequence, aux, 1);
        return;
    }
    int32_t lookback = (int32_t)pool->lookback_tokens;
    uint32_t page =
        (uint32_t)(first > lookback ? first - lookback : 0) / of->shape->tokens_per_page;
    for (uint32_t i = page; i < SHADOW_PAGES; i++)
        for (uint32_t head = 0; head < of->shape->num_kv_heads; head++)
            sequence->aux_page[aux][i][head] = ++of->last_stamp;
    visit_aux_pages(of, sequence, aux, page, 1);
}

static void write_layer(shadow *of, shadow_sequence *sequence, uint32_t layer, int32_t first,
                        int32_t first_position)
{
    walk at = walk_layer(of, sequence->id, layer);
    int32_t length = sequence->length[of->shape->layer_group[layer]];
    for (uint32_t head = 0; head < of->shape->num_kv_heads; head++)
        for (int32_t slot = first; slot < length; slot++) {
            sequence->token[layer][head][slot] = ++of->last_stamp;
            sequence->position[layer][head][slot] = first_position + slot - first;
            visit_token(&at, sequence, head, slot, 1);
        }
}

void shadow_write(shadow *of, shadow_sequence *sequence, int32_t num_tokens, int32_t first_position)
{
    if (num_tokens == 0)
        return;
    int32_t first[CACHE_GROUPS];
    for (uint32_t group = 0; group < CACHE_GROUPS; group++) {
        first[group] = sequence->length[group];
        sequence->length[group] += num_tokens;
    }
    for (int32_t i = 0; i < num_tokens; i++)
        sequence->position_of[sequence->logical + i] = first_position + i;
    sequence->jumps += first_position != sequence->next_position;
    sequence->logical += num_tokens;
    sequence->next_position = first_position + num_tokens;
    for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++)
        write_layer(of, sequence, layer, first[of->shape->layer_group[layer]], first_position);
    for (uint32_t aux = 0; aux < CACHE_AUX; aux++)
        write_aux(of, sequence, aux, first[of->shape->layer_group[of->shape->aux[aux].layer]]);
}

void shadow_unwrite(shadow_sequence *sequence, const shadow_sequence *before)
{
    sequence->logical = before->logical;
    sequence->next_position = before->next_position;
    memcpy(sequence->position_of, before->position_of, sizeof before->position_of);
    memcpy(sequence->length, before->length, sizeof before->length);
}

/* Which slots stay, ascending: each with the chance that leaves `keep` of `length`. */
static void choose(int32_t *list, int32_t keep, int32_t length, uint64_t *random)
{
    for (int32_t slot = 0, taken = 0; taken < keep; slot++)
        if (wn_random_below(random, (uint32_t)(length - slot)) < (uint32_t)(keep - taken))
            list[taken++] = slot;
}

static wn_status compact_layer(shadow *of, shadow_sequence *sequence, uint32_t layer, int32_t keep,
                               uint64_t *random)
{
    walk at = walk_layer(of, sequence->id, layer);
    int32_t indices[CACHE_HEADS][SHADOW_TOKENS], offsets[2] = {0, keep};
    for (uint32_t head = 0; head < of->shape->num_kv_heads; head++) {
        int32_t *list = indices[head];
        choose(list, keep, at.length, random);
        for (int32_t i = 0; i < keep; i++) {
            sequence->token[layer][head][i] = sequence->token[layer][head][list[i]];
            sequence->position[layer][head][i] = sequence->position[layer][head][list[i]];
        }
    }
    wn_compact_args args = {.struct_size = WN_SIZEOF(wn_compact_args),
                            .kv = at.kv,
                            .indices = indices[0],
                            .offsets = offsets,
                            .head_stride = SHADOW_TOKENS};
    args.kv.page_table = at.table;
    args.kv.page_table_stride = SHADOW_PAGES;
    args.kv.length = &at.length;
    args.kv.batch = 1;
    return of->ops->compact(&args);
}

wn_status shadow_compact(shadow *of, shadow_sequence *sequence, int32_t keep, uint64_t *random)
{
    for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++) {
        wn_status status = WN_OK;
        if (of->shape->layer_group[layer] == 0)
            status = compact_layer(of, sequence, layer, keep, random);
        if (status != WN_OK)
            return status;
    }
    sequence->length[0] = keep;
    sequence->floor = sequence->logical;
    for (uint32_t aux = 0; aux < CACHE_AUX; aux++)
        if (of->shape->layer_group[of->shape->aux[aux].layer] == 0)
            write_aux(of, sequence, aux, 0);
    return WN_OK;
}

/* ---------------------------------------------------------------- comparing */

static uint32_t compare_lengths(const shadow *of, const shadow_sequence *sequence, uint32_t group)
{
    int32_t logical = -1, physical = -1, next = -1;
    wn_status status = wn_kvcache_sequence_length(of->cache, sequence->id, group, &logical,
                                                  &physical, &next, NULL);
    if (status == WN_OK && logical == sequence->logical && physical == sequence->length[group] &&
        next == sequence->next_position)
        return 0;
    printf("    sequence %lld group %u: logical %d physical %d next %d; expected %d %d %d\n",
           (long long)sequence->id, group, logical, physical, next, sequence->logical,
           sequence->length[group], sequence->next_position);
    return 1;
}

static uint32_t compare_layer(const shadow *of, const shadow_sequence *sequence, uint32_t layer)
{
    walk at = walk_layer(of, sequence->id, layer);
    uint32_t differences = 0;
    int32_t length = sequence->length[of->shape->layer_group[layer]];
    for (uint32_t head = 0; head < of->shape->num_kv_heads; head++)
        for (int32_t slot = 0; slot < length; slot++)
            differences += visit_token(&at, sequence, head, slot, 0);
    if (differences > 0)
        printf("    sequence %lld layer %u: %u elements differ\n", (long long)sequence->id, layer,
               differences);
    return differences;
}

static uint32_t compare_aux(const shadow *of, const shadow_sequence *sequence, uint32_t aux)
{
    shadow_sequence *unchanged = (shadow_sequence *)sequence; /* write is 0 */
    uint32_t differences = of->shape->aux[aux].pool.scope == WN_AUX_SEQUENCE
                               ? visit_aux_sequence(of, unchanged, aux, 0)
                               : visit_aux_pages(of, unchanged, aux, 0, 0);
    if (differences > 0)
        printf("    sequence %lld auxiliary pool %u: %u pieces differ\n", (long long)sequence->id,
               aux, differences);
    return differences;
}

uint32_t shadow_differences(const shadow *of)
{
    uint32_t differences = 0;
    for (uint32_t i = 0; i < of->count; i++) {
        const shadow_sequence *sequence = &of->sequence[i];
        uint32_t lengths = 0;
        for (uint32_t group = 0; group < CACHE_GROUPS; group++)
            lengths += compare_lengths(of, sequence, group);
        differences += lengths;
        if (lengths > 0)
            continue; /* nothing to compare slot by slot */
        for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++)
            differences += compare_layer(of, sequence, layer);
        for (uint32_t aux = 0; aux < CACHE_AUX; aux++)
            differences += compare_aux(of, sequence, aux);
    }
    return differences;
}

/* ---------------------------------------------------------------- counting */

/* How many page tables name each page. Returns the number of pages named. */
static uint32_t count_references(const shadow *of, uint32_t group, uint32_t *references)
{
    uint32_t used = 0;
    memset(references, 0, of->shape->num_pages * sizeof *references);
    for (uint32_t i = 0; i < of->count; i++) {
        int32_t table[SHADOW_PAGES], length;
        wn_kvcache_tables(of->cache, group, &of->sequence[i].id, 1, table, SHADOW_PAGES, &length);
        for (uint32_t page = 0; page < SHADOW_PAGES && table[page] >= 0; page++)
            used += references[table[page]]++ == 0;
    }
    return used;
}

uint32_t shadow_miscounts(const shadow *of)
{
    uint32_t references[256], wrong = 0;
    for (uint32_t group = 0; group < CACHE_GROUPS; group++) {
        wn_kvcache_stats stats;
        uint32_t used = count_references(of, group, references), shared = 0, claims = 0, held = 0;
        wn_kvcache_group_stats(of->cache, group, &stats);
        for (uint32_t page = 0; page < of->shape->num_pages; page++) {
            shared += references[page] > 1;
            held += of->cache->group[group].allocator.references[page] != references[page];
            claims += of->cache->claims[page] != 0;
        }
        if (held == 0 && claims == 0 && stats.pages_used == used && stats.pages_shared == shared &&
            stats.pages_used + stats.pages_free == of->shape->num_pages &&
            stats.sequences == of->count)
            continue;
        printf("    group %u: used %u (expected %u) free %u shared %u (%u) sequences %u (%u), %u "
               "references wrong, %u claims left\n",
               group, stats.pages_used, used, stats.pages_free, stats.pages_shared, shared,
               stats.sequences, of->count, held, claims);
        wrong++;
    }
    return wrong;
}

int64_t shadow_pages_missing(const shadow *of, const wn_kvcache_item *items, uint32_t num_items,
                             uint32_t group)
{
    uint32_t references[256], writers[256] = {0}, lookback = group == 0 ? 5 : 0;
    uint32_t tokens = of->shape->tokens_per_page;
    int64_t missing = (int64_t)count_references(of, group, references) - of->shape->num_pages;
    for (uint32_t i = 0; i < num_items; i++) {
        int32_t table[SHADOW_PAGES], length;
        wn_kvcache_tables(of->cache, group, &items[i].sequence, 1, table, SHADOW_PAGES, &length);
        for (int32_t page = 0, held = 1; page < SHADOW_PAGES; page++) {
            int32_t begin = page * (int32_t)tokens, end = begin + (int32_t)tokens;
            int new_tokens = items[i].num_tokens > 0 && end + (int32_t)lookback > length;
            held = held && table[page] >= 0; /* behind the first -1 a row holds anything */
            if (!held)
                missing += begin < length + items[i].num_tokens;
            else if ((items[i].will_compact >> group & 1) || new_tokens)
                writers[table[page]]++;
        }
    }
    for (uint32_t page = 0; page < of->shape->num_pages; page++)
        missing += writers[page] < references[page] || writers[page] == 0 ? writers[page]
                                                                          : writers[page] - 1;
    return missing;
}
