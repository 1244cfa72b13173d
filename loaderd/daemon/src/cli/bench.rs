//! `loaderd bench`: what this machine makes of a dataset, stage by stage.
//!
//! Three measurements: reading alone, decoding alone (from memory), and everything end
//! to end through a daemon of its own, with a consumer that holds each batch for
//! `--consume-ms`. Leaves: a table or JSON, and a verdict in words.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use loaderd_decode::{Decoder, Options, Pipeline};
use loaderd_plan::{Draws, Order};
use loaderd_read::{Config as ReadConfig, Reader};
use loaderd_wire::message::{OpenRequest, Protect, Version};
use serde::Serialize;
use serde_json::json;

use self::consumer::{Consumed, Consumer, CpuParts, Settings};
use super::say;
use super::serve::Tuning;
use crate::clock;
use crate::server::{Config, Server};
use crate::source::{self, Kind, Payload, Source, SourceRequest};

mod consumer;

/// Encoded images that the decode measurement keeps in memory, in bytes.
const SAMPLE_BYTES_MAX: usize = 256 << 20;
/// Rows of one window of slow reads.
const SLOW_WINDOW: usize = 256;

/// Arguments of `loaderd bench`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Dataset: a path, or `memory:rows=N[,images=DIR][,tensor=3x224x224:float32]`
    uri: String,
    /// Column to deliver [default: the first with images, else the first with numbers]
    #[arg(long)]
    column: Option<String>,
    /// Dataset version or tag [default: latest]
    #[arg(long)]
    version: Option<String>,
    /// SQL filter
    #[arg(long)]
    filter: Option<String>,
    /// Transforms as JSON [default: RandomResizedCrop(224), RandomHorizontalFlip, Normalize to float32]
    #[arg(long, value_name = "JSON")]
    transform: Option<String>,
    /// Rows a batch
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Slots
    #[arg(long, default_value_t = crate::session::SLOTS_DEFAULT)]
    slots: u32,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long the consumer holds each batch, in ms, standing in for a training step
    #[arg(long, default_value_t = 0.0)]
    consume_ms: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tuning: Tuning,
}

/// One measurement.
#[derive(Serialize)]
struct Stage {
    name: &'static str,
    rows: u64,
    rows_per_s: f64,
    mb_per_s: f64,
    cpu_us_per_row: f64,
}

#[derive(Serialize)]
struct Report {
    uri: String,
    column: String,
    version: u64,
    rows: u64,
    threads: usize,
    batch_size: u32,
    reading: Option<String>,
    stages: Vec<Stage>,
    /// End to end, CPU time of the whole process by part, in µs per row.
    end_to_end_cpu_us: CpuParts,
    /// Part of the time that the consumer waited for a batch.
    consumer_waited: f64,
    /// From publishing a batch to the consumer having it, in µs.
    handover_us_p50: f64,
    handover_us_p99: f64,
    verdict: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if !(arguments.seconds > 0.0 && arguments.consume_ms >= 0.0) {
        bail!("--seconds must be above 0 and --consume-ms at least 0");
    }
    let bench = Bench::open(arguments)?;
    let mut stages = Vec::new();
    let mut reading = None;
    if bench.is_image {
        let (stage, how) = bench.read()?;
        stages.push(stage);
        reading = how;
        stages.push(bench.decode()?);
    }
    let report = bench.end_to_end(stages, reading)?;
    if arguments.json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        show(&report);
    }
    Ok(())
}

struct Bench<'a> {
    arguments: &'a Arguments,
    config: Config,
    source: Box<dyn Source>,
    column: String,
    is_image: bool,
    transform: serde_json::Value,
    version: Option<Version>,
    _scratch: Scratch,
}

/// A folder of our own for socket and step log, gone afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Bench<'_> {
    fn open(arguments: &Arguments) -> Result<Bench<'_>> {
        let version = arguments.version.as_ref().map(|text| {
            text.parse()
                .map_or_else(|_| Version::Tag(text.clone()), Version::Number)
        });
        let fields = source::fields(&arguments.uri, version.as_ref())?;
        let field = match &arguments.column {
            Some(name) => fields
                .iter()
                .find(|field| field.name == *name)
                .with_context(|| format!("{} has no column {name:?}", arguments.uri))?,
            None => fields
                .iter()
                .find(|field| field.kind == Kind::Bytes)
                .or_else(|| {
                    fields
                        .iter()
                        .find(|field| matches!(field.kind, Kind::Fixed(..)))
                })
                .with_context(|| {
                    format!("{} has no column that can be delivered", arguments.uri)
                })?,
        };
        if matches!(field.kind, Kind::Ragged(_)) {
            bail!(
                "column {:?} holds text or lists: images and numbers can be measured",
                field.name
            );
        }
        let is_image = field.kind == Kind::Bytes;
        let transform = match &arguments.transform {
            Some(text) => serde_json::from_str(text).context("--transform is not JSON")?,
            None => default_transform(),
        };
        let only = |wanted: bool| {
            if wanted {
                vec![field.name.clone()]
            } else {
                vec![]
            }
        };
        let source = source::open(SourceRequest {
            uri: arguments.uri.clone(),
            version: version.clone(),
            filter: arguments.filter.clone(),
            bytes_columns: only(is_image),
            fixed_columns: only(!is_image),
            variable_columns: vec![],
            protect: Protect::None,
            run: "bench".into(),
        })?;
        let base = loaderd_wire::paths::socket_path()?;
        let scratch = base.with_file_name(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch)
            .with_context(|| format!("making {}", scratch.display()))?;
        let scratch = Scratch(scratch);
        let mut config = arguments.tuning.config(scratch.0.join("sock"))?;
        // A bench is no training run: its steps don't belong in the user's log.
        config.state_dir = scratch.0.clone();
        Ok(Bench {
            arguments,
            config,
            source,
            column: field.name.clone(),
            is_image,
            transform,
            version,
            _scratch: scratch,
        })
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.arguments.seconds)
    }

    /// Rows in random order, epoch after epoch.
    fn indices(&self) -> impl Iterator<Item = u64> + use<> {
        let rows = self.source.rows();
        (0..).flat_map(move |epoch| {
            let order = Order::shuffled(rows, 0, epoch);
            (0..rows).map(move |position| order.row_at(position))
        })
    }

    /// Reading alone, on one thread, with everything dropped at once.
    fn read(&self) -> Result<(Stage, Option<String>)> {
        let mut rows = 0u64;
        let mut bytes = 0u64;
        let mut how = None;
        let (started, cpu) = (Instant::now(), clock::process_cpu_ns());
        let mut indices = self.indices();
        let files = self.source.files().filter(|files| !files.is_empty());
        let slow = matches!(self.source.payload(0, 0), Payload::Slow | Payload::Null);
        if let (Some(files), false) = (files, slow) {
            let config = ReadConfig {
                mode: self.config.read_mode,
                ..ReadConfig::for_lengths(self.source.typical_length(), 32 << 20)
            };
            let mut reader = Reader::new(files.clone(), config)?;
            how = Some(reader.engine().to_string());
            let mut failed = None;
            let mut next = None;
            while started.elapsed() < self.time() && failed.is_none() {
                loop {
                    let extent = match next.take() {
                        Some(extent) => extent,
                        None => match self.source.payload(0, indices.next().expect("endless")) {
                            Payload::Extent(extent) => extent,
                            _ => continue,
                        },
                    };
                    if !reader.submit(0, extent) {
                        next = Some(extent);
                        break;
                    }
                }
                reader.complete(Duration::from_millis(100), &mut |_, result| match result {
                    Ok(buffer) => {
                        rows += 1;
                        bytes += buffer.len() as u64;
                    }
                    Err(error) => failed = Some(error),
                })?;
            }
            if let Some(error) = failed {
                return Err(error.into());
            }
        } else {
            how = how.or_else(|| slow.then(|| "reading with Lance's take".into()));
            while started.elapsed() < self.time() {
                let window: Vec<u64> = indices.by_ref().take(SLOW_WINDOW).collect();
                for image in self.bytes_of(&window)?.into_iter().flatten() {
                    rows += 1;
                    bytes += image.len() as u64;
                }
            }
        }
        let cpu_ns = clock::process_cpu_ns() - cpu;
        Ok((stage("read", rows, bytes, started.elapsed(), cpu_ns), how))
    }

    /// The encoded images of some rows.
    fn bytes_of(&self, indices: &[u64]) -> Result<Vec<Option<Arc<[u8]>>>> {
        let mut shared = Vec::with_capacity(indices.len());
        for &index in indices {
            match self.source.payload(0, index) {
                Payload::Shared(bytes) => shared.push(Some(bytes)),
                _ => {
                    let slow = self.source.read_slow(0, indices)?;
                    return Ok(slow.into_iter().map(|bytes| bytes.map(Arc::from)).collect());
                }
            }
        }
        Ok(shared)
    }

    /// Decoding alone, on all threads, from memory.
    fn decode(&self) -> Result<Stage> {
        let mut images: Vec<Arc<[u8]>> = Vec::new();
        let mut held = 0;
        let distinct = self.source.rows().min(2048) as usize;
        let mut indices = self.indices();
        while images.len() < distinct && held < SAMPLE_BYTES_MAX {
            let window: Vec<u64> = indices
                .by_ref()
                .take(64.min(distinct - images.len()))
                .collect();
            let found: Vec<_> = self.bytes_of(&window)?.into_iter().flatten().collect();
            if found.is_empty() {
                break;
            }
            held += found.iter().map(|image| image.len()).sum::<usize>();
            images.extend(found);
        }
        if images.is_empty() {
            bail!("column {:?} holds no image at all", self.column);
        }
        let pipeline = Pipeline::parse(&self.transform, Options::default())
            .with_context(|| "--transform".to_string())?;
        let (rows, bytes, cpu_ns) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let next = AtomicU64::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.config.decode_threads {
                scope.spawn(|| {
                    let mut decoder = Decoder::new(self.config.image_limits);
                    let mut out = vec![0; pipeline.output().bytes() as usize];
                    while started.elapsed() < self.time() {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let image = &images[number as usize % images.len()];
                        let mut draws = Draws::new(0, 0, number, 0);
                        // Images that can't be decoded cost their time and count as rows.
                        let _ = decoder.decode(&pipeline, image, &mut draws, &mut out);
                        rows.fetch_add(1, Ordering::Relaxed);
                        bytes.fetch_add(image.len() as u64, Ordering::Relaxed);
                    }
                    cpu_ns.fetch_add(clock::thread_cpu_ns(), Ordering::Relaxed);
                });
            }
        });
        Ok(stage(
            "decode",
            rows.into_inner(),
            bytes.into_inner(),
            started.elapsed(),
            cpu_ns.into_inner(),
        ))
    }

    /// Everything, through a daemon of its own and its real socket.
    fn end_to_end(self, mut stages: Vec<Stage>, reading: Option<String>) -> Result<Report> {
        let server = Server::bind(self.config.clone())?;
        let stop = Arc::new(AtomicBool::new(false));
        let serving = {
            let stop = stop.clone();
            std::thread::spawn(move || server.run(&stop))
        };
        let consumed = self.consume();
        stop.store(true, Ordering::Relaxed);
        serving
            .join()
            .unwrap_or_else(|_| bail!("the daemon's thread panicked"))?;
        let consumed = consumed?;
        stages.push(stage(
            "end to end",
            consumed.rows,
            consumed.bytes,
            consumed.time,
            consumed.cpu_ns,
        ));
        let mut delays = consumed.handover_ns;
        delays.sort_unstable();
        let quantile = |q: f64| {
            let at = ((delays.len() as f64 * q) as usize).min(delays.len().saturating_sub(1));
            delays.get(at).map_or(0.0, |&ns| ns as f64 / 1e3)
        };
        let waited = consumed.waited.as_secs_f64() / consumed.time.as_secs_f64();
        Ok(Report {
            uri: self.source.uri().into(),
            column: self.column.clone(),
            version: self.source.version(),
            rows: self.source.rows(),
            threads: self.config.decode_threads,
            batch_size: self.arguments.batch_size,
            reading,
            verdict: verdict(&stages, waited),
            stages,
            end_to_end_cpu_us: consumed.parts,
            consumer_waited: waited,
            handover_us_p50: quantile(0.5),
            handover_us_p99: quantile(0.99),
        })
    }

    fn consume(&self) -> Result<Consumed> {
        let mut transform = std::collections::BTreeMap::new();
        if self.is_image {
            transform.insert(self.column.clone(), self.transform.clone());
        }
        let request: OpenRequest = serde_json::from_value(json!({
            "uri": self.arguments.uri, "version": self.version, "filter": self.arguments.filter,
            "columns": [self.column], "transform": transform, "batch_size": self.arguments.batch_size,
            "shuffle": true, "rank": 0, "world_size": 1, "slots": self.arguments.slots,
            "protect": "none", "on_bad_sample": "zero",
        }))?;
        let settings = Settings {
            time: self.time(),
            hold: Duration::from_secs_f64(self.arguments.consume_ms / 1e3),
            warm_up: self.arguments.slots,
        };
        Consumer::open(&self.config.socket, request, settings)?.run()
    }
}

fn default_transform() -> serde_json::Value {
    json!([
        {"name": "RandomResizedCrop", "size": [224, 224], "scale": [0.08, 1.0],
         "ratio": [0.75, 4.0 / 3.0], "interpolation": "bilinear"},
        {"name": "RandomHorizontalFlip", "p": 0.5},
        {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
         "dtype": "float32"},
    ])
}

fn stage(name: &'static str, rows: u64, bytes: u64, time: Duration, cpu_ns: u64) -> Stage {
    let seconds = time.as_secs_f64();
    Stage {
        name,
        rows,
        rows_per_s: rows as f64 / seconds,
        mb_per_s: bytes as f64 / seconds / 1e6,
        cpu_us_per_row: cpu_ns as f64 / 1e3 / rows.max(1) as f64,
    }
}

/// Which stage limits, in words.
fn verdict(stages: &[Stage], waited: f64) -> String {
    let rate = |name: &str| {
        stages
            .iter()
            .find(|stage| stage.name == name)
            .map(|stage| stage.rows_per_s)
    };
    let waited_text = format!("the consumer waited {:.0} % of the time", waited * 100.0);
    if waited < 0.1 {
        return format!("consumer-bound: {waited_text}; loading keeps up");
    }
    match (rate("read"), rate("decode"), rate("end to end")) {
        (Some(read), Some(decode), Some(all)) if read < decode => format!(
            "read-bound: {waited_text}; reading alone gives {read:.0} rows/s, decoding alone {decode:.0}, together {all:.0}"
        ),
        (Some(read), Some(decode), Some(all)) => format!(
            "decode-bound: {waited_text}; decoding alone gives {decode:.0} images/s, reading alone {read:.0}, together {all:.0}"
        ),
        _ => format!("copy-bound: {waited_text}; nothing is decoded, rows are copied into slots"),
    }
}

fn show(report: &Report) {
    say(format_args!(
        "{} version {}, {} rows, column {:?}, batches of {}, {} decode threads",
        report.uri, report.version, report.rows, report.column, report.batch_size, report.threads
    ));
    if let Some(reading) = &report.reading {
        say(format_args!("reading: {reading}"));
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["stage", "rows/s", "MB/s", "CPU µs/row"]);
    for stage in &report.stages {
        table.add_row([
            stage.name.to_string(),
            format!("{:.0}", stage.rows_per_s),
            format!("{:.0}", stage.mb_per_s),
            format!("{:.1}", stage.cpu_us_per_row),
        ]);
    }
    say(table);
    let parts = &report.end_to_end_cpu_us;
    say(format_args!(
        "end to end, CPU µs/row: {:.1} plan and read, {:.1} decode, {:.1} log and publish",
        parts.read_and_plan, parts.decode, parts.log_and_publish
    ));
    say(format_args!(
        "hand-over from publish to consumer: p50 {:.0} µs, p99 {:.0} µs ({} a batch)",
        report.handover_us_p50,
        report.handover_us_p99,
        HumanBytes(
            report
                .stages
                .last()
                .map_or(0, |s| (s.mb_per_s * 1e6 / s.rows_per_s.max(1e-9)) as u64)
                * u64::from(report.batch_size)
        )
    ));
    say(&report.verdict);
}
