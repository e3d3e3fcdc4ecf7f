/* test_sequence_events.c: forks and truncations, as a host sees them. */
#include "check_engine.h"

#include <string.h>

enum { ROW = 2 * 48 };

/* A fork continues as its parent would; writing to one leaves the other alone. */
static void forks_go_their_own_way(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {0};
    wn_sequence parent, child, fresh;
    float a[ROW], b[ROW], wanted[ROW];
    check_open(
        &c, "",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 4});
    check_text text = check_write(&c.model, 20, &random),
               other = check_write(&c.model, 20, &random);
    memcpy(other.k, text.k, 10 * 16 * 4);
    memcpy(other.v, text.v, 10 * 16 * 4);
    wn_sequence_create(c.engine, &parent);
    check_step(&c, parent, &text, 0, 10, WN_ITEM_CONTEXT, NULL, NULL);
    CU_ASSERT_EQUAL(wn_sequence_fork(c.engine, parent, &child), WN_OK);
    for (uint32_t t = 10; t < 15; t++) {
        CU_ASSERT_EQUAL(check_step(&c, parent, &text, t, t + 1, 0, a, NULL), WN_OK);
        CU_ASSERT_EQUAL(check_step(&c, child, &other, t, t + 1, 0, b, NULL), WN_OK);
    }
    wn_sequence_create(c.engine, &fresh);
    check_step(&c, fresh, &text, 0, 14, WN_ITEM_CONTEXT, NULL, NULL);
    check_step(&c, fresh, &text, 14, 15, 0, wanted, NULL);
    CU_ASSERT(memcmp(a, wanted, sizeof a) == 0);
    CU_ASSERT_EQUAL(wn_sequence_free(c.engine, parent), WN_OK);
    wn_sequence_create(c.engine, &fresh);
    check_step(&c, fresh, &other, 0, 14, WN_ITEM_CONTEXT, NULL, NULL);
    check_step(&c, fresh, &other, 14, 15, 0, wanted, NULL);
    CU_ASSERT(memcmp(b, wanted, sizeof b) == 0);
    CU_ASSERT_EQUAL(wn_sequence_length(c.engine, parent, 0, NULL, NULL), WN_ENOTFOUND);
    check_erase(&text);
    check_erase(&other);
    check_close(&c);
}

static void truncation_forgets(void)
{
    uint64_t random = wn_test_seed();
    check_engine c = {0};
    wn_sequence s;
    float before[ROW], after[ROW];
    int32_t positions[20];
    check_open(
        &c, "",
        &(wn_engine_options){.struct_size = WN_SIZEOF(wn_engine_options), .tokens_per_page = 4});
    check_text text = check_write(&c.model, 20, &random);
    wn_sequence_create(c.engine, &s);
    check_step(&c, s, &text, 0, 9, WN_ITEM_CONTEXT, NULL, NULL);
    check_step(&c, s, &text, 9, 10, 0, before, NULL);
    check_step(&c, s, &text, 10, 14, 0, NULL, NULL); /* guesses that were wrong */
    CU_ASSERT_EQUAL(wn_sequence_truncate(c.engine, s, 15), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_sequence_truncate(c.engine, s, -1), WN_ERANGE);
    CU_ASSERT_EQUAL(wn_sequence_truncate(c.engine, s, 9), WN_OK);
    CU_ASSERT_EQUAL(check_step(&c, s, &text, 9, 10, 0, after, NULL), WN_OK);
    CU_ASSERT(memcmp(before, after, sizeof before) == 0);
    CU_ASSERT_EQUAL(wn_sequence_positions(c.engine, s, 0, 1, positions, 20), WN_OK);
    CU_ASSERT(positions[0] == 0 && positions[9] == 9);
    CU_ASSERT_EQUAL(wn_sequence_positions(c.engine, s, 0, 2, positions, 20), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_sequence_positions(c.engine, s, 0, 0, positions, 9), WN_EINVAL);
    CU_ASSERT_EQUAL(wn_sequence_length(c.engine, s, 5, NULL, NULL), WN_EINVAL);
    check_erase(&text);
    check_close(&c);
}

WN_SUITE("core.sequence_events", {"forks go their own way", forks_go_their_own_way},
         {"truncation forgets", truncation_forgets})
