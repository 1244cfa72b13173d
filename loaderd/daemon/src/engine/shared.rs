//! What the threads of a session share, and the handle that its connection has.
//!
//! Enters: `start`, `delivered`, `release`; parts of batches that are done with. Leaves: slots, and
//! batches that are whole, for the publisher. It has no thread, and its lock is held for moments.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use loaderd_gpu::unit::Registered;
use loaderd_read::Extent;
use loaderd_wire::message::{Failure, FailureKind, OnBadSample};
use loaderd_wire::segment::Segment;

use super::Timings;
use super::offer::OnGpu;
use crate::batch::{Batch, Place, Progress};
use crate::job::{Job, failure};
use crate::memory::{Reserved, SlotMemory};
use crate::slots::{SlotTable, UnknownLease};

/// What the threads of a session share.
pub(super) struct Session {
    /// Where its job is decoded on a GPU.
    pub(super) on_gpu: Option<OnGpu>,
    pub(super) job: Arc<Job>,
    pub(super) rank: u32,
    pub(super) segment: Arc<Segment>,
    pub(super) state: Mutex<State>,
    /// Wakes the feeder: a slot came free, a stream starts, a row is to be redone, the end.
    pub(super) wake: Condvar,
    /// The stream that counts, 0 when none does; batches of others are dropped. A hint that
    /// saves work: what decides is the publisher, which alone ends a stream early.
    pub(super) stream: AtomicU64,
    pub(super) ended: AtomicBool,
    /// By tensor: whether it was said that frames besides the first are left out. Only
    /// keeps the daemon's log short, so nothing is published with it.
    pub(super) animated: Vec<AtomicBool>,
    pub(super) finished: Sender<Finished>,
    pub(super) timings: Option<Arc<Timings>>,
    pub(super) memory: Arc<SlotMemory>,
    /// Batches that were too large for their slot. A mere count: relaxed.
    pub(super) oversize: AtomicU64,
    /// Bytes that the reader has brought. As above.
    pub(super) read_bytes: AtomicU64,
}

/// A batch that the user has been handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Step of the run.
    pub step: u64,
    /// The step log has a record of it. Without one there is nothing to mark as delivered.
    pub is_logged: bool,
}

/// What is remembered of a batch that a client has.
#[derive(Clone)]
pub(super) struct Lent {
    pub(super) handed: Handed,
    /// Of its memfd, where it has one.
    pub(super) _memory: Option<Arc<Reserved>>,
}

pub(super) struct State {
    pub(super) slots: SlotTable<Lent>,
    pub(super) start: Option<Start>,
    pub(super) last_stream: u64,
    pub(super) redo: Vec<(Arc<Batch>, usize)>,
    /// Images whose parts did not do: they are to be read whole, from there.
    pub(super) whole: Vec<(Place, Extent)>,
    pub(super) ended: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) stream: u64,
    pub(super) epoch: u64,
    pub(super) step: u64,
}

pub(super) enum Finished {
    Batch(Arc<Batch>),
    Quit,
}

impl Session {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub(super) fn is_current(&self, batch: &Batch) -> bool {
        batch.stream == self.stream.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// The parts of an image that were read can't be decoded: what is wrong, if anything is, the
    /// whole of it shows.
    pub(super) fn read_whole(&self, place: Place, extent: Extent) {
        self.lock().whole.push((place, extent));
        self.wake.notify_all();
    }

    /// An image is done with, decoded or not.
    pub(super) fn image_done(&self, place: &Place, bad: bool) {
        let progress = place.batch.image_done(place.row, bad);
        self.after(&place.batch, place.row, progress);
    }

    /// Follows up on a part of a batch that is done with.
    pub(super) fn after(&self, batch: &Arc<Batch>, row: usize, progress: Progress) {
        match progress {
            Progress::Open => {}
            Progress::Complete => self.complete(batch),
            Progress::RowBad => self.bad_row(batch, row),
        }
    }

    /// Every part of the batch is done with: packs what is ragged, and hands it on.
    pub(super) fn complete(&self, batch: &Arc<Batch>) {
        if self.is_current(batch) {
            batch.pack(&self.memory, || self.is_current(batch));
        }
        // Never full: there is room for every slot, and a batch owns one.
        let _ = self.finished.send(Finished::Batch(batch.clone()));
    }

    /// A row went through with an image that could not be decoded, under a policy other
    /// than `raise`.
    fn bad_row(&self, batch: &Arc<Batch>, row: usize) {
        let again = self.job.request.on_bad_sample == OnBadSample::Replace
            && self.is_current(batch)
            && batch.failure().is_none();
        if again {
            self.lock().redo.push((batch.clone(), row));
            self.wake.notify_all();
        } else {
            batch.blank_masks(row);
            let progress = batch.row_done();
            if progress == Progress::Complete {
                self.complete(batch);
            }
        }
    }
}

/// A session's controls. Dropping it ends the session's threads; slots that clients still
/// map stay mapped on their side.
pub struct SessionHandle {
    /// Before `session`: slots are unpinned, for which the GPU has to be done with them, before
    /// they are unmapped.
    pub(super) pinned: Option<Registered>,
    pub(super) session: Arc<Session>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

impl SessionHandle {
    pub(super) fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), Failure> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(thread.map_err(|error| {
            failure(
                FailureKind::Limit,
                format!("no thread to be had for a session: {error}"),
            )
        })?);
        Ok(())
    }

    /// Begins a stream at a step of an epoch; the one before it ends. Returns false at the
    /// epoch's end, where nothing is left to send.
    pub fn start(&self, stream: u64, epoch: u64, step: u64) -> Result<bool, Failure> {
        let count = self.session.job.steps.count();
        if step > count {
            return Err(failure(
                FailureKind::Request,
                format!("step {step} is outside an epoch of {count} steps"),
            ));
        }
        // Steps are numbered over all epochs, and the step log's numbers are signed.
        let end = epoch
            .checked_add(1)
            .and_then(|epochs| epochs.checked_mul(count));
        if end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(failure(
                FailureKind::Request,
                format!(
                    "epoch {epoch} of {count} steps is too far: steps of a run are counted up to 2^63"
                ),
            ));
        }
        let mut state = self.session.lock();
        if stream <= state.last_stream {
            return Err(failure(
                FailureKind::Request,
                format!("stream {stream} is not larger than the one before"),
            ));
        }
        state.last_stream = stream;
        self.session.stream.store(stream, Ordering::Relaxed);
        state.start = Some(Start {
            stream,
            epoch,
            step,
        });
        drop(state);
        self.session.wake.notify_all();
        Ok(step < count)
    }

    /// The user has the batch. Returns what it is where this is news.
    pub fn delivered(&self, lease: u64) -> Result<Option<Handed>, UnknownLease> {
        let lent = self.session.lock().slots.deliver(lease)?;
        Ok(lent.map(|lent| lent.handed))
    }

    /// The client is done with the batch.
    pub fn release(&self, lease: u64) -> Result<(), UnknownLease> {
        self.session.lock().slots.release(lease)?;
        self.session.wake.notify_all();
        Ok(())
    }

    /// Slots by state: free, filling, ready, leased.
    pub fn slots(&self) -> [u32; 4] {
        self.session.lock().slots.counts()
    }

    /// Bytes read so far from the dataset's files.
    pub fn read_bytes(&self) -> u64 {
        self.session.read_bytes.load(Ordering::Relaxed)
    }

    /// Batches so far that were too large for their slot.
    pub fn oversize(&self) -> u64 {
        self.session.oversize.load(Ordering::Relaxed)
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.session.lock().ended = true;
        self.session.ended.store(true, Ordering::Relaxed);
        self.session.wake.notify_all();
        // The feeder first, which makes the batches. Those that workers still have are dropped by
        // whoever is done with them last.
        let mut threads = self.threads.drain(..);
        if let Some(feeder) = threads.next() {
            let _ = feeder.join();
        }
        let _ = self.session.finished.send(Finished::Quit);
        for thread in threads {
            let _ = thread.join();
        }
        // Whoever offers a picture from here on is given it back.
        self.pinned = None;
    }
}
