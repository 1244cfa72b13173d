//! The weights of a resize along one axis.
//!
//! Enters: a box of a line of pixels, a number of output pixels, a filter. Leaves: which
//! pixels each output pixel is made of, and their weights as fixed-point numbers of 16 bits.
//! Never: a pixel outside the line.
//!
//! Weights are Pillow's (`precompute_coeffs` of its `Resample.c`) in f64, without those that
//! are zero at either end. They are rounded to the most binary places at which the largest
//! still fits into an `i16`.

use crate::transforms::Interpolation;

/// Most binary places: 8 bits of a sample and two for overshoot leave so many of 32.
const PLACES_MAX: u32 = 21;

/// Weights of all output pixels. Their memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// Binary places of the weights.
    places: u32,
    spans: Vec<Span>,
    pairs: Vec<[i16; 2]>,
    /// The weights before they are rounded.
    exact: Vec<[f64; 2]>,
}

/// Most pairs of weights for `target` output pixels of a line of `source` pixels: an output
/// pixel has one for each unit of the wider filter's radius, 2, in pixels of the coarser side,
/// and less than two for what is touched in part at either end and for an odd number.
fn pairs_max(source: u64, target: u64) -> u64 {
    2 * source.max(target) + 2 * target
}

/// Bytes that these weights take at most.
pub(super) fn scratch_bytes(source: u64, target: u64) -> u64 {
    let pair = size_of::<[i16; 2]>() + size_of::<[f64; 2]>();
    pairs_max(source, target) * pair as u64 + target * size_of::<Span>() as u64
}

/// What one output pixel is made of.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// The first pixel.
    start: u32,
    /// Its weights, `[from, to)` of the pairs; the last one may be half empty.
    from: u32,
    to: u32,
    /// Pixels.
    count: u32,
}

/// The pixels and weights of one output pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap<'a> {
    /// The first pixel.
    pub(super) start: usize,
    /// Weights of it and those that follow, two by two. Where their number is odd, the last
    /// weight is 0, and its pixel may lie just behind the line's end.
    pub(super) pairs: &'a [[i16; 2]],
}

impl Taps {
    /// Weights for `target` output pixels that cover `[start, start + len)` of a line of
    /// `source` pixels.
    pub(super) fn find(
        &mut self,
        source: u32,
        start: f64,
        len: f64,
        target: u32,
        filter: Interpolation,
    ) {
        self.spans.clear();
        self.pairs.clear();
        self.exact.clear();
        let pairs = pairs_max(source.into(), target.into()) as usize;
        self.spans.reserve_exact(target as usize);
        self.pairs.reserve_exact(pairs);
        self.exact.reserve_exact(pairs);
        let largest = match filter {
            Interpolation::Bilinear => self.weigh(source, start, len, target, 1.0, triangle),
            Interpolation::Bicubic => self.weigh(source, start, len, target, 2.0, catmull_rom),
        };
        self.places = places_of(largest);
        let scale = f64::from(1 << self.places);
        self.pairs.extend(
            self.exact
                .iter()
                .map(|pair| pair.map(|weight| rounded(weight * scale))),
        );
    }

    /// Fills `spans` and `exact`; returns the largest weight.
    fn weigh(
        &mut self,
        source: u32,
        start: f64,
        len: f64,
        target: u32,
        radius: f64,
        filter: impl Fn(f64) -> f64,
    ) -> f64 {
        // Both ends first: their difference is not always `len` to the last bit.
        let step = ((start + len) - start) / f64::from(target);
        let stretch = step.max(1.0);
        let (reach, shrink) = (radius * stretch, 1.0 / stretch);
        let mut largest = 0.0f64;
        for index in 0..target {
            let middle = start + (f64::from(index) + 0.5) * step;
            // Casts cut off and saturate, which is floor and ceil from 0 on, without a call.
            let mut from = (middle - reach) as u32;
            let behind = (middle + reach) as u32;
            let end = (behind + u32::from(f64::from(behind) < middle + reach)).min(source);
            let centre = middle - 0.5;
            let weight = |pixel: u32| filter((f64::from(pixel) - centre) * shrink);
            while from < end && weight(from) == 0.0 {
                from += 1;
            }
            let first = self.exact.len();
            let (mut sum, mut count, mut pixel) = (0.0, 0, from);
            while pixel < end {
                let pair = [
                    weight(pixel),
                    if pixel + 1 < end {
                        weight(pixel + 1)
                    } else {
                        0.0
                    },
                ];
                for (place, weight) in (pixel - from + 1..).zip(pair) {
                    sum += weight;
                    if weight != 0.0 {
                        count = place;
                    }
                }
                self.exact.push(pair);
                pixel += 2;
            }
            assert!(count > 0, "the box lies within the line");
            self.exact.truncate(first + count.div_ceil(2) as usize);
            if sum != 0.0 {
                for weight in self.exact[first..].as_flattened_mut() {
                    *weight /= sum;
                    largest = largest.max(*weight);
                }
            }
            self.spans.push(Span {
                start: from,
                from: first as u32,
                to: self.exact.len() as u32,
                count,
            });
        }
        largest
    }

    /// Binary places of the weights, from 4 to [`PLACES_MAX`].
    pub(super) fn places(&self) -> u32 {
        self.places
    }

    /// What output pixel `index` is made of.
    pub(super) fn of(&self, index: usize) -> Tap<'_> {
        let span = self.spans[index];
        Tap {
            start: span.start as usize,
            pairs: &self.pairs[span.from as usize..span.to as usize],
        }
    }

    /// All output pixels, in order.
    pub(super) fn each(&self) -> impl Iterator<Item = Tap<'_>> {
        (0..self.spans.len()).map(|index| self.of(index))
    }

    /// The pixels `[from, to)` that have a say in some output pixel.
    pub(super) fn reach(&self) -> (usize, usize) {
        let from = self.spans.iter().map(|span| span.start).min();
        let to = self.spans.iter().map(|span| span.start + span.count).max();
        (from.unwrap_or(0) as usize, to.unwrap_or(0) as usize)
    }

    /// Bytes held.
    pub(super) fn scratch_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
            + self.pairs.capacity() * size_of::<[i16; 2]>()
            + self.exact.capacity() * size_of::<[f64; 2]>()
    }
}

/// The most binary places at which `largest` fits into an `i16`.
fn places_of(largest: f64) -> u32 {
    (0..PLACES_MAX)
        .find(|places| largest * f64::from(2 << places) >= f64::from(i16::MAX) + 0.5)
        .unwrap_or(PLACES_MAX)
}

/// Rounds half away from zero, as `f64::round`, which is a call on older CPUs.
fn rounded(value: f64) -> i16 {
    let whole = value as i32;
    let rest = value - f64::from(whole);
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i16
}

fn triangle(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

/// R. G. Keys, "Cubic convolution interpolation for digital image processing" (1981), with
/// a = -1/2, as Pillow has it.
fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_and_stay_inside() {
        let mut taps = Taps::default();
        for filter in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (source, start, len, target) in [
                (1, 0.0, 1.0, 1),
                (1, 0.25, 0.5, 300),
                (65_500, 0.0, 65_500.0, 1),
                (65_500, 17.5, 65_000.25, 3),
                (2, 0.5, 1.0, 16_384),
                (300, 0.0, 300.0, 224),
                (300, 0.0, 300.0, 300),
                (10, 9.75, 0.25, 7),
            ] {
                taps.find(source, start, len, target, filter);
                assert_eq!(taps.each().count(), target as usize);
                for tap in taps.each() {
                    let weights = tap.pairs.as_flattened();
                    let count = weights.len() - usize::from(weights.last() == Some(&0));
                    assert!(count > 0 && tap.start + count <= source as usize);
                    let sum: i64 = weights.iter().copied().map(i64::from).sum();
                    let whole = 1i64 << taps.places();
                    assert!((sum - whole).abs() <= weights.len() as i64, "{sum} {whole}");
                }
                let (from, to) = taps.reach();
                assert!(from < to && to <= source as usize);
            }
        }
    }

    #[test]
    fn pixels_on_pixels_weigh_one() {
        let mut taps = Taps::default();
        for filter in [Interpolation::Bilinear, Interpolation::Bicubic] {
            taps.find(9, 2.0, 5.0, 5, filter);
            assert_eq!(taps.places(), 14);
            for (index, tap) in taps.each().enumerate() {
                assert_eq!((tap.start, tap.pairs), (index + 2, &[[1 << 14, 0]][..]));
            }
        }
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        let values = [0.0, 0.5, 1.5, 2.4, 0.499_999_999_999_999_94, 32_766.5, 7.0];
        for value in values.into_iter().flat_map(|value| [value, -value]) {
            assert_eq!(rounded(value), value.round() as i16, "{value}");
        }
    }
}
