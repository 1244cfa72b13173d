//! Decoding only a crop gives the pixels that decoding everything and cropping gives.

mod files;

use files::picture;
use loaderd_decode::encode::{Encoder, Scans, Subsampling};
use loaderd_decode::{DType, Decoder, Limits, Options, Pipeline};
use proptest::prelude::*;

fn pipeline(transforms: serde_json::Value) -> Pipeline {
    Pipeline::parse(&transforms, Options::default()).unwrap()
}

/// RandomResizedCrop's 22 draws: the first try's area and aspect, 18 that are not looked
/// at where that try fits, and the place.
fn draws(area: u32, aspect: u32, top: u32, left: u32) -> impl Iterator<Item = u32> {
    [area, aspect].into_iter().chain([0; 18]).chain([top, left])
}

/// Crops `width` x `height` out of the middle of a whole decode, as CenterCrop does.
fn cut(image: &loaderd_decode::Image, left: usize, top: usize, w: usize, h: usize) -> Vec<u8> {
    let mut planes = vec![0; 3 * w * h];
    for y in 0..h {
        for x in 0..w {
            for channel in 0..3 {
                planes[(channel * h + y) * w + x] =
                    image.rgb[((top + y) * image.width as usize + left + x) * 3 + channel];
            }
        }
    }
    planes
}

/// Python's round(n / 2).
fn half_to_even(n: usize) -> usize {
    if n % 4 == 3 { n / 2 + 1 } else { n / 2 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Crops that need no resize, over every way that libjpeg-turbo decodes.
    #[test]
    fn centre_crops_equal_decode_then_crop(
        width in 1u32..160,
        height in 1u32..130,
        share in (0.0f64..1.0, 0.0f64..1.0),
        subsampling in prop::sample::select(Subsampling::ALL.to_vec()),
        scans in prop::sample::select(vec![
            Scans::Sequential, Scans::Sequential, Scans::Separate, Scans::Progressive, Scans::Arithmetic,
        ]),
        restart_rows in 0u16..3,
        seed in any::<u32>(),
    ) {
        let pixels = picture(width, height, subsampling.channels(), seed);
        let encoder = Encoder { subsampling, scans, restart_rows, quality: 60, optimise: seed % 2 == 0, ..Encoder::default() };
        let encoded = encoder.encode(&pixels, width, height).unwrap();
        let mut decoder = Decoder::new(Limits::default());
        let whole = decoder.decode_full(&encoded, Options::default()).unwrap();
        prop_assert_eq!((whole.width, whole.height), (width, height));

        let w = 1 + (share.0 * f64::from(width - 1)) as usize;
        let h = 1 + (share.1 * f64::from(height - 1)) as usize;
        let crop = pipeline(serde_json::json!([{"name": "CenterCrop", "size": [h, w]}]));
        let mut out = vec![0; 3 * w * h];
        decoder.decode(&crop, &encoded, &mut std::iter::empty(), &mut out).unwrap();
        let (left, top) = (half_to_even(width as usize - w), half_to_even(height as usize - h));
        prop_assert_eq!(out, cut(&whole, left, top, w, h));
    }

    /// Random boxes, of the target's size so that nothing is resized.
    #[test]
    fn random_crops_equal_decode_then_crop(
        width in 2u32..200,
        height in 2u32..160,
        subsampling in prop::sample::select(Subsampling::ALL.to_vec()),
        scans in prop::sample::select(vec![Scans::Sequential, Scans::Separate, Scans::Progressive]),
        drawn in (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()),
        seed in any::<u32>(),
    ) {
        let pixels = picture(width, height, subsampling.channels(), seed);
        let encoder = Encoder { subsampling, scans, quality: 70, ..Encoder::default() };
        let encoded = encoder.encode(&pixels, width, height).unwrap();
        let mut decoder = Decoder::new(Limits::default());
        let whole = decoder.decode_full(&encoded, Options::default()).unwrap();

        // The box, by torchvision's formula.
        let unit = |draw: u32| f64::from(draw) / 4_294_967_296.0;
        let area = f64::from(width) * f64::from(height) * (0.05 + 0.95 * unit(drawn.0));
        let aspect = (0.5f64.ln() + unit(drawn.1) * (2.0f64.ln() - 0.5f64.ln())).exp();
        let w = (area * aspect).sqrt().round_ties_even() as u32;
        let h = (area / aspect).sqrt().round_ties_even() as u32;
        prop_assume!(w >= 1 && h >= 1 && w <= width && h <= height);
        let top = (u64::from(drawn.2) * u64::from(height - h + 1)) >> 32;
        let left = (u64::from(drawn.3) * u64::from(width - w + 1)) >> 32;

        let crop = pipeline(serde_json::json!([
            {"name": "RandomResizedCrop", "size": [h, w], "scale": [0.05, 1.0], "ratio": [0.5, 2.0]},
        ]));
        let mut out = vec![0; 3 * w as usize * h as usize];
        decoder
            .decode(&crop, &encoded, &mut draws(drawn.0, drawn.1, drawn.2, drawn.3), &mut out)
            .unwrap();
        prop_assert_eq!(out, cut(&whole, left as usize, top as usize, w as usize, h as usize));
    }
}

#[test]
fn padding_is_black_and_centred() {
    let encoded = Encoder {
        subsampling: Subsampling::S444,
        quality: 95,
        ..Encoder::default()
    }
    .encode(&[255; 3 * 5 * 4], 5, 4)
    .unwrap();
    let crop = pipeline(serde_json::json!([{"name": "CenterCrop", "size": [7, 2]}]));
    let mut out = vec![7; 3 * 7 * 2];
    let mut decoder = Decoder::new(Limits::default());
    decoder
        .decode(&crop, &encoded, &mut std::iter::empty(), &mut out)
        .unwrap();
    for plane in out.chunks_exact(14) {
        // (7 - 4) / 2 = 1 row above, 2 below.
        assert_eq!(plane[..2], [0; 2]);
        assert_eq!(plane[2..10], [255; 8]);
        assert_eq!(plane[10..], [0; 4]);
    }
}

/// torchvision's two roundings move a single pixel out of sight: 1 -> 4 puts it second,
/// 4 -> 1 keeps the third.
#[test]
fn a_picture_out_of_sight_is_black() {
    let encoded = Encoder::default().encode(&[255; 3], 1, 1).unwrap();
    let pad = serde_json::json!({"name": "CenterCrop", "size": [4, 4]});
    let cut = serde_json::json!({"name": "CenterCrop", "size": [1, 1]});
    let grow = serde_json::json!({"name": "Resize", "size": [3, 3]});
    let mut decoder = Decoder::new(Limits::default());
    for list in [
        serde_json::json!([pad, cut]),
        serde_json::json!([pad, cut, grow]),
    ] {
        let pipeline = pipeline(list);
        let mut out = vec![7; pipeline.output().bytes() as usize];
        let decoded = decoder
            .decode(&pipeline, &encoded, &mut std::iter::empty(), &mut out)
            .unwrap();
        assert_eq!(decoded.decoded_pixels, 0);
        assert!(out.iter().all(|&byte| byte == 0));
    }
}

/// A border that CenterCrop adds before a resize is resized with the picture.
#[test]
fn padding_before_a_resize_is_resized() {
    let encoded = Encoder {
        subsampling: Subsampling::S444,
        quality: 95,
        ..Encoder::default()
    }
    .encode(&[255; 3 * 8 * 8], 8, 8)
    .unwrap();
    let list = serde_json::json!([
        {"name": "CenterCrop", "size": [16, 16]},
        {"name": "Resize", "size": [8, 8]},
    ]);
    let mut out = vec![7; 3 * 64];
    Decoder::new(Limits::default())
        .decode(&pipeline(list), &encoded, &mut std::iter::empty(), &mut out)
        .unwrap();
    // The triangle filter over four pixels weighs 1 3 3 1: columns 1 and 2 get an eighth
    // and seven eighths of white.
    assert_eq!(out[3 * 8..4 * 8], [0, 32, 223, 255, 255, 223, 32, 0]);
    assert_eq!(out[0..8], [0; 8]);
}

#[test]
fn grey_images_have_three_equal_channels_and_flips_mirror() {
    let pixels = picture(40, 30, 1, 5);
    let encoded = Encoder {
        subsampling: Subsampling::Grey,
        ..Encoder::default()
    }
    .encode(&pixels, 40, 30)
    .unwrap();
    let mut decoder = Decoder::new(Limits::default());
    let mut run = |p: f64| {
        let list = serde_json::json!([
            {"name": "Resize", "size": 20},
            {"name": "CenterCrop", "size": [16, 15]},
            {"name": "RandomHorizontalFlip", "p": p},
        ]);
        let pipeline = pipeline(list);
        assert_eq!(pipeline.output().dtype, DType::Uint8);
        let mut out = vec![0; 3 * 16 * 15];
        decoder
            .decode(&pipeline, &encoded, &mut std::iter::repeat(0), &mut out)
            .unwrap();
        out
    };
    let (plain, flipped) = (run(0.0), run(1.0));
    assert_eq!(plain[..240], plain[240..480]);
    assert_eq!(plain[..240], plain[480..]);
    for (row, mirrored) in plain.chunks_exact(15).zip(flipped.chunks_exact(15)) {
        assert!(row.iter().eq(mirrored.iter().rev()));
    }
}

/// The exact pixels, so that another libjpeg-turbo, another CPU or a change of ours that
/// moves them is noticed: a replayed batch must have the same bits. Where the library
/// was upgraded on purpose, the new sum goes here and the change into the changelog.
#[test]
fn pixels_are_the_recorded_ones() {
    let list = serde_json::json!([
        {"name": "RandomResizedCrop", "size": [48, 56]},
        {"name": "RandomHorizontalFlip"},
        {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "dtype": "float16"},
    ]);
    let pipeline = pipeline(list);
    let mut decoder = Decoder::new(Limits::default());
    let mut out = vec![0; pipeline.output().bytes() as usize];
    // FNV-1a, 64 bits.
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for subsampling in [
        Subsampling::S444,
        Subsampling::S422,
        Subsampling::S420,
        Subsampling::S440,
        Subsampling::S411,
        Subsampling::Grey,
    ] {
        let pixels = picture(333, 251, subsampling.channels(), 11);
        let encoder = Encoder {
            subsampling,
            ..Encoder::default()
        };
        let encoded = encoder.encode(&pixels, 333, 251).unwrap();
        add(&decoder
            .decode_full(&encoded, Options::default())
            .unwrap()
            .rgb);
        let mut state = 3u32;
        let mut draws = std::iter::from_fn(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(state)
        });
        for _ in 0..8 {
            decoder
                .decode(&pipeline, &encoded, &mut draws, &mut out)
                .unwrap();
            // As little-endian, whatever the machine.
            for half in out.chunks_exact(2) {
                add(&u16::from_ne_bytes([half[0], half[1]]).to_le_bytes());
            }
        }
    }
    assert_eq!(format!("{sum:016x}"), "ccbdb398f1f0240f");
}

/// Threads take decoders with them and share pipelines.
#[test]
fn types_cross_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Decoder>();
    send::<Pipeline>();
    sync::<Pipeline>();
    send::<loaderd_decode::DecodeError>();
}
