//! Decode units: byte for byte what the CPU decoder gives, in the memory that they may take, and
//! an answer for each picture that was taken.
//!
//! Stand-ins decode with the CPU's decoder and finish with the kernels' twin, on queues that are
//! slow enough for whoever does not wait to be seen.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::connect::Standins;
use crate::jobs::{Job, Slots, copies, jpeg, orientations, pipelines, settings, start};
use loaderd_decode::encode::{Encoder, Scans, Subsampling};
use loaderd_gpu::routing::{Route, route};
use loaderd_gpu::unit::{NotTaken, Outcome, Picture, Refusal, Settings, Unit};

/// Every kind that is routed to a GPU, upright and turned.
fn kinds() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for (number, subsampling) in Subsampling::ALL.into_iter().enumerate() {
        for (width, height) in [(160, 120), (97, 131), (64, 64), (130, 71)] {
            let encoder = Encoder {
                subsampling,
                ..Encoder::default()
            };
            files.push(jpeg(&encoder, width, height, number as u32));
        }
    }
    // Cut to their crops.
    let restarts = Encoder {
        restart_mcus: 2,
        ..Encoder::default()
    };
    files.extend((0..4).map(|seed| jpeg(&restarts, 160, 128, 50 + seed)));
    let progressive = Encoder {
        scans: Scans::Progressive,
        ..Encoder::default()
    };
    files.push(jpeg(&progressive, 140, 100, 41));
    let separate = Encoder {
        scans: Scans::Separate,
        ..Encoder::default()
    };
    files.push(jpeg(&separate, 101, 99, 42));
    // Too small for the engines.
    files.push(jpeg(&Encoder::default(), 33, 20, 43));
    files.extend(orientations(&jpeg(&Encoder::default(), 150, 110, 44)));
    files
}

/// Offers each file with each pipeline, all at once; a picture that finds no room waits for it.
fn all_equal(unit: &Unit, files: &[Vec<u8>], names: &[usize]) -> usize {
    let all = pipelines();
    let jobs: Vec<Job> = (files.iter().enumerate())
        .flat_map(|(index, file)| {
            names
                .iter()
                .map(move |&name| Job::new(file, &all[name], index as u32))
        })
        .collect();
    let slots = Slots::new(unit, jobs.iter().map(Job::bytes));
    let (sender, outcomes) = mpsc::channel();
    let mut offered = 0;
    for (index, job) in jobs.iter().enumerate() {
        let Some(mut picture) = job.picture(unit, slots.place(index), index, &sender) else {
            continue;
        };
        offered += 1;
        let route = picture.route;
        while let Err(returned) = unit.offer(picture) {
            assert_eq!(returned.reason, NotTaken::Full, "{job:?}");
            picture = returned.picture;
            assert!(unit.room(route, Duration::from_secs(10)));
        }
    }
    for _ in 0..offered {
        let (index, outcome) = outcomes.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(outcome, Outcome::Finished, "{:?}", jobs[index]);
        let job: &Job = &jobs[index];
        assert!(slots.bytes(index) == job.on_cpu(), "{job:?} differs");
    }
    offered
}

#[test]
fn every_kind_is_finished_as_on_the_cpu() {
    let standins = Standins::build("kinds", &["SLOW=50"]);
    let unit = start(&standins, &settings());
    let names: Vec<usize> = (0..pipelines().len()).collect();
    let files = kinds();
    let offered = all_equal(&unit, &files, &names);
    assert!(offered > files.len() * names.len() * 3 / 4, "{offered}");
    let counts = unit.counts();
    assert_eq!(
        counts.engine.finished + counts.cuda.finished,
        offered as u64
    );
    assert!(
        counts.engine.finished > 0 && counts.cuda.finished > 0,
        "{counts:?}"
    );
    assert!(
        counts.engine.batches < counts.engine.finished / 4,
        "{counts:?}"
    );
    let report = unit.report();
    assert!(report.interpolates && report.notes.is_empty(), "{report:?}");
    assert_eq!(
        (report.kernels, report.engines.unwrap().count),
        ("sm_90", 7)
    );
}

/// The engines decode at once, while the queues before them have yet to begin.
#[test]
fn engines_that_overtake_find_their_memory_idle() {
    let standins = Standins::build("overtakes", &["SLOW=300"]);
    standins.overtake();
    let unit = start(&standins, &settings());
    for _ in 0..3 {
        all_equal(&unit, &kinds(), &[0]);
    }
    assert_eq!(unit.counts().engine.refused, [0; 4]);
}

#[test]
fn memory_is_capped() {
    let standins = Standins::build("capped", &[]);
    let memory = 40 << 20;
    let unit = start(
        &standins,
        &Settings {
            memory,
            ..settings()
        },
    );
    let most = standins.device_bytes_most() as u64;
    assert_eq!(most, unit.report().memory_bytes);
    assert!(most <= memory && most > memory - 4096, "{most}");
    // 2100 x 1200 pixels take 7.6 MB; each of six threads has 7 MB.
    let large = Encoder {
        quality: 30,
        ..Encoder::default()
    };
    let file = jpeg(&large, 2100, 1200, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, [job.bytes()].into_iter());
    let (sender, _outcomes) = mpsc::channel();
    let picture = job.picture(&unit, slots.place(0), 0, &sender).unwrap();
    let reason = unit.offer(picture).map_err(|returned| returned.reason);
    assert_eq!(reason, Err(NotTaken::TooLarge));
    all_equal(&unit, &kinds(), &[1]);
    assert_eq!(standins.device_bytes_most() as u64, most);

    let few = Settings {
        memory: 20 << 20,
        ..settings()
    };
    let error = Unit::start(&standins.places(), &few).err().unwrap();
    let text = error.to_string();
    let least = text.strip_prefix("20971520 bytes of GPU memory are too few, ");
    let least = least.and_then(|rest| rest.strip_suffix(" are the least"));
    let least: u64 = least.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    start(
        &standins,
        &Settings {
            memory: least,
            ..settings()
        },
    );
    let error = Unit::start(
        &standins.places(),
        &Settings {
            memory: least - 1,
            ..settings()
        },
    );
    assert!(error.is_err());
}

#[test]
fn dropped_in_mid_work_it_answers_for_everything() {
    let standins = Standins::build("dropped", &["SLOW=500"]);
    let unit = start(
        &standins,
        &Settings {
            engine_batches: 1,
            ..settings()
        },
    );
    let (job, slots) = copies(&unit, 200);
    let (sender, outcomes) = mpsc::channel();
    let mut taken = 0;
    for index in 0..60 {
        let picture = job
            .picture(&unit, slots.place(index), index, &sender)
            .unwrap();
        taken += usize::from(unit.offer(picture).is_ok());
    }
    // The queue is full until the first batch is under way.
    assert!(unit.room(Route::Engine, Duration::from_secs(10)));
    drop(unit);
    drop(sender);
    let told: Vec<(usize, Outcome)> = outcomes.iter().collect();
    assert_eq!(told.len(), taken);
    let expected = job.on_cpu();
    let mut closed = 0;
    for (index, outcome) in told {
        match outcome {
            Outcome::Finished => assert!(slots.bytes(index) == expected),
            other => {
                assert_eq!(other, Outcome::Refused(Refusal::Closed));
                closed += 1;
            }
        }
    }
    assert!((1..taken).contains(&closed), "{closed} of {taken}");
}

#[test]
fn threads_share_a_unit_and_a_full_queue_gives_back() {
    let standins = Standins::build("threads", &["SLOW=2000"]);
    let few = Settings {
        engine_batch: Some(2),
        engine_batches: 1,
        queued_batches: 2,
        ..settings()
    };
    let unit = start(&standins, &few);
    let full = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let (unit, full) = (&unit, &full);
            scope.spawn(move || {
                let file = jpeg(&Encoder::default(), 90 + thread, 90, thread);
                let job = Job::new(&file, &pipelines()[2], thread);
                let slots = Slots::new(unit, std::iter::repeat_n(job.bytes(), 20));
                let (sender, outcomes) = mpsc::channel();
                let mut given_back = 0;
                for index in 0..20 {
                    let picture = job
                        .picture(unit, slots.place(index), index, &sender)
                        .unwrap();
                    if let Err(returned) = unit.offer(picture) {
                        assert_eq!(returned.reason, NotTaken::Full);
                        given_back += 1;
                        assert!(unit.room(Route::Engine, Duration::from_secs(10)));
                    }
                }
                drop(sender);
                let told: Vec<(usize, Outcome)> = outcomes.iter().collect();
                assert_eq!(told.len(), 20 - given_back);
                for (index, outcome) in told {
                    assert_eq!(outcome, Outcome::Finished);
                    assert!(slots.bytes(index) == job.on_cpu());
                }
                full.fetch_add(given_back, Ordering::Relaxed);
            });
        }
    });
    let full = full.into_inner() as u64;
    assert!(full > 0);
    assert_eq!(unit.counts().engine.full, full);
    assert!(!unit.room(Route::Cpu, Duration::ZERO));
}

#[test]
fn memory_is_let_go_when_its_pictures_have_left() {
    let standins = Standins::build("let-go", &["SLOW=3000"]);
    let unit = start(&standins, &settings());
    let (job, slots) = copies(&unit, 1);
    let (sender, outcomes) = mpsc::channel();
    let place = slots.place(0);
    let picture = job.picture(&unit, place, 0, &sender).unwrap();
    unit.offer(picture).map_err(|it| it.reason).unwrap();
    // Waits: the picture has been written, or the stand-in's thread would write to what is gone.
    drop(slots);
    drop(sender);
    assert_eq!(outcomes.recv(), Ok((0, Outcome::Finished)));
    // Nobody's memory any more.
    let (sender, _outcomes) = mpsc::channel();
    let picture = job.picture(&unit, place, 0, &sender).unwrap();
    let reason = unit.offer(picture).map_err(|returned| returned.reason);
    assert_eq!(reason, Err(NotTaken::Malformed));
}

#[test]
fn what_is_missing_is_said() {
    let no_engines = Standins::build("no-engines", &["HARDWARE=7"]);
    let unit = start(&no_engines, &settings());
    let report = unit.report();
    assert_eq!((report.engines, report.cuda), (None, true));
    let note = "engines: nvjpegCreateEx: NVJPEG_STATUS_ARCH_MISMATCH (7), by ";
    assert!(report.notes[0].starts_with(note), "{report:?}");
    let mend = "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video";
    assert!(report.notes[0].contains(mend), "{report:?}");
    assert!(!unit.abilities().engines && unit.abilities().cuda);
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    assert_eq!(route(&file, unit.abilities()).route, Route::Cuda);
    all_equal(&unit, &kinds(), &[0]);
    drop(unit);

    let check = |test: &str, defines: &[&str], expected: &str| {
        let error = Unit::start(&Standins::build(test, defines).places(), &settings());
        let error = error.err().unwrap();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!error.mend().is_empty());
    };
    check(
        "nothing",
        &["CREATE=6"],
        "nvJPEG decodes nothing here: engines: nvjpegCreateEx",
    );
    check(
        "older",
        &["VERSION=12090"],
        "the driver offers CUDA 12.9, and the kernels need 13.0",
    );
    check(
        "weak",
        &["CAPABILITY=7"],
        "the device's compute capability is 7.0",
    );
    check("none", &["INIT=100"], "cuInit: CUDA_ERROR_NO_DEVICE (100)");
    let old = Standins::build("old", &["OLD"]);
    assert!(!start(&old, &settings()).report().interpolates);
    let frail = Standins::build("frail", &["MAJOR=12"]);
    let notes = start(&frail, &settings()).report().notes.clone();
    let said = "nvJPEG 12.1.2: versions before 13.0 may crash at damaged JPEGs";
    assert!(notes[0].starts_with(said) && notes.len() == 1, "{notes:?}");
}

#[test]
fn contradictions_are_not_taken() {
    let standins = Standins::build("lies", &[]);
    let unit = start(&standins, &settings());
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, [job.bytes(), 8].into_iter());
    let (sender, outcomes) = mpsc::channel();
    let check = |change: &dyn Fn(&mut Picture), expected: NotTaken| {
        let mut picture = job.picture(&unit, slots.place(0), 0, &sender).unwrap();
        change(&mut picture);
        let reason = unit.offer(picture).map_err(|returned| returned.reason);
        assert_eq!(reason, Err(expected));
    };
    let malformed = NotTaken::Malformed;
    check(&|picture| picture.route = Route::Cpu, NotTaken::NoLane);
    check(&|picture| picture.size = (119, 90), malformed);
    check(&|picture| picture.encoded = Box::new(b"GIF89a"), malformed);
    // The crop ends beyond the picture.
    check(&|picture| picture.origin = (200, 0), malformed);
    // The image would reach beyond the memory.
    check(&|picture| picture.out = slots.place(1), malformed);
    check(&|picture| picture.out = NonNull::dangling(), malformed);
    drop(sender);
    assert!(
        outcomes.iter().next().is_none(),
        "what is not taken is not told"
    );
    assert_eq!(unit.counts().engine, Default::default());
}

/// What a picture's `done` may do: drop the unit itself.
#[test]
fn the_last_owner_may_be_a_picture() {
    let standins = Standins::build("owner", &[]);
    let unit = Arc::new(start(&standins, &settings()));
    let (job, slots) = copies(&unit, 1);
    let (sender, outcomes) = mpsc::channel();
    let mut picture = job.picture(&unit, slots.place(0), 0, &sender).unwrap();
    let (owner, (told, tell)) = (unit.clone(), mpsc::channel::<()>());
    let done = picture.done;
    picture.done = Box::new(move |outcome| {
        done(outcome);
        // Waits until the test has let its own go.
        let _ = tell.recv();
        drop(owner);
    });
    unit.offer(picture).map_err(|it| it.reason).unwrap();
    drop(unit);
    drop(told);
    drop(sender);
    assert_eq!(
        outcomes.iter().collect::<Vec<_>>(),
        [(0, Outcome::Finished)]
    );
    assert!(slots.bytes(0) == job.on_cpu());
}
