//! A decode unit on a real GPU, with the real libraries, where there is one; and the same on
//! stand-ins, so that what is asked of it can be done.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::connect::Standins;
use crate::jobs::{Job, Slots, orientations, smooth, start};
use loaderd_decode::encode::{Encoder, Subsampling};
use loaderd_decode::{Options, Pipeline};
use loaderd_gpu::unit::{NotTaken, Outcome, Settings, Unit};
use loaderd_gpu::{Places, cuda};
use serde_json::json;

/// The real libraries on a real device.
#[test]
fn a_real_gpu_finishes_as_the_cpu_does() {
    if !cuda::is_plugged_in(Path::new("/")) {
        eprintln!("skipped: no GPU here");
        return;
    }
    let mut places = Places::of_process();
    (places.environments).push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv"));
    let unit = match Unit::start(&places, &Settings::default()) {
        Ok(unit) => unit,
        Err(error) => {
            eprintln!("skipped: {error}; mend: {}", error.mend());
            return;
        }
    };
    eprintln!("{:#?}", unit.report());
    smooth_pictures_differ_little(&unit, 50);
    eprintln!("{:#?}", unit.counts());
}

#[test]
fn what_the_real_one_is_asked_for_can_be_done() {
    let standins = Standins::build("as-real", &[]);
    smooth_pictures_differ_little(&start(&standins, &Settings::default()), 2);
}

/// Decoders differ by a grey level on average, and in nothing from round to round.
fn smooth_pictures_differ_little(unit: &Unit, rounds: usize) {
    let mut files = Vec::new();
    for subsampling in Subsampling::ALL {
        let encoder = Encoder {
            subsampling,
            quality: 95,
            restart_mcus: 2,
            ..Encoder::default()
        };
        for seed in 0..3 {
            files.push(smooth(&encoder, 512 + 64 * seed, 481, seed));
        }
        files.extend(orientations(&smooth(&encoder, 500, 375, 7)));
    }
    let list = json!([
        {"name": "RandomResizedCrop", "size": [224, 224], "scale": [0.3, 1.0]},
        {"name": "RandomHorizontalFlip"},
    ]);
    let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
    let jobs: Vec<Job> = (files.iter().enumerate())
        .map(|(index, file)| Job::new(file, &pipeline, index as u32))
        .collect();
    let mut first: Option<Vec<Vec<u8>>> = None;
    for round in 0..rounds {
        let slots = Slots::new(unit, jobs.iter().map(Job::bytes));
        let (sender, outcomes) = mpsc::channel();
        for (index, job) in jobs.iter().enumerate() {
            let mut picture = (job.picture(unit, slots.place(index), index, &sender)).unwrap();
            let route = picture.route;
            while let Err(returned) = unit.offer(picture) {
                assert_eq!(returned.reason, NotTaken::Full, "{job:?}");
                picture = returned.picture;
                assert!(unit.room(route, Duration::from_secs(10)));
            }
        }
        for _ in &jobs {
            let (index, outcome) = outcomes.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(
                outcome,
                Outcome::Finished,
                "round {round}, {:?}",
                jobs[index]
            );
        }
        let found: Vec<Vec<u8>> = (0..jobs.len())
            .map(|index| slots.bytes(index).to_vec())
            .collect();
        match &first {
            None => first = Some(found),
            Some(first) => assert!(*first == found, "round {round} differs from the first"),
        }
    }
    for (job, found) in jobs.iter().zip(first.unwrap()) {
        let pairs = found.iter().zip(job.on_cpu());
        let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(b))).sum();
        let mean = sum as f64 / found.len() as f64;
        eprintln!("{mean:.3} grey levels from the CPU on average: {job:?}");
        assert!(mean <= 1.0, "{job:?}");
    }
}
