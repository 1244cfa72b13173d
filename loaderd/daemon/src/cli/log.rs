//! `loaderd log`: which dataset version and which rows the training steps saw.
//!
//! Enters: the step log's database, or the feed of a running daemon (`--follow`). Leaves: lines or
//! JSON. A row's steps are computed by the inverse of the order, not searched for. It writes nothing.

use std::path::PathBuf;

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use loaderd_plan::Order;
use loaderd_wire::message::{Protect, Version};
use loaderd_wire::paths;

use super::{Socket, say, tell};
use crate::feed::{Listener, path_beside};
use crate::source::{self, SourceRequest};
use crate::steplog::{LogReader, LogRow, LoggedJob, Query, bad_rows, file_in};

/// Records that are shown where no number is given.
const LAST_USUAL: u32 = 50;

/// Arguments of `loaderd log`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Only this run
    #[arg(long)]
    run: Option<String>,
    /// Only this step of the run (counted over epochs)
    #[arg(long, conflicts_with = "row")]
    step: Option<u64>,
    /// Only this rank
    #[arg(long)]
    rank: Option<u32>,
    /// The steps that saw the row with this row id (opens the dataset at the version of each run)
    #[arg(long, value_name = "ROWID", conflicts_with = "follow")]
    row: Option<u64>,
    /// Also batches that were prepared but never delivered
    #[arg(long)]
    all: bool,
    /// Only the last N records [default: 50; with --row all of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print what the running daemon delivers from now on, until Ctrl-C
    #[arg(long, conflicts_with_all = ["step", "all", "last", "state"])]
    follow: bool,
    #[command(flatten)]
    socket: Socket,
    /// Folder of the step log [default: LOADERD_STATE, else loaderd in the user's state folder]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.follow {
        return follow(arguments);
    }
    let dir = match &arguments.state {
        Some(dir) => dir.clone(),
        None => paths::state_dir()?,
    };
    let path = file_in(&dir);
    let Some(reader) = LogReader::open(&path)? else {
        bail!(
            "there is no step log at {} yet: it is written while a dataset is being read; another folder goes with --state",
            path.display()
        );
    };
    if let Some(run) = &arguments.run
        && reader.jobs(Some(run))?.is_empty()
    {
        let mut runs: Vec<String> = reader
            .jobs(None)?
            .into_iter()
            .map(|job| job.record.run)
            .collect();
        runs.dedup();
        let newest: Vec<String> = runs.into_iter().rev().take(5).collect();
        bail!(
            "no run {run:?} in {}; the newest are {}",
            path.display(),
            newest.join(", ")
        );
    }
    let query = Query {
        run: arguments.run.clone(),
        step: arguments.step,
        rank: arguments.rank,
        prepared: arguments.all,
        last: Some(arguments.last.unwrap_or(LAST_USUAL)),
    };
    let rows = match arguments.row {
        Some(row) => steps_of_row(&reader, arguments, row)?,
        None => reader.steps(&query)?,
    };
    if arguments.json {
        for row in &rows {
            say(serde_json::to_string(row)?);
        }
        return Ok(());
    }
    if rows.is_empty() {
        // A step is marked as delivered a moment after it was.
        let prepared = Query {
            prepared: true,
            last: Some(1),
            ..query
        };
        let hidden = arguments.row.is_none() && !reader.steps(&prepared)?.is_empty();
        say(if hidden {
            "no records of delivered batches; --all shows those that were only prepared"
        } else {
            "no records"
        });
        return Ok(());
    }
    let mut table = header();
    for row in &rows {
        table.add_row(cells(row));
    }
    say(table);
    for row in &rows {
        for bad in &row.bad {
            say(format_args!(
                "step {} rank {}: row address {} {}: {}",
                row.step,
                row.rank,
                bad.row_address,
                match bad.replaced_by {
                    Some(other) => format!("replaced by {other}"),
                    None => "zeroed".into(),
                },
                bad.cause
            ));
        }
    }
    for job in reader.jobs(arguments.run.as_deref())? {
        let is_shown = rows.iter().any(|row| row.job == job.job);
        for (name, read) in job.record.tiled.iter().filter(|_| is_shown) {
            say(format_args!(
                "run {} attempt {}: {name} was read tiled, from {}, in {} of {} rows",
                job.record.run, job.attempt, read.column, read.rows, job.record.rows
            ));
        }
        if is_shown && job.record.transform != "{}" {
            say(format_args!(
                "run {} attempt {}: decoded with {}",
                job.record.run, job.attempt, job.record.decoder
            ));
        }
        if job.unlogged_steps > 0 {
            say(format_args!(
                "run {} attempt {}: {} steps were published without a record (on_log_error=\"continue\")",
                job.record.run, job.attempt, job.unlogged_steps
            ));
        }
    }
    Ok(())
}

fn header() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "run",
        "rank",
        "step",
        "epoch",
        "dataset",
        "version",
        "positions",
        "digest",
        "bad",
        "delivered",
    ]);
    table
}

fn cells(row: &LogRow) -> Vec<String> {
    let run = match row.attempt {
        0 => row.run.clone(),
        attempt => format!("{} (attempt {attempt})", row.run),
    };
    let version = match &row.tag {
        Some(tag) => format!("{} ({tag})", row.version),
        None => row.version.to_string(),
    };
    let when = match row.delivered_ms.map(jiff::Timestamp::from_millisecond) {
        Some(Ok(time)) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S%.3f")
            .to_string(),
        _ => "-".into(),
    };
    vec![
        run,
        format!("{}/{}", row.rank, row.world_size),
        row.step.to_string(),
        row.epoch.to_string(),
        row.uri.clone(),
        version,
        format!(
            "{}..{}",
            row.first_position,
            row.first_position + u64::from(row.rows)
        ),
        row.digest[..12.min(row.digest.len())].into(),
        bad_rows(&row.bad).to_string(),
        when,
    ]
}

/// Steps whose batches held a row: by arithmetic, from the row's place in the selection.
fn steps_of_row(reader: &LogReader, arguments: &Arguments, row: u64) -> Result<Vec<LogRow>> {
    let mut found = Vec::new();
    let mut places: Vec<(LoggedJob, Place)> = Vec::new();
    for job in reader.jobs(arguments.run.as_deref())? {
        // Attempts of a run read the same selection: look it up once.
        let known = places
            .iter()
            .find(|(seen, _)| {
                (
                    &seen.record.uri,
                    seen.record.version,
                    &seen.record.selection,
                ) == (&job.record.uri, job.record.version, &job.record.selection)
            })
            .map(|(_, place)| place.clone());
        let place = known.unwrap_or_else(|| place_of(&job, row));
        match &place {
            Err(error) => tell(format_args!(
                "loaderd: run {} (dataset {} version {}) can't be looked up: {error}",
                job.record.run, job.record.uri, job.record.version
            )),
            Ok(None) => {}
            Ok(Some((index, address))) => {
                for epoch in 0..=job.last_epoch.unwrap_or(0) {
                    let order = if job.record.shuffle {
                        Order::shuffled(job.record.rows, job.record.seed, epoch)
                    } else {
                        Order::sequential(job.record.rows)
                    };
                    found.extend(
                        reader
                            .steps_at(job.job, epoch, order.position_of(*index))?
                            .into_iter()
                            // A bad row was replaced: the step did not see it.
                            .filter(|step| !step.bad.iter().any(|bad| bad.row_address == *address)),
                    );
                }
                found.extend(
                    reader
                        .steps_with_bad_rows(job.job)?
                        .into_iter()
                        .filter(|step| {
                            // The last replacement of a position is the one delivered.
                            step.bad.iter().any(|bad| {
                                bad.replaced_by == Some(*address)
                                    && !step.bad.iter().any(|later| {
                                        later.position == bad.position
                                            && later.row_address == *address
                                    })
                            })
                        }),
                );
            }
        }
        places.push((job, place));
    }
    found.retain(|step| {
        (arguments.all || step.delivered_ms.is_some())
            && arguments.rank.is_none_or(|rank| rank == step.rank)
    });
    // In the order of all records; one that held the row twice is one.
    found.sort_by_key(|step| (step.prepared_ms, step.step, step.rank, step.job));
    found.dedup_by_key(|step| (step.job, step.rank, step.step));
    let first = match arguments.last {
        Some(last) => found.len().saturating_sub(last as usize),
        None => 0,
    };
    Ok(found.split_off(first))
}

/// Index and row address of a row in a job's selection, if it is in it and that can be told.
type Place = Result<Option<(u64, u64)>, String>;

fn place_of(job: &LoggedJob, row: u64) -> Place {
    let source = source::open(SourceRequest {
        uri: job.record.uri.clone(),
        version: Some(Version::Number(job.record.version)),
        filter: job.record.filter.clone(),
        bytes_columns: vec![],
        tiled_columns: vec![],
        fixed_columns: vec![],
        variable_columns: vec![],
        protect: Protect::None,
        run: job.record.run.clone(),
    })
    .map_err(|error| error.to_string())?;
    if source.identity() != job.record.identity {
        return Err("another dataset lies there now".into());
    }
    Ok((0..source.rows())
        .find(|&index| source.row_id(index) == row)
        .map(|index| (index, source.row_address(index))))
}

fn follow(arguments: &Arguments) -> Result<()> {
    let path = path_beside(&arguments.socket.path()?);
    let listener = Listener::connect(&path, "step")?;
    tell(format_args!(
        "loaderd: following {} (Ctrl-C ends)",
        path.display()
    ));
    let mut shown_header = false;
    loop {
        let Some(row) = listener.next::<LogRow>(500) else {
            continue;
        };
        let wanted = arguments.run.as_ref().is_none_or(|run| *run == row.run)
            && arguments.rank.is_none_or(|rank| rank == row.rank);
        if !wanted {
            continue;
        }
        if arguments.json {
            say(serde_json::to_string(&row)?);
            continue;
        }
        if !shown_header {
            say("run  rank  step  epoch  dataset  version  positions  digest  bad  delivered");
            shown_header = true;
        }
        say(cells(&row).join("  "));
    }
}
