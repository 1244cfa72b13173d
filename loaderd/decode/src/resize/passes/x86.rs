//! The passes with AVX2.
//!
//! Enters and leaves: what the portable code takes and gives, to the bit. Never: a look at
//! the CPU; the caller has looked.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_packus_epi16, _mm_storeu_si128,
    _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepu8_epi16, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32, _mm256_set_m128i, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_sra_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi8,
    _mm256_unpackhi_epi16, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16,
};

use super::{Arrangement, BAND, Column, Lines, PIECE};
use crate::resize::taps::{Tap, Taps};

/// Bytes of a register.
const WIDE: usize = 32;

/// Sums of 16 bytes: those of the first and third four, then those of the others.
type Sums = [__m256i; 2];

#[target_feature(enable = "avx2")]
pub(super) fn down(lines: Lines<'_>, from: usize, tap: Tap<'_>, places: u32, out: &mut [u8]) {
    if out.len() < PIECE {
        return super::down(lines, from, tap, places, out);
    }
    let last = out.len() - PIECE;
    // The last piece overlaps the one before it, and gives the same bytes there.
    for at in (0..last).step_by(PIECE).chain([last]) {
        let mut sums = [[_mm256_set1_epi32(1 << (places - 1)); 2]; PIECE / BAND];
        for (row, pair) in (tap.start..).step_by(2).zip(tap.pairs) {
            let above = lines.from(row, from + at)[..PIECE].as_chunks::<BAND>().0;
            let below = lines.from(row + 1, from + at)[..PIECE]
                .as_chunks::<BAND>()
                .0;
            for ((sums, above), below) in sums.iter_mut().zip(above).zip(below) {
                add(sums, above, below, weights(*pair));
            }
        }
        let out = out[at..at + PIECE].as_chunks_mut::<BAND>().0;
        for (out, sums) in out.iter_mut().zip(&sums) {
            store(sums, places, out);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn across(
    columns: &[Column],
    first: usize,
    taps: &Taps,
    arrangement: Arrangement,
    to: &mut [Column],
) {
    let (width, places) = (to.len() / 3, taps.places());
    for (index, tap) in taps.each().enumerate() {
        let mut sums = [[_mm256_set1_epi32(1 << (places - 1)); 2]; 3];
        let pixels = &columns[(tap.start - first) * 3..][..tap.pairs.len() * 6];
        for (two, pair) in pixels.as_chunks::<6>().0.iter().zip(tap.pairs) {
            let weights = weights(*pair);
            for (channel, sums) in sums.iter_mut().enumerate() {
                add(sums, &two[channel], &two[channel + 3], weights);
            }
        }
        let place = arrangement.place(index, width);
        for (channel, sums) in sums.iter().enumerate() {
            store(
                sums,
                places,
                &mut to[place + channel * arrangement.channel_step],
            );
        }
    }
}

#[target_feature(enable = "avx2")]
fn weights([weight, next]: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(i32::from(next) << 16 | i32::from(weight as u16))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: &mut Sums, one: &Column, other: &Column, weights: __m256i) {
    let one = _mm256_cvtepu8_epi16(load(one));
    let other = _mm256_cvtepu8_epi16(load(other));
    let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(one, other), weights);
    let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(one, other), weights);
    sums[0] = _mm256_add_epi32(sums[0], low);
    sums[1] = _mm256_add_epi32(sums[1], high);
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &Column) -> __m128i {
    // SAFETY: reads the 16 bytes, unaligned.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(sums: &Sums, places: u32, to: &mut Column) {
    let places = _mm_cvtsi32_si128(places as i32);
    let low = _mm256_sra_epi32(sums[0], places);
    let high = _mm256_sra_epi32(sums[1], places);
    // Both packs saturate, which is the cut to 8 bits.
    let words = _mm256_packs_epi32(low, high);
    let bytes = _mm_packus_epi16(
        _mm256_castsi256_si128(words),
        _mm256_extracti128_si256::<1>(words),
    );
    // SAFETY: writes the 16 bytes, unaligned.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), bytes) };
}

#[target_feature(enable = "avx2")]
pub(super) fn turn(lines: Lines<'_>, from: usize, columns: &mut [Column]) {
    if columns.len() < WIDE {
        return super::turn(lines, from, columns);
    }
    let last = columns.len() - WIDE;
    for at in (0..last).step_by(WIDE).chain([last]) {
        let mut block = [_mm256_setzero_si256(); BAND];
        for (row, bytes) in block.iter_mut().enumerate() {
            let line = &lines.from(row, from + at)[..WIDE];
            // SAFETY: reads the 32 bytes, unaligned.
            *bytes = unsafe { _mm256_loadu_si256(line.as_ptr().cast()) };
        }
        shuffle(&mut block);
        let (low, high) = columns[at..at + WIDE].split_at_mut(BAND);
        for ((low, high), column) in low.iter_mut().zip(high).zip(block) {
            let halves = (
                _mm256_castsi256_si128(column),
                _mm256_extracti128_si256::<1>(column),
            );
            // SAFETY: writes the 16 bytes of each column, unaligned.
            unsafe {
                _mm_storeu_si128(low.as_mut_ptr().cast(), halves.0);
                _mm_storeu_si128(high.as_mut_ptr().cast(), halves.1);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn turn_back(columns: &[Column], rows: &mut [u8]) {
    let stride = columns.len();
    if stride < WIDE {
        return super::turn_back(columns, rows);
    }
    let last = stride - WIDE;
    for at in (0..last).step_by(WIDE).chain([last]) {
        let mut block = [_mm256_setzero_si256(); BAND];
        let (low, high) = columns[at..at + WIDE].split_at(BAND);
        for (column, (low, high)) in block.iter_mut().zip(low.iter().zip(high)) {
            *column = _mm256_set_m128i(load(high), load(low));
        }
        shuffle(&mut block);
        for (row, bytes) in block.iter().enumerate() {
            let line = &mut rows[row * stride + at..][..WIDE];
            // SAFETY: writes the 32 bytes, unaligned.
            unsafe { _mm256_storeu_si256(line.as_mut_ptr().cast(), *bytes) };
        }
    }
}

/// Exchanges rows and columns of the 16 x 16 bytes in the registers' lower halves, and of
/// those in the upper ones. Interleaving register i with i + 8 moves one bit of a byte's row
/// number into its column number, and one the other way; four times, and all have moved.
#[inline]
#[target_feature(enable = "avx2")]
fn shuffle(block: &mut [__m256i; BAND]) {
    for _ in 0..4 {
        let before = *block;
        for index in 0..BAND / 2 {
            let (one, other) = (before[index], before[index + BAND / 2]);
            block[2 * index] = _mm256_unpacklo_epi8(one, other);
            block[2 * index + 1] = _mm256_unpackhi_epi8(one, other);
        }
    }
}
