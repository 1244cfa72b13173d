/* What both compilers need: NVRTC for the GPU, the host's C compiler for the twin.
 *
 * Enters: nothing. Leaves: number types, the descriptors that src/descriptor.rs has as well
 * (field by field, sizes checked on both sides), loads and roundings. Never: a kernel.
 */
#ifndef LOADERD_TYPES_H
#define LOADERD_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#ifdef __CUDACC_RTC__
#define BOTH static __device__ __forceinline__
/* Before a loop that must not be unrolled: it would only take registers and code. */
#define ROLLED _Pragma("unroll 1")
#define SAME_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), "as in descriptor.rs")
#else
#include <math.h>
#include <string.h>
#define BOTH static inline
#define ROLLED
#define SAME_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "as in descriptor.rs")
#endif

/* A decoded picture in scratch memory: RGB, three bytes a pixel, rows `pitch` bytes apart.
 * Address and pitch are multiples of 4. */
typedef struct {
    u64 pixels;
    u32 pitch;
    u32 width;
    u32 height;
    u32 seed;
} Picture;

/* One axis of a resize, in the picture's own orientation. */
typedef struct {
    /* The box that is resized, in pixels of the view. */
    f64 start;
    f64 len;
    /* Where the axis's weights lie in the batch's tables, in bytes. */
    u64 table;
    /* The picture's pixel under the view's pixel 0. */
    i32 first;
    /* Pixels of the view, beyond which the filter does not look. */
    u32 view;
    /* The view's pixels that the picture has; the others are black. */
    u32 from;
    u32 to;
    /* Pixels that the box becomes. */
    u32 count;
    /* Room for weights a pixel. */
    u32 window;
    /* Of these, the output's column or row i shows pixel begin + step * i, where there is one;
     * the rest is border. Step is 1 or -1. */
    i32 begin;
    i32 step;
} Axis;

/* One image of a batch. */
typedef struct {
    Picture picture;
    /* Where the finished image goes. */
    u64 out;
    Axis x;
    Axis y;
    u32 filter;
    /* Whether the output's columns run along the picture's y, its rows along x. */
    u32 swapped;
} Image;

/* What all images of a batch share. */
typedef struct {
    u32 width;
    u32 height;
    u32 dtype;
    u32 layout;
    f32 gain[3];
    f32 bias[3];
} Batch;

SAME_SIZE(Picture, 24);
SAME_SIZE(Axis, 56);
SAME_SIZE(Image, 152);
SAME_SIZE(Batch, 40);

enum { BILINEAR = 0, BICUBIC = 1 };
enum { UINT8 = 0, BFLOAT16 = 1, FLOAT16 = 2, FLOAT32 = 3 };
enum { NCHW = 0, NHWC = 1 };

BOTH u32 least(u32 a, u32 b) { return a < b ? a : b; }

BOTH u32 greatest(u32 a, u32 b) { return a > b ? a : b; }

/* Four bytes at a multiple of 4, the first one lowest: what nobody writes while this kernel runs. */
BOTH u32 load_word(const u8 *at)
{
#ifdef __CUDACC_RTC__
    return __ldg((const u32 *)at);
#else
    u32 word;
    memcpy(&word, at, 4);
    return word;
#endif
}

BOTH u32 load_byte(const u8 *at)
{
#ifdef __CUDACC_RTC__
    return __ldg(at);
#else
    return *at;
#endif
}

BOTH u32 float_bits(f32 value)
{
#ifdef __CUDACC_RTC__
    return __float_as_uint(value);
#else
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
#endif
}

/* gain * byte + bias, each rounded, never fused: as on every CPU. */
BOTH f32 level(f32 gain, u32 byte, f32 bias)
{
#ifdef __CUDACC_RTC__
    return __fadd_rn(__fmul_rn(gain, (f32)byte), bias);
#else
    f32 product = gain * (f32)byte;
    return product + bias;
#endif
}

/* The nearest binary16, ties to even. */
BOTH u16 float16_bits(f32 value)
{
#ifdef __CUDACC_RTC__
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    u32 bits = float_bits(value);
    u32 sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return 0x7fff;
    /* From 65520 on, the nearest is infinity. */
    if (bits >= 0x477ff000)
        return (u16)(sign | 0x7c00);
    if (bits < 0x38800000) {
        /* Below 2^-14 the unit is 2^-24, which is the last place of 0.5. */
        f32 shifted = fabsf(value) + 0.5f;
        return (u16)(sign | (float_bits(shifted) - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (u16)(sign | (bits - 0x38000000) >> 13);
#endif
}

/* The nearest bfloat16, ties to even: the lower half is added to its own middle. */
BOTH u16 bfloat16_bits(f32 value)
{
    u32 bits = float_bits(value);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
