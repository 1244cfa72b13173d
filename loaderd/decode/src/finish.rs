//! Decoded RGB rows → the output's type and layout, written straight into the slot.
//!
//! Enters: RGB u8, rows of pixels. Leaves: `[C, H, W]` planes or `[H, W, C]` pixels of u8,
//! bf16, f16 or f32, mirrored where asked for, with black borders where the picture
//! doesn't reach. A float is one rounded product plus one rounded addend, never fused, so
//! that scalar and vector code agree to the bit on every CPU. Never: memory of its own
//! beyond a row's piece.

mod pixels;
mod slot;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::transforms::{DType, Layout};
use pixels::GROUP;
pub(crate) use slot::Slot;

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
    pub(crate) upside_down: bool,
    pub(crate) layout: Layout,
}

impl Frame<'_> {
    /// Whether the picture leaves a border.
    pub(crate) fn bordered(&self) -> bool {
        let ((left, right), (top, bottom)) = (self.columns, self.rows);
        right - left < self.width || bottom - top < self.height
    }

    /// The picture's rows: their places in the output, and their pixels.
    fn lines(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let bytes = 3 * (self.columns.1 - self.columns.0);
        (self.rows.0..self.rows.1)
            .enumerate()
            .map(move |(index, row)| {
                let pixels = &self.pixels[index * self.stride_bytes..][..bytes];
                (self.output_row(row), pixels)
            })
    }

    /// Where the row that is number `row` before turning stands in the output.
    fn output_row(&self, row: usize) -> usize {
        if self.upside_down {
            self.height - 1 - row
        } else {
            row
        }
    }
}

/// Pixels that are taken apart at a time: three planes of this size stay in L1.
pub(crate) const PIECE: usize = 256;

/// Writes all of `out`, whose length must be the output's bytes. Any alignment will do.
pub(crate) fn write(frame: &Frame<'_>, levels: &Levels, out: &mut [u8]) {
    convert(frame.layout, levels, Whole { frame, out });
}

/// Bytes of a picture, and where they belong in an output.
trait Runs {
    /// Calls `convert` with each run of bytes that lie together in the output, and with its place,
    /// of `SIZE` times as many bytes: a run is of one channel, which comes first, under
    /// [`Layout::Nchw`], else of whole pixels.
    fn each<const SIZE: usize>(self, convert: impl Fn(usize, &[u8], &mut [u8]));
}

/// Fills the places of `runs`.
fn convert(layout: Layout, levels: &Levels, runs: impl Runs) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the CPU has both features.
        unsafe { x86::convert(layout, levels, runs) };
        return;
    }
    convert_with(layout, levels, runs, float16_row, float16_store);
}

/// The last two are the steps that the compiler does not vectorise on its own.
#[inline(always)]
fn convert_with(
    layout: Layout,
    levels: &Levels,
    runs: impl Runs,
    float16_row: impl Fn(&[u8], f32, f32, &mut [u8]),
    float16_store: impl Fn(&[f32; GROUP], &mut [u8]),
) {
    let Levels { dtype, gain, bias } = *levels;
    let (gains, biases) = (pixels::pattern(gain), pixels::pattern(bias));
    match (layout, dtype) {
        (_, DType::Uint8) => runs.each::<1>(|_, bytes, to| to.copy_from_slice(bytes)),
        (Layout::Nchw, DType::Bfloat16) => runs.each::<2>(|channel, bytes, to| {
            bfloat16_row(bytes, gain[channel], bias[channel], to);
        }),
        (Layout::Nchw, DType::Float16) => runs.each::<2>(|channel, bytes, to| {
            float16_row(bytes, gain[channel], bias[channel], to);
        }),
        (Layout::Nchw, DType::Float32) => runs.each::<4>(|channel, bytes, to| {
            float32_row(bytes, gain[channel], bias[channel], to);
        }),
        (Layout::Nhwc, DType::Bfloat16) => runs.each::<2>(|_, bytes, to| {
            pixels::floats::<2>(bytes, &gains, &biases, to, bfloat16_store);
        }),
        (Layout::Nhwc, DType::Float16) => runs.each::<2>(|_, bytes, to| {
            pixels::floats::<2>(bytes, &gains, &biases, to, &float16_store);
        }),
        (Layout::Nhwc, DType::Float32) => runs.each::<4>(|_, bytes, to| {
            pixels::floats::<4>(bytes, &gains, &biases, to, float32_store);
        }),
    }
}

/// A picture, and all of its output.
struct Whole<'a> {
    frame: &'a Frame<'a>,
    out: &'a mut [u8],
}

impl Runs for Whole<'_> {
    #[inline(always)]
    fn each<const SIZE: usize>(self, convert: impl Fn(usize, &[u8], &mut [u8])) {
        match self.frame.layout {
            Layout::Nchw => planes::<SIZE>(self.frame, self.out, convert),
            Layout::Nhwc => {
                pixels::write::<SIZE>(self.frame, self.out, |bytes, to| convert(0, bytes, to));
            }
        }
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
    let from = frame.columns.0;
    let plane_bytes = width * height * SIZE;
    if frame.bordered() {
        blacken::<SIZE>(out, plane_bytes, &convert);
    }
    let mut pieces = [[0u8; PIECE]; 3];
    for (row, line) in frame.lines() {
        for (piece, pixels) in line.chunks(3 * PIECE).enumerate() {
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
pub(crate) fn take_apart(pixels: &[u8], pieces: &mut [[u8; PIECE]; 3]) {
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

#[inline(always)]
fn bfloat16_row(bytes: &[u8], gain: f32, bias: f32, to: &mut [u8]) {
    for (to, &byte) in to.chunks_exact_mut(2).zip(bytes) {
        to.copy_from_slice(&bfloat16(gain * f32::from(byte) + bias).to_ne_bytes());
    }
}

#[inline(always)]
fn float32_store(values: &[f32; GROUP], to: &mut [u8]) {
    for (to, value) in to.chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

#[inline(always)]
fn float16_store(values: &[f32; GROUP], to: &mut [u8]) {
    for (to, &value) in to.chunks_exact_mut(2).zip(values) {
        to.copy_from_slice(&half::f16::from_f32(value).to_ne_bytes());
    }
}

#[inline(always)]
fn bfloat16_store(values: &[f32; GROUP], to: &mut [u8]) {
    for (to, &value) in to.chunks_exact_mut(2).zip(values) {
        to.copy_from_slice(&bfloat16(value).to_ne_bytes());
    }
}

/// The nearest bfloat16, ties to even, without a branch: the lower half of the number is
/// added to its own middle. A NaN stays one, since gain and bias make only the one whose
/// upper half says so.
#[inline(always)]
fn bfloat16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Writes `value` as the element at the start of `to`, as the rows above would.
pub(crate) fn put(dtype: DType, value: f32, to: &mut [u8]) {
    match dtype {
        DType::Uint8 => to[0] = value as u8,
        DType::Bfloat16 => to[..2].copy_from_slice(&bfloat16(value).to_ne_bytes()),
        DType::Float16 => to[..2].copy_from_slice(&half::f16::from_f32(value).to_ne_bytes()),
        DType::Float32 => to[..4].copy_from_slice(&value.to_ne_bytes()),
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
            upside_down: false,
            layout: Layout::Nchw,
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

    #[test]
    fn pixels_borders_and_turning() {
        let pixels = [1, 2, 3, 4, 5, 6];
        for upside_down in [false, true] {
            let check = |flipped, expected: [u8; 12]| {
                let mut out = [9u8; 36];
                let frame = Frame {
                    rows: (0, 1),
                    upside_down,
                    layout: Layout::Nhwc,
                    ..frame(&pixels, flipped)
                };
                write(&frame, &LEVELS, &mut out);
                let mut rows: Vec<&[u8]> = out.chunks_exact(12).collect();
                if upside_down {
                    rows.reverse();
                }
                assert_eq!(rows, [expected, [0; 12], [0; 12]]);
            };
            check(false, [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0]);
            check(true, [0, 0, 0, 0, 0, 0, 4, 5, 6, 1, 2, 3]);
        }
    }

    #[test]
    fn bfloat16_is_the_nearest() {
        for i in 0..1u32 << 20 {
            let value = f32::from_bits(i << 12 | i >> 8);
            if !value.is_nan() {
                assert_eq!(bfloat16(value), half::bf16::from_f32(value).to_bits());
            }
        }
        assert!(half::bf16::from_bits(bfloat16(f32::INFINITY * 0.0)).is_nan());
        assert!(half::bf16::from_bits(bfloat16(-f32::INFINITY * 0.0)).is_nan());
    }

    /// Every byte, every type, every alignment, rows longer than a piece: vector code
    /// equals the scalar formula to the bit.
    #[test]
    fn no_cpu_rounds_differently() {
        let width = 2 * PIECE + 13;
        let pixels: Vec<u8> = (0..3 * width * 2)
            .map(|i| (i * 7 + i / 255) as u8)
            .collect();
        for dtype in [
            DType::Uint8,
            DType::Bfloat16,
            DType::Float16,
            DType::Float32,
        ] {
            for turn in 0..8 {
                let layout = [Layout::Nchw, Layout::Nhwc][turn & 1];
                let levels = Levels { dtype, ..LEVELS };
                let frame = Frame {
                    pixels: &pixels,
                    stride_bytes: 3 * width,
                    columns: (0, width),
                    rows: (0, 2),
                    width,
                    height: 2,
                    flipped: turn & 2 > 0,
                    upside_down: turn & 4 > 0,
                    layout,
                };
                let size = dtype.itemsize() as usize;
                let mut expected = vec![0; 3 * width * 2 * size];
                for (index, &byte) in pixels.iter().enumerate() {
                    let (row, column, channel) = (index / 3 / width, index / 3 % width, index % 3);
                    let column = [column, width - 1 - column][turn >> 1 & 1];
                    let row = [row, 1 - row][turn >> 2];
                    let place = match layout {
                        Layout::Nchw => (channel * 2 + row) * width + column,
                        Layout::Nhwc => (row * width + column) * 3 + channel,
                    };
                    let value = match dtype {
                        DType::Uint8 => f32::from(byte),
                        _ => LEVELS.gain[channel] * f32::from(byte) + LEVELS.bias[channel],
                    };
                    put(dtype, value, &mut expected[place * size..]);
                }
                let mut room = vec![0u8; expected.len() + 8];
                for shift in 0..8 {
                    let out = &mut room[shift..][..expected.len()];
                    out.fill(0xaa);
                    write(&frame, &levels, out);
                    assert!(out == expected, "{dtype:?} {layout:?} at {shift}");
                    out.fill(0xaa);
                    let whole = Whole { frame: &frame, out };
                    convert_with(layout, &levels, whole, float16_row, float16_store);
                    assert!(out == expected, "{dtype:?} {layout:?} at {shift}, scalar");
                }
            }
        }
    }
}
