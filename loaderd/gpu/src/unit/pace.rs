//! How long a lane takes, of late, and so how long a picture would take that comes next.
//!
//! Enters: how long each batch took. Leaves: when the next picture is expected to be finished, and
//! whether a lane that was passed over is to be tried again. Never: a clock of its own.

use std::time::{Duration, Instant};

/// A lane that is passed over is tried again after so many times as long as its batches took: the
/// pictures that try it are late, and so no more than one part in a hundred of the time.
const REST: u32 = 100;
/// How much of a batch's time is forgotten with each that takes longer. One that is faster counts
/// at once, so that a lane that was held up once is soon made use of again.
const FORGOTTEN: u32 = 5;

/// What a lane's batches took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    batch: Option<Duration>,
    /// When the latest was done.
    at: Option<Instant>,
}

/// What a lane has to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Pictures that wait.
    pub(super) waiting: usize,
    /// Most pictures of a batch.
    pub(super) batch: usize,
    /// Threads, and those of them that have a batch.
    pub(super) threads: usize,
    pub(super) busy: usize,
}

impl Pace {
    /// A batch was done at `now`.
    pub(super) fn add(&mut self, took: Duration, now: Instant) {
        self.batch = Some(match self.batch {
            Some(usual) if usual < took => usual + (took - usual) / FORGOTTEN,
            _ => took,
        });
        self.at = Some(now);
    }

    /// How long the next picture will take; `None` where no batch was measured.
    fn expected(&self, load: Load) -> Option<Duration> {
        let threads = load.threads.max(1);
        let before = load.waiting / load.batch.max(1);
        // Where all threads have one, those come before it, too.
        let before = before + if load.busy >= threads { load.busy } else { 0 };
        Some(self.batch?.mul_f64(1.0 + before as f64 / threads as f64))
    }

    /// Whether a picture that comes at `now` is expected to be finished `within` that time, or one
    /// is to be sent to see whether it would be.
    pub(super) fn is_prompt(&self, load: Load, within: Duration, now: Instant) -> bool {
        let Some(expected) = self.expected(load) else {
            return true;
        };
        let is_idle = load.waiting == 0 && load.busy == 0;
        let rested = || Some(now.duration_since(self.at?) > self.batch? * REST);
        expected <= within || (is_idle && rested() == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(waiting: usize, busy: usize) -> Load {
        Load {
            waiting,
            batch: 8,
            threads: 2,
            busy,
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_picture_waits_for_those_before_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.expected(load(9, 2)), None);
        pace.add(10 * MS, Instant::now());
        let expected = |waiting, busy| pace.expected(load(waiting, busy)).unwrap();
        assert_eq!(expected(0, 0), 10 * MS);
        // It goes into the first batch, which one of the threads takes at once.
        assert_eq!(expected(7, 1), 10 * MS);
        assert_eq!(expected(8, 1), 15 * MS);
        assert_eq!(expected(0, 2), 20 * MS);
        assert_eq!(expected(16, 2), 30 * MS);
    }

    #[test]
    fn slow_batches_count_little_by_little_and_fast_ones_at_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for (took, expected) in [(10, 10), (60, 20), (20, 20), (1000, 216), (4, 4)] {
            pace.add(took * MS, now);
            assert_eq!(pace.batch, Some(expected * MS));
        }
    }

    #[test]
    fn a_slow_lane_is_passed_over_and_tried_again() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let is_prompt =
            |pace: &Pace, load, after: u32| pace.is_prompt(load, 28 * MS, now + after * MS);
        // Nothing is known.
        assert!(is_prompt(&pace, load(99, 2), 0));
        pace.add(10 * MS, now);
        assert!(is_prompt(&pace, load(0, 2), 0));
        assert!(!is_prompt(&pace, load(16, 2), 99_999));
        pace.add(90 * MS, now);
        assert!(is_prompt(&pace, load(0, 0), 0), "it was once");
        pace.add(90 * MS, now);
        assert_eq!(pace.batch, Some(Duration::from_micros(38_800)));
        assert!(!is_prompt(&pace, load(0, 0), 0));
        assert!(!is_prompt(&pace, load(0, 0), 3_880));
        assert!(is_prompt(&pace, load(0, 0), 3_881));
        assert!(!is_prompt(&pace, load(0, 1), 3_881), "one is under way");
        // And is no longer slow.
        pace.add(5 * MS, now);
        assert!(is_prompt(&pace, load(8, 2), 0));
    }
}
