//! What the check of a GPU does below Python: pictures for it, and nvJPEG and the decode unit
//! measured by themselves, through `loaderd-gpu`'s owners.
//!
//! Enters: a folder of pictures, a device. Leaves: files, or one JSON object on standard output a
//! call. Each call answers one question, so that a decoder that crashes or hangs costs that one.
//! Never: a verdict, which is Python's (`benches/gpu`); Lance.

mod ceiling;
mod damaged;
mod device;
mod feed;
mod finished;
mod kinds;
mod order;
mod photos;
mod pixels;
mod race;
mod skips;
mod strict;
mod unit;

#[cfg(test)]
#[expect(dead_code, reason = "the unit's own tests ask for more")]
#[path = "../../loaderd/gpu/tests/standin/connect.rs"]
mod connect;
#[cfg(test)]
mod standin;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use loaderd_gpu::Places;
use loaderd_gpu::unit::Settings;
use loaderd_measure::say;
use serde_json::Value;

use device::{Gpu, Lane};
use photos::Photos;

/// A millisecond of a GPU's work, or a little less, is to fill so much memory.
const BUSY_BYTES: usize = 1 << 30;

#[derive(Parser)]
#[command(about = "What `make gpu-check` measures below Python; each call prints one JSON object")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes the check's pictures: photos, JPEGs of every kind, damaged ones. Needs no GPU
    Pictures {
        /// Folder of JPEGs, with its sub-folders
        #[arg(long, value_name = "DIR")]
        images: PathBuf,
        /// Folder to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Photos at most
        #[arg(long, default_value_t = 100)]
        count: usize,
        /// Bytes of photos at most
        #[arg(long, default_value_t = 16 << 20)]
        bytes: u64,
    },
    /// Writes tiled copies of a folder's JPEGs. Needs no GPU
    Tile {
        /// Folder of JPEGs
        from: PathBuf,
        /// Folder to make
        to: PathBuf,
    },
    /// Says what nvJPEG has here: version, engines, backends
    Engines,
    /// Asks whether a decode waits for what was queued on its stream before
    Order {
        /// Folder made by `pictures`
        pictures: PathBuf,
        /// Decodes of each backend
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Asks what becomes of damaged images in a batch, and of the batch after
    Skips {
        /// Folder made by `pictures`
        pictures: PathBuf,
        /// By what
        #[arg(long, value_enum)]
        lane: Lane,
    },
    /// Asks what nvJPEG refuses when it is told to keep to JPEG's letter
    Strict {
        /// Folder made by `pictures`
        pictures: PathBuf,
    },
    /// Compares nvJPEG's pixels with the CPU decoder's, kind by kind
    Pixels {
        /// Repeat chroma, as nvJPEG does by default
        #[arg(long)]
        plain: bool,
        /// Folder made by `pictures`
        pictures: PathBuf,
        /// By what
        #[arg(long, value_enum)]
        lane: Lane,
    },
    /// Measures nvJPEG decoding whole photos, and nothing else
    Ceiling {
        /// Repeat chroma, as nvJPEG does by default
        #[arg(long)]
        plain: bool,
        /// Folder made by `pictures`
        pictures: PathBuf,
        /// By what
        #[arg(long, value_enum)]
        lane: Lane,
        /// Images of a batch
        #[arg(long, default_value_t = 64)]
        batch: usize,
        /// Threads, each with a state, a stream and memory of its own
        #[arg(long, default_value_t = 2)]
        states: usize,
        /// One handle for all states
        #[arg(long)]
        one_handle: bool,
        /// Encoded images in pinned memory
        #[arg(long)]
        pinned: bool,
        /// Batches of a few sizes, one after the other
        #[arg(long)]
        ragged: bool,
        /// Seconds to measure, after a fifth of that to warm up
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Measures loaderd's decode unit: photos in memory to finished images in shared memory
    Unit {
        /// Folder of JPEGs
        photos: PathBuf,
        /// Threads that read headers, draw and cut
        #[arg(long, default_value_t = 2)]
        feeders: usize,
        /// Finished images that there is room for
        #[arg(long, default_value_t = 2048)]
        in_flight: u32,
        /// Seconds to measure, after a fifth of that to warm up
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        #[command(flatten)]
        tuning: Tuning,
    },
    /// Compares the decode unit's finished images with the CPU's, file by file
    Finished {
        /// Folder of JPEGs
        folder: PathBuf,
        #[command(flatten)]
        tuning: Tuning,
    },
}

/// The unit's settings; those that are not given are its own.
#[derive(clap::Args)]
struct Tuning {
    /// Bytes of the device's memory
    #[arg(long)]
    memory: Option<u64>,
    /// Pictures of a batch for the engines
    #[arg(long)]
    engine_batch: Option<u32>,
    /// Batches that the engines' lane works on at a time
    #[arg(long)]
    engine_batches: Option<u32>,
    /// Batches that may wait in a lane's queue
    #[arg(long)]
    queued_batches: Option<u32>,
    /// Sends progressive files to CUDA cores
    #[arg(long)]
    progressive: bool,
}

impl Tuning {
    fn settings(&self) -> Settings {
        let usual = Settings::default();
        Settings {
            memory: self.memory.unwrap_or(usual.memory),
            engine_batch: self.engine_batch.or(usual.engine_batch),
            engine_batches: self.engine_batches.unwrap_or(usual.engine_batches),
            queued_batches: self.queued_batches.unwrap_or(usual.queued_batches),
            progressive: self.progressive,
            ..usual
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(answer) => {
            say(answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // One line, which Python shows in the place of a result.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<Value> {
    let places = Places::of_process();
    Ok(match task {
        Task::Pictures {
            images,
            out,
            count,
            bytes,
        } => photos::make(&images, &out, count, bytes)?,
        Task::Tile { from, to } => photos::tile_all(&from, &to)?,
        Task::Engines => device::engines(&Gpu::open(&places)?)?,
        Task::Order { pictures, rounds } => order::ask(
            &Gpu::open(&places)?,
            &Photos::kind(&pictures, kinds::PLAIN)?,
            rounds,
            BUSY_BYTES,
        )?,
        Task::Skips { pictures, lane } => skips::ask(&Gpu::open(&places)?, &pictures, lane)?,
        Task::Strict { pictures } => strict::ask(&Gpu::open(&places)?, &pictures)?,
        Task::Pixels {
            plain,
            pictures,
            lane,
        } => pixels::compare(&Gpu::open(&places)?, &pictures, lane, plain)?,
        Task::Ceiling {
            plain,
            pictures,
            lane,
            batch,
            states,
            one_handle,
            pinned,
            ragged,
            seconds,
        } => {
            let photos = Photos::read(&pictures.join(photos::PHOTOS))?;
            let way = ceiling::Way {
                lane,
                batch,
                states,
                is_plain: plain,
                has_one_handle: one_handle,
                is_pinned: pinned,
                is_ragged: ragged,
            };
            ceiling::measure(
                &Gpu::open(&places)?,
                &photos,
                way,
                Duration::from_secs_f64(seconds),
            )?
        }
        Task::Unit {
            photos,
            feeders,
            in_flight,
            seconds,
            tuning,
        } => {
            let feeding = unit::Feeding { feeders, in_flight };
            let seconds = Duration::from_secs_f64(seconds);
            unit::measure(
                &places,
                &Photos::read(&photos)?,
                &tuning.settings(),
                feeding,
                seconds,
            )?
        }
        Task::Finished { folder, tuning } => {
            finished::compare(&places, &folder, &tuning.settings())?
        }
    })
}
