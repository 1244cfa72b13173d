//! Where the segments of a tiled JPEG lie: what would be known before it is read.
//!
//! Enters: a tiled JPEG, later a crop's rows and some of the file's bytes. Leaves: the range of
//! the file that holds these rows, and a file in which all other segments are empty. Never: a
//! part of a row of segments.
//!
//! A file with empty segments is cut and decoded by the code that is there: it counts restart
//! markers, and never looks into segments that it leaves out.

use std::ops::Range;

use loaderd_decode::cut::{Cuttable, Region};

/// Size, orientation, kind of MCU, segments in a row, bytes of the header: what a crop is drawn
/// from, and what leads from it to rows.
const FIXED_BYTES: usize = 8;
const RST0: u8 = 0xd0;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP0: u8 = 0xe0;
const APP14: u8 = 0xee;
const APP15: u8 = 0xef;
const COM: u8 = 0xfe;

/// The rows of segments of one JPEG.
pub(crate) struct Index {
    /// Bytes before the entropy-coded data.
    head: u32,
    /// Those of them that decoding takes.
    tables: u32,
    /// Where each row begins, its segments' markers behind them, and where the last one ends.
    starts: Vec<u32>,
    /// Segments of a row.
    across: u32,
    /// Pixels of a row, from top to bottom.
    row_pixels: u32,
}

impl Index {
    /// None where the JPEG can't be cut, or where a row takes more bytes than an index of 16
    /// bits a row could tell.
    pub(crate) fn of(jpeg: &[u8]) -> Option<Index> {
        let cuttable = Cuttable::of(jpeg)?;
        let (across, rows) = cuttable.segments();
        let (head, tables) = head_of(jpeg)?;
        let mut starts = vec![head as u32];
        let markers = memchr::memchr_iter(0xff, &jpeg[head..]).map(|at| head + at);
        let mut segments = 0;
        for at in markers.filter(|&at| jpeg.get(at + 1) != Some(&0)) {
            segments += 1;
            if segments % across == 0 {
                starts.push(at as u32 + 2);
            }
            if segments == across * rows {
                let fits = starts.windows(2).all(|row| row[1] - row[0] <= 0xffff);
                let first = Region {
                    left: 0,
                    right: 1,
                    top: 0,
                    bottom: 1,
                };
                return fits.then(|| Index {
                    head: head as u32,
                    tables: tables as u32,
                    starts,
                    across,
                    row_pixels: cuttable.window(&first, 8).height,
                });
            }
        }
        None
    }

    /// Bytes before the entropy-coded data.
    pub(crate) fn head(&self) -> Range<u32> {
        0..self.head
    }

    /// Bytes of the header without what only describes the picture.
    pub(crate) fn table_bytes(&self) -> usize {
        self.tables as usize
    }

    /// Rows of segments.
    pub(crate) fn rows(&self) -> u32 {
        self.starts.len() as u32 - 1
    }

    /// The rows that decoding `region` of the picture, at `eighths`/8 of its size, takes. All of
    /// them down to its last where it is not cut, since the decoder then begins at the top.
    pub(crate) fn wanted(&self, jpeg: &[u8], region: &Region, eighths: u32) -> Option<Range<u32>> {
        let window = Cuttable::of(jpeg)?.window(region, eighths);
        // What lies above the cut picture, at full size.
        let above = (region.top - window.region.top) * 8 / eighths;
        let first = above / self.row_pixels;
        let end = (above + window.height).div_ceil(self.row_pixels);
        Some(if window.pays() { first..end } else { 0..end })
    }

    /// Where these rows lie in the file.
    pub(crate) fn bytes(&self, rows: &Range<u32>) -> Range<u32> {
        self.starts[rows.start as usize]..self.starts[rows.end as usize]
    }

    /// These rows, and as many around them as an index of `bands` bands can't tell from them.
    pub(crate) fn banded(&self, rows: &Range<u32>, bands: u32) -> Range<u32> {
        let band = self.rows().div_ceil(bands);
        let end = rows.end.next_multiple_of(band).min(self.rows());
        rows.start / band * band..end
    }

    /// Bytes of the index with at most `bands` bands, 16 bits each.
    pub(crate) fn stored_bytes(&self, bands: u32) -> usize {
        let band = self.rows().div_ceil(bands);
        FIXED_BYTES + 2 * self.rows().div_ceil(band) as usize
    }

    /// Writes a file that has the segments of `rows`, whose bytes are `data`, and none of the
    /// others' to `out`, whose old contents are lost.
    pub(crate) fn rebuild(&self, head: &[u8], data: &[u8], rows: &Range<u32>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(head);
        let count = self.across * self.rows();
        let empty = |segments: Range<u32>, out: &mut Vec<u8>| {
            for number in segments {
                let last = number + 1 == count;
                out.extend([0xff, if last { EOI } else { RST0 + (number % 8) as u8 }]);
            }
        };
        empty(0..rows.start * self.across, out);
        out.extend_from_slice(data);
        empty(rows.end * self.across..count, out);
    }
}

/// Bytes up to the end of the first scan's header, and those of them that decoding takes.
fn head_of(jpeg: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut tables) = (2, 2);
    loop {
        let &[0xff, marker, high, low] = jpeg.get(at..at + 4)? else {
            return None;
        };
        let bytes = 2 + usize::from(u16::from_be_bytes([high, low]));
        at += bytes;
        // Of the metadata, these two say which colours there are.
        if !matches!(marker, APP0..=APP15 | COM) || matches!(marker, APP0 | APP14) {
            tables += bytes;
        }
        if marker == SOS {
            return Some((at, tables));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::drawn;

    #[test]
    fn all_rows_are_the_file() {
        let jpeg = drawn(3).unwrap();
        let index = Index::of(&jpeg).unwrap();
        let bytes = |range: Range<u32>| &jpeg[range.start as usize..range.end as usize];
        let rows = 0..index.rows();
        let mut out = vec![1, 2, 3];
        index.rebuild(
            bytes(index.head()),
            bytes(index.bytes(&rows)),
            &rows,
            &mut out,
        );
        assert_eq!(out, jpeg);
    }

    #[test]
    fn metadata_are_no_tables() {
        let plain = drawn(3).unwrap();
        let comment = [0xff, COM, 0, 5, 1, 2, 3];
        let jpeg = [&plain[..2], &comment, &plain[2..]].concat();
        let (index, plain) = (Index::of(&jpeg).unwrap(), Index::of(&plain).unwrap());
        assert_eq!(index.head().len(), plain.head().len() + comment.len());
        assert_eq!(index.table_bytes(), plain.head().len());
        assert_eq!(index.table_bytes(), plain.table_bytes());
    }

    #[test]
    fn some_rows_leave_a_whole_picture() {
        let jpeg = drawn(3).unwrap();
        let index = Index::of(&jpeg).unwrap();
        let bytes = |range: Range<u32>| &jpeg[range.start as usize..range.end as usize];
        let rows = 2..4;
        let mut out = Vec::new();
        index.rebuild(
            bytes(index.head()),
            bytes(index.bytes(&rows)),
            &rows,
            &mut out,
        );
        assert!(out.len() < jpeg.len() / 2);
        assert!(Cuttable::of(&out).unwrap().is_complete());
        assert_eq!(
            Index::of(&out).unwrap().bytes(&(2..4)).len(),
            index.bytes(&rows).len()
        );
    }

    #[test]
    fn rows_follow_from_regions() {
        let jpeg = drawn(3).unwrap();
        let index = Index::of(&jpeg).unwrap();
        let check = |top, bottom, expected: Range<u32>| {
            // Narrow, so that it is always cut.
            let region = Region {
                left: 100,
                right: 160,
                top,
                bottom,
            };
            assert_eq!(index.wanted(&jpeg, &region, 8), Some(expected));
        };
        // Rows are 16 pixels high; the neighbours of a chroma sample are taken along.
        assert_eq!(index.rows(), 375_u32.div_ceil(16));
        check(0, 14, 0..1);
        check(0, 15, 0..2);
        check(33, 40, 1..3);
        check(34, 40, 2..3);
        check(370, 375, 23..24);
        let whole = Region {
            left: 0,
            right: 500,
            top: 17,
            bottom: 300,
        };
        assert_eq!(index.wanted(&jpeg, &whole, 8), Some(0..19));
    }

    #[test]
    fn bands_hold_their_rows() {
        let index = Index {
            head: 9,
            tables: 9,
            starts: (0..25).map(|row| 9 + 100 * row).collect(),
            across: 4,
            row_pixels: 16,
        };
        let check = |rows: Range<u32>, bands, expected| {
            assert_eq!(index.banded(&rows, bands), expected);
        };
        check(5..6, 24, 5..6);
        check(5..6, 8, 3..6);
        check(5..7, 8, 3..9);
        check(23..24, 7, 20..24);
        assert_eq!(index.stored_bytes(u32::MAX), 8 + 48);
        assert_eq!(index.stored_bytes(8), 8 + 16);
        assert_eq!(index.stored_bytes(7), 8 + 12);
    }
}
