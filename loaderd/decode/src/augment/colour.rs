//! Brightness, contrast, saturation, hue, grey.
//!
//! Enters: RGB u8 in place, a factor. Leaves: RGB u8. The formulas are those of
//! torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation`,
//! `adjust_hue` and `rgb_to_grayscale` on uint8, which cut fractions off. Never: a fused
//! multiply-add, a look at a neighbour.

use crate::finish::{PIECE, take_apart};

/// `factor * x`.
#[inline(always)]
pub(super) fn brightness(pixels: &mut [u8], factor: f32) {
    blend(pixels, factor, 0.0);
}

/// `factor * x + (1 - factor) * mean`, where the mean is that of the picture in grey.
#[inline(always)]
pub(super) fn contrast(pixels: &mut [u8], factor: f32) {
    let mut sum = 0u64;
    for part in pixels.chunks(3 * PIECE) {
        let [red, green, blue] = apart(part);
        // Beyond the part, there are zeros.
        let of_part: u32 = (0..PIECE).map(|i| grey_of(red[i], green[i], blue[i])).sum();
        sum += u64::from(of_part);
    }
    let mean = (sum as f64 / (pixels.len() / 3) as f64) as f32;
    blend(pixels, factor, mean * rest(factor));
}

/// `factor * x + (1 - factor) * grey`, where the grey is that of the same pixel.
#[inline(always)]
pub(super) fn saturation(pixels: &mut [u8], factor: f32) {
    let rest = rest(factor);
    each_part(pixels, |[red, green, blue]| {
        for i in 0..PIECE {
            let grey = grey_of(red[i], green[i], blue[i]) as f32 * rest;
            red[i] = byte(factor * f32::from(red[i]) + grey);
            green[i] = byte(factor * f32::from(green[i]) + grey);
            blue[i] = byte(factor * f32::from(blue[i]) + grey);
        }
    });
}

/// All three channels become the pixel's grey.
#[inline(always)]
pub(super) fn grey(pixels: &mut [u8]) {
    each_part(pixels, |[red, green, blue]| {
        for i in 0..PIECE {
            let grey = grey_of(red[i], green[i], blue[i]) as u8;
            (red[i], green[i], blue[i]) = (grey, grey, grey);
        }
    });
}

/// Turns every colour by `turn` of the colour circle. The brightest and the darkest value
/// of a pixel stay, and so do its value and saturation.
///
/// With the hue in sixths of the circle, a channel is the brightest value less the
/// range times a trapezium wave of the hue, shifted by 5, 3 and 1 sixths for red, green
/// and blue.
#[inline(always)]
pub(super) fn hue(pixels: &mut [u8], turn: f32) {
    // torchvision goes from [0, 1] to bytes by this, and cuts off.
    const TOP: f32 = 255.999 / 255.0;
    let shift = turn * 6.0;
    each_part(pixels, |[reds, greens, blues]| {
        for i in 0..PIECE {
            let red = f32::from(reds[i]);
            let green = f32::from(greens[i]);
            let blue = f32::from(blues[i]);
            let most = red.max(green).max(blue);
            let range = most - red.min(green).min(blue);
            let divisor = if range == 0.0 { 1.0 } else { range };
            let hue = if most == red {
                (green - blue) / divisor
            } else if most == green {
                (blue - red) / divisor + 2.0
            } else {
                (red - green) / divisor + 4.0
            } + shift;
            let channel = |offset: f32| {
                let around = hue + offset;
                let around = around - 6.0 * (around * (1.0 / 6.0)).floor();
                let wave = around.min(4.0 - around).clamp(0.0, 1.0);
                byte((most - range * wave) * TOP)
            };
            (reds[i], greens[i], blues[i]) = (channel(5.0), channel(3.0), channel(1.0));
        }
    });
}

/// `1 - factor`, rounded once.
#[inline(always)]
pub(super) fn rest(factor: f32) -> f32 {
    (1.0 - f64::from(factor)) as f32
}

/// A value cut off to a byte.
#[inline(always)]
pub(super) fn byte(value: f32) -> u8 {
    value.clamp(0.0, 255.0) as i32 as u8
}

/// 0.2989 R + 0.587 G + 0.114 B, cut off: for every colour what torchvision has.
#[inline(always)]
fn grey_of(red: u8, green: u8, blue: u8) -> u32 {
    (2_989 * u32::from(red) + 5_870 * u32::from(green) + 1_140 * u32::from(blue)) / 10_000
}

#[inline(always)]
fn blend(bytes: &mut [u8], factor: f32, addend: f32) {
    for place in bytes {
        *place = byte(factor * f32::from(*place) + addend);
    }
}

/// Up to [`PIECE`] pixels, channel by channel, with zeros after them.
#[inline(always)]
fn apart(part: &[u8]) -> [[u8; PIECE]; 3] {
    let mut channels = [[0u8; PIECE]; 3];
    take_apart(part, &mut channels);
    channels
}

/// Takes the pixels apart, a piece at a time, and puts them together again.
#[inline(always)]
fn each_part(pixels: &mut [u8], work: impl Fn(&mut [[u8; PIECE]; 3])) {
    for part in pixels.chunks_mut(3 * PIECE) {
        let mut channels = apart(part);
        work(&mut channels);
        let [red, green, blue] = &channels;
        let channels = red.iter().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in part.chunks_exact_mut(3).zip(channels) {
            pixel.copy_from_slice(&[*red, *green, *blue]);
        }
    }
}
