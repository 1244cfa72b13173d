//! The two passes of a resize, and the turn between them.
//!
//! Enters: bytes, and the weights of one axis. Leaves: bytes: sums of products in 32 bits,
//! rounded half up, shifted, and cut to 8 bits, which is the same in scalar and vector code.
//! Never: memory of its own.
//!
//! Both passes work on pixels that lie one below the other, so that many of them are summed
//! at once: the vertical one on rows as they are, the horizontal one on bands of [`BAND`] rows
//! that were turned, such that the rows of one byte lie side by side.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::Target;
use super::taps::{Tap, Taps};

/// Rows that the horizontal pass works on at once.
pub(super) const BAND: usize = 16;

/// One byte's column: its value in each row of a band.
pub(super) type Column = [u8; BAND];

/// Rows of bytes, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> Lines<'a> {
    /// Row `index`, or the last one, from its byte `from` on.
    fn from(&self, index: usize, from: usize) -> &'a [u8] {
        &self.bytes[index.min(self.count - 1) * self.stride + from..]
    }
}

/// Where the samples of a row go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrangement {
    /// From one column to the next.
    column_step: usize,
    /// From one channel to the next.
    channel_step: usize,
    /// The last column comes first.
    mirrored: bool,
}

impl Arrangement {
    pub(super) fn of(target: Target) -> Arrangement {
        let (column_step, channel_step) = match target.planar {
            true => (1, target.width as usize),
            false => (3, 1),
        };
        Arrangement {
            column_step,
            channel_step,
            mirrored: target.mirrored,
        }
    }

    /// Where the first channel of column `index` of `width` goes.
    #[inline(always)]
    fn place(&self, index: usize, width: usize) -> usize {
        let column = if self.mirrored {
            width - 1 - index
        } else {
            index
        };
        column * self.column_step
    }
}

/// The three steps, as the CPU does them best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernels {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Kernels {
    pub(super) fn of_this_cpu() -> Kernels {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return Kernels::Avx2;
        }
        Kernels::Portable
    }

    /// One row of the vertical pass: `out` from the same bytes, `from` on, of `tap`'s rows.
    pub(super) fn down(
        self,
        lines: Lines<'_>,
        from: usize,
        tap: Tap<'_>,
        places: u32,
        out: &mut [u8],
    ) {
        match self {
            Kernels::Portable => down(lines, from, tap, places, out),
            // SAFETY: `of_this_cpu` found AVX2.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => unsafe { x86::down(lines, from, tap, places, out) },
        }
    }

    /// The horizontal pass over a band of turned RGB rows, whose columns begin with pixel
    /// `first`: the columns of `to` that `arrangement` names. One pixel more than the taps
    /// reach must be there; its value is of no account.
    pub(super) fn across(
        self,
        columns: &[Column],
        first: usize,
        taps: &Taps,
        arrangement: Arrangement,
        to: &mut [Column],
    ) {
        match self {
            Kernels::Portable => across(columns, first, taps, arrangement, to),
            // SAFETY: `of_this_cpu` found AVX2.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => unsafe { x86::across(columns, first, taps, arrangement, to) },
        }
    }

    /// Turns a band: `columns` from the same number of bytes, `from` on, of [`BAND`] rows. Where
    /// there are fewer, the last stands for those that lack.
    pub(super) fn turn(self, lines: Lines<'_>, from: usize, columns: &mut [Column]) {
        match self {
            Kernels::Portable => turn(lines, from, columns),
            // SAFETY: `of_this_cpu` found AVX2.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => unsafe { x86::turn(lines, from, columns) },
        }
    }

    /// Turns a band back: [`BAND`] rows of `columns.len()` bytes, without gaps.
    pub(super) fn turn_back(self, columns: &[Column], rows: &mut [u8]) {
        match self {
            Kernels::Portable => turn_back(columns, rows),
            // SAFETY: `of_this_cpu` found AVX2.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => unsafe { x86::turn_back(columns, rows) },
        }
    }
}

/// Bytes that are summed at a time.
const PIECE: usize = 64;

fn down(lines: Lines<'_>, from: usize, tap: Tap<'_>, places: u32, out: &mut [u8]) {
    for (piece, out) in out.chunks_mut(PIECE).enumerate() {
        let at = from + piece * PIECE;
        let mut sums = [1i32 << (places - 1); PIECE];
        for (row, pair) in (tap.start..).step_by(2).zip(tap.pairs) {
            let above = &lines.from(row, at)[..out.len()];
            let below = &lines.from(row + 1, at)[..out.len()];
            add(&mut sums, above, below, *pair);
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = byte(sum, places);
        }
    }
}

fn across(
    columns: &[Column],
    first: usize,
    taps: &Taps,
    arrangement: Arrangement,
    to: &mut [Column],
) {
    let width = to.len() / 3;
    for (index, tap) in taps.each().enumerate() {
        let place = arrangement.place(index, width);
        for channel in 0..3 {
            let mut sums = [1i32 << (taps.places() - 1); BAND];
            let from = (tap.start - first) * 3 + channel;
            for (at, pair) in (from..).step_by(6).zip(tap.pairs) {
                add(&mut sums, &columns[at], &columns[at + 3], *pair);
            }
            to[place + channel * arrangement.channel_step] =
                sums.map(|sum| byte(sum, taps.places()));
        }
    }
}

#[inline(always)]
fn add(sums: &mut [i32], one: &[u8], other: &[u8], [weight, next]: [i16; 2]) {
    for (sum, (one, other)) in sums.iter_mut().zip(one.iter().zip(other)) {
        *sum += i32::from(*one) * i32::from(weight) + i32::from(*other) * i32::from(next);
    }
}

fn byte(sum: i32, places: u32) -> u8 {
    (sum >> places).clamp(0, 255) as u8
}

fn turn(lines: Lines<'_>, from: usize, columns: &mut [Column]) {
    for row in 0..BAND {
        let bytes = &lines.from(row, from)[..columns.len()];
        for (column, byte) in columns.iter_mut().zip(bytes) {
            column[row] = *byte;
        }
    }
}

fn turn_back(columns: &[Column], rows: &mut [u8]) {
    for (row, line) in rows.chunks_exact_mut(columns.len()).enumerate() {
        for (byte, column) in line.iter_mut().zip(columns) {
            *byte = column[row];
        }
    }
}
