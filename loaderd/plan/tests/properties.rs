//! What an epoch promises, for any number of rows, world size and batch size.
//!
//! Enters: sizes drawn by proptest. Leaves: nothing. It uses the public interface
//! alone, as the daemon does.

use loaderd_plan::{CURSOR_FORMAT, Cursor, Fingerprint, Order, Share, Steps, StepsConfig};
use proptest::prelude::*;

/// Sizes that leave at least one step, from fewer rows than ranks to many batches.
fn configs() -> impl Strategy<Value = StepsConfig> {
    let sizes = (1u64..400, 1u32..20, 1u32..12, any::<bool>());
    sizes.prop_filter_map(
        "drop_last leaves no step",
        |(rows, batch_size, world_size, drop_last)| {
            let config = StepsConfig {
                rows,
                batch_size,
                world_size,
                drop_last,
            };
            Steps::new(config).is_ok().then_some(config)
        },
    )
}

fn fingerprint(config: StepsConfig) -> Fingerprint {
    Fingerprint {
        dataset: "d".to_string(),
        uri: "u".to_string(),
        version: 1,
        rows: config.rows,
        selection: "s".to_string(),
        filter: None,
        columns: vec!["image".to_string()],
        transform: "{}".to_string(),
        shuffle: true,
        drop_last: config.drop_last,
    }
}

fn shares(steps: &Steps, step: u64) -> Vec<Share> {
    (0..steps.world_size())
        .map(|rank| steps.share(step, rank))
        .collect()
}

/// The positions of a step that count as delivered, in the ranks' order.
fn global_batch(steps: &Steps, step: u64) -> Vec<u64> {
    let valid = shares(steps, step).into_iter().filter(|share| share.valid);
    valid.flat_map(|share| share.positions).collect()
}

/// What happens in one step: per rank, the rows and whether they are valid.
#[derive(Debug, PartialEq)]
struct Delivery {
    epoch: u64,
    step: u64,
    ranks: Vec<(Vec<u64>, bool)>,
}

/// All that a job of two epochs delivers from some step on.
fn walk(steps: &Steps, seed: u64, epoch: u64, step: u64) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for (epoch, first) in (epoch..2).zip([step, 0]) {
        let order = Order::shuffled(steps.rows(), seed, epoch);
        for step in first..steps.count() {
            let rows = |share: Share| {
                let rows = share.positions.map(|position| order.row_at(position));
                (rows.collect(), share.valid)
            };
            let ranks = shares(steps, step).into_iter().map(rows).collect();
            deliveries.push(Delivery { epoch, step, ranks });
        }
    }
    deliveries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_valid_row_comes_exactly_once_an_epoch(config in configs(), seed: u64, epoch: u64) {
        let steps = Steps::new(config).unwrap();
        let order = Order::shuffled(config.rows, seed, epoch);
        let mut times = vec![0u32; config.rows as usize];
        for step in 0..steps.count() {
            for position in global_batch(&steps, step) {
                times[order.row_at(position) as usize] += 1;
            }
        }
        let delivered: u64 = times.iter().map(|&n| u64::from(n)).sum();
        prop_assert!(times.iter().all(|&n| n <= 1));
        if config.drop_last {
            prop_assert_eq!(delivered, steps.count() * steps.global_batch_size());
            prop_assert!(config.rows - delivered < steps.global_batch_size());
        } else {
            prop_assert_eq!(delivered, config.rows);
        }
    }

    #[test]
    fn all_ranks_take_the_same_steps_in_shares_that_differ_by_one_at_most(config in configs()) {
        let steps = Steps::new(config).unwrap();
        for step in 0..steps.count() {
            let shares = shares(&steps, step);
            let sizes: Vec<u64> = shares.iter().map(|s| s.positions.end - s.positions.start).collect();
            let (smallest, largest) = (*sizes.iter().min().unwrap(), *sizes.iter().max().unwrap());
            prop_assert!(smallest >= 1, "a rank has nothing to do in step {}", step);
            prop_assert!(largest - smallest <= 1);
            prop_assert!(largest <= u64::from(config.batch_size));
            if step + 1 < steps.count() || config.drop_last {
                prop_assert_eq!(smallest, u64::from(config.batch_size));
            }
            let batch = global_batch(&steps, step);
            for share in shares.iter().filter(|share| !share.valid) {
                prop_assert!(batch.contains(&share.positions.start), "a repeated row of another step");
            }
        }
    }

    #[test]
    fn global_batches_do_not_depend_on_the_world_size(
        rows in 1u64..400,
        parts in prop::sample::select(vec![(12u32, 1u32), (6, 2), (4, 3), (3, 4), (2, 6), (1, 12)]),
        drop_last: bool,
    ) {
        let make = |(batch_size, world_size)| Steps::new(StepsConfig { rows, batch_size, world_size, drop_last });
        let (Ok(one), Ok(many)) = (make((12, 1)), make(parts)) else {
            prop_assert!(drop_last && rows < 12);
            return Ok(());
        };
        prop_assert_eq!(one.count(), many.count());
        for step in 0..one.count() {
            prop_assert_eq!(global_batch(&one, step), global_batch(&many, step));
        }
    }

    #[test]
    fn positions_and_steps_are_inverses(config in configs()) {
        let steps = Steps::new(config).unwrap();
        let mut delivered = 0;
        for step in 0..=steps.count() {
            prop_assert_eq!(steps.position_at(step), delivered);
            prop_assert_eq!(steps.step_at(delivered), Ok(step));
            if step < steps.count() {
                delivered += global_batch(&steps, step).len() as u64;
            }
        }
        let boundaries = (0..config.rows + 50).filter(|&p| steps.step_at(p).is_ok()).count() as u64;
        prop_assert!(boundaries <= steps.count() + 2);
    }

    #[test]
    fn resuming_at_any_step_equals_going_on(config in configs(), seed: u64) {
        let steps = Steps::new(config).unwrap();
        let uninterrupted = walk(&steps, seed, 0, 0);
        for epoch in 0..2 {
            // Some thirty steps of each epoch, the first and the end among them.
            let stride = steps.count().div_ceil(30);
            for step in (0..=steps.count()).filter(|step| step % stride == 0 || *step == steps.count()) {
                let cursor = Cursor {
                    format: CURSOR_FORMAT,
                    fingerprint: fingerprint(config),
                    run: "run".to_string(),
                    seed,
                    global_batch_size: steps.global_batch_size(),
                    epoch,
                    position: steps.position_at(step),
                };
                let json = serde_json::to_string(&cursor).unwrap();
                let cursor: Cursor = serde_json::from_str(&json).unwrap();
                let next = cursor.resume(&fingerprint(config), cursor.seed, &steps, false).unwrap();
                prop_assert_eq!(next, step);
                let done = (epoch * steps.count() + step) as usize;
                prop_assert_eq!(&walk(&steps, cursor.seed, cursor.epoch, next)[..], &uninterrupted[done..]);
            }
        }
    }
}
