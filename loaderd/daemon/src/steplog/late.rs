//! Jobs that were opened while the log could not be written.
//!
//! Enters: their records, in the order of opening. Leaves: a number for each, which stands for
//! its row, and that row once there is one. It never waits, and tries only when it is told to.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::store::Reading;
use super::{JobKey, JobRecord, StepLogError, store};

/// See the module.
#[derive(Default)]
pub(super) struct Late {
    /// Those without a row, in the order of opening.
    waiting: Vec<Waiting>,
    /// Rows of the others, by the numbers that were given out: a few bytes for each job that
    /// was opened on a full disk.
    rows: BTreeMap<i64, i64>,
    /// That was given out last. Rows count upwards from 1, and these downwards from -1.
    number: i64,
}

struct Waiting {
    number: i64,
    record: JobRecord,
    resumed: bool,
    attempt: u32,
    /// Unix time in ms.
    started_ms: i64,
    /// Why it has no row.
    why: StepLogError,
}

impl Late {
    /// Takes a job in. Its attempt follows those that are in the log and those that wait, as it
    /// will when it is recorded; where the log can't be read either, it counts from 0. Returns the
    /// decoder of the attempt before, too.
    pub(super) fn add(
        &mut self,
        db: &Connection,
        record: JobRecord,
        resumed: bool,
        now_ms: i64,
        why: StepLogError,
    ) -> (JobKey, Option<String>) {
        let latest = self
            .waiting
            .iter()
            .rfind(|one| {
                (&one.record.run, &one.record.plan_hash) == (&record.run, &record.plan_hash)
            })
            .map(|one| (one.attempt, Reading::of(&one.record)))
            .or_else(|| {
                let (key, reading) = store::latest(db, &record).ok()??;
                Some((key.attempt, reading))
            });
        let attempt = latest.as_ref().map_or(0, |(attempt, reading)| {
            attempt + u32::from(resumed || *reading != Reading::of(&record))
        });
        self.number -= 1;
        self.waiting.push(Waiting {
            number: self.number,
            record,
            resumed,
            attempt,
            started_ms: now_ms,
            why,
        });
        let key = JobKey {
            job: self.number,
            attempt,
        };
        (key, latest.map(|(_, reading)| reading.decoder))
    }

    /// Gives rows to those that wait, until one of them can't have any.
    pub(super) fn record(&mut self, db: &mut Connection) -> rusqlite::Result<()> {
        while let Some(first) = self.waiting.first() {
            let (key, _) = store::open_job(db, &first.record, first.resumed, first.started_ms)?;
            self.rows.insert(first.number, key.job);
            self.waiting.remove(0);
        }
        Ok(())
    }

    /// The row of a job, by the number that was given out for it.
    pub(super) fn row(&self, job: i64) -> Result<i64, StepLogError> {
        if job >= 0 {
            return Ok(job);
        }
        match self.waiting.iter().find(|one| one.number == job) {
            Some(one) => Err(one.why.clone()),
            None => self.rows.get(&job).copied().ok_or(StepLogError::Ended),
        }
    }
}
