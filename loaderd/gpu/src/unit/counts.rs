//! What a lane has done, counted by its threads and read by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Outcome, Refusal};

/// What one lane has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Pictures finished.
    pub finished: u64,
    /// Pictures refused, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Batches gone through.
    pub batches: u64,
    /// Pictures given back because the queue was full.
    pub full: u64,
    /// From a batch's beginning until the decoder had taken all of it, summed.
    pub decode_ns: u64,
    /// From there until its finished images lay in their places, summed.
    pub finish_ns: u64,
}

/// What a unit has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// By the GPU's JPEG engines.
    pub engine: LaneCounts,
    /// By CUDA cores.
    pub cuda: LaneCounts,
}

/// Counters of a lane. Each stands for itself, so none publishes another.
#[derive(Default)]
pub(super) struct Counters {
    finished: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    batches: AtomicU64,
    full: AtomicU64,
    decode_ns: AtomicU64,
    finish_ns: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn picture(&self, outcome: Outcome) {
        match outcome {
            Outcome::Finished => add(&self.finished, 1),
            Outcome::Refused(why) => add(&self.refused[why as usize], 1),
        }
    }

    pub(super) fn full(&self) {
        add(&self.full, 1);
    }

    pub(super) fn batch(&self, decode: Duration, finish: Duration) {
        add(&self.batches, 1);
        add(&self.decode_ns, decode.as_nanos() as u64);
        add(&self.finish_ns, finish.as_nanos() as u64);
    }

    pub(super) fn read(&self) -> LaneCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LaneCounts {
            finished: read(&self.finished),
            refused: self.refused.each_ref().map(read),
            batches: read(&self.batches),
            full: read(&self.full),
            decode_ns: read(&self.decode_ns),
            finish_ns: read(&self.finish_ns),
        }
    }
}
