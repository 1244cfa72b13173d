//! Cut, garbled and lying files: an error in words, bounded work, nothing else.

#[path = "../files/mod.rs"]
mod files;

mod gif;
mod jpeg;
mod png;
mod webp;

use std::time::{Duration, Instant};

use files::{GifImage, Png};
use loaderd_decode::encode::{Encoder, Scans, Subsampling};
use loaderd_decode::{DecodeError, Decoder, Limits, Options, Pipeline};

/// Generous, for a machine that does other things at the same time: what must not happen
/// is that a few bytes cost minutes.
const TIME_MAX: Duration = Duration::from_secs(20);

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

/// Refuses to decode `file`, for this reason and at once. Where data end early, a crop above the
/// missing rows may be there.
fn check_refused(file: &[u8], expected: &str) {
    let mut decoder = Decoder::new(Limits::default());
    let clock = Instant::now();
    let error = decoder.decode_full(file, Options::default()).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    let crop = decode(&mut decoder, file, 0);
    assert!(crop.is_err() || expected == "end early", "{error}");
    assert!(clock.elapsed() < TIME_MAX, "{error}");
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

/// Small files of every other format, by name.
fn others() -> Vec<(&'static str, Vec<u8>)> {
    let rgb: Vec<u8> = (0u32..3 * 40 * 30)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 26) as u8 + (i / 120) as u8)
        .collect();
    let mut interlaced = Png::rgb(40, 30, &rgb);
    interlaced.interlaced = true;
    let mut plain = Png::rgb(40, 30, &rgb);
    plain.split = 500;
    plain.before = files::png_chunk(b"eXIf", &files::exif(6));
    let mut palette = Png::new(16, 16, 3, 4, (0..256).map(|i| i / 16).collect());
    palette.before = files::png_chunk(b"PLTE", &rgb[..48]);
    let webp = files::webp(40, 30, 3, &rgb);
    let exif = files::webp_with_exif(&webp, 40, 30, 8);
    let animation =
        files::webp_animation(50, 50, &[(&webp, [2, 4, 40, 30]), (&webp, [0, 0, 40, 30])]);
    let image = |interlaced| GifImage {
        place: [1, 2, 20, 15],
        interlaced,
        palette: Vec::new(),
        transparent: Some(1),
        indices: rgb[..300].iter().map(|value| value % 16).collect(),
    };
    vec![
        ("png", plain.file()),
        ("interlaced png", interlaced.file()),
        ("palette png", palette.file()),
        ("lossless webp", webp),
        ("lossy webp", files::unhex(files::LOSSY_WEBP)),
        ("alpha webp", files::unhex(files::LOSSY_ALPHA_WEBP)),
        ("webp with exif", exif),
        ("animated webp", animation),
        ("gif", files::gif(25, 20, &rgb[..48], &[image(false)])),
        (
            "animated gif",
            files::gif(25, 20, &rgb[..48], &[image(true), image(false)]),
        ),
    ]
}

/// Cut anywhere: an error, or for a GIF between two blocks, the frame that is all there.
#[test]
fn every_cut_of_every_format_is_noticed() {
    let mut decoder = Decoder::new(Limits::default());
    for (name, whole) in others() {
        let expected: Vec<_> = (0..2)
            .map(|seed| decode(&mut decoder, &whole, seed).unwrap())
            .collect();
        for length in 0..whole.len() {
            for (seed, expected) in expected.iter().enumerate() {
                match decode(&mut decoder, &whole[..length], seed as u32) {
                    Err(_) => {}
                    Ok(pixels) => {
                        assert!(name.ends_with("gif"), "{name} cut at {length} is taken");
                        assert!(
                            pixels == *expected,
                            "{name} cut at {length} has other pixels"
                        );
                    }
                }
            }
        }
        if !name.ends_with("gif") {
            let length = whole.len() * 2 / 3;
            assert_eq!(
                decode(&mut decoder, &whole[..length], 0),
                Err(DecodeError::Truncated { bytes: length }),
                "{name}"
            );
        }
    }
}

/// No panic, no write out of bounds, whichever bytes flip; and the same answer twice.
#[test]
fn flipped_bytes_of_every_format_do_no_harm() {
    let mut decoder = Decoder::new(Limits::default());
    let mut other = Decoder::new(Limits::default());
    for (name, whole) in others() {
        let mut refused = 0;
        let mut state = 7u32;
        for round in 0..600 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let range = if state & 1 == 0 { 60 } else { bytes.len() };
                let at = (state >> 8) as usize % range.min(bytes.len());
                bytes[at] ^= 1 << (state >> 5 & 7);
            }
            let result = decode(&mut decoder, &bytes, round);
            refused += usize::from(result.is_err());
            assert_eq!(decode(&mut other, &bytes, round), result, "{name}");
        }
        assert!(refused > 100, "{name}: {refused}");
    }
}
