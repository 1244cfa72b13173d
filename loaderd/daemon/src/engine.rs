//! Where stages, threads and queues meet: the only module in which they do. This file
//! starts the threads and holds what they share; each kind of thread has a file below.
//!
//! ```text
//! feeder (one per session)        decode workers (one pool)        publisher (one per session)
//!   takes a FREE slot, plans  ──►  crop, decode, resize      ──►   puts steps in order, has them
//!   the step, reads its bytes      into the slot                   logged, then tells the client
//!          ▲                            │ bad sample                      │
//!          └────────── redo ◄───────────┘          slots ◄── release ─────┘ (client)
//! ```
//!
//! Where a session decodes on a GPU, workers offer images to its unit, which has threads of its
//! own; what these are done with, or could not do, comes back to the workers.
//!
//! Enters: `start`, `delivered`, `release` of a session. Leaves: [`Event`]s, in step order.
//! Every queue is bounded: bytes by the reader's slabs, batches by the session's slots, what
//! comes back from the unit by what it holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use loaderd_decode as decode;
use loaderd_decode::cut::Pieces;
use loaderd_gpu::unit::Registered;
use loaderd_read::{Backend, Buffer, EngineReport, Extent, Mode};
use loaderd_wire::message::{Failure, FailureKind, OnBadSample, Ready};
use loaderd_wire::segment::Segment;

use self::feeder::Feeder;
use self::offer::OnGpu;
use self::publisher::Publisher;
use crate::batch::{Batch, Place, Progress};
use crate::gpu::Gpu;
use crate::job::{Job, failure};
use crate::memory::{Reserved, SlotMemory};
use crate::slots::{SlotTable, UnknownLease};
use crate::steplog::StepLog;

mod copy;
mod feeder;
mod named;
mod offer;
mod publisher;
mod timings;
mod worker;

pub(crate) use self::feeder::{GPU_SLAB_MEMORY_MAX, SLAB_MEMORY_MAX};
pub use self::timings::Timings;

/// Decode tasks that may wait per worker: enough to hide the feeder's wake-up, few
/// enough that the bytes are still in cache.
const TASKS_PER_WORKER: usize = 16;
/// How often a waiting thread looks whether its session has ended, should a wake-up be missed.
const NAP: Duration = Duration::from_millis(100);

/// What happens in a session, for its client.
#[derive(Debug)]
pub enum Event {
    /// A batch is in its slot and in the step log; with the memfd that holds its ragged
    /// columns, where they are too large for the slot.
    Ready(Ready, Option<Segment>),
    /// All steps of the epoch were sent.
    EndOfEpoch {
        /// The stream.
        stream: u64,
        /// The epoch.
        epoch: u64,
    },
    /// The stream has ended early.
    Failed(Failure),
}

/// Takes events; returns false when nobody listens any more. May block.
pub type Outlet = Box<dyn Fn(Event) -> bool + Send + Sync>;

enum Encoded {
    Read(Buffer),
    /// Read from here, and nothing is known yet of where its segments lie.
    New(Buffer, Extent),
    /// The parts that its crop takes.
    Pieces(Box<Pieced>),
    Shared(Arc<[u8]>),
    /// In the file that this text names.
    Named(Vec<u8>),
    /// Back from the GPU, which may not have let go of it yet.
    Kept(Arc<Encoded>),
}

impl Encoded {
    /// Its parts, where not all of it was read.
    fn pieced(&self) -> Option<&Pieced> {
        match self {
            Encoded::Pieces(pieced) => Some(pieced),
            Encoded::Kept(encoded) => encoded.pieced(),
            _ => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Encoded::Read(buffer) | Encoded::New(buffer, _) => buffer,
            Encoded::Pieces(_) => unreachable!("only images that are cropped are read in pieces"),
            Encoded::Shared(bytes) => bytes,
            Encoded::Named(_) => unreachable!("files are read before they are decoded"),
            Encoded::Kept(encoded) => encoded.bytes(),
        }
    }
}

/// Parts of a JPEG that were read.
struct Pieced {
    pieces: Pieces,
    /// Where all of it lies.
    whole: Extent,
    /// The header; where it was read in one go with the body, that buffer holds it, and what lies
    /// between.
    head: Option<Buffer>,
    body: Buffer,
}

impl Pieced {
    /// Header and body.
    fn parts(&self) -> (&[u8], &[u8]) {
        let (head, body) = (self.pieces.head().len(), self.pieces.body());
        match &self.head {
            Some(buffer) => (buffer, &self.body),
            None => (&self.body[..head], &self.body[body.start as usize..]),
        }
    }
}

/// Work for the pool.
enum Task {
    /// Decode one image into its place.
    Image {
        session: Arc<Session>,
        place: Place,
        encoded: Encoded,
    },
    /// Decode some masks, each into its place: one alone is less work than handing it over.
    Masks {
        session: Arc<Session>,
        masks: Vec<(Place, Encoded)>,
    },
    /// Copy fixed values of some rows into their places.
    Copy {
        session: Arc<Session>,
        batch: Arc<Batch>,
        tensor: usize,
        column: usize,
        rows: std::ops::Range<usize>,
    },
    /// Follow up on an image that the GPU has finished.
    Rest {
        session: Arc<Session>,
        place: Place,
        rest: Rest,
    },
}

/// What is left to do once a GPU has finished an image.
enum Rest {
    /// It was its row's last part.
    Progress(Progress),
    /// The mask of this tensor does not fit it.
    Misfit(usize, String),
}

/// How a session's reader reads.
#[derive(Debug)]
pub struct Reading {
    /// In words.
    pub how: String,
    /// It costs more than it should: there is no ring. Buffers that are not registered cost next to
    /// nothing, and most users may not lock enough memory for them.
    pub degraded: bool,
}

impl Reading {
    fn new(report: &EngineReport, mode: Mode) -> Reading {
        Reading {
            how: format!("reading with {report}"),
            degraded: report.backend == Backend::Pread && mode != Mode::Pread,
        }
    }
}

/// The pool of decode workers, shared by all sessions. Dropping it ends them; sessions
/// must be gone by then.
pub struct Engine {
    tasks: Option<Sender<Task>>,
    /// What comes back from the GPU. Without a bound, because the unit's threads must not wait:
    /// there is never more in it than the unit held.
    back: Sender<Task>,
    workers: Vec<JoinHandle<()>>,
    memory: Arc<SlotMemory>,
    timings: Option<Arc<Timings>>,
    gpu: Arc<Gpu>,
}

impl Engine {
    /// Starts `threads` workers. What batches need beyond their slots is taken from `memory`.
    /// With `timings`, every stage is timed into them. `gpu` ends with the engine.
    pub fn start(
        threads: usize,
        limits: decode::Limits,
        memory: Arc<SlotMemory>,
        timings: Option<Arc<Timings>>,
        gpu: Arc<Gpu>,
    ) -> std::io::Result<Engine> {
        let (tasks, inbox) = bounded::<Task>(threads * TASKS_PER_WORKER);
        let (back, first) = unbounded();
        let workers = (0..threads)
            .map(|n| {
                let (first, inbox) = (first.clone(), inbox.clone());
                std::thread::Builder::new()
                    .name(format!("decode-{n}"))
                    .spawn(move || worker::work(&first, &inbox, limits))
            })
            .collect::<Result<_, _>>()?;
        Ok(Engine {
            tasks: Some(tasks),
            back,
            workers,
            timings,
            memory,
            gpu,
        })
    }

    /// The GPU that sessions share.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Begins a session of one rank: starts its feeder and its publisher, and says how
    /// bytes are read where the source has files. Nothing flows before
    /// [`SessionHandle::start`].
    pub fn session(
        &self,
        job: Arc<Job>,
        rank: u32,
        segment: Arc<Segment>,
        log: Arc<StepLog>,
        read_mode: Mode,
        outlet: Outlet,
    ) -> Result<(SessionHandle, Option<Reading>), Failure> {
        let slots = segment.slot_count();
        let (on_gpu, pinned) = OnGpu::of(&job, &segment, &self.gpu, &self.back)?.unzip();
        // Room for every slot: a worker that finishes a batch never waits here.
        let (finished, inbox) = bounded(slots as usize + 1);
        let animated = job.origins.iter().map(|_| AtomicBool::new(false)).collect();
        let session = Arc::new(Session {
            on_gpu,
            job,
            rank,
            segment,
            state: Mutex::new(State {
                slots: SlotTable::new(slots),
                start: None,
                last_stream: 0,
                redo: Vec::new(),
                whole: Vec::new(),
                ended: false,
            }),
            wake: Condvar::new(),
            stream: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            animated,
            finished,
            timings: self.timings.clone(),
            memory: self.memory.clone(),
            oversize: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        });
        let feeder = Feeder::new(
            session.clone(),
            self.tasks.clone().expect("the engine runs"),
            read_mode,
            self.threads(),
        );
        let publisher = Publisher::new(session.clone(), log, outlet);
        let (opened, reader) = bounded(1);
        let mut handle = SessionHandle {
            pinned,
            session,
            threads: Vec::new(),
        };
        handle.spawn("feeder", move || feeder.run(&opened))?;
        handle.spawn("publisher", move || publisher.run(&inbox))?;
        // The ring belongs to the thread that makes it, so the feeder does, and tells us.
        let report = reader
            .recv()
            .unwrap_or_else(|_| Err("the feeder has ended".into()))
            .map_err(|error| failure(FailureKind::Io, error))?;
        Ok((handle, report))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // First the unit, so that all it had comes back before the workers' last task.
        self.gpu.end();
        self.tasks = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// What the threads of a session share.
struct Session {
    /// Where its job is decoded on a GPU.
    on_gpu: Option<OnGpu>,
    job: Arc<Job>,
    rank: u32,
    segment: Arc<Segment>,
    state: Mutex<State>,
    /// Wakes the feeder: a slot came free, a stream starts, a row is to be redone, the end.
    wake: Condvar,
    /// The stream that counts, 0 when none does; batches of others are dropped. A hint that
    /// saves work: what decides is the publisher, which alone ends a stream early.
    stream: AtomicU64,
    ended: AtomicBool,
    /// By tensor: whether it was said that frames besides the first are left out. Only
    /// keeps the daemon's log short, so nothing is published with it.
    animated: Vec<AtomicBool>,
    finished: Sender<Finished>,
    timings: Option<Arc<Timings>>,
    memory: Arc<SlotMemory>,
    /// Batches that were too large for their slot. A mere count: relaxed.
    oversize: AtomicU64,
    /// Bytes that the reader has brought. As above.
    read_bytes: AtomicU64,
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
struct Lent {
    handed: Handed,
    /// Of its memfd, where it has one.
    _memory: Option<Arc<Reserved>>,
}

struct State {
    slots: SlotTable<Lent>,
    start: Option<Start>,
    last_stream: u64,
    redo: Vec<(Arc<Batch>, usize)>,
    /// Images whose parts did not do: they are to be read whole, from there.
    whole: Vec<(Place, Extent)>,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Start {
    stream: u64,
    epoch: u64,
    step: u64,
}

enum Finished {
    Batch(Arc<Batch>),
    Quit,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn is_current(&self, batch: &Batch) -> bool {
        batch.stream == self.stream.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// The parts of an image that were read can't be decoded: what is wrong, if anything is, the
    /// whole of it shows.
    fn read_whole(&self, place: Place, extent: Extent) {
        self.lock().whole.push((place, extent));
        self.wake.notify_all();
    }

    /// An image is done with, decoded or not.
    fn image_done(&self, place: &Place, bad: bool) {
        let progress = place.batch.image_done(place.row, bad);
        self.after(&place.batch, place.row, progress);
    }

    /// Follows up on a part of a batch that is done with.
    fn after(&self, batch: &Arc<Batch>, row: usize, progress: Progress) {
        match progress {
            Progress::Open => {}
            Progress::Complete => self.complete(batch),
            Progress::RowBad => self.bad_row(batch, row),
        }
    }

    /// Every part of the batch is done with: packs what is ragged, and hands it on.
    fn complete(&self, batch: &Arc<Batch>) {
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
    pinned: Option<Registered>,
    session: Arc<Session>,
    threads: Vec<JoinHandle<()>>,
}

impl SessionHandle {
    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests;
