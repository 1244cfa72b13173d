//! WebPs.

use loaderd_decode::{DecodeError, Decoder, Limits, Options};

use crate::check_refused as check;
use crate::files;

#[test]
fn headers_cannot_ask_for_memory() {
    let webp = files::webp(2, 2, 3, &[0; 12]);
    // The size in a VP8L header.
    let lossless = |width: u32, height: u32| {
        let mut file = webp.clone();
        let bits = (width - 1) | (height - 1) << 14;
        file[21..25].copy_from_slice(&bits.to_le_bytes());
        file
    };
    let lossy = |width: u16, height: u16| {
        let mut file = files::unhex(files::LOSSY_WEBP);
        file[26..28].copy_from_slice(&width.to_le_bytes());
        file[28..30].copy_from_slice(&height.to_le_bytes());
        file
    };
    check(&lossless(16_384, 16_384), "more than the limit");
    check(&lossless(12_000, 12_000), "scratch memory");
    check(&lossless(2000, 2000), "corrupt WebP");
    check(&lossy(16_383, 16_383), "more than the limit");
    check(&lossy(12_000, 12_000), "scratch memory");
    check(&lossy(3000, 3000), "corrupt WebP");
    // A canvas and a picture that differ, both ways.
    let extended = |width, height, picture: &[u8]| {
        files::webp_animation(width, height, &[(picture, [0, 0, 2, 2])])
    };
    check(&extended(1 << 24, 1 << 24, &webp), "more than the limit");
    check(&extended(2, 2, &lossless(12_000, 12_000)), "does not fit");
    check(&extended(1, 1, &webp), "does not fit its canvas");
    check(
        &files::webp_with_exif(&webp, 3, 2, 1),
        "does not fit its canvas",
    );
}

/// Bits from the lowest of the first byte on.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn put(&mut self, value: u32, count: usize) {
        for bit in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("pushed above");
            *last |= ((value >> bit & 1) as u8) << (self.count % 8);
            self.count += 1;
        }
    }

    /// A code of this symbol alone.
    fn put_symbol(&mut self, symbol: u32) {
        self.put(0b101, 3);
        self.put(symbol, 8);
    }
}

/// A black picture of 4 x 4 pixels with this many groups of codes, of which it uses the last.
/// The first code of each has 2,048 symbols of 11 bits: 70 KiB when it is decoded.
fn groups(count: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0x2f, 8);
    bits.put(3 | 3 << 14, 32);
    // No transforms; a cache of 2^11 colours; groups by blocks of 4 x 4.
    bits.put(0, 1);
    bits.put(1 | 11 << 1, 5);
    bits.put(1, 4);
    // The image of groups has one pixel, the number in red and green.
    bits.put(0, 1);
    bits.put_symbol((count - 1) & 0xff);
    bits.put_symbol((count - 1) >> 8);
    (0..3).for_each(|_| bits.put_symbol(0));
    for _ in 0..count {
        // 15 codes of lengths, all unused but that of length 11.
        bits.put(11 << 1, 5);
        bits.put(0, 3 * 14);
        bits.put(1, 3);
        // Of 2,048 symbols, a number in 12 bits.
        bits.put(1 | 5 << 1, 4);
        bits.put(2046, 12);
        (0..4).for_each(|_| bits.put_symbol(0));
    }
    bits.put(0, 11 * 16 + 64);
    let mut file = files::webp(4, 4, 3, &[0; 48]);
    file.truncate(12);
    let length = bits.bytes.len() as u32;
    file.extend(b"VP8L");
    file.extend(length.to_le_bytes());
    file.extend(&bits.bytes);
    file.resize(file.len() + length as usize % 2, 0);
    let riff = file.len() as u32 - 8;
    file[4..8].copy_from_slice(&riff.to_le_bytes());
    file
}

/// Half a megabyte of codes would become gigabytes.
#[test]
fn codes_cannot_ask_for_memory() {
    let black = Decoder::new(Limits::default()).decode_full(&groups(100), Options::default());
    assert_eq!(black.unwrap().rgb, [0; 48]);
    let limits = Limits {
        scratch_bytes_max: 2 << 20,
        ..Limits::default()
    };
    let mut small = Decoder::new(limits);
    assert!(small.decode_full(&groups(20), Options::default()).is_ok());
    let error = small.decode_full(&groups(40), Options::default());
    assert!(
        matches!(error, Err(DecodeError::ScratchTooLarge { needed_bytes, .. }) if needed_bytes > 2 << 20),
        "{error:?}"
    );
    let bomb = groups(0x10000);
    assert!(bomb.len() < 2 << 20, "{}", bomb.len());
    check(&bomb, "scratch memory");
}

/// Codes that end early, have no symbols, or take more or fewer bits than there are.
#[test]
fn codes_that_make_no_sense() {
    let file = groups(3);
    for length in 21..file.len() {
        let mut cut = file[..length].to_vec();
        let riff = length as u32 - 8;
        cut[4..8].copy_from_slice(&riff.to_le_bytes());
        cut[16..20].copy_from_slice(&(riff - 12).to_le_bytes());
        let mut decoder = Decoder::new(Limits::default());
        match decoder.decode_full(&cut, Options::default()) {
            Err(DecodeError::Corrupt { .. }) => {}
            // The zeros at the end are more than the pixels need.
            Ok(_) => assert!(length + 12 > file.len(), "{length}"),
            Err(error) => panic!("{length}: {error}"),
        }
    }
}
