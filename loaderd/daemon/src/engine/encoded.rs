//! A row's bytes on their way from the feeder to a worker.
//!
//! Enters: what a read, the source or a file name gives. Leaves: the encoded image, or the parts of it
//! that were read. It reads nothing, and knows no format.

use std::sync::Arc;

use loaderd_decode::cut::Pieces;
use loaderd_read::{Buffer, Extent};

/// What a row has, on its way to a decoder.
pub(super) enum Encoded {
    Read(Buffer),
    /// Read from here, and nothing is known yet of where its segments lie.
    New(Buffer, Extent),
    /// The parts that its crop takes.
    Pieces(Box<Pieced>),
    Shared(Arc<[u8]>),
    /// In the file that this text names.
    Named(Vec<u8>),
    /// Back from the GPU, which may not have let go of it yet.
    Kept(Arc<Encoded>),
}

impl Encoded {
    /// Its parts, where not all of it was read.
    pub(super) fn pieced(&self) -> Option<&Pieced> {
        match self {
            Encoded::Pieces(pieced) => Some(pieced),
            Encoded::Kept(encoded) => encoded.pieced(),
            _ => None,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Encoded::Read(buffer) | Encoded::New(buffer, _) => buffer,
            Encoded::Pieces(_) => unreachable!("only images that are cropped are read in pieces"),
            Encoded::Shared(bytes) => bytes,
            Encoded::Named(_) => unreachable!("files are read before they are decoded"),
            Encoded::Kept(encoded) => encoded.bytes(),
        }
    }
}

/// Parts of a JPEG that were read.
pub(super) struct Pieced {
    pub(super) pieces: Pieces,
    /// Where all of it lies.
    pub(super) whole: Extent,
    /// The header; where it was read in one go with the body, that buffer holds it, and what lies
    /// between.
    pub(super) head: Option<Buffer>,
    pub(super) body: Buffer,
}

impl Pieced {
    /// Header and body.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        let (head, body) = (self.pieces.head().len(), self.pieces.body());
        match &self.head {
            Some(buffer) => (buffer, &self.body),
            None => (&self.body[..head], &self.body[body.start as usize..]),
        }
    }
}
