//! Antialiased resize of a fractional box of RGB pixels.
//!
//! Enters: rows of RGB u8, the view of them that may be looked at, and the box within
//! the view that becomes the result. Leaves: RGB u8, row by row, as the caller wants them
//! laid out. Fixed-point integers throughout, so the result is the same on every CPU. Never:
//! a look beyond the view, a whole picture between the passes where rows become fewer.

mod passes;
mod taps;

use crate::opened::room;
use crate::transforms::Interpolation;
use passes::{Arrangement, BAND, Column, Kernels, Lines};
use taps::Taps;

/// Rows of RGB pixels without gaps, and the columns of them that count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) pixels: &'a [u8],
    /// Pixels of a row.
    pub(crate) stride: u32,
    /// First column that counts.
    pub(crate) left: u32,
    /// Columns that count.
    pub(crate) width: u32,
    /// Rows, all of which count.
    pub(crate) height: u32,
}

/// A box in the pixels of a view; pixel i covers `[i, i + 1)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FractionalBox {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// How the rows of the result are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Pixels of a row.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// All red samples of a row, then all green ones, then all blue ones; else pixel by pixel.
    pub(crate) planar: bool,
    /// Rows from right to left.
    pub(crate) mirrored: bool,
}

impl Interpolation {
    /// Half the filter's width, in pixels of the coarser of source and target.
    pub(crate) fn radius(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }
}

/// Resizes one picture after the other; its scratch memory is reused.
#[derive(Debug, Default)]
pub(crate) struct Resampler {
    x: Taps,
    y: Taps,
    scratch: Scratch,
}

/// What lies between the passes.
#[derive(Debug, Default)]
struct Scratch {
    /// Rows after the vertical pass: a band where it comes first, else one.
    rows: Vec<u8>,
    /// Rows after the horizontal pass: a band, or all of them where that comes first.
    narrowed: Vec<u8>,
    /// A band before and after the horizontal pass, turned.
    before: Vec<Column>,
    after: Vec<Column>,
}

impl Scratch {
    fn bytes(&self) -> usize {
        self.rows.capacity()
            + self.narrowed.capacity()
            + (self.before.capacity() + self.after.capacity()) * BAND
    }
}

/// Bytes that a resize of `wide` x `rows` pixels to `width` x `height` holds between its
/// passes.
pub(crate) fn scratch_bytes(wide: u64, rows: u64, width: u64, height: u64) -> u64 {
    let band = BAND as u64;
    let turned = band * (wide + 1 + width);
    let flat = if height <= rows {
        band * (wide + width)
    } else {
        width * (rows.next_multiple_of(band) + 1)
    };
    3 * (turned + flat) + taps::scratch_bytes(wide, width) + taps::scratch_bytes(rows, height)
}

impl Resampler {
    /// Bytes of scratch memory held between pictures.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch.bytes() + self.x.scratch_bytes() + self.y.scratch_bytes()
    }

    pub(crate) fn free_scratch(&mut self) {
        *self = Resampler::default();
    }

    /// Resizes `area` of `view`; calls `row` with the number and the samples of each row of the
    /// result, in order.
    pub(crate) fn run(
        &mut self,
        view: View<'_>,
        area: FractionalBox,
        filter: Interpolation,
        target: Target,
        row: impl FnMut(usize, &[u8]),
    ) {
        self.run_with(Kernels::of_this_cpu(), view, area, filter, target, row);
    }

    fn run_with(
        &mut self,
        kernels: Kernels,
        view: View<'_>,
        area: FractionalBox,
        filter: Interpolation,
        target: Target,
        mut row: impl FnMut(usize, &[u8]),
    ) {
        // Rounding may push the far ends a hair beyond the view.
        let area_width = area.width.min(f64::from(view.width) - area.left);
        let area_height = area.height.min(f64::from(view.height) - area.top);
        let (x, y) = (&mut self.x, &mut self.y);
        x.find(view.width, area.left, area_width, target.width, filter);
        y.find(view.height, area.top, area_height, target.height, filter);
        let source = Lines {
            bytes: &view.pixels[view.left as usize * 3..],
            stride: view.stride as usize * 3,
            count: view.height as usize,
        };
        let arrangement = Arrangement::of(target);
        let (first, end) = x.reach();
        let (used, width) = ((end - first) * 3, target.width as usize * 3);
        let Scratch {
            rows,
            narrowed,
            before,
            after,
        } = &mut self.scratch;
        // A pixel more, for a last weight that stands alone.
        let before = room(before, used + 3);
        let after = room(after, width);
        let mut narrow = |lines: Lines<'_>, from: usize, out: &mut [u8]| {
            kernels.turn(lines, from, &mut before[..used]);
            kernels.across(before, first, x, arrangement, after);
            kernels.turn_back(after, out);
        };
        let height = target.height as usize;
        if target.height <= view.height {
            // Rows become fewer: the vertical pass first, so that the other has less to do.
            let band = room(rows, BAND * used);
            let narrowed = room(narrowed, BAND * width);
            for top in (0..height).step_by(BAND) {
                let count = BAND.min(height - top);
                for (index, line) in band.chunks_exact_mut(used).take(count).enumerate() {
                    kernels.down(source, first * 3, y.of(top + index), y.places(), line);
                }
                let lines = Lines {
                    bytes: band,
                    stride: used,
                    count,
                };
                narrow(lines, 0, narrowed);
                for (index, line) in narrowed.chunks_exact(width).take(count).enumerate() {
                    row(top + index, line);
                }
            }
            return;
        }
        let narrowed = room(narrowed, source.count.next_multiple_of(BAND) * width);
        for (band, out) in narrowed.chunks_exact_mut(BAND * width).enumerate() {
            let top = band * BAND;
            let lines = Lines {
                bytes: &source.bytes[top * source.stride..],
                stride: source.stride,
                count: BAND.min(source.count - top),
            };
            narrow(lines, first * 3, out);
        }
        let lines = Lines {
            bytes: narrowed,
            stride: width,
            count: source.count,
        };
        let line = room(rows, width);
        for index in 0..height {
            kernels.down(lines, 0, y.of(index), y.places(), line);
            row(index, line);
        }
    }
}

#[cfg(test)]
mod tests;
