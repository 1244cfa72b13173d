//! One interface to the formats' decoders: which pixels are wanted, and where they are.
//!
//! Enters: a parsed file, limits, a region. Leaves: RGB rows that hold the region, in a
//! scratch buffer. Never: placement, resizing, or an allocation before the limits have
//! had their say.

use crate::error::DecodeError;
use crate::header::{Header, Parsed};
use crate::jpeg::{Jpeg, OpenJpeg, scaled};
use crate::limits::Limits;
use crate::magic::Format;
use crate::{gif, png, webp};

/// Pixels `[left, right)` x `[top, bottom)` of an image as stored; not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First column.
    pub left: u32,
    /// The column after the last.
    pub right: u32,
    /// First row.
    pub top: u32,
    /// The row after the last.
    pub bottom: u32,
}

impl Region {
    pub(crate) fn columns(&self) -> u32 {
        self.right - self.left
    }

    pub(crate) fn rows(&self) -> u32 {
        self.bottom - self.top
    }
}

/// An image of which a region can be read, once.
pub(crate) enum Opened<'a> {
    Jpeg(OpenJpeg<'a>),
    Png(png::Layout<'a>),
    WebP(webp::Layout<'a>),
    Gif(gif::Layout<'a>),
}

/// RGB pixels in a scratch buffer that hold a region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    /// Pixels from one row to the next.
    pub(crate) stride: u32,
    /// Pixels of each row to the left of the region.
    pub(crate) skipped: u32,
}

impl<'a> Opened<'a> {
    /// Opens what has been parsed, and checks what only the format's decoder can say.
    pub(crate) fn open(
        jpeg: &'a mut Jpeg,
        encoded: &'a [u8],
        parsed: Parsed<'a>,
        limits: &Limits,
    ) -> Result<Opened<'a>, DecodeError> {
        Ok(match parsed {
            Parsed::Jpeg(header) => Opened::Jpeg(open_jpeg(jpeg, encoded, &header, limits)?),
            Parsed::Png(layout) => {
                layout.check_data()?;
                Opened::Png(layout)
            }
            Parsed::WebP(mut layout) => {
                layout.count_tables(limits.scratch_bytes_max)?;
                Opened::WebP(layout)
            }
            Parsed::Gif(layout) => Opened::Gif(layout),
        })
    }

    /// Bytes that reading the region at `eighths`/8 of full size takes, the output
    /// included.
    pub(crate) fn scratch_bytes(&self, region: &Region) -> u64 {
        // Rows of a JPEG may start up to one MCU, 32 columns, further left than asked for.
        let reach = if let Opened::Jpeg(open) = self {
            2 * open.chroma_columns() + 32
        } else {
            0
        };
        let output = u64::from(region.columns() + reach) * u64::from(region.rows()) * 3;
        output
            + match self {
                Opened::Jpeg(open) => open.held_bytes(),
                Opened::Png(layout) => layout.scratch_bytes(),
                Opened::WebP(layout) => layout.scratch_bytes(),
                Opened::Gif(layout) => layout.scratch_bytes(),
            }
    }

    /// Reads a region of the image at `eighths`/8 of full size into `pixels`. `frame` is
    /// scratch for formats that are decoded as a whole, and for a PNG's data.
    pub(crate) fn read(
        self,
        eighths: u32,
        region: &Region,
        frame: &mut Vec<u8>,
        pixels: &mut Vec<u8>,
    ) -> Result<Rows, DecodeError> {
        if let Opened::Jpeg(open) = self {
            return read_jpeg(open, eighths, region, pixels);
        }
        let bytes = region.columns() as usize * region.rows() as usize * 3;
        let out = room(pixels, bytes);
        match self {
            Opened::Jpeg(_) => unreachable!("returned above"),
            Opened::Png(layout) => layout.read(region, frame, out)?,
            Opened::WebP(layout) => layout.read(region, frame, out)?,
            Opened::Gif(layout) => layout.read(region, frame, out)?,
        }
        Ok(Rows {
            stride: region.columns(),
            skipped: 0,
        })
    }
}

/// Opens a JPEG whose header has been read and checked against the limits.
pub(crate) fn open_jpeg<'a>(
    jpeg: &'a mut Jpeg,
    encoded: &'a [u8],
    header: &Header,
    limits: &Limits,
) -> Result<OpenJpeg<'a>, DecodeError> {
    let open = jpeg.open(encoded, limits.scans_max, limits.scratch_bytes_max)?;
    // The limits were checked against our reading of the header: it must be libjpeg's.
    if open.size() != (header.width, header.height) {
        return Err(DecodeError::Corrupt {
            format: Format::Jpeg,
            message: "two frame headers that differ in size".to_string(),
        });
    }
    open.check_colour()?;
    open.check_end()?;
    Ok(open)
}

fn read_jpeg(
    open: OpenJpeg<'_>,
    eighths: u32,
    region: &Region,
    pixels: &mut Vec<u8>,
) -> Result<Rows, DecodeError> {
    // Upsampled chroma at a crop's edge depends on the next chroma sample.
    let margin = match open.chroma_columns() {
        1 => 0,
        columns => columns,
    };
    let left = region.left.saturating_sub(margin);
    let right = (region.right + margin).min(scaled(open.size().0, eighths));
    let started = open.start(eighths, left, right - left)?;
    let rows = Rows {
        stride: started.width,
        skipped: region.left - started.left,
    };
    let bytes = started.row_bytes() * region.rows() as usize;
    started.read(region.top, region.rows(), room(pixels, bytes))?;
    Ok(rows)
}

/// The first `count` elements of a scratch buffer, grown if need be; contents are leftovers.
pub(crate) fn room<T: Clone + Default>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        // Nothing in it is worth copying to the new place.
        buffer.clear();
        buffer.resize(count, T::default());
    }
    &mut buffer[..count]
}
