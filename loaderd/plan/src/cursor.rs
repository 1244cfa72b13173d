//! Cursor: where a job stands, small enough for any checkpoint, and whether today's
//! plan can go on from there.
//!
//! Enters: a cursor that some earlier process wrote, and today's fingerprint, seed
//! and steps. Leaves: the step to go on with, or a refusal that names what changed.
//! It never reads or writes files; its fields are the JSON.

use serde::{Deserialize, Serialize};

use crate::error::PlanError;
use crate::fingerprint::{Difference, Fingerprint};
use crate::steps::{Steps, is_epoch_end};

/// The cursor format that this crate reads and writes.
pub const CURSOR_FORMAT: u32 = 1;

/// Where a job stands after the batches that were *delivered*, the same on all ranks
/// that have taken equally many steps. Serialises to a few hundred bytes of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Always [`CURSOR_FORMAT`].
    pub format: u32,
    /// The plan that `position` belongs to.
    pub fingerprint: Fingerprint,
    /// The run's id.
    pub run: String,
    /// The seed of order and augmentation.
    pub seed: u64,
    /// Rows that all ranks together take per step; at least 1.
    pub global_batch_size: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Rows of the epoch that all ranks together have delivered.
    pub position: u64,
}

impl Cursor {
    /// Checks a cursor against today's plan, and returns the step of `epoch` to go on
    /// with: `steps.count()` where the epoch is over and the next one is due.
    ///
    /// World size and batch size may have changed as long as a step of today's begins
    /// at `position`. With `allow_changed`, the plan may have changed too, under the
    /// same condition; an epoch that was over stays over.
    ///
    /// Errors: [`PlanError::CursorFormat`] and [`PlanError::CursorDamaged`] for what no
    /// loader of this format wrote; [`PlanError::Changed`], unless allowed, with all
    /// differences; always [`PlanError::CursorBatch`], [`PlanError::CursorRows`] or
    /// [`PlanError::BetweenSteps`] where `position` means nothing today.
    ///
    /// Asserts that `now` and `steps` describe the same plan.
    pub fn resume(
        &self,
        now: &Fingerprint,
        seed: u64,
        steps: &Steps,
        allow_changed: bool,
    ) -> Result<u64, PlanError> {
        assert_eq!(
            (now.rows, now.drop_last),
            (steps.rows(), steps.drop_last()),
            "fingerprint and steps belong to different plans"
        );
        self.check_form()?;
        if !allow_changed {
            let differences = self.differences(now, seed);
            if !differences.is_empty() {
                return Err(PlanError::Changed { differences });
            }
        }
        let then = &self.fingerprint;
        if is_epoch_end(
            then.rows,
            self.global_batch_size,
            then.drop_last,
            self.position,
        ) {
            return Ok(steps.count());
        }
        steps.step_at(self.position).map_err(|error| match error {
            PlanError::BeyondEpoch { position, end } => PlanError::CursorRows {
                position,
                then: then.rows,
                now: end,
            },
            PlanError::BetweenSteps {
                position,
                global_batch_size,
            } if global_batch_size != self.global_batch_size => PlanError::CursorBatch {
                position,
                then: self.global_batch_size,
                now: global_batch_size,
            },
            other => other,
        })
    }

    /// A checkpoint is a file from outside: it may hold anything.
    fn check_form(&self) -> Result<(), PlanError> {
        if self.format != CURSOR_FORMAT {
            return Err(PlanError::CursorFormat {
                found: self.format,
                expected: CURSOR_FORMAT,
            });
        }
        if self.global_batch_size == 0 {
            return Err(PlanError::CursorDamaged {
                field: "global_batch_size",
            });
        }
        if self.fingerprint.rows == 0 {
            return Err(PlanError::CursorDamaged {
                field: "fingerprint.rows",
            });
        }
        Ok(())
    }

    fn differences(&self, now: &Fingerprint, seed: u64) -> Vec<Difference> {
        let mut differences = self.fingerprint.diff(now);
        if self.seed != seed {
            differences.push(Difference {
                field: "seed",
                then: self.seed.to_string(),
                now: seed.to_string(),
            });
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::example;
    use crate::steps::StepsConfig;

    /// A cursor over the example's 1000 rows in global batches of 100.
    fn cursor(position: u64) -> Cursor {
        Cursor {
            format: CURSOR_FORMAT,
            fingerprint: example(),
            run: "r1".to_string(),
            seed: 5,
            global_batch_size: 100,
            epoch: 2,
            position,
        }
    }

    fn resume(
        cursor: &Cursor,
        now: &Fingerprint,
        global_batch_size: u32,
        allow: bool,
    ) -> Result<u64, PlanError> {
        let steps = Steps::new(StepsConfig {
            rows: now.rows,
            batch_size: global_batch_size,
            world_size: 1,
            drop_last: now.drop_last,
        })
        .unwrap();
        cursor.resume(now, 5, &steps, allow)
    }

    fn changed(change: fn(&mut Fingerprint)) -> Fingerprint {
        let mut now = example();
        change(&mut now);
        now
    }

    #[test]
    fn the_same_plan_goes_on() {
        for (position, step) in [(0, 0), (100, 1), (900, 9), (1000, 10)] {
            assert_eq!(resume(&cursor(position), &example(), 100, false), Ok(step));
        }
    }

    #[test]
    fn a_moved_dataset_goes_on() {
        let now = changed(|f| f.uri = "/mnt/photos.lance".to_string());
        assert_eq!(resume(&cursor(300), &now, 100, false), Ok(3));
    }

    #[test]
    fn another_batch_size_goes_on_where_a_step_begins() {
        assert_eq!(resume(&cursor(300), &example(), 50, false), Ok(6));
        assert_eq!(resume(&cursor(300), &example(), 300, false), Ok(1));
        let error = resume(&cursor(300), &example(), 256, false).unwrap_err();
        let expected = PlanError::CursorBatch {
            position: 300,
            then: 100,
            now: 256,
        };
        assert_eq!(error, expected);
        assert!(
            error.to_string().contains("another that divides 300"),
            "{error}"
        );
    }

    #[test]
    fn an_epoch_that_is_over_stays_over() {
        let mut drop_last = cursor(896);
        drop_last.fingerprint.drop_last = true;
        drop_last.global_batch_size = 128;
        let now = changed(|f| f.drop_last = true);
        assert_eq!(resume(&drop_last, &now, 128, false), Ok(7));
        assert_eq!(resume(&drop_last, &now, 256, false), Ok(3));
        assert_eq!(resume(&drop_last, &now, 64, false), Ok(15));

        // 1024 is 8 steps of 128: the end, counted in whole steps.
        let mut rounded = cursor(1024);
        rounded.global_batch_size = 128;
        assert_eq!(resume(&rounded, &example(), 128, false), Ok(8));

        let grown = changed(|f| f.rows = 1230);
        assert_eq!(resume(&cursor(1000), &grown, 256, true), Ok(5));
    }

    #[test]
    fn a_changed_plan_is_refused_with_every_difference() {
        let now = changed(|f| {
            f.version = 4;
            f.filter = None;
        });
        let steps = Steps::new(StepsConfig {
            rows: 1000,
            batch_size: 100,
            world_size: 1,
            drop_last: false,
        })
        .unwrap();
        let message = cursor(300)
            .resume(&now, 6, &steps, false)
            .unwrap_err()
            .to_string();
        let lines: Vec<&str> = message.lines().collect();
        let expected = [
            "the checkpoint belongs to another plan:",
            "  version: 3 then, 4 now",
            "  filter: split = 'train' then, none now",
            "  seed: 5 then, 6 now",
        ];
        assert_eq!(lines[..4], expected);
        assert!(lines[4].contains("allow_changed=True"), "{message}");
        assert_eq!(lines.len(), 5);
        assert_eq!(cursor(300).resume(&now, 6, &steps, true), Ok(3));
    }

    #[test]
    fn a_position_beyond_fewer_rows_is_refused_even_when_changes_are_allowed() {
        let now = changed(|f| f.rows = 500);
        assert!(matches!(
            resume(&cursor(600), &now, 100, false),
            Err(PlanError::Changed { .. })
        ));
        let expected = PlanError::CursorRows {
            position: 600,
            then: 1000,
            now: 500,
        };
        assert_eq!(resume(&cursor(600), &now, 100, true), Err(expected));
        assert_eq!(resume(&cursor(500), &now, 100, true), Ok(5));
        assert_eq!(resume(&cursor(400), &now, 100, true), Ok(4));
    }

    #[test]
    fn damaged_cursors_are_refused() {
        let check = |damage: fn(&mut Cursor), words: &str| {
            let mut cursor = cursor(300);
            damage(&mut cursor);
            let message = resume(&cursor, &example(), 100, true)
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(words),
                "{words:?} is missing in {message:?}"
            );
        };
        check(|c| c.format = 2, "format 2, this loader reads format 1");
        check(|c| c.global_batch_size = 0, "global_batch_size is 0");
        check(|c| c.fingerprint.rows = 0, "fingerprint.rows is 0");
        check(|c| c.position = 301, "no step begins at position 301");
        check(
            |c| c.position = u64::MAX,
            "stands after 18446744073709551615 of 1000 rows",
        );
    }

    #[test]
    #[should_panic(expected = "different plans")]
    fn steps_of_another_plan_are_our_bug() {
        let steps = Steps::new(StepsConfig {
            rows: 999,
            batch_size: 100,
            world_size: 1,
            drop_last: false,
        })
        .unwrap();
        let _ = cursor(0).resume(&example(), 5, &steps, true);
    }

    #[test]
    fn the_json_is_small_and_keeps_its_form() {
        let json = serde_json::to_string(&cursor(300)).unwrap();
        assert!(json.len() < 600, "{} bytes", json.len());
        let expected = concat!(
            r#"{"format":1,"fingerprint":{"dataset":"5f2c","uri":"/data/photos.lance","version":3,"rows":1000,"#,
            r#""selection":"77aa","filter":"split = 'train'","columns":["image","label"],"#,
            r#""transform":"{\"image\":[[\"CenterCrop\",224]]}","shuffle":true,"drop_last":false},"#,
            r#""run":"r1","seed":5,"global_batch_size":100,"epoch":2,"position":300}"#
        );
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor(300));
    }
}
