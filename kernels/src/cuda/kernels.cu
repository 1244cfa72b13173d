// The kernels: grids, shared memory and barriers around the functions of the headers.
//
// Enters: descriptors in device memory, or in host memory that the device can read. Leaves:
// weight tables, finished images, poison, counts. Entry points, grids and blocks are named in
// src/launch.rs. Never: arithmetic that the twin does not have.

#include "types.h"
#include "weights.h"
#include "finish.h"
#include "poison.h"

// One block an axis and image.
extern "C" __global__ void __launch_bounds__(WEIGH_THREADS)
loaderd_weigh(const Image *images, u8 *tables)
{
    __shared__ f64 largest[WEIGH_THREADS];
    const Image *image = &images[blockIdx.y];
    const Axis *axis = blockIdx.x ? &image->y : &image->x;
    largest[threadIdx.x] = weigh_largest(axis, image->filter, threadIdx.x);
    __syncthreads();
    weigh_write(axis, image->filter, largest, tables, threadIdx.x);
}

// One block a tile and image.
extern "C" __global__ void __launch_bounds__(FINISH_THREADS)
loaderd_finish(const Image *images, const u8 *tables, const __grid_constant__ Batch batch)
{
    __shared__ u32 shared[SHARED_WORDS];
    // Worked out once a block, and kept out of registers.
    __shared__ Tile tile;
    const Image *image = &images[blockIdx.y];
    if (threadIdx.x == 0)
        tile = tile_of(image, &batch, tables, blockIdx.x);
    __syncthreads();
    first_pass(image, &tile, shared, threadIdx.x);
    __syncthreads();
    finish(image, &batch, &tile, shared, threadIdx.x);
}

// POISON_BLOCKS blocks a picture.
extern "C" __global__ void __launch_bounds__(POISON_THREADS)
loaderd_poison(const Picture *pictures)
{
    poison_part(&pictures[blockIdx.y], blockIdx.x * POISON_THREADS + threadIdx.x,
        gridDim.x * POISON_THREADS);
}

// POISON_BLOCKS blocks a picture; `survivors` has a count a picture, which must be 0 before.
extern "C" __global__ void __launch_bounds__(POISON_THREADS)
loaderd_verify(const Picture *pictures, u32 *survivors)
{
    u32 found = verify_part(&pictures[blockIdx.y], blockIdx.x * POISON_THREADS + threadIdx.x,
        gridDim.x * POISON_THREADS);
    found = __reduce_add_sync(0xffffffff, found);
    if (threadIdx.x % 32 == 0 && found)
        atomicAdd(&survivors[blockIdx.y], found);
}
