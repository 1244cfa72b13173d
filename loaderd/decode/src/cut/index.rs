//! Where the segments of a JPEG lie, remembered, so that only a crop's are read of it.
//!
//! Enters: once, the whole of a JPEG that can be cut; later its index, a pipeline and an image's
//! draws. Leaves: the bytes of the file that the crop takes; and, once these are read, the cut
//! picture, as it is cut from the whole. Never: I/O, or a decision on the pixels.
//!
//! What the decoder needs is found here by its own code, and looked for among what was read: bytes
//! that are not those of the index give no picture, and then the file is to be read whole.

use std::ops::Range;

use super::{Cuttable, Frame, Region, Window, each_segment};
use crate::geometry::Placement;
use crate::header::Header;
use crate::jpeg;
use crate::magic::Format;
use crate::orientation::Orientation;
use crate::pipeline::Pipeline;
use crate::region::{Need, Wanted};

/// Bytes of an index.
pub const INDEX_BYTES: usize = 60;

/// Most bands of an index.
const BANDS_MAX: u32 = 16;
/// Bytes of a JPEG that an index can count.
const BYTES_MAX: usize = (1 << 24) - 1;
/// Most segments of a picture: two bytes each take the place of those that were not read.
const SEGMENTS_MAX: u64 = 1 << 14;

/// The places of a JPEG's rows of segments, in at most 16 bands of equally many rows, and what a
/// crop is drawn from.
///
/// As bytes, all numbers little-endian: orientation (EXIF), components, pixels that share a
/// sample of the coarsest component across and down, one byte each; width, height, restart
/// interval, bytes before the entropy-coded data, two each; then for each of 16 bands three, the
/// place in the file where its data end, before the next marker (0 where there is no such band).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    orientation: Orientation,
    frame: Frame,
    interval: u32,
    head: u32,
    ends: [u32; BANDS_MAX as usize],
}

/// The parts of a JPEG that one crop takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    index: Index,
    /// Segments, `[from, to)`.
    segments: (u32, u32),
    body: (u32, u32),
}

impl Index {
    /// Reads a whole JPEG's. None where it can't be cut, where a marker is not in its place, and
    /// where it is beyond an index's bounds: 16 MiB, 16,384 segments, a header of 64 KiB.
    pub fn of(encoded: &[u8]) -> Option<Index> {
        if encoded.len() > BYTES_MAX {
            return None;
        }
        let cuttable = Cuttable::of(encoded)?;
        let header = jpeg::header::probe(encoded).ok()?;
        let (across, down) = cuttable.segments;
        let count = u64::from(across) * u64::from(down);
        let one_reading = cuttable.size() == (header.width, header.height);
        if !one_reading || count > SEGMENTS_MAX || cuttable.scan_at > usize::from(u16::MAX) {
            return None;
        }
        let each = u64::from(across * rows_each(down));
        let mut ends = [0; BANDS_MAX as usize];
        let (start, data) = (cuttable.scan_at, &encoded[cuttable.scan_at..]);
        each_segment(data, cuttable.all(), true, |number, bytes| {
            ends[(number / each) as usize] = (start + bytes.end) as u32;
        })?;
        Some(Index {
            orientation: header.orientation,
            frame: cuttable.frame,
            interval: cuttable.interval,
            head: cuttable.scan_at as u32,
            ends,
        })
    }

    /// See the type.
    pub fn to_bytes(&self) -> [u8; INDEX_BYTES] {
        let mut bytes = [0; INDEX_BYTES];
        let Frame {
            width,
            height,
            components,
            sampling,
            ..
        } = self.frame;
        bytes[0] = self.orientation.value();
        bytes[1] = components as u8;
        bytes[2] = sampling.0 as u8;
        bytes[3] = sampling.1 as u8;
        let numbers = [width, height, self.interval, self.head];
        for (place, number) in bytes[4..12].chunks_exact_mut(2).zip(numbers) {
            place.copy_from_slice(&(number as u16).to_le_bytes());
        }
        for (place, end) in bytes[12..].chunks_exact_mut(3).zip(self.ends) {
            place.copy_from_slice(&end.to_le_bytes()[..3]);
        }
        bytes
    }

    /// The index that was written so; none where it makes no sense.
    pub fn from_bytes(bytes: &[u8; INDEX_BYTES]) -> Option<Index> {
        let number = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let (across, down) = (u32::from(bytes[2]), u32::from(bytes[3]));
        let mut ends = [0; BANDS_MAX as usize];
        for (end, place) in ends.iter_mut().zip(bytes[12..].chunks_exact(3)) {
            *end = u32::from_le_bytes([place[0], place[1], place[2], 0]);
        }
        let index = Index {
            orientation: Orientation::of_value(bytes[0])?,
            frame: Frame {
                precision_bits: 8,
                width: number(4),
                height: number(6),
                components: usize::from(bytes[1]),
                sampling: (across, down),
            },
            interval: number(8),
            head: number(10),
            ends,
        };
        let sides = index.frame.width > 0 && index.frame.height > 0 && index.interval > 0;
        let factors = (1..=4).contains(&across) && (1..=4).contains(&down);
        if !sides || !factors || !(1..=4).contains(&index.frame.components) {
            return None;
        }
        let cuttable = index.cuttable()?;
        let bands = cuttable.segments.1.div_ceil(rows_each(cuttable.segments.1)) as usize;
        // Between two of them lies a marker.
        let rising =
            ends[0] >= index.head && ends[..bands].windows(2).all(|two| two[0] + 2 <= two[1]);
        (rising && ends[bands..].iter().all(|&end| end == 0)).then_some(index)
    }

    /// The parts of the file that an image with these draws takes, the first ones of which are
    /// taken as by [`Decoder::decode`](crate::Decoder::decode). None where all is to be read: nothing
    /// is in sight, the decoder would not cut, or a tenth of the bytes would not be saved.
    pub fn pieces(
        &self,
        pipeline: &Pipeline,
        draws: &mut dyn Iterator<Item = u32>,
    ) -> Option<Pieces> {
        let header = self.header();
        let orientation = pipeline.options().orientation_of(&header);
        let (width, height) = orientation.upright(header.width, header.height);
        let upright = Placement::draw(pipeline.geometry(), width, height, draws).ok()?;
        let wanted = Wanted::of(pipeline, &header, &upright, true);
        let full = Wanted {
            eighths: 8,
            x: Need::of(&wanted.place.x, wanted.place.filter, 8),
            y: Need::of(&wanted.place.y, wanted.place.filter, 8),
            ..wanted
        };
        let cuttable = self.cuttable()?;
        let mut rows = (u32::MAX, 0);
        // At full size as well, for decoders that don't shrink.
        for wanted in [wanted, full] {
            if wanted.blank() {
                return None;
            }
            let window = cuttable.window(&wanted.region(), wanted.eighths);
            if !window.pays() {
                return None;
            }
            rows = (rows.0.min(window.rows.0), rows.1.max(window.rows.1));
        }
        let (across, down) = cuttable.segments;
        let each = rows_each(down);
        let bands = (rows.0 / each, rows.1.div_ceil(each));
        let body = (self.start(bands.0), self.ends[bands.1 as usize - 1]);
        let pieces = Pieces {
            index: *self,
            segments: (bands.0 * each * across, (bands.1 * each).min(down) * across),
            body,
        };
        let all = self.ends.iter().max().copied().unwrap_or(0);
        (u64::from(self.head + body.1 - body.0) * 10 <= u64::from(all) * 9).then_some(pieces)
    }

    /// What the file's header says.
    pub(crate) fn header(&self) -> Header {
        Header {
            format: Format::Jpeg,
            width: self.frame.width,
            height: self.frame.height,
            orientation: self.orientation,
            frames_ignored: false,
        }
    }

    /// Where a band's data begin: behind the marker that ends the one before.
    fn start(&self, band: u32) -> u32 {
        match band {
            0 => self.head,
            _ => self.ends[band as usize - 1] + 2,
        }
    }

    /// The JPEG without its bytes.
    fn cuttable(&self) -> Option<Cuttable<'static>> {
        let cuttable = Cuttable::with(&[], self.frame, self.interval, self.head as usize)?;
        (cuttable.all().end <= SEGMENTS_MAX).then_some(cuttable)
    }
}

impl Pieces {
    /// The file's header.
    pub fn head(&self) -> Range<u32> {
        0..self.index.head
    }

    /// The crop's segments, the markers between them, and maybe some around them.
    pub fn body(&self) -> Range<u32> {
        self.body.0..self.body.1
    }

    /// What the file's header says.
    pub fn header(&self) -> Header {
        self.index.header()
    }

    /// Cuts a region out, as [`Cuttable::window`] and [`Cuttable::cut`] do with the whole file. None
    /// where it is not among these pieces, where not cutting would be better, and where `head` and
    /// `body` are not what the index says.
    pub fn cut(
        &self,
        region: &Region,
        eighths: u32,
        (head, body): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) -> Option<Window> {
        if (head.len(), body.len()) != (self.head().len(), self.body().len()) {
            return None;
        }
        let cuttable = Cuttable::of(head)?;
        let Index {
            frame, interval, ..
        } = self.index;
        let same =
            (cuttable.frame, cuttable.interval, cuttable.scan_at) == (frame, interval, head.len());
        if !same || jpeg::header::probe(head).ok()? != self.header() {
            return None;
        }
        let window = cuttable.window(region, eighths);
        let across = cuttable.segments.0;
        let needed = (window.rows.0 * across, window.rows.1 * across);
        let (from, to) = self.segments;
        if !window.pays() || needed.0 < from || needed.1 > to {
            return None;
        }
        cuttable.cut_from(&window, body, from.into()..to.into(), false, out)?;
        Some(window)
    }
}

/// Rows of segments in a band, the last of which may have fewer.
fn rows_each(rows: u32) -> u32 {
    rows.div_ceil(BANDS_MAX)
}
