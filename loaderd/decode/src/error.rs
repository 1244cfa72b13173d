//! What can go wrong, with the facts: a list of transforms, an encoded image, an encode.

use crate::magic::Format;

/// A list of transforms that cannot become a [`Pipeline`](crate::Pipeline).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TransformError {
    /// The value is no JSON array.
    #[error("transforms must be a list, found {found}")]
    NotAList {
        /// What was there instead.
        found: String,
    },
    /// The list is longer than any that makes sense.
    #[error("a list may hold {most} transforms, found {found}")]
    TooMany {
        /// Transforms in the list.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// One entry is unknown, or lacks or has a field that it should not.
    #[error("transform {index} ({name}): {reason}")]
    Malformed {
        /// Position in the list, from 0.
        index: usize,
        /// Its `name`, or `?`.
        name: String,
        /// What the parser found.
        reason: String,
    },
    /// A value lies outside its bound.
    #[error("transform {index} ({name}): {field} must be {bound}, found {found}")]
    OutOfBounds {
        /// Position in the list, from 0.
        index: usize,
        /// The transform's name.
        name: &'static str,
        /// The field at fault.
        field: &'static str,
        /// The bound.
        bound: String,
        /// The value found.
        found: String,
    },
    /// The entry may not stand at its place.
    #[error("transform {index} ({name}): {reason}")]
    Misplaced {
        /// Position in the list, from 0.
        index: usize,
        /// The transform's name.
        name: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// Nothing fixes height and width, so images could not share a batch.
    #[error(
        "no sizing transform: the images of a batch must have one size; add RandomResizedCrop(size), Resize((h, w)), CenterCrop(size) or RandomCrop(size){hint}"
    )]
    NoSize {
        /// A remark on what was given, or nothing.
        hint: &'static str,
    },
}

/// An image that cannot be decoded. All of these are facts about the image ("bad
/// samples"), none about the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the image has no bytes")]
    Empty,
    /// The bytes start as no format does that is decoded.
    #[error(
        "only JPEG, PNG, WebP and GIF are decoded, and {found}: save it as one of these, or leave it out"
    )]
    UnknownFormat {
        /// What it is instead, or its first bytes.
        found: String,
    },
    /// An image of a known format, but of a kind that is not decoded.
    #[error(
        "{what} is not supported: save it as a JPEG with 8 or 12 bits a sample, baseline or progressive, or as PNG"
    )]
    Unsupported {
        /// The kind.
        what: String,
    },
    /// A mask whose pixels are not one small number each.
    #[error(
        "the mask is {found}: save it as a PNG of class numbers from 0 to 255, in grey or as a palette"
    )]
    NotAMask {
        /// What it is instead.
        found: String,
    },
    /// The image is smaller than the piece that RandomCrop cuts out.
    #[error(
        "the image is {width}x{height} before RandomCrop((h={rows}, w={columns})), with its padding: too small; pad_if_needed=True adds borders, Resize before it enlarges"
    )]
    TooSmall {
        /// Columns, borders included.
        width: u32,
        /// Rows, borders included.
        height: u32,
        /// Columns wanted.
        columns: u32,
        /// Rows wanted.
        rows: u32,
    },
    /// The header announces more pixels than the limit allows.
    #[error("the image is {width}x{height}, more than the limit of {pixels_max} pixels")]
    TooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The bound, [`Limits::pixels_max`](crate::Limits::pixels_max).
        pixels_max: u64,
    },
    /// Decoding would need more memory than the limit allows.
    #[error(
        "decoding this {width}x{height} image needs {needed_bytes} bytes of scratch memory, more than the limit of {scratch_bytes_max}"
    )]
    ScratchTooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes it would take.
        needed_bytes: u64,
        /// The bound, [`Limits::scratch_bytes_max`](crate::Limits::scratch_bytes_max).
        scratch_bytes_max: u64,
    },
    /// The data end before the image does, or without the format's own end.
    #[error("the image ends early: its {bytes} bytes are cut short")]
    Truncated {
        /// Bytes given.
        bytes: usize,
    },
    /// The data contradict themselves.
    #[error("corrupt {format}: {message}")]
    Corrupt {
        /// What the data say they are.
        format: Format,
        /// The decoder's words, or ours where the header is at fault.
        message: String,
    },
    /// A file with more scans than the limit, which costs time out of proportion.
    #[error("the JPEG has more than {scans_max} scans")]
    TooManyScans {
        /// The bound, [`Limits::scans_max`](crate::Limits::scans_max).
        scans_max: u32,
    },
}

/// Pixels that libjpeg would not encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A side is 0 or longer than the format allows.
    #[error("a JPEG has 1 to 65500 rows and columns, found {width}x{height}")]
    Size {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The pixels are not `width * height * channels` bytes.
    #[error("expected {expected} bytes of pixels, found {found}")]
    PixelBytes {
        /// Bytes that the size asks for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Whatever else libjpeg refused.
    #[error("libjpeg could not encode: {message}")]
    Library {
        /// libjpeg's words.
        message: String,
    },
}
