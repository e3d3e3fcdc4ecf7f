/* check_rocket.h: what the suites of the rocket plugin share: its keys, hosts around it, and a run
 * whose every choice is held to the reference, index by index. Comparisons are CUnit's. */
#ifndef WN_TESTS_CHECK_ROCKET_H
#define WN_TESTS_CHECK_ROCKET_H

#include "check_host.h"

/* Of requests, KV heads, and a request's tokens. */
enum { ROCKET_MAX_BATCH = 8, ROCKET_MAX_HEADS = 4, ROCKET_MAX_LENGTH = 1100 };

/* Keys as a user sets them; NULL and 0 of the last ones: not set. */
typedef struct rocket_keys {
    int32_t window, kernel, budget, page, topr, topk, local;
    const char *dtype, *softmax, *unit, *temperature;
    int32_t multi_turn, max_new;
} rocket_keys;

extern const rocket_keys rocket_usual;
/* Prompt lengths of six requests around the usual budget; one has none. */
extern const int32_t rocket_ragged[6];

/* The built plugin, opened by the first call, closed when the program ends or before. */
const check_plugin *rocket_plugin(void);
void rocket_close_plugin(void);

check_shape rocket_shape(uint32_t group, uint32_t kv_heads, uint32_t dim, uint32_t batch,
                         uint32_t tokens_per_page);
/* shape->max_length random tokens of each request, in [-1, 1) times `size`. Freed by
 * check_free_tokens. */
void rocket_make_tokens(const check_shape *shape, double size, uint64_t seed, check_tokens *tokens);
/* Freed by check_host_destroy. */
check_host *rocket_make_host(const check_shape *shape, const rocket_keys *key,
                             const check_tokens *tokens, uint64_t seed);

/* Queries of `count` tokens from `token`, of KV head h's group: [count, group, dim]. The caller
 * frees them. */
double *rocket_load_queries(const check_host *host, uint32_t b, uint32_t h, int32_t token,
                            int32_t count);

/* Ends all prompts, and holds what stays against the reference. */
void rocket_retain_and_compare(check_host *host, const rocket_keys *key);
/* Ends all prompts with multi_turn, and notes what their views must be: of one host at a time. */
wn_status rocket_end_prompts(check_host *host, const rocket_keys *key);
/* After a truncation of request b: of a view whose prompt was cut, what is left, and the newest
 * slots for what is not. */
void rocket_cut_view(const check_host *host, const rocket_keys *key, uint32_t b);
/* What the tokens of this step attend to, held against the reference row by row. */
void rocket_select_and_compare(check_host *host, const rocket_keys *key);
/* One prompt each, in one chunk, then `steps` generated tokens, all against the reference. */
void rocket_run(check_host *host, const rocket_keys *key, const int32_t *lengths, int32_t steps);

#endif
