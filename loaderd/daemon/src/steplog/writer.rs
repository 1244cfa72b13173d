//! The one thread that writes the step log.
//!
//! Enters: requests over a bounded channel. Leaves: committed transactions, answers, and
//! delivered records on the ZeroMQ feed. Everything that waits in the channel goes into
//! one transaction; a full disk is retried until it has been full for [`FULL_DISK_WAIT`].

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::{Connection, ErrorCode, ffi};
use rustix::io::Errno;

use super::late::Late;
use super::query::read_step;
use super::{JobKey, JobRecord, NoRoom, StepLogError, StepRecord, store};
use crate::feed::Feed;

/// How long a disk may be full before nothing waits for it any more.
pub(super) const FULL_DISK_WAIT: Duration = Duration::from_secs(30);
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Requests that may wait: steps in flight of many sessions, each bounded by its slots.
const REQUESTS_MAX: usize = 4096;
/// Requests of one transaction.
const GROUP_MAX: usize = 512;

type Reply<T> = Sender<Result<T, StepLogError>>;

/// Steps that are to be prepared together, and who waits for them.
type Steps = (Vec<StepRecord>, Reply<()>);

enum Request {
    OpenJob(Box<JobRecord>, bool, Reply<(JobKey, Option<String>)>),
    OpenLater(
        Box<JobRecord>,
        bool,
        StepLogError,
        Reply<(JobKey, Option<String>)>,
    ),
    Prepare(Vec<StepRecord>, Reply<()>),
    Delivered(i64, u32, u64),
    Unlogged(i64, u64),
    Quit,
}

/// Handle of the writer thread. Cheap to share behind an `Arc`; dropping it writes what
/// waits and ends the thread.
pub struct StepLog {
    requests: Sender<Request>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    /// The log is being closed: a full disk is not waited for any more.
    closing: Arc<AtomicBool>,
}

impl StepLog {
    /// Opens or makes the database at `path`; delivered steps also go out on `feed`.
    pub fn open(path: &Path, feed: Option<Feed>) -> Result<StepLog, StepLogError> {
        let db = store::open(path)?;
        let (requests, inbox) = bounded(REQUESTS_MAX);
        let closing = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            db,
            feed,
            path: path.into(),
            file: file_at(path),
            closing: closing.clone(),
            full_wait: FULL_DISK_WAIT,
            full_since: None,
            full_said: false,
            delivered: Vec::new(),
            unlogged: BTreeMap::new(),
            late: Late::default(),
        };
        let thread = std::thread::Builder::new()
            .name("step-log".into())
            .spawn(move || writer.run(&inbox))
            .expect("a thread for the step log");
        Ok(StepLog {
            requests,
            thread: Some(thread),
            path: path.into(),
            closing,
        })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds or makes the job's row; blocks for the commit. `resumed` begins a new attempt, and
    /// so does another decoder. Returns the decoder of the latest attempt before, too.
    pub fn open_job(
        &self,
        record: JobRecord,
        resumed: bool,
    ) -> Result<(JobKey, Option<String>), StepLogError> {
        self.ask(|reply| Request::OpenJob(Box::new(record), resumed, reply))
    }

    /// Opens a job that can't be recorded now, because of `why`. It is recorded before its first
    /// step that can be, and until then its steps fail to be prepared. Returns what
    /// [`open_job`](Self::open_job) does.
    pub fn open_later(
        &self,
        record: JobRecord,
        resumed: bool,
        why: StepLogError,
    ) -> Result<(JobKey, Option<String>), StepLogError> {
        self.ask(|reply| Request::OpenLater(Box::new(record), resumed, why, reply))
    }

    /// Writes steps as prepared; returns when they are committed, or when the disk was full in
    /// between and `FULL_DISK_WAIT` has passed since it was first found so.
    pub fn prepare(&self, records: Vec<StepRecord>) -> Result<(), StepLogError> {
        self.ask(|reply| Request::Prepare(records, reply))
    }

    /// Marks a step that was prepared as handed out, some time soon.
    pub fn delivered(&self, job: i64, rank: u32, step: u64) {
        // The writer outlives every session, so a failed send can only be its panic,
        // which `prepare` reports.
        let _ = self.requests.send(Request::Delivered(job, rank, step));
    }

    /// Counts steps that were published without a record, to be written when that works again.
    pub fn unlogged(&self, job: i64, steps: u64) {
        let _ = self.requests.send(Request::Unlogged(job, steps));
    }

    /// From here on a full disk is not waited for: the daemon is leaving.
    pub fn hurry(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StepLogError> {
        let (reply, answer) = bounded(1);
        self.requests
            .send(request(reply))
            .map_err(|_| StepLogError::Ended)?;
        answer.recv().map_err(|_| StepLogError::Ended)?
    }
}

impl Drop for StepLog {
    fn drop(&mut self) {
        self.hurry();
        let _ = self.requests.send(Request::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    db: Connection,
    feed: Option<Feed>,
    path: PathBuf,
    /// What lay there when it was opened.
    file: Option<(u64, u64)>,
    closing: Arc<AtomicBool>,
    /// [`FULL_DISK_WAIT`], but in tests.
    full_wait: Duration,
    /// When the disk was found full; None once steps could be recorded again. Less than that
    /// may fit into what the files have, and says nothing of the disk. Who goes on without a
    /// record waits once, and not for every batch.
    full_since: Option<Instant>,
    /// That was said in the daemon's log.
    full_said: bool,
    /// Steps to be marked as delivered; kept until that could be written. Each has a record, so
    /// that they are no more than were on their way when writing failed.
    delivered: Vec<(i64, u32, u64)>,
    /// Steps published without a record, by job; kept until that could be written.
    unlogged: BTreeMap<i64, u64>,
    late: Late,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Request>) {
        let mut quit = false;
        while !quit {
            let Ok(first) = inbox.recv() else { break };
            let mut group = vec![first];
            group.extend(inbox.try_iter().take(GROUP_MAX - 1));
            quit = group.iter().any(|request| matches!(request, Request::Quit));
            self.serve(group);
        }
    }

    /// Serves a group of requests, in order, in one transaction.
    fn serve(&mut self, group: Vec<Request>) {
        // In a transaction of its own: who has a row needs nothing of those who have none.
        if file_at(&self.path) == self.file {
            let _ = self.late.record(&mut self.db);
        }
        let steps = self.take_in(group);
        self.write(steps);
    }

    /// Opens jobs, and keeps what is to be marked or counted. Returns the steps that are to be
    /// prepared.
    fn take_in(&mut self, group: Vec<Request>) -> Vec<Steps> {
        let mut steps = Vec::new();
        for request in group {
            match request {
                Request::OpenJob(record, resumed, reply) => {
                    let opened = self.retry(|db| store::open_job(db, &record, resumed, now_ms()));
                    let _ = reply.send(opened);
                }
                Request::OpenLater(record, resumed, why, reply) => {
                    crate::note(format_args!(
                        "loaderd: run {}: {}",
                        record.run,
                        why.gone_on()
                    ));
                    let key = self.late.add(&self.db, *record, resumed, now_ms(), why);
                    let _ = reply.send(Ok(key));
                }
                Request::Prepare(mut records, reply) => {
                    let found = records.iter_mut().try_for_each(|record| {
                        record.job = self.late.row(record.job)?;
                        Ok(())
                    });
                    match found {
                        Ok(()) => steps.push((records, reply)),
                        Err(error) => drop(reply.send(Err(error))),
                    }
                }
                Request::Delivered(job, rank, step) => {
                    // Only what has a record is marked, and so its job has one.
                    let row = self.late.row(job);
                    self.delivered.extend(row.map(|row| (row, rank, step)));
                }
                Request::Unlogged(job, count) => *self.unlogged.entry(job).or_default() += count,
                Request::Quit => {}
            }
        }
        steps
    }

    /// Writes steps, marks and counts in one transaction, and answers.
    fn write(&mut self, prepare: Vec<Steps>) {
        let delivered = std::mem::take(&mut self.delivered);
        let of_row = |(&job, &steps): (&i64, &u64)| Some((self.late.row(job).ok()?, steps));
        let unlogged: Vec<(i64, u64)> = self.unlogged.iter().filter_map(of_row).collect();
        let written = self.retry(|db| {
            let transaction = db.transaction()?;
            let now_ms = now_ms();
            let mut mismatches = Vec::new();
            let changes = transaction.total_changes();
            for (records, _) in &prepare {
                let mut mismatch = None;
                for record in records {
                    if let Err(then) = store::prepare(&transaction, record, now_ms)? {
                        mismatch = mismatch.or(Some((record.clone(), then)));
                    }
                }
                mismatches.push(mismatch);
            }
            let has_recorded = transaction.total_changes() > changes;
            for (job, rank, step) in &delivered {
                store::deliver(&transaction, *job, *rank, *step, now_ms)?;
            }
            for (job, steps) in &unlogged {
                store::add_unlogged(&transaction, *job, *steps)?;
            }
            transaction.commit()?;
            Ok((mismatches, has_recorded))
        });
        match written {
            Ok((mismatches, has_recorded)) => {
                if has_recorded {
                    (self.full_since, self.full_said) = (None, false);
                }
                self.unlogged.retain(|&job, _| self.late.row(job).is_err());
                for ((_, reply), mismatch) in prepare.into_iter().zip(mismatches) {
                    let answer = match mismatch {
                        None => Ok(()),
                        Some((record, then)) => Err(self.mismatch(&record, then)),
                    };
                    let _ = reply.send(answer);
                }
                self.publish(&delivered);
            }
            Err(error) => {
                self.delivered = delivered;
                let lasts = matches!(error, StepLogError::Full { .. } | StepLogError::Gone { .. });
                if !lasts || !std::mem::replace(&mut self.full_said, true) {
                    crate::note(format_args!("loaderd: {error}"));
                }
                for (_, reply) in prepare {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Runs `work` again while the disk is full, until it has been so for `full_wait`. SQLite goes
    /// on with a file that was removed, so that is found here.
    fn retry<T>(
        &mut self,
        mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StepLogError> {
        loop {
            if self.file.is_none() || file_at(&self.path) != self.file {
                let path = self.path.clone();
                return Err(StepLogError::Gone { path });
            }
            let error = match work(&mut self.db) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let path = self.path.clone();
            let system = system_error(&self.db, &error);
            let Some(cause) = no_room(&error, system) else {
                let source = Arc::new(error);
                return Err(match system {
                    Some(system) => StepLogError::Io {
                        path,
                        source,
                        system,
                    },
                    None => StepLogError::Sqlite { path, source },
                });
            };
            let waited = self.full_since.get_or_insert_with(Instant::now).elapsed();
            if waited >= self.full_wait || self.closing.load(Ordering::Relaxed) {
                return Err(StepLogError::Full {
                    path,
                    cause,
                    waited_s: waited.as_secs(),
                });
            }
            std::thread::sleep(RETRY_EVERY);
        }
    }

    fn mismatch(&self, record: &StepRecord, then: String) -> StepLogError {
        let (run, attempt) = self
            .db
            .query_row(
                "SELECT run, attempt FROM jobs WHERE id = ?1",
                [record.job],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap_or_else(|_| (format!("job {}", record.job), 0));
        StepLogError::Mismatch {
            run,
            attempt,
            rank: record.rank,
            step: record.step,
            then,
            now: record.digest.clone(),
        }
    }

    fn publish(&mut self, delivered: &[(i64, u32, u64)]) {
        let Some(feed) = &self.feed else { return };
        for &(job, rank, step) in delivered {
            if let Ok(Some(row)) = read_step(&self.db, job, rank, step) {
                feed.send("step", &row);
            }
        }
    }
}

/// Device and number of the file that lies at `path`.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// What the kernel said, where that is why SQLite's latest call failed.
fn system_error(db: &Connection, error: &rusqlite::Error) -> Option<Errno> {
    let code = error.sqlite_error()?.code;
    if !matches!(code, ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) {
        return None;
    }
    // SAFETY: the connection is open, and this thread alone uses it.
    let number = unsafe { ffi::sqlite3_system_errno(db.handle()) };
    (number != 0).then(|| Errno::from_raw_os_error(number))
}

/// What is in the way of an addition to the files, if that is why it failed. SQLite itself tells
/// ENOSPC alone from other failures to write, and not where it grows its shared memory file.
fn no_room(error: &rusqlite::Error, system: Option<Errno>) -> Option<NoRoom> {
    if error.sqlite_error()?.code == ErrorCode::DiskFull {
        return Some(NoRoom::Disk);
    }
    match system? {
        Errno::NOSPC => Some(NoRoom::Disk),
        Errno::DQUOT => Some(NoRoom::Quota),
        Errno::FBIG => Some(NoRoom::FileSizeLimit),
        _ => None,
    }
}

/// Unix time in ms.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
