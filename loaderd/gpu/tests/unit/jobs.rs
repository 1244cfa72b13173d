//! What tests of units begin with and offer: settings, files, pipelines, slots, and the CPU's bytes
//! to compare with.

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;
use std::sync::LazyLock;
use std::sync::mpsc::Sender;

use loaderd_decode::cut::Cuttable;
use loaderd_decode::encode::Encoder;
use loaderd_decode::{Decoder, Limits, Options, Pipeline, Placed, probe};
use loaderd_gpu::routing::{Route, route};
use loaderd_gpu::unit::{Outcome, Picture, Registered, Settings, Unit};
use serde_json::json;

use crate::connect::Standins;

/// Few bytes, and every kind that a GPU decodes.
pub(crate) fn settings() -> Settings {
    Settings {
        memory: 64 << 20,
        progressive: true,
        ..Settings::default()
    }
}

/// A unit on stand-ins.
pub(crate) fn start(standins: &Standins, settings: &Settings) -> Unit {
    Unit::start(&standins.places(), settings).unwrap()
}

/// Every type and layout, crops, both filters, borders, flips. Targets are large enough that the
/// CPU decodes at full size, too.
pub(crate) fn pipelines() -> &'static [Pipeline] {
    static ALL: LazyLock<Vec<Pipeline>> = LazyLock::new(lists);
    &ALL
}

fn lists() -> Vec<Pipeline> {
    let mean = [0.485, 0.456, 0.406];
    let std = [0.229, 0.224, 0.225];
    let lists = [
        json!([
            {"name": "RandomResizedCrop", "size": [64, 64], "scale": [0.3, 1.0]},
            {"name": "RandomHorizontalFlip"},
        ]),
        json!([
            {"name": "RandomResizedCrop", "size": [56, 64], "scale": [0.1, 1.0]},
            {"name": "RandomHorizontalFlip"},
            {"name": "Normalize", "mean": mean, "std": std, "dtype": "float16"},
        ]),
        json!([
            {"name": "Resize", "size": [70, 60], "interpolation": "bicubic"},
            {"name": "RandomVerticalFlip"},
            {"name": "ToDtype", "dtype": "float32", "scale": true},
            {"name": "ToLayout", "layout": "NHWC"},
        ]),
        json!([
            {"name": "CenterCrop", "size": [100, 90]},
            {"name": "Normalize", "mean": mean, "std": std, "dtype": "bfloat16"},
        ]),
        json!([
            {"name": "RandomCrop", "size": [61, 67], "padding": [9, 0, 3, 1], "pad_if_needed": true},
            {"name": "RandomHorizontalFlip"},
            {"name": "ToLayout", "layout": "NHWC"},
        ]),
    ];
    (lists.iter())
        .map(|list| Pipeline::parse(list, Options::default()).unwrap())
        .collect()
}

/// A JPEG of waves and noise.
pub(crate) fn jpeg(encoder: &Encoder, width: u32, height: u32, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..encoder.channels() as u32 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let wave = (x * (3 + channel) + y * (5 + seed % 3 - channel)) % 256;
                pixels.push((wave / 2 + (state >> 27)) as u8);
            }
        }
    }
    encoder.encode(&pixels, width, height).unwrap()
}

/// A JPEG without a sharp edge, in which decoders differ little.
pub(crate) fn smooth(encoder: &Encoder, width: u32, height: u32, seed: u32) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..encoder.channels() as u32 {
                let at = x * (2 + channel) + y * (4 + seed % 3 - channel) + 40 * seed;
                pixels.push((at % 400).abs_diff(200) as u8 + 20);
            }
        }
    }
    encoder.encode(&pixels, width, height).unwrap()
}

/// The file with each EXIF orientation.
pub(crate) fn orientations(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (1..=8).map(|value| {
        let mut block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        block.extend([value, 0, 0, 0, 0, 0, 0, 0]);
        let length = (block.len() as u16 + 2).to_be_bytes();
        [&file[..2], &[0xff, 0xe1], &length, &block, &file[2..]].concat()
    })
}

fn noise(seed: u32) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state ^ state >> 15)
    })
}

/// A file, what is to become of it, and the seed of its draws.
pub(crate) struct Job<'a> {
    file: &'a [u8],
    pipeline: &'a Pipeline,
    seed: u32,
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, list) = (probe(self.file).unwrap(), self.pipeline.canonical());
        let seed = self.seed;
        write!(f, "{header:?}, seed {seed}, {list}")
    }
}

/// An ordinary picture, and places for so many finished ones.
pub(crate) fn copies(unit: &Unit, count: usize) -> (Job<'static>, Slots) {
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| jpeg(&Encoder::default(), 120, 90, 1));
    let job = Job::new(&FILE, &pipelines()[0], 1);
    let slots = Slots::new(unit, std::iter::repeat_n(job.bytes(), count));
    (job, slots)
}

impl<'a> Job<'a> {
    pub(crate) fn new(file: &'a [u8], pipeline: &'a Pipeline, seed: u32) -> Job<'a> {
        Job {
            file,
            pipeline,
            seed,
        }
    }

    /// Bytes of the finished image.
    pub(crate) fn bytes(&self) -> usize {
        self.pipeline.output().bytes() as usize
    }

    pub(crate) fn on_cpu(&self) -> Vec<u8> {
        let mut out = vec![0; self.bytes()];
        let decoded = Decoder::new(Limits::default())
            .decode(self.pipeline, self.file, &mut noise(self.seed), &mut out)
            .unwrap();
        assert_eq!(decoded.dct_scale, 8, "the device has pixels at full size");
        out
    }

    /// As a worker offers it: cut to its crop where that pays. None where it is for the CPU.
    pub(crate) fn picture(
        &self,
        unit: &Unit,
        out: NonNull<u8>,
        index: usize,
        outcomes: &Sender<(usize, Outcome)>,
    ) -> Option<Picture> {
        if route(self.file, unit.abilities()).route == Route::Cpu {
            return None;
        }
        let header = probe(self.file).unwrap();
        let draws = &mut noise(self.seed);
        let placed = Placed::draw(self.pipeline, &header, &Limits::default(), draws).unwrap();
        let (mut encoded, mut origin) = (self.file.to_vec(), (0, 0));
        let mut size = (header.width, header.height);
        if let (Some(region), Some(file)) = (placed.region(), Cuttable::of(self.file)) {
            let window = file.window(&region, 8);
            if window.pays() {
                file.cut(&window, &mut encoded).unwrap();
                size = (window.width, window.height);
                origin = (
                    region.left - window.region.left,
                    region.top - window.region.top,
                );
            }
        }
        let route = route(&encoded, unit.abilities()).route;
        assert_ne!(
            route,
            Route::Cpu,
            "a cut picture is as ordinary as its file"
        );
        let outcomes = outcomes.clone();
        Some(Picture {
            encoded: Box::new(encoded),
            route,
            size,
            placed,
            origin,
            batch: self.pipeline.device_batch().unwrap(),
            out,
            done: Box::new(move |outcome| {
                // A test that has gone wrong listens no more.
                let _ = outcomes.send((index, outcome));
            }),
        })
    }
}

/// Places for finished images, in memory that a unit has registered.
pub(crate) struct Slots {
    // Let go before the memory is.
    registered: Registered,
    memory: Memory,
    /// Where each image lies.
    places: Vec<(usize, usize)>,
}

/// Whole pages that others write to.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let layout = Layout::from_size_align(bytes.next_multiple_of(4096), 4096).unwrap();
        // SAFETY: there is at least one image, so the size is not 0.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        Memory { start, layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout, and nobody writes there any more.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Slots {
    pub(crate) fn new(unit: &Unit, sizes: impl Iterator<Item = usize>) -> Slots {
        let mut end = 0;
        let places: Vec<(usize, usize)> = sizes
            .map(|bytes| {
                let from = end;
                end = (end + bytes).next_multiple_of(8);
                (from, bytes)
            })
            .collect();
        let memory = Memory::new(end);
        // SAFETY: the memory is dropped after the registration: see the fields.
        let registered = unsafe { unit.register(memory.start, end) }.unwrap();
        Slots {
            registered,
            memory,
            places,
        }
    }

    /// Lets the registration go, and keeps the memory for a device that may yet write there.
    pub(crate) fn unregister(self) {
        drop(self.registered);
        std::mem::forget(self.memory);
    }

    pub(crate) fn place(&self, index: usize) -> NonNull<u8> {
        // SAFETY: within the memory.
        unsafe { self.memory.start.add(self.places[index].0) }
    }

    /// A finished image.
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        let (from, bytes) = self.places[index];
        // SAFETY: within the memory; its picture's `done` was called, so nobody writes there.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr().add(from), bytes) }
    }
}
