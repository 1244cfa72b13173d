//! Decode units: byte for byte what the CPU decoder gives, whatever goes wrong on the way.
//!
//! Stand-ins decode with the CPU's decoder and finish with the kernels' twin, on queues that are
//! slow enough for whoever does not wait to be seen.

#[path = "standin/connect.rs"]
mod connect;
mod jobs;
mod standin;

use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use connect::{Fault, Standins};
use jobs::{Job, Slots, jpeg, orientations, pipelines, smooth};
use loaderd_decode::encode::{Encoder, Scans, Subsampling};
use loaderd_decode::{Options, Pipeline};
use loaderd_gpu::cuda;
use loaderd_gpu::routing::{Route, route};
use loaderd_gpu::unit::{NotTaken, Outcome, Picture, Refusal, Settings, Unit};
use loaderd_gpu::{GpuError, Places};
use serde_json::json;

fn settings() -> Settings {
    Settings {
        memory: 64 << 20,
        progressive: true,
        ..Settings::default()
    }
}

fn start(standins: &Standins, settings: &Settings) -> Unit {
    Unit::start(&standins.places(), settings).unwrap()
}

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

/// Offers files, one pipeline, and gives each one's outcome. What is finished is as on the CPU.
fn outcomes_of(unit: &Unit, files: &[Vec<u8>]) -> Vec<Outcome> {
    told(unit, files, true)
}

fn told(unit: &Unit, files: &[Vec<u8>], must_equal: bool) -> Vec<Outcome> {
    let pipeline = &pipelines()[0];
    let jobs: Vec<Job> = (files.iter())
        .map(|file| Job::new(file, pipeline, 5))
        .collect();
    let slots = Slots::new(unit, jobs.iter().map(Job::bytes));
    let (sender, outcomes) = mpsc::channel();
    for (index, job) in jobs.iter().enumerate() {
        let picture = job
            .picture(unit, slots.place(index), index, &sender)
            .unwrap();
        unit.offer(picture).map_err(|it| it.reason).unwrap();
    }
    let mut found = vec![None; files.len()];
    for _ in files {
        let (index, outcome) = outcomes.recv_timeout(Duration::from_secs(20)).unwrap();
        if must_equal && outcome == Outcome::Finished {
            assert!(
                slots.bytes(index) == jobs[index].on_cpu(),
                "{:?} differs",
                jobs[index]
            );
        }
        assert_eq!(found[index].replace(outcome), None, "told twice");
    }
    found.into_iter().flatten().collect()
}

#[test]
fn a_faulty_picture_costs_no_other() {
    let standins = Standins::build("faults", &["SLOW=20"]);
    let unit = start(&standins, &settings());
    let coarse = Encoder {
        subsampling: Subsampling::S411,
        ..Encoder::default()
    };
    for encoder in [Encoder::default(), coarse] {
        for faults in [&[1usize][..], &[0, 3], &[6], &[0, 1, 2, 3, 4, 5, 6]] {
            for (fault, refusal) in [
                (Fault::Skip, Refusal::Skipped),
                (Fault::Fail, Refusal::Decoder),
            ] {
                let mut files: Vec<Vec<u8>> =
                    (0..7).map(|i| jpeg(&encoder, 100 + i, 80, i)).collect();
                let mut expected = vec![Outcome::Finished; files.len()];
                for &index in faults {
                    files[index] = fault.put(&files[index]);
                    expected[index] = Outcome::Refused(refusal);
                }
                assert_eq!(outcomes_of(&unit, &files), expected, "{faults:?} {fault:?}");
            }
        }
    }
    let counts = unit.counts();
    assert_eq!(counts.engine.refused, [11, 11, 0, 0]);
    assert_eq!(counts.cuda.refused, [11, 11, 0, 0]);
    assert_eq!(unit.failure(), None);
}

/// What a failed batch has left in memory does not pass for what the next one wrote.
#[test]
fn a_picture_skipped_in_the_second_try_is_seen() {
    let standins = Standins::build("second-try", &[]);
    let one = Settings {
        engine_batches: 1,
        linger: Duration::from_millis(300),
        ..settings()
    };
    let unit = start(&standins, &one);
    let mut files: Vec<Vec<u8>> = (0..6)
        .map(|seed| jpeg(&Encoder::default(), 100, 80, seed))
        .collect();
    files[1] = Fault::SkipAgain.put(&files[1]);
    files[4] = Fault::Fail.put(&files[4]);
    let mut expected = [Outcome::Finished; 6];
    expected[1] = Outcome::Refused(Refusal::Skipped);
    expected[4] = Outcome::Refused(Refusal::Decoder);
    assert_eq!(outcomes_of(&unit, &files), expected);
    assert_eq!(unit.counts().engine.batches, 1);
}

/// nvJPEG writes as much as it reads in the header itself.
#[test]
fn a_picture_that_nvjpeg_reads_otherwise_is_refused() {
    let standins = Standins::build("misread", &["HARDWARE=7"]);
    let unit = start(&standins, &settings());
    let file = jpeg(&Encoder::default(), 100, 80, 1);
    // The unit tells nvJPEG nothing of strictness.
    let lax = Fault::Lax.put(&file);
    let files = [file.clone(), Fault::Misread.put(&file), lax];
    let expected = [
        Outcome::Finished,
        Outcome::Refused(Refusal::Decoder),
        Outcome::Finished,
    ];
    assert_eq!(outcomes_of(&unit, &files), expected);
}

/// Among billions of words some are what the poison was.
#[test]
fn a_word_left_by_chance_costs_no_picture() {
    let standins = Standins::build("chance", &[]);
    let unit = start(&standins, &settings());
    let file = jpeg(&Encoder::default(), 100, 80, 1);
    let files = [Fault::LeaveThree.put(&file), Fault::LeaveFour.put(&file)];
    // Their pixels are the poison's own here, and not compared.
    assert_eq!(
        told(&unit, &files, false),
        [Outcome::Finished, Outcome::Refused(Refusal::Skipped)]
    );
}

/// Offers a file until its lane is given up; says what later pictures are told.
fn wear_out(unit: &Unit, file: &[u8]) -> NotTaken {
    let job = Job::new(file, &pipelines()[0], 1);
    let slots = Slots::new(unit, std::iter::repeat_n(job.bytes(), 1100));
    let (sender, outcomes) = mpsc::channel();
    let mut taken = 0;
    let reason = loop {
        let picture = (job.picture(unit, slots.place(taken), taken, &sender)).unwrap();
        let route = picture.route;
        match unit.offer(picture).map_err(|returned| returned.reason) {
            Ok(()) => taken += 1,
            Err(NotTaken::Full) => {
                unit.room(route, Duration::from_secs(10));
            }
            Err(reason) => {
                assert!(!unit.room(route, Duration::from_secs(10)));
                break reason;
            }
        }
    };
    assert!(taken >= 512, "given up after {taken}");
    drop(sender);
    let refused = |(_, outcome)| matches!(outcome, Outcome::Refused(_));
    assert!(outcomes.iter().take(taken).all(refused));
    reason
}

#[test]
fn a_decoder_that_decodes_nothing_is_given_up() {
    let standins = Standins::build("futile", &["UNSUPPORTED"]);
    let one = Settings {
        engine_batches: 1,
        cuda_batches: 1,
        ..settings()
    };
    let unit = start(&standins, &one);
    let coarse = Encoder {
        subsampling: Subsampling::S411,
        ..Encoder::default()
    };
    // CUDA cores take none; the engines know nothing of that.
    assert_eq!(
        wear_out(&unit, &jpeg(&coarse, 100, 80, 1)),
        NotTaken::NoLane
    );
    let said: Vec<String> = unit.lost().iter().map(GpuError::to_string).collect();
    assert!(
        said[0].starts_with("CUDA cores: nvJPEG has refused 5"),
        "{said:?}"
    );
    assert_eq!((unit.failure(), said.len()), (None, 1));
    let files: Vec<Vec<u8>> = (0..9)
        .map(|seed| jpeg(&Encoder::default(), 100, 80, seed))
        .collect();
    assert_eq!(outcomes_of(&unit, &files), [Outcome::Finished; 9]);
    // Without the last lane, the unit is no more.
    assert_eq!(wear_out(&unit, &Fault::Fail.put(&files[0])), NotTaken::Dead);
    let failure = unit.failure().unwrap().to_string();
    assert!(
        failure.starts_with("JPEG engines: nvJPEG has refused 5"),
        "{failure}"
    );
    let last = "its last error: nvjpegDecodeBatched: NVJPEG_STATUS_BAD_JPEG (3), by ";
    assert!(failure.contains(last), "{failure}");
}

#[test]
fn a_dead_device_gives_everything_back() {
    let standins = Standins::build("dies", &["SLOW=100"]);
    let unit = start(&standins, &settings());
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, std::iter::repeat_n(job.bytes(), 200));
    let (sender, outcomes) = mpsc::channel();
    let (mut taken, mut dead) = (0, false);
    for index in 0..200 {
        if index == 100 {
            standins.break_device(700);
        }
        let picture = job
            .picture(&unit, slots.place(index), index, &sender)
            .unwrap();
        match unit.offer(picture).map_err(|returned| returned.reason) {
            Ok(()) => taken += 1,
            Err(NotTaken::Full) => {
                unit.room(Route::Engine, Duration::from_secs(1));
            }
            Err(NotTaken::Dead) => dead = true,
            Err(other) => panic!("{other:?}"),
        }
    }
    drop(sender);
    let told: Vec<(usize, Outcome)> = outcomes.iter().collect();
    assert_eq!(
        told.len(),
        taken,
        "each picture that was taken is told once"
    );
    let expected = job.on_cpu();
    let mut refused = 0;
    for (index, outcome) in told {
        match outcome {
            Outcome::Finished => assert!(slots.bytes(index) == expected),
            other => {
                assert_eq!(other, Outcome::Refused(Refusal::Device));
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    // It may take its thread a moment to find out.
    assert!(dead || unit.failure().is_some());
    let failure = unit.failure().unwrap().to_string();
    assert!(failure.contains("(700)"), "{failure}");
    let before = Instant::now();
    assert!(!unit.room(Route::Engine, Duration::from_secs(9)));
    assert!(before.elapsed() < Duration::from_secs(5));
}

/// Nobody waits for a device that never answers, and none of its memory is let go.
#[test]
fn a_device_that_does_not_answer_keeps_nobody_waiting() {
    let standins = Standins::build("silent", &[]);
    let hasty = Settings {
        silence: Duration::from_millis(300),
        engine_batch: Some(1),
        ..settings()
    };
    let unit = start(&standins, &hasty);
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, std::iter::repeat_n(job.bytes(), 40));
    let (sender, outcomes) = mpsc::channel();
    standins.hang(true);
    let (began, mut taken) = (Instant::now(), 0);
    let reason = loop {
        let picture = (job.picture(&unit, slots.place(taken), taken, &sender)).unwrap();
        match unit.offer(picture).map_err(|returned| returned.reason) {
            Ok(()) => taken += 1,
            Err(NotTaken::Full) => {
                unit.room(Route::Engine, Duration::from_millis(20));
            }
            Err(reason) => break reason,
        }
    };
    assert_eq!(reason, NotTaken::Dead);
    assert!(!unit.room(Route::Engine, Duration::from_secs(9)));
    let failure = unit.failure().unwrap();
    let expected = "JPEG engines: a batch has no end after 0 s: the device does not answer";
    assert_eq!(failure.to_string(), expected);
    // What waited in the queue is given back; four are under way.
    let given_back: Vec<(usize, Outcome)> = outcomes.try_iter().collect();
    let expected: Vec<(usize, Outcome)> = (4..taken)
        .map(|index| (index, Outcome::Refused(Refusal::Device)))
        .collect();
    assert_eq!(given_back, expected);
    drop(unit);
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waited");
    // It does answer, after all: what it held is told, and lies where it should.
    standins.hang(false);
    let late: Vec<(usize, Outcome)> = (0..4)
        .map(|_| outcomes.recv_timeout(Duration::from_secs(10)).unwrap())
        .collect();
    for (index, outcome) in late {
        assert_eq!(outcome, Outcome::Finished);
        assert!(slots.bytes(index) == job.on_cpu());
    }
}

/// The stand-in ends the process where a context goes before what was registered with it.
#[test]
fn memory_stays_registered_for_a_device_that_does_not_answer() {
    let standins = Standins::build("silent-memory", &[]);
    let hasty = Settings {
        silence: Duration::from_millis(300),
        ..settings()
    };
    let unit = start(&standins, &hasty);
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let [busy, idle] = [0; 2].map(|_| Slots::new(&unit, [job.bytes()].into_iter()));
    let (sender, outcomes) = mpsc::channel();
    standins.hang(true);
    let picture = job.picture(&unit, busy.place(0), 0, &sender).unwrap();
    unit.offer(picture).map_err(|it| it.reason).unwrap();
    let began = Instant::now();
    busy.unregister();
    idle.unregister();
    drop(unit);
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waited");
    // The picture's place, and descriptors of the thread that has it, when others have ended.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(standins.registered(), 2);
    standins.hang(false);
    let told = outcomes.recv_timeout(Duration::from_secs(10));
    assert_eq!(told, Ok((0, Outcome::Finished)));
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
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, std::iter::repeat_n(job.bytes(), 200));
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
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let (sender, outcomes) = mpsc::channel();
    let slots = Slots::new(&unit, [job.bytes()].into_iter());
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
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, [job.bytes()].into_iter());
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

/// A `done` that panics is its owner's fault, and must not leave others waiting.
#[test]
fn a_panic_leaves_nobody_waiting() {
    let standins = Standins::build("panics", &[]);
    let unit = start(
        &standins,
        &Settings {
            engine_batches: 1,
            ..settings()
        },
    );
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let slots = Slots::new(&unit, std::iter::repeat_n(job.bytes(), 40));
    let (sender, outcomes) = mpsc::channel();
    for index in 0..40 {
        let mut picture = (job.picture(&unit, slots.place(index), index, &sender)).unwrap();
        if index == 3 {
            picture.done = Box::new(|_| panic!("of the test, on purpose"));
        }
        unit.offer(picture).map_err(|it| it.reason).unwrap();
    }
    drop(sender);
    let told: Vec<(usize, Outcome)> = outcomes.iter().collect();
    assert_eq!(told.len(), 39);
    let finished = |&&(_, outcome): &&(usize, Outcome)| outcome == Outcome::Finished;
    assert_eq!(told.iter().filter(finished).count(), 3);
    assert_eq!(unit.failure(), Some(GpuError::Panicked));
}

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
