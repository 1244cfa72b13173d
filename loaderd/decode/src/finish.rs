//! Decoded RGB rows → the output's type and layout, written straight into the slot.
//!
//! Enters: RGB u8, rows of pixels. Leaves: `[C, H, W]` planes of u8, f16 or f32, mirrored
//! where asked for, with black borders where the picture doesn't reach. A float is one
//! rounded product plus one rounded addend, never fused, so that scalar and vector code
//! agree to the bit on every CPU. Never: memory of its own beyond a row's piece.

use crate::transforms::DType;

/// The output value of a byte: `gain * byte + bias` per channel, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Levels {
    pub(crate) dtype: DType,
    pub(crate) gain: [f32; 3],
    pub(crate) bias: [f32; 3],
}

/// Finished pixels' source and place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// RGB rows; row i of the picture starts at `i * stride_bytes`.
    pub(crate) pixels: &'a [u8],
    pub(crate) stride_bytes: usize,
    /// `[from, to)` of the output's columns that the picture fills, before mirroring.
    pub(crate) columns: (usize, usize),
    /// `[from, to)` of the output's rows that the picture fills.
    pub(crate) rows: (usize, usize),
    /// The output's columns.
    pub(crate) width: usize,
    /// The output's rows.
    pub(crate) height: usize,
    pub(crate) flipped: bool,
}

/// Pixels that are taken apart at a time: three planes of this size stay in L1.
const PIECE: usize = 256;

/// Writes all of `out`, whose length must be the output's bytes. Any alignment will do.
pub(crate) fn write(frame: &Frame<'_>, levels: &Levels, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the CPU has both features.
        unsafe { x86::write(frame, levels, out) };
        return;
    }
    write_with(frame, levels, out, float16_row);
}

/// `float16_row` is the one step that the compiler does not vectorise on its own.
#[inline(always)]
fn write_with(
    frame: &Frame<'_>,
    levels: &Levels,
    out: &mut [u8],
    float16_row: impl Fn(&[u8], f32, f32, &mut [u8]),
) {
    let Levels { dtype, gain, bias } = *levels;
    match dtype {
        DType::Uint8 => planes::<1>(frame, out, |_, bytes, to| to.copy_from_slice(bytes)),
        DType::Float16 => planes::<2>(frame, out, |channel, bytes, to| {
            float16_row(bytes, gain[channel], bias[channel], to);
        }),
        DType::Float32 => planes::<4>(frame, out, |channel, bytes, to| {
            float32_row(bytes, gain[channel], bias[channel], to);
        }),
    }
}

/// `convert` turns bytes of one channel into elements of `SIZE` bytes.
#[inline(always)]
fn planes<const SIZE: usize>(
    frame: &Frame<'_>,
    out: &mut [u8],
    convert: impl Fn(usize, &[u8], &mut [u8]),
) {
    let Frame { width, height, .. } = *frame;
    assert_eq!(out.len(), 3 * width * height * SIZE);
    let (from, to) = frame.columns;
    let plane_bytes = width * height * SIZE;
    if to - from < width || frame.rows.1 - frame.rows.0 < height {
        blacken::<SIZE>(out, plane_bytes, &convert);
    }
    let mut pieces = [[0u8; PIECE]; 3];
    for (index, row) in (frame.rows.0..frame.rows.1).enumerate() {
        let source = &frame.pixels[index * frame.stride_bytes..][..3 * (to - from)];
        for (piece, pixels) in source.chunks(3 * PIECE).enumerate() {
            let count = pixels.len() / 3;
            // Where this piece starts in the output's row.
            let column = if frame.flipped {
                take_apart_mirrored(pixels, &mut pieces);
                width - from - piece * PIECE - count
            } else {
                take_apart(pixels, &mut pieces);
                from + piece * PIECE
            };
            for (channel, bytes) in pieces.iter().enumerate() {
                let at = channel * plane_bytes + (row * width + column) * SIZE;
                convert(channel, &bytes[..count], &mut out[at..at + count * SIZE]);
            }
        }
    }
}

/// Fills every plane with what becomes of 0.
fn blacken<const SIZE: usize>(
    out: &mut [u8],
    plane_bytes: usize,
    convert: &impl Fn(usize, &[u8], &mut [u8]),
) {
    let black = [0u8; PIECE];
    for (channel, plane) in out.chunks_exact_mut(plane_bytes).enumerate() {
        for part in plane.chunks_mut(PIECE * SIZE) {
            convert(channel, &black[..part.len() / SIZE], part);
        }
    }
}

#[inline(always)]
fn take_apart(pixels: &[u8], pieces: &mut [[u8; PIECE]; 3]) {
    let [red, green, blue] = pieces;
    let targets = red.iter_mut().zip(green).zip(blue);
    for (((red, green), blue), pixel) in targets.zip(pixels.chunks_exact(3)) {
        *red = pixel[0];
        *green = pixel[1];
        *blue = pixel[2];
    }
}

#[inline(always)]
fn take_apart_mirrored(pixels: &[u8], pieces: &mut [[u8; PIECE]; 3]) {
    take_apart(pixels, pieces);
    for piece in pieces {
        piece[..pixels.len() / 3].reverse();
    }
}

#[inline(always)]
fn float32_row(bytes: &[u8], gain: f32, bias: f32, to: &mut [u8]) {
    for (to, &byte) in to.chunks_exact_mut(4).zip(bytes) {
        to.copy_from_slice(&(gain * f32::from(byte) + bias).to_ne_bytes());
    }
}

#[inline(always)]
fn float16_row(bytes: &[u8], gain: f32, bias: f32, to: &mut [u8]) {
    for (to, &byte) in to.chunks_exact_mut(2).zip(bytes) {
        let value = half::f16::from_f32(gain * f32::from(byte) + bias);
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _MM_FROUND_TO_NEAREST_INT, _mm_loadl_epi64, _mm_storeu_si128, _mm256_add_ps,
        _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtps_ph, _mm256_mul_ps, _mm256_set1_ps,
    };

    use super::{Frame, Levels};

    /// The same code, compiled for wider registers.
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn write(frame: &Frame<'_>, levels: &Levels, out: &mut [u8]) {
        super::write_with(frame, levels, out, |bytes, gain, bias, to| {
            float16_row(bytes, gain, bias, to);
        });
    }

    #[target_feature(enable = "avx2,f16c")]
    fn float16_row(bytes: &[u8], gain: f32, bias: f32, to: &mut [u8]) {
        let whole = bytes.len() / 8 * 8;
        let (gains, biases) = (_mm256_set1_ps(gain), _mm256_set1_ps(bias));
        for (bytes, to) in bytes.chunks_exact(8).zip(to.chunks_exact_mut(16)) {
            // SAFETY: reads the 8 bytes of the chunk, unaligned.
            let eight = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
            let values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
            let values = _mm256_add_ps(_mm256_mul_ps(gains, values), biases);
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
            // SAFETY: writes the 16 bytes of the chunk, unaligned.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), halves) };
        }
        super::float16_row(&bytes[whole..], gain, bias, &mut to[2 * whole..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: Levels = Levels {
        dtype: DType::Uint8,
        gain: [0.017_124_755, 0.017_507_002, 1.0 / 255.0],
        bias: [-2.117_904, -2.035_714_3, 0.0],
    };

    /// A 4 x 3 output with a 2 x 1 picture in it, one row of stride 9.
    fn frame(pixels: &[u8], flipped: bool) -> Frame<'_> {
        Frame {
            pixels,
            stride_bytes: 9,
            columns: (0, 2),
            rows: (1, 2),
            width: 4,
            height: 3,
            flipped,
        }
    }

    #[test]
    fn planes_borders_and_mirroring() {
        let pixels = [1, 2, 3, 4, 5, 6];
        let check = |flipped, expected: [[u8; 4]; 3]| {
            let mut out = [9u8; 36];
            write(&frame(&pixels, flipped), &LEVELS, &mut out);
            for (channel, row) in expected.iter().enumerate() {
                let plane = &out[channel * 12..][..12];
                assert_eq!(&plane[..4], [0; 4]);
                assert_eq!(&plane[4..8], row);
                assert_eq!(&plane[8..], [0; 4]);
            }
        };
        check(false, [[1, 4, 0, 0], [2, 5, 0, 0], [3, 6, 0, 0]]);
        check(true, [[0, 0, 4, 1], [0, 0, 5, 2], [0, 0, 6, 3]]);
    }

    /// Every byte, every type, every alignment, rows longer than a piece: vector code
    /// equals the scalar formula to the bit.
    #[test]
    fn no_cpu_rounds_differently() {
        let width = 2 * PIECE + 13;
        let pixels: Vec<u8> = (0..3 * width * 2)
            .map(|i| (i * 7 + i / 255) as u8)
            .collect();
        for (dtype, flipped) in [
            (DType::Uint8, true),
            (DType::Float16, false),
            (DType::Float16, true),
            (DType::Float32, false),
            (DType::Float32, true),
        ] {
            let levels = Levels { dtype, ..LEVELS };
            let frame = Frame {
                pixels: &pixels,
                stride_bytes: 3 * width,
                columns: (0, width),
                rows: (0, 2),
                width,
                height: 2,
                flipped,
            };
            let mut expected = Vec::new();
            for channel in 0..3 {
                for row in pixels.chunks_exact(3 * width) {
                    for column in 0..width {
                        let column = if flipped { width - 1 - column } else { column };
                        let byte = row[3 * column + channel];
                        let value = LEVELS.gain[channel] * f32::from(byte) + LEVELS.bias[channel];
                        match dtype {
                            DType::Uint8 => expected.push(byte),
                            DType::Float16 => {
                                expected.extend(half::f16::from_f32(value).to_ne_bytes());
                            }
                            DType::Float32 => expected.extend(value.to_ne_bytes()),
                        }
                    }
                }
            }
            let mut room = vec![0u8; expected.len() + 8];
            for shift in 0..8 {
                let out = &mut room[shift..][..expected.len()];
                out.fill(0xaa);
                write(&frame, &levels, out);
                assert!(out == expected, "{dtype:?} at {shift}");
                out.fill(0xaa);
                write_with(&frame, &levels, out, float16_row);
                assert!(out == expected, "{dtype:?} at {shift}, scalar");
            }
        }
    }
}
