//! A batch in the making: one slot, its rows, and what is still missing.
//!
//! Enters: a share of a step. Leaves: finished bytes in the slot, and the step's record.
//! Feeder and decode workers share it; it never blocks them. Rows of ragged columns have no
//! place of their own before all of them are known: [`gathered`] keeps them until then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use loaderd_plan::Draws;
use loaderd_wire::message::{Failure, Ready};
use loaderd_wire::segment::Segment;

use self::gathered::Gathered;
use crate::completion::{Countdown, RowEnd, RowParts};
use crate::job::{Input, Job, Origin};
use crate::steplog::{BadRow, StepRecord, bad_rows};

mod followers;
mod gathered;

pub(crate) use self::gathered::Value;

/// One row of a batch.
pub(crate) struct Row {
    /// Position in the epoch's order.
    pub(crate) position: u64,
    /// Row of the source that is delivered: the one of the order, or a replacement.
    index: AtomicU64,
    /// Replacements tried.
    pub(crate) attempt: AtomicU32,
    /// Values of this row that are not fetched or decoded yet, and whether one can't be.
    images: RowParts,
}

/// See the module.
pub(crate) struct Batch {
    pub(crate) job: Arc<Job>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) slot: u32,
    pub(crate) stream: u64,
    /// First step of the stream.
    pub(crate) stream_start: u64,
    pub(crate) epoch: u64,
    pub(crate) epoch_step: u64,
    pub(crate) rank: u32,
    /// False where the rank had no row of its own.
    pub(crate) valid: bool,
    pub(crate) rows: Vec<Row>,
    /// Rows that are not complete, and one for the feeder while it still plans.
    missing: Countdown,
    bad: Mutex<Vec<BadRow>>,
    failure: Mutex<Option<Failure>>,
    gathered: Gathered,
    placed: followers::Placed,
}

/// Where a value goes: one row of one tensor of a batch.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) batch: Arc<Batch>,
    pub(crate) row: usize,
    pub(crate) tensor: usize,
}

impl Place {
    /// What comes here.
    pub(crate) fn origin(&self) -> &Origin {
        &self.batch.job.origins[self.tensor]
    }

    /// The source's row that is delivered here.
    pub(crate) fn index(&self) -> u64 {
        self.batch.index(self.row)
    }

    /// What an image is drawn by that is read from `input`.
    pub(crate) fn draws(&self, input: Input) -> Draws {
        let (batch, seed) = (&self.batch, self.batch.job.request.seed);
        let position = batch.rows[self.row].position;
        Draws::new(seed, batch.epoch, position, input.number())
    }

    /// Its bytes in the slot.
    ///
    /// # Safety
    ///
    /// As of [`Batch::part`].
    #[allow(clippy::mut_from_ref, reason = "places are disjoint, see Safety")]
    pub(crate) unsafe fn bytes(&self) -> &mut [u8] {
        // SAFETY: the caller promises the same.
        unsafe { self.batch.part(self.row, self.tensor) }
    }
}

/// What completing a part of a batch led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More parts are missing.
    Open,
    /// The row is through, but one of its images could not be decoded.
    RowBad,
    /// The whole batch is through.
    Complete,
}

impl Batch {
    /// A batch of `positions`, whose rows `order` names, in a slot that is FILLING.
    pub(crate) fn new(
        job: Arc<Job>,
        segment: Arc<Segment>,
        slot: u32,
        (stream, stream_start): (u64, u64),
        (epoch, epoch_step, rank): (u64, u64, u32),
        valid: bool,
        rows: impl Iterator<Item = (u64, u64)>,
    ) -> Batch {
        let images = job
            .origins
            .iter()
            .filter(|origin| origin.input().is_some())
            .count() as u32;
        let rows: Vec<Row> = rows
            .map(|(position, index)| Row {
                position,
                index: AtomicU64::new(index),
                attempt: AtomicU32::new(0),
                images: RowParts::new(images),
            })
            .collect();
        let missing = if images > 0 { rows.len() as u32 } else { 0 } + 1;
        Batch {
            job,
            segment,
            slot,
            stream,
            stream_start,
            epoch,
            epoch_step,
            rank,
            valid,
            rows,
            missing: Countdown::new(missing),
            bad: Mutex::default(),
            failure: Mutex::default(),
            gathered: Gathered::default(),
            placed: followers::Placed::default(),
        }
    }

    /// The source's row that row `row` of this batch delivers.
    pub(crate) fn index(&self, row: usize) -> u64 {
        // Relaxed: the feeder sets it before it queues the row's reads, and queues order.
        self.rows[row].index.load(Ordering::Relaxed)
    }

    /// Where the bytes of one row of one tensor lie in the slot.
    ///
    /// # Safety
    ///
    /// The caller must be the only one to use this row of this tensor: the slot is
    /// FILLING, and the part (row, tensor) was handed to this caller alone.
    #[allow(clippy::mut_from_ref, reason = "parts are disjoint, see Safety")]
    pub(crate) unsafe fn part(&self, row: usize, tensor: usize) -> &mut [u8] {
        let tensor = &self.job.layout.tensors[tensor];
        assert!(tensor.ragged.is_none(), "ragged rows have no place");
        let bytes = tensor.row_bytes() as usize;
        let start = tensor.offset as usize + row * bytes;
        assert!(start + bytes <= self.segment.slot_bytes() as usize);
        // SAFETY: the slot is mapped for as long as the segment, which `self` holds, and
        // the range lies within it; the caller vouches for exclusive use.
        unsafe {
            std::slice::from_raw_parts_mut(self.segment.slot_ptr(self.slot).add(start), bytes)
        }
    }

    /// An image of a row is done with, decoded or not.
    pub(crate) fn image_done(&self, row: usize, bad: bool) -> Progress {
        match self.rows[row].images.done(bad) {
            None => Progress::Open,
            Some(RowEnd::Bad) => Progress::RowBad,
            Some(RowEnd::Good) => self.row_done(),
        }
    }

    /// One more part than rows will be missing. Only while the feeder plans the batch.
    pub(crate) fn expect_part(&self) {
        self.missing.expect();
    }

    /// A row or other part needs nothing more; also called once by the feeder when it has planned all.
    pub(crate) fn row_done(&self) -> Progress {
        match self.missing.done() {
            false => Progress::Open,
            true => Progress::Complete,
        }
    }

    /// Which row of the source comes next where this one is bad, and the attempt's number:
    /// a pure function of seed, epoch, position and attempt.
    pub(crate) fn successor(&self, row: usize) -> (u32, u64) {
        let row = &self.rows[row];
        let attempt = row.attempt.load(Ordering::Relaxed) + 1;
        let (rows, seed) = (self.job.source.rows(), self.job.request.seed);
        let index = loaderd_plan::replacement(rows, seed, self.epoch, row.position, attempt);
        (attempt, index)
    }

    /// Another row of the source takes this one's place; its images are to be read.
    pub(crate) fn replace(&self, row: usize, index: u64, attempt: u32) {
        self.forget_placed(row);
        let images = self.images() as u32;
        let row = &self.rows[row];
        row.index.store(index, Ordering::Relaxed);
        row.attempt.store(attempt, Ordering::Relaxed);
        row.images.restart(images);
    }

    /// Columns whose values have to be fetched row by row, by number, and from where.
    pub(crate) fn image_tensors(&self) -> impl Iterator<Item = (usize, Input)> + '_ {
        let origins = self.job.origins.iter().enumerate();
        origins.filter_map(|(tensor, origin)| Some((tensor, origin.input()?)))
    }

    fn images(&self) -> usize {
        self.image_tensors().count()
    }

    /// Records a row that could not be decoded.
    pub(crate) fn note_bad(&self, bad: BadRow) {
        self.bad.lock().expect("no panic while held").push(bad);
    }

    /// The batch can't be delivered; the first reason counts.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut first = self.failure.lock().expect("no panic while held");
        first.get_or_insert(Failure {
            stream: Some(self.stream),
            ..failure
        });
    }

    /// Why the batch can't be delivered.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.lock().expect("no panic while held").clone()
    }

    /// Step of the run.
    pub(crate) fn step(&self) -> u64 {
        self.epoch * self.job.steps.count() + self.epoch_step
    }

    /// What the step log keeps.
    pub(crate) fn record(&self) -> StepRecord {
        let mut hasher = blake3::Hasher::new();
        for row in 0..self.rows.len() {
            let address = self.job.source.row_address(self.index(row));
            hasher.update(&address.to_le_bytes());
        }
        let mut bad = self.bad.lock().expect("no panic while held").clone();
        bad.sort_by_key(|bad| bad.position);
        StepRecord {
            job: self.job.key.job,
            rank: self.rank,
            step: self.step(),
            epoch: self.epoch,
            epoch_step: self.epoch_step,
            first_position: self.rows.first().map_or(0, |row| row.position),
            rows: self.rows.len() as u32,
            valid: self.valid,
            digest: hasher.finalize().to_hex()[..32].into(),
            bad,
        }
    }

    /// What the client is told.
    pub(crate) fn ready(&self, lease: u64, published_ns: u64) -> Ready {
        Ready {
            stream: self.stream,
            lease,
            slot: self.slot,
            rows: self.rows.len() as u32,
            epoch: self.epoch,
            epoch_step: self.epoch_step,
            step: self.step(),
            position: self.job.steps.position_at(self.epoch_step + 1),
            bad_rows: bad_rows(&self.bad.lock().expect("no panic while held")) as u32,
            published_ns,
            ragged: self.gathered.parts(),
            oversize: None,
        }
    }
}
