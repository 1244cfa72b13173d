//! The step log: which rows of which dataset version every training step saw.
//!
//! Enters: a [`JobRecord`] when a job opens, a [`StepRecord`] before each batch becomes
//! visible, a mark when the batch is handed out. Leaves: rows of a SQLite database in
//! the user's state folder, one per node, and a ZeroMQ stream of what was delivered.
//!
//! One thread writes, in groups: everything that waits goes into one transaction. It
//! never decides what happens when the disk is full; it reports, and the session does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

mod late;
mod query;
mod store;
mod writer;

pub use query::{LogReader, LogRow, LoggedJob, Query};
pub(crate) use store::SCHEMA;
pub use writer::StepLog;

/// File name of the database in the state folder.
const FILE_NAME: &str = "steps.sqlite";

/// Why the step log can't be written or read. Cloned for each session that waits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StepLogError {
    /// The database can't be opened or is not one of ours.
    #[error(
        "step log {path}: {source}; give another folder with LOADERD_STATE, or move the file away",
        path = path.display()
    )]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        source: Arc<rusqlite::Error>,
    },
    /// The database was written by a later loaderd.
    #[error(
        "step log {path} has schema {found}, this loaderd knows up to {known}: use a newer loaderd or another folder (LOADERD_STATE)",
        path = path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Schema version in the file.
        found: u32,
        /// Schema version of this program.
        known: u32,
    },
    /// The disk stayed full, or a limit reached.
    #[error(
        "step log {path}: {cause} for {waited_s} s; no batch was published without its record. \
         {mend} and go on from the last checkpoint, or open with on_log_error=\"continue\"",
        path = path.display(),
        cause = cause.words(),
        mend = cause.mend()
    )]
    Full {
        /// The database file.
        path: PathBuf,
        /// What is in the way.
        cause: NoRoom,
        /// For how long it has been, in seconds.
        waited_s: u64,
    },
    /// The kernel refused something else to the database's files.
    #[error(
        "step log {path}: {source}: {system}; no batch was published without its record. \
         Mend the disk, or give another folder with LOADERD_STATE, and go on from the last checkpoint, \
         or open with on_log_error=\"continue\"",
        path = path.display()
    )]
    Io {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        source: Arc<rusqlite::Error>,
        /// The kernel's.
        system: Errno,
    },
    /// Any other failure to write or read.
    #[error("step log {path}: {source}", path = path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        source: Arc<rusqlite::Error>,
    },
    /// The same step was recorded before, with other rows.
    #[error(
        "step {step} of rank {rank} in run {run:?} (attempt {attempt}) was recorded before with other rows \
         (digest {then}, now {now}): the dataset or the code changed under the run; give the run another name"
    )]
    Mismatch {
        /// Run id.
        run: String,
        /// Attempt.
        attempt: u32,
        /// Rank.
        rank: u32,
        /// Step of the run.
        step: u64,
        /// Digest in the log.
        then: String,
        /// Digest now.
        now: String,
    },
    /// The database's file is not where it was: what is written to it nobody will find.
    #[error(
        "step log {path}: it was moved or removed while it was open; no batch was published without its record. \
         End the daemon (loaderd stop), and go on from the last checkpoint: the next daemon opens what is there, \
         or begins a new log",
        path = path.display()
    )]
    Gone {
        /// The database file.
        path: PathBuf,
    },
    /// The writer thread is gone.
    #[error("the step log's writer has ended")]
    Ended,
}

impl StepLogError {
    /// Why a run that goes on without records does so, and for how long.
    pub fn gone_on(&self) -> String {
        let why = match self {
            StepLogError::Full { path, cause, .. } => {
                format!("step log {}: {}", path.display(), cause.words())
            }
            StepLogError::Io {
                path,
                source,
                system,
            } => format!("step log {}: {source}: {system}", path.display()),
            StepLogError::Gone { path } => format!(
                "step log {}: it was moved or removed while it was open (the next daemon begins a new one: loaderd stop)",
                path.display()
            ),
            other => other.to_string(),
        };
        format!(
            "{why}; the run goes on, and has no records until there can be some (on_log_error=\"continue\")"
        )
    }
}

/// Why nothing can be added to the step log's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The disk is full.
    Disk,
    /// The user's share of the disk is.
    Quota,
    /// `RLIMIT_FSIZE` of the daemon.
    FileSizeLimit,
}

impl NoRoom {
    fn words(self) -> &'static str {
        match self {
            NoRoom::Disk => "no space left on the disk",
            NoRoom::Quota => "disk quota reached",
            NoRoom::FileSizeLimit => "file size limit reached (ulimit -f)",
        }
    }

    fn mend(self) -> &'static str {
        match self {
            NoRoom::Disk | NoRoom::Quota => "Free some space",
            NoRoom::FileSizeLimit => "Raise the daemon's limit",
        }
    }
}

/// What is recorded once for all steps of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Run id.
    pub run: String,
    /// Hash of everything that decides order and content; see `plan_hash` in [`crate::job`].
    pub plan_hash: String,
    /// Dataset URI.
    pub uri: String,
    /// Dataset version.
    pub version: u64,
    /// Tag it was asked for by.
    pub tag: Option<String>,
    /// Identity of that version's manifest.
    pub identity: String,
    /// Filter, as given.
    pub filter: Option<String>,
    /// Hash of the selected row addresses.
    pub selection: String,
    /// Selected rows.
    pub rows: u64,
    /// Columns delivered.
    pub columns: Vec<String>,
    /// By column of images or masks, the column of tiled ones that was read for some of its rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tiled: BTreeMap<String, TiledRead>,
    /// Transforms as canonical JSON by column.
    pub transform: String,
    /// Decoder and its version.
    pub decoder: String,
    /// Seed.
    pub seed: u64,
    /// Shuffled or in dataset order.
    pub shuffle: bool,
    /// Short last batch left out.
    pub drop_last: bool,
    /// Rows per rank and step.
    pub batch_size: u32,
    /// Ranks.
    pub world_size: u32,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
}

/// From where the rows of an image column were read that have a tiled form; the others were read
/// from the column itself. The pixels are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TiledRead {
    /// The column that holds it.
    pub column: String,
    /// In how many of the selected rows it is there.
    pub rows: u64,
}

/// What a step of a rank saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// From [`StepLog::open_job`].
    pub job: i64,
    /// Rank.
    pub rank: u32,
    /// Step of the run: `epoch × steps_per_epoch + epoch_step`.
    pub step: u64,
    /// Epoch.
    pub epoch: u64,
    /// Step within the epoch.
    pub epoch_step: u64,
    /// First position of the epoch's order in this batch.
    pub first_position: u64,
    /// Rows in this batch; their positions are consecutive.
    pub rows: u32,
    /// False where the rank had no row of its own and repeats one.
    pub valid: bool,
    /// blake3 over the batch's row addresses (u64, little-endian, in order), 32 hex digits.
    pub digest: String,
    /// Rows whose image could not be decoded: what became of them.
    pub bad: Vec<BadRow>,
}

/// A row whose image could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Position in the epoch's order.
    pub position: u64,
    /// Its row address.
    pub row_address: u64,
    /// Row address of its replacement; None: zeroed.
    pub replaced_by: Option<u64>,
    /// Why.
    pub cause: String,
}

/// How many rows of a batch the entries are about: a row has one for each replacement that was
/// tried, and for each of its images.
pub(crate) fn bad_rows(entries: &[BadRow]) -> usize {
    let mut positions: Vec<u64> = entries.iter().map(|bad| bad.position).collect();
    positions.sort_unstable();
    positions.dedup();
    positions.len()
}

/// A job's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobKey {
    /// Number of the job in the database.
    pub job: i64,
    /// 0, and one more for each resumption of the run, and each change of its decoder, of the
    /// dataset's place, or of the rows that are read tiled.
    pub attempt: u32,
}

/// Where the step log of a state folder lies.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}
