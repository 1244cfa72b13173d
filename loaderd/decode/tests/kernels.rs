//! The kernels' arithmetic, run by their CPU twin, gives the decoder's bytes.
//!
//! Enters: pictures as PNG and JPEG, whose decoded pixels are known, transforms, draws. What a
//! device would hold, the decoded region and nothing beside it, lies between guard bytes and a
//! page that kills who touches it.

mod draws;
mod files;
mod moves;

use std::ptr::null_mut;

use draws::noise;
use files::{Png, picture};
use loaderd_decode::encode::{Encoder, Subsampling};
use loaderd_decode::{Decoder, Limits, Options, Output, Pipeline, Placed, probe};
use loaderd_kernels::{Picture, twin};
use moves::moves;
use proptest::prelude::*;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use serde_json::{Value, json};

/// Of what lies in front of a device's memory.
const GUARD: u8 = 0xee;

/// Memory of a device, which ends right before a page that nobody may touch: who looks beyond it
/// is killed. Guard bytes lie in front.
struct Memory {
    start: *mut u8,
    /// Of the mapping, in bytes; the last page is the one not to be touched.
    mapped: usize,
    page: usize,
    /// Bytes that are the device's, to a multiple of 4.
    len: usize,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let page = rustix::param::page_size();
        let len = bytes.next_multiple_of(4);
        let mapped = len.next_multiple_of(page) + 2 * page;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, where the system finds room.
        let start = unsafe { mmap_anonymous(null_mut(), mapped, protection, flags) }.unwrap();
        // SAFETY: all of it lies in the mapping, to which nothing refers yet.
        unsafe {
            start.cast::<u8>().write_bytes(GUARD, mapped - page);
            mprotect(start.byte_add(mapped - page), page, MprotectFlags::empty()).unwrap();
        }
        Memory {
            start: start.cast(),
            mapped,
            page,
            len,
        }
    }

    /// Guard bytes, and the device's behind them.
    fn parts(&mut self) -> (&mut [u8], &mut [u8]) {
        let readable = self.mapped - self.page;
        // SAFETY: written when it was made, and readable up to the last page; nobody else looks
        // at it while this is borrowed.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start, readable) };
        bytes.split_at_mut(readable - self.len)
    }

    fn address(&mut self) -> u64 {
        self.parts().1.as_mut_ptr() as u64
    }

    /// What was written, once its guards are seen to be whole.
    fn into_bytes(mut self, len: usize) -> Vec<u8> {
        let (guards, device) = self.parts();
        let (written, rest) = device.split_at(len);
        assert!(guards.iter().chain(rest).all(|&byte| byte == GUARD));
        written.to_vec()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's alone.
        unsafe { munmap(self.start.cast(), self.mapped) }.unwrap();
    }
}

/// What the twin makes of the images, of which it sees decoded pixels only: all of them, or
/// the regions that they need.
fn on_device(pipeline: &Pipeline, encoded: &[&[u8]], seeds: &[u32], regions: bool) -> Vec<Vec<u8>> {
    let Output { dtype, shape } = pipeline.output();
    let bytes = (dtype.itemsize() * shape.iter().product::<u64>()) as usize;
    let batch = pipeline.device_batch().expect("the list is for devices");
    let mut images = Vec::new();
    let mut pictures = Vec::new();
    let mut outputs = Vec::new();
    for (encoded, &seed) in encoded.iter().zip(seeds) {
        let header = probe(encoded).unwrap();
        let mut draws = noise(seed).take(pipeline.draws());
        let placed = Placed::draw(pipeline, &header, &Limits::default(), &mut draws).unwrap();
        assert!(draws.next().is_none(), "all draws are taken");
        let as_stored = Options {
            exif_orientation: false,
            ..Options::default()
        };
        let whole = (Decoder::new(Limits::default()).decode_full(encoded, as_stored)).unwrap();
        let region = placed.region().filter(|_| regions);
        let (left, top, right, bottom) = region.map_or((0, 0, whole.width, whole.height), |it| {
            (it.left, it.top, it.right, it.bottom)
        });
        let (width, height) = (right - left, bottom - top);
        let pitch = (3 * width).next_multiple_of(4) + 4 * (seed % 3);
        let mut pixels = Memory::new((pitch * height) as usize);
        for row in 0..height {
            let from = (((top + row) * whole.width + left) * 3) as usize;
            let (to, len) = ((row * pitch) as usize, 3 * width as usize);
            pixels.parts().1[to..to + len].copy_from_slice(&whole.rgb[from..from + len]);
        }
        let picture = Picture {
            pixels: pixels.address(),
            pitch,
            width,
            height,
            seed,
        };
        let mut out = Memory::new(bytes);
        images.push(placed.image(picture, (left, top), out.address()));
        pictures.push(pixels);
        outputs.push(out);
    }
    // SAFETY: pictures and outputs are alive, of the sizes that the descriptors name, and nothing
    // refers to them.
    unsafe { twin::finish(&mut images, &batch) }.unwrap();
    drop(pictures);
    outputs
        .into_iter()
        .map(|out| out.into_bytes(bytes))
        .collect()
}

fn on_cpu(pipeline: &Pipeline, encoded: &[u8], seed: u32) -> Vec<u8> {
    let mut out = vec![0; pipeline.output().bytes() as usize];
    let decoded = Decoder::new(Limits::default())
        .decode(pipeline, encoded, &mut noise(seed), &mut out)
        .unwrap();
    assert_eq!(decoded.dct_scale, 8, "the device has pixels at full size");
    out
}

fn check(list: &Value, encoded: &[&[u8]], seeds: &[u32]) {
    let pipeline = Pipeline::parse(list, Options::default()).unwrap();
    let expected: Vec<_> = (encoded.iter().zip(seeds))
        .map(|(encoded, &seed)| on_cpu(&pipeline, encoded, seed))
        .collect();
    for regions in [false, true] {
        let found = on_device(&pipeline, encoded, seeds, regions);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{list}, image {index}, regions {regions}");
        }
    }
}

fn png(width: u32, height: u32, orientation: u8, seed: u32) -> Vec<u8> {
    let mut png = Png::rgb(width, height, &[]);
    png.samples = (picture(width, height, 3, seed).into_iter())
        .map(u16::from)
        .collect();
    png.before = files::png_chunk(b"eXIf", &files::exif(orientation));
    png.file()
}

fn filter() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["bilinear", "bicubic"])
}

/// Lists of all that kernels do.
fn lists() -> impl Strategy<Value = Value> {
    let side = || 1..120u32;
    let resize = prop_oneof![
        1 => Just(None),
        2 => (side(), side(), filter()).prop_map(|(h, w, filter)| Some(
            json!({"name": "Resize", "size": [h, w], "interpolation": filter})
        )),
        1 => (side(), filter()).prop_map(|(side, filter)| Some(
            json!({"name": "Resize", "size": side, "interpolation": filter})
        )),
        4 => (side(), side(), filter()).prop_map(|(h, w, filter)| Some(json!({
            "name": "RandomResizedCrop", "size": [h, w], "interpolation": filter,
            "scale": [0.05, 1.0], "ratio": [0.4, 2.5],
        }))),
    ];
    let cast =
        prop_oneof![
        Just(None),
        Just(Some(json!({"name": "ToDtype", "dtype": "float32", "scale": true}))),
        prop::sample::select(vec!["float32", "float16", "bfloat16"]).prop_map(|dtype| Some(json!({
            "name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
            "dtype": dtype,
        }))),
    ];
    // The last crop says the size where nothing else does.
    let last = (1..100u32, 1..100u32);
    (moves(), resize, moves(), last, cast, any::<bool>()).prop_map(
        |(before, resize, after, (h, w), cast, pixels)| {
            let mut list = before;
            list.extend(resize);
            list.extend(after);
            list.push(json!({"name": "CenterCrop", "size": [h, w]}));
            list.extend(cast);
            if pixels {
                list.push(json!({"name": "ToLayout", "layout": "NHWC"}));
            }
            Value::Array(list)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random lists over random pictures, three to a batch.
    #[test]
    fn kernels_give_the_decoders_bytes(
        list in lists(),
        sizes in [(1..170u32, 1..170u32), (1..170u32, 1..170u32), (1..40u32, 1..400u32)],
        orientations in [0..10u8, 0..10u8, 0..10u8],
        seeds in any::<[u32; 3]>(),
    ) {
        let pictures: Vec<Vec<u8>> = (0..3)
            .map(|i| png(sizes[i].0, sizes[i].1, orientations[i], seeds[i]))
            .collect();
        let pictures: Vec<&[u8]> = pictures.iter().map(|file| &file[..]).collect();
        check(&list, &pictures, &seeds);
    }
}

/// Every way that a tile can come about, in every orientation and layout, over tiles' edges.
#[test]
fn scales_from_tiny_to_huge() {
    // (width, height, rows, columns): shared memory suffices to a scale of about 9.
    for (width, height, rows, columns) in [
        (31, 17, 70, 300),   // both grow
        (31, 200, 70, 70),   // one grows, one shrinks
        (200, 31, 70, 70),   // the other way round
        (320, 240, 100, 90), // both shrink
        (800, 300, 24, 31),  // too wide for shared memory
        (900, 700, 3, 2),    // almost everything in a pixel
        (96, 64, 64, 96),    // nothing to do, or only to turn
    ] {
        let files: Vec<Vec<u8>> = (1..=8).map(|i| png(width, height, i, 5)).collect();
        let files: Vec<&[u8]> = files.iter().map(|file| &file[..]).collect();
        for filter in ["bilinear", "bicubic"] {
            for layout in ["NCHW", "NHWC"] {
                let list = json!([
                    {"name": "Resize", "size": [rows, columns], "interpolation": filter},
                    {"name": "RandomHorizontalFlip"},
                    {"name": "RandomVerticalFlip"},
                    {"name": "ToDtype", "dtype": "float16", "scale": true},
                    {"name": "ToLayout", "layout": layout},
                ]);
                check(&list, &files, &[1, 2, 3, 4, 5, 6, 7, 8]);
            }
        }
    }
}

/// The cubic weighs a pixel at distance 1 with nothing: at the view's edge, the first pixel's run
/// of taps must not begin behind the second's.
#[test]
fn a_zero_weight_at_the_edge() {
    for (width, height, rows, columns, window) in [
        (20, 100, 50, 100, [50, 86]), // five times as wide, from the grid's column 7 on
        (100, 20, 100, 50, [86, 50]), // the same from top to bottom
        (20, 20, 100, 100, [86, 86]),
    ] {
        let list = json!([
            {"name": "Resize", "size": [rows, columns], "interpolation": "bicubic"},
            {"name": "CenterCrop", "size": window},
        ]);
        let files = [1, 2, 3, 6].map(|orientation| {
            let turned = orientation == 6;
            let (width, height) = if turned {
                (height, width)
            } else {
                (width, height)
            };
            png(width, height, orientation, 3)
        });
        check(&list, &files.each_ref().map(|file| &file[..]), &[0; 4]);
    }
}

/// Tiles that lie wholly in the border, on every side: nothing of the picture is read for them.
#[test]
fn tiles_that_are_all_border() {
    // (padding, rows, columns)
    for (padding, rows, columns) in [
        (150, 224, 224),  // both shrink
        (150, 224, 450),  // one grows
        (150, 450, 224),  // the other
        (2000, 224, 224), // too wide for shared memory
    ] {
        for (width, height) in [(100, 100), (101, 37), (103, 60)] {
            let files: Vec<Vec<u8>> = (1..=8).map(|i| png(width, height, i, 7)).collect();
            let files: Vec<&[u8]> = files.iter().map(|file| &file[..]).collect();
            for filter in ["bilinear", "bicubic"] {
                let list = json!([
                    {"name": "Pad", "padding": [padding, padding, padding, padding]},
                    {"name": "Resize", "size": [rows, columns], "interpolation": filter},
                ]);
                check(&list, &files, &[0; 8]);
            }
        }
    }
}

/// Crops of JPEGs, which the decoder takes while it decodes and a device after it.
#[test]
fn crops_of_jpegs() {
    let list = json!([
        {"name": "RandomResizedCrop", "size": [112, 96]},
        {"name": "RandomHorizontalFlip"},
        {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ]);
    for subsampling in [
        Subsampling::ALL[0],
        Subsampling::ALL[1],
        Subsampling::ALL[2],
    ] {
        let encoder = Encoder {
            subsampling,
            ..Encoder::default()
        };
        let files: Vec<Vec<u8>> = (0..9)
            .map(|i| files::with_exif(&files::encode(encoder, 250, 190 + i, i), i as u8))
            .collect();
        let files: Vec<&[u8]> = files.iter().map(|file| &file[..]).collect();
        check(&list, &files, &(0..9).collect::<Vec<u32>>());
    }
}

/// Lists that work on pixels on the way are the decoder's.
#[test]
fn other_lists_are_not_for_devices() {
    let size = json!({"name": "CenterCrop", "size": [8, 8]});
    for other in [
        json!({"name": "ColorJitter", "brightness": [0.5, 1.5]}),
        json!({"name": "RandomGrayscale"}),
        json!({"name": "RandAugment"}),
        json!({"name": "RandomErasing"}),
        json!({"name": "Pad", "padding": [1, 1, 1, 1], "padding_mode": "reflect"}),
        json!({"name": "Pad", "padding": [1, 1, 1, 1], "fill": [9, 9, 9]}),
    ] {
        let pipeline = Pipeline::parse(&json!([size, other]), Options::default()).unwrap();
        assert!(pipeline.device_batch().is_none(), "{other}");
    }
    let pipeline = Pipeline::parse(&json!([size]), Options::default()).unwrap();
    assert!(pipeline.device_batch().is_some());
}
