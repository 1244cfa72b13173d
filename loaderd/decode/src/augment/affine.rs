//! Shear, shift, rotation.
//!
//! Enters: RGB u8, where in it each output pixel's value is found. Leaves: RGB u8 of the
//! same size. Positions are integers with 33 bits of fraction and weights with 12, so
//! that nothing depends on how a CPU rounds. Never: a change of size.

use super::canvas::Picture;
use crate::transforms::Sampling;

/// Bits of fraction of a position.
const BITS: u32 = 33;

/// Where an output pixel's value is found: `[a, b, c]` per axis, for the position
/// `a * x + b * y + c`, all counted from the picture's middle.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Affine {
    pub(super) x: [f64; 3],
    pub(super) y: [f64; 3],
    pub(super) sampling: Sampling,
    /// RGB beyond the picture. `None` is black, and differs from it at an edge between
    /// two pixels only.
    pub(super) fill: Option<[u8; 3]>,
}

impl Affine {
    #[inline(always)]
    pub(super) fn run(&self, from: Picture<'_>, to: &mut [u8]) {
        let source = Source {
            pixels: from.pixels,
            width: from.width as i64,
            height: from.height as i64,
            fill: self.fill,
        };
        match self.sampling {
            Sampling::Nearest => self.each(from, to, |x, y| source.nearest(x, y)),
            Sampling::Bilinear => self.each(from, to, |x, y| source.bilinear(x, y)),
        }
    }

    /// `value` gives the pixel at a position, counted from the first pixel's middle.
    #[inline(always)]
    fn each(&self, from: Picture<'_>, to: &mut [u8], value: impl Fn(i64, i64) -> [u8; 3]) {
        // Coefficients of twice a distance: distances from the middle are halves.
        let fixed = |number: f64| (number * (1u64 << (BITS - 1)) as f64).round() as i64;
        let (x, y) = (self.x.map(fixed), self.y.map(fixed));
        let (wide, high) = (from.width as i64 - 1, from.height as i64 - 1);
        for (row, line) in to.chunks_exact_mut(3 * from.width).enumerate() {
            let down = 2 * row as i64 - high;
            let start =
                |[a, b, c]: [i64; 3], far: i64| b * down - a * wide + 2 * c + (far << (BITS - 1));
            let (mut at_x, mut at_y) = (start(x, wide), start(y, high));
            for pixel in line.chunks_exact_mut(3) {
                pixel.copy_from_slice(&value(at_x, at_y));
                at_x += 2 * x[0];
                at_y += 2 * y[0];
            }
        }
    }
}

struct Source<'a> {
    pixels: &'a [u8],
    width: i64,
    height: i64,
    fill: Option<[u8; 3]>,
}

impl Source<'_> {
    #[inline(always)]
    fn pixel(&self, column: i64, row: i64) -> Option<[u8; 3]> {
        // As unsigned numbers, negative ones are large.
        if column as u64 >= self.width as u64 || row as u64 >= self.height as u64 {
            return None;
        }
        let at = 3 * (row * self.width + column) as usize;
        Some([self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]])
    }

    #[inline(always)]
    fn nearest(&self, x: i64, y: i64) -> [u8; 3] {
        let round = |position: i64| (position + (1 << (BITS - 1))) >> BITS;
        self.pixel(round(x), round(y))
            .unwrap_or(self.fill.unwrap_or_default())
    }

    #[inline(always)]
    fn bilinear(&self, x: i64, y: i64) -> [u8; 3] {
        const ONE: i64 = 1 << 12;
        let coarse = |position: i64| (position + (1 << (BITS - 13))) >> (BITS - 12);
        let (x, y) = (coarse(x), coarse(y));
        let (column, row) = (x >> 12, y >> 12);
        let (right, lower) = (x & (ONE - 1), y & (ONE - 1));
        let mut sums = [0i64; 3];
        let mut seen = 0;
        for (column, row, weight) in [
            (column, row, (ONE - right) * (ONE - lower)),
            (column + 1, row, right * (ONE - lower)),
            (column, row + 1, (ONE - right) * lower),
            (column + 1, row + 1, right * lower),
        ] {
            if let Some(pixel) = self.pixel(column, row) {
                seen += weight;
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i64::from(value);
                }
            }
        }
        let Some(fill) = self.fill else {
            return sums.map(|sum| ((sum + (1 << 23)) >> 24) as u8);
        };
        // torchvision takes what the picture and black around it give, and moves it
        // towards the fill by the share that lies outside.
        std::array::from_fn(|channel| {
            let fill = i64::from(fill[channel]);
            let excess = seen * (sums[channel] - (fill << 24));
            (fill + ((excess + (1 << 47)) >> 48)) as u8
        })
    }
}
