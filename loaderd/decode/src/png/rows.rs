//! Compressed image data → unfiltered rows → RGB.
//!
//! Enters: IDAT chunks, a row's length. Leaves: one row after the other, in samples as
//! the file has them and, where asked for, as RGB. Never: more than two rows in memory.

use std::mem;

use zlib_rs::{Inflate, InflateFlush};

use super::{corrupt, image_data};
use crate::error::DecodeError;

/// Window of a zlib stream, as large as there is; the stream's own may be smaller.
const WINDOW_BITS: u8 = 15;

/// Rows in the order of the file, unfiltered (section 9).
pub(super) struct Rows<'a, I> {
    inflate: Inflate,
    chunks: I,
    input: &'a [u8],
    /// The row in hand and the one above it; each starts with its filter's number.
    current: Vec<u8>,
    above: Vec<u8>,
}

impl<'a> Rows<'a, ()> {
    /// Rows of at most `bytes` bytes from the image data that `data` begins with.
    pub(super) fn new(data: &'a [u8], bytes: usize) -> Rows<'a, impl Iterator<Item = &'a [u8]>> {
        Rows {
            inflate: Inflate::new(true, WINDOW_BITS),
            chunks: image_data(data),
            input: &[],
            current: vec![0; bytes + 1],
            above: vec![0; bytes + 1],
        }
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Rows<'a, I> {
    /// The next row is the first of an image or of a pass of one.
    pub(super) fn begin_pass(&mut self) {
        self.current.fill(0);
    }

    /// The next row, `bytes` long, of which the first `wanted` are unfiltered: as many in
    /// every row of a pass. A pixel has `pixel_bytes`, at least 1.
    pub(super) fn next(
        &mut self,
        bytes: usize,
        wanted: usize,
        pixel_bytes: usize,
    ) -> Result<&[u8], DecodeError> {
        mem::swap(&mut self.current, &mut self.above);
        self.fill(bytes + 1)?;
        let (filter, row) = self.current.split_at_mut(1);
        let (row, above) = (&mut row[..wanted], &self.above[1..=wanted]);
        match pixel_bytes {
            1 => unfilter::<1>(filter[0], row, above),
            2 => unfilter::<2>(filter[0], row, above),
            3 => unfilter::<3>(filter[0], row, above),
            4 => unfilter::<4>(filter[0], row, above),
            6 => unfilter::<6>(filter[0], row, above),
            _ => unfilter::<8>(filter[0], row, above),
        }?;
        Ok(row)
    }

    /// Decompresses into the first `bytes` of the current row.
    fn fill(&mut self, bytes: usize) -> Result<(), DecodeError> {
        let mut filled = 0;
        while filled < bytes {
            if self.input.is_empty() {
                self.input = self
                    .chunks
                    .next()
                    .ok_or_else(|| corrupt("the image data end early".to_string()))?;
                continue;
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let room = &mut self.current[filled..bytes];
            self.inflate
                .decompress(self.input, room, InflateFlush::NoFlush)
                .map_err(|error| corrupt(format!("the image data: {}", error.as_str())))?;
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            if (read, written) == (0, 0) {
                // The stream has ended before the image.
                return Err(corrupt("the image data end early".to_string()));
            }
            self.input = &self.input[read..];
            filled += written;
        }
        Ok(())
    }
}

/// Undoes one row's filter, in place.
fn unfilter<const PIXEL: usize>(
    filter: u8,
    row: &mut [u8],
    above: &[u8],
) -> Result<(), DecodeError> {
    match filter {
        0 => {}
        1 => {
            let mut left = [0u8; PIXEL];
            for pixel in row.chunks_exact_mut(PIXEL) {
                for (value, left) in pixel.iter_mut().zip(&mut left) {
                    *value = value.wrapping_add(*left);
                    *left = *value;
                }
            }
        }
        2 => {
            for (value, up) in row.iter_mut().zip(above) {
                *value = value.wrapping_add(*up);
            }
        }
        3 => {
            let mut left = [0u8; PIXEL];
            for (pixel, up) in row.chunks_exact_mut(PIXEL).zip(above.chunks_exact(PIXEL)) {
                for i in 0..PIXEL {
                    let mean = (u16::from(left[i]) + u16::from(up[i])) / 2;
                    pixel[i] = pixel[i].wrapping_add(mean as u8);
                    left[i] = pixel[i];
                }
            }
        }
        4 if PIXEL == 1 => unfilter_bytes(row, above),
        4 => {
            let (mut left, mut corner) = ([0u8; PIXEL], [0u8; PIXEL]);
            for (pixel, up) in row.chunks_exact_mut(PIXEL).zip(above.chunks_exact(PIXEL)) {
                for i in 0..PIXEL {
                    pixel[i] = pixel[i].wrapping_add(paeth(left[i], up[i], corner[i]));
                    left[i] = pixel[i];
                    corner[i] = up[i];
                }
            }
        }
        _ => return Err(corrupt(format!("a row with filter {filter}"))),
    }
    Ok(())
}

/// Undoes filter 4 where a pixel is a byte, as in masks, which are mostly the row above.
fn unfilter_bytes(row: &mut [u8], above: &[u8]) {
    let (mut left, mut corner) = (0u8, 0u8);
    for (values, above) in row.chunks_mut(16).zip(above.chunks(16)) {
        // While left and corner are equal, what is above is the guess, and with no
        // difference to it they stay so.
        if left == corner && *values == [0; 16] {
            values.copy_from_slice(above);
            (left, corner) = (above[15], above[15]);
            continue;
        }
        for (value, &up) in values.iter_mut().zip(above) {
            left = value.wrapping_add(paeth(left, up, corner));
            corner = up;
            *value = left;
        }
    }
}

/// Whichever of left, up and corner lies nearest to left + up - corner (section 9.4).
fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let (a, b, c) = (i16::from(left), i16::from(up), i16::from(corner));
    let (to_left, to_up) = ((b - c).abs(), (a - c).abs());
    let to_corner = (a + b - 2 * c).abs();
    if to_left <= to_up && to_left <= to_corner {
        left
    } else if to_up <= to_corner {
        up
    } else {
        corner
    }
}

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

    /// What the pixels are, where they are not one value of at most 8 bits each.
    pub(super) fn not_values(&self) -> Option<String> {
        match self.colour {
            Colour::Grey | Colour::Palette if self.depth <= 8 => None,
            Colour::Grey => Some(format!("a PNG of {} bits", self.depth)),
            Colour::GreyAlpha => Some("a PNG with transparency".to_string()),
            _ => Some("a PNG in colour".to_string()),
        }
    }

    /// Fills `out` with the values of grey or palette pixels, from the row's pixel `from` on.
    pub(super) fn to_values(self, row: &[u8], from: usize, out: &mut [u8]) {
        if self.depth == 8 {
            out.copy_from_slice(&row[from..][..out.len()]);
            return;
        }
        let depth = usize::from(self.depth);
        for (x, value) in (from..).zip(out) {
            let shift = 8 - depth - x * depth % 8;
            *value = row[x * depth / 8] >> shift & ((1 << depth) - 1);
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

    /// Filters as section 9.2 defines them, sample by sample.
    #[test]
    fn filters_are_undone() {
        fn check<const PIXEL: usize>() {
            let mut state = 1u32;
            let mut noise = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let above: Vec<u8> = (0..5 * PIXEL).map(|_| noise()).collect();
            let plain: Vec<u8> = (0..5 * PIXEL).map(|_| noise()).collect();
            for filter in 0..5 {
                let mut row: Vec<u8> = (0..plain.len())
                    .map(|x| {
                        let behind = |row: &[u8]| x.checked_sub(PIXEL).map_or(0, |at| row[at]);
                        let (a, b, c) = (behind(&plain), above[x], behind(&above));
                        let guess = match filter {
                            0 => 0,
                            1 => a,
                            2 => b,
                            3 => ((u16::from(a) + u16::from(b)) / 2) as u8,
                            _ => {
                                let p = i32::from(a) + i32::from(b) - i32::from(c);
                                [a, b, c]
                                    .into_iter()
                                    .min_by_key(|&value| (p - i32::from(value)).abs())
                                    .unwrap()
                            }
                        };
                        plain[x].wrapping_sub(guess)
                    })
                    .collect();
                unfilter::<PIXEL>(filter, &mut row, &above).unwrap();
                assert_eq!(row, plain, "filter {filter} of {PIXEL} bytes");
            }
            assert!(unfilter::<PIXEL>(5, &mut [0; 8], &[0; 8]).is_err());
        }
        check::<1>();
        check::<2>();
        check::<3>();
        check::<4>();
        check::<6>();
        check::<8>();
    }

    /// As a mask has it: long runs that are like the row above.
    #[test]
    fn runs_are_copied() {
        let above: Vec<u8> = (0..100).map(|x| x / 23).collect();
        let plain: Vec<u8> = (0..100).map(|x| if x < 61 { x / 23 } else { 9 }).collect();
        let mut row: Vec<u8> = (0..plain.len())
            .map(|x| {
                let behind = |row: &[u8]| x.checked_sub(1).map_or(0, |at| row[at]);
                plain[x].wrapping_sub(paeth(behind(&plain), above[x], behind(&above)))
            })
            .collect();
        assert!(row[..48].iter().all(|&value| value == 0));
        unfilter::<1>(4, &mut row, &above).unwrap();
        assert_eq!(row, plain);
    }
}
