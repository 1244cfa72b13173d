//! Cursors: checkpoints are files from outside.
//!
//! Enters: JSON of a cursor and of today's plan. A cursor is refused, or gives a step of
//! the epoch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_plan::{Cursor, Fingerprint, Steps, StepsConfig};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    cursor: Cursor,
    now: Fingerprint,
    seed: u64,
    batch_size: u32,
    world_size: u32,
    allow_changed: bool,
}

fuzz_target!(|text: &[u8]| {
    let Ok(case) = serde_json::from_slice::<Case>(text) else {
        return;
    };
    let Ok(steps) = Steps::new(StepsConfig {
        rows: case.now.rows,
        batch_size: case.batch_size,
        world_size: case.world_size,
        drop_last: case.now.drop_last,
    }) else {
        return;
    };
    assert_eq!(case.now.hash().len(), 32);
    match case
        .cursor
        .resume(&case.now, case.seed, &steps, case.allow_changed)
    {
        Ok(step) => {
            assert!(step <= steps.count());
            if step < steps.count() {
                let last = case.world_size - 1;
                assert!(steps.share(step, last).positions.end <= case.now.rows);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
