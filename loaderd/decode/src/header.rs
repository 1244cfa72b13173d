//! What a JPEG says about itself before its first scan.
//!
//! Enters: encoded bytes of any kind. Leaves: a [`Header`], or what the bytes are
//! instead. Never: an allocation that the bytes could size, a look past the frame header.

use crate::error::DecodeError;

/// How the coefficients of a JPEG are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Baseline or extended sequential.
    Sequential,
    /// Progressive: several scans, each refining the picture.
    Progressive,
    /// Lossless or hierarchical, which nothing here decodes.
    Other,
}

/// A JPEG's frame header (ITU-T T.81, B.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 1 in a grey image, 3 in colour, 4 in CMYK.
    pub components: u8,
    /// Bits of a sample, 8 in nearly every file.
    pub precision_bits: u8,
    /// How it is coded.
    pub coding: Coding,
}

impl Header {
    /// Whether the file is progressive.
    pub fn progressive(&self) -> bool {
        self.coding == Coding::Progressive
    }

    /// Columns times rows.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Refuses what the decoder cannot turn into RGB.
    pub(crate) fn supported(&self) -> Result<(), DecodeError> {
        let what = if self.coding == Coding::Other {
            "a lossless or hierarchical JPEG".to_string()
        } else if self.precision_bits != 8 {
            format!("a JPEG with {} bits a sample", self.precision_bits)
        } else if self.components == 4 {
            "a CMYK or YCCK JPEG".to_string()
        } else if self.components != 1 && self.components != 3 {
            format!("a JPEG with {} components", self.components)
        } else {
            return Ok(());
        };
        Err(DecodeError::Unsupported { what })
    }
}

/// Reads a JPEG's frame header and nothing else: a few hundred nanoseconds unless
/// metadata come first, no allocation on success.
///
/// A [`Header`] does not promise that the image decodes; [`DecodeError::NotJpeg`] names
/// other well-known formats by their first bytes.
pub fn probe(encoded: &[u8]) -> Result<Header, DecodeError> {
    if encoded.is_empty() {
        return Err(DecodeError::Empty);
    }
    if !encoded.starts_with(&[0xff, 0xd8, 0xff]) && encoded != [0xff, 0xd8] {
        return Err(DecodeError::NotJpeg {
            found: name_of(encoded),
        });
    }
    let truncated = DecodeError::Truncated {
        bytes: encoded.len(),
    };
    let mut at = 2;
    loop {
        // Like libjpeg: junk before a marker is passed over, and a marker may be padded
        // with any number of 0xff bytes.
        let marker = loop {
            let rest = encoded.get(at..).ok_or(truncated.clone())?;
            let start = rest
                .iter()
                .position(|&byte| byte == 0xff)
                .ok_or(truncated.clone())?;
            let length = rest[start..]
                .iter()
                .position(|&byte| byte != 0xff)
                .ok_or(truncated.clone())?;
            at += start + length + 1;
            match encoded[at - 1] {
                0 => continue,
                marker => break marker,
            }
        };
        match marker {
            // Markers without a segment: TEM, RSTn.
            0x01 | 0xd0..=0xd7 => continue,
            0xd8 => {
                return Err(corrupt(
                    "a second start-of-image marker before the frame header",
                ));
            }
            0xd9 | 0xda => return Err(corrupt("no frame header before the first scan")),
            _ => {}
        }
        let Some(&[high, low]) = encoded.get(at..at + 2) else {
            return Err(truncated);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(corrupt("a segment shorter than its own length field"));
        }
        // Of the 0xc0 row, these three are no frame headers: DHT, JPG, DAC.
        if (0xc0..=0xcf).contains(&marker) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            let Some(frame) = encoded.get(at + 2..at + 8) else {
                return Err(truncated);
            };
            if length < 8 {
                return Err(corrupt("a frame header shorter than its fixed fields"));
            }
            let header = Header {
                precision_bits: frame[0],
                height: u32::from(u16::from_be_bytes([frame[1], frame[2]])),
                width: u32::from(u16::from_be_bytes([frame[3], frame[4]])),
                components: frame[5],
                coding: match marker {
                    0xc0 | 0xc1 | 0xc9 => Coding::Sequential,
                    0xc2 | 0xca => Coding::Progressive,
                    _ => Coding::Other,
                },
            };
            if header.width == 0 || header.height == 0 {
                return Err(corrupt("an image without rows or columns"));
            }
            return Ok(header);
        }
        at += length;
    }
}

fn corrupt(message: &str) -> DecodeError {
    DecodeError::Corrupt {
        message: message.to_string(),
    }
}

fn name_of(encoded: &[u8]) -> String {
    let at = |offset: usize, magic: &[u8]| {
        encoded
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    let name = if at(0, b"\x89PNG") {
        "a PNG"
    } else if at(0, b"GIF8") {
        "a GIF"
    } else if at(0, b"RIFF") && at(8, b"WEBP") {
        "a WebP"
    } else if at(0, b"BM") {
        "a BMP"
    } else if at(0, b"II*\0") || at(0, b"MM\0*") {
        "a TIFF"
    } else if at(4, b"ftypavif") {
        "an AVIF"
    } else if at(4, b"ftyphei") || at(4, b"ftypmif1") {
        "a HEIF"
    } else if at(0, b"\xff\x0a") || at(4, b"JXL ") {
        "a JPEG XL"
    } else if at(4, b"jP  ") || at(0, b"\xff\x4f\xff\x51") {
        "a JPEG 2000"
    } else {
        let first: Vec<String> = encoded
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        return format!("it starts with the bytes {}", first.join(" "));
    };
    format!("it is {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SOI and one SOF0 that announces the size.
    fn frame(marker: u8, precision: u8, height: u16, width: u16, components: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, marker, 0, 8 + 3 * components, precision];
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.push(components);
        bytes.extend((0..components).flat_map(|id| [id + 1, 0x11, 0]));
        bytes
    }

    #[test]
    fn frame_headers_are_read() {
        let check = |bytes: &[u8], width, height, components, coding| {
            let header = probe(bytes).unwrap();
            assert_eq!(
                (
                    header.width,
                    header.height,
                    header.components,
                    header.coding
                ),
                (width, height, components, coding)
            );
        };
        check(
            &frame(0xc0, 8, 333, 500, 3),
            500,
            333,
            3,
            Coding::Sequential,
        );
        check(
            &frame(0xc2, 8, 1, 65535, 1),
            65535,
            1,
            1,
            Coding::Progressive,
        );
        check(&frame(0xc3, 8, 2, 2, 3), 2, 2, 3, Coding::Other);
        // Metadata, padding and junk before the frame.
        let mut padded = vec![
            0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xc0, 7, 0xff, 0xff, 0xff,
        ];
        padded.extend(&frame(0xc0, 8, 4, 9, 3)[3..]);
        check(&padded, 9, 4, 3, Coding::Sequential);
    }

    #[test]
    fn every_cut_of_a_header_is_truncated() {
        let whole = frame(0xc0, 8, 4, 9, 3);
        for length in 2..12 {
            assert_eq!(
                probe(&whole[..length]),
                Err(DecodeError::Truncated { bytes: length })
            );
        }
        assert!(probe(&whole[..12]).is_ok());
    }

    #[test]
    fn what_is_no_jpeg_is_named() {
        let check = |bytes: &[u8], expected: &str| {
            let message = probe(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(b"", "no bytes");
        check(b"\x89PNG\r\n\x1a\n....", "a PNG");
        check(b"GIF89a", "a GIF");
        check(b"RIFF\0\0\0\0WEBPVP8 ", "a WebP");
        check(b"\0\0\0\x20ftypavif", "an AVIF");
        check(b"\x01\x02", "01 02");
        check(&[0xff; 64], "ff ff ff ff");
        check(&[0xff, 0xd8, 0xff, 0xd9], "no frame header");
        check(&frame(0xc0, 8, 0, 5, 3), "without rows");
        check(&[0xff, 0xd8, 0xff, 0xe0, 0, 1], "shorter than its own");
    }

    #[test]
    fn unsupported_kinds_are_named() {
        let check = |bytes: &[u8], expected: &str| {
            let message = probe(bytes).unwrap().supported().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(&frame(0xc0, 8, 5, 5, 4), "CMYK");
        check(&frame(0xc1, 12, 5, 5, 3), "12 bits");
        check(&frame(0xc3, 8, 5, 5, 3), "lossless");
        check(&frame(0xc0, 8, 5, 5, 2), "2 components");
    }
}
