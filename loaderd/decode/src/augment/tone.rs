//! Posterize, solarize, autocontrast, equalize, sharpness: RandAugment's other changes of
//! what a pixel's value becomes.
//!
//! Enters: RGB u8. Leaves: RGB u8, by the formulas of torchvision's functions of the same
//! names on uint8. Never: a fused multiply-add.

use super::canvas::Picture;
use super::colour::{byte, rest};

/// Keeps the upper `bits` of each value.
#[inline(always)]
pub(super) fn posterize(pixels: &mut [u8], bits: u8) {
    let mask = !0xff_u8.checked_shr(bits.into()).unwrap_or(0);
    for value in pixels {
        *value &= mask;
    }
}

/// Inverts values from `threshold` on.
#[inline(always)]
pub(super) fn solarize(pixels: &mut [u8], threshold: f32) {
    for value in pixels {
        if f32::from(*value) >= threshold {
            *value = !*value;
        }
    }
}

/// Stretches each channel so that it runs from 0 to 255.
pub(super) fn autocontrast(pixels: &mut [u8]) {
    let (mut least, mut most) = ([255u8; 3], [0u8; 3]);
    for pixel in pixels.chunks_exact(3) {
        for channel in 0..3 {
            least[channel] = least[channel].min(pixel[channel]);
            most[channel] = most[channel].max(pixel[channel]);
        }
    }
    look_up(pixels, |channel| {
        let (least, most) = (f32::from(least[channel]), f32::from(most[channel]));
        if least == most {
            return identity();
        }
        let scale = (most - least) * (1.0 / 255.0);
        std::array::from_fn(|value| byte((value as f32 - least) / scale))
    });
}

/// Spreads each channel's values so that all are about equally frequent: the integer
/// scheme of Pillow, which torchvision shares.
pub(super) fn equalize(pixels: &mut [u8]) {
    let mut counts = [[0u32; 256]; 3];
    for pixel in pixels.chunks_exact(3) {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    let all = (pixels.len() / 3) as u32;
    look_up(pixels, |channel| {
        let counts = &counts[channel];
        let brightest = counts.iter().rev().find(|count| **count > 0);
        let step = (all - brightest.unwrap_or(&0)) / 255;
        if step == 0 {
            return identity();
        }
        let mut below = step / 2;
        std::array::from_fn(|value| {
            // torchvision leaves 0 as it is, and half a step is less than one.
            let new = (below / step).min(255) as u8;
            below += counts[value];
            new
        })
    });
}

/// `factor * x + (1 - factor) * blurred`, where a blurred pixel is the mean of its
/// neighbours and five times itself; the picture's outermost pixels stay as they are.
#[inline(always)]
pub(super) fn sharpness(from: Picture<'_>, factor: f32, to: &mut [u8]) {
    to.copy_from_slice(from.pixels);
    if from.width <= 2 || from.height <= 2 {
        return;
    }
    let (stride, rest) = (3 * from.width, rest(factor));
    let inner = stride - 6;
    for row in 1..from.height - 1 {
        let line = |row: usize| &from.pixels[row * stride..][..stride];
        let (above, here, below) = (line(row - 1), line(row), line(row + 1));
        let to = &mut to[row * stride + 3..][..inner];
        for (i, to) in to.iter_mut().enumerate() {
            let three =
                |line: &[u8]| u16::from(line[i]) + u16::from(line[i + 3]) + u16::from(line[i + 6]);
            let value = here[i + 3];
            let sum = three(above) + three(here) + three(below) + 4 * u16::from(value);
            // 13 is odd, so that there are no ties to round.
            let blurred = f32::from((sum + 6) / 13);
            let value = f32::from(value);
            *to = byte((blurred - value) * rest + value);
        }
    }
}

fn identity() -> [u8; 256] {
    std::array::from_fn(|value| value as u8)
}

/// Replaces each value by what its channel's table says.
fn look_up(pixels: &mut [u8], table: impl Fn(usize) -> [u8; 256]) {
    let tables: [[u8; 256]; 3] = std::array::from_fn(table);
    for pixel in pixels.chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
}
