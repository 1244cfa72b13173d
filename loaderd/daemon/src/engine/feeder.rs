//! The feeder: one thread a session that plans steps and gets their bytes.
//!
//! Enters: free slots and a stream's start. Leaves: tasks for the decode workers, and
//! everything of a batch that is not decoded. It alone reads files, through a ring that
//! belongs to its thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Sender;
use loaderd_plan::Order;
use loaderd_read::{Buffer, Config, Extent, Mode, Reader, SLAB_ALIGN};
use loaderd_wire::message::{Failure, FailureKind};

use self::parts::{Got, Part};
use super::worker::null;
use super::{Encoded, NAP, Reading, Session, Start, Task, Work};
use crate::batch::{Batch, Place, Progress, Value};
use crate::job::{Input, Origin, failure};
use crate::source::{Payload, Variable};

mod fill;
mod parts;

/// Memory for encoded bytes of one session, in bytes: its reader's slabs.
pub(crate) const SLAB_MEMORY_MAX: u64 = 16 << 20;
/// The same where a GPU decodes, which has several batches of its own under way.
pub(crate) const GPU_SLAB_MEMORY_MAX: u64 = 64 << 20;
/// The same where images are so large that of those few decode workers would have one.
const LARGE_SLAB_MEMORY_MAX: u64 = 256 << 20;
/// Images that there is room for by worker: one that it decodes, and one that is read meanwhile.
const IMAGES_A_WORKER: u64 = 2;
/// Replacements tried for one position before the stream fails.
const REPLACEMENTS_MAX: u32 = 32;
/// Masks that workers get at once. More would save little, and keep more of the reader's memory.
const MASKS_A_TASK: usize = 4;

/// How to get at the bytes of a row.
enum Found {
    /// By a read.
    Extent(Extent),
    /// At once.
    Here(Encoded),
    /// There are none.
    Null,
    /// By the source's slow path.
    Slow,
}

pub(super) struct Feeder {
    session: Arc<Session>,
    tasks: Sender<Task>,
    read_mode: Mode,
    /// Decode workers of the pool.
    workers: usize,
    /// Masks that wait for others; none while this thread waits.
    masks: RefCell<Vec<(Place, Encoded)>>,
}

/// A stream that is being fed.
struct Feeding {
    start: Start,
    order: Order,
    next: u64,
}

impl Feeder {
    pub(super) fn new(
        session: Arc<Session>,
        tasks: Sender<Task>,
        read_mode: Mode,
        workers: usize,
    ) -> Feeder {
        Feeder {
            session,
            tasks,
            read_mode,
            workers,
            masks: RefCell::default(),
        }
    }

    /// Runs until the session ends. Says on `opened` how it reads, or why it can't.
    pub(super) fn run(self, opened: &Sender<Result<Option<Reading>, String>>) {
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
        let reads = reader.is_some();
        let whole_window = self.reads_slowly();
        let mut feeding: Option<Feeding> = None;
        let mut waiting: VecDeque<Part> = VecDeque::new();
        let mut reading: Vec<Option<Part>> = Vec::new();
        loop {
            // 1. What others want of us.
            let (slots, redo, whole) = {
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
                        && state.whole.is_empty()
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
                let whole = std::mem::take(&mut state.whole);
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
                (slots, redo, whole)
            };
            // 2. Plan: rows of new batches, replacements of bad rows.
            for (batch, row) in redo {
                self.redo(&batch, row, &mut waiting);
            }
            for (place, extent) in whole {
                waiting.push_front(Part::whole(place, extent));
            }
            if let (Some(feeding), false) = (&mut feeding, slots.is_empty()) {
                self.plan(feeding, &slots, &mut waiting);
            }
            self.send_masks();
            // 3. Read; with another reader where the one before has failed.
            if !reads {
                continue;
            }
            let read = match &mut reader {
                Some(reader) => self.read(reader, &mut waiting, &mut reading),
                None => self.reader().map(|made| reader = made),
            };
            if let Err(error) = read {
                // What it has under way comes to an end with it, and belongs to nobody any more.
                reader = None;
                let failed = failure(FailureKind::Io, error);
                for part in reading.drain(..).flatten().chain(waiting.drain(..)) {
                    self.settle(part, Got::Failed(failed.clone()));
                }
            }
            self.send_masks();
        }
    }

    /// The reader, where the source has files.
    fn reader(&self) -> Result<Option<Reader>, String> {
        let source = &self.session.job.source;
        let reads = self
            .session
            .job
            .origins
            .iter()
            .any(|origin| matches!(origin.input(), Some(Input::Bytes(_))));
        let Some(files) = source.files().filter(|files| reads && !files.is_empty()) else {
            return Ok(None);
        };
        let least = match self.session.on_gpu {
            Some(_) => GPU_SLAB_MEMORY_MAX,
            None => SLAB_MEMORY_MAX,
        };
        let typical = source.typical_length();
        let config = Config {
            mode: self.read_mode,
            ..Config::for_lengths(typical, slab_memory(typical, self.workers, least))
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
        let is_slow = |column| job.source.variable(column, 0) == Variable::Slow;
        job.origins.iter().any(|origin| match origin {
            Origin::Fixed { column } => job.source.fixed(*column, 0).is_none(),
            Origin::Ragged { column } | Origin::Boxes { column, .. } => is_slow(*column),
            origin => match origin.input() {
                Some(Input::Bytes(column)) => {
                    matches!(job.source.payload(column, 0), Payload::Slow)
                }
                Some(Input::File(column)) => is_slow(column),
                None => false,
            },
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
        self.fill_windows(&batches);
        let mut parts = Vec::new();
        let mut slow: BTreeMap<Input, Vec<Place>> = BTreeMap::new();
        for batch in &batches {
            for row in 0..batch.rows.len() {
                for (tensor, input) in batch.image_tensors() {
                    let place = Place {
                        batch: batch.clone(),
                        row,
                        tensor,
                    };
                    match self.find(input, place.index()) {
                        Found::Extent(extent) => self.ask(&place, extent, |part| parts.push(part)),
                        Found::Here(encoded) => self.hand_on(place, encoded),
                        Found::Null => null(session, &place),
                        Found::Slow => slow.entry(input).or_default().push(place),
                    }
                }
            }
        }
        // Within the window, in the order in which they lie on the disk.
        parts.sort_by_key(|part| (part.extent.file, part.extent.offset));
        waiting.extend(parts);
        for (input, rows) in slow {
            self.read_slow(input, rows);
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
        let (attempt, index) = batch.successor(row);
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
        batch.replace(row, index, attempt);
        let place = |tensor| Place {
            batch: batch.clone(),
            row,
            tensor,
        };
        for (tensor, origin) in job.origins.iter().enumerate() {
            self.fill_row(batch, row, tensor, origin);
            self.fill_rows(origin, &[place(tensor)]);
        }
        for (tensor, input) in batch.image_tensors() {
            let place = place(tensor);
            match self.find(input, index) {
                // To the front: its batch waits for nothing else.
                Found::Extent(extent) => {
                    let mut parts = Vec::new();
                    self.ask(&place, extent, |part| parts.push(part));
                    for part in parts.into_iter().rev() {
                        waiting.push_front(part);
                    }
                }
                Found::Here(encoded) => self.hand_on(place, encoded),
                Found::Null => null(session, &place),
                Found::Slow => self.read_slow(input, vec![place]),
            }
        }
    }

    /// How to get at the bytes of a row.
    fn find(&self, input: Input, index: u64) -> Found {
        let source = &self.session.job.source;
        match input {
            Input::Bytes(column) => match source.payload(column, index) {
                Payload::Extent(extent) => Found::Extent(extent),
                Payload::Shared(bytes) => Found::Here(Encoded::Shared(bytes)),
                Payload::Null => Found::Null,
                Payload::Slow => Found::Slow,
            },
            Input::File(column) => match source.variable(column, index) {
                Variable::Value(text) => Found::Here(Encoded::Named(text.to_vec())),
                Variable::Null => Found::Null,
                Variable::Slow => Found::Slow,
            },
        }
    }

    /// Reads through the source's own slow path.
    fn read_slow(&self, input: Input, places: Vec<Place>) {
        let source = &self.session.job.source;
        let indices: Vec<u64> = places.iter().map(Place::index).collect();
        let values = match input {
            Input::Bytes(column) => source.read_slow(column, &indices),
            Input::File(column) => source.read_variable_slow(column, &indices),
        };
        match values {
            Ok(values) => {
                for (place, value) in places.into_iter().zip(values) {
                    self.tell_validity(&place, input.column(), value.is_some());
                    match (value, input) {
                        (Some(bytes), Input::Bytes(_)) => {
                            self.hand_on(place, Encoded::Read(Buffer::from(bytes)));
                        }
                        (Some(text), Input::File(_)) => {
                            self.hand_on(place, Encoded::Named(text));
                        }
                        (None, _) => null(&self.session, &place),
                    }
                }
            }
            Err(error) => {
                let failure: Failure = error.into();
                for place in places {
                    place.batch.fail(failure.clone());
                    self.session.image_done(&place, false);
                }
            }
        }
    }

    /// Keeps the reader busy, and hands on what it has read. An error, in words, says that the
    /// reader can't go on.
    fn read(
        &self,
        reader: &mut Reader,
        waiting: &mut VecDeque<Part>,
        reading: &mut Vec<Option<Part>>,
    ) -> Result<(), String> {
        let timings = &self.session.timings;
        while let Some(part) = waiting.front_mut() {
            let batch = &part.place.batch;
            if !self.session.is_current(batch) || batch.failure().is_some() {
                // The batch is dropped or has failed: its missing parts are done with.
                let part = waiting.pop_front().expect("just seen");
                self.settle(part, Got::Dropped);
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
            part.asked = timings.as_ref().map(|_| Instant::now());
            reading[tag] = waiting.pop_front();
        }
        if reader.in_flight() == 0 && waiting.is_empty() {
            return Ok(());
        }
        let result = reader.complete(NAP, &mut |tag, result| {
            let part = reading[tag as usize]
                .take()
                .expect("a tag that is under way");
            if let (Some(timings), Some(asked)) = (timings, part.asked) {
                timings.read.record(asked.elapsed().as_nanos() as u64);
            }
            let got = match result {
                Ok(buffer) => {
                    let bytes = buffer.len() as u64;
                    self.session.read_bytes.fetch_add(bytes, Ordering::Relaxed);
                    Got::Bytes(buffer)
                }
                Err(error) => {
                    let source = &self.session.job.source;
                    let address = source.row_address(part.place.index());
                    let text = format!("row address {address}: {error}");
                    Got::Failed(failure(FailureKind::Io, text))
                }
            };
            self.settle(part, got);
        });
        result.map(|_| ()).map_err(|error| {
            format!(
                "{error}: begin the epoch again, which reads anew, or start the daemon with --read-mode=pread"
            )
        })
    }

    /// Has an image decoded; bytes that are delivered as they are need nothing more.
    fn hand_on(&self, place: Place, encoded: Encoded) {
        if matches!(place.origin(), Origin::Raw { .. }) {
            let value = match encoded {
                Encoded::Shared(bytes) => Value::Shared(bytes),
                // Copied, because the reader wants its buffer back for the next read.
                encoded => Value::Bytes(encoded.bytes().to_vec()),
            };
            place.keep(&self.session.memory, value);
            return self.session.image_done(&place, false);
        }
        if matches!(place.origin(), Origin::PixelMask { .. }) {
            let mut masks = self.masks.borrow_mut();
            masks.push((place, encoded));
            let is_full = masks.len() == MASKS_A_TASK;
            drop(masks);
            if is_full {
                self.send_masks();
            }
            return;
        }
        self.send(Work::Decode(vec![(place, encoded)]));
    }

    /// Has the masks decoded that wait for others.
    fn send_masks(&self) {
        let masks = self.masks.take();
        if !masks.is_empty() {
            self.send(Work::Decode(masks));
        }
    }

    fn send(&self, work: Work) {
        let session = self.session.clone();
        let task = Task { session, work };
        // Waits while the workers are behind. They live as long as the engine, which
        // outlives every session.
        let _ = self.tasks.send(task);
    }
}

/// Memory for encoded images of about `typical` bytes: `least`, or what it takes for `workers` not
/// to wait for each other's.
fn slab_memory(typical: u32, workers: usize, least: u64) -> u64 {
    // Rounded out to pages, it touches two more.
    let image = u64::from(typical) + 2 * u64::from(SLAB_ALIGN);
    let enough = image * IMAGES_A_WORKER * workers as u64;
    least.max(enough.min(LARGE_SLAB_MEMORY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_an_image_to_decode() {
        let check = |typical: u32, workers: usize, expected: u64| {
            let memory = slab_memory(typical, workers, SLAB_MEMORY_MAX);
            assert_eq!(memory >> 20, expected, "{typical} bytes, {workers} workers");
            let slabs = Config::for_lengths(typical, memory).slab_count;
            let is_bounded = memory == LARGE_SLAB_MEMORY_MAX;
            assert!(is_bounded || slabs as usize >= 2 * workers, "{slabs} slabs");
        };
        check(110_000, 2, 16);
        check(110_000, 64, 16);
        check(300_000, 64, 37);
        check(5_000_000, 2, 19);
        check(5_000_000, 16, 152);
        check(5_000_000, 64, 256);
        check(u32::MAX, 1, 256);
    }
}
