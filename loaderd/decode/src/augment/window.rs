//! A window onto a picture, larger or smaller than it: borders and crops.
//!
//! Enters: RGB u8, the window's place, what lies beyond the picture. Leaves: RGB u8 of the
//! window's size. Never: a mirror's mirror: borders are no wider than the list's check
//! allows.

use super::canvas::Picture;
use crate::transforms::PaddingMode;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    /// The window's first column, counted from the picture's; negative in a border.
    pub(super) left: i64,
    /// Its first row, likewise.
    pub(super) top: i64,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) mode: PaddingMode,
    /// RGB of a constant border.
    pub(super) fill: [u8; 3],
}

impl Window {
    pub(super) fn run(&self, from: Picture<'_>, to: &mut [u8]) {
        let (stride, wanted) = (3 * from.width, i64::from(self.width));
        // The columns that show the picture itself lie side by side.
        let first = (-self.left).clamp(0, wanted);
        let last = (from.width as i64 - self.left).clamp(first, wanted);
        let (first, last) = (first as usize, last as usize);
        for (row, line) in to.chunks_exact_mut(3 * self.width as usize).enumerate() {
            let Some(row) = self.source(self.top + row as i64, from.height) else {
                fill(line, self.fill);
                continue;
            };
            let source = &from.pixels[row * stride..][..stride];
            if first < last {
                let start = 3 * (self.left + first as i64) as usize;
                line[3 * first..3 * last].copy_from_slice(&source[start..][..3 * (last - first)]);
            }
            for column in (0..first).chain(last..self.width as usize) {
                let pixel = match self.source(self.left + column as i64, from.width) {
                    Some(from) => &source[3 * from..][..3],
                    None => &self.fill,
                };
                line[3 * column..][..3].copy_from_slice(pixel);
            }
        }
    }

    /// Which of `len` pixels shows at `index`, counted from the first of them.
    fn source(&self, index: i64, len: usize) -> Option<usize> {
        let last = len as i64 - 1;
        if (0..=last).contains(&index) {
            return Some(index as usize);
        }
        let within = match self.mode {
            PaddingMode::Constant => return None,
            PaddingMode::Edge => index,
            PaddingMode::Reflect if index < 0 => -index,
            PaddingMode::Reflect => 2 * last - index,
            PaddingMode::Symmetric if index < 0 => -1 - index,
            PaddingMode::Symmetric => 2 * last + 1 - index,
        };
        Some(within.clamp(0, last) as usize)
    }
}

/// Fills whole pixels with one colour.
pub(super) fn fill(pixels: &mut [u8], colour: [u8; 3]) {
    for pixel in pixels.chunks_exact_mut(3) {
        pixel.copy_from_slice(&colour);
    }
}
