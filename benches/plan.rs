//! A plan over many rows: what the first open costs, what later ones cost, and what order is.
//!
//! Enters: a number of rows. Leaves: the time of the descriptor scan per row, the time of later
//! opens, each in a process of its own as after a restart, the memory that they take, look-ups,
//! and the cost of the shuffled order. Never: extrapolates; every figure is about the rows that
//! it names.
//!
//! The dataset's rows are tiny and few: one fragment is written through ingest, and the manifest
//! then names its files again under new fragment numbers. To the scan, which reads fragment by
//! fragment, these are as many rows to find, to translate and to write into the page map; only
//! their descriptors come from the page cache and not from the disk.

use std::hint::black_box;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, Transaction};
use loaderd_benches::datasets::{IMAGE, LABEL};
use loaderd_benches::images::files_under;
use loaderd_benches::machine::{Machine, MemoryWatch, status_bytes};
use loaderd_benches::meter::{Meter, median};
use loaderd_benches::report::{say_machine, say_table, table};
use loaderd_benches::{cache, data_folder, say, write_json};
use loaderd_plan::{Order, Steps, StepsConfig};
use loaderd_snapshot::{
    IngestOptions, IngestRow, Payload, Protect, Snapshot, SnapshotRequest, VersionRef, ingest,
};
use serde_json::{Value, json};

/// Rows of the fragment that is written; ingest's own size.
const FRAGMENT_ROWS: u64 = 1 << 17;
/// Bytes of an image that is none: only its place is looked up.
const PAYLOAD_BYTES: usize = 16;
/// A dataset of this part of the rows is opened too, to see what memory grows by.
const SMALLER: u64 = 8;
/// Opens of a map that is there.
const LATER_OPENS: usize = 5;
/// Rows looked up, and positions put in order.
const LOOKUPS: u64 = 1_000_000;
/// Rows of the order that is timed: the number in the target.
const ORDER_ROWS: u64 = 100_000_000;
const BATCH_SIZE: u32 = 128;
/// A later open, in seconds, at most.
const LATER_OPEN_S_MAX: f64 = 1.0;
/// Heap of a later open and of look-ups, in bytes a row, at most: less than a bit would take.
const HEAP_BYTES_PER_ROW_MAX: f64 = 0.1;
/// Peak heap of the first open, in MB, at most: what the daemon may take beside slots and map.
const FIRST_OPEN_HEAP_MB_MAX: f64 = 300.0;
/// Fewer rows than this say nothing about many.
const JUDGED_ROWS_MIN: u64 = 10_000_000;

/// Opens of a snapshot of many rows, and the order over them.
#[derive(Parser)]
struct Arguments {
    /// Rows, rounded up to whole fragments of 131072 [default: 100000000, or 500000 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// Few rows: shows that the bench works, measures nothing
    #[arg(long)]
    brief: bool,
    /// Where the dataset and its page maps are kept, 30 bytes a row [default: data, beside the
    /// bench's sources]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only open this version of the dataset, and print what it took
    #[arg(long, hide = true, value_name = "VERSION")]
    open: Option<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = arguments.rows.unwrap_or(if arguments.brief {
        500_000
    } else {
        100_000_000
    });
    let fragments = rows.div_ceil(FRAGMENT_ROWS);
    let base = std::path::absolute(arguments.dir.clone().unwrap_or_else(data_folder))?;
    let folder = base.join(format!("plan-{fragments}"));
    if let Some(version) = arguments.open {
        say(open(&folder, version)?);
        return Ok(());
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let dataset = Made::ensure(&folder, fragments)?;
    let maps = folder.join("maps");
    if maps.exists() {
        std::fs::remove_dir_all(&maps).with_context(|| format!("removing {}", maps.display()))?;
    }
    eprintln!("first opens");
    let smaller = child(&arguments, dataset.smaller_version)?;
    let first = child(&arguments, dataset.version)?;
    eprintln!("later opens");
    let later: Vec<Value> = (0..LATER_OPENS)
        .map(|_| child(&arguments, dataset.version))
        .collect::<Result<_>>()?;
    cache::evict(&files_under(&maps)?, false)?;
    let uncached = child(&arguments, dataset.version)?;
    let order = order()?;
    let machine = Machine::here(&folder);
    let answer = json!({
        "bench": "plan",
        "brief": arguments.brief,
        "machine": machine,
        "first_open_smaller": smaller,
        "first_open": first,
        "later_opens": later,
        "later_open_map_not_in_page_cache": uncached,
        "order": order,
    });
    let targets = show(&machine, &answer);
    if let Some(path) = &arguments.json {
        let mut answer = answer;
        answer["targets"] = json!(targets);
        write_json(path, &answer)?;
    }
    Ok(())
}

/// The dataset, and its two versions that are opened.
struct Made {
    smaller_version: u64,
    version: u64,
}

impl Made {
    /// Finds the dataset in `folder`, or makes it.
    fn ensure(folder: &Path, fragments: u64) -> Result<Made> {
        let facts = folder.join("facts.json");
        let stored = || -> Option<Made> {
            let found: Value = serde_json::from_str(&std::fs::read_to_string(&facts).ok()?).ok()?;
            Some(Made {
                smaller_version: found["smaller_version"].as_u64()?,
                version: found["version"].as_u64()?,
            })
        };
        if let Some(made) = stored() {
            return Ok(made);
        }
        let path = dataset_path(folder);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("removing the unfinished {}", path.display()))?;
        }
        eprintln!(
            "making {} rows in {}",
            fragments * FRAGMENT_ROWS,
            path.display()
        );
        let uri = path
            .to_str()
            .context("the data folder's path is not UTF-8")?;
        write_fragment(uri)?;
        let made = repeat_fragment(uri, fragments)?;
        let versions = json!({"smaller_version": made.smaller_version, "version": made.version});
        write_json(&facts, &versions)?;
        Ok(made)
    }
}

fn dataset_path(folder: &Path) -> PathBuf {
    folder.join("rows.lance")
}

fn write_fragment(uri: &str) -> Result<()> {
    let class = "one".to_owned();
    let mut rows = (0..FRAGMENT_ROWS).map(|number| {
        let mut image = number.to_le_bytes().to_vec();
        image.resize(PAYLOAD_BYTES, 0);
        Ok(IngestRow {
            image,
            class: class.clone(),
        })
    });
    let options = IngestOptions {
        classes: vec![class.clone()],
        image_column: IMAGE.into(),
        label_column: LABEL.into(),
        rows_per_fragment: FRAGMENT_ROWS as usize,
    };
    ingest(uri, &mut rows, &options)?;
    Ok(())
}

/// Names the first fragment's files again until there are `fragments`, by way of a version that
/// has a part of them.
fn repeat_fragment(uri: &str, fragments: u64) -> Result<Made> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut dataset = Dataset::open(uri).await?;
        let mut template = dataset.fragments()[0].clone();
        ensure!(
            dataset.fragments().len() == 1,
            "ingest made more than one fragment"
        );
        template.id = 0;
        // Given out anew by the commit, as for any appended fragment.
        template.row_id_meta = None;
        template.created_at_version_meta = None;
        template.last_updated_at_version_meta = None;
        let mut versions = Vec::new();
        for wanted in [fragments.div_ceil(SMALLER), fragments] {
            let have = dataset.fragments().len() as u64;
            if wanted > have {
                let append = Operation::Append {
                    fragments: vec![template.clone(); (wanted - have) as usize],
                };
                let transaction = Transaction::new(dataset.version_id(), append, None);
                dataset = CommitBuilder::new(Arc::new(dataset))
                    .execute(transaction)
                    .await?;
            }
            versions.push(dataset.version_id());
        }
        Ok(Made {
            smaller_version: versions[0],
            version: versions[1],
        })
    })
}

/// Runs this bench again to open `version` in a new process.
fn child(arguments: &Arguments, version: u64) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--open", &version.to_string()]);
    if let Some(rows) = arguments.rows {
        command.args(["--rows", &rows.to_string()]);
    }
    if arguments.brief {
        command.arg("--brief");
    }
    if let Some(dir) = &arguments.dir {
        command.arg("--dir").arg(dir);
    }
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(
        output.status.success(),
        "opening version {version} failed: {}",
        output.status
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// In the new process: opens the snapshot, looks rows up, and says what that took.
fn open(folder: &Path, version: u64) -> Result<Value> {
    let maps = folder.join("maps");
    let path = dataset_path(folder);
    let request = SnapshotRequest {
        uri: path
            .to_str()
            .context("the data folder's path is not UTF-8")?
            .into(),
        version: VersionRef::Number(version),
        filter: None,
        bytes_columns: vec![IMAGE.into()],
        tiled_columns: Vec::new(),
        fixed_columns: vec![LABEL.into()],
        variable_columns: Vec::new(),
        protect: Protect::None,
        run: "bench-plan".into(),
        cache_dir: maps.clone(),
        cache_bytes_max: 1 << 40,
    };
    let watch = MemoryWatch::start();
    let meter = Meter::start();
    let snapshot = Snapshot::open(request)?;
    let opened = meter.stop(snapshot.rows(), 0);
    let heap_bytes = watch.stop();
    let rows = snapshot.rows();

    let order = Order::shuffled(rows, 0, 0);
    let indices: Vec<u64> = (0..LOOKUPS.min(rows)).map(|at| order.row_at(at)).collect();
    let watch = MemoryWatch::start();
    let first_ns = look_up(&snapshot, &indices)?;
    let again_ns = look_up(&snapshot, &indices)?;
    let lookup_heap_bytes = watch.stop();
    // Maps are sparse: what counts is what they take on the disk, in blocks of 512 bytes.
    let disk_bytes = |path: &PathBuf| Ok(path.metadata()?.blocks() * 512);
    let maps_bytes: u64 = files_under(&maps)?
        .iter()
        .map(disk_bytes)
        .sum::<Result<u64>>()?;
    Ok(json!({
        "rows": rows,
        "seconds": opened.seconds,
        "us_per_row": opened.seconds * 1e6 / rows as f64,
        "cpu_us_per_row": opened.cpu_us_per_row(),
        "cores_elsewhere": opened.cores_elsewhere,
        "heap_bytes_peak": heap_bytes,
        "lookup_heap_bytes_peak": lookup_heap_bytes,
        "resident_bytes_peak": status_bytes("VmHWM"),
        "maps_bytes": maps_bytes,
        "lookup_first_ns": first_ns,
        "lookup_again_ns": again_ns,
    }))
}

/// Looks up what a batch needs of each row: its place, its address, its label; ns a row.
fn look_up(snapshot: &Snapshot, indices: &[u64]) -> Result<f64> {
    let started = Instant::now();
    let mut extents = 0;
    for &index in indices {
        extents += usize::from(matches!(snapshot.payload(0, index), Payload::Extent(_)));
        black_box((snapshot.row_address(index), snapshot.fixed(0, index)));
    }
    let ns = started.elapsed().as_nanos() as f64 / indices.len() as f64;
    snapshot.check()?;
    ensure!(
        extents == indices.len(),
        "only {extents} of {} rows have an extent",
        indices.len()
    );
    Ok(ns)
}

/// What the order of an epoch costs, without any dataset.
fn order() -> Result<Value> {
    const MADE: u64 = 10_000;
    let meter = Instant::now();
    for epoch in 0..MADE {
        black_box(Order::shuffled(black_box(ORDER_ROWS), 0, epoch));
    }
    let make_ns = meter.elapsed().as_nanos() as f64 / MADE as f64;
    let order = Order::shuffled(ORDER_ROWS, 0, 0);
    let meter = Instant::now();
    let mut sum = 0;
    for position in 0..LOOKUPS {
        sum ^= order.row_at(black_box(position));
    }
    black_box(sum);
    let row_at_ns = meter.elapsed().as_nanos() as f64 / LOOKUPS as f64;
    for position in (0..ORDER_ROWS).step_by(1_000_003) {
        let row = order.row_at(position);
        ensure!(
            order.position_of(row) == position,
            "position {position} does not come back"
        );
    }
    let steps = Steps::new(StepsConfig {
        rows: ORDER_ROWS,
        batch_size: BATCH_SIZE,
        world_size: 8,
        drop_last: true,
    })?;
    let count = (LOOKUPS / u64::from(BATCH_SIZE)).min(steps.count());
    let meter = Instant::now();
    for step in 0..count {
        let share = steps.share(step * (steps.count() / count), 3);
        for position in share.positions {
            black_box(order.row_at(position));
        }
    }
    let batch_us = meter.elapsed().as_nanos() as f64 / 1e3 / count as f64;
    Ok(json!({
        "rows": ORDER_ROWS,
        "bytes": size_of::<Order>(),
        "make_ns": make_ns,
        "row_at_ns": row_at_ns,
        "steps": steps.count(),
        "batch_size": BATCH_SIZE,
        "batch_us": batch_us,
    }))
}

/// Prints the answer; returns the targets.
fn show(machine: &Machine, answer: &Value) -> Vec<Value> {
    say_machine(machine);
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or(f64::NAN);
    let mut table = table([
        "rows",
        "seconds",
        "µs/row",
        "CPU µs/row",
        "peak heap MiB",
        "look-up ns, first",
        "again",
    ]);
    let mut add = |name: &str, opens: &[&Value]| {
        let of = |field: &str| median(opens.iter().map(|open| number(open, field)));
        table.add_row([
            name.to_owned(),
            format!("{}", of("rows")),
            format!("{:.3}", of("seconds")),
            format!("{:.3}", of("us_per_row")),
            format!("{:.3}", of("cpu_us_per_row")),
            format!("{:.1}", of("heap_bytes_peak") / f64::from(1 << 20)),
            format!("{:.0}", of("lookup_first_ns")),
            format!("{:.0}", of("lookup_again_ns")),
        ]);
    };
    let (smaller, first) = (&answer["first_open_smaller"], &answer["first_open"]);
    let later: Vec<&Value> = answer["later_opens"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let uncached = &answer["later_open_map_not_in_page_cache"];
    add("first open, an eighth", &[smaller]);
    add("first open", &[first]);
    add("later open, median", &later);
    add("later open, map not in page cache", &[uncached]);
    say_table(table);
    let order = &answer["order"];
    say(format_args!(
        "order of {} rows: {} bytes, made in {:.0} ns, {:.0} ns a row; {} steps, {:.1} µs for a batch of {}",
        order["rows"],
        order["bytes"],
        number(order, "make_ns"),
        number(order, "row_at_ns"),
        order["steps"],
        number(order, "batch_us"),
        order["batch_size"],
    ));
    let rows = number(first, "rows");
    let slowest = later
        .iter()
        .chain([&uncached])
        .map(|open| number(open, "seconds"))
        .fold(0.0, f64::max);
    let heap = later
        .iter()
        .map(|open| number(open, "heap_bytes_peak") + number(open, "lookup_heap_bytes_peak"))
        .fold(0.0, f64::max);
    let judged = rows >= JUDGED_ROWS_MIN as f64;
    let targets = vec![
        target(
            "the slowest later open, s",
            slowest,
            LATER_OPEN_S_MAX,
            judged,
            rows,
        ),
        target(
            "heap of a later open with look-ups, bytes a row",
            heap / rows,
            HEAP_BYTES_PER_ROW_MAX,
            judged,
            rows,
        ),
        target(
            "peak heap of the first open, MB",
            number(first, "heap_bytes_peak") / 1e6,
            FIRST_OPEN_HEAP_MB_MAX,
            judged,
            rows,
        ),
    ];
    for target in &targets {
        say(target["words"].as_str().unwrap_or_default());
    }
    targets
}

fn target(what: &str, found: f64, bound: f64, judged: bool, rows: f64) -> Value {
    let verdict = match (judged, found <= bound) {
        (false, _) => "too few rows to judge",
        (true, true) => "met",
        (true, false) => "missed",
    };
    json!({
        "what": what,
        "found": found,
        "bound": bound,
        "met": judged.then_some(found <= bound),
        "words": format!("target: {what}, at {rows} rows: {found:.3}, at most {bound}: {verdict}"),
    })
}
