/* validate_oracle.h: what attention must be, given what was kept: no method is exempt. */
#ifndef WN_VALIDATE_ORACLE_H
#define WN_VALIDATE_ORACLE_H

#include "tools/validate_stage.h"

/* Let p be the dense softmax of a row, eps its mass on what the row left out, and vbar the mean of
 * V under p there. Then o - o_dense = eps * (o - vbar) and exp(lse - lse_dense) = 1 - eps, exactly.
 * Solved for o: the mean of V under p over what was kept. Checked for every row and head of a play
 * that has run, in float64, from the tokens that it was fed.
 *
 * by_output 0: kept is what the choices let a row see. 1: of that, what the output shows to be in
 * it (only in WN_PLAY_PROBE): for methods that leave keys out inside the kernel, where no choice
 * tells. 0 and a text: it does not hold. left_out: counts rows that left something out. */
int wn_oracle_holds(const wn_model *model, const wn_play *play, uint32_t mode, int by_output,
                    uint64_t *left_out, char *text, size_t capacity);

#endif
