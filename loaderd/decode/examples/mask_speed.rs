//! Single-thread speed of masks that follow an image: inflation, filters and sampling.
//!
//! ```text
//! cargo run --release -p loaderd-decode --example mask_speed -- DIR [ROUNDS]
//! ```
//!
//! Loads every PNG in DIR into memory, as it is and tiled (with its values as runs), and samples each one's RandomResizedCrop(224) +
//! RandomHorizontalFlip into a batch of 128 that is overwritten over and over as a slot would
//! be, ROUNDS times (default 20) with the same crops. Prints microseconds a mask: the mean over
//! masks of each one's fastest round, which a busy machine disturbs little, and the plain mean.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use loaderd_decode::tile::tiled_form;
use loaderd_decode::{Decoder, Limits, Options, Pipeline};

const BATCH: usize = 128;
const FILL: u8 = 255;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: mask_speed DIR [ROUNDS]")?;
    let rounds: usize = arguments.next().map_or(Ok(20), |rounds| rounds.parse())?;
    let mut paths = std::fs::read_dir(&folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "png"));
    paths.sort();
    let masks = paths
        .iter()
        .map(std::fs::read)
        .collect::<Result<Vec<_>, _>>()?;
    if masks.is_empty() {
        return Err(format!("{folder} holds no PNG").into());
    }
    let limits = Limits::default();
    let tiled = masks.iter().map(|mask| tiled_form(mask, &limits));
    let tiled: Vec<Vec<u8>> = tiled.filter_map(Result::ok).collect();
    for (name, masks) in [("as they are", masks), ("tiled", tiled)] {
        measure(name, &masks, rounds)?;
    }
    Ok(())
}

/// Prints the time that a mask takes.
fn measure(name: &str, masks: &[Vec<u8>], rounds: usize) -> Result<(), Box<dyn std::error::Error>> {
    let list = serde_json::json!([
        {"name": "RandomResizedCrop", "size": [224, 224]},
        {"name": "RandomHorizontalFlip"},
    ]);
    let pipeline = Pipeline::parse(&list, Options::default())?;
    let [height, width] = pipeline.size();
    let bytes = (height * width) as usize;
    let mut slot = vec![0; BATCH * bytes];
    let mut decoder = Decoder::new(Limits::default());
    let mut least_us = vec![f64::INFINITY; masks.len()];
    let mut all_us = 0.0;
    for _ in 0..rounds {
        let mut state = 1u64;
        let mut draws = std::iter::from_fn(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Some((state >> 32) as u32)
        });
        for (index, mask) in masks.iter().enumerate() {
            let out = &mut slot[index % BATCH * bytes..][..bytes];
            let clock = Instant::now();
            decoder.decode_mask(&pipeline, mask, &mut draws, FILL, out)?;
            let took = clock.elapsed().as_secs_f64() * 1e6;
            least_us[index] = least_us[index].min(took);
            all_us += took;
        }
    }
    let count = masks.len() as f64;
    println!(
        "{name}: {} masks, {:.1} KB on average: {:.1} µs a mask (mean of all rounds {:.1})",
        masks.len(),
        masks.iter().map(Vec::len).sum::<usize>() as f64 / count / 1e3,
        least_us.iter().sum::<f64>() / count,
        all_us / count / rounds as f64,
    );
    Ok(())
}
