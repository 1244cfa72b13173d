//! Who is the last: the counters by which a batch learns that it is whole.
//!
//! Enters: parts that are done, from any thread. Leaves: to exactly one caller, that it was
//! the last, with everything the others wrote before visible to it. It knows nothing of
//! images and slots, never blocks, and depends on nothing else of the daemon, so that loom
//! can try every interleaving of it (`tests/loom`).

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Counts down to whoever is the last.
pub(crate) struct Countdown(AtomicU32);

impl Countdown {
    /// So many parts are missing; at least 1.
    pub(crate) fn new(parts: u32) -> Countdown {
        Countdown(AtomicU32::new(parts))
    }

    /// One more part will be missing. Only for who has a part that is not done yet.
    pub(crate) fn expect(&self) {
        // Relaxed: the caller's own part keeps the count above zero meanwhile.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A part is done; true for the last one.
    pub(crate) fn done(&self) -> bool {
        // AcqRel: publishes what was written for this part to whoever is the last.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Begins anew, once the last part is done.
    pub(crate) fn restart(&self, parts: u32) {
        // Relaxed: parts are handed out after this, by queues, and queues order.
        self.0.store(parts, Ordering::Relaxed);
    }
}

/// The parts of one row, of which any may turn out bad.
pub(crate) struct RowParts {
    missing: Countdown,
    bad: AtomicBool,
}

/// What became of a row, for whoever did its last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowEnd {
    /// All of its parts are good.
    Good,
    /// At least one is bad.
    Bad,
}

impl RowParts {
    /// A row of so many parts.
    pub(crate) fn new(parts: u32) -> RowParts {
        RowParts {
            missing: Countdown::new(parts),
            bad: AtomicBool::new(false),
        }
    }

    /// A part is done; the last one learns what became of the row.
    pub(crate) fn done(&self, bad: bool) -> Option<RowEnd> {
        if bad {
            // Relaxed: the countdown publishes it, too.
            self.bad.store(true, Ordering::Relaxed);
        }
        self.missing
            .done()
            .then(|| match self.bad.load(Ordering::Relaxed) {
                false => RowEnd::Good,
                true => RowEnd::Bad,
            })
    }

    /// Another row takes this one's place, once its last part is done.
    pub(crate) fn restart(&self, parts: u32) {
        self.bad.store(false, Ordering::Relaxed);
        self.missing.restart(parts);
    }
}
