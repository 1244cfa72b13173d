//! RandomErasing's rectangle, in the picture or in the finished output.
//!
//! Enters: a rectangle, what to write there, pixels or finished values. Leaves: the
//! rectangle overwritten. Noise comes of a generator of its own, seeded by two draws, so
//! that an image takes the same number of draws whatever the rectangle; its arithmetic
//! is plain f64, the same on every CPU. Never: a byte outside the rectangle.

use super::window::fill;
use crate::finish::put;
use crate::transforms::{DType, Layout};

/// A rectangle, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) top: u32,
    pub(super) left: u32,
    pub(super) height: u32,
    pub(super) width: u32,
}

impl Area {
    /// Fills it in RGB rows of `width` pixels.
    pub(super) fn fill(&self, width: usize, pixels: &mut [u8], colour: [u8; 3]) {
        let rows = pixels.chunks_exact_mut(3 * width).skip(self.top as usize);
        for row in rows.take(self.height as usize) {
            let row = &mut row[3 * self.left as usize..][..3 * self.width as usize];
            fill(row, colour);
        }
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Filling {
    /// One value per channel.
    Values([f32; 3]),
    /// Normally distributed values, from this seed.
    Noise(u64),
}

/// A rectangle of the finished output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Erasure {
    pub(super) area: Area,
    pub(super) filling: Filling,
}

impl Erasure {
    /// Writes into the finished image `out` of `size`, `[h, w]`.
    pub(super) fn run(&self, dtype: DType, layout: Layout, size: [u32; 2], out: &mut [u8]) {
        let [height, width] = size.map(|side| side as usize);
        let itemsize = dtype.itemsize() as usize;
        let rows = self.area.top as usize..(self.area.top + self.area.height) as usize;
        let columns = self.area.left as usize..(self.area.left + self.area.width) as usize;
        let mut noise = match self.filling {
            Filling::Noise(seed) => Normal::new(seed),
            Filling::Values(_) => Normal::new(0),
        };
        for channel in 0..3 {
            for row in rows.clone() {
                for column in columns.clone() {
                    let value = match self.filling {
                        Filling::Values(values) => values[channel],
                        Filling::Noise(_) => noise.next() as f32,
                    };
                    let element = match layout {
                        Layout::Nchw => (channel * height + row) * width + column,
                        Layout::Nhwc => (row * width + column) * 3 + channel,
                    };
                    put(dtype, value, &mut out[element * itemsize..]);
                }
            }
        }
    }
}

/// Normally distributed numbers: Marsaglia's polar method (1964) over SplitMix64
/// (Steele, Lea, Flood 2014).
struct Normal {
    state: u64,
    spare: Option<f64>,
}

impl Normal {
    fn new(seed: u64) -> Normal {
        Normal {
            state: seed,
            spare: None,
        }
    }

    fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (self.uniform(), self.uniform());
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let stretch = (-2.0 * ln(square) / square).sqrt();
                self.spare = Some(y * stretch);
                return x * stretch;
            }
        }
    }

    /// In [-1, 1).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        (word as i64 >> 11) as f64 / (1u64 << 52) as f64
    }
}

/// The natural logarithm of a positive, normal number by its series, because a system's
/// own may differ in the last bit between CPUs.
fn ln(number: f64) -> f64 {
    let bits = number.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    // In [1, 2).
    let fraction = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let ratio = (fraction - 1.0) / (fraction + 1.0);
    let square = ratio * ratio;
    // 2 artanh(ratio) = 2 (ratio + ratio^3 / 3 + ...), from the smallest term on.
    let series = (0..20).rev().fold(0.0, |sum, term| {
        sum * square + 1.0 / f64::from(2 * term + 1)
    });
    2.0 * ratio * series + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal() {
        let mut normal = Normal::new(7);
        let count = 200_000;
        let values: Vec<f64> = (0..count).map(|_| normal.next()).collect();
        let moment =
            |power| values.iter().map(|value| value.powi(power)).sum::<f64>() / count as f64;
        // Standard errors: 0.0022, 0.0032, 0.0087, 0.022.
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "{}", moment(2));
        assert!(moment(3).abs() < 0.04, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
        assert_ne!(Normal::new(8).next(), values[0]);
    }

    #[test]
    fn logarithms_are_exact_to_a_few_bits() {
        for number in [1e-300, 1e-9, 0.1, 0.5, 0.999, 1.0, 1.999, 3.0, 1e10] {
            let (ours, theirs) = (ln(number), f64::ln(number));
            let error = (ours - theirs).abs();
            assert!(error <= 1e-15 * theirs.abs().max(1.0), "{number}");
        }
    }

    #[test]
    fn only_the_rectangle_is_written() {
        let area = Area {
            top: 1,
            left: 2,
            height: 2,
            width: 1,
        };
        let check = |dtype, layout, filling| {
            let size = DType::itemsize(dtype) as usize;
            let mut out = vec![0x11; 3 * 4 * 5 * size];
            Erasure { area, filling }.run(dtype, layout, [4, 5], &mut out);
            let mut element = vec![0; size];
            put(dtype, 2.5, &mut element);
            for (index, value) in out.chunks_exact(size).enumerate() {
                let (channel, row, column) = match layout {
                    Layout::Nchw => (index / 20, index / 5 % 4, index % 5),
                    Layout::Nhwc => (index % 3, index / 15, index / 3 % 5),
                };
                let inside = (1..3).contains(&row) && column == 2;
                assert_eq!(value != vec![0x11; size], inside, "{dtype:?} {layout:?}");
                if inside && matches!(filling, Filling::Values(_)) {
                    assert_eq!(value == element, channel == 1);
                }
            }
        };
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for dtype in [DType::Bfloat16, DType::Float16, DType::Float32] {
                check(dtype, layout, Filling::Values([0.0, 2.5, -1.0]));
                check(dtype, layout, Filling::Noise(3));
            }
        }
    }
}
