//! Reading the step log.
//!
//! Enters: a [`Query`]. Leaves: [`LogRow`]s, a step joined with its job. It never writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Deserialize, Serialize};

use super::{BadRow, JobRecord, StepLogError, TiledRead, store};

const COLUMNS: &str = "SELECT jobs.run, jobs.attempt, jobs.uri, jobs.version, jobs.record,
    steps.job, steps.rank, steps.step, steps.epoch, steps.epoch_step, steps.first_position,
    steps.rows, steps.valid, steps.digest, steps.bad, steps.prepared_ms, steps.delivered_ms
    FROM steps JOIN jobs ON jobs.id = steps.job";

/// One step of one rank, as `loaderd log` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// Run id.
    pub run: String,
    /// Attempt of the run.
    pub attempt: u32,
    /// Rank.
    pub rank: u32,
    /// Ranks of the job.
    pub world_size: u32,
    /// Step of the run.
    pub step: u64,
    /// Epoch.
    pub epoch: u64,
    /// Step within the epoch.
    pub epoch_step: u64,
    /// Dataset URI.
    pub uri: String,
    /// Dataset version.
    pub version: u64,
    /// Tag it was asked for by.
    pub tag: Option<String>,
    /// Hash of the selected row addresses.
    pub selection: String,
    /// First position of the epoch's order in this batch.
    pub first_position: u64,
    /// Rows in the batch.
    pub rows: u32,
    /// False where the rank repeated a row for want of one of its own.
    pub valid: bool,
    /// blake3 over the batch's row addresses.
    pub digest: String,
    /// Columns delivered.
    pub columns: Vec<String>,
    /// By column of images or masks, the column of tiled ones that was read for some of its rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tiled: BTreeMap<String, TiledRead>,
    /// blake3 of the transforms' canonical JSON, 16 hex digits.
    pub transform_hash: String,
    /// Decoder and its version.
    pub decoder: String,
    /// Rows that could not be decoded.
    pub bad: Vec<BadRow>,
    /// Unix time in ms at which the record was written.
    pub prepared_ms: i64,
    /// Unix time in ms at which the batch was handed out; None: never.
    pub delivered_ms: Option<i64>,
    /// The job in the database.
    pub job: i64,
}

/// A job in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedJob {
    /// Its number.
    pub job: i64,
    /// Its attempt.
    pub attempt: u32,
    /// What was recorded when it opened.
    pub record: JobRecord,
    /// Unix time in ms.
    pub started_ms: i64,
    /// Steps published without a record, under `on_log_error="continue"`.
    pub unlogged_steps: u64,
    /// Highest epoch recorded.
    pub last_epoch: Option<u64>,
}

/// Which steps to show.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only this run.
    pub run: Option<String>,
    /// Only this step of the run.
    pub step: Option<u64>,
    /// Only this rank.
    pub rank: Option<u32>,
    /// Also steps that were prepared and never handed out.
    pub prepared: bool,
    /// Only the last so many.
    pub last: Option<u32>,
}

/// An open log.
pub struct LogReader {
    db: Connection,
    path: PathBuf,
}

impl LogReader {
    /// Opens the log at `path`; `None` where there is none yet.
    pub fn open(path: &Path) -> Result<Option<LogReader>, StepLogError> {
        Ok(store::open_reader(path)?.map(|db| LogReader {
            db,
            path: path.into(),
        }))
    }

    /// Steps in the order in which they were prepared.
    pub fn steps(&self, query: &Query) -> Result<Vec<LogRow>, StepLogError> {
        let mut text = format!("{COLUMNS} WHERE 1");
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        let mut only = |column: &str, value: Box<dyn ToSql>| {
            values.push(value);
            text.push_str(&format!(" AND {column} = ?{}", values.len()));
        };
        if let Some(run) = &query.run {
            only("jobs.run", Box::new(run.clone()));
        }
        if let Some(step) = query.step {
            only("steps.step", Box::new(step as i64));
        }
        if let Some(rank) = query.rank {
            only("steps.rank", Box::new(rank));
        }
        if !query.prepared {
            text.push_str(" AND steps.delivered_ms IS NOT NULL");
        }
        text.push_str(" ORDER BY steps.prepared_ms DESC, steps.step DESC, steps.rank DESC");
        if let Some(last) = query.last {
            text.push_str(&format!(" LIMIT {last}"));
        }
        let mut statement = self.db.prepare(&text).map_err(|e| self.failed(e))?;
        let rows = statement
            .query_map(rusqlite::params_from_iter(values), log_row)
            .and_then(|rows| rows.collect::<Result<Vec<_>, _>>())
            .map_err(|e| self.failed(e))?;
        Ok(rows.into_iter().rev().collect())
    }

    /// Jobs of a run, or of all runs, oldest first.
    pub fn jobs(&self, run: Option<&str>) -> Result<Vec<LoggedJob>, StepLogError> {
        let mut statement = self
            .db
            .prepare(
                "SELECT id, attempt, record, started_ms, unlogged_steps,
                 (SELECT max(epoch) FROM steps WHERE steps.job = jobs.id)
                 FROM jobs WHERE ?1 IS NULL OR run = ?1 ORDER BY id",
            )
            .map_err(|e| self.failed(e))?;
        statement
            .query_map(params![run], |row| {
                Ok(LoggedJob {
                    job: row.get(0)?,
                    attempt: row.get(1)?,
                    record: json(row, 2)?,
                    started_ms: row.get(3)?,
                    unlogged_steps: row.get::<_, i64>(4)? as u64,
                    last_epoch: row.get::<_, Option<i64>>(5)?.map(|epoch| epoch as u64),
                })
            })
            .and_then(|rows| rows.collect())
            .map_err(|e| self.failed(e))
    }

    /// The steps, on all ranks, of one job whose batches hold this position of an epoch.
    pub fn steps_at(
        &self,
        job: i64,
        epoch: u64,
        position: u64,
    ) -> Result<Vec<LogRow>, StepLogError> {
        let mut statement = self
            .db
            .prepare(&format!(
                "{COLUMNS} WHERE steps.job = ?1 AND steps.epoch = ?2
                 AND steps.first_position <= ?3 AND steps.first_position + steps.rows > ?3"
            ))
            .map_err(|e| self.failed(e))?;
        statement
            .query_map(params![job, epoch as i64, position as i64], log_row)
            .and_then(|rows| rows.collect())
            .map_err(|e| self.failed(e))
    }

    /// The steps of one job that recorded bad rows.
    pub fn steps_with_bad_rows(&self, job: i64) -> Result<Vec<LogRow>, StepLogError> {
        let mut statement = self
            .db
            .prepare(&format!(
                "{COLUMNS} WHERE steps.job = ?1 AND steps.bad IS NOT NULL"
            ))
            .map_err(|e| self.failed(e))?;
        statement
            .query_map([job], log_row)
            .and_then(|rows| rows.collect())
            .map_err(|e| self.failed(e))
    }

    fn failed(&self, source: rusqlite::Error) -> StepLogError {
        StepLogError::Sqlite {
            path: self.path.clone(),
            source: Arc::new(source),
        }
    }
}

/// One step by its key.
pub(super) fn read_step(
    db: &Connection,
    job: i64,
    rank: u32,
    step: u64,
) -> rusqlite::Result<Option<LogRow>> {
    db.prepare_cached(&format!(
        "{COLUMNS} WHERE steps.job = ?1 AND steps.rank = ?2 AND steps.step = ?3"
    ))?
    .query_row(params![job, rank, step as i64], log_row)
    .optional()
}

fn log_row(row: &Row<'_>) -> rusqlite::Result<LogRow> {
    let record: JobRecord = json(row, 4)?;
    let bad: Option<String> = row.get(14)?;
    Ok(LogRow {
        run: row.get(0)?,
        attempt: row.get(1)?,
        uri: row.get(2)?,
        version: row.get::<_, i64>(3)? as u64,
        world_size: record.world_size,
        tag: record.tag,
        selection: record.selection,
        columns: record.columns,
        tiled: record.tiled,
        transform_hash: blake3::hash(record.transform.as_bytes()).to_hex()[..16].into(),
        decoder: record.decoder,
        job: row.get(5)?,
        rank: row.get(6)?,
        step: row.get::<_, i64>(7)? as u64,
        epoch: row.get::<_, i64>(8)? as u64,
        epoch_step: row.get::<_, i64>(9)? as u64,
        first_position: row.get::<_, i64>(10)? as u64,
        rows: row.get(11)?,
        valid: row.get(12)?,
        digest: row.get(13)?,
        bad: match bad {
            Some(_) => json(row, 14)?,
            None => Vec::new(),
        },
        prepared_ms: row.get(15)?,
        delivered_ms: row.get(16)?,
    })
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}
