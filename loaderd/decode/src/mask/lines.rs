//! A mask's lines, written in any order.
//!
//! Enters: the columns that show the picture; then for one line after the other its pixels there, or the
//! word that it is like the one before. Leaves: the lines, with borders at both ends. Never: a
//! line that is not asked for.

/// Writes lines to a mask.
pub(super) struct Lines<'a> {
    out: &'a mut [u8],
    width: usize,
    /// Columns to the left of the picture.
    border: usize,
    /// Columns that show it.
    shown: usize,
    fill: u8,
    /// The line that was shown last.
    last: usize,
}

impl<'a> Lines<'a> {
    /// Of `width` columns, of which `shown` from `border` on show the picture.
    pub(super) fn new(
        out: &'a mut [u8],
        width: usize,
        border: usize,
        shown: usize,
        fill: u8,
    ) -> Lines<'a> {
        Lines {
            out,
            width,
            border,
            shown,
            fill,
            last: 0,
        }
    }

    /// A line that shows nothing of the picture.
    pub(super) fn blank(&mut self, index: usize) {
        self.out[index * self.width..][..self.width].fill(self.fill);
    }

    /// The pixels of a line that shows the picture, for the caller to write.
    pub(super) fn next(&mut self, index: usize) -> &mut [u8] {
        self.last = index;
        let line = &mut self.out[index * self.width..][..self.width];
        let (before, line) = line.split_at_mut(self.border);
        let (line, behind) = line.split_at_mut(self.shown);
        if self.shown < self.width {
            before.fill(self.fill);
            behind.fill(self.fill);
        }
        line
    }

    /// A line like the one that was shown last, of which there must be one.
    pub(super) fn repeat(&mut self, index: usize) {
        let last = self.last * self.width;
        self.out
            .copy_within(last..last + self.width, index * self.width);
    }
}
