//! JPEGs.

use std::time::Instant;

use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::{DecodeError, Decoder, Limits, Options, probe};

use crate::{TIME_MAX, decode, photo};

/// Wherever the crop lies: a file that lacks its end is a bad sample for every draw.
#[test]
fn every_cut_is_truncated() {
    let mut decoder = Decoder::new(Limits::default());
    for scans in [
        Scans::Sequential,
        Scans::Progressive,
        Scans::Separate,
        Scans::Arithmetic,
    ] {
        let whole = photo(scans);
        let expected: Vec<_> = (0..4)
            .map(|seed| decode(&mut decoder, &whole, seed))
            .collect();
        assert!(expected.iter().all(Result::is_ok), "{expected:?}");
        for tenth in 1..10 {
            let length = whole.len() * tenth / 10;
            for seed in 0..4 {
                assert_eq!(
                    decode(&mut decoder, &whole[..length], seed),
                    Err(DecodeError::Truncated { bytes: length }),
                    "{scans:?} at {tenth}/10"
                );
            }
        }
        for length in [3, 4, 20, whole.len() - 2, whole.len() - 1] {
            assert_eq!(
                decode(&mut decoder, &whole[..length], 1),
                Err(DecodeError::Truncated { bytes: length })
            );
        }
        // Cut and closed again with an end-of-image marker.
        let mut closed = whole[..whole.len() / 2].to_vec();
        closed.extend([0xff, 0xd9]);
        if scans == Scans::Sequential {
            let error = decoder
                .decode_full(&closed, Options::default())
                .unwrap_err();
            assert!(matches!(error, DecodeError::Truncated { .. }), "{error}");
        }
        // A decoder that has seen bad files decodes good ones as before.
        for (seed, expected) in expected.iter().enumerate() {
            assert_eq!(&decode(&mut decoder, &whole, seed as u32), expected);
        }
    }
}

/// No panic, no write out of bounds, whichever bytes flip; and the same answer twice.
#[test]
fn flipped_bytes_do_no_harm() {
    let mut decoder = Decoder::new(Limits::default());
    let mut other = Decoder::new(Limits::default());
    let mut refused = 0;
    for scans in [Scans::Sequential, Scans::Progressive, Scans::Arithmetic] {
        let whole = photo(scans);
        let mut state = 7u32;
        for round in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Half of the flips hit the headers.
                let range = if state & 1 == 0 { 700 } else { bytes.len() };
                let at = (state >> 8) as usize % range.min(bytes.len());
                bytes[at] ^= 1 << (state >> 5 & 7);
            }
            let result = decode(&mut decoder, &bytes, round);
            refused += usize::from(result.is_err());
            assert_eq!(decode(&mut other, &bytes, round), result);
        }
    }
    assert!(refused > 200, "{refused}");
}

/// Replaces height and width in the frame header.
fn resized_header(mut encoded: Vec<u8>, marker: u8, width: u16, height: u16) -> Vec<u8> {
    let at = encoded
        .windows(2)
        .position(|pair| pair == [0xff, marker])
        .unwrap();
    encoded[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    encoded[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    encoded
}

#[test]
fn headers_cannot_ask_for_memory() {
    let mut decoder = Decoder::new(Limits::default());
    let huge = resized_header(photo(Scans::Sequential), 0xc0, 65500, 65500);
    assert_eq!(probe(&huge).unwrap().pixels(), 65500 * 65500);
    assert_eq!(
        decode(&mut decoder, &huge, 0),
        Err(DecodeError::TooLarge {
            width: 65500,
            height: 65500,
            pixels_max: 178_956_970
        })
    );
    // Within the pixels allowed, but its coefficients are not.
    let bomb = resized_header(photo(Scans::Progressive), 0xc2, 13000, 13000);
    assert!(matches!(
        decode(&mut decoder, &bomb, 0),
        Err(DecodeError::ScratchTooLarge {
            scratch_bytes_max: 268_435_456,
            ..
        })
    ));
    assert!(matches!(
        decoder.decode_full(
            &resized_header(photo(Scans::Sequential), 0xc0, 13000, 13000),
            Options::default()
        ),
        Err(DecodeError::ScratchTooLarge { .. })
    ));
    assert_eq!(decoder.scratch_bytes(), 0);
    // Beyond what the format's own library takes.
    let wide = resized_header(photo(Scans::Sequential), 0xc0, 65535, 1);
    let error = decode(&mut decoder, &wide, 0).unwrap_err();
    assert!(matches!(error, DecodeError::Corrupt { .. }), "{error}");
}

#[test]
fn scans_are_counted() {
    let progressive = photo(Scans::Progressive);
    let mut decoder = Decoder::new(Limits {
        scans_max: 5,
        ..Limits::default()
    });
    assert_eq!(
        decode(&mut decoder, &progressive, 0),
        Err(DecodeError::TooManyScans { scans_max: 5 })
    );
    assert!(decode(&mut decoder, &photo(Scans::Separate), 0).is_ok());
    // The last scan, said over and over, costs a few bytes each time.
    let start = progressive
        .windows(2)
        .rposition(|pair| pair == [0xff, 0xda])
        .unwrap();
    let scan = progressive[start..progressive.len() - 2].to_vec();
    let mut bomb = progressive[..start].to_vec();
    for _ in 0..200 {
        bomb.extend(&scan);
    }
    bomb.extend([0xff, 0xd9]);
    refuses_scans(&bomb);
}

#[test]
fn ten_thousand_scans_end_at_the_hundredth() {
    let progressive = photo(Scans::Progressive);
    let first = progressive
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .unwrap();
    let second = first
        + 2
        + progressive[first + 2..]
            .windows(2)
            .position(|pair| pair == [0xff, 0xc4] || pair == [0xff, 0xda])
            .unwrap();
    let mut bomb = progressive[..first].to_vec();
    for _ in 0..10_000 {
        bomb.extend(&progressive[first..second]);
    }
    bomb.extend([0xff, 0xd9]);
    refuses_scans(&bomb);
}

fn refuses_scans(bomb: &[u8]) {
    let clock = Instant::now();
    let error = decode(&mut Decoder::new(Limits::default()), bomb, 0).unwrap_err();
    assert!(clock.elapsed() < TIME_MAX);
    assert!(
        matches!(
            error,
            DecodeError::TooManyScans { scans_max: 100 } | DecodeError::Corrupt { .. }
        ),
        "{error}"
    );
}

/// JPEGs that no encoder writes: bounded time, an error or pixels.
#[test]
fn odd_jpegs_cost_little() {
    let mut decoder = Decoder::new(Limits::default());
    let baseline = photo(Scans::Sequential);
    let scan = baseline
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .unwrap();
    let (head, tail) = baseline.split_at(scan);
    let tables = head
        .windows(2)
        .position(|pair| pair == [0xff, 0xc4])
        .unwrap();
    let other = Encoder {
        optimise: true,
        subsampling: Subsampling::Grey,
        ..Encoder::default()
    }
    .encode(&[3; 64], 8, 8)
    .unwrap();
    let from = other
        .windows(2)
        .position(|pair| pair == [0xff, 0xc4])
        .unwrap();
    let to = other
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .unwrap();
    let restarts: Vec<u8> = (0..200_000u32)
        .flat_map(|i| [0xff, 0xd0 + (i % 8) as u8])
        .collect();
    let end = [0xff, 0xd9];
    let start = &tail[..14];
    let odd = [
        (
            "all 0xff",
            Some(true),
            [&[0xff, 0xd8][..], &[0xff; 100_000]].concat(),
        ),
        (
            "a scan of 0xff",
            Some(true),
            [head, start, &[0xff; 100_000], &end].concat(),
        ),
        (
            "a scan of zeros",
            None,
            [head, start, &[0; 100_000], &end].concat(),
        ),
        (
            "all restart markers",
            Some(true),
            [head, start, &restarts, &end].concat(),
        ),
        (
            "restart markers first",
            Some(true),
            [&[0xff, 0xd8][..], &restarts].concat(),
        ),
        (
            "no Huffman tables",
            Some(false),
            [&head[..tables], tail].concat(),
        ),
        (
            // What is no code there is taken for 0, and what comes out for a picture.
            "another's Huffman tables",
            None,
            [&head[..tables], &other[from..to], tail].concat(),
        ),
        ("no scan", Some(true), [head, &end].concat()),
    ];
    for (name, refused, file) in odd {
        let clock = Instant::now();
        for seed in 0..3 {
            let result = decode(&mut decoder, &file, seed);
            assert!(
                refused.is_none_or(|refused| result.is_err() == refused),
                "{name}"
            );
            assert!(decode(&mut decoder, &file, seed) == result, "{name}");
        }
        assert!(clock.elapsed() < TIME_MAX, "{name}");
    }
    // Without tables, libjpeg takes the standard ones, which these files have.
    assert_eq!(
        decode(&mut decoder, &[&head[..tables], tail].concat(), 0),
        decode(&mut decoder, &baseline, 0)
    );
}

/// Cut and garbled files with inks or 12 bits end as others do.
#[test]
fn unusual_jpegs_are_as_robust() {
    let mut decoder = Decoder::new(Limits::default());
    for (colours, bits) in [(Colours::Cmyk, 8), (Colours::Ycck, 12), (Colours::Rgb, 12)] {
        let encoder = Encoder {
            colours,
            bits,
            ..Encoder::default()
        };
        let pixels: Vec<u8> = (0..120 * 90 * encoder.channels())
            .map(|i| (i / 7) as u8)
            .collect();
        let whole = encoder.encode(&pixels, 120, 90).unwrap();
        let mut state = 7u32;
        for round in 0..200 {
            let mut bytes = whole.clone();
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] ^= 1 << (state >> 5 & 7);
            let first = decode(&mut decoder, &bytes, round);
            assert_eq!(decode(&mut decoder, &bytes, round), first);
            let length = at.max(2);
            assert!(decode(&mut decoder, &whole[..length], round).is_err());
        }
    }
}

/// A long EXIF block that tells nothing is read once, however many segments follow.
#[test]
fn an_exif_block_before_millions_of_segments() {
    let entries = 5400u16;
    let mut block = b"Exif\0\0II*\0\x08\0\0\0".to_vec();
    block.extend(entries.to_le_bytes());
    // ImageWidth, again and again.
    let entry = [0, 1, 3, 0, 1, 0, 0, 0, 9, 0, 0, 0];
    block.extend(entry.repeat(entries.into()));
    let whole = photo(Scans::Sequential);
    let mut file = vec![0xff, 0xd8, 0xff, 0xe1];
    file.extend((block.len() as u16 + 2).to_be_bytes());
    file.extend(&block);
    let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]);
    file.extend(&whole[2..scan.unwrap()]);
    file.extend([0xff, 0xd0].repeat(10_000_000));
    let clock = Instant::now();
    let header = probe(&file).unwrap();
    assert_eq!((header.width, header.height), (160, 120));
    assert!(clock.elapsed() < TIME_MAX);
}
