//! Rows of a resized picture → their places in the output, one after the other.
//!
//! Enters: where the picture lies in the output, and its rows, laid out and mirrored like the
//! output. Leaves: the output filled, as [`write`](super::write) would. Never: a row twice.

use super::{Frame, Levels, Runs};
use crate::transforms::Layout;

/// One image's place in a batch, while its rows come in.
pub(crate) struct Slot<'a> {
    /// Of the picture, though its pixels are not there yet.
    frame: Frame<'a>,
    levels: &'a Levels,
    out: &'a mut [u8],
}

impl<'a> Slot<'a> {
    /// Blackens the borders that the frame leaves in `out`, whose length must be the output's
    /// bytes.
    pub(crate) fn new(frame: &Frame<'_>, levels: &'a Levels, out: &'a mut [u8]) -> Slot<'a> {
        let frame = Frame {
            pixels: &[],
            ..*frame
        };
        if frame.bordered() {
            let nothing = Frame {
                columns: (0, 0),
                rows: (0, 0),
                ..frame
            };
            super::write(&nothing, levels, out);
        }
        let samples = 3 * frame.width * frame.height;
        assert_eq!(out.len(), samples * levels.dtype.itemsize() as usize);
        Slot { frame, levels, out }
    }

    /// Writes row `row` of the picture: all its samples of one channel after those of another
    /// under [`Layout::Nchw`], else pixel by pixel; mirrored already.
    pub(crate) fn put(&mut self, row: usize, samples: &[u8]) {
        let (layout, levels) = (self.frame.layout, self.levels);
        let slot = self;
        super::convert(layout, levels, Row { slot, row, samples });
    }
}

/// A row of a picture on its way into the slot.
struct Row<'a, 'b> {
    slot: &'a mut Slot<'b>,
    row: usize,
    samples: &'a [u8],
}

impl Runs for Row<'_, '_> {
    #[inline(always)]
    fn each<const SIZE: usize>(self, convert: impl Fn(usize, &[u8], &mut [u8])) {
        let Row { slot, row, samples } = self;
        let Frame { width, height, .. } = slot.frame;
        let (from, to) = slot.frame.columns;
        assert_eq!(samples.len(), 3 * (to - from), "a whole row");
        let row = slot.frame.output_row(slot.frame.rows.0 + row);
        let column = if slot.frame.flipped { width - to } else { from };
        let at = row * width + column;
        match slot.frame.layout {
            Layout::Nchw => {
                for (channel, bytes) in samples.chunks_exact(to - from).enumerate() {
                    let at = (channel * width * height + at) * SIZE;
                    convert(channel, bytes, &mut slot.out[at..at + bytes.len() * SIZE]);
                }
            }
            Layout::Nhwc => {
                let at = 3 * at * SIZE;
                convert(0, samples, &mut slot.out[at..at + samples.len() * SIZE]);
            }
        }
    }
}
