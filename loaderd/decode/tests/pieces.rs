//! An image of which only a crop's parts were read has the pixels of the whole.

mod draws;
mod files;

use draws::{moves, noise};
use files::{encode, with_exif};
use loaderd_decode::cut::{INDEX_BYTES, Index};
use loaderd_decode::encode::{Encoder, Subsampling};
use loaderd_decode::tile::tile;
use loaderd_decode::{Decoder, Limits, Options, Pipeline};
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

/// The file of the pieces, where not all of it is to be read: bytes beside them are not looked at.
fn pieced(index: &Index, pipeline: &Pipeline, encoded: &[u8], seed: u32) -> Option<Vec<u8>> {
    let pieces = index.pieces(pipeline, &mut noise(seed))?;
    let part = |range: std::ops::Range<u32>| &encoded[range.start as usize..range.end as usize];
    let mut out = vec![1, 2, 3];
    pieces.rebuild(part(pieces.head()), part(pieces.body()), &mut out);
    Some(out)
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
            if let Some(pieced) = pieced(&index, &pipeline, &encoded, seed) {
                prop_assert_eq!(
                    decode(&mut decoder, &pipeline, &pieced, seed),
                    decode(&mut decoder, &pipeline, &encoded, seed)
                );
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
            for seed in 0..20 {
                if let Some(pieces) = index.pieces(&pipeline, &mut noise(seed)) {
                    prop_assert!(pieces.head().end <= pieces.body().start);
                    prop_assert!(pieces.body().start <= pieces.body().end);
                    let (head, body) = (pieces.head().len(), pieces.body().len());
                    let mut out = Vec::new();
                    pieces.rebuild(&vec![0; head], &vec![0; body], &mut out);
                }
            }
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
    let (mut read, mut pieces) = (0, 0);
    for seed in 0..500 {
        match pieced(&index, &pipeline, &encoded, seed) {
            Some(file) => {
                pieces += 1;
                read += file.len();
            }
            None => read += encoded.len(),
        }
    }
    assert!(pieces > 250, "{pieces} of 500 in pieces");
    let share = read as f64 / (500 * encoded.len()) as f64;
    assert!(share < 0.85, "{share}");
}

/// What the decoder needs is never among what was not read, silently: an index of another picture
/// gives an error, or the pixels of the whole.
#[test]
fn segments_that_were_not_read_are_an_error() {
    let encoded = tiled(Subsampling::S420, 500, 375, 1);
    let index = Index::of(&encoded).unwrap();
    let pipeline = crops(Options::default());
    let mut decoder = Decoder::new(Limits::default());
    let (mut errors, mut tried) = (0, 0);
    for seed in 0..200 {
        let Some(file) = pieced(&index, &pipeline, &encoded, seed) else {
            continue;
        };
        // Another crop than the one that was read for.
        for other in 1000..1003 {
            let right = decode(&mut decoder, &pipeline, &encoded, other).unwrap();
            tried += 1;
            match decode(&mut decoder, &pipeline, &file, other) {
                Ok(pixels) => assert_eq!(pixels, right, "seeds {seed}, {other}"),
                Err(_) => errors += 1,
            }
        }
    }
    assert!(errors > 0 && errors < tried, "{errors} of {tried}");
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
