//! A mask's lines, written in any order.
//!
//! Enters: what of the source each of the output's columns shows; then for one line after the
//! other its source, or the word that it is like the one before. Leaves: the lines, with borders
//! at both ends. Never: a line that is not asked for.

use super::columns::Columns;

/// Writes lines to a mask.
pub(super) struct Lines<'a> {
    out: &'a mut [u8],
    width: usize,
    /// Columns to the left of the picture.
    border: usize,
    across: Columns,
    fill: u8,
    /// The line that was shown last.
    last: usize,
}

impl<'a> Lines<'a> {
    /// Of `width` columns, of which those from `border` on show what `across` picks.
    pub(super) fn new(
        out: &'a mut [u8],
        width: usize,
        border: usize,
        across: Columns,
        fill: u8,
    ) -> Lines<'a> {
        Lines {
            out,
            width,
            border,
            across,
            fill,
            last: 0,
        }
    }

    /// A line that shows nothing of the picture.
    pub(super) fn blank(&mut self, index: usize) {
        self.out[index * self.width..][..self.width].fill(self.fill);
    }

    /// A line that shows `source`.
    pub(super) fn show(&mut self, index: usize, source: &[u8]) {
        let line = &mut self.out[index * self.width..][..self.width];
        let (before, line) = line.split_at_mut(self.border);
        let (line, behind) = line.split_at_mut(self.across.len());
        before.fill(self.fill);
        behind.fill(self.fill);
        self.across.pick(source, line);
        self.last = index;
    }

    /// A line like the one that was shown last, of which there must be one.
    pub(super) fn repeat(&mut self, index: usize) {
        let last = self.last * self.width;
        self.out
            .copy_within(last..last + self.width, index * self.width);
    }
}
