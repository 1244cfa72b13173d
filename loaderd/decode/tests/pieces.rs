//! An image of which only a crop's parts were read has the pixels of the whole.

mod draws;
mod files;
mod moves;

use std::ops::Range;

use draws::noise;
use files::{encode, with_exif};
use loaderd_decode::cut::{INDEX_BYTES, Index};
use loaderd_decode::encode::{Encoder, Subsampling};
use loaderd_decode::tile::tile;
use loaderd_decode::{Decoder, Limits, Options, Pipeline};
use moves::moves;
use proptest::prelude::*;
use serde_json::{Value, json};

fn crops(options: Options) -> Pipeline {
    let list = json!([
        {"name": "RandomResizedCrop", "size": [40, 40], "scale": [0.02, 0.6]},
        {"name": "RandomHorizontalFlip"},
    ]);
    Pipeline::parse(&list, options).unwrap()
}

fn decode(
    decoder: &mut Decoder,
    pipeline: &Pipeline,
    encoded: &[u8],
    seed: u32,
) -> Result<Vec<u8>, String> {
    let mut out = vec![0x77; pipeline.output().bytes() as usize];
    let decoded = decoder.decode(pipeline, encoded, &mut noise(seed), &mut out);
    decoded.map(|_| out).map_err(|error| error.to_string())
}

/// What the pieces give, and how many bytes they have; none where all is to be read.
fn decode_pieces(
    decoder: &mut Decoder,
    pipeline: &Pipeline,
    index: &Index,
    encoded: &[u8],
    (seed, other): (u32, u32),
) -> Option<(Option<Vec<u8>>, usize)> {
    let pieces = index.pieces(pipeline, &mut noise(seed))?;
    let part = |range: Range<u32>| &encoded[range.start as usize..range.end as usize];
    let (head, body) = (part(pieces.head()), part(pieces.body()));
    let mut out = vec![0x77; pipeline.output().bytes() as usize];
    let mut draws = noise(other);
    let decoded = decoder.decode_pieces(pipeline, &pieces, (head, body), &mut draws, &mut out);
    Some((decoded.map(|_| out), head.len() + body.len()))
}

fn tiled(subsampling: Subsampling, width: u32, height: u32, orientation: u8) -> Vec<u8> {
    let encoder = Encoder {
        subsampling,
        ..Encoder::default()
    };
    let original = with_exif(&encode(encoder, width, height, 7), orientation);
    tile(&original, &Limits::default()).unwrap().jpeg
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_give_the_pixels_of_the_whole(
        (width, height) in (1u32..500, 1u32..400),
        subsampling in prop::sample::select(Subsampling::ALL.to_vec()),
        orientation in 1u8..9,
        (exif_orientation, fast_dct) in (any::<bool>(), any::<bool>()),
        (before, size) in (moves(), (1u32..60, 1u32..60)),
        crop in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let encoded = tiled(subsampling, width, height, orientation);
        let index = Index::of(&encoded).expect("it is tiled");
        prop_assert_eq!(Index::from_bytes(&index.to_bytes()), Some(index));
        let mut list: Vec<Value> = before;
        if crop {
            list.push(json!({"name": "RandomResizedCrop", "size": [size.0, size.1], "scale": [0.01, 0.5]}));
        } else {
            list.push(json!({"name": "RandomCrop", "size": [size.0, size.1], "pad_if_needed": true}));
        }
        let options = Options { exif_orientation, fast_dct };
        let Ok(pipeline) = Pipeline::parse(&Value::Array(list), options) else {
            return Ok(());
        };
        let mut decoder = Decoder::new(Limits::default());
        for seed in seed..seed.saturating_add(4) {
            let seeds = (seed, seed);
            if let Some((pixels, _)) = decode_pieces(&mut decoder, &pipeline, &index, &encoded, seeds) {
                let whole = decode(&mut decoder, &pipeline, &encoded, seed);
                prop_assert_eq!(pixels.ok_or("none".to_string()), whole);
            }
        }
    }

    /// Whatever an index holds, it gives parts of the file or none, and never a panic.
    #[test]
    fn any_index_is_read(mut bytes in prop::array::uniform32(any::<u8>()), at in 0usize..28) {
        let encoded = tiled(Subsampling::S420, 300, 200, 1);
        let mut index = Index::of(&encoded).unwrap().to_bytes();
        bytes[7..].fill(0);
        for (place, byte) in index[at..].iter_mut().zip(bytes) {
            *place ^= byte;
        }
        let index: [u8; INDEX_BYTES] = index;
        if let Some(index) = Index::from_bytes(&index) {
            let pipeline = crops(Options::default());
            let mut decoder = Decoder::new(Limits::default());
            for seed in 0..20 {
                if let Some(pieces) = index.pieces(&pipeline, &mut noise(seed)) {
                    prop_assert!(pieces.head().end <= pieces.body().start);
                    prop_assert!(pieces.body().start <= pieces.body().end);
                    let part = |range: Range<u32>| encoded.get(range.start as usize..range.end as usize);
                    let (Some(head), Some(body)) = (part(pieces.head()), part(pieces.body())) else {
                        continue;
                    };
                    // Another JPEG's index gives nothing, or the right pixels.
                    let mut out = vec![0; pipeline.output().bytes() as usize];
                    let parts = (head, body);
                    let decoded =
                        decoder.decode_pieces(&pipeline, &pieces, parts, &mut noise(seed), &mut out);
                    if decoded.is_some() {
                        prop_assert_eq!(Ok(out), decode(&mut decoder, &pipeline, &encoded, seed));
                    }
                }
            }
        }
    }
}

/// Between two bands lies a marker; without room for it, a band would end before it begins.
#[test]
fn bands_without_room_for_a_marker_are_no_index() {
    let encoded = tiled(Subsampling::S420, 300, 200, 1);
    let good = Index::of(&encoded).unwrap().to_bytes();
    let place = |band: usize| 12 + 3 * band..15 + 3 * band;
    let end = |band| {
        let [low, middle, high] = good[place(band)] else {
            unreachable!("three bytes");
        };
        u32::from_le_bytes([low, middle, high, 0])
    };
    let bands = (0..16).take_while(|&band| end(band) > 0).count();
    assert!(bands > 6, "{bands}");
    for band in 1..bands {
        for more in 0..4 {
            let mut bytes = good;
            let lowered = (end(band - 1) + more).to_le_bytes();
            bytes[place(band)].copy_from_slice(&lowered[..3]);
            let found = Index::from_bytes(&bytes);
            assert_eq!(found.is_some(), more >= 2, "band {band}, {more} bytes");
        }
    }
}

/// Crops of a photo's size spare a good part of it, and most crops do.
#[test]
fn pieces_spare_bytes() {
    let encoded = tiled(Subsampling::S420, 500, 375, 1);
    let index = Index::of(&encoded).unwrap();
    let list = json!([{"name": "RandomResizedCrop", "size": [224, 224]}]);
    let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
    let mut decoder = Decoder::new(Limits::default());
    let (mut read, mut pieces) = (0, 0);
    for seed in 0..500 {
        match decode_pieces(&mut decoder, &pipeline, &index, &encoded, (seed, seed)) {
            Some((_, bytes)) => {
                pieces += 1;
                read += bytes;
            }
            None => read += encoded.len(),
        }
    }
    assert!(pieces > 250, "{pieces} of 500 in pieces");
    let share = read as f64 / (500 * encoded.len()) as f64;
    assert!(share < 0.85, "{share}");
}

/// What the decoder needs and was not read is no picture: another crop's draws give none, or the
/// pixels of the whole.
#[test]
fn segments_that_were_not_read_are_missed() {
    let encoded = tiled(Subsampling::S420, 500, 375, 1);
    let index = Index::of(&encoded).unwrap();
    let pipeline = crops(Options::default());
    let mut decoder = Decoder::new(Limits::default());
    let (mut none, mut some) = (0, 0);
    for seed in 0..200 {
        for other in 1000..1003 {
            let seeds = (seed, other);
            match decode_pieces(&mut decoder, &pipeline, &index, &encoded, seeds) {
                Some((Some(pixels), _)) => {
                    some += 1;
                    let right = decode(&mut decoder, &pipeline, &encoded, other);
                    assert_eq!(Ok(pixels), right, "seeds {seeds:?}");
                }
                Some((None, _)) => none += 1,
                None => {}
            }
        }
    }
    assert!(none > 0 && some > 0, "{none}, {some}");
}

/// What can't be cut has no index.
#[test]
fn only_whole_tiled_files_have_an_index() {
    let plain = encode(Encoder::default(), 300, 200, 1);
    assert_eq!(Index::of(&plain), None);
    let encoded = tiled(Subsampling::S444, 300, 200, 1);
    assert_eq!(Index::of(&encoded[..encoded.len() - 2]), None);
    let mut wrong = encoded.clone();
    let marker = wrong
        .windows(2)
        .position(|pair| pair == [0xff, 0xd3])
        .unwrap();
    wrong[marker + 1] = 0xd5;
    assert_eq!(Index::of(&wrong), None);
    assert_eq!(Index::from_bytes(&[0; INDEX_BYTES]), None);
    assert_eq!(Index::from_bytes(&[0xff; INDEX_BYTES]), None);
}
