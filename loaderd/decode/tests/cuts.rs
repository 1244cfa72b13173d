//! A crop that is cut out before decoding has the pixels of one that is taken from the
//! whole, and broken restart markers never move any.

mod files;

use files::{encode, with_exif};
use loaderd_decode::cut::{Cuttable, Region};
use loaderd_decode::encode::{Encoder, Scans, Subsampling};
use loaderd_decode::tile::{NotTiled, is_tiled, tile, verify};
use loaderd_decode::{DecodeError, Decoder, Format, Image, Limits, Options, Pipeline};
use proptest::prelude::*;

fn whole(encoded: &[u8]) -> Image {
    Decoder::new(Limits::default())
        .decode_full(encoded, Options::default())
        .unwrap()
}

/// The region's pixels, without gaps.
fn crop(image: &Image, region: &Region) -> Vec<u8> {
    image.rows_of(region).flatten().copied().collect()
}

/// A part of `side` pixels, from two shares of it.
fn span(side: u32, from: f64, length: f64) -> (u32, u32) {
    let length = 1 + (length * f64::from(side - 1)) as u32;
    let from = (from * f64::from(side - length + 1)) as u32;
    (from.min(side - length), from.min(side - length) + length)
}

/// Restart intervals that can be cut (whole fractions and multiples of a row of MCUs), and
/// one or two that can't.
fn intervals(across: u32) -> Vec<u16> {
    let fractions = (1..=across).filter(|size| across.is_multiple_of(*size));
    let others = [2 * across, 3 * across, across + 1, across / 2 + 1];
    fractions.chain(others).map(|size| size as u16).collect()
}

fn mcus_across(subsampling: Subsampling, width: u32) -> u32 {
    let mcu = match subsampling {
        Subsampling::S444 | Subsampling::S440 | Subsampling::Grey => 8,
        Subsampling::S422 | Subsampling::S420 => 16,
        Subsampling::S411 | Subsampling::S410 => 32,
    };
    width.div_ceil(mcu)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The cut itself, over every interval that can be cut, and crops of every size.
    #[test]
    fn a_cut_holds_the_pixels_of_the_whole(
        (width, height) in (1u32..200, 1u32..150),
        (left, columns, top, rows) in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        subsampling in prop::sample::select(Subsampling::ALL.to_vec()),
        interval in any::<prop::sample::Index>(),
        seed in any::<u32>(),
    ) {
        let across = mcus_across(subsampling, width);
        let interval = *interval.get(&intervals(across));
        let encoder = Encoder { subsampling, restart_mcus: interval, quality: 60, optimise: seed % 2 == 0, ..Encoder::default() };
        let encoded = encode(encoder, width, height, seed);
        let fits = across.is_multiple_of(interval.into()) || u32::from(interval).is_multiple_of(across);
        let cuttable = Cuttable::of(&encoded);
        prop_assert_eq!(cuttable.is_some(), fits);
        let Some(cuttable) = cuttable else { return Ok(()) };

        let ((left, right), (top, bottom)) = (span(width, left, columns), span(height, top, rows));
        let region = Region { left, right, top, bottom };
        let window = cuttable.window(&region, 8);
        let mut cut = Vec::new();
        cuttable.cut(&window, &mut cut).expect("the markers are right");
        prop_assert!(cut.len() <= encoded.len());
        let part = whole(&cut);
        prop_assert_eq!((part.width, part.height), (window.width, window.height));
        prop_assert_eq!(crop(&part, &window.region), crop(&whole(&encoded), &region));
        if region == (Region { left: 0, right: width, top: 0, bottom: height }) {
            prop_assert_eq!((part.width, part.height), (width, height));
        }
    }

    /// The decoder, which cuts where it pays: the same file without restart markers, which
    /// it can't cut, gives the same pixels. Scaled in the DCT as well, which changes what a
    /// chroma sample's neighbours are.
    #[test]
    fn pipelines_see_no_difference(
        (width, height) in (1u32..420, 1u32..300),
        subsampling in prop::sample::select(Subsampling::ALL.to_vec()),
        scans in prop::sample::select(vec![Scans::Sequential, Scans::Progressive, Scans::Separate]),
        interval in any::<prop::sample::Index>(),
        list in prop::sample::select(vec![
            serde_json::json!([{"name": "RandomResizedCrop", "size": [24, 32], "scale": [0.01, 0.6]}]),
            serde_json::json!([{"name": "RandomResizedCrop", "size": [5, 7]}, {"name": "RandomHorizontalFlip"}]),
            serde_json::json!([{"name": "RandomResizedCrop", "size": [3, 2], "scale": [0.2, 1.0]}]),
            serde_json::json!([{"name": "CenterCrop", "size": [30, 40]}]),
            serde_json::json!([{"name": "Resize", "size": 60}, {"name": "CenterCrop", "size": [48, 20]}]),
            serde_json::json!([{"name": "RandomCrop", "size": [20, 20], "pad_if_needed": true}]),
        ]),
        (fast_dct, orientation) in (any::<bool>(), 1u8..9),
        (seed, drawn) in (any::<u32>(), any::<u32>()),
    ) {
        let interval = *interval.get(&intervals(mcus_across(subsampling, width)));
        let encoder = Encoder { subsampling, scans, quality: 60, ..Encoder::default() };
        let plain = with_exif(&encode(encoder, width, height, seed), orientation);
        let marked = Encoder { restart_mcus: interval, ..encoder };
        let mut files = vec![with_exif(&encode(marked, width, height, seed), orientation)];
        files.extend(tile(&plain, &Limits::default()).map(|tiled| tiled.jpeg));

        let pipeline = Pipeline::parse(&list, Options { fast_dct, ..Options::default() }).unwrap();
        let mut decoder = Decoder::new(Limits::default());
        let mut decode = |encoded: &[u8]| {
            let mut state = drawn;
            let mut draws = std::iter::from_fn(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some(state)
            });
            let mut out = vec![0; pipeline.output().bytes() as usize];
            let decoded = decoder.decode(&pipeline, encoded, &mut draws, &mut out).unwrap();
            (decoded.width, decoded.height, decoded.dct_scale, out)
        };
        let expected = decode(&plain);
        for file in &files {
            prop_assert!(decode(file) == expected, "{} bytes", file.len());
        }
    }
}

/// libjpeg upsamples pictures of less than three chroma columns in another way: a cut must
/// not become so narrow where the picture's last MCU is.
#[test]
fn narrow_edges_are_cut_right() {
    for subsampling in [Subsampling::S422, Subsampling::S420, Subsampling::S440] {
        for width in 17..=50 {
            let encoder = Encoder {
                subsampling,
                restart_mcus: 1,
                ..Encoder::default()
            };
            let encoded = encode(encoder, width, 20, width);
            let (image, cuttable) = (whole(&encoded), Cuttable::of(&encoded).unwrap());
            for columns in 1..=4 {
                let region = Region {
                    left: width - columns,
                    right: width,
                    top: 3,
                    bottom: 5,
                };
                let mut cut = Vec::new();
                let window = cuttable.window(&region, 8);
                cuttable.cut(&window, &mut cut).unwrap();
                let part = crop(&whole(&cut), &window.region);
                assert_eq!(part, crop(&image, &region), "{columns} of {width}");
            }
        }
    }
}

/// Alone in its scan, a component is coded block by block, whatever its sampling factors.
#[test]
fn grey_files_may_have_odd_sampling_factors() {
    let encoder = Encoder {
        subsampling: Subsampling::Grey,
        restart_mcus: 2,
        ..Encoder::default()
    };
    let plain = encode(encoder, 75, 50, 1);
    let image = whole(&plain);
    for factors in [0x22, 0x12, 0x21] {
        let mut encoded = plain.clone();
        let frame = encoded.windows(2).position(|pair| pair == [0xff, 0xc0]);
        encoded[frame.unwrap() + 11] = factors;
        assert_eq!(whole(&encoded), image);
        let cuttable = Cuttable::of(&encoded).unwrap();
        assert_eq!(cuttable.segments(), (5, 7));
        let region = Region {
            left: 33,
            right: 41,
            top: 9,
            bottom: 26,
        };
        let (window, mut cut) = (cuttable.window(&region, 8), Vec::new());
        cuttable.cut(&window, &mut cut).unwrap();
        assert_eq!(crop(&whole(&cut), &window.region), crop(&image, &region));

        let unmarked = Encoder {
            restart_mcus: 0,
            ..encoder
        };
        let mut original = with_exif(&encode(unmarked, 75, 50, 1), 3);
        let frame = original.windows(2).position(|pair| pair == [0xff, 0xc0]);
        original[frame.unwrap() + 11] = factors;
        let limits = Limits::default();
        let tiled = tile(&original, &limits).unwrap();
        assert_eq!(verify(&original, &tiled.jpeg, &limits), Ok(()));
    }
}

/// A tiled photo-like picture, and where its restart markers are.
fn tiled() -> (Vec<u8>, Vec<usize>) {
    let tiled = tile(&encode(Encoder::default(), 320, 200, 5), &Limits::default()).unwrap();
    assert_eq!((tiled.segment_mcus, tiled.row_segments), (4, 5));
    let jpeg = tiled.jpeg;
    let markers = (0..jpeg.len() - 1)
        .filter(|&at| jpeg[at] == 0xff && matches!(jpeg[at + 1], 0xd0..=0xd7))
        .collect::<Vec<_>>();
    assert_eq!(markers.len(), 5 * 13 - 1);
    (jpeg, markers)
}

fn middle(encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let list = serde_json::json!([{"name": "CenterCrop", "size": [40, 50]}]);
    let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
    let mut out = vec![0; 3 * 40 * 50];
    let mut decoder = Decoder::new(Limits::default());
    let decoded = decoder.decode(&pipeline, encoded, &mut std::iter::empty(), &mut out);
    decoded.map(|_| out)
}

#[test]
fn cut_short_is_refused_whatever_the_crop_needs() {
    let (jpeg, _) = tiled();
    for length in (2..jpeg.len()).rev().step_by(37).chain([jpeg.len() - 1]) {
        assert_eq!(
            middle(&jpeg[..length]),
            Err(DecodeError::Truncated { bytes: length })
        );
    }
}

#[test]
fn broken_markers_never_move_pixels() {
    let (jpeg, markers) = tiled();
    let right = middle(&jpeg).unwrap();
    let mut refused = 0;
    for (number, &at) in markers.iter().enumerate() {
        let (before, after) = (&jpeg[..at], &jpeg[at + 2..]);
        let marker = |code: u8| [before, &[0xff, code], after].concat();
        let next = 0xd0 + (number as u8 + 1) % 8;
        let broken = [
            marker(next),
            marker(0xd9),
            marker(0xdc),
            marker(0xff),
            [before, after].concat(),
            [before, &jpeg[at..at + 2], &jpeg[at..]].concat(),
            [before, &[0xff], &jpeg[at..]].concat(),
        ];
        for (kind, file) in broken.iter().enumerate() {
            let cuttable = Cuttable::of(file).expect("the header is right");
            assert!(!cuttable.is_complete(), "kind {kind} at {at}");
            assert!(!is_tiled(file));
            match middle(file) {
                Ok(pixels) => assert!(pixels == right, "kind {kind} at {at}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > markers.len(), "{refused} refused");
}

/// What a decoder doesn't look at doesn't keep a file from being cut.
#[test]
fn bytes_behind_the_end_do_not_matter() {
    let (mut jpeg, _) = tiled();
    let right = middle(&jpeg).unwrap();
    jpeg.extend([0, 0, 0xff, 0xd3, 1, 2, 3]);
    assert!(Cuttable::of(&jpeg).unwrap().is_complete());
    assert!(is_tiled(&jpeg));
    assert_eq!(middle(&jpeg), Ok(right));
}

/// A file whose crop is damaged is refused in the words for the whole file.
#[test]
fn damage_is_told_of_the_whole_file() {
    let (jpeg, markers) = tiled();
    // Row 6 of 13, segment 2 of 5: the picture's middle. Without its data, it runs dry.
    let number = 6 * 5 + 2;
    let (from, to) = (markers[number - 1] + 2, markers[number]);
    let emptied = [&jpeg[..from], &jpeg[to..]].concat();
    assert!(is_tiled(&emptied), "the markers are right");
    assert!(matches!(
        middle(&emptied),
        Err(DecodeError::Corrupt {
            format: Format::Jpeg,
            ..
        })
    ));
    // Beside the crop, it goes unseen.
    let (from, to) = (markers[6 * 5 - 1] + 2, markers[6 * 5]);
    let emptied = [&jpeg[..from], &jpeg[to..]].concat();
    assert_eq!(middle(&emptied), middle(&jpeg));
    assert!(tile(&emptied, &Limits::default()) == Err(NotTiled::Already));
}
