//! RGB rows → `[H, W, C]`: pixel after pixel.
//!
//! Enters: a frame, and what turns bytes into elements. Leaves: the output filled, in the
//! order in which the picture lies in memory already. Never: an element in another order.

use super::{Frame, PIECE};

/// Values that are made at once: whole pixels, and whole vectors of 8.
pub(super) const GROUP: usize = 24;

/// One number per channel, over and over.
pub(super) fn pattern(channels: [f32; 3]) -> [f32; GROUP] {
    std::array::from_fn(|index| channels[index % 3])
}

/// `convert` turns RGB bytes, whole pixels, into elements of `SIZE` bytes.
#[inline(always)]
pub(super) fn write<const SIZE: usize>(
    frame: &Frame<'_>,
    out: &mut [u8],
    convert: impl Fn(&[u8], &mut [u8]),
) {
    let Frame { width, height, .. } = *frame;
    assert_eq!(out.len(), 3 * width * height * SIZE);
    let from = frame.columns.0;
    if frame.bordered() {
        let black = [0u8; 3 * PIECE];
        for part in out.chunks_mut(3 * PIECE * SIZE) {
            convert(&black[..part.len() / SIZE], part);
        }
    }
    let mut mirrored = [0u8; 3 * PIECE];
    for (row, line) in frame.lines() {
        for (piece, mut pixels) in line.chunks(3 * PIECE).enumerate() {
            let count = pixels.len() / 3;
            let mut column = from + piece * PIECE;
            if frame.flipped {
                let target = &mut mirrored[..pixels.len()];
                for (to, pixel) in target.rchunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
                    to.copy_from_slice(pixel);
                }
                pixels = target;
                column = width - column - count;
            }
            let at = (row * width + column) * 3 * SIZE;
            convert(pixels, &mut out[at..at + pixels.len() * SIZE]);
        }
    }
}

/// Gain and bias over whole pixels; `store` writes up to [`GROUP`] values.
#[inline(always)]
pub(super) fn floats<const SIZE: usize>(
    bytes: &[u8],
    gain: &[f32; GROUP],
    bias: &[f32; GROUP],
    to: &mut [u8],
    store: impl Fn(&[f32; GROUP], &mut [u8]),
) {
    for (bytes, to) in bytes.chunks(GROUP).zip(to.chunks_mut(GROUP * SIZE)) {
        let mut whole = [0u8; GROUP];
        whole[..bytes.len()].copy_from_slice(bytes);
        let values =
            std::array::from_fn(|index| gain[index] * f32::from(whole[index]) + bias[index]);
        store(&values, to);
    }
}
