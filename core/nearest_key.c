/* nearest_key.c: edit distance (optimal string alignment) between a mistyped name and the names
 * there are. A candidate is offered if at most a third of the word would have to change, or if one
 * of the two contains the other. */
#include "core/nearest_key.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST = 63, LEAST_PART = 4, PART_OF = 1000 };

static char folded(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    return c == '-' || c == ' ' ? '_' : c;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t wn_key_distance(const char *left, const char *right)
{
    size_t m = strlen(left), n = strlen(right);
    uint32_t row[3][LONGEST + 1]; /* of the table: two above, above, this one; [i % 3] */
    if (m > LONGEST || n > LONGEST)
        return UINT32_MAX;
    for (uint32_t j = 0; j <= n; j++)
        row[0][j] = j;
    for (uint32_t i = 1; i <= m; i++) {
        uint32_t *here = row[i % 3], *above = row[(i + 2) % 3], *two_above = row[(i + 1) % 3];
        here[0] = i;
        for (uint32_t j = 1; j <= n; j++) {
            char a = folded(left[i - 1]), b = folded(right[j - 1]);
            here[j] = least(least(above[j], here[j - 1]) + 1, above[j - 1] + (a != b));
            if (i > 1 && j > 1 && a == folded(right[j - 2]) && b == folded(left[i - 2]))
                here[j] = least(here[j], two_above[j - 2] + 1);
        }
    }
    return row[m % 3][n];
}

static int contains(const char *word, const char *part)
{
    return strlen(part) >= LEAST_PART && strstr(word, part) != NULL;
}

wn_nearest wn_nearest_begin(const char *word)
{
    return (wn_nearest){word, NULL, UINT32_MAX};
}

void wn_nearest_try(wn_nearest *nearest, const char *candidate)
{
    uint32_t distance = wn_key_distance(nearest->word, candidate);
    if (distance > (strlen(nearest->word) + 1) / 3) {
        if (!contains(nearest->word, candidate) && !contains(candidate, nearest->word))
            return;
        distance = PART_OF;
    }
    if (distance < nearest->distance) {
        nearest->distance = distance;
        nearest->best = candidate;
    }
}

const char *wn_nearest_hint(const wn_nearest *nearest, char out[WN_HINT_BYTES])
{
    out[0] = '\0';
    if (nearest->best != NULL)
        snprintf(out, WN_HINT_BYTES, " (did you mean \"%.63s\"?)", nearest->best);
    return out;
}
