//! What a bench says of its samples, in words and as JSON.
//!
//! Enters: samples of every round. Leaves: tables, ratios within each round, and a word where the
//! machine was not quiet or files were not cold. Never: judges; each bench states its own targets.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::meter::{Sample, median};
use crate::say;

/// Cores that others may keep busy before the answer says that they did.
const ELSEWHERE_MAX: f64 = 0.15;
/// A larger resident share than this is not called cold.
const COLD_SHARE_MAX: f64 = 0.01;

/// What a way took in each round.
#[derive(Default)]
pub struct Rounds {
    /// With its files out of the page cache.
    pub cold: Vec<Sample>,
    /// With its files in the page cache.
    pub warm: Vec<Sample>,
}

impl Rounds {
    /// What [`Rounds::cells`] are, cold or warm.
    pub const HEADER: [[&str; 3]; 2] = [
        ["cold rows/s", "MB/s", "CPU µs/row"],
        ["warm rows/s", "MB/s", "CPU µs/row"],
    ];

    /// Medians, cold and warm, for a table.
    pub fn cells(&self) -> [[String; 3]; 2] {
        [&self.cold, &self.warm].map(|samples| {
            [
                format!("{:.0}", middle(samples, Sample::rows_per_s)),
                format!("{:.0}", middle(samples, Sample::mb_per_s)),
                format!("{:.1}", middle(samples, Sample::cpu_us_per_row)),
            ]
        })
    }

    /// All of it, with medians.
    pub fn to_json(&self, name: &str, engine: Option<&str>) -> Value {
        let summary = |samples: &[Sample]| {
            json!({
                "rows_per_s": middle(samples, Sample::rows_per_s),
                "mb_per_s": middle(samples, Sample::mb_per_s),
                "cpu_us_per_row": middle(samples, Sample::cpu_us_per_row),
                "rounds": samples,
            })
        };
        json!({
            "name": name,
            "engine": engine,
            "cold": summary(&self.cold),
            "warm": summary(&self.warm),
        })
    }
}

/// The samples' median of `value`.
fn middle(samples: &[Sample], value: fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(value))
}

/// The median of the rounds, and their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// `own` over `other`, round by round. Panics where there is no round.
    pub fn of_ratios<'a>(
        own: impl IntoIterator<Item = &'a Sample>,
        other: impl IntoIterator<Item = &'a Sample>,
        value: fn(&Sample) -> f64,
    ) -> Spread {
        let pairs = own.into_iter().zip(other);
        let each: Vec<f64> = pairs
            .map(|(own, other)| value(own) / value(other))
            .collect();
        Spread {
            least: each.iter().copied().fold(f64::INFINITY, f64::min),
            most: each.iter().copied().fold(0.0, f64::max),
            median: median(each),
        }
    }
}

/// `median (least to most)`, each with the digits that the format asks for, or two.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Spread {
            median,
            least,
            most,
        } = self;
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// A table whose first column has no name.
pub fn table(header: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(std::iter::once("").chain(header));
    table
}

/// Prints a table, all but its first column to the right.
pub fn say_table(mut table: Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    say(table);
}

/// Prints what the figures depend on.
pub fn say_machine(machine: &Machine) {
    let Machine {
        processor,
        cores,
        kernel,
        file_system,
    } = machine;
    say(format_args!(
        "{processor}, {cores} cores, Linux {kernel}, {file_system}"
    ));
}

/// The cores that others kept busy, by the median sample; says so where it was much, and that
/// `figures` may be off.
pub fn say_busy<'a>(samples: impl IntoIterator<Item = &'a Sample>, figures: &str) -> f64 {
    let elsewhere = median(samples.into_iter().map(|sample| sample.cores_elsewhere));
    if elsewhere > ELSEWHERE_MAX {
        say(format_args!(
            "not quiet: {elsewhere:.2} cores were busy outside this bench, interrupts included; \
             {figures} may be off"
        ));
    }
    elsewhere
}

/// Says so where more than a little of the files stayed in the page cache.
pub fn say_warm(share: f64) {
    if share > COLD_SHARE_MAX {
        say(format_args!(
            "not cold: up to {:.1} % stayed in the page cache; as root, try --drop-caches",
            share * 100.0
        ));
    }
}

/// Ways that don't work here, and why.
#[derive(Default)]
pub struct LeftOut(Vec<(&'static str, String)>);

impl LeftOut {
    /// Notes one, and says so at once, because the answer comes late.
    pub fn add(&mut self, name: &'static str, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        eprintln!("left out: {name}: {reason}");
        self.0.push((name, reason));
    }

    /// Prints them.
    pub fn say(&self) {
        for (name, reason) in &self.0 {
            say(format_args!("left out: {name}: {reason}"));
        }
    }

    /// A list of names and reasons.
    pub fn to_json(&self) -> Value {
        let each = self.0.iter();
        each.map(|(name, reason)| json!({"name": name, "reason": reason}))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64) -> Sample {
        Sample {
            rows: 100,
            bytes: 5_000_000,
            seconds,
            cpu_user_s: 0.001,
            cpu_system_s: 0.001,
            cores_elsewhere: seconds,
        }
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let (own, other) = ([1.0, 2.0, 5.0].map(sample), [2.0, 1.0, 5.0].map(sample));
        let ratios = Spread::of_ratios(&own, &other, Sample::rows_per_s);
        assert_eq!(ratios.to_string(), "1.00 (0.50 to 2.00)");
        assert_eq!(format!("{ratios:.1}"), "1.0 (0.5 to 2.0)");
        assert_eq!(say_busy(&own, "ratios"), 2.0);
    }

    #[test]
    fn medians_are_shown_and_kept() {
        let rounds = Rounds {
            cold: [1.0, 2.0, 4.0].map(sample).to_vec(),
            warm: vec![sample(0.5)],
        };
        assert_eq!(rounds.cells(), [["50", "2", "20.0"], ["200", "10", "20.0"]]);
        let found = rounds.to_json("ours", None);
        assert_eq!(found["cold"]["rows_per_s"], 50.0);
        assert_eq!(found["cold"]["rounds"][2]["seconds"], 4.0);
        assert_eq!(found["warm"]["mb_per_s"], 10.0);
        assert!(found["engine"].is_null());
    }
}
