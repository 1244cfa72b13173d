//! Cut, garbled and lying files: an error in words, bounded work, nothing else.

mod files;

use std::time::{Duration, Instant};

use files::{GifImage, Png};
use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::{DecodeError, Decoder, Limits, Options, Pipeline, probe};

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

/// Image data of a PNG are summed: no flipped bit there is taken for a pixel.
#[test]
fn flipped_png_data_are_refused() {
    let mut decoder = Decoder::new(Limits::default());
    let whole = Png::rgb(40, 30, &[77; 3600]).file();
    let start = whole.windows(4).position(|name| name == b"IDAT").unwrap();
    for at in start + 4..whole.len() - 12 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let error = decode(&mut decoder, &bytes, 1).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}

#[test]
fn other_headers_cannot_ask_for_memory() {
    let mut decoder = Decoder::new(Limits::default());
    let sized = |width, height, colour, depth, interlaced| {
        let mut png = Png::new(width, height, colour, depth, Vec::new());
        png.interlaced = interlaced;
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        file.extend(png.header());
        file.extend(files::png_chunk(b"IDAT", &files::zlib(&[0; 5000])));
        file.extend(files::png_chunk(b"IEND", b""));
        file
    };
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
    let gif = |width, height, side: u16| {
        let mut file = files::gif(
            width,
            height,
            &[],
            &[GifImage {
                place: [0, 0, 1, 1],
                interlaced: false,
                palette: Vec::new(),
                transparent: None,
                indices: vec![0],
            }],
        );
        let at = file.iter().position(|&byte| byte == b',').unwrap();
        file[at + 5..at + 7].copy_from_slice(&side.to_le_bytes());
        file[at + 7..at + 9].copy_from_slice(&side.to_le_bytes());
        file
    };
    // One row that deflate could hold, of more bytes than are allowed.
    let mut wide = sized(100_000_000, 1, 6, 8, false);
    let data = files::png_chunk(b"IDAT", &[0; 400_000]);
    wide.splice(wide.len() - 12..wide.len() - 12, data);
    let mut check = |file: &[u8], expected: &str| {
        let clock = Instant::now();
        let error = decoder.decode_full(file, Options::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        // A crop above the missing rows may be there.
        let crop = decode(&mut decoder, file, 0);
        assert!(crop.is_err() || expected == "end early", "{error}");
        assert!(clock.elapsed() < TIME_MAX, "{error}");
    };
    check(&sized(60_000, 60_000, 2, 8, false), "more than the limit");
    check(
        &sized(i32::MAX as u32, i32::MAX as u32, 6, 16, true),
        "more than the limit",
    );
    check(&sized(u32::MAX, 1, 0, 1, false), "a size of");
    check(&wide, "scratch memory");
    check(&sized(9_000, 9_000, 6, 16, true), "cannot hold");
    check(&sized(9_000, 9_000, 0, 1, false), "cannot hold");
    check(&sized(200, 200, 0, 1, false), "end early");
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
    check(&gif(65_535, 65_535, 1), "more than the limit");
    check(&gif(1, 1, 65_535), "more than the limit");
    check(&gif(1, 1, 3000), "end early");
    let mut small = Decoder::new(Limits {
        scratch_bytes_max: 1 << 20,
        ..Limits::default()
    });
    let error = decode(&mut small, &gif(1, 1, 3000), 0).unwrap_err();
    assert!(
        matches!(error, DecodeError::ScratchTooLarge { .. }),
        "{error}"
    );
}

/// A few kilobytes that honestly hold 64 megapixels.
#[test]
fn a_png_of_zeros_is_decoded_row_by_row() {
    let png = Png::new(8000, 8000, 0, 1, Vec::new());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(png.header());
    file.extend(files::png_chunk(
        b"IDAT",
        &files::zlib(&vec![0; 8000 * 1001]),
    ));
    file.extend(files::png_chunk(b"IEND", b""));
    assert!(file.len() < 20_000);
    let crop = serde_json::json!([{"name": "CenterCrop", "size": [8, 8]}]);
    let crop = Pipeline::parse(&crop, Options::default()).unwrap();
    let mut decoder = Decoder::new(Limits {
        scratch_bytes_max: 1 << 20,
        ..Limits::default()
    });
    let clock = Instant::now();
    let mut out = vec![7; 192];
    decoder
        .decode(&crop, &file, &mut std::iter::empty(), &mut out)
        .unwrap();
    assert_eq!(out, [0; 192]);
    assert!(decoder.scratch_bytes() < 1 << 10);
    assert!(clock.elapsed() < TIME_MAX);
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
