//! A lane's pictures, from their being offered to their batch.
//!
//! Enters: pictures, one by one, from any thread. Leaves: batches of them in the same order, as
//! large as a batch may be, or smaller where the oldest has waited long enough. Never: more
//! pictures than the queue has room for, or one that is not told what became of it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::counts::Counters;
use super::ranges::{Place, Ranges};
use super::{NotTaken, Outcome, Picture, Refusal};

/// The lock's value; a thread that panicked with it has left nothing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A picture that was taken. Whatever becomes of it, its `done` is called.
pub(super) struct Held {
    /// There until `done` is called.
    picture: Option<Picture>,
    /// There while the device may write to it.
    place: Option<Place>,
    /// Where the finished image goes, for the device.
    pub(super) out: u64,
    /// Bytes from row to row in scratch memory.
    pub(super) pitch: u32,
    /// Bytes that its pixels take there.
    pub(super) pixel_bytes: u64,
    /// Bytes that its weights take.
    pub(super) table_bytes: u64,
    since: Instant,
    ranges: Arc<Ranges>,
    counters: Arc<Counters>,
}

impl Held {
    pub(super) fn new(
        picture: Picture,
        place: Place,
        (pitch, pixel_bytes, table_bytes): (u32, u64, u64),
        (ranges, counters): (&Arc<Ranges>, &Arc<Counters>),
    ) -> Held {
        Held {
            picture: Some(picture),
            out: place.device,
            place: Some(place),
            pitch,
            pixel_bytes,
            table_bytes,
            since: Instant::now(),
            ranges: ranges.clone(),
            counters: counters.clone(),
        }
    }

    pub(super) fn picture(&self) -> &Picture {
        self.picture.as_ref().expect("there until it is done")
    }

    /// Bytes of a batch's memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.pixel_bytes + self.table_bytes
    }

    /// Where the registered memory starts that it goes to.
    pub(super) fn range(&self) -> Option<usize> {
        self.place.as_ref().map(Place::range)
    }

    /// The device has no more to do with it.
    pub(super) fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.ranges.leave(place);
        }
    }

    /// Says what became of it.
    pub(super) fn done(mut self, outcome: Outcome) {
        self.answer(outcome);
    }

    /// Gives it back as it was offered.
    fn take_back(mut self) -> Picture {
        self.leave();
        self.picture.take().expect("there until it is done")
    }

    fn answer(&mut self, outcome: Outcome) {
        self.leave();
        if let Some(picture) = self.picture.take() {
            self.counters.picture(outcome);
            drop(picture.encoded);
            (picture.done)(outcome);
        }
    }
}

impl Drop for Held {
    /// Where a thread panicked on the way: nothing is done twice.
    fn drop(&mut self) {
        self.answer(Outcome::Refused(Refusal::Device));
    }
}

/// How much goes into a batch and a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most pictures of a batch.
    pub(super) batch: usize,
    /// Most bytes of a batch.
    pub(super) bytes: u64,
    /// Most pictures that wait.
    pub(super) waiting: usize,
    /// How long a picture may wait for others.
    pub(super) linger: Duration,
}

/// A bounded queue.
pub(super) struct Queue {
    bounds: Bounds,
    inner: Mutex<Inner>,
    /// Told when a queue is no longer empty, or a batch is whole.
    work: Condvar,
    /// Told when pictures were taken out.
    room: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Held>,
    bytes: u64,
    /// What later pictures are told, where none are taken any more.
    closed: Option<NotTaken>,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Queue {
        Queue {
            bounds,
            inner: Mutex::new(Inner {
                waiting: VecDeque::with_capacity(bounds.waiting),
                ..Inner::default()
            }),
            work: Condvar::new(),
            room: Condvar::new(),
        }
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Pictures that wait.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.inner).waiting.len()
    }

    /// Takes a picture, or gives it back and says why.
    #[expect(clippy::result_large_err, reason = "a picture is moved, not kept")]
    pub(super) fn push(&self, held: Held) -> Result<(), (Picture, NotTaken)> {
        let mut inner = lock(&self.inner);
        let is_full = inner.waiting.len() >= self.bounds.waiting;
        if let Some(reason) = inner.closed.or(is_full.then_some(NotTaken::Full)) {
            drop(inner);
            return Err((held.take_back(), reason));
        }
        inner.bytes += held.bytes();
        inner.waiting.push_back(held);
        let count = inner.waiting.len();
        drop(inner);
        // One thread waits for the first to linger, another may come for a whole batch.
        if count == 1 || count.is_multiple_of(self.bounds.batch) {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Waits for room, at most `timeout`.
    pub(super) fn room(&self, timeout: Duration) -> bool {
        let full = |it: &mut Inner| it.closed.is_none() && it.waiting.len() >= self.bounds.waiting;
        let waited = (self.room).wait_timeout_while(lock(&self.inner), timeout, full);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.closed.is_none() && inner.waiting.len() < self.bounds.waiting
    }

    /// Waits for a batch, and moves it to `batch`, which is empty. False: the queue is closed.
    pub(super) fn gather(&self, batch: &mut Vec<Held>) -> bool {
        let mut inner = lock(&self.inner);
        loop {
            if inner.closed.is_some() {
                return false;
            }
            let Some(first) = inner.waiting.front() else {
                inner = (self.work.wait(inner)).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = first.since.elapsed();
            let is_whole = inner.waiting.len() >= self.bounds.batch
                || inner.bytes >= self.bounds.bytes
                || waited >= self.bounds.linger;
            if is_whole {
                break;
            }
            let left = self.bounds.linger - waited;
            let woken = self.work.wait_timeout(inner, left);
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut bytes = 0;
        while batch.len() < self.bounds.batch
            && let Some(next) = inner.waiting.front()
            && (batch.is_empty() || bytes + next.bytes() <= self.bounds.bytes)
        {
            bytes += next.bytes();
            batch.extend(inner.waiting.pop_front());
        }
        inner.bytes -= bytes;
        let more = !inner.waiting.is_empty();
        drop(inner);
        self.room.notify_all();
        if more {
            self.work.notify_one();
        }
        true
    }

    /// Takes no more pictures, which are told the first reason, and hands out those that wait.
    pub(super) fn close(&self, why: NotTaken) -> VecDeque<Held> {
        let mut inner = lock(&self.inner);
        inner.closed.get_or_insert(why);
        let left = std::mem::take(&mut inner.waiting);
        drop(inner);
        self.work.notify_all();
        self.room.notify_all();
        left
    }
}
