//! A crop, cut out of a JPEG before it is decoded.
//!
//! Enters: the bytes of a baseline JPEG whose restart markers divide its rows of MCUs (as
//! [`tile`](crate::tile) writes them, or whoever else), and a region of its pixels. Leaves: a
//! small, ordinary baseline JPEG that holds the region, and where. Never: an MCU that is not
//! copied bit by bit, a cut where anything about the file is unusual.
//!
//! A segment, from one restart marker to the next, decodes without those before it. So the
//! cut keeps the segments that the region touches, numbers their markers anew, and writes
//! the size of what is left into the frame header. Where chroma is subsampled, a pixel also
//! depends on the neighbours of its chroma sample: their MCUs are kept as well. The region's
//! pixels are then the whole file's, bit for bit.

mod index;

use std::ops::Range;

use crate::jpeg::segments::{
    APP0, APP14, DHT, DQT, DRI, EOI, Frame, RST0, SOF0, SOF1, SOI, SOS, Segment, is_metadata,
    scan_is_whole, segment, word,
};
pub use crate::opened::Region;
pub use index::{INDEX_BYTES, Index, Pieces};

/// A JPEG from which regions can be cut.
#[derive(Debug, Clone)]
pub struct Cuttable<'a> {
    encoded: &'a [u8],
    frame: Frame,
    /// Where the scan's entropy-coded data begin.
    scan_at: usize,
    /// MCUs between restart markers.
    interval: u32,
    /// MCUs that a segment covers, across and down.
    span: (u32, u32),
    /// Segments of the picture, across and down.
    segments: (u32, u32),
}

/// What a cut keeps, and where the region lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Columns of the cut picture.
    pub width: u32,
    /// Rows of the cut picture.
    pub height: u32,
    /// The region asked for, in pixels of the cut picture, at the scale asked for.
    pub region: Region,
    /// Segments kept, `[from, to)`.
    columns: (u32, u32),
    rows: (u32, u32),
    /// MCUs kept, and MCUs of the rows down to the region's last: those a decoder that
    /// crops while it decodes has to go through.
    kept_mcus: u64,
    passed_mcus: u64,
}

impl Window {
    /// Whether cutting first is worth its copy: whether at least a tenth of the MCUs that
    /// would be gone through is left out.
    pub fn pays(&self) -> bool {
        self.kept_mcus * 10 <= self.passed_mcus * 9
    }
}

impl<'a> Cuttable<'a> {
    /// Reads the header. None unless the file has 8 bits a sample, Huffman codes, one
    /// sequential scan of all components, and a restart interval that divides a row of MCUs
    /// or is a number of whole rows; nor where the header holds anything unusual.
    pub fn of(encoded: &'a [u8]) -> Option<Cuttable<'a>> {
        if !encoded.starts_with(&[0xff, SOI]) {
            return None;
        }
        let (mut frame, mut interval) = (None, None);
        let mut head = Head::of(encoded);
        let scan = loop {
            let found = head.next()?;
            let body = &encoded[found.body.clone()];
            match found.marker {
                SOI if found.whole == (0..2) => {}
                DHT | DQT => {}
                SOF0 | SOF1 if frame.is_none() => frame = Some(Frame::of(body)?),
                DRI if interval.is_none() && body.len() == 2 => interval = Some(word(body, 0)?),
                SOS => break found,
                marker if is_metadata(marker) => {}
                _ => return None,
            }
        };
        let frame = frame.filter(|frame| frame.precision_bits == 8)?;
        let interval = u32::from(interval.filter(|&interval| interval > 0)?);
        if !scan_is_whole(&encoded[scan.body], &frame) {
            return None;
        }
        Cuttable::with(encoded, frame, interval, scan.whole.end)
    }

    /// None unless the interval divides a row of MCUs, or is a number of whole rows.
    fn with(
        encoded: &'a [u8],
        frame: Frame,
        interval: u32,
        scan_at: usize,
    ) -> Option<Cuttable<'a>> {
        let mcus = frame.mcus();
        let span = if mcus.0.is_multiple_of(interval) {
            (interval, 1)
        } else if interval.is_multiple_of(mcus.0) {
            (mcus.0, interval / mcus.0)
        } else {
            return None;
        };
        Some(Cuttable {
            encoded,
            frame,
            scan_at,
            interval,
            span,
            segments: (mcus.0 / span.0, mcus.1.div_ceil(span.1)),
        })
    }

    /// MCUs between two restart markers.
    pub fn interval(&self) -> u32 {
        self.interval
    }

    /// Segments across and down.
    pub fn segments(&self) -> (u32, u32) {
        self.segments
    }

    /// Columns and rows of the whole picture.
    pub fn size(&self) -> (u32, u32) {
        (self.frame.width, self.frame.height)
    }

    /// The segments that decoding `region` takes. The region is one of the picture as
    /// libjpeg shrinks it to `eighths`/8 (8, 4, 2 or 1) of full size; it must not be empty,
    /// nor reach beyond the picture.
    pub fn window(&self, region: &Region, eighths: u32) -> Window {
        let (shared, mcus) = (self.frame.shared(), self.frame.mcus());
        let x = Axis {
            side: self.frame.width,
            mcu: 8 * shared.0,
            mcus: mcus.0,
            span: self.span.0,
            eighths,
        };
        let y = Axis {
            side: self.frame.height,
            mcu: 8 * shared.1,
            mcus: mcus.1,
            span: self.span.1,
            eighths,
        };
        let mut columns = x.needed(region.left, region.right);
        let rows = y.needed(region.top, region.bottom);
        if shared.0 > 1 && x.kept(columns) < 2 {
            // libjpeg upsamples pictures of less than three chroma columns in another way.
            columns.0 = columns.0.saturating_sub(1);
            columns.1 = (columns.0 + 2).min(self.segments.0);
        }
        let (left, top) = (x.start(columns), y.start(rows));
        Window {
            width: x.pixels(columns),
            height: y.pixels(rows),
            region: Region {
                left: region.left - left,
                right: region.right - left,
                top: region.top - top,
                bottom: region.bottom - top,
            },
            columns,
            rows,
            kept_mcus: u64::from(x.kept(columns)) * u64::from(y.kept(rows)),
            passed_mcus: u64::from(mcus.0) * u64::from(y.kept((0, rows.1))),
        }
    }

    /// Writes the cut picture to `out`, whose old contents are lost and whose room is used
    /// again; it takes no more bytes than the whole file. None, with `out` in no useful
    /// state, where the restart markers, all of which are looked at, are not those of the
    /// picture: a wrong number or order, another marker among them, no end-of-image marker.
    ///
    /// What is wrong inside a segment that is left out goes unseen.
    pub fn cut(&self, window: &Window, out: &mut Vec<u8>) -> Option<()> {
        self.cut_from(window, &self.encoded[self.scan_at..], self.all(), true, out)
    }

    /// The same from the segments `numbers`, which `data` are, up to the end-of-image marker or to
    /// their end.
    fn cut_from(
        &self,
        window: &Window,
        data: &[u8],
        numbers: Range<u64>,
        is_marked: bool,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        out.clear();
        self.copy_head(window, out)?;
        let across = u64::from(self.segments.0);
        let (from, to) = (u64::from(window.columns.0), u64::from(window.columns.1));
        let (top, bottom) = (u64::from(window.rows.0), u64::from(window.rows.1));
        let mut kept = 0u8;
        each_segment(data, numbers, is_marked, |number, bytes| {
            let (row, column) = (number / across, number % across);
            if (top..bottom).contains(&row) && (from..to).contains(&column) {
                if (row, column) != (top, from) {
                    out.extend([0xff, RST0 + kept % 8]);
                    kept = kept.wrapping_add(1);
                }
                out.extend_from_slice(&data[bytes]);
            }
        })?;
        out.extend([0xff, EOI]);
        Some(())
    }

    /// The numbers of all segments.
    fn all(&self) -> Range<u64> {
        0..u64::from(self.segments.0) * u64::from(self.segments.1)
    }

    /// Whether all restart markers are where they belong, up to the end-of-image marker.
    pub fn is_complete(&self) -> bool {
        each_segment(&self.encoded[self.scan_at..], self.all(), true, |_, _| {}).is_some()
    }

    /// Copies what decoding takes of the header, with the cut picture's size.
    fn copy_head(&self, window: &Window, out: &mut Vec<u8>) -> Option<()> {
        let mut head = Head::of(self.encoded);
        loop {
            let found = head.next()?;
            let at = out.len() + found.body.start - found.whole.start;
            // Of the metadata, these two say which colours there are.
            if !is_metadata(found.marker) || matches!(found.marker, APP0 | APP14) {
                out.extend_from_slice(&self.encoded[found.whole]);
            }
            match found.marker {
                SOF0 | SOF1 => {
                    let size = out.get_mut(at + 1..at + 5)?;
                    size[..2].copy_from_slice(&(window.height as u16).to_be_bytes());
                    size[2..].copy_from_slice(&(window.width as u16).to_be_bytes());
                }
                SOS => return Some(()),
                _ => {}
            }
        }
    }
}

/// Calls `visit` with the number of each segment of `data`, in order, and where it lies there.
/// The last one ends at an end-of-image marker, where that is there, or with the data. None as soon
/// as a marker is not the one that the picture has at its place.
fn each_segment(
    data: &[u8],
    numbers: Range<u64>,
    is_marked: bool,
    mut visit: impl FnMut(u64, Range<usize>),
) -> Option<()> {
    let last = numbers.end - 1;
    let (mut number, mut start) = (numbers.start, 0);
    for at in memchr::memchr_iter(0xff, data) {
        match *data.get(at + 1)? {
            0 => continue,
            EOI if number == last && is_marked => {
                visit(number, start..at);
                return Some(());
            }
            marker if number < last && marker == RST0 + (number % 8) as u8 => {
                visit(number, start..at);
                number += 1;
                start = at + 2;
            }
            _ => return None,
        }
    }
    if is_marked || number < last {
        return None;
    }
    visit(number, start..data.len());
    Some(())
}

/// Columns or rows of a picture, its MCUs and its segments. Spans are `[from, to)`.
struct Axis {
    /// Pixels at full size.
    side: u32,
    /// Pixels of an MCU at full size.
    mcu: u32,
    mcus: u32,
    /// MCUs of a segment.
    span: u32,
    eighths: u32,
}

impl Axis {
    /// The segments that the scaled pixels `[from, to)` depend on.
    fn needed(&self, from: u32, to: u32) -> (u32, u32) {
        // Upsampling looks at the next chroma sample on either side.
        let reach = if self.mcu > 8 { self.mcu / 8 } else { 0 };
        let segment = u64::from(self.mcu / 8 * self.eighths) * u64::from(self.span);
        let first = u64::from(from.saturating_sub(reach)) / segment;
        let end = (u64::from(to) + u64::from(reach)).div_ceil(segment);
        (
            first as u32,
            end.min(u64::from(self.mcus.div_ceil(self.span))) as u32,
        )
    }

    /// MCUs of these segments.
    fn kept(&self, segments: (u32, u32)) -> u32 {
        self.end(segments.1) - segments.0 * self.span
    }

    /// The MCU that ends the segments before `segment`.
    fn end(&self, segment: u32) -> u32 {
        segment.saturating_mul(self.span).min(self.mcus)
    }

    /// Pixels of these segments, at full size: the picture's own edge stays its edge.
    fn pixels(&self, segments: (u32, u32)) -> u32 {
        (self.end(segments.1) * self.mcu).min(self.side) - segments.0 * self.span * self.mcu
    }

    /// Where these segments begin, in scaled pixels.
    fn start(&self, segments: (u32, u32)) -> u32 {
        segments.0 * self.span * (self.mcu / 8) * self.eighths
    }
}

/// Segments from the file's start on.
struct Head<'a> {
    encoded: &'a [u8],
    at: usize,
}

impl Head<'_> {
    fn of(encoded: &[u8]) -> Head<'_> {
        Head { encoded, at: 0 }
    }

    fn next(&mut self) -> Option<Segment> {
        let found = segment(self.encoded, self.at)?;
        self.at = found.whole.end;
        Some(found)
    }
}
