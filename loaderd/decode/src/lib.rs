//! Encoded image + transforms + random draws → finished pixels in the caller's slot.
//!
//! Enters: the bytes of one JPEG, PNG, WebP or GIF, a [`Pipeline`], an endless stream of
//! random `u32`s. Leaves: `[C, H, W]` or `[H, W, C]` pixels, written once, at the place where
//! the consumer reads them. Only what the crop needs is decoded. Never: I/O, threads,
//! `unsafe` pixels from a file that lies about its size.

mod error;
mod header;
mod magic;

mod pipeline;
mod transforms;

mod augment;
mod decoder;
mod device;
mod finish;
mod follow;
mod frame;
mod geometry;
mod gif;
mod jpeg;
mod limits;
mod mask;
mod opened;
mod orientation;
mod png;
mod region;
mod resize;
mod simd;
mod webp;

pub mod coding;
pub mod cut;
pub mod encode;
pub mod tile;

pub use decoder::{Decoded, Decoder, Image, StageNs};
pub use device::Placed;
pub use error::{DecodeError, EncodeError, TransformError};
pub use follow::Geometry;
pub use header::{Header, probe};
pub use limits::Limits;
pub use magic::Format;
pub use orientation::Orientation;
pub use pipeline::{Options, Output, Pipeline};
pub use simd::simd;
pub use transforms::{
    DType, EraseValue, Interpolation, Layout, Noise, PaddingMode, ResizeTo, Sampling, Transform,
};

/// The version of libjpeg-turbo, such as `3.1.0`.
pub fn libjpeg_turbo_version() -> &'static str {
    jpeg::library_version()
}

/// What decodes, with versions: pixels are the same bit for bit where this is the same.
pub fn version() -> String {
    format!(
        "libjpeg-turbo {}, loaderd-decode {}",
        jpeg::library_version(),
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_decoder_names_its_library() {
        let version = super::version();
        assert!(version.starts_with("libjpeg-turbo 3."), "{version}");
    }
}
