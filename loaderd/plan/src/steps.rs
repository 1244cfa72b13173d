//! Steps: how an epoch is cut into global batches, and those into the ranks' shares.
//!
//! Enters: rows, batch size, world size, `drop_last`. Leaves: ranges of positions per
//! step and rank. It never asks what row stands at a position: that is `order`'s.
//!
//! Global batch g is the positions `[g·B·W, (g+1)·B·W)`, and a rank takes its
//! contiguous slice. So the sequence of global batches depends on B·W alone, and all
//! ranks take the same number of steps, always.

use std::ops::Range;

use crate::error::PlanError;

/// What the steps of an epoch follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepsConfig {
    /// Rows in the selection; at least 1.
    pub rows: u64,
    /// Rows that one rank takes per step; at least 1.
    pub batch_size: u32,
    /// Number of ranks; at least 1.
    pub world_size: u32,
    /// Whether rows that do not fill a global batch are left out.
    pub drop_last: bool,
}

/// The steps of every epoch of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    config: StepsConfig,
    global_batch_size: u64,
    count: u64,
}

/// What one rank takes in one step: never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Positions of the epoch's order. Positions are global: the same for all ranks.
    pub positions: Range<u64>,
    /// False where the step had no row for this rank, and `positions` names one that
    /// another rank has. Such a row does not count as delivered.
    pub valid: bool,
}

impl Steps {
    /// Cuts an epoch into steps.
    ///
    /// Errors: [`PlanError::NoRows`]; [`PlanError::Zero`] for a batch or world size of
    /// 0; [`PlanError::NoStep`] where `drop_last` leaves nothing.
    pub fn new(config: StepsConfig) -> Result<Steps, PlanError> {
        let StepsConfig {
            rows,
            batch_size,
            world_size,
            drop_last,
        } = config;
        if batch_size == 0 {
            return Err(PlanError::Zero { name: "batch_size" });
        }
        if world_size == 0 {
            return Err(PlanError::Zero { name: "world_size" });
        }
        if rows == 0 {
            return Err(PlanError::NoRows);
        }
        let global_batch_size = u64::from(batch_size) * u64::from(world_size);
        let count = count(rows, global_batch_size, drop_last);
        if count == 0 {
            return Err(PlanError::NoStep {
                rows,
                batch_size,
                world_size,
                global_batch_size,
            });
        }
        Ok(Steps {
            config,
            global_batch_size,
            count,
        })
    }

    /// Steps per epoch, the same on all ranks; at least 1.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Rows that all ranks together take per step.
    pub fn global_batch_size(&self) -> u64 {
        self.global_batch_size
    }

    /// Rows that one rank takes per step.
    pub fn batch_size(&self) -> u32 {
        self.config.batch_size
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.config.world_size
    }

    /// Rows in the selection.
    pub fn rows(&self) -> u64 {
        self.config.rows
    }

    /// Whether rows that do not fill a global batch are left out.
    pub fn drop_last(&self) -> bool {
        self.config.drop_last
    }

    /// What `rank` takes in `step`: `batch_size` positions. The last global batch of
    /// m rows, where m is smaller, is split into contiguous shares that differ by at
    /// most one, the larger ones first; ranks from m on repeat one row of it.
    ///
    /// Asserts `step < count` and `rank < world_size`.
    pub fn share(&self, step: u64, rank: u32) -> Share {
        assert!(step < self.count, "step {step} of {}", self.count);
        assert!(
            rank < self.config.world_size,
            "rank {rank} of {}",
            self.config.world_size
        );
        let (rank, world_size) = (u64::from(rank), u64::from(self.config.world_size));
        let start = step * self.global_batch_size;
        let size = self.global_batch_size.min(self.config.rows - start);
        if rank >= size {
            let repeated = start + rank % size;
            return Share {
                positions: repeated..repeated + 1,
                valid: false,
            };
        }
        let (smaller, larger_ranks) = (size / world_size, size % world_size);
        let first = start + rank * smaller + rank.min(larger_ranks);
        let share_size = smaller + u64::from(rank < larger_ranks);
        Share {
            positions: first..first + share_size,
            valid: true,
        }
    }

    /// Rows that all ranks together have delivered in the epoch when `step` begins;
    /// for `step == count`, the epoch's end. The inverse of [`Steps::step_at`].
    ///
    /// Asserts `step <= count`.
    pub fn position_at(&self, step: u64) -> u64 {
        assert!(step <= self.count, "step {step} of {}", self.count);
        step.saturating_mul(self.global_batch_size)
            .min(self.config.rows)
    }

    /// The step that begins when all ranks together have delivered `position` rows of
    /// the epoch; `count` at the epoch's end, which may be given as the number of rows
    /// or as whole steps.
    ///
    /// Errors: [`PlanError::BeyondEpoch`], [`PlanError::BetweenSteps`].
    pub fn step_at(&self, position: u64) -> Result<u64, PlanError> {
        if is_epoch_end(
            self.config.rows,
            self.global_batch_size,
            self.config.drop_last,
            position,
        ) {
            return Ok(self.count);
        }
        let end = self.position_at(self.count);
        if position > end {
            return Err(PlanError::BeyondEpoch { position, end });
        }
        if !position.is_multiple_of(self.global_batch_size) {
            return Err(PlanError::BetweenSteps {
                position,
                global_batch_size: self.global_batch_size,
            });
        }
        Ok(position / self.global_batch_size)
    }
}

/// Whether an epoch is over when `position` rows of it are delivered. Both the
/// number of rows and the steps' rows (more of them, or fewer under `drop_last`)
/// are ends.
pub(crate) fn is_epoch_end(
    rows: u64,
    global_batch_size: u64,
    drop_last: bool,
    position: u64,
) -> bool {
    let rows_in_steps =
        u128::from(count(rows, global_batch_size, drop_last)) * u128::from(global_batch_size);
    position > 0 && (position == rows || u128::from(position) == rows_in_steps)
}

fn count(rows: u64, global_batch_size: u64, drop_last: bool) -> u64 {
    if drop_last {
        rows / global_batch_size
    } else {
        rows.div_ceil(global_batch_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(
        rows: u64,
        batch_size: u32,
        world_size: u32,
        drop_last: bool,
    ) -> Result<Steps, PlanError> {
        Steps::new(StepsConfig {
            rows,
            batch_size,
            world_size,
            drop_last,
        })
    }

    #[test]
    fn steps_are_counted() {
        let check = |rows, batch_size, world_size, drop_last, expected| {
            assert_eq!(
                steps(rows, batch_size, world_size, drop_last)
                    .unwrap()
                    .count(),
                expected
            );
        };
        check(1, 1, 1, true, 1);
        check(1, 256, 8, false, 1);
        check(1000, 10, 10, false, 10);
        check(1000, 10, 10, true, 10);
        check(1001, 10, 10, false, 11);
        check(1001, 10, 10, true, 10);
        check(1_281_167, 256, 8, true, 625);
        check(1_281_167, 256, 8, false, 626);
        check(u64::MAX, 1, 1, false, u64::MAX);
        check(u64::MAX, u32::MAX, u32::MAX, false, 2);
    }

    #[test]
    fn settings_without_a_step_are_refused_in_words() {
        let check = |rows, batch_size, world_size, drop_last, words: &[&str]| {
            let message = steps(rows, batch_size, world_size, drop_last)
                .unwrap_err()
                .to_string();
            for word in words {
                assert!(message.contains(word), "{word:?} is missing in {message:?}");
            }
        };
        check(0, 1, 1, false, &["no row", "filter"]);
        check(10, 0, 1, false, &["batch_size is 0", "at least 1"]);
        check(10, 1, 0, false, &["world_size is 0", "at least 1"]);
        check(
            100,
            64,
            4,
            true,
            &[
                "100 rows",
                "256",
                "batch_size 64",
                "world_size 4",
                "drop_last=False",
            ],
        );
    }

    #[test]
    fn the_last_batch_is_split_evenly() {
        let check = |rows, batch_size, world_size, step, expected: &[(Range<u64>, bool)]| {
            let steps = steps(rows, batch_size, world_size, false).unwrap();
            let shares: Vec<(Range<u64>, bool)> = (0..world_size)
                .map(|rank| steps.share(step, rank))
                .map(|share| (share.positions, share.valid))
                .collect();
            assert_eq!(shares, expected);
        };
        check(20, 4, 2, 0, &[(0..4, true), (4..8, true)]);
        check(20, 4, 2, 2, &[(16..18, true), (18..20, true)]);
        check(
            27,
            4,
            4,
            1,
            &[
                (16..19, true),
                (19..22, true),
                (22..25, true),
                (25..27, true),
            ],
        );
        check(
            18,
            4,
            4,
            1,
            &[
                (16..17, true),
                (17..18, true),
                (16..17, false),
                (17..18, false),
            ],
        );
        check(1, 4, 3, 0, &[(0..1, true), (0..1, false), (0..1, false)]);
    }

    #[test]
    fn positions_name_steps() {
        let found =
            |rows, drop_last, position| steps(rows, 5, 2, drop_last).unwrap().step_at(position);
        assert_eq!(found(95, false, 0), Ok(0));
        assert_eq!(found(95, false, 90), Ok(9));
        assert_eq!(found(95, false, 95), Ok(10));
        assert_eq!(found(95, false, 100), Ok(10));
        assert_eq!(found(95, true, 90), Ok(9));
        assert_eq!(found(95, true, 95), Ok(9));
        assert_eq!(
            found(95, true, 100),
            Err(PlanError::BeyondEpoch {
                position: 100,
                end: 90
            })
        );
        assert_eq!(
            found(95, false, 110),
            Err(PlanError::BeyondEpoch {
                position: 110,
                end: 95
            })
        );
        for position in [1, 9, 11, 89, 94] {
            let expected = PlanError::BetweenSteps {
                position,
                global_batch_size: 10,
            };
            assert_eq!(found(95, false, position), Err(expected));
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let steps = steps(u64::MAX, u32::MAX, u32::MAX, false).unwrap();
        let last = steps.share(1, u32::MAX - 1);
        assert_eq!(last.positions.end, u64::MAX);
        assert!(last.valid);
        assert_eq!(steps.position_at(2), u64::MAX);
        assert_eq!(steps.step_at(u64::MAX), Ok(2));
    }

    #[test]
    #[should_panic(expected = "step 10 of 10")]
    fn a_step_beyond_the_epoch_is_our_bug() {
        steps(95, 5, 2, false).unwrap().share(10, 0);
    }

    #[test]
    #[should_panic(expected = "rank 2 of 2")]
    fn a_rank_beyond_the_world_is_our_bug() {
        steps(95, 5, 2, false).unwrap().share(0, 2);
    }
}
