//! Masks with runs are the same PNGs to everybody, and what their runs say is checked.

mod draws;
mod files;

use draws::noise;
use files::{Png, png_chunk};
use loaderd_decode::tile::{Differs, NotTiled, tiled_form, verify};
use loaderd_decode::{DecodeError, Decoder, Limits, Options, Pipeline};
use proptest::prelude::*;
use serde_json::{Value, json};
use zlib_rs::crc32::crc32;

const FILL: u8 = 0xee;

/// A mask of 48 x 4 pixels, in groups of eight: two rows alike, one of one value, one of three.
const ROWS: [[u16; 6]; 4] = [
    [1, 1, 1, 0, 0, 0],
    [1, 1, 1, 0, 0, 0],
    [0; 6],
    [3, 2, 2, 2, 2, 1],
];

/// Their runs: how many each row has, and values and lengths.
const COUNTS: [u16; 4] = [2, 0, 1, 3];
const RUNS: [(u8, u8); 6] = [(1, 23), (0, 23), (0, 47), (3, 7), (2, 31), (1, 7)];

fn small(depth: u8) -> Png {
    let samples = ROWS.as_flattened().iter().flat_map(|&value| [value; 8]);
    Png::new(48, 4, 0, depth, samples.collect())
}

/// A chunk of runs as the format says: its number, the picture's, counts and runs.
fn chunk(format: u8, picture: u32, counts: &[u16], runs: &[(u8, u8)]) -> Vec<u8> {
    let mut body = vec![format];
    body.extend(picture.to_be_bytes());
    body.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    body.extend(runs.iter().flat_map(|&(value, more)| [value, more]));
    png_chunk(b"ldRN", &body)
}

/// A CRC over the sums of a file's IHDR and IDAT chunks.
fn picture(file: &[u8]) -> u32 {
    let sums = chunks(file)
        .into_iter()
        .filter(|(name, _)| name == b"IHDR" || name == b"IDAT");
    let sums: Vec<u8> = sums
        .flat_map(|(_, bytes)| bytes[bytes.len() - 4..].to_vec())
        .collect();
    crc32(0, &sums)
}

fn chunks(file: &[u8]) -> Vec<([u8; 4], &[u8])> {
    let (mut found, mut at) = (Vec::new(), 8);
    while at < file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let name = file[at + 4..at + 8].try_into().unwrap();
        found.push((name, &file[at..at + length + 12]));
        at += length + 12;
    }
    found
}

/// The file with a chunk put before the image data.
fn with(file: &[u8], chunk: &[u8]) -> Vec<u8> {
    let at = file.windows(4).position(|name| name == b"IDAT").unwrap() - 4;
    [&file[..at], chunk, &file[at..]].concat()
}

fn sampled(list: &Value, encoded: &[u8], seed: u32) -> Result<Vec<u8>, DecodeError> {
    let pipeline = Pipeline::parse(list, Options::default()).unwrap();
    let [height, width] = pipeline.size();
    let mut out = vec![0x5a; (height * width) as usize];
    Decoder::new(Limits::default()).decode_mask(
        &pipeline,
        encoded,
        &mut noise(seed),
        FILL,
        &mut out,
    )?;
    Ok(out)
}

fn whole(encoded: &[u8]) -> Result<Vec<u8>, String> {
    let list = json!([{"name": "CenterCrop", "size": [4, 48]}]);
    sampled(&list, encoded, 0).map_err(|error| error.to_string())
}

fn values() -> Vec<u8> {
    let values = ROWS.as_flattened().iter();
    values.flat_map(|&value| [value as u8; 8]).collect()
}

#[test]
fn the_chunk_is_what_the_format_says() {
    for depth in [2, 4, 8] {
        let file = small(depth).file();
        let tiled = tiled_form(&file, &Limits::default()).unwrap();
        let expected = with(&file, &chunk(1, picture(&file), &COUNTS, &RUNS));
        assert_eq!(tiled, expected, "{depth} bits");
        assert_eq!(whole(&tiled), Ok(values()));
    }
    // A run has at most 256 pixels.
    let file = Png::new(600, 1, 0, 8, [[7; 300], [9; 300]].concat()).file();
    let runs = [(7, 255), (7, 43), (9, 255), (9, 43)];
    let expected = with(&file, &chunk(1, picture(&file), &[4], &runs));
    assert_eq!(tiled_form(&file, &Limits::default()), Ok(expected));
}

/// They are read, and not the image data: what the forger of sums gets.
#[test]
fn runs_count() {
    let file = small(8).file();
    let other = [(9, 47), (8, 47), (7, 47), (6, 47)];
    let forged = with(&file, &chunk(1, picture(&file), &[1; 4], &other));
    let expected: Vec<u8> = [9, 8, 7, 6]
        .into_iter()
        .flat_map(|value| [value; 48])
        .collect();
    assert_eq!(whole(&forged), Ok(expected));
    let differs = |what| Err(Differs::Content { what });
    let limits = Limits::default();
    assert_eq!(verify(&file, &forged, &limits), differs("values"));
    assert_eq!(verify(&file, &file, &limits), Err(Differs::NoRuns));
    let tiled = tiled_form(&file, &limits).unwrap();
    let text = with(&tiled, &png_chunk(b"tEXt", b"Title\0one"));
    assert_eq!(verify(&file, &text, &limits), differs("chunks"));
    let longer = [&tiled[..], b"x"].concat();
    assert_eq!(verify(&file, &longer, &limits), differs("chunks"));
    let broken = with(&file, &chunk(1, picture(&file), &[1; 4], &[(9, 9); 4]));
    let error = verify(&file, &broken, &limits).unwrap_err().to_string();
    assert!(
        error.starts_with("the tiled file does not decode: "),
        "{error}"
    );
}

/// An editor that keeps the chunk though it must not, or another format's number.
#[test]
fn runs_of_another_picture_are_none() {
    let limits = Limits::default();
    let file = small(8).file();
    let number = picture(&file);
    let other = [(9, 47), (8, 47), (7, 47), (6, 47)];
    for stale in [
        chunk(1, number ^ 1, &[1; 4], &other),
        chunk(2, number, &[1; 4], &other),
        chunk(2, 7, &[], &[]),
        png_chunk(b"ldRN", &[2]),
    ] {
        let stale = with(&file, &stale);
        assert_eq!(whole(&stale), Ok(values()));
        // Tiling puts the right ones in their place.
        assert_eq!(tiled_form(&stale, &limits), tiled_form(&file, &limits));
        let tiled = tiled_form(&stale, &limits).unwrap();
        assert_eq!(verify(&stale, &tiled, &limits), Ok(()));
        assert_eq!(tiled_form(&tiled, &limits), Err(NotTiled::Already));
    }
}

#[test]
fn damaged_runs_say_so() {
    let file = small(2).file();
    let check = |chunk: &[u8], expected: &str| {
        let error = whole(&with(&file, chunk)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let forged = |counts: &[u16], runs: &[(u8, u8)]| chunk(1, picture(&file), counts, runs);
    check(
        &png_chunk(b"ldRN", &[1, 2, 3, 4]),
        "the chunk ldRN is too short",
    );
    check(
        &forged(&COUNTS[..3], &[]),
        "the chunk ldRN has too few rows",
    );
    let unfit = "the chunk ldRN does not have the runs that its rows need";
    check(&forged(&COUNTS, &RUNS[..5]), unfit);
    check(&forged(&COUNTS, &[&RUNS[..], &[(0, 47)]].concat()), unfit);
    check(&forged(&[0, 2, 1, 3], &RUNS), unfit);
    check(&forged(&[u16::MAX; 4], &RUNS), unfit);
    let odd = [
        &[1][..],
        &picture(&file).to_be_bytes(),
        &[0, 1, 0, 0, 0, 0, 0, 0, 3],
    ]
    .concat();
    check(&png_chunk(b"ldRN", &odd), unfit);
    let strange = "the chunk ldRN has a row that is not the picture's";
    let one = |run| [run, (0, 47), (0, 47), (0, 47)];
    check(&forged(&[1; 4], &one((0, 46))), strange);
    check(&forged(&[1; 4], &one((0, 48))), strange);
    check(&forged(&[1; 4], &one((4, 47))), strange);
    let mut damaged = forged(&COUNTS, &RUNS);
    *damaged.last_mut().unwrap() ^= 1;
    check(&damaged, "the checksum of a chunk ldRN is wrong");
    // Tiling puts the right ones in their place.
    let limits = Limits::default();
    let mended = tiled_form(&with(&file, &damaged), &limits);
    assert_eq!(mended, tiled_form(&file, &limits));
    // Who decodes a picture does not look at it.
    let whole = |file: &[u8]| Decoder::new(Limits::default()).decode_full(file, Options::default());
    assert_eq!(whole(&with(&file, &damaged)), whole(&file));
}

/// A file of a few bytes may claim a row of many millions of columns.
#[test]
fn the_table_of_columns_counts_as_scratch_memory() {
    const WIDTH: u32 = 1_000_000;
    let file = Png::new(WIDTH, 1, 0, 1, vec![0; WIDTH as usize]).file();
    let claimed = with(&file, &chunk(1, picture(&file), &[1], &[(0, 255)]));
    let list = json!([{"name": "Resize", "size": [1, 8]}]);
    let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
    let needed = |encoded: &[u8]| {
        let mut decoder = Decoder::new(Limits {
            scratch_bytes_max: 0,
            ..Limits::default()
        });
        let refused = decoder.decode_mask(&pipeline, encoded, &mut noise(0), FILL, &mut [0; 8]);
        match refused {
            Err(DecodeError::ScratchTooLarge { needed_bytes, .. }) => needed_bytes,
            other => panic!("{other:?}"),
        }
    };
    // The last of eight that are shown is the first of the source's last eighth.
    let columns = u64::from(WIDTH / 8 * 7 + 1);
    assert_eq!(needed(&claimed) - needed(&file), 4 * (columns + 1));
}

#[test]
fn what_gets_no_runs_says_why() {
    let limits = Limits::default();
    let check = |file: &[u8], reason: &str| {
        let error = tiled_form(file, &limits).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    };
    let png = |colour, depth| {
        let samples = vec![0; 64 * Png::channels(colour)];
        Png::new(8, 8, colour, depth, samples)
    };
    for (colour, depth) in [(0, 16), (2, 8), (4, 8), (6, 16)] {
        check(&png(colour, depth).file(), "a PNG that is no mask");
    }
    let mut interlaced = png(0, 8);
    interlaced.interlaced = true;
    check(&interlaced.file(), "an interlaced PNG");
    let busy = (0..6400).map(|at| at % 251).collect();
    check(&Png::new(80, 80, 0, 8, busy).file(), "a PNG of many runs");
    // Few pixels a run, but the file is much smaller than its runs would be.
    let rows = (0..400).flat_map(|y| (0..4000).map(move |x| x / 10 % 2 + 2 * (y % 2)));
    check(
        &Png::new(4000, 400, 0, 8, rows.collect()).file(),
        "a PNG of many runs",
    );
    // Rows cost memory whatever they hold.
    let tall = Png::new(1, 300_000, 0, 8, vec![0; 300_000]).file();
    let little = Limits {
        scratch_bytes_max: 1 << 20,
        ..limits
    };
    assert!(tiled_form(&tall, &limits).is_ok());
    let error = tiled_form(&tall, &little).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    let file = small(8).file();
    check(&file[..file.len() - 5], "cut short");
    let mut damaged = file.clone();
    damaged[file.len() - 20] ^= 1;
    check(&damaged, "damaged");
    check(&tiled_form(&file, &limits).unwrap(), "tiled already");
    let pixels_max = 48 * 4 - 1;
    let error = tiled_form(
        &file,
        &Limits {
            pixels_max,
            ..limits
        },
    )
    .unwrap_err();
    assert_eq!(error.reason(), "over a limit");
}

/// Metadata in any place, image data in many chunks, and bytes behind the end are kept.
#[test]
fn chunks_keep_their_places() {
    let mut png = small(8);
    png.before = [
        png_chunk(b"tEXt", b"Title\0one"),
        png_chunk(b"eXIf", &files::exif(6)),
    ]
    .concat();
    png.split = 7;
    let file = png.file();
    let end = file.len() - 12;
    let late = png_chunk(b"tEXt", b"Title\0two");
    let file = [&file[..end], &late, &file[end..], b"and more"].concat();
    let tiled = tiled_form(&file, &Limits::default()).unwrap();
    let whole = &file[..file.len() - 8];
    let expected = with(whole, &chunk(1, picture(whole), &COUNTS, &RUNS));
    assert_eq!(tiled, [&expected[..], b"and more"].concat());
    assert_eq!(verify(&file, &tiled, &Limits::default()), Ok(()));
    let list = json!([{"name": "CenterCrop", "size": [48, 4]}]);
    assert_eq!(sampled(&list, &tiled, 0), sampled(&list, &file, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Crops, borders, flips and turns of large masks: the same from runs and from image data.
    #[test]
    fn runs_and_image_data_agree(
        (width, height) in (1u32..900, 1u32..60),
        kind in prop::sample::select(vec![(0u8, 1u8), (0, 2), (0, 4), (0, 8), (3, 8)]),
        run in 1u32..700,
        again in 0u32..4,
        (exif, split) in (1u8..9, 20usize..900),
        size in (1u32..120, 1u32..120),
        seed in any::<u32>(),
    ) {
        let (colour, depth) = kind;
        let mut draws = noise(seed);
        let mut samples: Vec<u16> = Vec::new();
        while samples.len() < (width * height) as usize {
            let draw = draws.next().unwrap();
            let row = samples.len().checked_sub(width as usize);
            if let Some(above) = row.filter(|_| draw % 4 < again) {
                samples.extend_from_within(above..);
                continue;
            }
            while !samples.len().is_multiple_of(width as usize) || samples.is_empty() {
                let draw = draws.next().unwrap();
                let left = width as usize - samples.len() % width as usize;
                let value = (draw >> 20) as u16 & ((1 << depth) - 1);
                samples.extend(std::iter::repeat_n(value, left.min(1 + (draw % run) as usize)));
            }
            let draw = draws.next().unwrap();
            samples.push((draw >> 20) as u16 & ((1 << depth) - 1));
        }
        samples.truncate((width * height) as usize);
        let mut png = Png::new(width, height, colour, depth, samples);
        png.before = png_chunk(b"eXIf", &files::exif(exif));
        if colour == 3 {
            png.before.extend(png_chunk(b"PLTE", &[9; 3 * 256]));
        }
        png.split = split;
        let file = png.file();
        let tiled = match tiled_form(&file, &Limits::default()) {
            Ok(tiled) => tiled,
            Err(NotTiled::Kind { what: "a PNG of many runs" }) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        prop_assert_eq!(verify(&file, &tiled, &Limits::default()), Ok(()));
        let (h, w) = size;
        for list in [
            json!([{"name": "RandomResizedCrop", "size": [h, w]}, {"name": "RandomHorizontalFlip"},
                   {"name": "RandomVerticalFlip"}]),
            json!([{"name": "CenterCrop", "size": [h, w]}, {"name": "RandomVerticalFlip"}]),
            json!([{"name": "Resize", "size": [h, w]}, {"name": "Pad", "padding": [1, 2, 3, 4]}]),
        ] {
            let expected = sampled(&list, &file, seed).unwrap();
            prop_assert_eq!(sampled(&list, &tiled, seed), Ok(expected), "{}", list);
        }
    }

    /// Whatever a chunk of the right sum says: an error, or values of the picture's depth.
    #[test]
    fn hostile_runs_do_no_harm(
        counts in prop::collection::vec(0u16..5, 4),
        runs in prop::collection::vec((0u8..5, 0u8..64), 0..12),
        fits in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let file = small(2).file();
        let mut runs = runs;
        if fits {
            runs.resize(counts.iter().sum::<u16>().into(), (1, 47));
        }
        let file = with(&file, &chunk(1, picture(&file), &counts, &runs));
        let list = json!([{"name": "RandomResizedCrop", "size": [9, 9]}]);
        if let Ok(values) = sampled(&list, &file, seed) {
            prop_assert!(values.iter().all(|&value| value < 4));
        }
    }
}
