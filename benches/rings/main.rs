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
use std::rc::Rc;

use anyhow::{Result, ensure};
use clap::Parser;
use loaderd_measure::machine::Machine;
use loaderd_measure::meter::{Meter, Sample};
use loaderd_measure::options::Options;
use loaderd_measure::reader::OneFile;
use loaderd_measure::report::{
    LeftOut, Rounds, Spread, say_busy, say_machine, say_table, say_warm, table,
};
use loaderd_measure::{cache, say};
use loaderd_read::{Extent, Mode};
use serde_json::{Value, json};

use crate::scratch::{ROW_BYTES, Scratch};
use crate::ways::{Consumer, Tokio, Way, queue_depth};

/// Fewer rows than this take too little time to judge by.
const JUDGED_ROWS_MIN: u64 = 5_000;

/// Shuffled reads of 110 KB: tokio-uring against our reader on the bare io-uring crate.
#[derive(Parser)]
struct Arguments {
    /// Rows of the file, 110 KB each [default: 30000, or 500 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    #[command(flatten)]
    options: Options,
    /// Empty the whole page cache before cold reads, not just this file; needs root
    #[arg(long)]
    drop_caches: bool,
}

/// A way, and what it took in each round.
struct Contestant {
    name: &'static str,
    /// The name of ours that it is compared with.
    against: &'static str,
    way: Box<dyn Way>,
    rounds: Rounds,
}

impl Contestant {
    fn measure(&mut self, extents: &[Extent]) -> Result<Sample> {
        let consumer = Rc::new(RefCell::new(Consumer::default()));
        let meter = Meter::start();
        self.way.read(extents, &consumer)?;
        let consumer = consumer.borrow();
        let sample = meter.stop(consumer.rows, consumer.bytes);
        sample.of_all(self.name, extents.len() as u64)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = &arguments.options;
    let (rounds, window) = (options.rounds(5), options.window);
    let rows = options.or(arguments.rows, 30_000, 500);
    let folder = options.folder()?;
    let scratch = Scratch::ensure(&folder, rows)?;
    let files = [scratch.path.clone()];
    // Once through, so that caches below this machine's don't favour what was read last.
    cache::load(&files)?;

    let (mut contestants, missing) = contestants(&scratch);
    ensure!(!contestants.is_empty(), "no way of reading works here");
    compare(&mut contestants, &scratch, window)?;

    let mut cold_share: f64 = 0.0;
    let count = contestants.len();
    for round in 0..rounds {
        let extents = scratch.extents(round, window);
        for turn in 0..count {
            let contestant = &mut contestants[(turn + round as usize) % count];
            eprintln!("round {} of {rounds}: {}", round + 1, contestant.name);
            cold_share = cold_share.max(cache::evict(&files, arguments.drop_caches)?);
            let cold = contestant.measure(&extents)?;
            cache::load(&files)?;
            let warm = contestant.measure(&extents)?;
            contestant.rounds.cold.push(cold);
            contestant.rounds.warm.push(warm);
        }
    }

    let machine = Machine::here(&folder);
    say_machine(&machine);
    say(format_args!(
        "{rows} rows of {ROW_BYTES} bytes, {:.0} MB; shuffled windows of {}, {} reads in flight, \
         one thread; medians of {rounds} rounds; CPU: user + system",
        rows as f64 * f64::from(ROW_BYTES) / 1e6,
        window,
        queue_depth(),
    ));
    show(&contestants);
    missing.say();
    say_warm(cold_share);
    let each = contestants.iter().map(|it| &it.rounds);
    let samples = each.flat_map(|it| it.cold.iter().chain(&it.warm));
    let elsewhere = say_busy(samples, "ratios");
    let ratios = ratios(&contestants);
    for ratio in &ratios {
        say(ratio["words"].as_str().unwrap_or_default());
    }
    if rows < JUDGED_ROWS_MIN {
        say("too few rows to judge by");
    }
    let to_json = |it: &Contestant| it.rounds.to_json(it.name, Some(&it.way.engine()));
    options.write(&json!({
        "bench": "rings",
        "brief": options.brief,
        "machine": machine,
        "rows": rows,
        "row_bytes": ROW_BYTES,
        "rounds": rounds,
        "window": window,
        "queue_depth": queue_depth(),
        "resident_when_cold": cold_share,
        "cores_elsewhere": elsewhere,
        "ways": contestants.iter().map(to_json).collect::<Vec<_>>(),
        "left_out": missing.to_json(),
        "ratios": ratios,
    }))
}

const DIRECT: &str = "loaderd, direct";
const BUFFERED: &str = "loaderd, buffered";

/// All ways that this machine allows, and why not the others.
fn contestants(scratch: &Scratch) -> (Vec<Contestant>, LeftOut) {
    let path = &scratch.path;
    let own = |mode| OneFile::open(path, mode, ROW_BYTES).map(|way| Box::new(way) as Box<dyn Way>);
    let tokio =
        |fixed, direct| Tokio::open(path, fixed, direct).map(|way| Box::new(way) as Box<dyn Way>);
    let mut found = Vec::new();
    let mut missing = LeftOut::default();
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
                rounds: Rounds::default(),
            }),
            Err(error) => missing.add(name, &error),
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
            ("cold", &it.rounds.cold, &ours.rounds.cold),
            ("warm", &it.rounds.warm, &ours.rounds.warm),
        ] {
            for (what, value) in [
                ("CPU a row", Sample::cpu_us_per_row as fn(&Sample) -> f64),
                ("rows/s", Sample::rows_per_s),
            ] {
                let ratio = Spread::of_ratios(its, own, value);
                let what = format!("{what}, {state}, {} / {}", it.name, it.against);
                ratios.push(json!({
                    "what": what,
                    "median": ratio.median,
                    "least": ratio.least,
                    "most": ratio.most,
                    "words": format!("{what}: {ratio}"),
                }));
            }
        }
    }
    ratios
}

fn show(contestants: &[Contestant]) {
    let mut table = table(Rounds::HEADER.into_iter().flatten());
    for it in contestants {
        let cells = it.rounds.cells().into_iter().flatten();
        table.add_row(std::iter::once(it.name.to_owned()).chain(cells));
    }
    say_table(table);
    for it in contestants {
        say(format_args!("{}: {}", it.name, it.way.engine()));
    }
}
