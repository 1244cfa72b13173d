//! Boxes and masks lie where their picture's pixels do.

mod draws;
mod files;
mod moves;

use draws::noise;
use files::Png;
use loaderd_decode::tile::{NotTiled, tiled_form, verify};
use loaderd_decode::{DecodeError, Decoder, Geometry, Limits, Options, Pipeline};
use moves::moves;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A mask's value in the rectangle, elsewhere, and outside the picture.
const INSIDE: u8 = 7;
const AROUND: u8 = 1;
const FILL: u8 = 99;

/// `[x1, y1, x2, y2]` in whole pixels.
type Rectangle = [u32; 4];

/// Lists of every kind that boxes can follow; the last part works on pixels at times.
fn lists() -> impl Strategy<Value = Value> {
    let side = || 1..90u32;
    let resize = prop_oneof![
        Just(None),
        (side(), side()).prop_map(|(h, w)| Some(json!({"name": "Resize", "size": [h, w]}))),
        side().prop_map(|side| Some(json!({"name": "Resize", "size": side}))),
        (side(), side()).prop_map(|(h, w)| Some(json!({
            "name": "RandomResizedCrop", "size": [h, w], "scale": [0.2, 1.0],
        }))),
    ];
    let size = (1..90u32, 1..90u32);
    let work = prop_oneof![
        Just(None),
        Just(Some(json!({"name": "RandomGrayscale", "p": 0.5}))),
        Just(Some(
            json!({"name": "Pad", "padding": [2, 5, 0, 4], "fill": [40, 40, 40]})
        )),
    ];
    (moves(), resize, moves(), size, work, moves()).prop_map(
        |(before, resize, between, (h, w), work, after)| {
            let mut list = before;
            list.extend(resize);
            list.extend(between);
            list.push(json!({"name": "CenterCrop", "size": [h, w]}));
            list.extend(work);
            list.extend(after);
            Value::Array(list)
        },
    )
}

/// The upright picture's pixel, where the stored one of `width` x `height` has `(x, y)`
/// (EXIF 2.32, 4.6.4, orientation).
fn upright(exif: u8, (x, y): (u32, u32), width: u32, height: u32) -> (u32, u32) {
    match exif {
        2 => (width - 1 - x, y),
        3 => (width - 1 - x, height - 1 - y),
        4 => (x, height - 1 - y),
        5 => (y, x),
        6 => (height - 1 - y, x),
        7 => (height - 1 - y, width - 1 - x),
        8 => (y, width - 1 - x),
        _ => (x, y),
    }
}

/// A PNG of `channels` values a pixel, of which `inside` fills the rectangle when the
/// picture stands upright. `width` and `height` are the upright one's.
fn drawn(
    (width, height): (u32, u32),
    [x1, y1, x2, y2]: Rectangle,
    exif: u8,
    channels: usize,
    (inside, around): (u8, u8),
) -> Vec<u8> {
    let (w, h) = if exif >= 5 {
        (height, width)
    } else {
        (width, height)
    };
    let mut samples = Vec::new();
    for y in 0..h {
        for x in 0..w {
            let (x, y) = upright(exif, (x, y), w, h);
            let is_inside = (x1..x2).contains(&x) && (y1..y2).contains(&y);
            let value = u16::from(if is_inside { inside } else { around });
            samples.extend(std::iter::repeat_n(value, channels));
        }
    }
    let mut png = Png::new(w, h, if channels == 3 { 2 } else { 0 }, 8, samples);
    if exif > 1 {
        png.before = files::png_chunk(b"eXIf", &files::exif(exif));
    }
    png.file()
}

/// Around the pixels that fulfil `is_inside`; `None` where there are none.
fn around(pixels: &[u8], width: usize, is_inside: impl Fn(u8) -> bool) -> Option<[f32; 4]> {
    let inside = |at: &usize| is_inside(pixels[*at]);
    let places = || (0..pixels.len()).filter(inside);
    let columns = || places().map(|at| at % width);
    Some([
        columns().min()? as f32,
        (places().min()? / width) as f32,
        (columns().max()? + 1) as f32,
        (places().max()? / width + 1) as f32,
    ])
}

/// Whether pixels that are seen lie in the box, and fill one that is large enough.
fn agree(seen: Option<[f32; 4]>, [x1, y1, x2, y2]: [f32; 4]) -> bool {
    let Some(seen) = seen else {
        return x2 - x1 < 3.0 || y2 - y1 < 3.0;
    };
    let fills =
        seen[0] <= x1 + 1.0 && seen[1] <= y1 + 1.0 && seen[2] >= x2 - 1.0 && seen[3] >= y2 - 1.0;
    is_within(seen, [x1, y1, x2, y2]) && (fills || x2 - x1 < 3.0 || y2 - y1 < 3.0)
}

fn is_within(seen: [f32; 4], [x1, y1, x2, y2]: [f32; 4]) -> bool {
    seen[0] >= x1 - 1.0 && seen[1] >= y1 - 1.0 && seen[2] <= x2 + 1.0 && seen[3] <= y2 + 1.0
}

fn mask(
    pipeline: &Pipeline,
    encoded: &[u8],
    seed: u32,
) -> Result<(Vec<u8>, Geometry), DecodeError> {
    let [height, width] = pipeline.size();
    let mut out = vec![0x5a; (height * width) as usize];
    let geometry = Decoder::new(Limits::default()).decode_mask(
        pipeline,
        encoded,
        &mut noise(seed),
        FILL,
        &mut out,
    )?;
    Ok((out, geometry))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// A rectangle is drawn; what is seen of it after any list lies in its box.
    #[test]
    fn boxes_and_masks_go_where_pixels_go(
        list in lists(),
        size in (1..80u32, 1..80u32),
        corner in (0.0..1.0f32, 0.0..1.0f32),
        extent in (0.0..1.0f32, 0.0..1.0f32),
        exif in 1..=8u8,
        mask_is_turned in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let ends = |len: u32, start: f32, extent: f32| {
            let start = (start * len as f32) as u32;
            (start, start + 1 + (extent * (len - start - 1) as f32) as u32)
        };
        let (x1, x2) = ends(size.0, corner.0, extent.0);
        let (y1, y2) = ends(size.1, corner.1, extent.1);
        let rectangle = [x1, y1, x2, y2];
        let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
        pipeline.check_followers().unwrap();

        let picture = drawn(size, rectangle, exif, 3, (255, 0));
        let mut out = vec![0; pipeline.output().bytes() as usize];
        let decoded = Decoder::new(Limits::default())
            .decode(&pipeline, &picture, &mut noise(seed), &mut out)
            .unwrap();
        let geometry = decoded.geometry.unwrap();
        let [height, width] = pipeline.size();
        prop_assert_eq!(geometry.source(), [size.1, size.0]);
        prop_assert_eq!(geometry.output(), [height, width]);
        let found = geometry.map_box(rectangle.map(|end| end as f32));
        let plane = &out[..(width * height) as usize];
        let seen = around(plane, width as usize, |level| level > 127);
        // Enlarged, its edges are soft: of a corner, less than the box may be bright.
        let is_in_box = seen.is_none_or(|seen| is_within(seen, found));
        prop_assert!(is_in_box, "picture: {seen:?} in {found:?}");

        let exif = if mask_is_turned { exif } else { 1 };
        let classes = drawn(size, rectangle, exif, 1, (INSIDE, AROUND));
        let (values, placed) = mask(&pipeline, &classes, seed).unwrap();
        prop_assert_eq!(placed, geometry);
        let seen = around(&values, width as usize, |value| value == INSIDE);
        prop_assert!(agree(seen, found), "mask: {seen:?} in {found:?}");
        prop_assert!(values.iter().all(|value| [INSIDE, AROUND, FILL].contains(value)));
        let whole = geometry.map_box([0.0, 0.0, size.0 as f32, size.1 as f32]);
        let shown = around(&values, width as usize, |value| value != FILL);
        prop_assert!(agree(shown, whole), "mask: {shown:?} of {whole:?}");
    }

    /// Every kind of mask, against `interpolate(mode="nearest")` written out.
    #[test]
    fn masks_are_sampled_by_nearest(
        kind in prop::sample::select(vec![(0u8, 1u8), (0, 2), (0, 4), (0, 8), (3, 1), (3, 2), (3, 4), (3, 8)]),
        size in (1..200u32, 1..60u32),
        grid in (1..160u32, 1..60u32),
        flips in (any::<bool>(), any::<bool>()),
        exif in 1..=8u8,
        interlaced in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let ((width, height), (columns, rows)) = (size, grid);
        let (colour, depth) = kind;
        // In runs, as masks have them.
        let mut values = noise(seed);
        let mut samples: Vec<u16> = Vec::new();
        while samples.len() < (width * height) as usize {
            let next = values.next().unwrap();
            let value = (next >> 8 & ((1 << depth) - 1)) as u16;
            samples.extend(std::iter::repeat_n(value, 1 + next as usize % 19));
        }
        samples.truncate((width * height) as usize);
        let mut png = Png::new(width, height, colour, depth, samples.clone());
        png.interlaced = interlaced;
        png.before = files::png_chunk(b"eXIf", &files::exif(exif));
        if colour == 3 {
            png.before.extend(files::png_chunk(b"PLTE", &[9; 3 * 256][..3 << depth]));
        }
        let list = json!([
            {"name": "Resize", "size": [rows, columns]},
            {"name": "RandomHorizontalFlip", "p": u8::from(flips.0)},
            {"name": "RandomVerticalFlip", "p": u8::from(flips.1)},
        ]);
        let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
        let file = png.file();
        let (found, _) = mask(&pipeline, &file, seed).unwrap();
        // The stored picture, upright.
        let (w, h) = if exif >= 5 { (height, width) } else { (width, height) };
        let mut stored = vec![0; samples.len()];
        for y in 0..height {
            for x in 0..width {
                let (to_x, to_y) = upright(exif, (x, y), width, height);
                stored[(to_y * w + to_x) as usize] = samples[(y * width + x) as usize] as u8;
            }
        }
        let nearest = |at: u32, from: u32, to: u32, flipped: bool| {
            let at = if flipped { to - 1 - at } else { at };
            ((at as f32 * (from as f32 / to as f32)).floor() as u32).min(from - 1)
        };
        let mut expected = Vec::new();
        for y in 0..rows {
            for x in 0..columns {
                let (x, y) = (nearest(x, w, columns, flips.0), nearest(y, h, rows, flips.1));
                expected.push(stored[(y * w + x) as usize]);
            }
        }
        prop_assert_eq!(&found, &expected);
        // The same from its runs, where it can have any.
        match tiled_form(&file, &Limits::default()) {
            Ok(tiled) => {
                prop_assert_eq!(verify(&file, &tiled, &Limits::default()), Ok(()));
                prop_assert_eq!(mask(&pipeline, &tiled, seed).unwrap().0, expected);
            }
            Err(NotTiled::Kind { what: "an interlaced PNG" }) => prop_assert!(interlaced),
            Err(NotTiled::Kind { what: "a PNG of many runs" }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// Whatever a file says: an error or values of the file, and the same twice.
    #[test]
    fn hostile_masks_do_no_harm(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 0..4),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let list = json!([{"name": "RandomResizedCrop", "size": [9, 9]},
                          {"name": "Pad", "padding": [1, 2, 3, 4]}]);
        let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
        let mut file = drawn((40, 30), [5, 6, 20, 21], 6, 1, (INSIDE, AROUND));
        for (at, bit) in &flips {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
        }
        if cut {
            file.truncate(length.index(file.len()));
            prop_assert!(mask(&pipeline, &file, seed).is_err());
        }
        let first = mask(&pipeline, &file, seed);
        prop_assert_eq!(&mask(&pipeline, &file, seed), &first);
        // Every chunk that a mask is made of is summed.
        if let Ok((values, _)) = first {
            prop_assert!(values.iter().all(|value| [INSIDE, AROUND, FILL].contains(value)));
        }
    }
}

#[test]
fn what_is_no_mask_says_so() {
    let list = json!([{"name": "CenterCrop", "size": [4, 4]}]);
    let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
    let check = |file: &[u8], expected: &str| {
        let error = mask(&pipeline, file, 0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let png = |colour, depth| {
        let samples = vec![0; 64 * Png::channels(colour)];
        Png::new(8, 8, colour, depth, samples).file()
    };
    check(&png(0, 16), "a PNG of 16 bits");
    check(&png(2, 8), "a PNG in colour");
    check(&png(2, 16), "a PNG in colour");
    check(&png(4, 8), "a PNG with transparency");
    check(&png(6, 8), "a PNG in colour");
    check(&png(3, 8), "no palette");
    check(
        &files::webp(2, 2, 3, &[0; 12]),
        "a WebP: save it as a PNG of class numbers",
    );
    check(b"", "no bytes");
    check(b"class 3", "only JPEG, PNG, WebP and GIF are decoded");
    // Few bytes that claim to be large, and rows that are not there.
    let mut large = Png::new(8, 8, 0, 8, vec![0; 64]);
    large.height = 20_000;
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(large.header());
    file.extend(files::png_chunk(b"IDAT", &files::zlib(&[0; 500])));
    file.extend(files::png_chunk(b"IEND", b""));
    check(&file, "cannot hold");
    let mut short = Png::new(8, 8, 0, 8, vec![0; 64]);
    short.height = 16;
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(short.header());
    file.extend(files::png_chunk(b"IDAT", &files::zlib(&[0; 72])));
    file.extend(files::png_chunk(b"IEND", b""));
    check(&file, "end early");
}
