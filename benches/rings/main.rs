//! tokio-uring against the bare io-uring crate: what our reader would be built on.
//!
//! Enters: a number of rows. Leaves: rows/s and CPU time a row for either, with registered and
//! with owned buffers, past the page cache and through it, cold and warm; ratios within each
//! round. Never: compares ways that it has not seen give the right bytes, or calls a file cold
//! that is in the page cache.
//!
//! Each round takes a new order of all rows, cut into windows that are sorted by offset, and every
//! way reads it once cold and once warm with the same number of reads in flight. A round starts
//! with another way than the one before.

mod memory;
mod scratch;
mod ways;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use loaderd_measure::machine::Machine;
use loaderd_measure::meter::{Meter, Sample, median};
use loaderd_measure::{cache, data_folder, say, write_json};
use loaderd_read::{Extent, Mode};
use serde_json::{Value, json};

use crate::scratch::{ROW_BYTES, Scratch};
use crate::ways::{Consumer, Own, Tokio, Way, queue_depth};

/// A larger resident share than this is not called cold.
const COLD_SHARE_MAX: f64 = 0.01;
/// Cores that others may keep busy before the answer says that they did.
const ELSEWHERE_MAX: f64 = 0.15;
/// Fewer rows than this take too little time to judge by.
const JUDGED_ROWS_MIN: u64 = 5_000;

/// Shuffled reads of 110 KB: tokio-uring against our reader on the bare io-uring crate.
#[derive(Parser)]
struct Arguments {
    /// Rows of the file [default: 30000, or 500 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// Few rows, one round: shows that the bench works, measures nothing
    #[arg(long)]
    brief: bool,
    /// Where the file is kept, 110 KB a row [default: data, beside the benches' sources]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds [default: 5, or 1 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Rows of a window
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// Empty the whole page cache before cold reads, not just this file; needs root
    #[arg(long)]
    drop_caches: bool,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A way, and what it took in each round.
struct Contestant {
    name: &'static str,
    /// The name of ours that it is compared with.
    against: &'static str,
    way: Box<dyn Way>,
    cold: Vec<Sample>,
    warm: Vec<Sample>,
}

impl Contestant {
    fn measure(&mut self, extents: &[Extent]) -> Result<Sample> {
        let consumer = Rc::new(RefCell::new(Consumer::default()));
        let meter = Meter::start();
        self.way.read(extents, &consumer)?;
        let consumer = consumer.borrow();
        let sample = meter.stop(consumer.rows, consumer.bytes);
        let expected = extents.len() as u64;
        let found = sample.rows;
        ensure!(
            found == expected,
            "{} gave {found} of {expected} rows",
            self.name
        );
        Ok(sample)
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let brief = arguments.brief;
    let rows = arguments.rows.unwrap_or(if brief { 500 } else { 30_000 });
    let rounds = arguments.rounds.unwrap_or(if brief { 1 } else { 5 });
    let folder = std::path::absolute(arguments.dir.clone().unwrap_or_else(data_folder))?;
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let scratch = Scratch::ensure(&folder, rows)?;
    let files = [scratch.path.clone()];
    // Once through, so that caches below this machine's don't favour what was read last.
    cache::load(&files)?;

    let (mut contestants, missing) = contestants(&scratch);
    for (name, reason) in &missing {
        eprintln!("left out: {name}: {reason}");
    }
    ensure!(!contestants.is_empty(), "no way of reading works here");
    compare(&mut contestants, &scratch, arguments.window)?;

    let mut cold_share: f64 = 0.0;
    let count = contestants.len();
    for round in 0..rounds {
        let extents = scratch.extents(round, arguments.window);
        for turn in 0..count {
            let contestant = &mut contestants[(turn + round as usize) % count];
            eprintln!("round {} of {rounds}: {}", round + 1, contestant.name);
            cold_share = cold_share.max(cache::evict(&files, arguments.drop_caches)?);
            let cold = contestant.measure(&extents)?;
            cache::load(&files)?;
            let warm = contestant.measure(&extents)?;
            contestant.cold.push(cold);
            contestant.warm.push(warm);
        }
    }

    let machine = Machine::here(&folder);
    let samples = contestants
        .iter()
        .flat_map(|it| it.cold.iter().chain(&it.warm));
    let elsewhere = median(samples.map(|sample| sample.cores_elsewhere));
    say(format_args!(
        "{}, {} cores, Linux {}, {}",
        machine.processor, machine.cores, machine.kernel, machine.file_system
    ));
    say(format_args!(
        "{rows} rows of {ROW_BYTES} bytes, {:.0} MB; shuffled windows of {}, {} reads in flight, \
         one thread; medians of {rounds} rounds; CPU: user + system",
        rows as f64 * f64::from(ROW_BYTES) / 1e6,
        arguments.window,
        queue_depth(),
    ));
    show(&contestants);
    for (name, reason) in &missing {
        say(format_args!("left out: {name}: {reason}"));
    }
    if cold_share > COLD_SHARE_MAX {
        say(format_args!(
            "not cold: up to {:.1} % of the file stayed in the page cache; as root, try --drop-caches",
            cold_share * 100.0
        ));
    }
    if elsewhere > ELSEWHERE_MAX {
        say(format_args!(
            "not quiet: {elsewhere:.2} cores were busy outside this bench, interrupts included; \
             ratios may be off"
        ));
    }
    let ratios = ratios(&contestants);
    for ratio in &ratios {
        say(ratio["words"].as_str().unwrap_or_default());
    }
    if rows < JUDGED_ROWS_MIN {
        say("too few rows to judge by");
    }
    if let Some(path) = &arguments.json {
        let answer = json!({
            "bench": "rings",
            "brief": brief,
            "machine": machine,
            "rows": rows,
            "row_bytes": ROW_BYTES,
            "rounds": rounds,
            "window": arguments.window,
            "queue_depth": queue_depth(),
            "resident_when_cold": cold_share,
            "cores_elsewhere": elsewhere,
            "ways": contestants.iter().map(to_json).collect::<Vec<_>>(),
            "left_out": missing.iter().map(|(name, reason)| json!({"name": name, "reason": reason})).collect::<Vec<_>>(),
            "ratios": ratios,
        });
        write_json(path, &answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

const DIRECT: &str = "loaderd, direct";
const BUFFERED: &str = "loaderd, buffered";

/// All ways that this machine allows, and why not the others.
fn contestants(scratch: &Scratch) -> (Vec<Contestant>, Vec<(&'static str, String)>) {
    let path = &scratch.path;
    let own = |mode| Own::open(path, mode).map(|way| Box::new(way) as Box<dyn Way>);
    let tokio =
        |fixed, direct| Tokio::open(path, fixed, direct).map(|way| Box::new(way) as Box<dyn Way>);
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for (name, against, opened) in [
        (DIRECT, DIRECT, own(Mode::Direct)),
        ("tokio-uring, fixed, direct", DIRECT, tokio(true, true)),
        ("tokio-uring, owned, direct", DIRECT, tokio(false, true)),
        (BUFFERED, BUFFERED, own(Mode::Buffered)),
        ("tokio-uring, fixed, buffered", BUFFERED, tokio(true, false)),
        (
            "tokio-uring, owned, buffered",
            BUFFERED,
            tokio(false, false),
        ),
    ] {
        match opened {
            Ok(way) => found.push(Contestant {
                name,
                against,
                way,
                cold: Vec::new(),
                warm: Vec::new(),
            }),
            Err(error) => missing.push((name, format!("{error:#}"))),
        }
    }
    (found, missing)
}

/// Fails unless every way gives the bytes that were written, for one window.
fn compare(contestants: &mut [Contestant], scratch: &Scratch, window: u64) -> Result<()> {
    let mut extents = scratch.extents(u64::MAX, window);
    extents.truncate(window as usize);
    for contestant in contestants {
        let consumer = Rc::new(RefCell::new(Consumer {
            check: true,
            ..Consumer::default()
        }));
        contestant.way.read(&extents, &consumer)?;
        let Consumer { rows, wrong, .. } = *consumer.borrow();
        ensure!(
            rows == extents.len() as u64 && wrong == 0,
            "{} gave {rows} of {} rows, {wrong} of them with other bytes than were written",
            contestant.name,
            extents.len()
        );
    }
    Ok(())
}

/// tokio-uring's over ours, round by round: the median and the range.
fn ratios(contestants: &[Contestant]) -> Vec<Value> {
    let mut ratios = Vec::new();
    for it in contestants.iter().filter(|it| it.name != it.against) {
        let Some(ours) = contestants.iter().find(|ours| ours.name == it.against) else {
            continue;
        };
        for (state, its, own) in [
            ("cold", &it.cold, &ours.cold),
            ("warm", &it.warm, &ours.warm),
        ] {
            for (what, value) in [
                ("CPU a row", Sample::cpu_us_per_row as fn(&Sample) -> f64),
                ("rows/s", Sample::rows_per_s),
            ] {
                let each = its
                    .iter()
                    .zip(own)
                    .map(|(its, own)| value(its) / value(own));
                let each: Vec<f64> = each.collect();
                let least = each.iter().copied().fold(f64::INFINITY, f64::min);
                let most = each.iter().copied().fold(0.0, f64::max);
                let middle = median(each);
                ratios.push(json!({
                    "what": format!("{what}, {state}, {} / {}", it.name, it.against),
                    "median": middle,
                    "least": least,
                    "most": most,
                    "words": format!(
                        "{what}, {state}, {} / {}: {middle:.2} ({least:.2} to {most:.2})",
                        it.name, it.against
                    ),
                }));
            }
        }
    }
    ratios
}

fn show(contestants: &[Contestant]) {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header([
            "",
            "cold rows/s",
            "MB/s",
            "CPU µs/row",
            "warm rows/s",
            "MB/s",
            "CPU µs/row",
        ]);
    for it in contestants {
        let of = |samples: &[Sample], value: fn(&Sample) -> f64| median(samples.iter().map(value));
        table.add_row([
            it.name.to_owned(),
            format!("{:.0}", of(&it.cold, Sample::rows_per_s)),
            format!("{:.0}", of(&it.cold, Sample::mb_per_s)),
            format!("{:.1}", of(&it.cold, Sample::cpu_us_per_row)),
            format!("{:.0}", of(&it.warm, Sample::rows_per_s)),
            format!("{:.0}", of(&it.warm, Sample::mb_per_s)),
            format!("{:.1}", of(&it.warm, Sample::cpu_us_per_row)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    say(table);
    for it in contestants {
        say(format_args!("{}: {}", it.name, it.way.engine()));
    }
}

fn to_json(it: &Contestant) -> Value {
    let summary = |samples: &[Sample]| {
        json!({
            "rows_per_s": median(samples.iter().map(Sample::rows_per_s)),
            "mb_per_s": median(samples.iter().map(Sample::mb_per_s)),
            "cpu_us_per_row": median(samples.iter().map(Sample::cpu_us_per_row)),
            "rounds": samples,
        })
    };
    json!({
        "name": it.name,
        "engine": it.way.engine(),
        "cold": summary(&it.cold),
        "warm": summary(&it.warm),
    })
}
