//! The ways of reading a row: whole, or the part of it that its crop takes.
//!
//! Enters: rows in order. Leaves: each row's bytes, in one or two pieces, as soon as they are all
//! there, with what reading took. Never: measures, or reads a row's pieces one after the other.

use std::ops::Range;

use anyhow::Result;
use loaderd_measure::reader::OneFile;
use loaderd_read::{Buffer, Extent};

use crate::pictures::Picture;
use crate::rows::Row;

/// Header and segments nearer to each other than this are read at once.
const GAP_MAX: u32 = 16 << 10;

/// What is read of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All of it.
    Whole,
    /// From its beginning to the last segment that is wanted.
    Beginning,
    /// Its header, and the wanted rows of segments.
    TwoParts,
    /// The wanted rows of segments; the header is known.
    Segments,
}

impl Way {
    pub(crate) const ALL: [Way; 4] = [Way::Whole, Way::Beginning, Way::TwoParts, Way::Segments];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Whole => "whole",
            Way::Beginning => "beginning to last segment",
            Way::TwoParts => "header, segments",
            Way::Segments => "segments, header in the index",
        }
    }

    /// What is read of a row's JPEG: one range, or the header's and that of the segments.
    fn ranges(self, row: &Row, picture: &Picture) -> (Range<u32>, Option<Range<u32>>) {
        let index = &picture.index;
        let segments = index.bytes(&row.wanted);
        match self {
            Way::Whole => (0..picture.jpeg.len() as u32, None),
            Way::Beginning => (0..segments.end, None),
            Way::Segments => (segments, None),
            Way::TwoParts if segments.start - index.head().end < GAP_MAX => (0..segments.end, None),
            Way::TwoParts => (index.head(), Some(segments)),
        }
    }
}

/// One row's bytes, as they came.
pub(crate) struct Parts<'a> {
    way: Way,
    first: &'a [u8],
    second: Option<&'a [u8]>,
}

impl Parts<'_> {
    /// A JPEG that the row's crop can be decoded from, put together in `room` unless the whole
    /// file was read.
    pub(crate) fn jpeg<'a>(
        &'a self,
        row: &Row,
        picture: &Picture,
        room: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let index = &picture.index;
        let head = index.head().end as usize;
        let (first, rows) = (self.first, row.wanted.clone());
        let (head, data, rows) = match (self.way, self.second) {
            (Way::Whole, _) => return first,
            (Way::Segments, _) => (&picture.jpeg[..head], first, rows),
            (_, Some(second)) => (first, second, rows),
            (_, None) => (&first[..head], &first[head..], 0..rows.end),
        };
        index.rebuild(head, data, &rows, room);
        room
    }
}

/// Reads all rows, and calls `take` for each as soon as it is there.
///
/// # Errors
/// The first read or `take` that fails.
pub(crate) fn read(
    source: &mut OneFile,
    way: Way,
    rows: &[Row],
    pictures: &[Picture],
    take: &mut dyn FnMut(&Row, &Parts<'_>) -> Result<()>,
) -> Result<()> {
    // Of rows in two parts, the one that came first.
    let mut halves: Vec<Option<Buffer>> = Vec::new();
    halves.resize_with(rows.len(), || None);
    let mut lane = Lane {
        way,
        rows,
        pictures,
        halves,
        take,
    };
    // One row at most is asked for in half, so the others always come to their end.
    let extents = (0..).zip(rows).flat_map(|(at, row)| {
        let (first, second) = way.ranges(row, &pictures[row.picture]);
        let parts = (at * 2..).zip(std::iter::once(first).chain(second));
        parts.map(move |(tag, range)| {
            let extent = Extent {
                offset: row.offset + u64::from(range.start),
                length: range.end - range.start,
                file: 0,
            };
            (tag, extent)
        })
    });
    source.read(extents, &mut |tag, buffer| lane.arrived(tag, buffer))
}

/// Rows under way.
struct Lane<'a> {
    way: Way,
    rows: &'a [Row],
    pictures: &'a [Picture],
    halves: Vec<Option<Buffer>>,
    take: &'a mut dyn FnMut(&Row, &Parts<'_>) -> Result<()>,
}

impl Lane<'_> {
    fn arrived(&mut self, tag: u64, buffer: Buffer) -> Result<()> {
        let (at, part) = ((tag / 2) as usize, tag % 2);
        let row = &self.rows[at];
        let (_, second) = self.way.ranges(row, &self.pictures[row.picture]);
        let mut parts = Parts {
            way: self.way,
            first: &buffer,
            second: None,
        };
        if second.is_none() {
            return (self.take)(row, &parts);
        }
        let Some(other) = self.halves[at].take() else {
            self.halves[at] = Some(buffer);
            return Ok(());
        };
        let (first, second) = match part {
            0 => (&buffer, &other),
            _ => (&other, &buffer),
        };
        parts.first = first;
        parts.second = Some(second);
        (self.take)(row, &parts)
    }
}

#[cfg(test)]
mod tests {
    use loaderd_read::Mode;

    use super::*;
    use crate::pictures::Pictures;
    use crate::rows::Rows;

    #[test]
    fn every_way_brings_what_the_crop_takes() {
        // Beside the test itself: a file system in memory, as /tmp may be, has no O_DIRECT.
        let test = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(test.parent().unwrap()).unwrap();
        let pictures = Pictures::drawn(3).unwrap().all;
        let rows = Rows::new(folder.path().join("rows"), &pictures, 50).unwrap();
        let order = rows.order(0, 16);
        let mut source = OneFile::open(&rows.path, Mode::Buffered, 200_000).unwrap();
        let mut bytes = Vec::new();
        for way in Way::ALL {
            let before = source.stats();
            let mut seen = vec![0; rows.all.len()];
            let mut room = Vec::new();
            let mut take = |row: &Row, parts: &Parts<'_>| {
                let Picture { jpeg, index } = &pictures[row.picture];
                let found = parts.jpeg(row, &pictures[row.picture], &mut room);
                // From where the file is whole again, it is the original.
                let end = index.bytes(&row.wanted).end as usize;
                let data = &jpeg[index.bytes(&row.wanted).start as usize..end];
                assert!(found.windows(data.len()).any(|window| window == data));
                assert_eq!(
                    found[..index.head().end as usize],
                    jpeg[..index.head().end as usize]
                );
                seen[row.number as usize] += 1;
                Ok(())
            };
            read(&mut source, way, &order, &pictures, &mut take).unwrap();
            assert!(seen.iter().all(|&times| times == 1), "{way:?}: {seen:?}");
            bytes.push(source.stats().bytes_asked - before.bytes_asked);
        }
        assert_eq!(bytes[0], rows.bytes);
        assert!(bytes.is_sorted_by(|more, less| more > less), "{bytes:?}");
    }
}
