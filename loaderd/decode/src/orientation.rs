//! How a stored image is turned to stand upright, by its EXIF block or its XMP packet.
//!
//! Enters: the TIFF structure of an EXIF block (Exif 2.32, 4.5.2; TIFF 6.0, section 2), an
//! XMP packet (ISO 16684-1), a placement drawn on the upright image, pixels as stored. Leaves: an [`Orientation`],
//! the placement in stored coordinates, upright pixels. Never: an error; metadata that
//! make no sense mean that the image is upright already.

use crate::geometry::{Axis, Placement, Span};

/// Tag 0x0112 of the first directory, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation(u8);

/// Pixels between what are neighbours in the upright image, in the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    /// The upright image's first pixel.
    pub(crate) start: isize,
    /// To the next column.
    pub(crate) x: isize,
    /// To the next row.
    pub(crate) y: isize,
}

const TAG: u16 = 0x0112;
const SHORT: u16 = 3;
const LONG: u16 = 4;

impl Orientation {
    /// As stored.
    pub const UPRIGHT: Orientation = Orientation(1);

    /// The EXIF value, 1 to 8.
    pub fn value(self) -> u8 {
        self.0
    }

    /// The orientation of this EXIF value; none outside of 1 to 8.
    pub(crate) fn of_value(value: u8) -> Option<Orientation> {
        (1..=8).contains(&value).then_some(Orientation(value))
    }

    /// Whether rows of the stored image are columns of the upright one.
    pub fn swaps(self) -> bool {
        self.0 >= 5
    }

    /// Width and height of the upright image.
    pub(crate) fn upright(self, width: u32, height: u32) -> (u32, u32) {
        if self.swaps() {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// Whether (x, y) of the stored image run against the upright image's axes.
    pub(crate) fn mirrors(self) -> (bool, bool) {
        (
            matches!(self.0, 2 | 3 | 7 | 8),
            matches!(self.0, 3 | 4 | 6 | 7),
        )
    }

    /// What a file's metadata ask for. An EXIF block that has an orientation, sensible or
    /// not, goes before the XMP packet, as in Pillow.
    pub(crate) fn of(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
        exif.and_then(Self::in_exif)
            .or_else(|| xmp.and_then(Self::in_xmp))
            .filter(|value| (1..=8).contains(value))
            .map_or(Self::UPRIGHT, |value| Orientation(value as u8))
    }

    /// The first `tiff:Orientation` with a digit, as an attribute or an element: the same
    /// text that Pillow looks for.
    fn in_xmp(packet: &[u8]) -> Option<u32> {
        const NAME: &[u8] = b"tiff:Orientation";
        let mut rest = packet;
        while let Some(at) = rest.windows(NAME.len()).position(|part| part == NAME) {
            rest = &rest[at + NAME.len()..];
            let value = rest
                .strip_prefix(b"=\"")
                .or_else(|| rest.strip_prefix(b">"));
            if let Some([digit @ b'0'..=b'9', ..]) = value {
                return Some(u32::from(digit - b'0'));
            }
        }
        None
    }

    /// The entry of a block that may begin with `Exif\0\0`, as in JPEG's APP1.
    ///
    /// Looks at one directory of at most 65,535 entries inside the bytes given; follows
    /// no link beyond it. Of several entries the last counts, as in Pillow.
    pub(crate) fn in_exif(block: &[u8]) -> Option<u32> {
        let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
        let big_endian = match tiff.get(..4)? {
            b"II*\0" => false,
            b"MM\0*" => true,
            _ => return None,
        };
        let short = |at: usize| {
            let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
            Some(if big_endian {
                u16::from_be_bytes(bytes)
            } else {
                u16::from_le_bytes(bytes)
            })
        };
        let long = |at: usize| {
            let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
            Some(if big_endian {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            })
        };
        let directory = long(4)? as usize;
        let count = usize::from(short(directory)?);
        let mut found = None;
        for index in 0..count {
            let at = directory + 2 + 12 * index;
            let Some(tag) = short(at) else { break };
            if tag != TAG || long(at + 4) != Some(1) {
                continue;
            }
            found = match short(at + 2)? {
                SHORT => short(at + 8).map(u32::from),
                LONG => long(at + 8),
                _ => None,
            };
        }
        found
    }

    /// A placement that was drawn on the upright image, on the stored one of `width` x
    /// `height`. Its flip stays that of the upright image.
    pub(crate) fn stored(self, upright: &Placement, width: u32, height: u32) -> Placement {
        let (mirror_x, mirror_y) = self.mirrors();
        let (x, y) = if self.swaps() {
            (upright.y, upright.x)
        } else {
            (upright.x, upright.y)
        };
        Placement {
            x: if mirror_x { mirrored(x, width) } else { x },
            y: if mirror_y { mirrored(y, height) } else { y },
            ..*upright
        }
    }

    /// Runs of columns `x` and rows `y` of the upright image, in the stored one of `width` x
    /// `height`: its columns, then its rows.
    pub(crate) fn stored_ends(
        self,
        x: (u32, u32),
        y: (u32, u32),
        width: u32,
        height: u32,
    ) -> ((u32, u32), (u32, u32)) {
        let (mirror_x, mirror_y) = self.mirrors();
        let (x, y) = if self.swaps() { (y, x) } else { (x, y) };
        let turn = |mirror, (from, to): (u32, u32), len| {
            if mirror {
                (len - to, len - from)
            } else {
                (from, to)
            }
        };
        (turn(mirror_x, x, width), turn(mirror_y, y, height))
    }

    /// How to walk over `width` x `height` stored pixels without gaps, upright.
    pub(crate) fn steps(self, width: usize, height: usize) -> Steps {
        let (mirror_x, mirror_y) = self.mirrors();
        let (width, height) = (width as isize, height as isize);
        let mut start = 0;
        let mut along_x = 1;
        if mirror_x {
            start += width - 1;
            along_x = -1;
        }
        let mut along_y = width;
        if mirror_y {
            start += width * (height - 1);
            along_y = -width;
        }
        let (x, y) = if self.swaps() {
            (along_y, along_x)
        } else {
            (along_x, along_y)
        };
        Steps { start, x, y }
    }

    /// Copies `width` x `height` stored RGB pixels, rows `stride_bytes` apart, to `out`,
    /// upright and without gaps.
    pub(crate) fn turn(
        self,
        stored: &[u8],
        stride_bytes: usize,
        width: usize,
        height: usize,
        out: &mut [u8],
    ) {
        assert_eq!(out.len(), width * height * 3);
        let (mirror_x, mirror_y) = self.mirrors();
        // What a step along the stored x and y means in the upright image, in pixels.
        let (mut step_x, mut step_y) = if self.swaps() {
            (height as isize, 1)
        } else {
            (1, width as isize)
        };
        let mut start = 0;
        if mirror_x {
            start += step_x * (width as isize - 1);
            step_x = -step_x;
        }
        if mirror_y {
            start += step_y * (height as isize - 1);
            step_y = -step_y;
        }
        for y in 0..height {
            let row = &stored[y * stride_bytes..][..width * 3];
            let mut to = start + step_y * y as isize;
            for pixel in row.chunks_exact(3) {
                out[to as usize * 3..][..3].copy_from_slice(pixel);
                to += step_x;
            }
        }
    }
}

/// An axis whose image of `len` pixels is counted from the other end.
fn mirrored(axis: Axis, len: u32) -> Axis {
    Axis {
        source: mirrored_span(axis.source, len),
        resized: axis
            .resized
            .map(|(grid, window)| (grid, mirrored_span(window, grid))),
    }
}

fn mirrored_span(span: Span, len: u32) -> Span {
    let len = i64::from(len);
    Span {
        start: len - span.end(),
        len: span.len,
        seen: (len - span.seen.1, len - span.seen.0),
        kept: (len - span.kept.1, len - span.kept.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory at `offset` with these (tag, type, count, value) entries.
    fn tiff(big_endian: bool, offset: u32, entries: &[(u16, u16, u32, u32)]) -> Vec<u8> {
        let short = |value: u16| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let long = |value: u32| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let mut bytes = if big_endian { *b"MM\0*" } else { *b"II*\0" }.to_vec();
        bytes.extend(long(offset));
        bytes.resize(offset.min(64) as usize, 0);
        bytes.extend(short(entries.len() as u16));
        for (tag, kind, count, value) in entries {
            bytes.extend(short(*tag));
            bytes.extend(short(*kind));
            bytes.extend(long(*count));
            if *kind == SHORT {
                bytes.extend(short(*value as u16));
                bytes.extend([0, 0]);
            } else {
                bytes.extend(long(*value));
            }
        }
        bytes
    }

    fn of_exif(block: &[u8]) -> Orientation {
        Orientation::of(Some(block), None)
    }

    #[test]
    fn xmp_is_read_where_exif_says_nothing() {
        let check = |packet: &str, expected: u8| {
            let found = Orientation::of(None, Some(packet.as_bytes()));
            assert_eq!(found.value(), expected, "{packet}");
        };
        check("<rdf:Description tiff:Orientation=\"6\"/>", 6);
        check("<tiff:Orientation>8</tiff:Orientation>", 8);
        check(
            "tiff:Orientation= tiff:Orientation=\"3\" tiff:Orientation=\"4\"",
            3,
        );
        check("tiff:Orientation='6'", 1);
        check("tiff:Orientation=\"9\"", 1);
        check("tiff:Orientation=\"0\"", 1);
        check("tiff:Orientation", 1);
        check("tiff:Orientation=\"", 1);
        check("", 1);
        let xmp = Some(&b"tiff:Orientation=\"6\""[..]);
        for (value, expected) in [(3, 3), (1, 1), (9, 1)] {
            let exif = tiff(false, 8, &[(TAG, SHORT, 1, value)]);
            assert_eq!(Orientation::of(Some(&exif), xmp).value(), expected);
        }
        for silent in [tiff(true, 8, &[(0x010f, 2, 4, 0)]), Vec::new()] {
            assert_eq!(Orientation::of(Some(&silent), xmp).value(), 6);
        }
    }

    #[test]
    fn values_are_read() {
        for big_endian in [false, true] {
            for value in 0..12 {
                let block = tiff(big_endian, 8, &[(0x010f, 2, 4, 0), (TAG, SHORT, 1, value)]);
                let expected = if (1..=8).contains(&value) { value } else { 1 };
                assert_eq!(u32::from(of_exif(&block).value()), expected);
                let mut prefixed = b"Exif\0\0".to_vec();
                prefixed.extend(&block);
                assert_eq!(of_exif(&prefixed), of_exif(&block));
            }
        }
        let long = tiff(false, 20, &[(TAG, LONG, 1, 6)]);
        assert_eq!(of_exif(&long).value(), 6);
        let twice = tiff(true, 8, &[(TAG, SHORT, 1, 3), (TAG, SHORT, 1, 8)]);
        assert_eq!(of_exif(&twice).value(), 8);
    }

    #[test]
    fn nonsense_is_upright() {
        let good = tiff(true, 8, &[(TAG, SHORT, 1, 6)]);
        for length in 0..good.len() - 2 {
            assert_eq!(of_exif(&good[..length]), Orientation::UPRIGHT, "{length}");
        }
        let mut counted = good.clone();
        counted[8..10].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(of_exif(&counted).value(), 6);
        for (bytes, at) in [(&[0xff; 4][..], 4), (&[0, 0, 0, 0], 4), (b"XX", 0)] {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(of_exif(&bad), Orientation::UPRIGHT);
        }
        for entry in [
            (TAG, 2, 1, 6),
            (TAG, SHORT, 0, 6),
            (TAG, SHORT, u32::MAX, 6),
        ] {
            let block = tiff(false, 8, &[entry]);
            assert_eq!(of_exif(&block), Orientation::UPRIGHT);
        }
    }

    /// EXIF's table, as Pillow's `ImageOps.exif_transpose` follows it, on
    /// `a b c / d e f`.
    #[test]
    fn pixels_are_turned() {
        for (value, expected) in [
            (1, "abcdef"),
            (2, "cbafed"),
            (3, "fedcba"),
            (4, "defabc"),
            (5, "adbecf"),
            (6, "daebfc"),
            (7, "fcebda"),
            (8, "cfbead"),
        ] {
            // Rows lie four pixels apart.
            let stored: Vec<u8> = b"abc.def".iter().flat_map(|&byte| [byte; 3]).collect();
            let mut out = [0; 18];
            Orientation(value).turn(&stored, 12, 3, 2, &mut out);
            let found: String = out.chunks_exact(3).map(|pixel| pixel[0] as char).collect();
            assert_eq!(found, expected, "{value}");
        }
    }
}
