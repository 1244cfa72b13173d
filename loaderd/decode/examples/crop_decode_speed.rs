//! Single-thread speed of decoding, cropping and resizing a folder of images: the
//! reference that end-to-end benches are judged against.
//!
//! ```text
//! cargo run --release -p loaderd-decode --example crop_decode_speed -- DIR [ROUNDS]
//! ```
//!
//! Loads every image below DIR into memory, decodes each whole, then runs
//! RandomResizedCrop(224) + RandomHorizontalFlip + Normalize to float32 over all of them,
//! ROUNDS times (default 5), into a batch of 128 that is overwritten over and over as a
//! slot would be. Prints microseconds per image, by stage: the mean over images of each
//! one's fastest round, which a busy machine disturbs little, and the plain mean.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::path::Path;
use std::time::Instant;

use loaderd_decode::{Decoder, Limits, Options, Pipeline, StageNs, probe};

const BATCH: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: crop_decode_speed DIR [ROUNDS]")?;
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let mut images = Vec::new();
    load(Path::new(&folder), &mut images)?;
    if images.is_empty() {
        return Err(format!("{folder} holds no image").into());
    }
    let bytes: usize = images.iter().map(Vec::len).sum();
    println!(
        "{} images, {:.0} KB on average",
        images.len(),
        bytes as f64 / images.len() as f64 / 1e3
    );

    let mut decoder = Decoder::new(Limits::default());
    let mut whole = Timing::new(images.len());
    for _ in 0..rounds {
        for (index, image) in images.iter().enumerate() {
            let clock = Instant::now();
            std::hint::black_box(decoder.decode_full(image, Options::default())?);
            whole.add(index, clock.elapsed().as_nanos() as u64);
        }
    }
    println!("{:24}{whole}", "whole image to RGB");

    for fast_dct in [false, true] {
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
        let image_bytes = pipeline.output().bytes() as usize;
        let mut slot = vec![0u8; BATCH * image_bytes];
        let mut all = Timing::new(images.len());
        let mut stages = STAGES.map(|_| Timing::new(images.len()));
        let (mut decoded, mut scaled) = (0, 0);
        for _ in 0..rounds {
            // The same crops in every round, so that rounds can be compared by image.
            let mut state = 1u64;
            let mut draws = std::iter::from_fn(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                Some((state >> 32) as u32)
            });
            for (index, image) in images.iter().enumerate() {
                let out = &mut slot[index % BATCH * image_bytes..][..image_bytes];
                let clock = Instant::now();
                let took = decoder.decode(&pipeline, image, &mut draws, out)?;
                all.add(index, clock.elapsed().as_nanos() as u64);
                for ((_, ns_of), stage) in STAGES.iter().zip(&mut stages) {
                    stage.add(index, ns_of(&took.stages));
                }
                decoded += took.decoded_pixels;
                scaled += u64::from(took.dct_scale < 8);
            }
        }
        let count = (rounds * images.len()) as f64;
        println!(
            "{:24}{all}; fast_dct={fast_dct}, {:.0} pixels decoded, {:.1} % scaled in the DCT",
            "crop pipeline",
            decoded as f64 / count,
            scaled as f64 / count * 100.0
        );
        for ((name, _), stage) in STAGES.iter().zip(&stages) {
            println!("  {name:22}{stage}");
        }
    }
    Ok(())
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
    sum_ns: u64,
    count: u64,
    least_ns: Vec<u64>,
}

impl Timing {
    fn new(images: usize) -> Timing {
        Timing {
            sum_ns: 0,
            count: 0,
            least_ns: vec![u64::MAX; images],
        }
    }

    fn add(&mut self, image: usize, ns: u64) {
        self.sum_ns += ns;
        self.count += 1;
        self.least_ns[image] = self.least_ns[image].min(ns);
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = self.least_ns.iter().sum::<u64>() as f64 / self.least_ns.len() as f64;
        let mean = self.sum_ns as f64 / self.count as f64;
        write!(
            f,
            "{:7.1} µs (mean of all rounds {:7.1})",
            least / 1e3,
            mean / 1e3
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
