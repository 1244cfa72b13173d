//! Where stages, threads and queues meet: the only module in which they do. This file
//! starts the threads; each kind of them has a file below, and so has what they share.
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

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use loaderd_decode as decode;
use loaderd_read::{Backend, EngineReport, Mode};
use loaderd_wire::message::{Failure, FailureKind, Ready};
use loaderd_wire::segment::Segment;

use self::encoded::{Encoded, Pieced};
use self::feeder::Feeder;
use self::offer::OnGpu;
use self::publisher::Publisher;
use self::shared::{Finished, Lent, Session, Start, State};
use crate::batch::{Batch, Place, Progress};
use crate::gpu::Gpu;
use crate::job::{Job, failure};
use crate::memory::SlotMemory;
use crate::slots::SlotTable;
use crate::steplog::StepLog;

mod copy;
mod encoded;
mod feeder;
mod named;
mod offer;
mod publisher;
mod shared;
mod timings;
mod worker;

pub(crate) use self::feeder::{GPU_SLAB_MEMORY_MAX, SLAB_MEMORY_MAX};
pub use self::shared::{Handed, SessionHandle};
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

/// Work for the pool, and whose it is.
struct Task {
    session: Arc<Session>,
    work: Work,
}

enum Work {
    /// Decode images and masks, each into its place. Masks come several at once: one alone is less
    /// work than handing it over.
    Decode(Vec<(Place, Encoded)>),
    /// Copy fixed values of some rows into their places.
    Copy {
        batch: Arc<Batch>,
        tensor: usize,
        column: usize,
        rows: std::ops::Range<usize>,
    },
    /// Follow up on an image that the GPU has finished.
    Finish(Place, Rest),
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

#[cfg(test)]
mod tests;
