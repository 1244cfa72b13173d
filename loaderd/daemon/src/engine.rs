//! Where stages, threads and queues meet: the only file in which they do.
//!
//! ```text
//! feeder (one per session)        decode workers (one pool)        publisher (one per session)
//!   takes a FREE slot, plans  ──►  crop, decode, resize      ──►   puts steps in order, has them
//!   the step, reads its bytes      into the slot                   logged, then tells the client
//!          ▲                            │ bad sample                      │
//!          └────────── redo ◄───────────┘          slots ◄── release ─────┘ (client)
//! ```
//!
//! Enters: `start`, `delivered`, `release` of a session. Leaves: [`Event`]s, in step order.
//! Every queue is bounded: bytes by the reader's slabs, batches by the session's slots.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use loaderd_decode as decode;
use loaderd_plan::{Draws, Order, replacement};
use loaderd_read::{Backend, Buffer, Config, EngineReport, Extent, Mode, Reader};
use loaderd_wire::message::{Failure, FailureKind, OnBadSample, OnLogError, Ready};
use loaderd_wire::segment::Segment;

use crate::batch::{Batch, Progress};
use crate::clock;
use crate::job::{Job, Origin, failure};
use crate::slots::{SlotTable, UnknownLease};
use crate::source::Payload;
use crate::steplog::{BadRow, StepLog};

/// Decode tasks that may wait per worker: enough to hide the feeder's wake-up, few
/// enough that the bytes are still in cache.
const TASKS_PER_WORKER: usize = 16;
/// Memory for encoded bytes of one session, in bytes: its reader's slabs.
const SLAB_MEMORY_MAX: u64 = 16 << 20;
/// Replacements tried for one position before the stream fails.
const REPLACEMENTS_MAX: u32 = 32;
/// Fixed columns up to this many bytes per batch are copied by the feeder, larger ones by
/// the workers in chunks of about this size.
const COPY_CHUNK_BYTES: u64 = 1 << 20;
/// How often a waiting thread looks whether its session has ended, should a wake-up be missed.
const NAP: Duration = Duration::from_millis(100);

/// What happens in a session, for its client.
#[derive(Debug)]
pub enum Event {
    /// A batch is in its slot and in the step log.
    Ready(Ready),
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

/// What the stages have done, summed over a session; all counters only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches published.
    pub batches: AtomicU64,
    /// Rows published.
    pub rows: AtomicU64,
    /// Images decoded.
    pub images: AtomicU64,
    /// Encoded bytes that were decoded.
    pub encoded_bytes: AtomicU64,
    /// CPU time of the workers in decode, resize and normalise, in ns.
    pub decode_cpu_ns: AtomicU64,
    /// CPU time of the feeder: planning, reading, copying labels, in ns.
    pub feed_cpu_ns: AtomicU64,
    /// CPU time of the publisher, in ns.
    pub publish_cpu_ns: AtomicU64,
    /// Bad samples met.
    pub bad_rows: AtomicU64,
}

enum Encoded {
    Read(Buffer),
    Shared(Arc<[u8]>),
}

impl Encoded {
    fn bytes(&self) -> &[u8] {
        match self {
            Encoded::Read(buffer) => buffer,
            Encoded::Shared(bytes) => bytes,
        }
    }
}

/// Work for the pool.
enum Task {
    /// Decode one image into its place.
    Image {
        session: Arc<Session>,
        batch: Arc<Batch>,
        row: usize,
        tensor: usize,
        encoded: Encoded,
    },
    /// Copy fixed values of some rows into their places.
    Copy {
        session: Arc<Session>,
        batch: Arc<Batch>,
        tensor: usize,
        column: usize,
        rows: std::ops::Range<usize>,
    },
}

/// How a session's reader reads.
#[derive(Debug)]
pub struct Reading {
    /// In words.
    pub how: String,
    /// It is not the engine that was hoped for.
    pub degraded: bool,
}

impl Reading {
    fn new(report: &EngineReport, mode: Mode) -> Reading {
        Reading {
            how: format!("reading with {report}"),
            degraded: report.backend != Backend::UringFixed && mode != Mode::Pread,
        }
    }
}

/// The pool of decode workers, shared by all sessions. Dropping it ends them; sessions
/// must be gone by then.
pub struct Engine {
    tasks: Option<Sender<Task>>,
    workers: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts `threads` workers.
    pub fn start(threads: usize, limits: decode::Limits) -> std::io::Result<Engine> {
        let (tasks, inbox) = bounded::<Task>(threads * TASKS_PER_WORKER);
        let workers = (0..threads)
            .map(|n| {
                let inbox = inbox.clone();
                std::thread::Builder::new()
                    .name(format!("decode-{n}"))
                    .spawn(move || work(&inbox, limits))
            })
            .collect::<Result<_, _>>()?;
        Ok(Engine {
            tasks: Some(tasks),
            workers,
        })
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
        // Room for every slot: a worker that finishes a batch never waits here.
        let (finished, inbox) = bounded(slots as usize + 1);
        let session = Arc::new(Session {
            job,
            rank,
            segment,
            state: Mutex::new(State {
                slots: SlotTable::new(slots),
                start: None,
                last_stream: 0,
                redo: Vec::new(),
                ended: false,
            }),
            wake: Condvar::new(),
            stream: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            counters: Counters::default(),
            finished,
        });
        let feeder = Feeder {
            session: session.clone(),
            tasks: self.tasks.clone().expect("the engine runs"),
            read_mode,
        };
        let publisher = Publisher {
            session: session.clone(),
            log,
            outlet,
            stream: 0,
            next: 0,
            waiting: BTreeMap::new(),
        };
        let (opened, reader) = bounded(1);
        let mut handle = SessionHandle {
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
        self.tasks = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// What the threads of a session share.
struct Session {
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
    counters: Counters,
    finished: Sender<Finished>,
}

struct State {
    slots: SlotTable<u64>,
    start: Option<Start>,
    last_stream: u64,
    redo: Vec<(Arc<Batch>, usize)>,
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

    /// Follows up on a part of a batch that is done with.
    fn after(&self, batch: &Arc<Batch>, row: usize, progress: Progress) {
        match progress {
            Progress::Open => {}
            Progress::Complete => self.complete(batch),
            Progress::RowBad => self.bad_row(batch, row),
        }
    }

    fn complete(&self, batch: &Arc<Batch>) {
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

    /// The user has the batch. Returns the step where this is news.
    pub fn delivered(&self, lease: u64) -> Result<Option<u64>, UnknownLease> {
        self.session.lock().slots.deliver(lease)
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

    /// What the stages have done so far.
    pub fn counters(&self) -> &Counters {
        &self.session.counters
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.session.lock().ended = true;
        self.session.ended.store(true, Ordering::Relaxed);
        self.session.wake.notify_all();
        // The feeder first: it waits for the workers to be done with its batches, which
        // needs the publisher.
        let mut threads = self.threads.drain(..);
        if let Some(feeder) = threads.next() {
            let _ = feeder.join();
        }
        let _ = self.session.finished.send(Finished::Quit);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

// ---------------------------------------------------------------------------------------
// Feeder

/// A read that waits or is under way.
struct Part {
    batch: Arc<Batch>,
    row: usize,
    tensor: usize,
    extent: Extent,
}

struct Feeder {
    session: Arc<Session>,
    tasks: Sender<Task>,
    read_mode: Mode,
}

/// A stream that is being fed.
struct Feeding {
    start: Start,
    order: Order,
    next: u64,
}

impl Feeder {
    fn run(self, opened: &Sender<Result<Option<Reading>, String>>) {
        let mut reader = match self.reader() {
            Ok(reader) => {
                let report = reader
                    .as_ref()
                    .map(|reader| Reading::new(reader.engine(), self.read_mode));
                let _ = opened.send(Ok(report));
                reader
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        let whole_window = self.reads_slowly();
        let mut feeding: Option<Feeding> = None;
        let mut waiting: VecDeque<Part> = VecDeque::new();
        let mut reading: Vec<Option<Part>> = Vec::new();
        loop {
            // 1. What others want of us.
            let (slots, redo) = {
                let mut state = self.session.lock();
                loop {
                    if let Some(start) = state.start.take() {
                        feeding = Some(self.begin(start));
                    }
                    if state.ended {
                        break;
                    }
                    let current = self.session.stream.load(Ordering::Relaxed);
                    feeding.take_if(|feeding| feeding.start.stream != current);
                    let wants_slot = feeding
                        .as_ref()
                        .is_some_and(|f| f.next < self.session.job.steps.count());
                    let idle = waiting.is_empty()
                        && reader.as_ref().is_none_or(|reader| reader.in_flight() == 0)
                        && state.redo.is_empty()
                        && !(wants_slot && state.slots.counts()[0] > 0);
                    if !idle {
                        break;
                    }
                    state = self
                        .session
                        .wake
                        .wait_timeout(state, NAP)
                        .expect("no panic while held")
                        .0;
                }
                let redo = std::mem::take(&mut state.redo);
                let left = feeding
                    .as_ref()
                    .map_or(0, |f| self.session.job.steps.count() - f.next);
                let mut slots = Vec::new();
                // One batch ahead of the reads is enough: slots that stay free are the
                // ones whose memory is still in cache.
                let ahead = waiting.len() >= self.session.job.request.batch_size as usize;
                while !state.ended && !ahead && (slots.len() as u64) < left {
                    match state.slots.acquire() {
                        Some(slot) => slots.push(slot),
                        None => break,
                    }
                    if !whole_window {
                        break;
                    }
                }
                if state.ended {
                    // Reads under way come to an end with the reader; their batches and
                    // those that wait are dropped whole.
                    return;
                }
                (slots, redo)
            };
            // 2. Plan: rows of new batches, replacements of bad rows.
            for (batch, row) in redo {
                self.redo(&batch, row, &mut waiting);
            }
            if let (Some(feeding), false) = (&mut feeding, slots.is_empty()) {
                self.plan(feeding, &slots, &mut waiting);
            }
            // 3. Read.
            if let Some(reader) = &mut reader {
                self.read(reader, &mut waiting, &mut reading);
            }
            self.session
                .counters
                .feed_cpu_ns
                .store(clock::thread_cpu_ns(), Ordering::Relaxed);
        }
    }

    /// The reader, where the source has files.
    fn reader(&self) -> Result<Option<Reader>, String> {
        let source = &self.session.job.source;
        let images = self
            .session
            .job
            .origins
            .iter()
            .any(|origin| matches!(origin, Origin::Image { .. }));
        let Some(files) = source.files().filter(|files| images && !files.is_empty()) else {
            return Ok(None);
        };
        let config = Config {
            mode: self.read_mode,
            ..Config::for_lengths(source.typical_length(), SLAB_MEMORY_MAX)
        };
        Reader::new(files.clone(), config)
            .map(Some)
            .map_err(|error| error.to_string())
    }

    fn begin(&self, start: Start) -> Feeding {
        let job = &self.session.job;
        let rows = job.source.rows();
        Feeding {
            start,
            order: if job.request.shuffle {
                Order::shuffled(rows, job.request.seed, start.epoch)
            } else {
                Order::sequential(rows)
            },
            next: start.step,
        }
    }

    /// True where rows come through Lance's `take`, which wants large windows.
    fn reads_slowly(&self) -> bool {
        let job = &self.session.job;
        job.origins.iter().any(|origin| match origin {
            Origin::Image { column, .. } => {
                matches!(job.source.payload(*column, 0), Payload::Slow)
            }
            Origin::Fixed { column } => job.source.fixed(*column, 0).is_none(),
            _ => false,
        })
    }

    /// Makes a batch in each slot, and has its bytes fetched.
    fn plan(&self, feeding: &mut Feeding, slots: &[u32], waiting: &mut VecDeque<Part>) {
        let session = &self.session;
        let job = &session.job;
        let mut batches = Vec::with_capacity(slots.len());
        for &slot in slots {
            let step = feeding.next;
            feeding.next += 1;
            let share = job.steps.share(step, session.rank);
            let order = &feeding.order;
            batches.push(Arc::new(Batch::new(
                job.clone(),
                session.segment.clone(),
                slot,
                (feeding.start.stream, feeding.start.step),
                (feeding.start.epoch, step, session.rank),
                share.valid,
                share
                    .positions
                    .clone()
                    .map(|position| (position, order.row_at(position))),
            )));
        }
        for batch in &batches {
            self.fill_fixed(batch);
        }
        let mut parts = Vec::new();
        let mut slow: BTreeMap<usize, Vec<(Arc<Batch>, usize, usize)>> = BTreeMap::new();
        for batch in &batches {
            for row in 0..batch.rows.len() {
                for (tensor, column) in batch.image_tensors() {
                    match job.source.payload(column, batch.index(row)) {
                        Payload::Extent(extent) => parts.push(Part {
                            batch: batch.clone(),
                            row,
                            tensor,
                            extent,
                        }),
                        Payload::Shared(bytes) => {
                            self.decode(batch, row, tensor, Encoded::Shared(bytes));
                        }
                        Payload::Null => null(session, batch, row, tensor),
                        Payload::Slow => {
                            slow.entry(column)
                                .or_default()
                                .push((batch.clone(), row, tensor));
                        }
                    }
                }
            }
        }
        // Within the window, in the order in which they lie on the disk.
        parts.sort_by_key(|part| (part.extent.file, part.extent.offset));
        waiting.extend(parts);
        for (column, rows) in slow {
            self.read_slow(column, rows);
        }
        for batch in &batches {
            // The feeder's own hold on the batch.
            if batch.row_done() == Progress::Complete {
                session.complete(batch);
            }
        }
    }

    /// Another row takes the place of a bad one.
    fn redo(&self, batch: &Arc<Batch>, row: usize, waiting: &mut VecDeque<Part>) {
        let session = &self.session;
        let job = &session.job;
        let attempt = batch.rows[row].attempt.load(Ordering::Relaxed) + 1;
        let bad_address = job.source.row_address(batch.index(row));
        if attempt > REPLACEMENTS_MAX {
            batch.fail(failure(
                FailureKind::BadSample,
                format!(
                    "position {} of epoch {}: {REPLACEMENTS_MAX} replacements in a row could not be decoded either, \
                     the last at row address {bad_address}: is this an image column?",
                    batch.rows[row].position, batch.epoch
                ),
            ));
            let progress = batch.row_done();
            session.after(batch, row, progress);
            return;
        }
        let index = replacement(
            job.source.rows(),
            job.request.seed,
            batch.epoch,
            batch.rows[row].position,
            attempt,
        );
        batch.replace(row, index, attempt);
        for (tensor, origin) in job.origins.iter().enumerate() {
            self.fill_row(batch, row, tensor, origin);
        }
        for (tensor, column) in batch.image_tensors() {
            match job.source.payload(column, index) {
                // To the front: its batch waits for nothing else.
                Payload::Extent(extent) => waiting.push_front(Part {
                    batch: batch.clone(),
                    row,
                    tensor,
                    extent,
                }),
                Payload::Shared(bytes) => self.decode(batch, row, tensor, Encoded::Shared(bytes)),
                Payload::Null => null(session, batch, row, tensor),
                Payload::Slow => self.read_slow(column, vec![(batch.clone(), row, tensor)]),
            }
        }
    }

    /// Fills everything of a batch that is not decoded.
    fn fill_fixed(&self, batch: &Arc<Batch>) {
        let job = &self.session.job;
        let has_images = batch.image_tensors().next().is_some();
        for (tensor, origin) in job.origins.iter().enumerate() {
            let bytes = job.layout.tensors[tensor].row_bytes();
            match origin {
                Origin::Fixed { column } if job.source.fixed(*column, 0).is_none() => {
                    self.fill_fixed_slow(batch, tensor, *column);
                }
                Origin::Fixed { column }
                    if !has_images && bytes * batch.rows.len() as u64 > COPY_CHUNK_BYTES =>
                {
                    self.copy_in_chunks(batch, tensor, *column, bytes);
                }
                _ => {
                    for row in 0..batch.rows.len() {
                        self.fill_row(batch, row, tensor, origin);
                    }
                }
            }
        }
    }

    /// Fills one value that is not decoded.
    fn fill_row(&self, batch: &Arc<Batch>, row: usize, tensor: usize, origin: &Origin) {
        let source = &self.session.job.source;
        let index = batch.index(row);
        if matches!(origin, Origin::Image { .. }) {
            return;
        }
        // SAFETY: the slot is FILLING, and values that are not images are written by this
        // thread alone, but for `Copy` tasks, which are given tensors that no other code
        // writes until they are done.
        let place = unsafe { batch.part(row, tensor) };
        match origin {
            Origin::Image { .. } => {}
            Origin::Fixed { column } => match source.fixed(*column, index) {
                Some(value) => place.copy_from_slice(value),
                None => {
                    if let Err(error) = source.read_fixed_slow(*column, &[index], place) {
                        batch.fail(error.into());
                    }
                }
            },
            Origin::RowId => place.copy_from_slice(&source.row_id(index).to_ne_bytes()),
            Origin::RowAddress => place.copy_from_slice(&source.row_address(index).to_ne_bytes()),
            Origin::Valid => place[0] = u8::from(batch.valid),
        }
    }

    fn fill_fixed_slow(&self, batch: &Arc<Batch>, tensor: usize, column: usize) {
        let job = &self.session.job;
        let indices: Vec<u64> = (0..batch.rows.len()).map(|row| batch.index(row)).collect();
        let mut values = vec![0; indices.len() * job.layout.tensors[tensor].row_bytes() as usize];
        match job.source.read_fixed_slow(column, &indices, &mut values) {
            Err(error) => batch.fail(error.into()),
            Ok(()) => {
                let bytes = job.layout.tensors[tensor].row_bytes() as usize;
                for (row, value) in values.chunks_exact(bytes).enumerate() {
                    // SAFETY: as in `fill_row`.
                    unsafe { batch.part(row, tensor) }.copy_from_slice(value);
                }
            }
        }
    }

    /// Has the workers copy a large fixed column. Only in batches without images, whose
    /// rows are never redone: a redone row's values are rewritten by this thread.
    fn copy_in_chunks(&self, batch: &Arc<Batch>, tensor: usize, column: usize, row_bytes: u64) {
        let rows = batch.rows.len();
        let rows_each = (COPY_CHUNK_BYTES / row_bytes.max(1)).max(1) as usize;
        for first in (0..rows).step_by(rows_each) {
            batch.expect_part();
            self.send(Task::Copy {
                session: self.session.clone(),
                batch: batch.clone(),
                tensor,
                column,
                rows: first..(first + rows_each).min(rows),
            });
        }
    }

    /// Reads through the source's own slow path.
    fn read_slow(&self, column: usize, rows: Vec<(Arc<Batch>, usize, usize)>) {
        let indices: Vec<u64> = rows
            .iter()
            .map(|(batch, row, _)| batch.index(*row))
            .collect();
        match self.session.job.source.read_slow(column, &indices) {
            Ok(values) => {
                for ((batch, row, tensor), value) in rows.into_iter().zip(values) {
                    match value {
                        Some(bytes) => {
                            self.decode(&batch, row, tensor, Encoded::Read(Buffer::from(bytes)));
                        }
                        None => null(&self.session, &batch, row, tensor),
                    }
                }
            }
            Err(error) => {
                let failure: Failure = error.into();
                for (batch, row, _) in rows {
                    batch.fail(failure.clone());
                    let progress = batch.image_done(row, false);
                    self.session.after(&batch, row, progress);
                }
            }
        }
    }

    /// Keeps the reader busy, and hands on what it has read.
    fn read(
        &self,
        reader: &mut Reader,
        waiting: &mut VecDeque<Part>,
        reading: &mut Vec<Option<Part>>,
    ) {
        while let Some(part) = waiting.front() {
            if !self.session.is_current(&part.batch) || part.batch.failure().is_some() {
                // The batch is dropped or has failed: its missing parts are done with.
                let part = waiting.pop_front().expect("just seen");
                let progress = part.batch.image_done(part.row, false);
                self.session.after(&part.batch, part.row, progress);
                continue;
            }
            let tag = match reading.iter().position(Option::is_none) {
                Some(tag) => tag,
                None => {
                    reading.push(None);
                    reading.len() - 1
                }
            };
            if !reader.submit(tag as u64, part.extent) {
                break;
            }
            reading[tag] = waiting.pop_front();
        }
        if reader.in_flight() == 0 && waiting.is_empty() {
            return;
        }
        let result = reader.complete(NAP, &mut |tag, result| {
            let part = reading[tag as usize]
                .take()
                .expect("a tag that is under way");
            match result {
                Ok(buffer) => {
                    self.decode(&part.batch, part.row, part.tensor, Encoded::Read(buffer))
                }
                Err(error) => {
                    part.batch.fail(failure(
                        FailureKind::Io,
                        format!(
                            "row address {}: {error}",
                            self.session
                                .job
                                .source
                                .row_address(part.batch.index(part.row))
                        ),
                    ));
                    let progress = part.batch.image_done(part.row, false);
                    self.session.after(&part.batch, part.row, progress);
                }
            }
        });
        if let Err(error) = result {
            // The engine itself has failed: no read of it will complete.
            let text = error.to_string();
            for part in reading.drain(..).flatten().chain(waiting.drain(..)) {
                part.batch.fail(failure(FailureKind::Io, text.clone()));
                let progress = part.batch.image_done(part.row, false);
                self.session.after(&part.batch, part.row, progress);
            }
        }
    }

    fn decode(&self, batch: &Arc<Batch>, row: usize, tensor: usize, encoded: Encoded) {
        self.send(Task::Image {
            session: self.session.clone(),
            batch: batch.clone(),
            row,
            tensor,
            encoded,
        });
    }

    fn send(&self, task: Task) {
        // Waits while the workers are behind. They live as long as the engine, which
        // outlives every session.
        let _ = self.tasks.send(task);
    }
}

/// A row without an image.
fn null(session: &Session, batch: &Arc<Batch>, row: usize, tensor: usize) {
    bad_image(session, batch, row, tensor, "the value is null");
}

/// Takes the policy for an image that can't be decoded.
fn bad_image(session: &Session, batch: &Arc<Batch>, row: usize, tensor: usize, cause: &str) {
    let job = &session.job;
    let index = batch.index(row);
    let row_address = job.source.row_address(index);
    let column = &job.layout.tensors[tensor].name;
    session.counters.bad_rows.fetch_add(1, Ordering::Relaxed);
    match job.request.on_bad_sample {
        OnBadSample::Raise => {
            let place = match (&job.origins[tensor], job.source.files()) {
                (Origin::Image { column, .. }, Some(files)) => {
                    match job.source.payload(*column, index) {
                        Payload::Extent(extent) => format!(
                            ", in {} at byte {} ({} bytes long)",
                            files.path(extent.file).display(),
                            extent.offset,
                            extent.length
                        ),
                        _ => String::new(),
                    }
                }
                _ => String::new(),
            };
            batch.fail(failure(
                FailureKind::BadSample,
                format!(
                    "column {column:?}, row address {row_address} (row id {}){place}: {cause}; \
                     on_bad_sample=\"replace\" or \"zero\" goes on without it",
                    job.source.row_id(index)
                ),
            ));
        }
        OnBadSample::Zero => {
            // SAFETY: the slot is FILLING, and this image's part is ours; `_valid` of a
            // row is written by the feeder before any of the row's images is handed out.
            unsafe { batch.part(row, tensor) }.fill(0);
            for (other, origin) in job.origins.iter().enumerate() {
                if matches!(origin, Origin::Valid) {
                    // Two images of one row may both be bad, so this byte may be written
                    // by two workers: an atomic store of the same value.
                    // SAFETY: as above; a bool is one byte, and AtomicBool has its layout.
                    let place =
                        unsafe { AtomicBool::from_ptr(batch.part(row, other).as_mut_ptr().cast()) };
                    place.store(false, Ordering::Relaxed);
                }
            }
            batch.note_bad(BadRow {
                position: batch.rows[row].position,
                row_address,
                replaced_by: None,
                cause: format!("{column}: {cause}"),
            });
        }
        OnBadSample::Replace => {
            let attempt = batch.rows[row].attempt.load(Ordering::Relaxed) + 1;
            let next = replacement(
                job.source.rows(),
                job.request.seed,
                batch.epoch,
                batch.rows[row].position,
                attempt,
            );
            batch.note_bad(BadRow {
                position: batch.rows[row].position,
                row_address,
                replaced_by: Some(job.source.row_address(next)),
                cause: format!("{column}: {cause}"),
            });
        }
    }
    let progress = batch.image_done(row, true);
    session.after(batch, row, progress);
}

// ---------------------------------------------------------------------------------------
// Workers

fn work(inbox: &Receiver<Task>, limits: decode::Limits) {
    let mut decoder = decode::Decoder::new(limits);
    for task in inbox {
        match task {
            Task::Image {
                session,
                batch,
                row,
                tensor,
                encoded,
            } => decode_image(&mut decoder, &session, &batch, row, tensor, encoded),
            Task::Copy {
                session,
                batch,
                tensor,
                column,
                rows,
            } => {
                for row in rows {
                    if let Some(value) = session.job.source.fixed(column, batch.index(row)) {
                        // SAFETY: the slot is FILLING, and these rows of this tensor were
                        // given to this task alone.
                        unsafe { batch.part(row, tensor) }.copy_from_slice(value);
                    }
                }
                if batch.row_done() == Progress::Complete {
                    session.complete(&batch);
                }
            }
        }
    }
}

fn decode_image(
    decoder: &mut decode::Decoder,
    session: &Arc<Session>,
    batch: &Arc<Batch>,
    row: usize,
    tensor: usize,
    encoded: Encoded,
) {
    let job = &session.job;
    if !session.is_current(batch) || batch.failure().is_some() {
        drop(encoded);
        let progress = batch.image_done(row, false);
        session.after(batch, row, progress);
        return;
    }
    let Origin::Image { column, pipeline } = &job.origins[tensor] else {
        unreachable!("image tasks are made for images");
    };
    let mut draws = Draws::new(
        job.request.seed,
        batch.epoch,
        batch.rows[row].position,
        *column as u32,
    );
    let started = clock::thread_cpu_ns();
    // SAFETY: the slot is FILLING, and this row of this tensor was given to this task alone.
    let place = unsafe { batch.part(row, tensor) };
    let decoded = decoder.decode(pipeline, encoded.bytes(), &mut draws, place);
    let counters = &session.counters;
    counters
        .decode_cpu_ns
        .fetch_add(clock::thread_cpu_ns() - started, Ordering::Relaxed);
    match decoded {
        Ok(_) => {
            counters.images.fetch_add(1, Ordering::Relaxed);
            counters
                .encoded_bytes
                .fetch_add(encoded.bytes().len() as u64, Ordering::Relaxed);
            // The bytes go back before the batch can complete, so that a session that has
            // ended holds no buffer.
            drop(encoded);
            let progress = batch.image_done(row, false);
            session.after(batch, row, progress);
        }
        Err(error) => {
            drop(encoded);
            bad_image(session, batch, row, tensor, &error.to_string());
        }
    }
}

// ---------------------------------------------------------------------------------------
// Publisher

struct Publisher {
    session: Arc<Session>,
    log: Arc<StepLog>,
    outlet: Outlet,
    /// The stream that is being published, and its next step.
    stream: u64,
    next: u64,
    /// Finished batches that wait for an earlier one.
    waiting: BTreeMap<u64, Arc<Batch>>,
}

impl Publisher {
    fn run(mut self, inbox: &Receiver<Finished>) {
        for first in inbox.iter() {
            for finished in std::iter::once(first).chain(inbox.try_iter()) {
                match finished {
                    Finished::Quit => return,
                    Finished::Batch(batch) => self.take(batch),
                }
            }
            self.publish();
            self.session
                .counters
                .publish_cpu_ns
                .store(clock::thread_cpu_ns(), Ordering::Relaxed);
        }
    }

    /// Takes in a finished batch; those of older streams are dropped.
    fn take(&mut self, batch: Arc<Batch>) {
        if self.stream != self.session.stream.load(Ordering::Relaxed) {
            // What waits belongs to a stream that has ended; its slots are wanted.
            for (_, old) in std::mem::take(&mut self.waiting) {
                self.abandon(&old);
            }
        }
        if !self.session.is_current(&batch) {
            self.abandon(&batch);
            return;
        }
        if batch.stream != self.stream {
            self.stream = batch.stream;
            self.next = batch.stream_start;
        }
        self.waiting.insert(batch.epoch_step, batch);
    }

    /// Publishes every batch whose turn it is.
    fn publish(&mut self) {
        let mut turn = Vec::new();
        while let Some(batch) = self.waiting.remove(&(self.next + turn.len() as u64)) {
            turn.push(batch);
        }
        self.next += turn.len() as u64;
        let failed = turn.iter().position(|batch| batch.failure().is_some());
        let rest = failed.map(|at| turn.split_off(at)).unwrap_or_default();
        if !turn.is_empty() && !self.log_and_send(&turn) {
            return;
        }
        if let Some(failure) = rest.first().and_then(|batch| batch.failure()) {
            self.end_stream(failure, &rest);
        }
    }

    /// Has the batches logged, then hands them to the client. False when the stream ended.
    fn log_and_send(&mut self, turn: &[Arc<Batch>]) -> bool {
        let records = turn.iter().map(|batch| batch.record()).collect();
        // After the last look-up, which the records make: a damaged page map gives no rows
        // worth recording.
        if let Err(error) = self.session.job.source.check() {
            self.end_stream(error.into(), turn);
            return false;
        }
        if let Err(error) = self.log.prepare(records) {
            if self.session.job.request.on_log_error == OnLogError::Stop {
                self.end_stream(error.into(), turn);
                return false;
            }
            self.log
                .unlogged(self.session.job.key.job, turn.len() as u64);
        }
        for batch in turn {
            if !self.session.is_current(batch) {
                self.abandon(batch);
                continue;
            }
            let lease = self.session.lock().slots.publish(batch.slot, batch.step());
            let counters = &self.session.counters;
            counters.batches.fetch_add(1, Ordering::Relaxed);
            counters
                .rows
                .fetch_add(batch.rows.len() as u64, Ordering::Relaxed);
            let ready = batch.ready(lease, clock::monotonic_ns());
            if !(self.outlet)(Event::Ready(ready)) {
                return false;
            }
            if batch.epoch_step + 1 == self.session.job.steps.count() {
                (self.outlet)(Event::EndOfEpoch {
                    stream: batch.stream,
                    epoch: batch.epoch,
                });
            }
        }
        true
    }

    /// Ends the current stream with a failure; its batches are dropped.
    fn end_stream(&mut self, failure: Failure, batches: &[Arc<Batch>]) {
        let stream = self.stream;
        // No stream counts from here on, unless the client has started the next already.
        let _ =
            self.session
                .stream
                .compare_exchange(stream, 0, Ordering::Relaxed, Ordering::Relaxed);
        for batch in batches {
            self.abandon(batch);
        }
        for (_, batch) in std::mem::take(&mut self.waiting) {
            self.abandon(&batch);
        }
        (self.outlet)(Event::Failed(Failure {
            stream: Some(stream),
            ..failure
        }));
    }

    fn abandon(&self, batch: &Batch) {
        self.session.lock().slots.abandon(batch.slot);
        self.session.wake.notify_all();
    }
}
