//! PNG (W3C, third edition): the chunks of a file, and its rows as RGB.
//!
//! Enters: the bytes of a PNG, a region. Leaves: RGB rows of that region: grey repeated,
//! palettes looked up, 16 bits rounded to 8, transparency dropped, as Pillow's
//! `convert("RGB")` does. Of an animated PNG that is the image which readers show that
//! know no animation. Of a mask, values as runs where the file has them so (`runs.rs`). Never: colour management, or more memory than a piece of the image
//! data and four rows.

mod filter;
mod rows;
pub(crate) mod runs;
mod samples;

use zlib_rs::crc32::crc32;

use crate::error::DecodeError;
use crate::header::Header;
use crate::magic::Format;
use crate::opened::Region;
use crate::orientation::Orientation;
pub(crate) use rows::BYTES_BEHIND;
use rows::{Rows, buffer_bytes};
use runs::Runs;
use samples::Samples;

pub(crate) const SIGNATURE_BYTES: usize = 8;

/// Length, name and sum of a chunk.
pub(crate) const FRAME_BYTES: usize = 12;

/// Deflate makes at most this many bytes of one (zlib's technical details).
const DEFLATE_RATIO_MAX: u64 = 1032;

/// Where the interlaced pixels lie: first column and row, then the distances (section 8).
const ADAM7: [[u32; 4]; 7] = [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
];

/// A PNG whose chunks are all there, and whose sums are right as far as pixels go.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    width: u32,
    height: u32,
    samples: Samples<'a>,
    interlaced: bool,
    /// From the first IDAT chunk on.
    data: &'a [u8],
    data_bytes: u64,
    /// The values once more, with a sum that was not looked at.
    runs: Option<Chunk<'a>>,
    /// A CRC over the sums of IHDR and all IDAT chunks, by which runs are known to be of
    /// this picture.
    picture: u32,
    orientation: Orientation,
    frames_ignored: bool,
}

/// Where a row lies.
struct Place {
    pass: [u32; 4],
    /// The image's row.
    y: u32,
    /// The pass's columns that lie in the region.
    from: u32,
    to: u32,
}

#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) name: [u8; 4],
    pub(crate) body: &'a [u8],
    /// Name and body, and the sum over them.
    summed: &'a [u8],
    sum: u32,
}

impl<'a> Chunk<'a> {
    /// The chunk that `rest` begins with; `None` where it is cut short.
    pub(crate) fn first_of(rest: &'a [u8]) -> Option<Chunk<'a>> {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let summed = rest.get(4..length.checked_add(8)?)?;
        let sum = rest.get(length + 8..length + FRAME_BYTES)?;
        Some(Chunk {
            name: summed[..4].try_into().ok()?,
            body: &summed[4..],
            summed,
            sum: u32::from_be_bytes(sum.try_into().ok()?),
        })
    }

    fn check_sum(&self) -> Result<(), DecodeError> {
        if crc32(0, self.summed) == self.sum {
            return Ok(());
        }
        Err(corrupt(format!(
            "the checksum of a chunk {} is wrong",
            self.name.escape_ascii()
        )))
    }
}

/// The XMP packet of an international text chunk, if it is one (ISO 16684-3, 3.1.9.3: with
/// this keyword, and not compressed).
fn xmp_in(body: &[u8]) -> Option<&[u8]> {
    let text = body.strip_prefix(b"XML:com.adobe.xmp\0\0")?;
    // Compression method, language, translated keyword.
    text.get(1..)?.splitn(3, |&byte| byte == 0).nth(2)
}

impl<'a> Layout<'a> {
    /// Walks over all chunks, so that a file cut short is refused whichever part of it a
    /// crop needs.
    pub(crate) fn of(encoded: &'a [u8]) -> Result<Layout<'a>, DecodeError> {
        let truncated = || DecodeError::Truncated {
            bytes: encoded.len(),
        };
        let first = encoded
            .get(SIGNATURE_BYTES..)
            .and_then(Chunk::first_of)
            .ok_or_else(truncated)?;
        if &first.name != b"IHDR" {
            return Err(DecodeError::Unsupported {
                what: format!("a PNG that begins with {}", first.name.escape_ascii()),
            });
        }
        first.check_sum()?;
        let mut layout = Layout::of_header(first.body)?;
        layout.picture = crc32(0, &first.sum.to_be_bytes());
        let mut at = SIGNATURE_BYTES + FRAME_BYTES + first.body.len();
        let (mut frames, mut own_frame, mut data_ended) = (0, false, false);
        let (mut palette, mut exif, mut xmp) = (None, None, None);
        loop {
            let chunk = Chunk::first_of(&encoded[at..]).ok_or_else(truncated)?;
            if layout.data_bytes > 0 && &chunk.name != b"IDAT" {
                data_ended = true;
            }
            match &chunk.name {
                b"IEND" => break,
                b"IDAT" if data_ended => {
                    return Err(corrupt("image data in two places".to_string()));
                }
                b"IDAT" => {
                    chunk.check_sum()?;
                    if layout.data.is_empty() {
                        layout.data = &encoded[at..];
                    }
                    layout.data_bytes += chunk.body.len() as u64;
                    layout.picture = crc32(layout.picture, &chunk.sum.to_be_bytes());
                }
                b"PLTE" => {
                    chunk.check_sum()?;
                    palette = Some(chunk.body);
                }
                b"eXIf" => exif = Some(chunk.body),
                b"iTXt" => xmp = xmp_in(chunk.body).or(xmp),
                b"acTL" => {
                    let count = chunk.body.first_chunk().copied().map(u32::from_be_bytes);
                    frames = count.unwrap_or(0);
                }
                b"fcTL" if layout.data.is_empty() => own_frame = true,
                name if name[0].is_ascii_uppercase() => {
                    return Err(DecodeError::Unsupported {
                        what: format!("a PNG with a critical chunk {}", name.escape_ascii()),
                    });
                }
                _ => {}
            }
            at += FRAME_BYTES + chunk.body.len();
            if chunk.name == runs::NAME {
                layout.runs = Some(chunk);
            }
        }
        if layout.data.is_empty() {
            return Err(corrupt("no image data".to_string()));
        }
        // Without a frame control of its own, the image is no part of the animation.
        layout.frames_ignored = frames > u32::from(own_frame);
        layout.orientation = Orientation::of(exif, xmp);
        layout.samples.set_palette(palette)?;
        Ok(layout)
    }

    fn of_header(body: &[u8]) -> Result<Layout<'a>, DecodeError> {
        let Ok::<[u8; 13], _>(fields) = body.try_into() else {
            return Err(corrupt(format!("a header of {} bytes", body.len())));
        };
        let long = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| fields[at + i]));
        let (width, height) = (long(0), long(4));
        if width == 0 || height == 0 || width.max(height) > i32::MAX as u32 {
            return Err(corrupt(format!("a size of {width}x{height}")));
        }
        let [depth, colour, compression, filter, interlace] = [8, 9, 10, 11, 12].map(|i| fields[i]);
        if (compression, filter) != (0, 0) || interlace > 1 {
            return Err(corrupt(format!(
                "methods {compression}, {filter} and {interlace} of compression, filter and interlacing"
            )));
        }
        Ok(Layout {
            width,
            height,
            samples: Samples::of(colour, depth)?,
            interlaced: interlace == 1,
            data: &[],
            data_bytes: 0,
            runs: None,
            picture: 0,
            orientation: Orientation::UPRIGHT,
            frames_ignored: false,
        })
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            format: Format::Png,
            width: self.width,
            height: self.height,
            orientation: self.orientation,
            frames_ignored: self.frames_ignored,
        }
    }

    /// Bytes that [`read`](Self::read) allocates besides its output.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        let row_bytes = self.samples.row_bytes(self.width);
        buffer_bytes(self.all_bytes(), row_bytes) + row_bytes + 3 * u64::from(self.width)
    }

    /// Where the file's passes lie, with their columns and rows. One that has no columns
    /// has no rows either.
    fn passes(&self) -> impl Iterator<Item = ([u32; 4], u32, u32)> {
        let passes: &[[u32; 4]] = if self.interlaced {
            &ADAM7
        } else {
            &[[0, 0, 1, 1]]
        };
        passes.iter().map(|&pass| {
            let [left, top, across, down] = pass;
            let columns = self.width.saturating_sub(left).div_ceil(across);
            let rows = self.height.saturating_sub(top).div_ceil(down);
            (pass, columns, if columns == 0 { 0 } else { rows })
        })
    }

    /// Bytes of all rows, with their filters.
    fn all_bytes(&self) -> u64 {
        self.passes()
            .map(|(_, columns, rows)| (self.samples.row_bytes(columns) + 1) * u64::from(rows))
            .sum()
    }

    /// Refuses a few bytes that claim to be a large image, before any memory is taken
    /// for it.
    pub(crate) fn check_data(&self) -> Result<(), DecodeError> {
        if self.data_bytes.saturating_mul(DEFLATE_RATIO_MAX) >= self.all_bytes() {
            return Ok(());
        }
        Err(corrupt(format!(
            "{} bytes of data cannot hold {}x{} pixels",
            self.data_bytes, self.width, self.height
        )))
    }

    /// Writes the region's pixels to `out`, RGB without gaps. Rows below it are not
    /// decoded, unless the file is interlaced. `scratch` is room for image data.
    pub(crate) fn read(
        &self,
        region: &Region,
        scratch: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        self.read_as::<3>(region, scratch, out, Samples::to_rgb)
    }

    /// Refuses pixels that are not one value of at most 8 bits each.
    pub(crate) fn check_values(&self) -> Result<(), DecodeError> {
        match self.samples.not_values() {
            None => Ok(()),
            Some(found) => Err(DecodeError::NotAMask { found }),
        }
    }

    /// The values as runs, where the file has them for this very picture. They must have been
    /// checked. Who changes the picture must drop them; where somebody has not, they are none.
    pub(crate) fn runs(&self) -> Result<Option<Runs<'a>>, DecodeError> {
        let Some(chunk) = &self.runs else {
            return Ok(None);
        };
        chunk.check_sum()?;
        let size = (self.width, self.height);
        Runs::of(chunk.body, self.picture, size, self.samples.value_max())
    }

    /// What runs of this picture name it by.
    pub(crate) fn picture(&self) -> u32 {
        self.picture
    }

    /// Whether rows come in the file's order, so that [`show_values`](Self::show_values) can
    /// show them.
    pub(crate) fn is_in_order(&self) -> bool {
        !self.interlaced
    }

    /// Writes the region's values as the file has them, grey levels or places in a palette,
    /// to `out`, a byte each without gaps. They must have been checked.
    pub(crate) fn read_values(
        &self,
        region: &Region,
        scratch: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        self.read_as::<1>(region, scratch, out, Samples::to_values)
    }

    /// Shows the same values row by row, from the top, of a file that is
    /// [in order](Self::is_in_order): a row's number, and its values with [`BYTES_BEHIND`]
    /// more bytes that mean nothing.
    pub(crate) fn show_values(
        &self,
        region: &Region,
        scratch: &mut Vec<u8>,
        mut show: impl FnMut(u32, &[u8]),
    ) -> Result<(), DecodeError> {
        assert!(!self.interlaced, "rows of one pass");
        let columns = region.columns() as usize;
        let mut expanded = vec![
            0;
            if self.samples.is_byte() {
                0
            } else {
                columns + BYTES_BEHIND
            }
        ];
        self.each_row(region, scratch, |at, row| {
            if self.samples.is_byte() {
                show(at.y, &row[at.from as usize..]);
                return;
            }
            let values = &mut expanded[..columns];
            self.samples.to_values(row, at.from as usize, values);
            show(at.y, &expanded);
        })
    }

    fn read_as<const CHANNELS: usize>(
        &self,
        region: &Region,
        scratch: &mut Vec<u8>,
        out: &mut [u8],
        convert: impl Fn(Samples<'a>, &[u8], usize, &mut [u8]),
    ) -> Result<(), DecodeError> {
        let apart = if self.interlaced { self.width } else { 0 };
        let mut colours = vec![0; apart as usize * CHANNELS];
        let stride = region.columns() as usize * CHANNELS;
        self.each_row(region, scratch, |at, row| {
            let line = &mut out[(at.y - region.top) as usize * stride..][..stride];
            if !self.interlaced {
                convert(self.samples, row, at.from as usize, line);
                return;
            }
            let [left, _, across, _] = at.pass;
            let colours = &mut colours[..(at.to - at.from) as usize * CHANNELS];
            convert(self.samples, row, at.from as usize, colours);
            for (x, pixel) in (at.from..at.to).zip(colours.chunks_exact(CHANNELS)) {
                let at = (left + x * across - region.left) as usize * CHANNELS;
                line[at..at + CHANNELS].copy_from_slice(pixel);
            }
        })
    }

    /// Unfilters rows down to the region's end, and shows those that lie in it.
    fn each_row(
        &self,
        region: &Region,
        scratch: &mut Vec<u8>,
        mut show: impl FnMut(Place, &[u8]),
    ) -> Result<(), DecodeError> {
        let row_bytes = self.samples.row_bytes(self.width);
        let all_bytes = if self.interlaced {
            self.all_bytes()
        } else {
            (row_bytes + 1) * u64::from(region.bottom)
        };
        let mut rows = Rows::new(self.data, all_bytes, row_bytes, scratch)?;
        for (pass, columns, count) in self.passes() {
            rows.begin_pass();
            let [left, top, across, down] = pass;
            let from = region.left.saturating_sub(left).div_ceil(across);
            let to = region
                .right
                .saturating_sub(left)
                .div_ceil(across)
                .min(columns);
            for index in 0..count {
                let y = top + index * down;
                if !self.interlaced && y >= region.bottom {
                    break;
                }
                let row = rows.next(
                    self.samples.row_bytes(columns) as usize,
                    self.samples.row_bytes(to) as usize,
                    self.samples.pixel_bytes(),
                )?;
                if (region.top..region.bottom).contains(&y) && from < to {
                    show(Place { pass, y, from, to }, row);
                }
            }
        }
        Ok(())
    }
}

/// The bodies of the IDAT chunks that `data` begins with, which have been checked.
fn image_data(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let chunk = Chunk::first_of(data).filter(|chunk| &chunk.name == b"IDAT")?;
        data = &data[FRAME_BYTES + chunk.body.len()..];
        Some(chunk.body)
    })
}

fn corrupt(message: String) -> DecodeError {
    DecodeError::Corrupt {
        format: Format::Png,
        message,
    }
}
