//! A JPEG's marker segments, read by the letter of the standard (ITU-T T.81, B.1.1).
//!
//! Enters: the bytes of a JPEG. Leaves: its segments one by one, and what its frame and scan
//! headers say. Never: a guess where the bytes are unusual, an allocation.

use std::ops::Range;

pub(crate) const SOF0: u8 = 0xc0;
pub(crate) const SOF1: u8 = 0xc1;
pub(crate) const SOF2: u8 = 0xc2;
pub(crate) const SOF9: u8 = 0xc9;
pub(crate) const SOF10: u8 = 0xca;
pub(crate) const DHT: u8 = 0xc4;
pub(crate) const RST0: u8 = 0xd0;
pub(crate) const SOI: u8 = 0xd8;
pub(crate) const EOI: u8 = 0xd9;
pub(crate) const SOS: u8 = 0xda;
pub(crate) const DQT: u8 = 0xdb;
pub(crate) const DRI: u8 = 0xdd;
pub(crate) const COM: u8 = 0xfe;
pub(crate) const APP0: u8 = 0xe0;
pub(crate) const APP14: u8 = 0xee;
pub(crate) const APP15: u8 = 0xef;

/// Most components that one scan may interleave.
const COMPONENTS_MAX: usize = 4;

/// One marker, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) marker: u8,
    /// Its marker's two bytes, its length and its body; where fill bytes stand before the
    /// marker, without them.
    pub(crate) whole: Range<usize>,
    /// What follows the length; empty at SOI and EOI, which have none.
    pub(crate) body: Range<usize>,
}

/// The segment whose marker begins at `at`. None where anything else is there, or where it
/// reaches beyond the end; markers without a length count only where they are SOI or EOI.
pub(crate) fn segment(encoded: &[u8], at: usize) -> Option<Segment> {
    let rest = encoded.get(at..)?;
    let fill = rest.iter().position(|&byte| byte != 0xff)?;
    let start = (at + fill).checked_sub(1).filter(|&start| start >= at)?;
    let marker = encoded[start + 1];
    let end = match marker {
        SOI | EOI => start + 2,
        // Stuffing, TEM, reserved markers, RSTn.
        0x00..=0xbf | 0xd0..=0xd7 => return None,
        _ => {
            let length = word(encoded, start + 2).filter(|&length| length >= 2)?;
            start + 2 + usize::from(length)
        }
    };
    let body = (start + 4).min(end)..end;
    if end > encoded.len() || (body.is_empty() && !matches!(marker, SOI | EOI | COM | APP0..=APP15))
    {
        return None;
    }
    Some(Segment {
        marker,
        whole: start..end,
        body,
    })
}

/// Whether a segment with this marker only describes the picture, and has no part in how
/// its coefficients are coded.
pub(crate) fn is_metadata(marker: u8) -> bool {
    matches!(marker, APP0..=APP15 | COM)
}

/// Where the entropy-coded data that begin at `at` end: at the first marker but RSTn. None
/// where there is none.
pub(crate) fn scan_end(encoded: &[u8], at: usize) -> Option<usize> {
    let data = encoded.get(at..)?;
    memchr::memchr_iter(0xff, data)
        .map(|offset| at + offset)
        .find(|&offset| !matches!(encoded.get(offset + 1), Some(0x00 | 0xd0..=0xd7 | 0xff)))
        .filter(|&offset| offset + 1 < encoded.len())
}

/// Two bytes, most significant first.
pub(crate) fn word(encoded: &[u8], at: usize) -> Option<u16> {
    let bytes = encoded.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// What a frame header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) precision_bits: u8,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) components: usize,
    /// The largest sampling factors, across and down.
    pub(crate) sampling: (u32, u32),
}

impl Frame {
    /// Reads a frame header's body. None where it is inconsistent, or has more components
    /// than a scan may interleave.
    pub(crate) fn of(body: &[u8]) -> Option<Frame> {
        let (&[precision_bits, _, _, _, _, components], list) = body.split_first_chunk()?;
        let components = usize::from(components);
        let (height, width) = (word(body, 1)?, word(body, 3)?);
        let sides = height > 0 && width > 0;
        let count = (1..=COMPONENTS_MAX).contains(&components) && list.len() == 3 * components;
        if !sides || !count {
            return None;
        }
        let mut sampling = (0, 0);
        for component in list.chunks_exact(3) {
            let (across, down) = (component[1] >> 4, component[1] & 15);
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) {
                return None;
            }
            sampling.0 = u32::from(across).max(sampling.0);
            sampling.1 = u32::from(down).max(sampling.1);
        }
        Some(Frame {
            precision_bits,
            width: width.into(),
            height: height.into(),
            components,
            sampling,
        })
    }

    /// Pixels that share one sample of the coarsest component, across and down: 1 where
    /// nothing is subsampled.
    pub(crate) fn shared(&self) -> (u32, u32) {
        // Alone in its scan, a component is its own measure.
        if self.components == 1 {
            return (1, 1);
        }
        self.sampling
    }

    /// Columns and rows of an MCU of a scan that holds all components (A.2).
    pub(crate) fn mcu(&self) -> (u32, u32) {
        let (across, down) = self.shared();
        (8 * across, 8 * down)
    }

    /// MCUs across and down, the last ones of which the picture may fill in part.
    pub(crate) fn mcus(&self) -> (u32, u32) {
        let (width, height) = self.mcu();
        (self.width.div_ceil(width), self.height.div_ceil(height))
    }
}

/// Whether a scan header's body announces all components of a sequential frame at once.
pub(crate) fn scan_is_whole(body: &[u8], frame: &Frame) -> bool {
    let components = frame.components;
    body.len() == 4 + 2 * components
        && usize::from(body[0]) == components
        && body[1 + 2 * components..] == [0, 63, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_read_by_the_letter() {
        let check = |bytes: &[u8], expected: Option<(u8, Range<usize>, Range<usize>)>| {
            let expected = expected.map(|(marker, whole, body)| Segment {
                marker,
                whole,
                body,
            });
            assert_eq!(segment(bytes, 0), expected, "{bytes:02x?}");
        };
        check(&[0xff, 0xd8], Some((SOI, 0..2, 2..2)));
        check(&[0xff, 0xff, 0xff, 0xd9, 7], Some((EOI, 2..4, 4..4)));
        check(&[0xff, 0xdd, 0, 4, 0, 9, 1], Some((DRI, 0..6, 4..6)));
        check(&[0xff, 0xff, 0xfe, 0, 2, 1], Some((COM, 1..5, 5..5)));
        check(&[0xff, 0xdb, 0, 2], None);
        check(&[0xff, 0xdd, 0, 4, 0], None);
        check(&[0xff, 0xe1, 0, 1, 0], None);
        check(&[0xff, 0xe1, 0], None);
        check(&[0xff, 0xd0, 0, 2], None);
        check(&[0xff, 0x00], None);
        check(&[0xff, 0xff], None);
        check(&[0xff], None);
        check(&[0x00, 0xff, 0xd8], None);
        check(&[], None);
    }

    #[test]
    fn scans_end_at_a_marker_of_another_kind() {
        let check = |bytes: &[u8], expected| assert_eq!(scan_end(bytes, 0), expected);
        check(&[1, 0xff, 0, 2, 0xff, 0xd3, 3, 0xff, 0xd9], Some(7));
        check(&[1, 0xff, 0xff, 0xda], Some(2));
        check(&[1, 0xff], None);
        check(&[1, 0xff, 0], None);
        check(&[], None);
    }

    #[test]
    fn mcus_are_those_of_the_standard() {
        let check = |factors: &[u8], mcu, mcus| {
            let mut body = vec![8, 0, 100, 0, 33, factors.len() as u8];
            body.extend(factors.iter().flat_map(|&factor| [1, factor, 0]));
            let frame = Frame::of(&body).unwrap();
            assert_eq!((frame.mcu(), frame.mcus()), (mcu, mcus));
        };
        check(&[0x11], (8, 8), (5, 13));
        check(&[0x22], (8, 8), (5, 13));
        check(&[0x22, 0x11, 0x11], (16, 16), (3, 7));
        check(&[0x41, 0x11, 0x11], (32, 8), (2, 13));
        check(&[0x11, 0x11, 0x11, 0x12], (8, 16), (5, 7));
        assert_eq!(Frame::of(&[8, 0, 1, 0, 1, 1, 1, 0x51, 0]), None);
        assert_eq!(Frame::of(&[8, 0, 0, 0, 1, 1, 1, 0x11, 0]), None);
        assert_eq!(Frame::of(&[8, 0, 1, 0, 1, 2, 1, 0x11, 0]), None);
    }
}
