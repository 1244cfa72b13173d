//! The daemon's slot book-keeping under every interleaving that the memory model allows.
//!
//! Enters: `completion.rs` and `slots.rs` of the daemon, as they are. Leaves: a failed test
//! where two threads both, or none, complete a row or batch; where the last one does not see
//! what the others wrote; or where a wake-up is lost, which loom reports as a deadlock.
#![cfg(all(test, loom))]

#[path = "../../../loaderd/daemon/src/completion.rs"]
#[allow(dead_code, reason = "the daemon uses more of it than is tried here")]
mod completion;
#[path = "../../../loaderd/daemon/src/slots.rs"]
#[allow(dead_code, reason = "the daemon uses more of it than is tried here")]
mod slots;

use completion::{Countdown, RowEnd, RowParts};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use slots::SlotTable;

/// A batch of two rows of two images each, as the feeder and the workers share it.
struct Batch {
    missing: Countdown,
    rows: [RowParts; 2],
    /// Pixels of (row, image): plain memory, which only the book-keeping protects.
    pixels: [[UnsafeCell<u32>; 2]; 2],
    completed: AtomicU32,
}

impl Batch {
    fn new() -> Batch {
        Batch {
            // Two rows, and the feeder's own hold.
            missing: Countdown::new(3),
            rows: [RowParts::new(2), RowParts::new(2)],
            pixels: Default::default(),
            completed: AtomicU32::new(0),
        }
    }

    fn write(&self, row: usize, image: usize, value: u32) {
        self.pixels[row][image].with_mut(|place| {
            // SAFETY: loom fails the test where another thread uses the cell meanwhile.
            unsafe { *place = value }
        });
    }

    /// What the publisher does with a whole batch: reads all of it.
    fn complete(&self, expected: u32) {
        self.completed.fetch_add(1, Ordering::Relaxed);
        for pixels in self.pixels.iter().flatten() {
            // SAFETY: as above.
            pixels.with(|place| assert_eq!(unsafe { *place }, expected));
        }
    }

    fn row_done(&self, expected: u32) {
        if self.missing.done() {
            self.complete(expected);
        }
    }

    fn image(&self, row: usize, image: usize) {
        self.write(row, image, 1);
        if let Some(end) = self.rows[row].done(false) {
            assert_eq!(end, RowEnd::Good);
            self.row_done(1);
        }
    }
}

#[test]
fn one_thread_completes_a_batch_and_sees_all_of_it() {
    loom::model(|| {
        let batch = Arc::new(Batch::new());
        let workers: Vec<_> = (0..2)
            .map(|image| {
                let batch = batch.clone();
                thread::spawn(move || {
                    for row in 0..2 {
                        batch.image(row, image);
                    }
                })
            })
            .collect();
        // The feeder lets go when it has planned everything.
        batch.row_done(1);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(batch.completed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_bad_row_is_redone_by_one_thread() {
    loom::model(|| {
        let batch = Arc::new(Batch::new());
        // Row 1 is through already; in row 0, both workers meet.
        for image in 0..2 {
            batch.image(1, image);
        }
        batch.row_done(1);
        let redo = Arc::new(AtomicU32::new(0));
        let workers: Vec<_> = (0..2)
            .map(|image| {
                let (batch, redo) = (batch.clone(), redo.clone());
                thread::spawn(move || {
                    batch.write(0, image, 7);
                    // The second image is good, and its worker may be the last.
                    if let Some(end) = batch.rows[0].done(image == 0) {
                        assert_eq!(end, RowEnd::Bad);
                        redo.fetch_add(1, Ordering::Relaxed);
                        // What the feeder does: another row in its place.
                        batch.rows[0].restart(2);
                        for image in 0..2 {
                            batch.image(0, image);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(redo.load(Ordering::Relaxed), 1);
        assert_eq!(batch.completed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn parts_may_be_added_while_others_end() {
    loom::model(|| {
        let missing = Arc::new(Countdown::new(1));
        let last = Arc::new(AtomicU32::new(0));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                // As the feeder does before it hands the part out.
                missing.expect();
                let (missing, last) = (missing.clone(), last.clone());
                thread::spawn(move || {
                    last.fetch_add(u32::from(missing.done()), Ordering::Relaxed);
                })
            })
            .collect();
        last.fetch_add(u32::from(missing.done()), Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(last.load(Ordering::Relaxed), 1);
    });
}

/// What a session's threads share, as in the daemon's `engine.rs`: changed under the lock,
/// told after it. Here without the daemon's naps, which would hide a lost wake-up.
struct Session {
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    slots: SlotTable<u64>,
    redo: u32,
    ended: bool,
}

impl Session {
    fn new(slots: u32) -> Session {
        Session {
            state: Mutex::new(State {
                slots: SlotTable::new(slots),
                redo: 0,
                ended: false,
            }),
            wake: Condvar::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.wake.notify_all();
    }

    /// The feeder's wait: for a free slot, a row to redo, or the end.
    fn wait(&self) -> Option<u32> {
        let mut state = self.state.lock().unwrap();
        loop {
            if state.ended {
                return None;
            }
            state.redo = 0;
            if let Some(slot) = state.slots.acquire() {
                return Some(slot);
            }
            state = self.wake.wait(state).unwrap();
        }
    }
}

#[test]
fn a_feeder_that_waits_for_a_slot_always_gets_it() {
    loom::model(|| {
        let session = Arc::new(Session::new(1));
        let slot = session.wait().unwrap();
        let lease = session.state.lock().unwrap().slots.publish(slot, 0);
        let client = {
            let session = session.clone();
            thread::spawn(move || {
                session.change(|state| {
                    state.slots.deliver(lease).unwrap();
                });
                session.change(|state| state.slots.release(lease).unwrap());
            })
        };
        // A worker that has a bad row wakes the feeder for nothing.
        let worker = {
            let session = session.clone();
            thread::spawn(move || session.change(|state| state.redo += 1))
        };
        assert_eq!(session.wait(), Some(slot));
        client.join().unwrap();
        worker.join().unwrap();
        assert_eq!(session.state.lock().unwrap().slots.counts(), [0, 1, 0, 0]);
    });
}

#[test]
fn the_end_reaches_a_feeder_that_waits() {
    loom::model(|| {
        let session = Arc::new(Session::new(1));
        let slot = session.wait().unwrap();
        let feeder = {
            let session = session.clone();
            thread::spawn(move || while session.wait().is_some() {})
        };
        // The publisher drops the batch, and the session ends.
        session.change(|state| state.slots.abandon(slot));
        session.change(|state| state.ended = true);
        feeder.join().unwrap();
    });
}
