//! `loaderd bench`: what this machine makes of a dataset, stage by stage.
//!
//! Measures reading alone, decoding alone (from memory), and everything end to end
//! through a daemon of its own, with a consumer that holds each batch for
//! `--consume-ms`. Leaves: a table or JSON, a picture where one is asked for, a verdict
//! and advice in words. It leaves no trace in the user's step log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use loaderd_plan::Order;
use loaderd_wire::message::{OpenRequest, Protect, Version};
use serde_json::json;
use signal_hook::iterator::Signals;

use self::consumer::{Consumed, Consumer, Settings};
use self::report::{Report, Spread, Stage, Sweep, Trial};
use super::say;
use super::serve::{self, Tuning};
use crate::engine::Timings;
use crate::server::{Config, Server};
use crate::source::{self, Kind, Source, SourceRequest};

mod advice;
mod cache;
mod consumer;
mod measure;
mod plot;
mod report;

/// Slots that a sweep tries.
const SLOTS_SWEPT: [u32; 5] = [2, 3, 4, 6, 8];

/// Arguments of `loaderd bench`.
#[derive(clap::Args)]
#[command(after_long_help = FORMAT)]
pub(super) struct Arguments {
    /// Dataset: a path, or `memory:rows=N[,images=DIR][,tensor=3x224x224:float32]`
    uri: String,
    /// Column to deliver [default: the first with bytes, else the first with numbers, else the
    /// first with lists or text]
    #[arg(long)]
    column: Option<String>,
    /// Dataset version or tag [default: latest]
    #[arg(long)]
    version: Option<String>,
    /// SQL filter
    #[arg(long)]
    filter: Option<String>,
    /// Transforms as JSON; `null` delivers bytes unchanged [default for bytes:
    /// RandomResizedCrop(224), RandomHorizontalFlip, Normalize to float32]
    #[arg(long, value_name = "JSON")]
    transform: Option<String>,
    /// Rows per batch
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Batches that may be prefetched or in use at once
    #[arg(long, default_value_t = crate::session::SLOTS_DEFAULT)]
    slots: u32,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long the consumer holds each batch, in ms, to simulate a training step
    #[arg(long, default_value_t = 0.0)]
    consume_ms: f64,
    /// Evict the data files from the page cache and measure that first, every row of an epoch
    /// once, or as many as --seconds allow; then load them into it, and measure the rest warm
    #[arg(long)]
    cold: bool,
    /// Also measure with 1, 2, 4, … decode threads, and with 2 to 8 slots
    #[arg(long)]
    sweep: bool,
    /// Plot all results into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tuning: Tuning,
}

const FORMAT: &str = "\
What is measured:
  read        extents in random order, on one thread, discarded at once
  decode      images from memory, on all decode threads
  end to end  batches through a daemon and its socket to a consumer
and the latency of each part, with p50, p99 and p99.9; the first with nothing else
running, the others during the end-to-end measurement:
  read alone  an extent, from request to completion, many in flight
  read        the same end to end, including time spent waiting for decode threads
  header, decode, resize, augment, finish
              an image, on its decode thread; finish is counted in resize if no
              augmentation comes between
  gpu         an image decoded on a GPU, from its submission until its pixels are in the
              slot, waiting included; such images are not in the four above
  hand-over   a batch, from being published until the consumer has it
  gap         from one batch to the next at the consumer, including its own step
A quantile is left out if there are too few measurements: p99.9 takes a thousand.

--json prints all of it, and of each part a histogram: bins_from_us are the lower ends
of its bins, bins_count how many fell into each.
Other work on the machine affects every figure: measure on an idle one.";

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let is_time = |seconds| Duration::try_from_secs_f64(seconds).is_ok();
    if !(arguments.seconds > 0.0 && is_time(arguments.seconds) && is_time(arguments.consume_ms)) {
        bail!(
            "--seconds must be above 0 and --consume-ms at least 0, and neither can last for ever"
        );
    }
    let bench = Bench::open(arguments)?;
    arguments.plot.as_deref().map_or(Ok(()), try_plot)?;
    let report = bench.measure()?;
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::draw(&report))
            .with_context(|| format!("--plot {}", path.display()))?;
    }
    if arguments.json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        report.show();
    }
    Ok(())
}

/// Whether a plot can go there: told before minutes of measuring. What lies there stays as it is.
fn try_plot(path: &Path) -> Result<()> {
    let is_new = path.symlink_metadata().is_err();
    let opened = File::options().append(true).create(true).open(path);
    opened.with_context(|| format!("--plot {}", path.display()))?;
    if is_new {
        std::fs::remove_file(path).with_context(|| format!("--plot {}", path.display()))?;
    }
    Ok(())
}

struct Bench<'a> {
    arguments: &'a Arguments,
    config: Config,
    source: Box<dyn Source>,
    column: String,
    /// Encoded images, or any other bytes: what the stages alone can be measured of.
    is_bytes: bool,
    /// None where nothing is decoded.
    transform: Option<serde_json::Value>,
    version: Option<Version>,
    /// One step a measurement; hidden where nobody looks.
    progress: ProgressBar,
    _scratch: Scratch,
}

/// A folder of our own for socket and step log, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes it. From now on it also goes with whoever ends this process by a signal.
    fn new(path: PathBuf) -> Result<Scratch> {
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let scratch = Scratch(path.clone());
        let mut signals = serve::ENDING.to_vec();
        signals.retain(|signal| !serve::is_ignored(*signal));
        let mut signals = Signals::new(signals).context("installing signal handlers")?;
        std::thread::spawn(move || {
            for signal in signals.forever() {
                let _ = std::fs::remove_dir_all(&path);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
        Ok(scratch)
    }
}

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
                .with_context(|| {
                    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                    loaderd_names::no_column(&arguments.uri, name, &names, &[])
                })?,
            None => fields
                .iter()
                .find(|field| field.kind == Kind::Bytes)
                .or_else(|| {
                    fields
                        .iter()
                        .find(|field| matches!(field.kind, Kind::Fixed(..)))
                })
                .or_else(|| {
                    fields
                        .iter()
                        .find(|field| matches!(field.kind, Kind::Ragged(_)))
                })
                .with_context(|| {
                    format!("{} has no column that can be delivered", arguments.uri)
                })?,
        };
        let is_bytes = field.kind == Kind::Bytes;
        let transform = match &arguments.transform {
            Some(text) => serde_json::from_str(text).context("--transform is not JSON")?,
            None => is_bytes.then(default_transform),
        };
        let only = |wanted: bool| match wanted {
            true => vec![field.name.clone()],
            false => vec![],
        };
        let source = source::open(SourceRequest {
            uri: arguments.uri.clone(),
            version: version.clone(),
            filter: arguments.filter.clone(),
            bytes_columns: only(is_bytes),
            tiled_columns: only(is_bytes),
            fixed_columns: only(matches!(field.kind, Kind::Fixed(..) | Kind::Other(_))),
            variable_columns: only(matches!(field.kind, Kind::Ragged(_))),
            protect: Protect::None,
            run: "bench".into(),
        })?;
        let base = loaderd_wire::paths::socket_path()?;
        let scratch = Scratch::new(base.with_file_name(format!("bench-{}", std::process::id())))?;
        arguments.tuning.say_doubts();
        let mut config = arguments.tuning.config(scratch.0.join("sock"))?;
        // A bench is no training run: its steps don't belong in the user's log.
        config.state_dir = scratch.0.clone();
        let progress = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("measuring {msg}").expect("a fixed template"));
        Ok(Bench {
            arguments,
            config,
            source,
            column: field.name.clone(),
            is_bytes,
            transform,
            version,
            progress,
            _scratch: scratch,
        })
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.arguments.seconds)
    }

    fn say_next(&self, what: impl Into<String>) {
        self.progress.set_message(what.into());
        self.progress.tick();
    }

    /// Rows in random order, epoch after epoch.
    fn indices(&self) -> impl Iterator<Item = u64> + use<> {
        let rows = self.source.rows();
        (0..).flat_map(move |epoch| {
            let order = Order::shuffled(rows, 0, epoch);
            (0..rows).map(move |position| order.row_at(position))
        })
    }

    fn measure(self) -> Result<Report> {
        let (threads, slots) = (self.config.decode_threads, self.arguments.slots);
        let mut stages = Vec::new();
        let mut spreads = Vec::new();
        let mut reading = None;
        let mut notes = Vec::new();
        if self.arguments.cold {
            self.cold(&mut stages, &mut spreads, &mut notes)?;
        }
        if self.is_bytes {
            self.say_next("reading");
            let alone = self.read(self.fresh_files()?, false)?;
            stages.push(alone.stage);
            spreads.push(Spread::of("read alone", &alone.waits));
            reading = alone.how;
        }
        if let Some(transform) = self.decoded_alone() {
            self.say_next("decoding");
            stages.push(self.decode(transform, threads)?);
        }
        self.say_next("end to end");
        let timings = Arc::new(Timings::default());
        let consumed = self.deliver(threads, slots, false, Some(timings.clone()))?;
        stages.push(end_to_end("end to end", &consumed));
        if consumed.bad_rows > 0 {
            notes.push(format!(
                "bad images: {} of {} rows end to end had one that can't be decoded, and count as rows all the same",
                consumed.bad_rows, consumed.rows
            ));
        }
        let sweep = match self.arguments.sweep {
            true => Some(self.sweep()?),
            false => None,
        };
        self.progress.finish_and_clear();
        let parts = [
            ("read", &timings.read),
            ("header", &timings.header),
            ("decode", &timings.decode),
            ("resize", &timings.resize),
            ("augment", &timings.augment),
            ("finish", &timings.finish),
            ("gpu", &timings.gpu),
            ("hand-over", &consumed.handover),
            ("gap", &consumed.gaps),
        ];
        spreads.extend(parts.map(|(name, histogram)| Spread::of(name, histogram)));
        spreads.retain(|spread| spread.count > 0);
        let handover = |q| consumed.handover.quantile(q).map(|ns| ns as f64 / 1e3);
        let longest_us = consumed.handover.max() as f64 / 1e3;
        let mut report = Report {
            uri: self.source.uri().into(),
            column: self.column.clone(),
            version: self.source.version(),
            rows: self.source.rows(),
            threads,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            batch_size: self.arguments.batch_size,
            slots,
            slot_bytes: consumed.slot_bytes,
            consume_ms: self.arguments.consume_ms,
            reading,
            decoder: consumed.decoder.clone(),
            notes,
            stages,
            consumer_waited: consumed.waited_part(),
            end_to_end_cpu_us: consumed.parts,
            handover_us_p50: handover(0.5).unwrap_or(longest_us),
            handover_us_p99: handover(0.99).unwrap_or(longest_us),
            spreads,
            sweep,
            verdict: String::new(),
            advice: Vec::new(),
        };
        report.verdict = advice::verdict(&report);
        report.advice = advice::advice(&report);
        report.advice.extend(self.tiling()?);
        Ok(report)
    }

    /// First cold, then everything into the page cache.
    fn cold(
        &self,
        stages: &mut Vec<Stage>,
        spreads: &mut Vec<Spread>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let Some(files) = self.fresh_files()? else {
            notes.push("cold: not measured: no data file of our own is read here".into());
            return Ok(());
        };
        self.say_next("reading, cold");
        notes.push(cache::drop_files(&files));
        let alone = self.read(self.fresh_files()?, true)?;
        stages.push(Stage {
            name: "read, cold",
            ..alone.stage
        });
        spreads.push(Spread::of("read alone, cold", &alone.waits));
        self.say_next("end to end, cold");
        cache::drop_files(&files);
        let consumed =
            self.deliver(self.config.decode_threads, self.arguments.slots, true, None)?;
        stages.push(end_to_end("end to end, cold", &consumed));
        self.say_next("reading into the page cache");
        notes.push(cache::fill_from(&files)?);
        Ok(())
    }

    /// The transforms of images that are at hand; those in files that text names are not.
    fn decoded_alone(&self) -> Option<&serde_json::Value> {
        self.transform.as_ref().filter(|_| self.is_bytes)
    }

    /// The same measurements with other numbers of threads and slots.
    fn sweep(&self) -> Result<Sweep> {
        let most = self.config.decode_threads;
        let mut threads: Vec<usize> = (0..)
            .map(|power| 1 << power)
            .take_while(|&count| count < most)
            .collect();
        threads.push(most);
        let mut sweep = Sweep::default();
        for count in threads {
            self.say_next(format!("{count} of {most} decode threads"));
            let decode = match self.decoded_alone() {
                Some(transform) => Some(self.decode(transform, count)?.rows_per_s),
                None => None,
            };
            let consumed = self.deliver(count, self.arguments.slots, false, None)?;
            sweep
                .threads
                .push(Trial::of(count, self.arguments.slots, decode, &consumed));
        }
        for slots in SLOTS_SWEPT {
            self.say_next(format!("{slots} slots"));
            let consumed = self.deliver(most, slots, false, None)?;
            sweep.slots.push(Trial::of(most, slots, None, &consumed));
        }
        Ok(sweep)
    }

    /// Everything, through a daemon of its own and its real socket.
    fn deliver(
        &self,
        threads: usize,
        slots: u32,
        one_epoch: bool,
        timings: Option<Arc<Timings>>,
    ) -> Result<Consumed> {
        let server = Server::bind(Config {
            decode_threads: threads,
            timings,
            ..self.config.clone()
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let serving = {
            let stop = stop.clone();
            std::thread::spawn(move || server.run(&stop))
        };
        let consumed = self.consume(slots, one_epoch);
        stop.store(true, Ordering::Relaxed);
        serving
            .join()
            .unwrap_or_else(|_| bail!("the daemon's thread panicked"))?;
        consumed
    }

    fn consume(&self, slots: u32, one_epoch: bool) -> Result<Consumed> {
        let mut transform = std::collections::BTreeMap::new();
        if let Some(steps) = &self.transform {
            transform.insert(self.column.clone(), steps.clone());
        }
        let request: OpenRequest = serde_json::from_value(json!({
            "uri": self.arguments.uri, "version": self.version, "filter": self.arguments.filter,
            "columns": [self.column], "transform": transform, "batch_size": self.arguments.batch_size,
            "shuffle": true, "rank": 0, "world_size": 1, "slots": slots,
            "protect": "none", "on_bad_sample": "zero",
        }))?;
        let settings = Settings {
            time: self.time(),
            hold: Duration::from_secs_f64(self.arguments.consume_ms / 1e3),
            // What is cold is so once only, so all of it counts.
            warm_up: if one_epoch { 0 } else { slots },
            one_epoch,
        };
        Consumer::open(&self.config.socket, request, settings)?.run()
    }
}

fn end_to_end(name: &'static str, consumed: &Consumed) -> Stage {
    Stage::of(
        name,
        consumed.rows,
        consumed.bytes,
        consumed.time,
        consumed.cpu_ns,
    )
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_cold_epoch_counts_every_row_and_none_twice() {
        // More and fewer batches than slots, with a last one that is not full.
        for (batch_size, slots) in [(8, 4), (7, 2), (64, 4)] {
            let line = Line::parse_from([
                "bench".into(),
                "memory:rows=40,tensor=8:float32".into(),
                "--seconds=30".into(),
                format!("--batch-size={batch_size}"),
            ]);
            let bench = Bench::open(&line.arguments).unwrap();
            let consumed = bench.deliver(1, slots, true, None).unwrap();
            assert_eq!(consumed.rows, 40, "batches of {batch_size}, {slots} slots");
            assert_eq!(consumed.handover.count(), 40_u64.div_ceil(batch_size));
        }
    }
}
