//! A JPEG → the same picture as a tiled JPEG, from which crops can be cut before decoding; and a
//! mask → the same PNG with runs, from which crops can be sampled (`tile/mask.rs`).
//!
//! Enters: the bytes of one file. Leaves: a baseline JPEG with the same coefficients, whose
//! restart markers stand every few MCUs and divide each MCU row evenly; or why there is none.
//! Never: another pixel, a lost APPn or COM segment, more memory than [`Limits`] say.
//!
//! The work is done by libjpeg's own functions for coefficients rather than by TurboJPEG's
//! lossless transform: they take our limits, our error handling (a warning is an end) and any
//! restart interval, and leave the metadata to us, who keep it byte for byte.

mod mask;

use std::ops::Range;

use crate::cut::{Cuttable, Region};
use crate::decoder::Decoder;
use crate::error::DecodeError;
use crate::header::probe;
use crate::jpeg::segments::{
    EOI, Frame, SOF0, SOF2, SOF9, SOF10, SOS, is_metadata, scan_end, segment,
};
use crate::jpeg::{self, CopyError, Jpeg};
use crate::limits::Limits;
use crate::magic::Format;
use crate::opened::open_jpeg;
use crate::pipeline::Options;

/// A JPEG rewritten without loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiled {
    /// The whole file. All APPn and COM segments are those of the original, byte for byte
    /// and in their order (EXIF orientation, ICC profile, Adobe's colour marker), and so is
    /// what lies behind the end-of-image marker. Offsets from the file's start that point there
    /// (MPF) are not adjusted; those from its end (motion photos) still hold.
    pub jpeg: Vec<u8>,
    /// MCUs of one segment: the restart interval. It divides the MCUs of a row.
    pub segment_mcus: u32,
    /// Segments of one MCU row; 1 where the row could not be divided well.
    pub row_segments: u32,
}

/// Why a file stays as it is. None of these is a fault of the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTiled {
    /// It is tiled: nothing to do. Its crops are cut, or sampled, as it is.
    #[error("it is tiled already")]
    Already,
    /// An image of another format, which decodes as ever.
    #[error("a {format} can't be tiled, only a JPEG or a mask")]
    NotJpeg {
        /// What it is.
        format: Format,
    },
    /// A PNG that shows a picture, and no class numbers.
    #[error("a PNG that is no mask can't be tiled: it is decoded as it is")]
    NotMask,
    /// A JPEG or PNG that may decode, but of a kind that is not rewritten.
    #[error("{what} can't be tiled: it is decoded as it is")]
    Kind {
        /// The kind, such as `an arithmetic-coded JPEG`.
        what: &'static str,
    },
    /// The file is damaged, cut short, over a limit, or of no known format: it may not
    /// decode either.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// libjpeg refused to write the coefficients, such as values beyond baseline's range.
    #[error("libjpeg could not rewrite it: {message}")]
    Library {
        /// libjpeg's words.
        message: String,
    },
}

impl NotTiled {
    /// The reason without the facts of this one file, to count files by.
    pub fn reason(&self) -> &'static str {
        match self {
            NotTiled::Already => "tiled already",
            NotTiled::NotJpeg { .. } => "not a JPEG",
            NotTiled::NotMask => "a PNG that is no mask",
            NotTiled::Kind { what } => what,
            NotTiled::Undecodable(error) => match error {
                DecodeError::Truncated { .. } => "cut short",
                DecodeError::Corrupt { .. } => "damaged",
                DecodeError::TooLarge { .. }
                | DecodeError::ScratchTooLarge { .. }
                | DecodeError::TooManyScans { .. } => "over a limit",
                _ => "not decodable",
            },
            NotTiled::Library { .. } => "refused by libjpeg",
        }
    }
}

/// A tiled file that does not hold what the original does: a bug, never the data's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Differs {
    /// One of the two does not decode.
    #[error("the {which} does not decode: {error}")]
    Undecodable {
        /// `original`, `tiled file`, or `cut of the tiled file`.
        which: &'static str,
        /// Why.
        error: DecodeError,
    },
    /// Size, orientation or pixels are not the same.
    #[error("the {what} of original and tiled file differ")]
    Content {
        /// What differs: `sizes`, `orientations`, `pixels`, `metadata`, `pixels of a cut`; of
        /// masks `chunks`, `values`.
        what: &'static str,
    },
    /// No crop can be cut from it.
    #[error("the tiled file can't be cut")]
    NotCuttable,
    /// A mask's values can't be read from it without its image data.
    #[error("the tiled file has no runs of this picture")]
    NoRuns,
}

/// A segment between restart markers should have so many bytes on average: a marker costs
/// about four, with the bits that it leaves unused and the predictions that begin anew.
const SEGMENT_BYTES: u64 = 100;

/// Segments of so many MCUs are short enough to cut crops from.
const SEGMENT_MCUS: std::ops::RangeInclusive<u32> = 4..=16;

/// The tiled form of an image of any format: a JPEG's is that of [`tile`], a mask's is its file
/// with one chunk `ldRN` more, which holds its values as runs by row.
///
/// A mask is a PNG of one value of at most 8 bits a pixel, grey or a palette, not interlaced. It
/// stays as it is where it would have more than one run for 8 pixels, or more than four times
/// its own bytes in runs. Every reader of PNGs shows the same picture: the chunk is ancillary and
/// private, and editors drop it, because it is not safe to copy. Where one has not, the sums of the
/// image data say that the runs are another picture's.
///
/// Blocks on the CPU alone. Memory of a mask: its runs three times, the result, and a piece of its
/// image data.
pub fn tiled_form(encoded: &[u8], limits: &Limits) -> Result<Vec<u8>, NotTiled> {
    match Format::of(encoded)? {
        Format::Png => mask::tile(encoded, limits),
        _ => tile(encoded, limits).map(|tiled| tiled.jpeg),
    }
}

/// Rewrites a JPEG losslessly into a tiled one. Takes about 3 ms for a photo of 100 KB.
///
/// Coefficients and quantisation tables are kept, Huffman tables are made for the picture,
/// progressive becomes baseline. A file with damaged data is not tiled, not even where
/// decoders would make do with it.
///
/// A segment has the smallest number of MCUs from 4 to 16 that divides a row and makes
/// segments of at least 100 bytes on average; else the largest below 4 that does; else it is
/// the whole row (small pictures, flat ones, rows of a prime number of small MCUs).
///
/// Blocks on the CPU alone. Memory: the image's coefficients, 2 to 6 bytes a pixel, which
/// count against [`Limits::scratch_bytes_max`], and the result.
pub fn tile(encoded: &[u8], limits: &Limits) -> Result<Tiled, NotTiled> {
    let format = Format::of(encoded)?;
    if format != Format::Jpeg {
        return Err(NotTiled::NotJpeg { format });
    }
    let header = jpeg::header::probe(encoded)?;
    limits.check_pixels(&header)?;
    let mut decompressor = Jpeg::new();
    let open = open_jpeg(&mut decompressor, encoded, &header, limits)?;
    let structure = Structure::of(encoded).map_err(|what| NotTiled::Kind { what })?;
    if is_tiled(encoded) {
        return Err(NotTiled::Already);
    }
    limits.check_scratch(&header, open.coefficient_bytes())?;
    let across = structure.frame.mcus().0;
    let segment_mcus = structure.segment_mcus(SEGMENT_BYTES);
    let copy = match open.copy(segment_mcus as u16) {
        Ok(copy) => copy,
        Err(CopyError::NotRead(error)) => return Err(error.into()),
        Err(CopyError::NotWritten(message)) => return Err(NotTiled::Library { message }),
    };
    let metadata_bytes: usize = structure.metadata.iter().map(|range| range.len()).sum();
    let behind_bytes = encoded.len() - structure.end;
    let mut jpeg = Vec::with_capacity(copy.len() + metadata_bytes + behind_bytes);
    // The start-of-image marker, what libjpeg was told not to write, and the rest.
    jpeg.extend_from_slice(&copy[..2]);
    for range in structure.metadata {
        jpeg.extend_from_slice(&encoded[range]);
    }
    jpeg.extend_from_slice(&copy[2..]);
    jpeg.extend_from_slice(&encoded[structure.end..]);
    Ok(Tiled {
        jpeg,
        segment_mcus,
        row_segments: across / segment_mcus,
    })
}

/// Whether [`tile`] would answer [`NotTiled::Already`]: whether a file's restart markers are
/// as good as its own. Reads the file's markers, about 0.1 ms a megabyte; decodes nothing.
pub fn is_tiled(encoded: &[u8]) -> bool {
    let Some(cuttable) = Cuttable::of(encoded).filter(Cuttable::is_complete) else {
        return false;
    };
    let Ok(structure) = Structure::of(encoded) else {
        return false;
    };
    let (interval, across) = (cuttable.interval(), structure.frame.mcus().0);
    if interval < across {
        return interval <= *SEGMENT_MCUS.end();
    }
    // A file's size changes a little when it is tiled, which must not have it tiled again.
    interval == across && structure.segment_mcus(SEGMENT_BYTES * 5 / 4) == across
}

/// Decodes both files whole, and compares every pixel, size, orientation and all metadata
/// segments; then cuts the middle out of the tiled one and compares that. Takes two whole
/// decodes and a half. Of a mask, decodes every value and compares it with the runs, and all other
/// chunks byte for byte.
pub fn verify(original: &[u8], tiled: &[u8], limits: &Limits) -> Result<(), Differs> {
    if Format::of(original) == Ok(Format::Png) {
        return mask::verify(original, tiled, limits);
    }
    let differ = |what| Differs::Content { what };
    let mut decoder = Decoder::new(*limits);
    let mut decode = |which, encoded: &[u8]| {
        let undecodable = |error| Differs::Undecodable { which, error };
        let header = probe(encoded).map_err(undecodable)?;
        let stored = Options {
            exif_orientation: false,
            ..Options::default()
        };
        let image = decoder.decode_full(encoded, stored).map_err(undecodable)?;
        Ok((header, image))
    };
    let (header, image) = decode("original", original)?;
    let (tiled_header, tiled_image) = decode("tiled file", tiled)?;
    if (header.width, header.height) != (tiled_header.width, tiled_header.height) {
        return Err(differ("sizes"));
    }
    if header.orientation != tiled_header.orientation {
        return Err(differ("orientations"));
    }
    if image.rgb != tiled_image.rgb {
        return Err(differ("pixels"));
    }
    if metadata(original) != metadata(tiled) {
        return Err(differ("metadata"));
    }

    let middle = Region {
        left: header.width / 4,
        right: header.width - header.width / 4,
        top: header.height / 4,
        bottom: header.height - header.height / 4,
    };
    let mut cut = Vec::new();
    let cuttable = Cuttable::of(tiled).ok_or(Differs::NotCuttable)?;
    let window = cuttable.window(&middle, 8);
    cuttable
        .cut(&window, &mut cut)
        .ok_or(Differs::NotCuttable)?;
    let (_, part) = decode("cut of the tiled file", &cut)?;
    if !image.rows_of(&middle).eq(part.rows_of(&window.region)) {
        return Err(differ("pixels of a cut"));
    }
    Ok(())
}

/// The metadata segments of a file, one after the other, and what lies behind its end; none where
/// it is unusual.
fn metadata(encoded: &[u8]) -> Vec<&[u8]> {
    let Ok(found) = Structure::of(encoded) else {
        return Vec::new();
    };
    let behind = found.end..encoded.len();
    let ranges = found.metadata.into_iter().chain([behind]);
    ranges.map(|range| &encoded[range]).collect()
}

/// What a file is made of.
struct Structure {
    frame: Frame,
    /// APPn and COM segments.
    metadata: Vec<Range<usize>>,
    /// From the first scan to the end-of-image marker.
    scan_bytes: u64,
    /// Behind the end-of-image marker.
    end: usize,
}

impl Structure {
    /// Reads the file up to its end-of-image marker, or says of which kind it is that it is
    /// not rewritten.
    fn of(encoded: &[u8]) -> Result<Structure, &'static str> {
        let unusual = "a JPEG with bytes that belong to no segment";
        let (mut frame, mut scan_at) = (None, None);
        let mut metadata = Vec::new();
        let mut at = 0;
        loop {
            let found = segment(encoded, at).ok_or(unusual)?;
            at = found.whole.end;
            match found.marker {
                SOF0..=SOF2 => {
                    let body = Frame::of(&encoded[found.body]);
                    frame = Some(body.ok_or("a JPEG with an odd frame header")?);
                }
                SOF9 | SOF10 => return Err("an arithmetic-coded JPEG"),
                SOS => {
                    at = scan_end(encoded, at).ok_or(unusual)?;
                    scan_at.get_or_insert(found.whole.end);
                }
                EOI => break,
                marker if is_metadata(marker) => {
                    if scan_at.is_some() {
                        return Err("a JPEG with metadata behind its first scan");
                    }
                    metadata.push(found.whole);
                }
                _ => {}
            }
        }
        let (Some(frame), Some(scan_at)) = (frame, scan_at) else {
            return Err(unusual);
        };
        if frame.precision_bits != 8 {
            return Err("a JPEG with 12 bits a sample");
        }
        Ok(Structure {
            frame,
            metadata,
            scan_bytes: (at - scan_at) as u64,
            end: at,
        })
    }

    /// MCUs of a segment, where segments should have at least so many bytes on average.
    fn segment_mcus(&self, segment_bytes: u64) -> u32 {
        let (across, down) = self.frame.mcus();
        let mcus = u64::from(across) * u64::from(down);
        let suits = |&size: &u32| {
            across.is_multiple_of(size) && self.scan_bytes * u64::from(size) >= segment_bytes * mcus
        };
        SEGMENT_MCUS
            .into_iter()
            .find(suits)
            .or_else(|| (1..*SEGMENT_MCUS.start()).rev().find(suits))
            .unwrap_or(across)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_divide_rows() {
        let check = |width: u32, bytes_a_mcu: u64, expected: u32| {
            let frame = Frame {
                precision_bits: 8,
                width,
                height: 160,
                components: 3,
                sampling: (2, 2),
            };
            let structure = Structure {
                frame,
                metadata: Vec::new(),
                scan_bytes: bytes_a_mcu * u64::from(width.div_ceil(16)) * 10,
                end: 0,
            };
            let found = structure.segment_mcus(SEGMENT_BYTES);
            assert_eq!(found, expected, "{width} columns");
        };
        // MCUs a row: 32, 24, 21, 26, 13.
        check(500, 140, 4);
        check(384, 140, 4);
        check(333, 140, 7);
        check(416, 140, 13);
        check(200, 140, 13);
        // 34 = 2 * 17, 57 = 3 * 19, 23 and 2 are primes.
        check(544, 140, 2);
        check(912, 140, 3);
        check(368, 140, 1);
        check(32, 140, 2);
        // Few bytes a MCU: longer segments, in the end the whole row.
        check(500, 20, 8);
        check(500, 7, 16);
        check(500, 6, 32);
        check(544, 40, 34);
        check(368, 99, 23);
        check(65_500, 140, 2);
    }
}
