//! Cut, garbled and lying files: an error in words, bounded work, nothing else.

use loaderd_decode::encode::{Encoder, Scans, Subsampling};
use loaderd_decode::{DecodeError, Decoder, Limits, Options, Pipeline, probe};

fn pipeline() -> Pipeline {
    let list = serde_json::json!([
        {"name": "RandomResizedCrop", "size": [24, 24]},
        {"name": "RandomHorizontalFlip"},
        {"name": "Normalize", "mean": [0.5], "std": [0.5], "dtype": "float16"},
    ]);
    Pipeline::parse(&list, Options::default()).unwrap()
}

fn photo(scans: Scans) -> Vec<u8> {
    let pixels: Vec<u8> = (0u32..3 * 160 * 120)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 25) as u8 + (i / 480) as u8)
        .collect();
    let encoder = Encoder {
        scans,
        subsampling: Subsampling::S420,
        ..Encoder::default()
    };
    encoder.encode(&pixels, 160, 120).unwrap()
}

/// Decodes with draws from `seed`, guarding the bytes around the output.
fn decode(decoder: &mut Decoder, encoded: &[u8], seed: u32) -> Result<Vec<u8>, DecodeError> {
    let pipeline = pipeline();
    let bytes = pipeline.output().bytes() as usize;
    let mut room = vec![0xabu8; bytes + 128];
    let mut state = seed;
    let mut draws = std::iter::from_fn(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state)
    });
    let result = decoder.decode(&pipeline, encoded, &mut draws, &mut room[64..64 + bytes]);
    assert!(
        room[..64]
            .iter()
            .chain(&room[64 + bytes..])
            .all(|&byte| byte == 0xab)
    );
    result.map(|_| room[64..64 + bytes].to_vec())
}

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
            let error = decoder.decode_full(&closed).unwrap_err();
            assert!(matches!(error, DecodeError::Truncated { .. }), "{error}");
        }
        // A decoder that has seen bad files decodes good ones as before.
        for (seed, expected) in expected.iter().enumerate() {
            assert_eq!(&decode(&mut decoder, &whole, seed as u32), expected);
        }
    }
}

#[test]
fn what_is_no_image_says_so() {
    let mut decoder = Decoder::new(Limits::default());
    assert_eq!(decode(&mut decoder, b"", 0), Err(DecodeError::Empty));
    for bytes in [&b"hello"[..], &[0xff; 1000], &[0; 1000], b"BM\x36\0"] {
        assert!(matches!(
            decode(&mut decoder, bytes, 0),
            Err(DecodeError::UnknownFormat { .. })
        ));
    }
    // A JPEG's start, then 0xff without end.
    let mut padded = vec![0xff; 1000];
    padded[1] = 0xd8;
    assert!(matches!(
        decode(&mut decoder, &padded, 0),
        Err(DecodeError::Truncated { .. })
    ));
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
        decoder.decode_full(&resized_header(
            photo(Scans::Sequential),
            0xc0,
            13000,
            13000
        )),
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
    let error = decode(&mut Decoder::new(Limits::default()), &bomb, 0).unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::TooManyScans { scans_max: 100 } | DecodeError::Corrupt { .. }
        ),
        "{error}"
    );
}

/// Scratch grows to what images need, then stays; a giant's is given back.
#[test]
fn scratch_settles() {
    let mut decoder = Decoder::new(Limits::default());
    let encoded = photo(Scans::Sequential);
    for seed in 0..50 {
        decode(&mut decoder, &encoded, seed).unwrap();
    }
    let settled = decoder.scratch_bytes();
    assert!(settled > 0 && settled < 1 << 20, "{settled}");
    for seed in 0..50 {
        decode(&mut decoder, &encoded, seed).unwrap();
    }
    assert_eq!(decoder.scratch_bytes(), settled);
    let giant = Encoder {
        subsampling: Subsampling::Grey,
        ..Encoder::default()
    }
    .encode(&vec![128; 4000 * 3000], 4000, 3000)
    .unwrap();
    let crop = serde_json::json!([{"name": "CenterCrop", "size": [2800, 3000]}]);
    let crop = Pipeline::parse(&crop, Options::default()).unwrap();
    let mut out = vec![0; crop.output().bytes() as usize];
    decoder
        .decode(&crop, &giant, &mut std::iter::empty(), &mut out)
        .unwrap();
    assert!(
        decoder.scratch_bytes() <= settled,
        "{}",
        decoder.scratch_bytes()
    );
}
