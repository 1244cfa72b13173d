//! Reading only what a crop takes of a tiled JPEG, against reading all of it.
//!
//! Enters: a folder of JPEGs, or nothing: then pictures are drawn. Leaves, for photos and for
//! frames of 1280 × 720 pixels: bytes, requests, CPU time and images/s of each way, alone and
//! with decoding, past the page cache and from it; what an index takes; what devices would gain.
//! Never: compares ways whose pixels it has not seen to be equal, image by image.
//!
//! Each round takes a new order of all rows, cut into windows that are sorted by offset, and runs
//! every way on this thread. A round starts with another way than the one before.

mod index;
mod pictures;
mod report;
mod rows;
mod ways;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use loaderd_measure::cache;
use loaderd_measure::machine::Machine;
use loaderd_measure::meter::{Meter, Sample};
use loaderd_measure::options::Options;
use loaderd_measure::reader::OneFile;
use loaderd_measure::report::{say_busy, say_machine};
use loaderd_read::Mode;
use serde_json::json;

use crate::pictures::Pictures;
use crate::rows::{BATCH, Crops, Row, Rows};
use crate::ways::{Parts, Way, read};

/// Reading only what a crop takes of a tiled JPEG, against reading all of it.
#[derive(Parser)]
struct Arguments {
    /// A folder of JPEGs [default: drawn pictures]
    #[arg(long)]
    images: Option<PathBuf>,
    /// Rows of photos, about 110 KB each; there are a quarter as many of frames [default: 8192, or
    /// 128 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(4..))]
    rows: Option<u64>,
    #[command(flatten)]
    options: Options,
}

/// One way through all rows once.
struct Measured {
    sample: Sample,
    /// Bytes that the kernel delivered, rounding out included.
    bytes_read: u64,
    requests: u64,
}

/// What is measured of each way.
#[derive(Clone, Copy)]
enum Measure {
    ReadDirect,
    DecodeDirect,
    ReadCached,
    DecodeCached,
}

/// A way, and what it took in each round, by [`Measure`].
struct Contestant {
    way: Way,
    measured: [Vec<Measured>; 4],
}

/// One kind of pictures, with all that was measured of it.
struct Set {
    name: &'static str,
    pictures: Pictures,
    rows: Rows,
    contestants: Vec<Contestant>,
    engines: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = &arguments.options;
    let (brief, rounds, window) = (options.brief, options.rounds(5), options.window);
    let count = options.or(arguments.rows, 8192, 128);
    let folder = options.folder()?;
    let (most_photos, most_frames) = if brief { (6, 2) } else { (usize::MAX, 64) };
    let photos = match &arguments.images {
        Some(images) => Pictures::from_folder(images, most_photos)?,
        None => Pictures::drawn(if brief { 6 } else { 64 })?,
    };
    let frames = photos.frames(most_frames)?;

    let machine = Machine::here(&folder);
    say_machine(&machine);
    let mut answers = Vec::new();
    for (name, pictures, count) in [("photos", photos, count), ("frames", frames, count / 4)] {
        let set = Set::measure(name, pictures, &folder, count, rounds, window)?;
        answers.push(report::show(&set, brief));
        let samples = set.contestants.iter().flat_map(|it| &it.measured).flatten();
        say_busy(samples.map(|it| &it.sample), "images/s");
    }
    options.write(&json!({
        "bench": "cutread",
        "brief": brief,
        "machine": machine,
        "rounds": rounds,
        "window": window,
        "sets": answers,
    }))
}

impl Set {
    fn measure(
        name: &'static str,
        pictures: Pictures,
        folder: &Path,
        count: u64,
        rounds: u64,
        window: u64,
    ) -> Result<Set> {
        eprintln!("{name}: writing and checking {count} rows");
        let all = &pictures.all;
        let rows = Rows::new(folder.join(format!("cutread-{name}.bin")), all, count)?;
        let largest = all.iter().map(|picture| picture.jpeg.len()).max();
        let largest = largest.unwrap_or(0) as u32;
        let mut direct = OneFile::open(&rows.path, Mode::Direct, largest)?;
        let mut cached = OneFile::open(&rows.path, Mode::Buffered, largest)?;
        let mut crops = Crops::new()?;
        let mut contestants: Vec<Contestant> = (Way::ALL.into_iter())
            .map(|way| Contestant {
                way,
                measured: Default::default(),
            })
            .collect();
        let files = [rows.path.clone()];
        // Memory that grows with use is there before anything is timed.
        let first = &rows.order(0, window)[..(count as usize).min(BATCH)];
        once(&mut direct, Way::Whole, first, &pictures, Some(&mut crops))?;
        for round in 0..rounds as usize {
            let order = rows.order(round as u64, window);
            // O_DIRECT leaves nothing in the page cache.
            cache::evict(&files, false)?;
            for (source, kinds) in [
                (&mut direct, [Measure::ReadDirect, Measure::DecodeDirect]),
                (&mut cached, [Measure::ReadCached, Measure::DecodeCached]),
            ] {
                for turn in 0..contestants.len() {
                    let at = (turn + round) % contestants.len();
                    let Contestant { way, measured } = &mut contestants[at];
                    eprintln!("{name}, round {} of {rounds}: {}", round + 1, way.name());
                    for (kind, decode) in kinds.into_iter().zip([None, Some(&mut crops)]) {
                        let once = once(source, *way, &order, &pictures, decode)?;
                        measured[kind as usize].push(once);
                    }
                }
                cache::load(&files)?;
            }
        }
        Ok(Set {
            name,
            engines: vec![direct.engine(), cached.engine()],
            pictures,
            rows,
            contestants,
        })
    }
}

/// Reads all rows, and decodes them where that is asked for.
fn once(
    source: &mut OneFile,
    way: Way,
    order: &[Row],
    pictures: &Pictures,
    mut decode: Option<&mut Crops>,
) -> Result<Measured> {
    let mut room = Vec::new();
    let mut take = |row: &Row, parts: &Parts<'_>| {
        let Some(crops) = decode.as_deref_mut() else {
            return Ok(());
        };
        let jpeg = parts.jpeg(row, &pictures.all[row.picture], &mut room);
        crops.decode(row.number, jpeg).map(drop)
    };
    let before = source.stats();
    let meter = Meter::start();
    read(source, way, order, &pictures.all, &mut take)?;
    let after = source.stats();
    let bytes_asked = after.bytes_asked - before.bytes_asked;
    let requests = |stats: &loaderd_read::Stats| stats.reads + stats.retries;
    Ok(Measured {
        sample: meter.stop(order.len() as u64, bytes_asked),
        bytes_read: after.bytes_read - before.bytes_read,
        requests: requests(&after) - requests(&before),
    })
}
