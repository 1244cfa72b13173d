//! How a JPEG is coded, for whoever has to choose a decoder for it.
//!
//! Enters: the bytes of a JPEG. Leaves: what its header says of process, colours, sampling,
//! scans and tables, up to the first scan. Never: a guess where the bytes are unusual, an
//! allocation, a look into a scan.

use crate::jpeg::segments::{
    APP0, APP14, DHT, DQT, DRI, EOI, Frame, SOF0, SOF1, SOF2, SOF9, SOF10, SOI, SOS, is_metadata,
    scan_is_whole, segment, word,
};

const DAC: u8 = 0xcc;
/// Tables of one kind that a file may define (ITU-T T.81, B.2.4).
const TABLES: usize = 4;

/// How coefficients are laid out and coded (ITU-T T.81, table B.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// Baseline: sequential, Huffman, 8 bits.
    Baseline,
    /// Extended: sequential, Huffman, 8 or 12 bits, up to four tables of a kind.
    Extended,
    /// Progressive, Huffman.
    Progressive,
    /// Sequential or progressive, with arithmetic coding.
    Arithmetic,
    /// Lossless or hierarchical.
    Other,
}

/// Which colours the components are, as far as markers and component numbers agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// One component.
    Grey,
    /// Luma and chroma.
    YCbCr,
    /// Red, green and blue as they are.
    Rgb,
    /// Four inks, as they are or as luma and chroma.
    Inks,
    /// Two components; or three of which markers and numbers say different things, or nothing.
    Unclear,
}

/// What the header says, up to the first scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// The frame header's kind.
    pub process: Process,
    /// Bits of a sample.
    pub precision_bits: u8,
    /// Columns as stored.
    pub width: u32,
    /// Rows as stored.
    pub height: u32,
    /// 1 to 4.
    pub components: usize,
    /// Sampling factors (across, down) of each component, 0 beyond their number.
    pub sampling: [(u8, u8); 4],
    /// What the components are.
    pub colours: Colours,
    /// Whether the first scan holds all coefficients of all components: then it is the only one.
    pub is_one_scan: bool,
    /// MCUs between restart markers; 0 for none.
    pub restart_interval: u16,
    /// Whether all tables that the frame and the first scan name were defined before it, those
    /// of the quantisation with 8 bits a value.
    pub has_tables: bool,
    /// Whether the file's last two bytes are an end-of-image marker.
    pub ends: bool,
}

impl Coding {
    /// Reads the header, in about the time of [`probe`](crate::probe). None where it can't be
    /// read by the letter of the standard: cut short, a marker that has no place there, junk
    /// between segments, a table that is longer or shorter than it says, a sequential scan of
    /// fewer than all coefficients.
    pub fn of(encoded: &[u8]) -> Option<Coding> {
        let mut seen = Seen::default();
        let mut at = 0;
        loop {
            let found = segment(encoded, at)?;
            let body = &encoded[found.body.clone()];
            match found.marker {
                SOI if found.whole == (0..2) => {}
                _ if at == 0 => return None,
                DHT => seen.huffman(body)?,
                DQT => seen.quantisation(body)?,
                DRI if body.len() == 2 => seen.restart_interval = word(body, 0)?,
                SOS => return seen.into_coding(body, encoded.ends_with(&[0xff, EOI])),
                // Arithmetic conditioning goes with the frames that say so.
                DAC => {}
                0xc0..=0xc7 | 0xc9..=0xcf if seen.frame.is_none() => {
                    seen.frame = Some((found.marker, Frame::of(body)?, body));
                }
                marker if is_metadata(marker) => seen.metadata(marker, body),
                _ => return None,
            }
            at = found.whole.end;
        }
    }
}

/// What came before the first scan.
#[derive(Default)]
struct Seen<'a> {
    frame: Option<(u8, Frame, &'a [u8])>,
    is_jfif: bool,
    /// The transform that an Adobe marker names.
    adobe: Option<u8>,
    restart_interval: u16,
    dc: [bool; TABLES],
    ac: [bool; TABLES],
    quantisation: [bool; TABLES],
    has_wide_tables: bool,
}

impl Seen<'_> {
    /// Tables of B.2.4.2: class and number, sixteen counts, as many symbols.
    fn huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = body.split_first() {
            let (counts, symbols) = rest.split_at_checked(16)?;
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let tables = match kind >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(kind & 15))? = true;
            body = symbols.get(count..)?;
        }
        Some(())
    }

    /// Tables of B.2.4.1: precision and number, 64 values of a byte or two.
    fn quantisation(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = body.split_first() {
            let bytes = match kind >> 4 {
                0 => 64,
                1 => 128,
                _ => return None,
            };
            self.has_wide_tables |= bytes == 128;
            *self.quantisation.get_mut(usize::from(kind & 15))? = true;
            body = rest.get(bytes..)?;
        }
        Some(())
    }

    /// The two markers that say which colours there are, as libjpeg takes them.
    fn metadata(&mut self, marker: u8, body: &[u8]) {
        if marker == APP0 && body.len() >= 14 && body.starts_with(b"JFIF\0") {
            self.is_jfif = true;
        }
        if marker == APP14 && body.len() >= 12 && body.starts_with(b"Adobe") {
            self.adobe = Some(body[11]);
        }
    }

    fn into_coding(self, scan: &[u8], ends: bool) -> Option<Coding> {
        let (marker, frame, body) = self.frame?;
        let list = body[6..].chunks_exact(3);
        let mut sampling = [(0, 0); 4];
        let mut numbers = [0; 4];
        let mut has_tables = !self.has_wide_tables;
        for (place, component) in list.enumerate() {
            numbers[place] = component[0];
            sampling[place] = (component[1] >> 4, component[1] & 15);
            has_tables &= *self.quantisation.get(usize::from(component[2]))?;
        }
        let process = match marker {
            SOF0 => Process::Baseline,
            SOF1 => Process::Extended,
            SOF2 => Process::Progressive,
            SOF9 | SOF10 => Process::Arithmetic,
            _ => Process::Other,
        };
        let count = usize::from(*scan.first()?);
        if scan.len() != 4 + 2 * count || !(1..=frame.components).contains(&count) {
            return None;
        }
        let (first, last) = (scan[1 + 2 * count], scan[2 + 2 * count]);
        // Libjpeg reads all coefficients whatever a sequential scan says here; others may not.
        let is_sequential = matches!(process, Process::Baseline | Process::Extended);
        if is_sequential && scan[1 + 2 * count..] != [0, 63, 0] {
            return None;
        }
        for entry in scan[1..1 + 2 * count].chunks_exact(2) {
            let (dc, ac) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
            has_tables &= first > 0 || *self.dc.get(dc)?;
            has_tables &= last == 0 || *self.ac.get(ac)?;
        }
        Some(Coding {
            process,
            precision_bits: frame.precision_bits,
            width: frame.width,
            height: frame.height,
            components: frame.components,
            sampling,
            colours: self.colours(&numbers[..frame.components]),
            is_one_scan: scan_is_whole(scan, &frame),
            restart_interval: self.restart_interval,
            has_tables,
            ends,
        })
    }

    /// `numbers`: those of the components, in the frame's order.
    fn colours(&self, numbers: &[u8]) -> Colours {
        let says_rgb = numbers == b"RGB";
        match (numbers.len(), self.is_jfif, self.adobe) {
            (1, ..) => Colours::Grey,
            (4, ..) => Colours::Inks,
            (3, _, Some(1)) | (3, true, None) if !says_rgb => Colours::YCbCr,
            (3, false, Some(0)) => Colours::Rgb,
            (3, false, None) if says_rgb => Colours::Rgb,
            (3, false, None) if numbers == [1, 2, 3] => Colours::YCbCr,
            _ => Colours::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{self, Encoder, Scans, Subsampling};

    /// A photo-like picture of 70 x 50 under these settings.
    fn file(encoder: Encoder) -> Vec<u8> {
        let channels = encoder.channels();
        let pixels: Vec<u8> = (0..70 * 50 * channels).map(|n| (n / 7) as u8).collect();
        encoder.encode(&pixels, 70, 50).unwrap()
    }

    fn coding(encoder: Encoder) -> Coding {
        Coding::of(&file(encoder)).unwrap()
    }

    #[test]
    fn every_kind_is_told() {
        let usual = Encoder::default();
        let found = coding(usual);
        assert_eq!(
            found,
            Coding {
                process: Process::Baseline,
                precision_bits: 8,
                width: 70,
                height: 50,
                components: 3,
                sampling: [(2, 2), (1, 1), (1, 1), (0, 0)],
                colours: Colours::YCbCr,
                is_one_scan: true,
                restart_interval: 0,
                has_tables: true,
                ends: true,
            }
        );
        let scans = |scans| coding(Encoder { scans, ..usual });
        assert_eq!(scans(Scans::Progressive).process, Process::Progressive);
        assert_eq!(scans(Scans::Arithmetic).process, Process::Arithmetic);
        assert!(!scans(Scans::Separate).is_one_scan);
        assert!(!scans(Scans::Progressive).is_one_scan);
        let colours = |colours| coding(Encoder { colours, ..usual }).colours;
        assert_eq!(colours(encode::Colours::Rgb), Colours::Rgb);
        assert_eq!(colours(encode::Colours::Cmyk), Colours::Inks);
        assert_eq!(colours(encode::Colours::Ycck), Colours::Inks);
        let grey = coding(Encoder {
            subsampling: Subsampling::Grey,
            ..usual
        });
        assert_eq!((grey.colours, grey.components), (Colours::Grey, 1));
        let marked = coding(Encoder {
            restart_mcus: 3,
            ..usual
        });
        assert_eq!(marked.restart_interval, 3);
        let deep = coding(Encoder { bits: 12, ..usual });
        assert_eq!(deep.precision_bits, 12);
    }

    #[test]
    fn colours_that_contradict_each_other_are_unclear() {
        let check = |is_jfif, adobe, numbers: &[u8], expected| {
            let seen = Seen {
                is_jfif,
                adobe,
                ..Seen::default()
            };
            assert_eq!(
                seen.colours(numbers),
                expected,
                "{is_jfif} {adobe:?} {numbers:?}"
            );
        };
        check(true, None, &[1, 2, 3], Colours::YCbCr);
        check(true, None, &[0, 1, 2], Colours::YCbCr);
        check(false, None, &[1, 2, 3], Colours::YCbCr);
        check(false, None, b"RGB", Colours::Rgb);
        check(false, Some(0), &[1, 2, 3], Colours::Rgb);
        check(false, Some(1), &[0, 1, 2], Colours::YCbCr);
        check(true, Some(1), &[1, 2, 3], Colours::YCbCr);
        check(true, Some(0), &[1, 2, 3], Colours::Unclear);
        check(true, None, b"RGB", Colours::Unclear);
        check(false, Some(1), b"RGB", Colours::Unclear);
        check(false, Some(2), &[1, 2, 3], Colours::Unclear);
        check(false, None, &[0, 1, 2], Colours::Unclear);
        check(true, None, &[1, 2], Colours::Unclear);
    }

    #[test]
    fn no_cut_and_no_missing_table_is_taken_for_whole() {
        let whole = file(Encoder::default());
        let mut at = 0;
        while let Some(found) = segment(&whole, at) {
            if matches!(found.marker, DQT | DHT) {
                let without = [&whole[..found.whole.start], &whole[found.whole.end..]].concat();
                assert!(!Coding::of(&without).unwrap().has_tables);
            }
            at = found.whole.end;
            if found.marker == SOS {
                break;
            }
        }
        for length in 0..at {
            assert_eq!(Coding::of(&whole[..length]), None, "{length} bytes");
        }
        for length in at..whole.len() {
            assert!(
                !Coding::of(&whole[..length]).unwrap().ends,
                "{length} bytes"
            );
        }
        let followed = [&whole[..], &[0]].concat();
        assert!(!Coding::of(&followed).unwrap().ends);
    }

    #[test]
    fn sequential_scans_that_name_other_coefficients_are_unusual() {
        for scans in [Scans::Sequential, Scans::Separate] {
            let mut bytes = file(Encoder {
                scans,
                ..Encoder::default()
            });
            assert!(Coding::of(&bytes).is_some());
            let start = bytes.windows(2).position(|two| two == [0xff, SOS]);
            let start = start.unwrap();
            let end = start + 2 + usize::from(bytes[start + 3]);
            bytes[end - 3..end].fill(0);
            assert_eq!(Coding::of(&bytes), None, "{scans:?}");
        }
    }

    #[test]
    fn tables_that_lie_about_their_length_are_refused() {
        let mut seen = Seen::default();
        let table = |kind: u8, counts: u8, symbols: usize| {
            let mut body = vec![kind];
            body.extend([counts; 16]);
            body.extend(vec![0; symbols]);
            body
        };
        assert_eq!(seen.huffman(&table(0x11, 1, 16)), Some(()));
        assert!(seen.ac[1]);
        assert_eq!(seen.huffman(&table(0x00, 1, 15)), None);
        assert_eq!(seen.huffman(&table(0x24, 0, 0)), None);
        assert_eq!(seen.huffman(&table(0x04, 0, 0)), None);
        assert_eq!(seen.huffman(&[0; 9]), None);
        assert_eq!(seen.quantisation(&[1; 65]), Some(()));
        assert_eq!(seen.quantisation(&[1; 64]), None);
        assert_eq!(seen.quantisation(&[0x21; 65]), None);
        assert!(!seen.has_wide_tables);
        assert_eq!(seen.quantisation(&[0x10; 129]), Some(()));
        assert!(seen.has_wide_tables);
    }

    proptest::proptest! {
        /// Whatever is done to a header, what is read from it fits what the decoder reads.
        #[test]
        fn damaged_headers_are_read_as_the_decoder_reads_them(
            kind in 0usize..5,
            changes in proptest::collection::vec((2usize..700, 0u8..=255), 1..4),
        ) {
            let scans = [Scans::Sequential, Scans::Separate, Scans::Progressive, Scans::Arithmetic];
            let mut bytes = file(Encoder {
                scans: *scans.get(kind).unwrap_or(&Scans::Sequential),
                colours: if kind == 4 { encode::Colours::Rgb } else { encode::Colours::YCbCr },
                ..Encoder::default()
            });
            for (place, byte) in changes {
                let last = bytes.len() - 1;
                bytes[place.min(last)] = byte;
            }
            if let (Some(coding), Ok(header)) = (Coding::of(&bytes), crate::probe(&bytes)) {
                assert_eq!((coding.width, coding.height), (header.width, header.height));
            }
        }
    }
}
