/* Whether a decoder wrote a picture at all: a pattern before, a count of what is left after.
 *
 * Enters: pictures in scratch memory. Leaves: a pattern that no picture has by chance, or how
 * many of its words are still there. Never: a word beside the picture's pixels, save the bytes
 * that complete a row's last word (the pitch has room for them).
 */
#ifndef LOADERD_POISON_H
#define LOADERD_POISON_H

#include "types.h"

/* Threads of a block, and blocks a picture. */
#define POISON_THREADS 256
#define POISON_BLOCKS 16

BOTH u32 pattern(u32 seed, u32 row, u32 word)
{
    u32 mixed = seed ^ row * 0x9e3779b9u ^ word * 0x7feb352du;
    mixed = (mixed ^ mixed >> 16) * 0x85ebca6bu;
    mixed = (mixed ^ mixed >> 13) * 0xc2b2ae35u;
    return mixed ^ mixed >> 16;
}

BOTH u32 *word_at(const Picture *picture, u32 row, u32 word)
{
    return (u32 *)(picture->pixels + (u64)row * picture->pitch + 4 * (u64)word);
}

/* Words of a row that hold pixels. */
BOTH u32 words_touched(const Picture *picture) { return (3 * picture->width + 3) / 4; }

/* Words of a row that hold nothing else; of a single pixel three bytes are looked at. */
BOTH u32 words_filled(const Picture *picture) { return greatest(3 * picture->width / 4, 1); }

/* `worker` of `workers` writes its part. */
BOTH void poison_part(const Picture *picture, u32 worker, u32 workers)
{
    u32 words = words_touched(picture);
    u64 total = (u64)words * picture->height;
    ROLLED
    for (u64 index = worker; index < total; index += workers) {
        u32 row = (u32)(index / words), word = (u32)(index % words);
        *word_at(picture, row, word) = pattern(picture->seed, row, word);
    }
}

/* Words of the part that are as poisoned. */
BOTH u32 verify_part(const Picture *picture, u32 worker, u32 workers)
{
    u32 words = words_filled(picture);
    u32 mask = picture->width == 1 ? 0xffffff : 0xffffffff;
    u64 total = (u64)words * picture->height;
    u32 survivors = 0;
    ROLLED
    for (u64 index = worker; index < total; index += workers) {
        u32 row = (u32)(index / words), word = (u32)(index % words);
        u32 found = *word_at(picture, row, word) ^ pattern(picture->seed, row, word);
        survivors += (found & mask) == 0;
    }
    return survivors;
}

#endif
