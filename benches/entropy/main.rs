//! JPEG entropy decoding: libjpeg-turbo's against one of our own.
//!
//! Enters: a folder of JPEGs, or nothing: then pictures are drawn. Leaves: time an image for
//! either, and their ratio round by round; also of the same pictures tiled, with one, two and four
//! restart segments in one loop. Never: compares decoders whose coefficients it has not seen to be
//! equal, block by block.
//!
//! Every round runs each way once over all images, on this thread; a round starts with another way
//! than the one before. libjpeg's memory stays with the process between images, as ours does.

mod bits;
mod coefficients;
mod error;
mod header;
mod pictures;
mod reference;
mod stuffing;
mod tables;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use loaderd_decode::{Limits, Options};
use loaderd_measure::machine::Machine;
use loaderd_measure::meter::{Meter, median};
use loaderd_measure::{say, write_json};
use serde_json::json;

use crate::coefficients::Decoder;
use crate::pictures::Pictures;

/// Cores that others may keep busy before the answer says that they did.
const ELSEWHERE_MAX: f64 = 0.15;

/// JPEG entropy decoding: libjpeg-turbo's against one of our own.
#[derive(Parser)]
struct Arguments {
    /// A folder of JPEGs [default: drawn pictures]
    #[arg(long)]
    images: Option<PathBuf>,
    /// Few pictures, one round: shows that the bench works, measures nothing
    #[arg(long)]
    brief: bool,
    /// Rounds [default: 15, or 1 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One way through all pictures.
struct Way<'a> {
    name: &'static str,
    /// The way that it is compared with.
    against: &'static str,
    run: Box<dyn FnMut() -> bool + 'a>,
    /// CPU time an image in each round, in µs.
    cpu_us: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let brief = arguments.brief;
    let rounds = arguments.rounds.unwrap_or(if brief { 1 } else { 15 });
    keep_memory();
    let pictures = match &arguments.images {
        Some(folder) => Pictures::from_folder(folder, if brief { 4 } else { usize::MAX })?,
        None => Pictures::drawn(if brief { 4 } else { 64 })?,
    };
    ensure!(!pictures.plain.is_empty(), "no picture is left to compare");
    for jpeg in pictures.plain.iter().chain(&pictures.tiled) {
        compare::<1>(jpeg)?;
        compare::<2>(jpeg)?;
        compare::<4>(jpeg)?;
    }

    let mut ways = ways(&pictures);
    let mut elsewhere = Vec::new();
    let count = ways.len();
    for round in 0..rounds as usize {
        for turn in 0..count {
            let way = &mut ways[(turn + round) % count];
            let meter = Meter::start();
            ensure!((way.run)(), "{} failed", way.name);
            let sample = meter.stop(pictures.plain.len() as u64, pictures.plain_bytes() as u64);
            way.cpu_us.push(sample.cpu_us_per_row());
            elsewhere.push(sample.cores_elsewhere);
        }
    }
    let elsewhere = median(elsewhere);

    let machine = Machine::here(&std::env::current_dir()?);
    let images = pictures.plain.len();
    let kb = |bytes: usize| bytes as f64 / images as f64 / 1e3;
    say(format_args!(
        "{}, Linux {}",
        machine.processor, machine.kernel
    ));
    say(format_args!(
        "{images} pictures of {}, {:.1} KB each, tiled {:.1} KB; CPU time on one thread, medians of \
         {rounds} rounds; all coefficients equal to libjpeg-turbo {}",
        pictures.description,
        kb(pictures.plain_bytes()),
        kb(pictures.tiled.iter().map(Vec::len).sum()),
        loaderd_decode::libjpeg_turbo_version(),
    ));
    for (name, reason) in &pictures.left_out {
        say(format_args!("left out: {name}: {reason}"));
    }
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(["", "µs an image", "times as fast", "least", "most", "as"]);
    let mut answers = Vec::new();
    for way in &ways {
        let Some(base) = ways.iter().find(|base| base.name == way.against) else {
            continue;
        };
        let ratios = || {
            base.cpu_us
                .iter()
                .zip(&way.cpu_us)
                .map(|(base, own)| base / own)
        };
        let least = ratios().fold(f64::INFINITY, f64::min);
        let most = ratios().fold(0.0, f64::max);
        let cpu_us = median(way.cpu_us.iter().copied());
        table.add_row([
            way.name.to_owned(),
            format!("{cpu_us:.0}"),
            format!("{:.2}", median(ratios())),
            format!("{least:.2}"),
            format!("{most:.2}"),
            way.against.to_owned(),
        ]);
        answers.push(json!({
            "name": way.name,
            "cpu_us": cpu_us,
            "rounds_cpu_us": way.cpu_us,
            "against": way.against,
            "speedup": {"median": median(ratios()), "least": least, "most": most},
        }));
    }
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    say(table);
    if elsewhere > ELSEWHERE_MAX {
        say(format_args!(
            "not quiet: {elsewhere:.2} cores were busy outside this bench; ratios may be off"
        ));
    }
    if let Some(path) = &arguments.json {
        let answer = json!({
            "bench": "entropy",
            "brief": brief,
            "machine": machine,
            "images": images,
            "bytes": pictures.plain_bytes(),
            "rounds": rounds,
            "cores_elsewhere": elsewhere,
            "left_out": pictures.left_out.len(),
            "ways": answers,
        });
        write_json(path, &answer)?;
    }
    Ok(())
}

const LIBJPEG: &str = "libjpeg-turbo, coefficients";
const LIBJPEG_TILED: &str = "libjpeg-turbo, coefficients, tiled";

fn ways(pictures: &Pictures) -> Vec<Way<'_>> {
    let way = |name, against, run| Way {
        name,
        against,
        run,
        cpu_us: Vec::new(),
    };
    vec![
        way(LIBJPEG, LIBJPEG, libjpeg(&pictures.plain)),
        way("ours", LIBJPEG, ours::<1>(&pictures.plain)),
        way(LIBJPEG_TILED, LIBJPEG_TILED, libjpeg(&pictures.tiled)),
        way("ours, tiled", LIBJPEG_TILED, ours::<1>(&pictures.tiled)),
        way(
            "ours, tiled, 2 segments",
            LIBJPEG_TILED,
            ours::<2>(&pictures.tiled),
        ),
        way(
            "ours, tiled, 4 segments",
            LIBJPEG_TILED,
            ours::<4>(&pictures.tiled),
        ),
        way(
            "whole decode, libjpeg-turbo",
            LIBJPEG,
            whole(&pictures.plain),
        ),
    ]
}

fn libjpeg(jpegs: &[Vec<u8>]) -> Box<dyn FnMut() -> bool + '_> {
    Box::new(|| jpegs.iter().all(|jpeg| reference::read(jpeg)))
}

fn ours<const LANES: usize>(jpegs: &[Vec<u8>]) -> Box<dyn FnMut() -> bool + '_> {
    let mut decoder = Decoder::default();
    Box::new(move || jpegs.iter().all(|jpeg| decoder.read::<LANES>(jpeg).is_ok()))
}

/// To pixels, as a batch's images are: what entropy decoding is a part of.
fn whole(jpegs: &[Vec<u8>]) -> Box<dyn FnMut() -> bool + '_> {
    let mut decoder = loaderd_decode::Decoder::new(Limits::default());
    let mut decode = move |jpeg: &Vec<u8>| decoder.decode_full(jpeg, Options::default()).is_ok();
    Box::new(move || jpegs.iter().all(&mut decode))
}

/// Fails unless both give the same blocks.
fn compare<const LANES: usize>(jpeg: &[u8]) -> Result<()> {
    let mut decoder = Decoder::default();
    decoder.read::<LANES>(jpeg)?;
    let count = decoder.blocks().count();
    let expected = reference::blocks(jpeg, count);
    ensure!(
        expected.is_some_and(|expected| expected.iter().eq(decoder.blocks())),
        "a picture's coefficients differ from libjpeg's, with {LANES} segments in one loop"
    );
    Ok(())
}

/// Keeps freed memory in the process. Otherwise libjpeg's arrays would be mapped and faulted in
/// anew for each image, which is no part of what is compared.
fn keep_memory() {
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: takes two numbers and keeps no pointer; no other thread runs yet.
        unsafe { libc::mallopt(parameter, 1 << 30) };
    }
}
