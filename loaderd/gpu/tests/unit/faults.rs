//! Decode units when something goes wrong: pictures, batches, a decoder, the device, its silence.
//! What is finished all the same is byte for byte the CPU's, and nobody waits for ever.
//!
//! Stand-ins do what they are told to do wrong.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::connect::{Fault, Standins};
use crate::jobs::{Job, Slots, copies, jpeg, pipelines, settings, start};
use loaderd_decode::encode::{Encoder, Subsampling};
use loaderd_gpu::GpuError;
use loaderd_gpu::routing::Route;
use loaderd_gpu::unit::{NotTaken, Outcome, Refusal, Settings, Unit};

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

/// A kind that the engines turn out not to take costs a second try, and not one for each half.
#[test]
fn nvjpeg_is_asked_which_pictures_of_a_refused_batch_it_takes() {
    let standins = Standins::build("unsupported", &[]);
    let one = Settings {
        engine_batches: 1,
        linger: Duration::from_millis(500),
        ..settings()
    };
    let unit = start(&standins, &one);
    let good: Vec<Vec<u8>> = (0..8)
        .map(|seed| jpeg(&Encoder::default(), 100, 80, seed))
        .collect();
    let (mut files, mut expected) = (good.clone(), [Outcome::Finished; 8]);
    for index in [0, 3, 4] {
        files[index] = Fault::Unsupported.put(&files[index]);
        expected[index] = Outcome::Refused(Refusal::Decoder);
    }
    assert_eq!(outcomes_of(&unit, &files), expected);
    assert_eq!((standins.batches(), unit.counts().engine.batches), (2, 1));
    // One that is bad as well is found by halves: 5, 2 and 3, 1 and 2.
    files[6] = Fault::Fail.put(&files[6]);
    expected[6] = Outcome::Refused(Refusal::Decoder);
    assert_eq!(outcomes_of(&unit, &files), expected);
    assert!(
        (5..=9).contains(&(standins.batches() - 2)),
        "{}",
        standins.batches()
    );
    // And where none is taken, nothing is left to try.
    let none: Vec<Vec<u8>> = good
        .iter()
        .map(|file| Fault::Unsupported.put(file))
        .collect();
    let before = standins.batches();
    assert_eq!(
        outcomes_of(&unit, &none),
        [Outcome::Refused(Refusal::Decoder); 8]
    );
    assert_eq!(standins.batches() - before, 1);
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
    let (job, slots) = copies(&unit, 200);
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
    let (job, slots) = copies(&unit, 40);
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

/// Where this process stood still for a while, all of its threads did.
#[test]
fn one_look_is_not_enough_to_call_a_device_silent() {
    let standins = Standins::build("suspended", &[]);
    let hasty = Settings {
        silence: Duration::from_millis(800),
        ..settings()
    };
    let unit = start(&standins, &hasty);
    let file = jpeg(&Encoder::default(), 120, 90, 1);
    let job = Job::new(&file, &pipelines()[0], 1);
    let [busy, idle] = [0; 2].map(|_| Slots::new(&unit, [job.bytes()].into_iter()));
    let (sender, outcomes) = mpsc::channel();
    let offer = || {
        let picture = job.picture(&unit, busy.place(0), 0, &sender).unwrap();
        unit.offer(picture).map_err(|it| it.reason).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    };
    standins.hang(true);
    offer();
    assert_eq!(unit.stuck(busy.place(0)), None);
    standins.hang(false);
    let told = outcomes.recv_timeout(Duration::from_secs(10));
    assert_eq!(told, Ok((0, Outcome::Finished)));
    assert_eq!(unit.failure(), None);
    // It was no slip.
    standins.hang(true);
    offer();
    assert_eq!(unit.stuck(busy.place(0)), None);
    std::thread::sleep(Duration::from_millis(100));
    let stuck = unit.stuck(busy.place(0)).unwrap();
    assert_eq!((stuck.pictures, unit.failure()), (1, Some(stuck.why)));
    assert_eq!(unit.stuck(idle.place(0)), None, "another's memory");
    standins.hang(false);
    let told = outcomes.recv_timeout(Duration::from_secs(10));
    assert_eq!(told, Ok((0, Outcome::Finished)));
    assert_eq!(unit.stuck(busy.place(0)), None);
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
    let [(job, busy), (_, idle)] = [0; 2].map(|_| copies(&unit, 1));
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
    let (job, slots) = copies(&unit, 40);
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
