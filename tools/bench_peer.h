/* bench_peer.h: PyTorch as a peer: a python3 that stays alive, is told a row's shape and answers
 * with milliseconds, call by call, so that its samples alternate with ours. Winnow does not depend
 * on it: without it a column is empty. */
#ifndef WN_TOOLS_BENCH_PEER_H
#define WN_TOOLS_BENCH_PEER_H

#include "tools/bench_shape.h"

typedef struct wn_peer wn_peer;

/* The script, bench_torch.py, as text. */
extern const char wn_text_bench_torch[];

/* WINNOW_PYTHON names another interpreter. NULL: there is none with torch. */
wn_peer *wn_peer_open(void);
void wn_peer_close(wn_peer *peer);
/* "torch 2.13.0" */
const char *wn_peer_name(const wn_peer *peer);
/* 1: it can do this op and has made the data. */
int wn_peer_prepare(wn_peer *peer, const char *op, const wn_bench_shape *shape, uint32_t threads);
/* Seconds of one call; negative: it failed. */
double wn_peer_sample(wn_peer *peer);

#endif
