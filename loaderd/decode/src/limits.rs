//! Bounds on what one image may cost.
//!
//! Enters: what a header claims and a decoder would allocate. Leaves: leave to go on, or an
//! error with the bound and the value. Never: a look at the image itself.

use crate::error::DecodeError;
use crate::header::Header;

/// What no image may make a decoder exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Columns times rows, as the header says. Default 178,956,970: where Pillow, too,
    /// refuses an image as a decompression bomb.
    pub pixels_max: u64,
    /// Scans of a progressive JPEG. Default 100; encoders write 10, and the finest
    /// script that makes sense about 60.
    pub scans_max: u32,
    /// Bytes of scratch memory for one image, coefficients of a progressive JPEG, whole
    /// frames of a WebP or GIF and code tables of a lossless WebP included. Default 256 MiB. What decoders hold
    /// for a few rows comes on top: 10 MB for the widest JPEG there can be.
    pub scratch_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            pixels_max: 178_956_970,
            scans_max: 100,
            scratch_bytes_max: 256 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn check_pixels(&self, header: &Header) -> Result<(), DecodeError> {
        if header.pixels() <= self.pixels_max {
            return Ok(());
        }
        Err(DecodeError::TooLarge {
            width: header.width,
            height: header.height,
            pixels_max: self.pixels_max,
        })
    }

    pub(crate) fn check_scratch(
        &self,
        header: &Header,
        needed_bytes: u64,
    ) -> Result<(), DecodeError> {
        if needed_bytes <= self.scratch_bytes_max {
            return Ok(());
        }
        Err(DecodeError::ScratchTooLarge {
            width: header.width,
            height: header.height,
            needed_bytes,
            scratch_bytes_max: self.scratch_bytes_max,
        })
    }
}
