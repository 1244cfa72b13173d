//! The daemon's memory for batches, as a sum that has a limit.
//!
//! Enters: what sessions want to take. Leaves: leave to take it, or how much is in use; and
//! whether the machine has it, where several allocate at once. It allocates nothing itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::size;

/// Bytes of slots, of batches too large for one, and of values on their way into a batch,
/// over all sessions.
#[derive(Debug)]
pub struct SlotMemory {
    max: u64,
    /// A mere sum that orders nothing: relaxed.
    used: AtomicU64,
    /// Bytes that sessions which allocate have yet to take, in the order in which they came.
    left: Mutex<BTreeMap<u64, u64>>,
    turns: AtomicU64,
}

impl SlotMemory {
    /// At most `max` bytes.
    pub fn new(max: u64) -> Arc<SlotMemory> {
        Arc::new(SlotMemory {
            max,
            used: AtomicU64::new(0),
            left: Mutex::default(),
            turns: AtomicU64::new(0),
        })
    }

    /// The limit, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// In use, in bytes.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes memory, unless that would exceed the limit.
    pub fn reserve(self: &Arc<SlotMemory>, bytes: u64) -> Result<Reserved, Lack> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|all| *all <= self.max)
            })
            .map(|_| Reserved {
                memory: self.clone(),
                bytes,
            })
            .map_err(|used| Lack {
                bytes,
                used,
                max: self.max,
            })
    }

    /// A place behind all sessions that allocate already.
    pub fn turn(self: &Arc<SlotMemory>) -> Turn {
        Turn {
            memory: self.clone(),
            number: self.turns.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn left(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, u64>> {
        self.left.lock().expect("no panic while held")
    }
}

/// The limit leaves too little; in words, what follows the name of what needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "need {}, and {} of the daemon's {} of slot memory are in use: use fewer slots=, a smaller batch_size or \
     variable_bytes=, or start the daemon with a larger --slot-memory",
    size::show(*bytes),
    size::show(*used),
    size::show(*max)
)]
pub struct Lack {
    /// That were asked for.
    pub bytes: u64,
    /// Bytes in use.
    pub used: u64,
    /// The limit, in bytes.
    pub max: u64,
}

/// Whether the machine has what a session wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It has.
    Enough,
    /// It has not, and a session that came later gives way: ask again in a moment.
    Later,
    /// It has only so many bytes, beside what those that came before are to take.
    Only(u64),
}

/// A session's place among those that allocate at the same time, which all see the same free
/// memory. Of two that can't both have theirs, the one that came later gives way, so that one gets
/// it: the last of all never waits. Dropped when the session has its memory, or has given
/// back what it took.
#[derive(Debug)]
pub struct Turn {
    memory: Arc<SlotMemory>,
    number: u64,
}

impl Turn {
    /// Whether there is room for the `left` bytes that the session has yet to take. `free` says
    /// what the machine has; it is asked once what others are to take can't change any more.
    pub fn room(&self, left: u64, free: impl FnOnce() -> u64) -> Room {
        let mut all = self.memory.left();
        all.insert(self.number, left);
        let before: u64 = all.range(..self.number).map(|(_, left)| left).sum();
        let room = free().saturating_sub(before);
        if left <= room {
            Room::Enough
        } else if all.range(self.number + 1..).next().is_some() {
            Room::Later
        } else {
            Room::Only(room)
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.memory.left().remove(&self.number);
    }
}

/// Memory that was taken; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    memory: Arc<SlotMemory>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_limit_holds_and_all_comes_back() {
        let memory = SlotMemory::new(100);
        let first = memory.reserve(60).unwrap();
        assert_eq!(memory.reserve(41).unwrap_err().used, 60);
        assert_eq!(memory.reserve(u64::MAX).unwrap_err().used, 60);
        let second = memory.reserve(40).unwrap();
        drop(first);
        assert_eq!(memory.used(), 40);
        drop(second);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn of_two_that_want_the_last_memory_the_first_gets_it() {
        let memory = SlotMemory::new(100);
        let (first, second) = (memory.turn(), memory.turn());
        // Six bytes for two that want four: each looks after every byte that it takes.
        assert_eq!(first.room(4, || 6), Room::Enough);
        assert_eq!(second.room(4, || 6), Room::Only(2));
        drop(second);
        for taken in 1..4 {
            assert_eq!(first.room(4 - taken, || 6 - taken), Room::Enough);
        }
    }

    #[test]
    fn who_came_first_waits_until_who_came_later_has_given_way() {
        let memory = SlotMemory::new(100);
        let (first, second) = (memory.turn(), memory.turn());
        assert_eq!(first.room(4, || 8), Room::Enough);
        assert_eq!(second.room(4, || 8), Room::Enough);
        // Each has taken two, and somebody else three.
        assert_eq!(first.room(2, || 1), Room::Later);
        assert_eq!(second.room(2, || 1), Room::Only(0));
        // Refused, but its memory is not back yet.
        assert_eq!(first.room(2, || 1), Room::Later);
        drop(second);
        assert_eq!(first.room(2, || 3), Room::Enough);
        assert_eq!(first.room(2, || 1), Room::Only(1));
        drop(first);
        assert_eq!(memory.turn().room(1, || 1), Room::Enough);
    }

    /// As sessions do: free memory is looked at, and taken a moment later; what is given back takes
    /// the kernel a while.
    #[test]
    fn somebody_gets_memory_that_is_enough_for_one() {
        const WANTED: u64 = 40;
        for _ in 0..20 {
            let together = std::sync::Barrier::new(3);
            let memory = SlotMemory::new(0);
            let free = AtomicU64::new(WANTED + WANTED / 2);
            let allocate = || {
                together.wait();
                let turn = memory.turn();
                let mut taken = 0;
                while taken < WANTED {
                    match turn.room(WANTED - taken, || free.load(Ordering::Relaxed)) {
                        Room::Enough => {
                            std::thread::sleep(Duration::from_micros(100));
                            free.fetch_sub(1, Ordering::Relaxed);
                            taken += 1;
                        }
                        Room::Later => std::thread::yield_now(),
                        Room::Only(_) => {
                            std::thread::sleep(Duration::from_millis(5));
                            free.fetch_add(taken, Ordering::Relaxed);
                            return false;
                        }
                    }
                }
                true
            };
            let got = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..3).map(|_| scope.spawn(allocate)).collect();
                let threads = threads.into_iter();
                threads
                    .map(|thread| thread.join().unwrap())
                    .filter(|&got| got)
                    .count()
            });
            assert_eq!(got, 1);
        }
    }
}
