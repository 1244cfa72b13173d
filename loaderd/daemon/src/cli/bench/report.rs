//! What a bench found, for people and for programs.
//!
//! Enters: measurements. Leaves: a table, or a value to be written as JSON.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::consumer::{Consumed, CpuParts};
use crate::cli::{say, size};
use crate::histogram::Histogram;

/// One measurement.
#[derive(Serialize)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    pub(super) rows: u64,
    pub(super) rows_per_s: f64,
    pub(super) mb_per_s: f64,
    pub(super) cpu_us_per_row: f64,
}

impl Stage {
    pub(super) fn of(
        name: &'static str,
        rows: u64,
        bytes: u64,
        time: Duration,
        cpu_ns: u64,
    ) -> Stage {
        let seconds = time.as_secs_f64();
        Stage {
            name,
            rows,
            rows_per_s: rows as f64 / seconds,
            mb_per_s: bytes as f64 / seconds / 1e6,
            cpu_us_per_row: cpu_ns as f64 / 1e3 / rows.max(1) as f64,
        }
    }
}

/// How the times of one part are spread, in µs.
#[derive(Serialize)]
pub(super) struct Spread {
    pub(super) name: &'static str,
    pub(super) count: u64,
    pub(super) mean_us: f64,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) p999_us: Option<f64>,
    pub(super) max_us: f64,
    /// Lower ends of the bins; each reaches to the next, and is a ninth wider at most.
    pub(super) bins_from_us: Vec<f64>,
    pub(super) bins_count: Vec<u64>,
}

impl Spread {
    pub(super) fn of(name: &'static str, histogram: &Histogram) -> Spread {
        let quantile = |q| histogram.quantile(q).map(|ns| ns as f64 / 1e3);
        let bins = histogram.bins();
        Spread {
            name,
            count: histogram.count(),
            mean_us: histogram.mean() / 1e3,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: histogram.max() as f64 / 1e3,
            bins_from_us: bins.iter().map(|bin| bin.from_ns as f64 / 1e3).collect(),
            bins_count: bins.iter().map(|bin| bin.count).collect(),
        }
    }

    /// The highest quantile that could be told, and its name.
    pub(super) fn slowest(&self) -> (f64, &'static str) {
        match (self.p999_us, self.p99_us) {
            (Some(us), _) => (us, "p99.9"),
            (None, Some(us)) => (us, "p99"),
            (None, None) => (self.max_us, "the longest"),
        }
    }
}

/// One run of a sweep, end to end.
#[derive(Serialize)]
pub(super) struct Trial {
    pub(super) threads: usize,
    pub(super) slots: u32,
    /// Decoding alone.
    pub(super) decode_rows_per_s: Option<f64>,
    pub(super) rows_per_s: f64,
    pub(super) consumer_waited: f64,
    pub(super) gap_us_p50: Option<f64>,
    pub(super) gap_us_p99: Option<f64>,
    pub(super) gap_us_max: f64,
}

impl Trial {
    pub(super) fn of(
        threads: usize,
        slots: u32,
        decode_rows_per_s: Option<f64>,
        consumed: &Consumed,
    ) -> Trial {
        let gap = |q| consumed.gaps.quantile(q).map(|ns| ns as f64 / 1e3);
        Trial {
            threads,
            slots,
            decode_rows_per_s,
            rows_per_s: consumed.rows as f64 / consumed.time.as_secs_f64(),
            consumer_waited: consumed.waited_part(),
            gap_us_p50: gap(0.5),
            gap_us_p99: gap(0.99),
            gap_us_max: consumed.gaps.max() as f64 / 1e3,
        }
    }
}

/// The same job with other numbers of threads, and of slots.
#[derive(Serialize, Default)]
pub(super) struct Sweep {
    pub(super) threads: Vec<Trial>,
    pub(super) slots: Vec<Trial>,
}

/// All of it.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) uri: String,
    pub(super) column: String,
    pub(super) version: u64,
    pub(super) rows: u64,
    pub(super) threads: usize,
    /// That this process may use.
    pub(super) cores: usize,
    pub(super) batch_size: u32,
    pub(super) slots: u32,
    pub(super) slot_bytes: u64,
    pub(super) consume_ms: f64,
    pub(super) reading: Option<String>,
    /// What decodes, end to end.
    pub(super) decoder: String,
    /// What could be done about the page cache, and how many images were bad.
    pub(super) notes: Vec<String>,
    pub(super) stages: Vec<Stage>,
    /// End to end, CPU time of the whole process by part, in µs per row.
    pub(super) end_to_end_cpu_us: CpuParts,
    /// Part of the time that the consumer waited for a batch.
    pub(super) consumer_waited: f64,
    /// From publishing a batch to the consumer having it, in µs.
    pub(super) handover_us_p50: f64,
    pub(super) handover_us_p99: f64,
    pub(super) spreads: Vec<Spread>,
    pub(super) sweep: Option<Sweep>,
    pub(super) verdict: String,
    pub(super) advice: Vec<String>,
}

impl Report {
    /// Rows a second of a stage that was measured.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        let stage = self.stages.iter().find(|stage| stage.name == name)?;
        Some(stage.rows_per_s)
    }

    pub(super) fn spread(&self, name: &str) -> Option<&Spread> {
        self.spreads.iter().find(|spread| spread.name == name)
    }

    /// One line on what was measured.
    pub(super) fn title(&self) -> String {
        format!(
            "{} version {}, {} rows, column {:?}, batches of {}, {} decode threads, {} slots",
            self.uri,
            self.version,
            self.rows,
            self.column,
            self.batch_size,
            self.threads,
            self.slots
        )
    }

    pub(super) fn show(&self) {
        say(self.title());
        if let Some(reading) = &self.reading {
            say(format_args!("reading: {reading}"));
        }
        say(format_args!("decoding: {}", self.decoder));
        self.notes.iter().for_each(say);
        let mut table = new_table(&["stage", "rows", "rows/s", "MB/s", "CPU µs/row"]);
        for stage in &self.stages {
            table.add_row([
                stage.name.to_string(),
                stage.rows.to_string(),
                format!("{:.0}", stage.rows_per_s),
                format!("{:.0}", stage.mb_per_s),
                format!("{:.1}", stage.cpu_us_per_row),
            ]);
        }
        say(table);
        let parts = &self.end_to_end_cpu_us;
        say(format_args!(
            "end to end, CPU µs/row: {:.1} plan and read, {:.1} decode, {:.1} log and publish",
            parts.read_and_plan, parts.decode, parts.log_and_publish
        ));
        say(format_args!(
            "hand-over from publish to consumer: p50 {:.0} µs, p99 {:.0} µs ({} a batch)",
            self.handover_us_p50,
            self.handover_us_p99,
            size::show(self.slot_bytes)
        ));
        let mut table = new_table(&["each", "count", "mean", "p50", "p99", "p99.9", "max"]);
        for spread in &self.spreads {
            let quantile = |us: Option<f64>| us.map_or("-".into(), duration);
            table.add_row([
                spread.name.to_string(),
                spread.count.to_string(),
                duration(spread.mean_us),
                quantile(spread.p50_us),
                quantile(spread.p99_us),
                quantile(spread.p999_us),
                duration(spread.max_us),
            ]);
        }
        say(table);
        for trials in self
            .sweep
            .iter()
            .flat_map(|sweep| [&sweep.threads, &sweep.slots])
        {
            show_trials(trials);
        }
        say(&self.verdict);
        self.advice.iter().for_each(say);
    }
}

fn show_trials(trials: &[Trial]) {
    let mut table = new_table(&[
        "threads", "slots", "decode/s", "rows/s", "waited", "gap p50", "gap p99", "gap max",
    ]);
    for trial in trials {
        let quantile = |us: Option<f64>| us.map_or("-".into(), duration);
        table.add_row([
            trial.threads.to_string(),
            trial.slots.to_string(),
            trial
                .decode_rows_per_s
                .map_or("-".into(), |rate| format!("{rate:.0}")),
            format!("{:.0}", trial.rows_per_s),
            format!("{:.0} %", trial.consumer_waited * 100.0),
            quantile(trial.gap_us_p50),
            quantile(trial.gap_us_p99),
            duration(trial.gap_us_max),
        ]);
    }
    say(table);
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// A duration with three digits.
pub(super) fn duration(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    match value {
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_have_three_digits() {
        for (us, text) in [
            (0.5, "0.50 µs"),
            (99.0, "99.0 µs"),
            (1234.0, "1.23 ms"),
            (123_456.0, "123 ms"),
            (2e6, "2.00 s"),
        ] {
            assert_eq!(super::duration(us), text);
        }
    }
}
