//! The database's schema and its write statements.
//!
//! Enters: a connection and records. Leaves: rows. It never retries and never waits
//! longer than SQLite's busy timeout.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::{JobKey, JobRecord, StepLogError, StepRecord, TiledRead};

/// Schema version, kept in SQLite's `user_version`.
pub(crate) const SCHEMA: u32 = 1;

const TABLES: &str = "
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    plan_hash TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    uri TEXT NOT NULL,
    version INTEGER NOT NULL,
    record TEXT NOT NULL,              -- JobRecord as JSON
    started_ms INTEGER NOT NULL,       -- Unix time
    unlogged_steps INTEGER NOT NULL DEFAULT 0,
    UNIQUE (run, plan_hash, attempt)
);
CREATE TABLE steps (
    job INTEGER NOT NULL REFERENCES jobs (id),
    rank INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    epoch_step INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    valid INTEGER NOT NULL,
    digest TEXT NOT NULL,
    bad TEXT,                          -- [BadRow] as JSON, NULL when empty
    prepared_ms INTEGER NOT NULL,
    delivered_ms INTEGER,              -- NULL: prepared, never handed out
    PRIMARY KEY (job, rank, step)
) WITHOUT ROWID;
CREATE INDEX steps_by_step ON steps (step);
";

/// How long the database may be somebody else's before it is given up.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Between looks, where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Opens the database for writing, making it where there is none.
pub(super) fn open(path: &Path) -> Result<Connection, StepLogError> {
    let until = Instant::now() + BUSY_WAIT;
    loop {
        match open_now(path) {
            // To begin a WAL, SQLite needs the file alone; where others want that too, it does not
            // wait for them, or all would wait for ever.
            Err(StepLogError::Open { source, .. })
                if is_busy(&source) && Instant::now() < until =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn open_now(path: &Path) -> Result<Connection, StepLogError> {
    let failed = unopened(path);
    let mut db = Connection::open(path).map_err(failed)?;
    db.busy_timeout(BUSY_WAIT).map_err(failed)?;
    // WAL lets readers go on while we write; NORMAL keeps the database whole through a
    // power cut, at the price of the last transactions, which resume prepares again.
    db.pragma_update(None, "journal_mode", "WAL")
        .map_err(failed)?;
    db.pragma_update(None, "synchronous", "NORMAL")
        .map_err(failed)?;
    migrate(&mut db, path)?;
    Ok(db)
}

/// Opens the database for reading; `None` where there is none yet.
pub(super) fn open_reader(path: &Path) -> Result<Option<Connection>, StepLogError> {
    if !path.exists() {
        return Ok(None);
    }
    let failed = unopened(path);
    let (db, found) = readable(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .or_else(|_| readable(path, OpenFlags::SQLITE_OPEN_READ_ONLY))
        .or_else(|error| readable_at_rest(path).unwrap_or(Err(error)))
        .map_err(failed)?;
    if found > SCHEMA {
        return Err(StepLogError::Newer {
            path: path.into(),
            found,
            known: SCHEMA,
        });
    }
    Ok((found > 0).then_some(db))
}

/// An open database, and its schema.
fn readable(path: &Path, flags: OpenFlags) -> rusqlite::Result<(Connection, u32)> {
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_WAIT)?;
    let found = schema_of(&db)?;
    Ok((db, found))
}

/// The same where nothing can be written beside it, as SQLite does for a database with a WAL: on a
/// read-only file system, or in another user's folder. `None` while somebody has it open, who may
/// change it. <https://sqlite.org/wal.html#read_only_databases>
fn readable_at_rest(path: &Path) -> Option<rusqlite::Result<(Connection, u32)>> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let is_at_rest = !Path::new(&wal).exists();
    is_at_rest.then(|| {
        let mut uri = "file:".to_owned();
        for byte in path.as_os_str().as_bytes() {
            let _ = write!(uri, "%{byte:02X}");
        }
        uri.push_str("?immutable=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        readable(Path::new(&uri), flags)
    })
}

/// That the database at `path` can't be opened.
fn unopened(path: &Path) -> impl Fn(rusqlite::Error) -> StepLogError + Copy {
    move |error| StepLogError::Open {
        path: path.into(),
        source: Arc::new(error),
    }
}

fn schema_of(db: &Connection) -> rusqlite::Result<u32> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Makes the tables where there are none. Daemons that share a folder may come here at once.
fn migrate(db: &mut Connection, path: &Path) -> Result<(), StepLogError> {
    let failed = unopened(path);
    let make = |db: &mut Connection| {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if schema_of(&transaction)? == 0 {
            transaction.execute_batch(&format!("{TABLES} PRAGMA user_version = {SCHEMA};"))?;
        }
        transaction.commit()
    };
    if schema_of(db).map_err(failed)? == 0 {
        make(db).map_err(failed)?;
    }
    match schema_of(db).map_err(failed)? {
        SCHEMA => Ok(()),
        found => Err(StepLogError::Newer {
            path: path.into(),
            found,
            known: SCHEMA,
        }),
    }
}

/// What a job's rows are read and decoded with. Its plan does not say so, because the rows are the
/// same with others; an attempt has one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading {
    pub(super) decoder: String,
    uri: String,
    tiled: BTreeMap<String, TiledRead>,
}

impl Reading {
    pub(super) fn of(record: &JobRecord) -> Reading {
        Reading {
            decoder: record.decoder.clone(),
            uri: record.uri.clone(),
            tiled: record.tiled.clone(),
        }
    }
}

/// The latest attempt of the record's run and plan.
pub(super) fn latest(
    db: &Connection,
    record: &JobRecord,
) -> rusqlite::Result<Option<(JobKey, Reading)>> {
    db.prepare_cached(
        "SELECT id, attempt, json_extract(record, '$.decoder'), uri, json_extract(record, '$.tiled')
         FROM jobs WHERE run = ?1 AND plan_hash = ?2 ORDER BY attempt DESC LIMIT 1",
    )?
    .query_row(params![record.run, record.plan_hash], |row| {
        let key = JobKey {
            job: row.get(0)?,
            attempt: row.get(1)?,
        };
        let tiled: Option<String> = row.get(4)?;
        let reading = Reading {
            decoder: row.get(2)?,
            uri: row.get(3)?,
            tiled: tiled
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
        };
        Ok((key, reading))
    })
    .optional()
}

/// Finds the job's latest attempt, or begins attempt 0; `resumed`, or another [`Reading`] than
/// that attempt's, begins the next one. Returns the decoder of the latest attempt before.
pub(super) fn open_job(
    db: &mut Connection,
    record: &JobRecord,
    resumed: bool,
    now_ms: i64,
) -> rusqlite::Result<(JobKey, Option<String>)> {
    // A transaction that began with reading could not go on to write behind another daemon's.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (attempt, before) = match latest(&transaction, record)? {
        Some((key, before)) if !resumed && before == Reading::of(record) => {
            return Ok((key, Some(before.decoder)));
        }
        Some((key, before)) => (key.attempt + 1, Some(before.decoder)),
        None => (0, None),
    };
    transaction
        .prepare_cached(
            "INSERT INTO jobs (run, plan_hash, attempt, uri, version, record, started_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            record.run,
            record.plan_hash,
            attempt,
            record.uri,
            record.version as i64,
            serde_json::to_string(record).expect("a job record is plain data"),
            now_ms,
        ])?;
    let job = transaction.last_insert_rowid();
    transaction.commit()?;
    Ok((JobKey { job, attempt }, before))
}

/// Writes one step as prepared. Returns the digest found where the step was recorded
/// before with another one. A step that had bad rows then and has none now, or the other way
/// around, has had them: the rows are the same, what could be read of them was not.
pub(super) fn prepare(
    db: &Connection,
    record: &StepRecord,
    now_ms: i64,
) -> rusqlite::Result<Result<(), String>> {
    let bad = (!record.bad.is_empty())
        .then(|| serde_json::to_string(&record.bad).expect("bad rows are plain data"));
    let changed = db
        .prepare_cached(
            "INSERT INTO steps (job, rank, step, epoch, epoch_step, first_position, rows, valid, digest, bad, prepared_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (job, rank, step) DO UPDATE SET prepared_ms = excluded.prepared_ms,
                 bad = coalesce(excluded.bad, bad)
             WHERE digest = excluded.digest",
        )?
        .execute(params![
            record.job,
            record.rank,
            record.step as i64,
            record.epoch as i64,
            record.epoch_step as i64,
            record.first_position as i64,
            record.rows,
            record.valid,
            record.digest,
            bad,
            now_ms,
        ])?;
    if changed == 1 {
        return Ok(Ok(()));
    }
    let then = db.query_row(
        "SELECT digest FROM steps WHERE job = ?1 AND rank = ?2 AND step = ?3",
        params![record.job, record.rank, record.step as i64],
        |row| row.get(0),
    )?;
    Ok(Err(then))
}

/// Marks a prepared step as handed out.
pub(super) fn deliver(
    db: &Connection,
    job: i64,
    rank: u32,
    step: u64,
    now_ms: i64,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE steps SET delivered_ms = ?4 WHERE job = ?1 AND rank = ?2 AND step = ?3",
    )?
    .execute(params![job, rank, step as i64, now_ms])?;
    Ok(())
}

/// Counts steps that were published without a record.
pub(super) fn add_unlogged(db: &Connection, job: i64, steps: u64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE jobs SET unlogged_steps = unlogged_steps + ?2 WHERE id = ?1")?
        .execute(params![job, steps as i64])?;
    Ok(())
}
