//! The daemon's memory for batches, as a sum that has a limit.
//!
//! Enters: what sessions want to take. Leaves: leave to take it, or how much is in use. It
//! allocates nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of slots, of batches too large for one, and of values on their way into a batch,
/// over all sessions.
#[derive(Debug)]
pub struct SlotMemory {
    max: u64,
    /// A mere sum that orders nothing: relaxed.
    used: AtomicU64,
}

impl SlotMemory {
    /// At most `max` bytes.
    pub fn new(max: u64) -> Arc<SlotMemory> {
        Arc::new(SlotMemory {
            max,
            used: AtomicU64::new(0),
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

    /// Takes memory, unless that would exceed the limit; else says how much is in use.
    pub fn reserve(self: &Arc<SlotMemory>, bytes: u64) -> Result<Reserved, u64> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|all| *all <= self.max)
            })
            .map(|_| Reserved {
                memory: self.clone(),
                bytes,
            })
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
    use super::*;

    #[test]
    fn the_limit_holds_and_all_comes_back() {
        let memory = SlotMemory::new(100);
        let first = memory.reserve(60).unwrap();
        assert_eq!(memory.reserve(41).unwrap_err(), 60);
        assert_eq!(memory.reserve(u64::MAX).unwrap_err(), 60);
        let second = memory.reserve(40).unwrap();
        drop(first);
        assert_eq!(memory.used(), 40);
        drop(second);
        assert_eq!(memory.used(), 0);
    }
}
