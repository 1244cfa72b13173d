//! Read, cold and warm: Lance's ways and ours to the same shuffled images.
//!
//! Enters: pictures or none, a number of rows. Leaves: rows/s, MB/s and CPU time a row for every
//! way, ratios within each round, and whether the two targets are met. Never: compares ways that
//! it has not seen give the same bytes, or calls files cold that are in the page cache.
//!
//! Each round takes a new order of all rows, cut into windows, and every way reads it once cold
//! and once warm. A round starts with another way than the one before, so that none is always
//! first. Ratios are taken within a round, and their median counts.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use loaderd_benches::datasets::{Datasets, IMAGE, Layout};
use loaderd_benches::images::Images;
use loaderd_benches::machine::Machine;
use loaderd_benches::meter::{Meter, Sample, median};
use loaderd_benches::options::Options;
use loaderd_benches::paths::{LanceCall, LancePath, OwnPath, Tally};
use loaderd_benches::reader::shuffled;
use loaderd_benches::report::{
    LeftOut, Rounds, Spread, say_busy, say_machine, say_table, say_warm, table,
};
use loaderd_benches::{cache, say};
use loaderd_read::Mode;
use loaderd_snapshot::{Protect, Snapshot, SnapshotRequest, VersionRef};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The way that targets are about, and the one that it is compared with.
const OURS: &str = "loaderd, direct";
const TAKE: &str = "lance take, LargeBinary";
/// CPU time of a row, ours over Lance's `take`, at most.
const CPU_RATIO_MAX: f64 = 0.1;
/// Rows/s, ours over the fastest way of Lance's, at least.
const RATE_RATIO_MIN: f64 = 0.95;
/// Fewer rows than this take too little time to judge by.
const JUDGED_ROWS_MIN: u64 = 5_000;

/// Shuffled reads of 110 KB JPEGs, Lance's ways and ours.
#[derive(Parser)]
struct Arguments {
    /// Rows of each dataset, 330 KB in all of them [default: 20000, or 500 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    #[command(flatten)]
    options: Options,
    /// JPEGs to make rows of [default: drawn pictures]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Windows that Lance reads at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    lance_windows: u64,
    /// Empty the whole page cache before cold reads, not just these files; needs root
    #[arg(long)]
    drop_caches: bool,
}

/// A way, and what it took in each round.
struct Way {
    name: &'static str,
    layout: Layout,
    kind: Kind,
    /// What it stands on, where that is known.
    engine: Option<String>,
    rounds: Rounds,
}

enum Kind {
    Lance(LancePath),
    Own(Box<OwnPath>),
}

impl Way {
    fn is_lance(&self) -> bool {
        matches!(self.kind, Kind::Lance(_))
    }

    fn run(&mut self, runtime: &Runtime, windows: &[Vec<u64>]) -> Result<Tally> {
        match &mut self.kind {
            Kind::Lance(path) => path.run(runtime, windows),
            Kind::Own(path) => path.run(windows),
        }
    }

    fn fetch(&mut self, runtime: &Runtime, window: &[u64]) -> Result<Vec<Vec<u8>>> {
        match &mut self.kind {
            Kind::Lance(path) => path.fetch(runtime, window),
            Kind::Own(path) => path.fetch(window),
        }
    }

    fn measure(&mut self, runtime: &Runtime, windows: &[Vec<u64>]) -> Result<Sample> {
        let meter = Meter::start();
        let tally = self.run(runtime, windows)?;
        let expected = windows.iter().map(Vec::len).sum::<usize>() as u64;
        let sample = meter.stop(tally.rows, tally.bytes);
        sample.of_all(self.name, expected)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = &arguments.options;
    let (rounds, window) = (options.rounds(3), options.window);
    let rows = options.or(arguments.rows, 20_000, 500);
    let folder = options.folder()?;

    let images = Arc::new(match &arguments.images {
        Some(folder) => Images::from_folder(folder)?,
        None => Images::drawn()?,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let datasets = Datasets::ensure(&runtime, &folder, &images, rows)?;
    // Once through everything, so that caches below this machine's (a disk's, a hypervisor's)
    // don't favour what was read last; then out of this machine's: a reader's choice between
    // O_DIRECT and the page cache rests on what is resident.
    for layout in Layout::ALL {
        let files = datasets.files(layout)?;
        cache::load(&files)?;
        cache::evict(&files, arguments.drop_caches)?;
    }
    let snapshot = open_snapshot(&datasets, &folder)?;
    let (mut ways, missing) = ways(&runtime, &datasets, &snapshot, &arguments);
    compare(&runtime, &mut ways, &images, rows, window)?;

    let mut cold_share: f64 = 0.0;
    for round in 0..rounds {
        let windows = windows(rows, round, window);
        let count = ways.len();
        for turn in 0..count {
            let way = &mut ways[(turn + round as usize) % count];
            eprintln!("round {} of {rounds}: {}", round + 1, way.name);
            let files = datasets.files(way.layout)?;
            cold_share = cold_share.max(cache::evict(&files, arguments.drop_caches)?);
            let cold = way.measure(&runtime, &windows)?;
            cache::load(&files)?;
            let warm = way.measure(&runtime, &windows)?;
            way.rounds.cold.push(cold);
            way.rounds.warm.push(warm);
        }
    }

    let machine = Machine::here(&folder);
    let targets = targets(&ways, rows);
    show(&machine, &datasets, &images, &ways, &arguments)?;
    missing.say();
    say_warm(cold_share);
    let elsewhere = say_busy(ways.iter().flat_map(|way| &way.rounds.cold), "ratios");
    for target in &targets {
        say(target["words"].as_str().unwrap_or_default());
    }
    let disk_bytes = |layout| datasets.disk_bytes(layout);
    let to_json = |way: &Way| way.rounds.to_json(way.name, way.engine.as_deref());
    options.write(&json!({
        "bench": "read",
        "brief": options.brief,
        "machine": machine,
        "rows": rows,
        "bytes": datasets.bytes(),
        "images": images.description(),
        "disk_bytes": {
            "plain": disk_bytes(Layout::Plain)?,
            "plain_uncompressed": disk_bytes(Layout::PlainUncompressed)?,
            "packed": disk_bytes(Layout::Packed)?,
        },
        "rounds": rounds,
        "window": window,
        "lance_windows": arguments.lance_windows,
        "resident_when_cold": cold_share,
        "cores_elsewhere": elsewhere,
        "paths": ways.iter().map(to_json).collect::<Vec<_>>(),
        "left_out": missing.to_json(),
        "targets": targets,
    }))
}

fn open_snapshot(datasets: &Datasets, folder: &std::path::Path) -> Result<Arc<Snapshot>> {
    let path = datasets.path(Layout::Packed);
    let snapshot = Snapshot::open(SnapshotRequest {
        uri: path
            .to_str()
            .context("the data folder's path is not UTF-8")?
            .into(),
        version: VersionRef::Latest,
        filter: None,
        bytes_columns: vec![IMAGE.into()],
        tiled_columns: Vec::new(),
        fixed_columns: Vec::new(),
        variable_columns: Vec::new(),
        protect: Protect::None,
        run: "bench-read".into(),
        cache_dir: folder.join("maps"),
        cache_bytes_max: 1 << 30,
    })?;
    ensure!(
        snapshot.rows() == datasets.rows(),
        "{} has {} rows, expected {}: remove it",
        snapshot.uri(),
        snapshot.rows(),
        datasets.rows()
    );
    Ok(Arc::new(snapshot))
}

/// All ways that this machine allows, and why not the others.
fn ways(
    runtime: &Runtime,
    datasets: &Datasets,
    snapshot: &Arc<Snapshot>,
    arguments: &Arguments,
) -> (Vec<Way>, LeftOut) {
    use LanceCall::{ReadBlobs, Take, TakeBlobs};
    let lance = [
        (TAKE, Layout::Plain, "file", Take),
        (
            "lance take, LargeBinary, uring",
            Layout::Plain,
            "file+uring",
            Take,
        ),
        (
            "lance take, LargeBinary uncompressed",
            Layout::PlainUncompressed,
            "file",
            Take,
        ),
        ("lance read_blobs", Layout::Packed, "file", ReadBlobs),
        (
            "lance read_blobs, uring",
            Layout::Packed,
            "file+uring",
            ReadBlobs,
        ),
        ("lance take_blobs", Layout::Packed, "file", TakeBlobs),
        (
            "lance take_blobs, uring",
            Layout::Packed,
            "file+uring",
            TakeBlobs,
        ),
    ];
    let own = [
        (OURS, Mode::Direct),
        ("loaderd, buffered", Mode::Buffered),
        ("loaderd, pread", Mode::Pread),
    ];
    let at_once = arguments.lance_windows as usize;
    let mut found = Vec::new();
    let mut missing = LeftOut::default();
    let mut add = |name, layout, opened: Result<(Kind, Option<String>)>| match opened {
        Ok((kind, engine)) => found.push(Way {
            name,
            layout,
            kind,
            engine,
            rounds: Rounds::default(),
        }),
        Err(error) => missing.add(name, &error),
    };
    for (name, layout, scheme, call) in lance {
        let folder = datasets.path(layout);
        // One window besides opening: Lance finds out on the first read whether it has a ring.
        let opened = LancePath::open(runtime, &folder, scheme, call, at_once).and_then(|path| {
            path.fetch(runtime, &[0])?;
            Ok((Kind::Lance(path), None))
        });
        add(name, layout, opened);
    }
    for (name, mode) in own {
        let opened = OwnPath::open(snapshot.clone(), mode).map(|path| {
            let engine = path.engine();
            (Kind::Own(Box::new(path)), Some(engine))
        });
        add(name, Layout::Packed, opened);
    }
    (found, missing)
}

/// Fails unless every way gives the rows that were written, byte for byte, for one window.
fn compare(
    runtime: &Runtime,
    ways: &mut [Way],
    images: &Images,
    rows: u64,
    window: u64,
) -> Result<()> {
    let window = &windows(rows, u64::MAX, window)[0];
    for way in ways {
        let found = way.fetch(runtime, window)?;
        for (&row, bytes) in window.iter().zip(&found) {
            ensure!(
                *bytes == images.row(row),
                "{} gives other bytes for row {row} than were written",
                way.name
            );
        }
    }
    Ok(())
}

/// All rows in a random order, in windows, each sorted.
fn windows(rows: u64, epoch: u64, window: u64) -> Vec<Vec<u64>> {
    let rows = shuffled(rows, epoch, window);
    rows.chunks(window as usize).map(<[u64]>::to_vec).collect()
}

/// The targets, found and in words; none where a way that they are about is missing.
fn targets(ways: &[Way], rows: u64) -> Vec<Value> {
    let named = |name| ways.iter().find(|way| way.name == name);
    let Some(ours) = named(OURS) else {
        return Vec::new();
    };
    let rounds = 0..ours.rounds.cold.len();
    let mut targets = Vec::new();
    let plain = |way: &&Way| way.layout != Layout::Packed;
    let takes: [(&str, Vec<&Way>); 2] = [
        (TAKE, named(TAKE).into_iter().collect()),
        (
            "the round's cheapest lance take",
            ways.iter().filter(plain).collect(),
        ),
    ];
    for (name, takes) in takes.iter().filter(|(_, takes)| !takes.is_empty()) {
        let ratio = median(rounds.clone().map(|round| {
            let cost = |way: &&Way| way.rounds.cold[round].cpu_us_per_row();
            let cheapest = takes.iter().map(cost).fold(f64::INFINITY, f64::min);
            ours.rounds.cold[round].cpu_us_per_row() / cheapest
        }));
        let what = format!("CPU per row, cold, {OURS} / {name}");
        targets.push(target(&what, ratio, "at most", CPU_RATIO_MAX, rows));
    }
    if ways.iter().any(Way::is_lance) {
        let ratio = median(rounds.map(|round| {
            let lance = ways.iter().filter(|way| way.is_lance());
            let fastest = lance
                .map(|way| way.rounds.cold[round].rows_per_s())
                .fold(0.0, f64::max);
            ours.rounds.cold[round].rows_per_s() / fastest
        }));
        let what = format!("rows/s, cold, {OURS} / the round's fastest of lance's");
        targets.push(target(&what, ratio, "at least", RATE_RATIO_MIN, rows));
    }
    targets
}

fn target(what: &str, found: f64, relation: &str, bound: f64, rows: u64) -> Value {
    let met = match relation {
        "at most" => found <= bound,
        _ => found >= bound,
    };
    let judged = rows >= JUDGED_ROWS_MIN;
    let verdict = match (judged, met) {
        (false, _) => "too few rows to judge",
        (true, true) => "met",
        (true, false) => "missed",
    };
    json!({
        "what": what,
        "found": found,
        "relation": relation,
        "bound": bound,
        "met": judged.then_some(met),
        "words": format!("target: {what}: {found:.3}, {relation} {bound}: {verdict}"),
    })
}

fn show(
    machine: &Machine,
    datasets: &Datasets,
    images: &Images,
    ways: &[Way],
    arguments: &Arguments,
) -> Result<()> {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    say_machine(machine);
    say(format_args!(
        "{} rows of {:.1} KB ({}), {:.0} MB; on disk {:.0} MB as LargeBinary, {:.0} MB uncompressed, {:.0} MB packed",
        datasets.rows(),
        datasets.bytes() as f64 / 1e3 / datasets.rows() as f64,
        images.description(),
        mb(datasets.bytes()),
        mb(datasets.disk_bytes(Layout::Plain)?),
        mb(datasets.disk_bytes(Layout::PlainUncompressed)?),
        mb(datasets.disk_bytes(Layout::Packed)?),
    ));
    say(format_args!(
        "shuffled windows of {}, {} at a time for lance; medians of {} rounds; CPU: all threads, user + system",
        arguments.options.window,
        arguments.lance_windows,
        ways.first().map_or(0, |way| way.rounds.cold.len()),
    ));
    let [cold, warm] = Rounds::HEADER;
    let mut table = table(cold.into_iter().chain(["of take's"]).chain(warm));
    let take = ways.iter().find(|way| way.name == TAKE);
    for way in ways {
        let cpu_ratio = take.map_or("–".into(), |take| {
            let cpu = Sample::cpu_us_per_row;
            let ratio = Spread::of_ratios(&way.rounds.cold, &take.rounds.cold, cpu);
            format!("{:.3}", ratio.median)
        });
        let [cold, warm] = way.rounds.cells();
        let cells = cold.into_iter().chain([cpu_ratio]).chain(warm);
        table.add_row(std::iter::once(way.name.to_owned()).chain(cells));
    }
    say_table(table);
    for way in ways {
        if let Some(engine) = &way.engine {
            say(format_args!("{}: {engine}", way.name));
        }
    }
    Ok(())
}
