//! Single-thread speed of decoding, cropping and resizing a folder of images: the
//! reference that end-to-end benches are judged against.
//!
//! ```text
//! cargo run --release -p loaderd-decode --example crop_decode_speed -- DIR [ROUNDS [ONLY]]
//! ```
//!
//! Loads every image below DIR into memory, tiles the JPEGs among them, and measures in turn,
//! ROUNDS times (default 5): decoding whole images, and RandomResizedCrop(224) +
//! RandomHorizontalFlip + Normalize to float32 over untiled and tiled ones, into a batch of
//! 128 that is overwritten over and over as a slot would be. Prints microseconds per image, by
//! stage: the mean over images of each one's fastest round, which a busy machine disturbs
//! little, and the plain mean; then ratios, with the range of rounds. ONLY, which is `untiled` or
//! `tiled`, leaves out all else, for a profiler or a counter of allocations.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::path::Path;
use std::time::Instant;

use loaderd_decode::tile::{NotTiled, tile};
use loaderd_decode::{Decoder, Limits, Options, Pipeline, StageNs, probe};

const BATCH: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: crop_decode_speed DIR [ROUNDS [ONLY]]")?;
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let only = arguments.next();
    let mut images = Vec::new();
    load(Path::new(&folder), &mut images)?;
    if images.is_empty() {
        return Err(format!("{folder} holds no image").into());
    }
    let tiled = tile_all(&images);

    let mut decoder = Decoder::new(Limits::default());
    let mut whole = Timing::new(images.len());
    let mut runs = Vec::new();
    for fast_dct in [false, true] {
        for (name, images) in [("untiled", &images), ("tiled", &tiled)] {
            runs.push(Run::new(name, images, fast_dct)?);
        }
    }
    if let Some(only) = only {
        let mut run = runs
            .into_iter()
            .find(|run| run.name == only)
            .ok_or("ONLY must be untiled or tiled")?;
        for _ in 0..rounds {
            run.round(&mut decoder)?;
        }
        run.report();
        return Ok(());
    }
    for _ in 0..rounds {
        for (index, image) in images.iter().enumerate() {
            let clock = Instant::now();
            std::hint::black_box(decoder.decode_full(image, Options::default())?);
            whole.add(index, clock.elapsed().as_nanos() as u64);
        }
        for run in &mut runs {
            run.round(&mut decoder)?;
        }
    }
    println!("{:24}{whole}", "whole image to RGB");
    for run in &runs {
        run.report();
    }
    for pair in runs.chunks_exact(2) {
        let [untiled, tiled] = pair else {
            unreachable!("chunks of two");
        };
        println!("untiled / tiled, fast_dct={}:", untiled.fast_dct);
        for ((name, _), (before, after)) in
            STAGES.iter().zip(untiled.stages.iter().zip(&tiled.stages))
        {
            if *name == "decode" {
                println!("  {name:22}{}", Ratio::of(before, after));
            }
        }
        println!("  {:22}{}", "all", Ratio::of(&untiled.all, &tiled.all));
    }
    Ok(())
}

/// Tiles what can be tiled, leaves the rest as it is, and says what came of it.
fn tile_all(images: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut left, mut took_ns) = (0, 0);
    let tiled: Vec<Vec<u8>> = images
        .iter()
        .map(|image| {
            let clock = Instant::now();
            let tiled = tile(image, &Limits::default());
            took_ns += clock.elapsed().as_nanos() as u64;
            match tiled {
                Ok(tiled) => tiled.jpeg,
                Err(error) => {
                    left += u32::from(error != NotTiled::Already);
                    image.clone()
                }
            }
        })
        .collect();
    let count = images.len() as f64;
    let bytes = |images: &[Vec<u8>]| images.iter().map(Vec::len).sum::<usize>() as f64;
    println!(
        "{} images, {:.0} KB on average; tiled {:+.1} %, {:.0} µs an image, {left} left as they are",
        images.len(),
        bytes(images) / count / 1e3,
        (bytes(&tiled) / bytes(images) - 1.0) * 100.0,
        took_ns as f64 / count / 1e3,
    );
    tiled
}

/// The crop pipeline over one set of images, and what was measured of it.
struct Run<'a> {
    name: &'static str,
    images: &'a [Vec<u8>],
    fast_dct: bool,
    pipeline: Pipeline,
    slot: Vec<u8>,
    all: Timing,
    stages: [Timing; STAGES.len()],
    decoded: u64,
    scaled: u64,
}

impl<'a> Run<'a> {
    fn new(
        name: &'static str,
        images: &'a [Vec<u8>],
        fast_dct: bool,
    ) -> Result<Run<'a>, loaderd_decode::TransformError> {
        let pipeline = Pipeline::parse(
            &serde_json::json!([
                {"name": "RandomResizedCrop", "size": [224, 224]},
                {"name": "RandomHorizontalFlip"},
                {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            ]),
            Options {
                fast_dct,
                ..Options::default()
            },
        )?;
        Ok(Run {
            name,
            images,
            fast_dct,
            slot: vec![0; BATCH * pipeline.output().bytes() as usize],
            pipeline,
            all: Timing::new(images.len()),
            stages: STAGES.map(|_| Timing::new(images.len())),
            decoded: 0,
            scaled: 0,
        })
    }

    /// The same crops in every round and every run, so that they can be compared by image.
    fn round(&mut self, decoder: &mut Decoder) -> Result<(), loaderd_decode::DecodeError> {
        let image_bytes = self.pipeline.output().bytes() as usize;
        let mut state = 1u64;
        let mut draws = std::iter::from_fn(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Some((state >> 32) as u32)
        });
        for (index, image) in self.images.iter().enumerate() {
            let out = &mut self.slot[index % BATCH * image_bytes..][..image_bytes];
            let clock = Instant::now();
            let took = decoder.decode(&self.pipeline, image, &mut draws, out)?;
            self.all.add(index, clock.elapsed().as_nanos() as u64);
            for ((_, ns_of), stage) in STAGES.iter().zip(&mut self.stages) {
                stage.add(index, ns_of(&took.stages));
            }
            self.decoded += took.decoded_pixels;
            self.scaled += u64::from(took.dct_scale < 8);
        }
        Ok(())
    }

    fn report(&self) {
        let count = self.all.ns.len() as f64;
        println!(
            "{:24}{}; fast_dct={}, {:.0} pixels decoded, {:.1} % scaled in the DCT",
            format!("crop pipeline, {}", self.name),
            self.all,
            self.fast_dct,
            self.decoded as f64 / count,
            self.scaled as f64 / count * 100.0
        );
        for ((name, _), stage) in STAGES.iter().zip(&self.stages) {
            println!("  {name:22}{stage}");
        }
    }
}

type Stage = (&'static str, fn(&StageNs) -> u64);

const STAGES: [Stage; 5] = [
    ("header", |stages| stages.header_ns),
    ("decode", |stages| stages.decode_ns),
    ("resize", |stages| stages.resize_ns),
    ("augment", |stages| stages.augment_ns),
    ("finish", |stages| stages.finish_ns),
];

/// Times of the same work, image by image, over several rounds.
struct Timing {
    images: usize,
    /// Round by round.
    ns: Vec<u64>,
    least_ns: Vec<u64>,
}

impl Timing {
    fn new(images: usize) -> Timing {
        Timing {
            images,
            ns: Vec::new(),
            least_ns: vec![u64::MAX; images],
        }
    }

    fn add(&mut self, image: usize, ns: u64) {
        self.ns.push(ns);
        self.least_ns[image] = self.least_ns[image].min(ns);
    }

    /// The mean over images of each one's fastest round.
    fn least(&self) -> f64 {
        self.least_ns.iter().sum::<u64>() as f64 / self.images as f64
    }

    fn rounds(&self) -> impl Iterator<Item = u64> {
        self.ns.chunks(self.images).map(|round| round.iter().sum())
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mean = self.ns.iter().sum::<u64>() as f64 / self.ns.len() as f64;
        write!(
            f,
            "{:7.1} µs (mean of all rounds {:7.1})",
            self.least() / 1e3,
            mean / 1e3
        )
    }
}

/// How many times longer one took than the other, and by rounds.
struct Ratio {
    least: f64,
    rounds: Vec<f64>,
}

impl Ratio {
    fn of(before: &Timing, after: &Timing) -> Ratio {
        let pairs = before.rounds().zip(after.rounds());
        let mut rounds: Vec<f64> = pairs.map(|(a, b)| a as f64 / b as f64).collect();
        rounds.sort_by(f64::total_cmp);
        Ratio {
            least: before.least() / after.least(),
            rounds,
        }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Some(low), Some(high)) = (self.rounds.first(), self.rounds.last()) else {
            return Ok(());
        };
        let median = self.rounds[self.rounds.len() / 2];
        write!(
            f,
            "{:.2} (rounds: {median:.2}, {low:.2} to {high:.2})",
            self.least
        )
    }
}

/// Every image in `folder` and the folders below it, by name.
fn load(folder: &Path, images: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
    let mut paths = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            load(&path, images)?;
            continue;
        }
        let bytes = std::fs::read(&path)?;
        if probe(&bytes).is_ok() {
            images.push(bytes);
        }
    }
    Ok(())
}
