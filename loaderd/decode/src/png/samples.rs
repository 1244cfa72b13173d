//! Rows of samples → RGB, or class numbers.
//!
//! Enters: rows in samples as the file has them, a palette. Leaves: a run of their pixels.
//! Never: transparency, or a colour that the file does not name.

use super::corrupt;
use crate::error::DecodeError;

/// What the samples of a row mean (section 11.2.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Samples<'a> {
    colour: Colour,
    /// Bits of a sample.
    depth: u8,
    /// RGB triples, at most 256.
    palette: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Grey,
    Rgb,
    Palette,
    GreyAlpha,
    Rgba,
}

impl<'a> Samples<'a> {
    /// From the header's numbers.
    pub(super) fn of(colour: u8, depth: u8) -> Result<Samples<'a>, DecodeError> {
        let (colour, depths): (_, &[u8]) = match colour {
            0 => (Colour::Grey, &[1, 2, 4, 8, 16]),
            2 => (Colour::Rgb, &[8, 16]),
            3 => (Colour::Palette, &[1, 2, 4, 8]),
            4 => (Colour::GreyAlpha, &[8, 16]),
            6 => (Colour::Rgba, &[8, 16]),
            _ => return Err(corrupt(format!("colour type {colour}"))),
        };
        if !depths.contains(&depth) {
            return Err(corrupt(format!("{depth} bits a sample in {colour:?}")));
        }
        Ok(Samples {
            colour,
            depth,
            palette: &[],
        })
    }

    pub(super) fn set_palette(&mut self, palette: Option<&'a [u8]>) -> Result<(), DecodeError> {
        if self.colour != Colour::Palette {
            return Ok(());
        }
        match palette {
            Some(entries) if entries.len() % 3 == 0 && (3..=768).contains(&entries.len()) => {
                self.palette = entries;
                Ok(())
            }
            Some(entries) => Err(corrupt(format!("a palette of {} bytes", entries.len()))),
            None => Err(corrupt("no palette".to_string())),
        }
    }

    fn pixel_bits(&self) -> u64 {
        let samples = match self.colour {
            Colour::Grey | Colour::Palette => 1,
            Colour::GreyAlpha => 2,
            Colour::Rgb => 3,
            Colour::Rgba => 4,
        };
        samples * u64::from(self.depth)
    }

    /// Bytes of a pixel, or 1 where it has less: how far filters look back.
    pub(super) fn pixel_bytes(&self) -> usize {
        (self.pixel_bits() as usize).div_ceil(8)
    }

    /// Bytes of `columns` pixels.
    pub(super) fn row_bytes(&self, columns: u32) -> u64 {
        (u64::from(columns) * self.pixel_bits()).div_ceil(8)
    }

    /// Whether a pixel is one byte.
    pub(super) fn is_byte(&self) -> bool {
        self.pixel_bits() == 8
    }

    /// What the pixels are, where they are not one value of at most 8 bits each.
    pub(super) fn not_values(&self) -> Option<String> {
        match self.colour {
            Colour::Grey | Colour::Palette if self.depth <= 8 => None,
            Colour::Grey => Some(format!("a PNG of {} bits", self.depth)),
            Colour::GreyAlpha => Some("a PNG with transparency".to_string()),
            _ => Some("a PNG in colour".to_string()),
        }
    }

    /// The largest value of such a pixel: all its bits are set.
    pub(super) fn value_max(&self) -> u8 {
        u8::MAX >> 8_u8.saturating_sub(self.depth)
    }

    /// Fills `out` with the values of grey or palette pixels, from the row's pixel `from` on.
    pub(super) fn to_values(self, row: &[u8], from: usize, out: &mut [u8]) {
        match self.depth {
            1 => expand::<1>(row, from, out),
            2 => expand::<2>(row, from, out),
            4 => expand::<4>(row, from, out),
            _ => out.copy_from_slice(&row[from..][..out.len()]),
        }
    }

    /// Fills `out` with RGB, from the row's pixel `from` on.
    pub(super) fn to_rgb(self, row: &[u8], from: usize, out: &mut [u8]) {
        let pixels = out.chunks_exact_mut(3);
        if self.depth < 8 {
            let depth = usize::from(self.depth);
            let most = (1 << depth) - 1;
            for (x, pixel) in (from..).zip(pixels) {
                let shift = 8 - depth - x * depth % 8;
                let value = row[x * depth / 8] >> shift & most;
                match self.colour {
                    Colour::Palette => pixel.copy_from_slice(&self.entry(value)),
                    _ => pixel.fill(value * (255 / most)),
                }
            }
            return;
        }
        let pixel_bytes = self.pixel_bytes();
        let from = &row[from * pixel_bytes..];
        match (self.colour, self.depth) {
            (Colour::Palette, _) => {
                for (pixel, &value) in pixels.zip(from) {
                    pixel.copy_from_slice(&self.entry(value));
                }
            }
            (Colour::Grey | Colour::GreyAlpha, 8) => {
                for (pixel, sample) in pixels.zip(from.chunks_exact(pixel_bytes)) {
                    pixel.fill(sample[0]);
                }
            }
            (Colour::Grey | Colour::GreyAlpha, _) => {
                for (pixel, sample) in pixels.zip(from.chunks_exact(pixel_bytes)) {
                    pixel.fill(shortened(sample[0], sample[1]));
                }
            }
            (Colour::Rgb | Colour::Rgba, 8) => {
                for (pixel, samples) in pixels.zip(from.chunks_exact(pixel_bytes)) {
                    pixel.copy_from_slice(&samples[..3]);
                }
            }
            (Colour::Rgb | Colour::Rgba, _) => {
                for (pixel, samples) in pixels.zip(from.chunks_exact(pixel_bytes)) {
                    for (value, sample) in pixel.iter_mut().zip(samples.chunks_exact(2)) {
                        *value = shortened(sample[0], sample[1]);
                    }
                }
            }
        }
    }

    /// A palette's colour; black beyond its end.
    fn entry(&self, index: u8) -> [u8; 3] {
        let at = 3 * usize::from(index);
        self.palette
            .get(at..at + 3)
            .map_or([0; 3], |colour| [colour[0], colour[1], colour[2]])
    }
}

/// Fills `out` with samples of `DEPTH` bits, from the row's sample `from` on.
fn expand<const DEPTH: usize>(row: &[u8], from: usize, out: &mut [u8]) {
    let most = u8::MAX >> (8 - DEPTH);
    let sample = |byte: u8, index: usize| byte >> (8 - DEPTH - index * DEPTH) & most;
    let a_byte = 8 / DEPTH;
    // Up to the next whole byte, whole bytes, and what is left of the last.
    let first = (from.next_multiple_of(a_byte) - from).min(out.len());
    let (head, out) = out.split_at_mut(first);
    for (x, value) in (from..).zip(head) {
        *value = sample(row[x / a_byte], x % a_byte);
    }
    let bytes = &row[(from + first) / a_byte..];
    let mut groups = out.chunks_exact_mut(a_byte);
    let whole = groups.len();
    for (values, &byte) in (&mut groups).zip(bytes) {
        for (index, value) in values.iter_mut().enumerate() {
            *value = sample(byte, index);
        }
    }
    for (index, value) in groups.into_remainder().iter_mut().enumerate() {
        *value = sample(bytes[whole], index);
    }
}

/// A 16-bit sample as a byte: `round(v * 255 / 65535)`.
fn shortened(high: u8, low: u8) -> u8 {
    ((u32::from(high) * 256 + u32::from(low) + 128) / 257) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_rounded() {
        for value in 0..=u16::MAX {
            let [high, low] = value.to_be_bytes();
            let expected = (f64::from(value) * 255.0 / 65535.0).round() as u8;
            assert_eq!(shortened(high, low), expected, "{value}");
        }
    }
    /// Any run of a row's samples, against shifting them out one by one.
    #[test]
    fn samples_are_expanded() {
        fn check<const DEPTH: usize>() {
            let row: Vec<u8> = (0..20u8).map(|i| i.wrapping_mul(151) ^ 0x5c).collect();
            let all = row.len() * 8 / DEPTH;
            let bit = |at: usize| row[at / 8] >> (7 - at % 8) & 1;
            let value = |x: usize| (0..DEPTH).fold(0, |value, i| value << 1 | bit(x * DEPTH + i));
            for from in 0..all {
                for to in from..=all {
                    let mut out = vec![0xff; to - from];
                    expand::<DEPTH>(&row, from, &mut out);
                    assert!(
                        out.iter().copied().eq((from..to).map(value)),
                        "{from}..{to}"
                    );
                }
            }
        }
        check::<1>();
        check::<2>();
        check::<4>();
    }
}
