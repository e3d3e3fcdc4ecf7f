/* rotation.h: the rotary position embedding, once, for every op that rotates. The formula is that
 * of wn_append_args (winnow/ops.h); angles, sines and products in double. */
#ifndef WN_ROTATION_H
#define WN_ROTATION_H

#include "winnow/ops.h"

#include <math.h>

/* cos and sin of one position times each frequency: made once per token, used for all its heads. */
typedef struct wn_rotation {
    uint32_t kind;          /* WN_ROPE_... */
    uint32_t pairs, offset; /* rotated pairs of channels; the first rotated channel */
    double cosine[WN_MAX_HEAD_DIM / 2], sine[WN_MAX_HEAD_DIM / 2];
} wn_rotation;

/* args: of any op that has the fields rope, rope_dim, rope_offset, rope_theta, position and
 * rope_inverse_frequency, with rope_dim <= WN_MAX_HEAD_DIM. */
#define WN_ROTATION_OF(args, token, rotation)                                                      \
    wn_rotation_make(rotation, (args)->rope, (args)->rope_dim, (args)->rope_offset,                \
                     (args)->rope_theta, (args)->rope_inverse_frequency,                           \
                     (args)->rope == WN_ROPE_NONE ? 0 : (args)->position[token])

static inline void wn_rotation_make(wn_rotation *r, uint32_t kind, uint32_t dim, uint32_t offset,
                                    float theta, const float *inverse_frequency, int32_t position)
{
    r->kind = kind;
    r->pairs = kind == WN_ROPE_NONE ? 0 : dim / 2;
    r->offset = offset;
    for (uint32_t i = 0; i < r->pairs; i++) {
        double frequency =
            inverse_frequency != NULL ? inverse_frequency[i] : pow(theta, -2.0 * i / dim);
        r->cosine[i] = cos(position * frequency);
        r->sine[i] = sin(position * frequency);
    }
}

/* Rotates x, one head's vector, in place. */
static inline void wn_rotation_apply(const wn_rotation *r, double *x)
{
    x += r->offset;
    for (uint32_t i = 0; i < r->pairs; i++) {
        double *a = r->kind == WN_ROPE_HALF_SPLIT ? &x[i] : &x[2 * i];
        double *b = r->kind == WN_ROPE_HALF_SPLIT ? &x[i + r->pairs] : &x[2 * i + 1];
        double turned = *a * r->cosine[i] - *b * r->sine[i];
        *b = *b * r->cosine[i] + *a * r->sine[i];
        *a = turned;
    }
}

#endif
