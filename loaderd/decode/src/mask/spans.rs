//! One line of a mask, written run by run.
//!
//! Enters: which of the source's columns the line's pixels show, the same for all lines; then one
//! line's runs, from the left of the source. Leaves: the line. Never: work for each pixel of
//! the source.

use crate::opened::room;

/// A run is written in whole pieces of so many pixels, over what comes later or is not read.
const PIECE: usize = 32;

/// A line in the making.
pub(super) struct Spans<'a> {
    /// For each column of the source, and for the end, how many pixels show one before it.
    before: Vec<u32>,
    /// The line shows the source from its right end.
    mirrored: bool,
    /// The line, between two pieces.
    line: &'a mut [u8],
    /// Where in `line` the last run ended.
    at: usize,
}

/// Bytes of memory for so many columns of the source.
pub(super) fn scratch_bytes(columns: u32) -> u64 {
    (u64::from(columns) + 1) * size_of::<u32>() as u64
}

impl<'a> Spans<'a> {
    /// `across` are the columns shown, of `columns`: never falling, or never rising.
    pub(super) fn new(
        across: impl DoubleEndedIterator<Item = usize> + ExactSizeIterator + Clone,
        columns: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Spans<'a> {
        let len = across.len();
        let mirrored = across.clone().next() > across.clone().next_back();
        let mut before = Vec::with_capacity(columns + 1);
        let mut take = |(count, column): (usize, usize)| {
            // Columns up to this one have as many pixels before them, unless they had fewer.
            let known = before.len();
            before.resize((column + 1).max(known), count as u32);
        };
        if mirrored {
            across.rev().enumerate().for_each(&mut take);
        } else {
            across.enumerate().for_each(&mut take);
        }
        before.resize(columns + 1, len as u32);
        Spans {
            before,
            mirrored,
            line: room(scratch, len + 2 * PIECE),
            at: 0,
        }
    }

    /// Begins the next line.
    pub(super) fn begin(&mut self) {
        self.at = if self.mirrored {
            self.line.len() - PIECE
        } else {
            PIECE
        };
    }

    /// The source's columns from the last run's end, or from the first one, to `end` have this
    /// value.
    pub(super) fn put(&mut self, end: usize, value: u8) {
        let count = self.before[end] as usize;
        let mut at = self.at;
        if self.mirrored {
            let to = self.line.len() - PIECE - count;
            while at > to {
                self.line[at - PIECE..at].fill(value);
                at -= PIECE;
            }
            self.at = to;
        } else {
            let to = PIECE + count;
            while at < to {
                self.line[at..at + PIECE].fill(value);
                at += PIECE;
            }
            self.at = to;
        }
    }

    /// The line, once its runs reached the last column.
    pub(super) fn line(&self) -> &[u8] {
        &self.line[PIECE..self.line.len() - PIECE]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Forward, mirrored, enlarged and shrunk; lines one after the other.
        #[test]
        fn a_line_shows_the_columns(
            len in 1..300usize, scale in 0.0..5.0f64, start in 0..50usize, rest in 0..50usize,
            mirrored in any::<bool>(),
            lines in prop::collection::vec(prop::collection::vec((any::<u8>(), 1..99usize), 1..40), 1..4),
        ) {
            let mut across: Vec<usize> = (0..len).map(|x| start + (x as f64 * scale) as usize).collect();
            let columns = across[len - 1] + 1 + rest;
            if mirrored {
                across.reverse();
            }
            // Room that is larger, and was used.
            let mut scratch = vec![9; len + 500];
            let mut spans = Spans::new(across.iter().copied(), columns, &mut scratch);
            for runs in lines {
                let mut source = Vec::new();
                spans.begin();
                for (value, length) in runs {
                    source.extend(vec![value; length.min(columns - source.len())]);
                    spans.put(source.len(), value);
                }
                source.resize(columns, 7);
                spans.put(columns, 7);
                let expected: Vec<u8> = across.iter().map(|&column| source[column]).collect();
                prop_assert_eq!(spans.line(), expected);
            }
        }
    }
}
