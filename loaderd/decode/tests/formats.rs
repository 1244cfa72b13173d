//! Every format, kind by kind, against pixels that are known without the decoder.

mod files;

use files::{GifImage, Png};
use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::{DecodeError, Decoder, Format, Image, Limits, Options, Pipeline, probe};
use proptest::prelude::*;
use serde_json::json;

fn noise(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    }
}

fn whole(encoded: &[u8]) -> Image {
    Decoder::new(Limits::default())
        .decode_full(encoded, Options::default())
        .unwrap()
}

/// Decodes with one pipeline and the same draws for every call.
fn run(list: &serde_json::Value, exif_orientation: bool, encoded: &[u8]) -> Vec<u8> {
    let options = Options {
        exif_orientation,
        ..Options::default()
    };
    let pipeline = Pipeline::parse(list, options).unwrap();
    let mut out = vec![0; pipeline.output().bytes() as usize];
    let mut next = noise(5);
    let mut draws = std::iter::from_fn(|| Some(next() << 8));
    Decoder::new(Limits::default())
        .decode(&pipeline, encoded, &mut draws, &mut out)
        .unwrap();
    out
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Scans of all components are read by our entropy decoder, other files by libjpeg's: the
    /// coefficients are the same, so the pixels are.
    #[test]
    fn our_entropy_decoder_reads_as_libjpegs(
        (width, height) in prop_oneof![
            9 => (1u32..90, 1u32..90),
            1 => (300u32..500, 300u32..500),
        ],
        kind in 0..Subsampling::ALL.len(),
        quality in 1u8..=100,
        restart_mcus in prop_oneof![Just(0u16), 1u16..9],
        optimise: bool,
        contrast in 1u32..=256,
        seed: u32,
    ) {
        let subsampling = Subsampling::ALL[kind];
        let mut next = noise(seed);
        let pixels: Vec<u8> = (0..width * height * subsampling.channels() as u32)
            .map(|index| (next() % contrast + index % (257 - contrast)) as u8)
            .collect();
        let encode = |scans| {
            let encoder = Encoder {
                quality,
                subsampling,
                scans,
                optimise,
                restart_mcus,
                ..Encoder::default()
            };
            encoder.encode(&pixels, width, height).unwrap()
        };
        // A single component's scan is ours as well.
        let others = if subsampling == Subsampling::Grey {
            Scans::Progressive
        } else {
            Scans::Separate
        };
        let (ours, libjpegs) = (encode(Scans::Sequential), encode(others));
        prop_assert_eq!(whole(&ours).rgb, whole(&libjpegs).rgb);
    }
}

/// A crop of a decoder's whole image, as planes.
fn cut(image: &Image, left: usize, top: usize, width: usize, height: usize) -> Vec<u8> {
    let mut planes = Vec::with_capacity(3 * width * height);
    for channel in 0..3 {
        for y in top..top + height {
            for x in left..left + width {
                planes.push(image.rgb[(y * image.width as usize + x) * 3 + channel]);
            }
        }
    }
    planes
}

/// A crop in the middle holds what the whole image holds there.
fn check_crop(encoded: &[u8], image: &Image) {
    let (width, height) = (image.width as usize, image.height as usize);
    let (w, h) = (width.div_ceil(2), height.div_ceil(2));
    let out = run(
        &json!([{"name": "CenterCrop", "size": [h, w]}]),
        true,
        encoded,
    );
    let half = |n: usize| if n % 4 == 3 { n / 2 + 1 } else { n / 2 };
    assert_eq!(out, cut(image, half(width - w), half(height - h), w, h));
}

const KINDS: [(u8, u8); 15] = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every kind of PNG, with its colours worked out from the samples.
    #[test]
    fn png_samples_become_rgb(
        kind in prop::sample::select(KINDS.to_vec()),
        width in 1u32..40,
        height in 1u32..40,
        interlaced in any::<bool>(),
        split in prop::sample::select(vec![1usize, 7, 100, usize::MAX]),
        trns in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let (colour, depth) = kind;
        let channels = Png::channels(colour);
        let mut next = noise(seed);
        let most = (1u32 << depth) - 1;
        // Smooth enough that filters matter, rough enough that a slip shows.
        let samples: Vec<u16> = (0..width * height * channels as u32)
            .map(|i| (if next().is_multiple_of(3) { next() & most } else { i & most }) as u16)
            .collect();
        let palette: Vec<u8> = (0..3 * (1u32 << depth.min(8))).map(|_| next() as u8).collect();
        let mut png = Png::new(width, height, colour, depth, samples.clone());
        png.interlaced = interlaced;
        png.split = split;
        if colour == 3 {
            png.before = files::png_chunk(b"PLTE", &palette);
        }
        if trns && colour < 4 {
            let body: &[u8] = match colour { 0 => &[0, 1], 2 => &[0, 1, 0, 2, 0, 3], _ => &[0, 9] };
            png.before.extend(files::png_chunk(b"tRNS", body));
        }
        let expected: Vec<u8> = samples
            .chunks_exact(channels)
            .flat_map(|pixel| {
                let level = |sample: u16| (f64::from(sample) * 255.0 / f64::from(most)).round() as u8;
                match colour {
                    0 | 4 => [level(pixel[0]); 3],
                    3 => [0, 1, 2].map(|i| palette[3 * usize::from(pixel[0]) + i]),
                    _ => [0, 1, 2].map(|i| level(pixel[i])),
                }
            })
            .collect();
        let file = png.file();
        let image = whole(&file);
        prop_assert_eq!((image.width, image.height), (width, height));
        prop_assert_eq!(&image.rgb, &expected);
        check_crop(&file, &image);
    }

    /// Inks, direct colours and 12 bits, in part as in whole.
    #[test]
    fn crops_of_unusual_jpegs_equal_decode_then_crop(
        width in 1u32..130,
        height in 1u32..130,
        colours in prop::sample::select(vec![Colours::YCbCr, Colours::Rgb, Colours::Cmyk, Colours::Ycck]),
        subsampling in prop::sample::select(vec![Subsampling::S444, Subsampling::S420, Subsampling::S410]),
        scans in prop::sample::select(vec![Scans::Sequential, Scans::Separate, Scans::Progressive]),
        bits in prop::sample::select(vec![8u8, 12]),
        seed in any::<u32>(),
    ) {
        // Of the four inks two have luma's share of samples; an MCU has room for ten.
        let subsampling = match (colours, subsampling) {
            (Colours::Cmyk | Colours::Ycck, Subsampling::S410) => Subsampling::S440,
            (_, subsampling) => subsampling,
        };
        let encoder = Encoder { colours, subsampling, scans, bits, ..Encoder::default() };
        let mut next = noise(seed);
        let pixels: Vec<u8> = (0..width as usize * height as usize * encoder.channels())
            .map(|i| (i / 3 + (next() % 60) as usize) as u8)
            .collect();
        let encoded = encoder.encode(&pixels, width, height).unwrap();
        check_crop(&encoded, &whole(&encoded));
    }
}

/// A smooth picture: an encode and a decode leave it nearly as it was.
fn ramps(width: u32, height: u32, channels: u32) -> Vec<u8> {
    (0..width * height * channels)
        .map(|i| {
            let (x, y, channel) = (i / channels % width, i / channels / width, i % channels);
            let value = match channel {
                0 => 40 + x * 180 / width,
                1 => 220 - y * 180 / height,
                2 => 60 + (x + y) * 120 / (width + height),
                _ => 255 - x * 120 / width,
            };
            value as u8
        })
        .collect()
}

#[test]
fn jpeg_colours_come_back() {
    for colours in [Colours::YCbCr, Colours::Rgb, Colours::Cmyk, Colours::Ycck] {
        for bits in [8, 12] {
            let encoder = Encoder {
                colours,
                bits,
                quality: 97,
                subsampling: Subsampling::S444,
                ..Encoder::default()
            };
            let pixels = ramps(64, 48, encoder.channels() as u32);
            let image = whole(&encoder.encode(&pixels, 64, 48).unwrap());
            let expected: Vec<u8> = pixels
                .chunks_exact(encoder.channels())
                .flat_map(|pixel| {
                    let paper = pixel.get(3).map_or(255, |&black| u32::from(black));
                    [0, 1, 2].map(|i| (u32::from(pixel[i]) * paper / 255) as u8)
                })
                .collect();
            let difference = mean_difference(&image.rgb, &expected);
            assert!(difference < 1.5, "{colours:?} of {bits} bits: {difference}");
        }
    }
}

/// Twelve bits are shortened to the nearest byte: flat blocks come out exactly.
#[test]
fn twelve_bits_keep_levels() {
    for level in [0, 1, 77, 128, 254, 255] {
        let encoder = Encoder {
            bits: 12,
            quality: 100,
            subsampling: Subsampling::Grey,
            ..Encoder::default()
        };
        let image = whole(&encoder.encode(&[level; 64], 8, 8).unwrap());
        assert!(image.rgb.iter().all(|&value| value == level), "{level}");
    }
}

/// Pixels as `value` asks for them, by EXIF's table.
fn turned(value: u8, width: u32, height: u32, rgb: &[u8]) -> (u32, u32, Vec<u8>) {
    let (w, h) = if value >= 5 {
        (height, width)
    } else {
        (width, height)
    };
    let mut out = Vec::with_capacity(rgb.len());
    for y in 0..h {
        for x in 0..w {
            let (sx, sy) = match value {
                1 => (x, y),
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            out.extend(&rgb[((sy * width + sx) * 3) as usize..][..3]);
        }
    }
    (w, h, out)
}

/// A stored image with an orientation gives what the upright image gives, crop by crop.
#[test]
fn orientations_equal_upright_images() {
    let (width, height) = (97, 61);
    let mut next = noise(3);
    let rgb: Vec<u8> = ramps(width, height, 3)
        .into_iter()
        .map(|value| value.wrapping_add((next() % 30) as u8))
        .collect();
    let lists = [
        json!([{"name": "CenterCrop", "size": [40, 30]}]),
        json!([{"name": "CenterCrop", "size": [80, 120]}, {"name": "RandomHorizontalFlip", "p": 1.0}]),
        json!([{"name": "RandomHorizontalFlip", "p": 1.0}, {"name": "CenterCrop", "size": [33, 44]}]),
        json!([{"name": "RandomResizedCrop", "size": [24, 32]}, {"name": "RandomHorizontalFlip"}]),
        json!([{"name": "Resize", "size": 40}, {"name": "CenterCrop", "size": [36, 38]}]),
        json!([{"name": "CenterCrop", "size": [80, 70]}, {"name": "Resize", "size": [50, 60]}]),
    ];
    for value in 1..=8 {
        let (w, h, upright) = turned(value, width, height, &rgb);
        let plain = Png::rgb(w, h, &upright).file();
        let mut png = Png::rgb(width, height, &rgb);
        let as_stored = png.file();
        png.before = files::png_chunk(b"eXIf", &files::exif(value));
        let webp = files::webp(width, height, 3, &rgb);
        let stored = [
            png.file(),
            files::webp_with_exif(&webp, width, height, value),
        ];
        for file in stored {
            let header = probe(&file).unwrap();
            assert_eq!(header.orientation.value(), value);
            assert_eq!((header.width, header.height), (width, height));
            let image = whole(&file);
            assert_eq!((image.width, image.height), (w, h));
            assert_eq!(image.rgb, upright);
            for list in &lists {
                let expected = run(list, true, &plain);
                let found = run(list, true, &file);
                if list.to_string().contains("Resize") {
                    // The passes of a resize run over the stored axes, and each rounds.
                    let difference = mean_difference(&found, &expected);
                    assert!(difference < 0.5, "{value} {list}: {difference}");
                } else {
                    assert_eq!(found, expected, "{value} {list}");
                }
                assert_eq!(run(list, false, &file), run(list, false, &as_stored));
            }
        }
    }
}

/// In JPEGs, too, whose DCT shrinks them on the way.
#[test]
fn orientations_of_jpegs_survive_scaling() {
    let (width, height) = (1003, 609);
    let rgb = ramps(width, height, 3);
    let encoder = Encoder {
        quality: 95,
        ..Encoder::default()
    };
    let jpeg = encoder.encode(&rgb, width, height).unwrap();
    let lists = [
        json!([{"name": "Resize", "size": [50, 60]}]),
        json!([{"name": "RandomResizedCrop", "size": [64, 48]}]),
        json!([{"name": "CenterCrop", "size": [300, 200]}]),
    ];
    for value in 1..=8 {
        let (w, h, upright) = turned(value, width, height, &rgb);
        let plain = Png::rgb(w, h, &upright).file();
        let file = files::with_exif(&jpeg, value);
        for list in &lists {
            let difference = mean_difference(&run(list, true, &file), &run(list, true, &plain));
            assert!(difference < 1.0, "{value} {list}: {difference}");
        }
    }
}

#[test]
fn webp_of_every_kind() {
    let (width, height) = (31, 17);
    let mut next = noise(9);
    let rgba: Vec<u8> = (0..width * height * 4).map(|_| next() as u8).collect();
    let rgb: Vec<u8> = rgba
        .chunks_exact(4)
        .flat_map(|pixel| pixel[..3].to_vec())
        .collect();
    for file in [
        files::webp(width, height, 3, &rgb),
        files::webp(width, height, 4, &rgba),
    ] {
        let image = whole(&file);
        assert_eq!(image.rgb, rgb);
        check_crop(&file, &image);
    }
    // Pixels of libwebp 1.6.
    for text in [files::LOSSY_WEBP, files::LOSSY_ALPHA_WEBP] {
        let file = files::unhex(text);
        let image = whole(&file);
        assert_eq!((image.width, image.height), (20, 12));
        for (x, y, expected) in [
            (0, 0, [6u8, 2, 240]),
            (4, 3, [50, 56, 215]),
            (19, 11, [219, 218, 113]),
        ] {
            let pixel = &image.rgb[(y * 20 + x) * 3..][..3];
            let near = pixel.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 1);
            assert!(near, "{pixel:?} at {x}, {y}");
        }
        check_crop(&file, &image);
    }
}

#[test]
fn animations_give_their_first_frame() {
    let mut next = noise(4);
    let mut pixels = |count: usize| -> Vec<u8> { (0..count).map(|_| next() as u8).collect() };
    let (first, second) = (pixels(6 * 5 * 3), pixels(4 * 4 * 3));
    let on_canvas = |fill: [u8; 3]| -> Vec<u8> {
        (0..9 * 8)
            .flat_map(|i| match (i % 9, i / 9) {
                (x @ 2..8, y @ 2..7) => first[((y - 2) * 6 + x - 2) * 3..][..3].to_vec(),
                _ => fill.to_vec(),
            })
            .collect()
    };
    let (a, b) = (files::webp(6, 5, 3, &first), files::webp(4, 4, 3, &second));
    let frames = [(&a[..], [2, 2, 6, 5]), (&b[..], [0, 0, 4, 4])];
    for (count, ignored) in [(1, false), (2, true)] {
        let file = files::webp_animation(9, 8, &frames[..count]);
        assert_eq!(probe(&file).unwrap().frames_ignored, ignored);
        assert_eq!(whole(&file).rgb, on_canvas([0; 3]));
        check_crop(&file, &whole(&file));
    }

    let palette: Vec<u8> = pixels(12);
    for interlaced in [false, true] {
        for (transparent, blank) in [(None, 0), (Some(2), 2)] {
            for local in [false, true] {
                let indices: Vec<u8> = (0..30).map(|i| (i * 7 / 3 % 4) as u8).collect();
                let colour = |index: u8| [0, 1, 2].map(|i| palette[3 * usize::from(index) + i]);
                let image = |transparent| GifImage {
                    place: [2, 2, 6, 5],
                    interlaced,
                    palette: if local { palette.clone() } else { Vec::new() },
                    transparent,
                    indices: indices.clone(),
                };
                let other = [9; 6];
                let global = if local { &other } else { &palette[..] };
                let images = [image(transparent), image(Some(1))];
                let file = files::gif(9, 8, global, &images);
                assert!(probe(&file).unwrap().frames_ignored);
                let alone = files::gif(9, 8, global, &images[..1]);
                assert!(!probe(&alone).unwrap().frames_ignored);
                let expected: Vec<u8> = (0..9 * 8)
                    .flat_map(|i| match (i % 9, i / 9) {
                        (x @ 2..8, y @ 2..7) => colour(indices[(y - 2) * 6 + x - 2]),
                        _ => colour(blank),
                    })
                    .collect();
                for file in [file, alone] {
                    assert_eq!(whole(&file).rgb, expected);
                    check_crop(&file, &whole(&file));
                }
            }
        }
    }

    // An animated PNG shows its default image, which may be a frame of its own.
    let rgb = pixels(3 * 12);
    for (controls, count, ignored) in [(1, 1, false), (1, 2, true), (0, 1, true)] {
        let mut png = Png::rgb(4, 3, &rgb);
        png.before = files::png_chunk(b"acTL", &[0, 0, 0, count, 0, 0, 0, 0]);
        for _ in 0..controls {
            png.before.extend(files::png_chunk(b"fcTL", &[0; 26]));
        }
        assert_eq!(probe(&png.file()).unwrap().frames_ignored, ignored);
        assert_eq!(whole(&png.file()).rgb, rgb);
    }
}

/// The decoder takes in up to eight bytes at once, and gives what they hold when it is asked again;
/// and it stops at every clear code.
#[test]
fn codes_at_the_end_of_a_gif_count() {
    const CLEAR: u8 = 4;
    let palette: Vec<u8> = (0..12).map(|value| 20 * value).collect();
    for (clears, ended) in [(1, true), (1, false), (2, true), (30, true)] {
        for count in 1..60u8 {
            // At most two pixels behind a clear code, so that all codes have three bits.
            let pixels: Vec<u8> = (0..count).map(|at| at * 7 / 3 % 4).collect();
            let mut codes: Vec<u8> = Vec::new();
            for two in pixels.chunks(2) {
                codes.extend([CLEAR].repeat(clears));
                codes.extend(two);
            }
            codes.extend(ended.then_some(CLEAR + 1));
            let mut data = vec![0u8; (3 * codes.len()).div_ceil(8)];
            for (at, code) in codes.iter().enumerate() {
                for bit in 0..3 {
                    data[(3 * at + bit) / 8] |= (code >> bit & 1) << ((3 * at + bit) % 8);
                }
            }
            let mut file = [&b"GIF89a"[..], &[count, 0, 1, 0, 0x81, 0, 0], &palette].concat();
            file.extend([b',', 0, 0, 0, 0, count, 0, 1, 0, 0, 2]);
            for block in data.chunks(100) {
                file.push(block.len() as u8);
                file.extend(block);
            }
            file.extend([0, b';']);
            let expected = pixels.iter().flat_map(|&pixel| {
                let at = 3 * usize::from(pixel);
                palette[at..at + 3].to_vec()
            });
            let found = whole(&file).rgb;
            assert!(found.into_iter().eq(expected), "{clears} {ended} {count}");
        }
    }
}

/// Else a file of nothing but clear codes would keep a worker busy for minutes.
#[test]
fn gifs_without_end_are_refused() {
    let frame = [
        b',', 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, // codes of three bits
    ];
    // Three bytes hold eight clear codes, 4 each.
    let clears = [0x24, 0x49, 0x92].repeat(1 << 14);
    let mut file = [&b"GIF89a"[..], &[1, 0, 1, 0, 0, 0, 0], &frame].concat();
    for block in clears.chunks(255) {
        file.push(block.len() as u8);
        file.extend(block);
    }
    // A pixel and the end.
    file.extend([1, 5 << 3, 0, b';']);
    let decoded = Decoder::new(Limits::default()).decode_full(&file, Options::default());
    let why = decoded.unwrap_err().to_string();
    assert!(why.contains("clear codes and no pixels"), "{why}");
}

/// Some encoders leave the last three bytes of a sequential scan's header at zero, and libjpeg
/// makes do with that, and so do Pillow and torchvision.
#[test]
fn scan_headers_may_end_in_zeros() {
    for scans in [Scans::Sequential, Scans::Separate, Scans::Arithmetic] {
        let encoder = Encoder {
            scans,
            ..Encoder::default()
        };
        let right = files::encode(encoder, 70, 50, 3);
        let mut zeros = right.clone();
        let starts: Vec<usize> = (0..right.len() - 1)
            .filter(|&at| right[at..at + 2] == [0xff, 0xda])
            .collect();
        for at in starts {
            let end = at + 2 + usize::from(right[at + 3]);
            assert_eq!(zeros[end - 3..end], [0, 63, 0]);
            zeros[end - 3..end].fill(0);
        }
        let image = whole(&zeros);
        assert_eq!(image, whole(&right), "{scans:?}");
        check_crop(&zeros, &image);
    }
}

#[test]
fn frames_are_reported_and_formats_told() {
    let mut decoder = Decoder::new(Limits::default());
    let a = files::webp(2, 2, 3, &[7; 12]);
    let animation = files::webp_animation(2, 2, &[(&a, [0, 0, 2, 2]), (&a, [0, 0, 2, 2])]);
    let crop = json!([{"name": "CenterCrop", "size": [2, 2]}]);
    let pipeline = Pipeline::parse(&crop, Options::default()).unwrap();
    let mut out = vec![0; 12];
    for (file, ignored, format) in [
        (animation, true, Format::WebP),
        (a, false, Format::WebP),
        (Png::rgb(2, 2, &[7; 12]).file(), false, Format::Png),
    ] {
        let decoded = decoder
            .decode(&pipeline, &file, &mut std::iter::empty(), &mut out)
            .unwrap();
        assert_eq!(decoded.frames_ignored, ignored);
        assert_eq!(out, [7; 12]);
        assert_eq!(probe(&file).unwrap().format, format);
    }
}

#[test]
fn refusals_name_the_kind() {
    let check = |encoded: &[u8], expected: &str| {
        let error = probe(encoded).unwrap_err();
        assert!(matches!(error, DecodeError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let jpeg = Encoder::default().encode(&[0; 192], 8, 8).unwrap();
    let start = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    let with = |offset: usize, value: u8| {
        let mut bytes = jpeg.clone();
        bytes[start + offset] = value;
        bytes
    };
    check(&with(1, 0xc3), "lossless");
    check(&with(4, 16), "16 bits");
    let apple = [
        &b"\x89PNG\r\n\x1a\n"[..],
        &files::png_chunk(b"CgBI", &[0; 4]),
    ];
    check(&apple.concat(), "CgBI");
}
