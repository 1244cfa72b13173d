//! RGB, grey or CMYK pixels → a JPEG, for sample data and tests.
//!
//! Enters: a picture in memory. Leaves: the bytes of a JPEG of the kind asked for.
//! Never: on the way of a training batch.

use crate::error::EncodeError;
use crate::jpeg::{self, EncodeLayout};

/// How many pixels share one chroma sample; or no chroma at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsampling {
    /// 4:4:4, none.
    S444,
    /// 4:2:2, two columns.
    S422,
    /// 4:2:0, two columns and two rows.
    S420,
    /// 4:4:0, two rows.
    S440,
    /// 4:1:1, four columns.
    S411,
    /// 4:1:0, four columns and two rows.
    S410,
    /// One component; the pixels given are one byte each.
    Grey,
}

impl Subsampling {
    /// All of them.
    pub const ALL: [Subsampling; 7] = [
        Subsampling::S444,
        Subsampling::S422,
        Subsampling::S420,
        Subsampling::S440,
        Subsampling::S411,
        Subsampling::S410,
        Subsampling::Grey,
    ];

    /// Bytes of one pixel of an input without inks: 3 (RGB), or 1 for grey.
    pub fn channels(self) -> usize {
        if self == Subsampling::Grey { 1 } else { 3 }
    }

    fn factors(self) -> (u32, u32) {
        match self {
            Subsampling::S444 | Subsampling::Grey => (1, 1),
            Subsampling::S422 => (2, 1),
            Subsampling::S420 => (2, 2),
            Subsampling::S440 => (1, 2),
            Subsampling::S411 => (4, 1),
            Subsampling::S410 => (4, 2),
        }
    }
}

/// Which colours a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// Luma and chroma, made from RGB: the usual. With [`Subsampling::Grey`], luma alone.
    YCbCr,
    /// RGB as it is, with an Adobe marker that says so.
    Rgb,
    /// Four inks as they are, 255 for none, as Adobe writes them.
    Cmyk,
    /// The first three inks as luma and chroma, the fourth as it is.
    Ycck,
}

/// How scans are laid out and coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scans {
    /// Sequential, one scan with all components: what cameras write.
    Sequential,
    /// Sequential, one scan for each component.
    Separate,
    /// Progressive, libjpeg's usual ten scans (six for grey).
    Progressive,
    /// Sequential with arithmetic instead of Huffman coding.
    Arithmetic,
}

/// Settings of an encode. `Encoder::default()` is quality 85, 4:2:0, sequential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    /// libjpeg's quality, 1 to 100.
    pub quality: u8,
    /// Chroma subsampling.
    pub subsampling: Subsampling,
    /// Colour space of the file.
    pub colours: Colours,
    /// Bits of a sample: 8, or 12, which needs tables made for the picture.
    pub bits: u8,
    /// Scan layout.
    pub scans: Scans,
    /// Huffman tables made for this picture: smaller, slower to encode.
    pub optimise: bool,
    /// MCU rows between restart markers; 0 for none.
    pub restart_rows: u16,
    /// MCUs between restart markers, where `restart_rows` is 0; 0 for none.
    pub restart_mcus: u16,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder {
            quality: 85,
            subsampling: Subsampling::S420,
            colours: Colours::YCbCr,
            bits: 8,
            scans: Scans::Sequential,
            optimise: false,
            restart_rows: 0,
            restart_mcus: 0,
        }
    }
}

impl Encoder {
    /// Bytes of one pixel of the input: 3 (RGB), 1 for grey, 4 for inks.
    pub fn channels(&self) -> usize {
        match self.colours {
            Colours::YCbCr | Colours::Rgb => self.subsampling.channels(),
            Colours::Cmyk | Colours::Ycck => 4,
        }
    }

    /// Encodes `pixels`, `height` rows of `width` pixels of
    /// [`channels`](Self::channels) bytes, without gaps.
    pub fn encode(&self, pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, EncodeError> {
        if !(1..=65500).contains(&width) || !(1..=65500).contains(&height) {
            return Err(EncodeError::Size { width, height });
        }
        let channels = self.channels();
        let expected = width as usize * height as usize * channels;
        if pixels.len() != expected {
            return Err(EncodeError::PixelBytes {
                expected,
                found: pixels.len(),
            });
        }
        let (luma_h, luma_v) = self.subsampling.factors();
        let layout = EncodeLayout {
            width,
            height,
            components: channels as u32,
            direct: u32::from(matches!(self.colours, Colours::Rgb | Colours::Cmyk)),
            bits: if self.bits > 8 { 12 } else { 8 },
            quality: u32::from(self.quality.clamp(1, 100)),
            luma_h,
            luma_v,
            progressive: u32::from(self.scans == Scans::Progressive),
            optimise: u32::from(self.optimise || self.bits > 8),
            separate_scans: u32::from(self.scans == Scans::Separate),
            arithmetic: u32::from(self.scans == Scans::Arithmetic),
            restart_rows: u32::from(self.restart_rows),
            restart_mcus: u32::from(self.restart_mcus),
        };
        jpeg::encode(pixels, &layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_sizes_are_refused() {
        let encoder = Encoder::default();
        assert_eq!(
            encoder.encode(&[0; 11], 2, 2),
            Err(EncodeError::PixelBytes {
                expected: 12,
                found: 11
            })
        );
        assert!(matches!(
            encoder.encode(&[], 0, 2),
            Err(EncodeError::Size { .. })
        ));
        assert!(matches!(
            encoder.encode(&[], 65501, 2),
            Err(EncodeError::Size { .. })
        ));
    }
}
