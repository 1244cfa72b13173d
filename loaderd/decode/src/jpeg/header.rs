//! What a JPEG says about itself before its first scan.
//!
//! Enters: the bytes of a JPEG. Leaves: a [`Header`], or what is wrong. Never: an
//! allocation that the bytes could size, a look into a scan.

use crate::error::DecodeError;
use crate::header::Header;
use crate::magic::Format;
use crate::orientation::Orientation;

/// The frame header (ITU-T T.81, B.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    width: u32,
    height: u32,
    /// 1 in a grey image, 3 in colour, 4 in CMYK.
    components: u8,
    precision_bits: u8,
    /// Lossless or hierarchical, which nothing here decodes.
    exotic: bool,
}

impl Frame {
    /// Refuses what the decoder cannot turn into RGB.
    fn check(&self) -> Result<(), DecodeError> {
        let what = if self.exotic {
            "a lossless or hierarchical JPEG".to_string()
        } else if !matches!(self.precision_bits, 8 | 12) {
            format!("a JPEG with {} bits a sample", self.precision_bits)
        } else if !matches!(self.components, 1 | 3 | 4) {
            format!("a JPEG with {} components", self.components)
        } else {
            return Ok(());
        };
        Err(DecodeError::Unsupported { what })
    }
}

/// Reads segments up to the first scan, a few hundred nanoseconds.
///
/// The frame header may be followed by an EXIF block or an XMP packet, so segments after it
/// are looked at, too; but what is wrong there is libjpeg's to say.
pub(crate) fn probe(encoded: &[u8]) -> Result<Header, DecodeError> {
    let mut segments = Segments { encoded, at: 2 };
    let (mut exif, mut xmp) = (None, None);
    let frame = loop {
        match segments.next()? {
            Segment::Frame(frame) => break frame,
            Segment::Exif(block) => exif = exif.or(Some(block)),
            Segment::Xmp(packet) => xmp = Some(packet),
            Segment::Other => {}
            Segment::Scan => return Err(corrupt("no frame header before the first scan")),
        }
    };
    frame.check()?;
    // The first block counts, and is read once: a file can have millions of segments.
    let mut is_told = exif.and_then(Orientation::in_exif).is_some();
    while !is_told {
        match segments.next() {
            Ok(Segment::Exif(block)) if exif.is_none() => {
                exif = Some(block);
                is_told = Orientation::in_exif(block).is_some();
            }
            Ok(Segment::Exif(_)) => {}
            Ok(Segment::Xmp(packet)) => xmp = Some(packet),
            Ok(Segment::Other) => {}
            Ok(Segment::Frame(_) | Segment::Scan) | Err(_) => break,
        }
    }
    Ok(Header {
        format: Format::Jpeg,
        width: frame.width,
        height: frame.height,
        orientation: Orientation::of(exif, xmp),
        frames_ignored: false,
    })
}

enum Segment<'a> {
    Frame(Frame),
    /// An APP1 segment's contents, `Exif\0\0` first.
    Exif(&'a [u8]),
    /// The same of an XMP packet, behind its name.
    Xmp(&'a [u8]),
    Other,
    /// The first scan, or the image's end.
    Scan,
}

struct Segments<'a> {
    encoded: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    fn next(&mut self) -> Result<Segment<'a>, DecodeError> {
        let encoded = self.encoded;
        let truncated = || DecodeError::Truncated {
            bytes: encoded.len(),
        };
        // Like libjpeg: junk before a marker is passed over, and a marker may be padded
        // with any number of 0xff bytes.
        let marker = loop {
            let rest = encoded.get(self.at..).ok_or_else(truncated)?;
            let start = rest
                .iter()
                .position(|&byte| byte == 0xff)
                .ok_or_else(truncated)?;
            let length = rest[start..]
                .iter()
                .position(|&byte| byte != 0xff)
                .ok_or_else(truncated)?;
            self.at += start + length + 1;
            match encoded[self.at - 1] {
                0 => continue,
                marker => break marker,
            }
        };
        match marker {
            // Markers without a segment: TEM, RSTn.
            0x01 | 0xd0..=0xd7 => return Ok(Segment::Other),
            0xd8 => {
                return Err(corrupt(
                    "a second start-of-image marker before the first scan",
                ));
            }
            0xd9 | 0xda => return Ok(Segment::Scan),
            _ => {}
        }
        let at = self.at;
        let Some(&[high, low]) = encoded.get(at..at + 2) else {
            return Err(truncated());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(corrupt("a segment shorter than its own length field"));
        }
        self.at += length;
        // Of the 0xc0 row, these three are no frame headers: DHT, JPG, DAC.
        if (0xc0..=0xcf).contains(&marker) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            let Some(fields) = encoded.get(at + 2..at + 8) else {
                return Err(truncated());
            };
            if length < 8 {
                return Err(corrupt("a frame header shorter than its fixed fields"));
            }
            let frame = Frame {
                precision_bits: fields[0],
                height: u32::from(u16::from_be_bytes([fields[1], fields[2]])),
                width: u32::from(u16::from_be_bytes([fields[3], fields[4]])),
                components: fields[5],
                exotic: !matches!(marker, 0xc0..=0xc2 | 0xc9 | 0xca),
            };
            if frame.width == 0 || frame.height == 0 {
                return Err(corrupt("an image without rows or columns"));
            }
            return Ok(Segment::Frame(frame));
        }
        let body = encoded.get(at + 2..at + length).unwrap_or(&[]);
        if marker == 0xe1 && body.starts_with(b"Exif\0\0") {
            return Ok(Segment::Exif(body));
        }
        // ISO 16684-3, table 1.
        if let (0xe1, Some(packet)) = (marker, body.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0"))
        {
            return Ok(Segment::Xmp(packet));
        }
        Ok(Segment::Other)
    }
}

fn corrupt(message: &str) -> DecodeError {
    DecodeError::Corrupt {
        format: Format::Jpeg,
        message: message.to_string(),
    }
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

    /// An APP1 segment that asks for this orientation.
    fn exif(value: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xe1, 0, 34];
        bytes.extend(b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0");
        bytes.extend([value, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// The same as XMP.
    fn xmp(value: u8) -> Vec<u8> {
        let body = format!("http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation=\"{value}\"/>");
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&[0xff, 0xe1], &length[..], body.as_bytes()].concat()
    }

    #[test]
    fn frame_headers_are_read() {
        let check = |bytes: &[u8], width, height| {
            let header = probe(bytes).unwrap();
            assert_eq!((header.width, header.height), (width, height));
        };
        check(&frame(0xc0, 8, 333, 500, 3), 500, 333);
        check(&frame(0xc2, 8, 1, 65535, 1), 65535, 1);
        check(&frame(0xc9, 8, 5, 6, 4), 6, 5);
        check(&frame(0xc1, 12, 7, 8, 3), 8, 7);
        // Metadata, padding and junk before the frame.
        let mut padded = vec![
            0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xc0, 7, 0xff, 0xff, 0xff,
        ];
        padded.extend(&frame(0xc0, 8, 4, 9, 3)[3..]);
        check(&padded, 9, 4);
    }

    #[test]
    fn exif_is_found_before_and_after_the_frame() {
        let plain = frame(0xc0, 8, 4, 9, 3);
        let value = |bytes: &[u8]| probe(bytes).unwrap().orientation.value();
        assert_eq!(value(&plain), 1);
        let before = [&plain[..2], &exif(6), &plain[2..]].concat();
        assert_eq!(value(&before), 6);
        let after = [&plain[..], &exif(8)].concat();
        assert_eq!(value(&after), 8);
        // The first block counts; one that has no room for itself does not.
        let both = [&before[..], &exif(8)].concat();
        assert_eq!(value(&both), 6);
        assert_eq!(value(&after[..after.len() - 8]), 1);
        let scan = [&plain[..], &[0xff, 0xda, 0, 2], &exif(8)].concat();
        assert_eq!(value(&scan), 1);
        // XMP, of which the last packet counts, where no EXIF block says anything.
        let last = [&plain[..], &xmp(3), &xmp(5)].concat();
        assert_eq!(value(&last), 5);
        assert_eq!(value(&[&before[..], &xmp(5)].concat()), 6);
        let mut silent = exif(6);
        silent[21] += 1;
        assert_eq!(value(&[&plain[..], &silent, &xmp(5)].concat()), 5);
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
    fn broken_headers_are_named() {
        let check = |bytes: &[u8], expected: &str| {
            let message = probe(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(&[0xff, 0xd8, 0xff, 0xd9], "no frame header");
        check(&frame(0xc0, 8, 0, 5, 3), "without rows");
        check(&[0xff, 0xd8, 0xff, 0xe0, 0, 1], "shorter than its own");
        check(&frame(0xc1, 10, 5, 5, 3), "10 bits");
        check(&frame(0xc3, 8, 5, 5, 3), "lossless");
        check(&frame(0xcb, 8, 5, 5, 3), "lossless");
        check(&frame(0xc0, 8, 5, 5, 2), "2 components");
    }
}
