/* Decoded pictures -> finished pixels in the slot: crop, resize, turn, normalise, cast, lay out.
 *
 * Enters: an image's descriptor, its weights, the batch. Leaves: one tile of the output, written
 * once. The resize is the CPU's: two passes in 32-bit integers with a rounding to u8 between them,
 * rows first where their number does not grow, so that bytes are equal. Never: a pixel outside
 * [from, to) of an axis, which is all the picture there is.
 *
 * A block makes TILE_COLUMNS x TILE_ROWS of the output, with the first pass's result in shared
 * memory. Why so, in numbers of a 335 x 251 crop to 224 x 224 in f16 (counted, not measured): 0.25
 * MB are read and 0.3 MB written, once each save what the filter reaches over tiles' edges, a fifth
 * more, from L2. The first pass takes 0.5 million multiplications and reads a row's neighbouring
 * words with neighbouring threads, four values a load; the second takes 0.45 million. Neighbouring
 * threads write neighbouring elements in both layouts and all orientations, because elements are
 * dealt out along the output; a row in shared memory is an odd number of words, so that turned
 * tiles, whose threads read down a column, meet no bank twice. 16 KiB of shared memory would leave
 * room for 8 blocks on a multiprocessor with 164 KiB, 40 registers a thread for 6: three quarters
 * of its threads. Loops over taps are short and not unrolled, which would cost registers.
 *
 * Where a tile's source is too wide for that (scales beyond about 9), each value is made from its
 * source pixels directly: the same numbers, for twice (bicubic: four times) the multiplications.
 */
#ifndef LOADERD_FINISH_H
#define LOADERD_FINISH_H

#include "types.h"
#include "weights.h"

#define FINISH_THREADS 256
#define TILE_COLUMNS 32
#define TILE_ROWS 16
#define TILE_ELEMENTS (3 * TILE_COLUMNS * TILE_ROWS)
#define SHARED_WORDS 4096

/* How a tile's values come about. */
enum {
    /* All of it is border. */
    BLANK = 0,
    /* Down the columns into shared memory, then along the rows. */
    DOWN_FIRST = 1,
    /* Along the rows into shared memory, then down the columns. */
    ACROSS_FIRST = 2,
    /* As DOWN_FIRST, without shared memory. */
    NESTED = 3,
};

/* A run of an axis's pixels, and the view's pixels that they come from. */
typedef struct {
    u32 from;
    u32 to;
    u32 source_from;
    u32 source_to;
} Part;

typedef struct {
    /* The output's first column and row of it. */
    u32 left;
    u32 top;
    u32 way;
    Part x;
    Part y;
    /* A row in shared memory, in words. */
    u32 words;
    /* DOWN_FIRST: which byte of the picture's row its first one is; a multiple of 4. */
    u32 base;
    Table across;
    Table down;
} Tile;

/* What the output's columns or rows [from, to) show of an axis. */
BOTH Part part_of(const Axis *axis, const Table *table, u32 from, u32 to)
{
    i32 low = axis->begin + axis->step * (i32)from;
    i32 high = axis->begin + axis->step * (i32)(to - 1);
    Part part = {0, 0, 0, 0};
    if (axis->step < 0) {
        i32 other = low;
        low = high;
        high = other;
    }
    if (low < 0)
        low = 0;
    if (high >= (i32)axis->count)
        high = (i32)axis->count - 1;
    if (low > high)
        return part;
    part.from = (u32)low;
    part.to = (u32)high + 1;
    part.source_from = greatest(table->runs[low].start, axis->from);
    part.source_to = least(table->runs[high].start + table->runs[high].size, axis->to);
    if (part.source_to < part.source_from)
        part.source_to = part.source_from;
    return part;
}

BOTH Tile tile_of(const Image *image, const Batch *batch, const u8 *tables, u32 index)
{
    u32 tiles_across = (batch->width + TILE_COLUMNS - 1) / TILE_COLUMNS;
    u32 right, bottom;
    Tile tile;
    tile.left = index % tiles_across * TILE_COLUMNS;
    tile.top = index / tiles_across * TILE_ROWS;
    tile.way = BLANK;
    tile.words = 0;
    tile.base = 0;
    tile.across = table_of(&image->x, tables);
    tile.down = table_of(&image->y, tables);
    right = least(tile.left + TILE_COLUMNS, batch->width);
    bottom = least(tile.top + TILE_ROWS, batch->height);
    if (image->swapped) {
        tile.x = part_of(&image->x, &tile.across, tile.top, bottom);
        tile.y = part_of(&image->y, &tile.down, tile.left, right);
    } else {
        tile.x = part_of(&image->x, &tile.across, tile.left, right);
        tile.y = part_of(&image->y, &tile.down, tile.top, bottom);
    }
    if (tile.x.from == tile.x.to || tile.y.from == tile.y.to)
        return tile;
    if (image->y.count > image->y.view) {
        /* Rows become more: at most 37 are needed for 32, of at most 32 pixels each. */
        tile.words = (3 * (tile.x.to - tile.x.from) + 3) / 4 | 1;
        tile.way = ACROSS_FIRST;
    } else {
        u32 start = 3 * (u32)(image->x.first + (i32)tile.x.source_from);
        u32 end = 3 * (u32)(image->x.first + (i32)tile.x.source_to);
        tile.base = start / 4 * 4;
        tile.words = (end - tile.base + 3) / 4 | 1;
        tile.way = (u64)tile.words * (tile.y.to - tile.y.from) <= SHARED_WORDS ? DOWN_FIRST : NESTED;
    }
    return tile;
}

/* A sum in fixed point, back to a byte. */
BOTH u32 byte_of(i32 sum, u32 precision)
{
    i32 value = sum >> precision;
    return value < 0 ? 0 : value > 255 ? 255 : (u32)value;
}

BOTH const u8 *row_at(const Image *image, u32 pixel)
{
    u64 row = (u64)(image->y.first + (i32)pixel);
    return (const u8 *)(image->picture.pixels + row * image->picture.pitch);
}

/* Taps of one pixel, and the first one's weight; the next ones are `stride` apart. */
typedef struct {
    u32 start;
    u32 end;
    u32 stride;
    const i16 *weight;
} Taps;

/* The taps of the axis's pixel `index` that lie in [from, to) of the view. */
BOTH Taps taps_in(const Axis *axis, const Table *table, u32 index, u32 from, u32 to)
{
    Run run = table->runs[index];
    Taps taps;
    taps.start = greatest(run.start, from);
    taps.end = greatest(least(run.start + run.size, to), taps.start);
    taps.stride = axis->count;
    taps.weight = table->weights + (u64)(taps.start - run.start) * axis->count + index;
    return taps;
}

/* What sums in fixed point start from: a half. */
BOTH i32 half_of(const Table *table) { return 1 << (table->precision - 1); }

/* One value of the pass down: byte `at` of the picture's rows, for the axis's pixel `index`. */
BOTH u32 down_byte(const Image *image, const Table *table, u32 index, u32 at)
{
    Taps taps = taps_in(&image->y, table, index, image->y.from, image->y.to);
    const u8 *source = row_at(image, taps.start) + at;
    i32 sum = half_of(table);
    ROLLED
    for (u32 pixel = taps.start; pixel < taps.end; pixel++) {
        sum += *taps.weight * (i32)load_byte(source);
        taps.weight += taps.stride;
        source += image->picture.pitch;
    }
    return byte_of(sum, table->precision);
}

/* Fills shared memory with the pass down the columns, a word of four values at a time. */
BOTH void first_pass_down(const Image *image, const Tile *tile, u32 *shared, u32 thread)
{
    const Table *table = &tile->down;
    u32 end = 3 * (u32)(image->x.first + (i32)tile->x.source_to);
    u32 words = (end - tile->base + 3) / 4;
    u32 total = words * (tile->y.to - tile->y.from);
    ROLLED
    for (u32 at = thread; at < total; at += FINISH_THREADS) {
        u32 row = at / words, word = at % words;
        Taps taps = taps_in(&image->y, table, tile->y.from + row, image->y.from, image->y.to);
        const u8 *source = row_at(image, taps.start) + tile->base + 4 * word;
        i32 half = half_of(table);
        i32 sums[4] = {half, half, half, half};
        ROLLED
        for (u32 pixel = taps.start; pixel < taps.end; pixel++) {
            i32 weight = *taps.weight;
            u32 four = load_word(source);
            sums[0] += weight * (i32)(four & 255);
            sums[1] += weight * (i32)(four >> 8 & 255);
            sums[2] += weight * (i32)(four >> 16 & 255);
            sums[3] += weight * (i32)(four >> 24);
            taps.weight += taps.stride;
            source += image->picture.pitch;
        }
        shared[row * tile->words + word] = byte_of(sums[0], table->precision)
            | byte_of(sums[1], table->precision) << 8 | byte_of(sums[2], table->precision) << 16
            | byte_of(sums[3], table->precision) << 24;
    }
}

/* Fills shared memory with the pass along the rows, value by value. */
BOTH void first_pass_across(const Image *image, const Tile *tile, u32 *shared, u32 thread)
{
    const Table *table = &tile->across;
    u32 values = 3 * (tile->x.to - tile->x.from);
    u32 total = values * (tile->y.source_to - tile->y.source_from);
    ROLLED
    for (u32 at = thread; at < total; at += FINISH_THREADS) {
        u32 row = at / values, value = at % values, index = tile->x.from + value / 3;
        Taps taps = taps_in(&image->x, table, index, image->x.from, image->x.to);
        const u8 *source = row_at(image, tile->y.source_from + row) + value % 3
            + 3 * (u64)(image->x.first + (i32)taps.start);
        i32 sum = half_of(table);
        ROLLED
        for (u32 pixel = taps.start; pixel < taps.end; pixel++) {
            sum += *taps.weight * (i32)load_byte(source);
            taps.weight += taps.stride;
            source += 3;
        }
        ((u8 *)shared)[4 * row * tile->words + value] = (u8)byte_of(sum, table->precision);
    }
}

BOTH void first_pass(const Image *image, const Tile *tile, u32 *shared, u32 thread)
{
    if (tile->way == DOWN_FIRST)
        first_pass_down(image, tile, shared, thread);
    else if (tile->way == ACROSS_FIRST)
        first_pass_across(image, tile, shared, thread);
}

/* A channel of the resized picture's pixel (x, y), which the tile shows. */
BOTH u32 second_pass(const Image *image, const Tile *tile, const u8 *shared, u32 x, u32 y, u32 channel)
{
    const Table *table = tile->way == ACROSS_FIRST ? &tile->down : &tile->across;
    i32 sum = half_of(table);
    u32 at, apart;
    Taps taps;
    if (tile->way == ACROSS_FIRST) {
        taps = taps_in(&image->y, table, y, tile->y.source_from, tile->y.source_to);
        apart = 4 * tile->words;
        at = apart * (taps.start - tile->y.source_from) + 3 * (x - tile->x.from) + channel;
    } else {
        taps = taps_in(&image->x, table, x, tile->x.source_from, tile->x.source_to);
        apart = 3;
        at = 3 * (u32)(image->x.first + (i32)taps.start) + channel;
        if (tile->way == DOWN_FIRST)
            at += 4 * tile->words * (y - tile->y.from) - tile->base;
    }
    ROLLED
    for (u32 pixel = taps.start; pixel < taps.end; pixel++) {
        u32 value = tile->way == NESTED ? down_byte(image, &tile->down, y, at) : shared[at];
        sum += *taps.weight * (i32)value;
        taps.weight += taps.stride;
        at += apart;
    }
    return byte_of(sum, table->precision);
}

BOTH void store(const Image *image, const Batch *batch, u64 at, u32 channel, u32 byte)
{
    f32 value = level(batch->gain[channel], byte, batch->bias[channel]);
    if (batch->dtype == UINT8)
        ((u8 *)image->out)[at] = (u8)byte;
    else if (batch->dtype == FLOAT32)
        ((f32 *)image->out)[at] = value;
    else if (batch->dtype == FLOAT16)
        ((u16 *)image->out)[at] = float16_bits(value);
    else
        ((u16 *)image->out)[at] = bfloat16_bits(value);
}

/* Writes this thread's elements of the tile, once shared memory is filled. */
BOTH void finish(const Image *image, const Batch *batch, const Tile *tile, const u32 *shared, u32 thread)
{
    ROLLED
    for (u32 element = thread; element < TILE_ELEMENTS; element += FINISH_THREADS) {
        u32 channel, column, row, byte = 0;
        i32 x, y;
        u64 at;
        if (batch->layout == NHWC) {
            channel = element % 3;
            column = element / 3 % TILE_COLUMNS;
            row = element / (3 * TILE_COLUMNS);
        } else {
            channel = element / (TILE_COLUMNS * TILE_ROWS);
            column = element % TILE_COLUMNS;
            row = element / TILE_COLUMNS % TILE_ROWS;
        }
        column += tile->left;
        row += tile->top;
        if (column >= batch->width || row >= batch->height)
            continue;
        x = image->x.begin + image->x.step * (i32)(image->swapped ? row : column);
        y = image->y.begin + image->y.step * (i32)(image->swapped ? column : row);
        if (tile->way != BLANK && x >= 0 && x < (i32)image->x.count && y >= 0 && y < (i32)image->y.count)
            byte = second_pass(image, tile, (const u8 *)shared, (u32)x, (u32)y, channel);
        at = batch->layout == NHWC
            ? ((u64)row * batch->width + column) * 3 + channel
            : ((u64)channel * batch->height + row) * batch->width + column;
        store(image, batch, at, channel, byte);
    }
}

#endif
