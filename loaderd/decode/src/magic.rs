//! What kind of file the first bytes announce.
//!
//! Enters: encoded bytes. Leaves: a [`Format`], or in words what the bytes look like
//! instead. Never: a file's name or extension, or a look beyond the first kilobyte.

use crate::error::DecodeError;

/// A format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// JPEG (ITU-T T.81): sequential or progressive, Huffman or arithmetic coding.
    Jpeg,
    /// PNG (W3C, third edition), of which APNG is a kind.
    Png,
    /// WebP (RFC 9649), lossy or lossless.
    WebP,
    /// GIF, 87a or 89a.
    Gif,
}

impl Format {
    /// The format's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
        }
    }

    /// Tells the format by the first bytes; a file that is shorter than they are counts
    /// as that format cut short.
    pub(crate) fn of(encoded: &[u8]) -> Result<Format, DecodeError> {
        if encoded.is_empty() {
            return Err(DecodeError::Empty);
        }
        let riff = encoded.len() > 8 && encoded.starts_with(b"RIFF");
        if starts(encoded, b"\xff\xd8\xff") && encoded.len() > 1 {
            Ok(Format::Jpeg)
        } else if starts(encoded, b"\x89PNG\r\n\x1a\n") {
            Ok(Format::Png)
        } else if riff && starts(&encoded[8..], b"WEBP") {
            Ok(Format::WebP)
        } else if starts(encoded, b"GIF87a") || starts(encoded, b"GIF89a") {
            Ok(Format::Gif)
        } else {
            Err(DecodeError::UnknownFormat {
                found: look(encoded),
            })
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the bytes begin like `magic`, as far as they go.
fn starts(encoded: &[u8], magic: &[u8]) -> bool {
    let length = encoded.len().min(magic.len());
    encoded[..length] == magic[..length]
}

/// First bytes, where they lie, and what has them.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"II+\0", "a BigTIFF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypavis", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftyphev", "a HEIC"),
    (4, b"ftypmif1", "a HEIF"),
    (4, b"ftyp", "an MP4 or QuickTime video"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (4, b"JXL ", "a JPEG XL"),
    (4, b"jP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\x01\0", "a Windows icon"),
    (0, b"qoif", "a QOI"),
    (0, b"v/1\x01", "an OpenEXR"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer (git lfs pull fetches the file)",
    ),
];

/// What the bytes look like, in words that fit after "it is" or stand for themselves.
fn look(encoded: &[u8]) -> String {
    let known = OTHERS.iter().find(|(offset, magic, _)| {
        encoded
            .get(*offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    });
    if let Some((_, _, name)) = known {
        return format!("it is {name}");
    }
    let head = &encoded[..encoded.len().min(1024)];
    if head.iter().all(|&byte| byte == 0) {
        return "it begins with zeros alone, like a file whose contents were never written".into();
    }
    let text = head.trim_ascii_start().to_ascii_lowercase();
    for (start, name) in [
        (&b"<!doctype html"[..], "an HTML page"),
        (b"<html", "an HTML page"),
        (b"<svg", "an SVG"),
        (b"<?xml", "XML"),
        (b"{", "text like JSON"),
    ] {
        if text.starts_with(start) {
            return format!("it is {name}");
        }
    }
    let first: Vec<String> = encoded
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("it starts with the bytes {}", first.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_bytes() {
        for (bytes, format) in [
            (&b"\xff\xd8\xff\xe0"[..], Format::Jpeg),
            (b"\xff\xd8", Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n\0\0", Format::Png),
            (b"\x89PN", Format::Png),
            (b"RIFF\x01\x02\x03\x04WEBPVP8 ", Format::WebP),
            (b"RIFF\x01\x02\x03\x04W", Format::WebP),
            (b"GIF87a", Format::Gif),
            (b"GIF89a\x01", Format::Gif),
            (b"G", Format::Gif),
        ] {
            assert_eq!(Format::of(bytes), Ok(format), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_not_decoded_is_named() {
        let check = |bytes: &[u8], expected: &str| {
            let message = Format::of(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(b"", "no bytes");
        check(b"BM\x36\0", "a BMP");
        check(b"II*\0\x08", "a TIFF");
        check(b"\0\0\0\x20ftypavif", "an AVIF");
        check(b"\0\0\0\x18ftypheic", "a HEIC");
        check(b"\0\0\0\x18ftypisom", "an MP4");
        check(b"PK\x03\x04\x14\0", "a ZIP");
        check(b"\n  <!DOCTYPE HTML><html>", "an HTML page");
        check(b"<?xml version", "XML");
        check(b"{\"error\": 404}", "JSON");
        check(
            b"version https://git-lfs.github.com/spec/v1",
            "git lfs pull",
        );
        check(&[0; 100], "never written");
        check(b"RIFF\0\0\0\0WAVEfmt ", "52 49 46 46");
        check(b"RIFF", "52 49 46 46");
        check(b"\x01\x02", "01 02");
        check(&[0xff; 64], "ff ff ff ff");
        check(b"\x01\x02", "save it as one of these, or leave it out");
    }
}
