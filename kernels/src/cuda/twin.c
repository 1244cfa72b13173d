/* The kernels on the CPU: the same functions, with blocks and threads as plain loops.
 *
 * Enters: the descriptors that a GPU would get, with addresses of host memory. Leaves: the bytes
 * that it would write. A barrier is the end of a loop over a block's threads. Never: an allocation,
 * or arithmetic of its own.
 */
#include "types.h"
#include "weights.h"
#include "finish.h"
#include "poison.h"

void loaderd_twin_weigh(const Image *images, u32 count, u8 *tables);
void loaderd_twin_finish(const Image *images, u32 count, const u8 *tables, const Batch *batch, u32 tiles);
void loaderd_twin_poison(const Picture *pictures, u32 count);
void loaderd_twin_verify(const Picture *pictures, u32 count, u32 *survivors);
u16 loaderd_twin_float16(f32 value);

void loaderd_twin_weigh(const Image *images, u32 count, u8 *tables)
{
    f64 largest[WEIGH_THREADS];
    for (u32 block = 0; block < 2 * count; block++) {
        const Image *image = &images[block / 2];
        const Axis *axis = block % 2 ? &image->y : &image->x;
        for (u32 thread = 0; thread < WEIGH_THREADS; thread++)
            largest[thread] = weigh_largest(axis, image->filter, thread);
        for (u32 thread = 0; thread < WEIGH_THREADS; thread++)
            weigh_write(axis, image->filter, largest, tables, thread);
    }
}

void loaderd_twin_finish(const Image *images, u32 count, const u8 *tables, const Batch *batch, u32 tiles)
{
    u32 shared[SHARED_WORDS];
    for (u32 index = 0; index < count; index++) {
        for (u32 block = 0; block < tiles; block++) {
            Tile tile = tile_of(&images[index], batch, tables, block);
            /* What an earlier block left there must not help. */
            memset(shared, 0xa5, sizeof shared);
            for (u32 thread = 0; thread < FINISH_THREADS; thread++)
                first_pass(&images[index], &tile, shared, thread);
            for (u32 thread = 0; thread < FINISH_THREADS; thread++)
                finish(&images[index], batch, &tile, shared, thread);
        }
    }
}

void loaderd_twin_poison(const Picture *pictures, u32 count)
{
    u32 workers = POISON_BLOCKS * POISON_THREADS;
    for (u32 index = 0; index < count; index++)
        for (u32 worker = 0; worker < workers; worker++)
            poison_part(&pictures[index], worker, workers);
}

void loaderd_twin_verify(const Picture *pictures, u32 count, u32 *survivors)
{
    u32 workers = POISON_BLOCKS * POISON_THREADS;
    for (u32 index = 0; index < count; index++)
        for (u32 worker = 0; worker < workers; worker++)
            survivors[index] += verify_part(&pictures[index], worker, workers);
}

u16 loaderd_twin_float16(f32 value) { return float16_bits(value); }
