//! What an encoded image says about itself before a pixel is decoded.
//!
//! Enters: encoded bytes of any kind. Leaves: a [`Header`], or why there is none. Never:
//! an allocation that the bytes could size, or trust in a file's name.

use crate::error::DecodeError;
use crate::magic::Format;
use crate::orientation::Orientation;
use crate::{gif, jpeg, png, webp};

/// An image's kind and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How it is encoded, as its first bytes say.
    pub format: Format,
    /// Columns as stored, before [`orientation`](Self::orientation).
    pub width: u32,
    /// Rows as stored.
    pub height: u32,
    /// What its EXIF block asks for, or its XMP packet; upright where neither does.
    pub orientation: Orientation,
    /// Whether there are frames besides the first, which alone is decoded.
    pub frames_ignored: bool,
}

impl Header {
    /// Columns times rows.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// Reads an image's kind and size. Takes a microsecond or so, except for a PNG, of whose
/// bytes it checks the sums (0.1 ms a megabyte). Allocates nothing on success.
///
/// Refuses what the decoder would refuse whatever the limits: other formats by name, the
/// kinds of JPEG that are not decoded, and files of which an end is missing where the
/// format tells that cheaply. A [`Header`] does not promise that the image decodes.
pub fn probe(encoded: &[u8]) -> Result<Header, DecodeError> {
    Parsed::of(encoded).map(|parsed| parsed.header())
}

/// A file whose structure has been read, so that it need not be read again to decode.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    Jpeg(Header),
    Png(png::Layout<'a>),
    WebP(webp::Layout<'a>),
    Gif(gif::Layout<'a>),
}

impl Parsed<'_> {
    pub(crate) fn of(encoded: &[u8]) -> Result<Parsed<'_>, DecodeError> {
        Ok(match Format::of(encoded)? {
            Format::Jpeg => Parsed::Jpeg(jpeg::header::probe(encoded)?),
            Format::Png => Parsed::Png(png::Layout::of(encoded)?),
            Format::WebP => Parsed::WebP(webp::Layout::of(encoded)?),
            Format::Gif => Parsed::Gif(gif::Layout::of(encoded)?),
        })
    }

    /// Whether the decoder can shrink the image to 4, 2 or 1 eighths.
    pub(crate) fn shrinks(&self) -> bool {
        matches!(self, Parsed::Jpeg(_))
    }

    pub(crate) fn header(&self) -> Header {
        match self {
            Parsed::Jpeg(header) => *header,
            Parsed::Png(layout) => layout.header(),
            Parsed::WebP(layout) => layout.header(),
            Parsed::Gif(layout) => layout.header(),
        }
    }
}
