//! The writer on whole and on full databases.

use super::super::{BadRow, LogReader, Query, TiledRead, file_in};
use super::*;

fn job(run: &str) -> JobRecord {
    JobRecord {
        tiled: BTreeMap::new(),
        run: run.into(),
        plan_hash: "p".into(),
        uri: "memory:rows=10".into(),
        version: 3,
        tag: None,
        identity: "i".into(),
        filter: None,
        selection: "s".into(),
        rows: 10,
        columns: vec!["image".into()],
        transform: "{}".into(),
        decoder: "d".into(),
        seed: 1,
        shuffle: true,
        drop_last: false,
        batch_size: 2,
        world_size: 1,
        steps_per_epoch: 5,
    }
}

fn step(job: i64, step: u64, digest: &str) -> StepRecord {
    StepRecord {
        job,
        rank: 0,
        step,
        epoch: step / 5,
        epoch_step: step % 5,
        first_position: step % 5 * 2,
        rows: 2,
        valid: true,
        digest: digest.into(),
        bad: vec![],
    }
}

#[test]
fn prepared_then_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(dir.path());
    let log = StepLog::open(&path, None).unwrap();
    let (key, _) = log.open_job(job("a"), false).unwrap();
    assert_eq!(key.attempt, 0);
    log.prepare((0..3).map(|n| step(key.job, n, "x")).collect())
        .unwrap();
    log.delivered(key.job, 0, 1);
    drop(log);
    let reader = LogReader::open(&path).unwrap().unwrap();
    let shown = reader.steps(&Query::default()).unwrap();
    assert_eq!(shown.iter().map(|row| row.step).collect::<Vec<_>>(), [1]);
    let all = Query {
        prepared: true,
        ..Query::default()
    };
    assert_eq!(reader.steps(&all).unwrap().len(), 3);
}

#[test]
fn the_same_step_again_must_be_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let log = StepLog::open(&file_in(dir.path()), None).unwrap();
    let (key, before) = log.open_job(job("a"), false).unwrap();
    assert_eq!(before, None);
    let again = log.open_job(job("a"), false).unwrap();
    assert_eq!(again, (key, Some("d".into())));
    log.prepare(vec![step(key.job, 0, "x")]).unwrap();
    log.prepare(vec![step(key.job, 0, "x")]).unwrap();
    let error = log.prepare(vec![step(key.job, 0, "y")]).unwrap_err();
    assert!(matches!(error, StepLogError::Mismatch { .. }), "{error}");
    let (resumed, _) = log.open_job(job("a"), true).unwrap();
    assert_eq!(resumed.attempt, 1);
    log.prepare(vec![step(resumed.job, 0, "y")]).unwrap();
}

#[test]
fn another_decoder_opens_another_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(dir.path());
    let log = StepLog::open(&path, None).unwrap();
    let with = |decoder: &str| JobRecord {
        decoder: decoder.into(),
        ..job("a")
    };
    let open = |decoder: &str, resumed| {
        let (key, before) = log.open_job(with(decoder), resumed).unwrap();
        (key.attempt, before)
    };
    assert_eq!(open("CPU", false), (0, None));
    assert_eq!(open("CPU", false), (0, Some("CPU".into())));
    assert_eq!(open("GPU", false), (1, Some("CPU".into())));
    assert_eq!(open("GPU", true), (2, Some("GPU".into())));
    let reader = LogReader::open(&path).unwrap().unwrap();
    let jobs = reader.jobs(Some("a")).unwrap();
    let decoders: Vec<&str> = jobs.iter().map(|job| &*job.record.decoder).collect();
    assert_eq!(decoders, ["CPU", "GPU", "GPU"]);
}

#[test]
fn what_is_read_otherwise_opens_another_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(dir.path());
    let log = StepLog::open(&path, None).unwrap();
    let read = |rows| {
        let column = "image \"tiled\"".into();
        BTreeMap::from([("image".into(), TiledRead { column, rows })])
    };
    let with = |uri: &str, tiled: &BTreeMap<String, TiledRead>| JobRecord {
        uri: uri.into(),
        tiled: tiled.clone(),
        ..job("a")
    };
    let none = BTreeMap::new();
    let check = |record: JobRecord, attempt| {
        let (key, _) = log.open_job(record, false).unwrap();
        assert_eq!(key.attempt, attempt);
    };
    check(with("/a", &none), 0);
    check(with("/a", &none), 0);
    check(with("/a", &read(5)), 1);
    check(with("/a", &read(5)), 1);
    check(with("/a", &read(4)), 2);
    check(with("/b", &read(4)), 3);
    let reader = LogReader::open(&path).unwrap().unwrap();
    let jobs = reader.jobs(Some("a")).unwrap();
    let logged: Vec<_> = jobs.iter().map(|job| &job.record.tiled).collect();
    assert_eq!(logged, [&none, &read(5), &read(4), &read(4)]);
}

#[test]
fn bad_rows_of_a_step_that_is_prepared_again_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(dir.path());
    let log = StepLog::open(&path, None).unwrap();
    let (key, _) = log.open_job(job("a"), false).unwrap();
    let bad = |cause: &str| {
        let bad = BadRow {
            position: 1,
            row_address: 7,
            replaced_by: None,
            cause: cause.into(),
        };
        StepRecord {
            bad: vec![bad],
            ..step(key.job, 0, "x")
        }
    };
    let good = step(key.job, 0, "x");
    for (record, expected) in [
        (good.clone(), None),
        (bad("torn"), Some("torn")),
        (good, Some("torn")),
        (bad("gone"), Some("gone")),
    ] {
        log.prepare(vec![record]).unwrap();
        log.delivered(key.job, 0, 0);
        log.prepare(vec![step(key.job, 1, "y")]).unwrap();
        let reader = LogReader::open(&path).unwrap().unwrap();
        let shown = reader.steps(&Query::default()).unwrap();
        let causes: Vec<&str> = shown[0].bad.iter().map(|bad| &*bad.cause).collect();
        assert_eq!(causes, Vec::from_iter(expected));
    }
}

#[test]
fn daemons_that_share_a_folder_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(dir.path());
    std::thread::scope(|scope| {
        let daemons: Vec<_> = (0..4)
            .map(|daemon| {
                let path = &path;
                scope.spawn(move || {
                    let log = StepLog::open(path, None)?;
                    for n in 0..100 {
                        let (key, _) = log.open_job(job(&format!("{daemon}")), true)?;
                        log.prepare(vec![step(key.job, n, "x")])?;
                    }
                    Ok::<_, StepLogError>(())
                })
            })
            .collect();
        for daemon in daemons {
            daemon.join().unwrap().unwrap();
        }
    });
    let reader = LogReader::open(&path).unwrap().unwrap();
    assert_eq!(reader.jobs(None).unwrap().len(), 400);
}

#[test]
fn daemons_that_start_at_once_begin_one_log() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = file_in(dir.path());
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            let daemons: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        store::open(&path).map(drop)
                    })
                })
                .collect();
            for daemon in daemons {
                daemon.join().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn a_log_that_was_removed_or_moved_takes_no_records() {
    for replace in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let path = file_in(&state);
        let log = StepLog::open(&path, None).unwrap();
        let (key, _) = log.open_job(job("a"), false).unwrap();
        log.prepare(vec![step(key.job, 0, "x")]).unwrap();
        std::fs::rename(&state, dir.path().join("away")).unwrap();
        if replace {
            std::fs::create_dir(&state).unwrap();
            drop(StepLog::open(&path, None).unwrap());
        }
        let error = log.prepare(vec![step(key.job, 1, "x")]).unwrap_err();
        assert!(matches!(error, StepLogError::Gone { .. }), "{error}");
        let error = log.open_job(job("b"), false).unwrap_err();
        assert!(matches!(error, StepLogError::Gone { .. }), "{error}");
        // Who goes on without records is told so, and gets no row.
        let (later, _) = log.open_later(job("b"), false, error).unwrap();
        log.prepare(vec![step(later.job, 0, "x")]).unwrap_err();
        // Back in its place, it goes on.
        let _ = std::fs::remove_dir_all(&state);
        std::fs::rename(dir.path().join("away"), &state).unwrap();
        log.prepare(vec![step(key.job, 1, "x")]).unwrap();
        log.prepare(vec![step(later.job, 0, "x")]).unwrap();
    }
}

/// A writer on a database without room for another page, which gives up after `full_wait`.
fn full_writer(folder: &Path, full_wait: Duration) -> (Writer, i64) {
    let path = file_in(folder);
    let mut db = store::open(&path).unwrap();
    let (key, _) = store::open_job(&mut db, &job("a"), false, 0).unwrap();
    let pages: u32 = db
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    db.pragma_update(None, "max_page_count", pages).unwrap();
    let writer = Writer {
        db,
        feed: None,
        file: file_at(&path),
        path,
        closing: Arc::new(AtomicBool::new(false)),
        full_wait,
        full_since: None,
        full_said: false,
        delivered: Vec::new(),
        unlogged: BTreeMap::new(),
        late: Late::default(),
    };
    (writer, key.job)
}

/// Has steps prepared in one transaction.
fn prepare(writer: &mut Writer, records: Vec<StepRecord>) -> Result<(), StepLogError> {
    let (reply, answer) = bounded(1);
    writer.serve(vec![Request::Prepare(records, reply)]);
    answer.recv().unwrap()
}

fn many_steps(job: i64) -> Vec<StepRecord> {
    (0..1000).map(|n| step(job, n, "x")).collect()
}

/// Uses up what room there is in the pages of a full database.
fn fill(writer: &mut Writer) {
    while store::open_job(&mut writer.db, &job("filler"), true, 0).is_ok() {}
}

fn free(writer: &Writer) {
    writer
        .db
        .pragma_update(None, "max_page_count", 1 << 20)
        .unwrap();
}

#[test]
fn a_full_database_is_told_from_other_faults() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, job) = full_writer(dir.path(), Duration::ZERO);
    let error = prepare(&mut writer, many_steps(job)).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!(no_room(&rusqlite::Error::InvalidQuery, None), None);
    writer.db.execute_batch("DROP TABLE steps").unwrap();
    let error = prepare(&mut writer, many_steps(job)).unwrap_err();
    assert!(matches!(error, StepLogError::Sqlite { .. }), "{error}");
}

/// Has a path opened for reading take the place of the write-ahead log in the database's hands.
fn replace_the_wal(writer: &Writer, by: &str, flags: rustix::fs::OFlags) {
    let wal = format!("{}-wal", writer.path.display());
    let by = rustix::fs::open(by, flags, rustix::fs::Mode::empty()).unwrap();
    let mut replaced = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|path| path == Path::new(&wal)) {
            let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            // SAFETY: both are open descriptors of this process, and SQLite, which has the
            // second, looks at its number only.
            assert!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&by), number) } == number);
            replaced += 1;
        }
    }
    assert_eq!(replaced, 1);
}

#[test]
fn an_error_is_named_by_what_the_kernel_said() {
    use rustix::fs::OFlags;
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, job) = full_writer(dir.path(), Duration::ZERO);
    free(&writer);
    // As if the disk could not be written to: nothing to do with its room, or with a limit.
    replace_the_wal(&writer, "/dev/null", OFlags::RDONLY);
    let error = prepare(&mut writer, many_steps(job)).unwrap_err();
    let StepLogError::Io { system, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*system, Errno::BADF);
    for part in [
        "Bad file descriptor",
        "steps.sqlite",
        "LOADERD_STATE",
        "continue",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn room_is_missing_where_the_kernel_says_so() {
    let failed = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
    for (code, system, cause) in [
        (ffi::SQLITE_FULL, None, Some(NoRoom::Disk)),
        (
            ffi::SQLITE_IOERR_SHMSIZE,
            Some(Errno::NOSPC),
            Some(NoRoom::Disk),
        ),
        (
            ffi::SQLITE_IOERR_WRITE,
            Some(Errno::DQUOT),
            Some(NoRoom::Quota),
        ),
        (
            ffi::SQLITE_IOERR_WRITE,
            Some(Errno::FBIG),
            Some(NoRoom::FileSizeLimit),
        ),
        (ffi::SQLITE_CANTOPEN, Some(Errno::NOSPC), Some(NoRoom::Disk)),
        (ffi::SQLITE_IOERR_WRITE, Some(Errno::IO), None),
        (ffi::SQLITE_IOERR_WRITE, None, None),
    ] {
        assert_eq!(no_room(&failed(code), system), cause, "{code} {system:?}");
    }
}

#[test]
fn everyone_who_waits_gets_the_same_words() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, job) = full_writer(dir.path(), Duration::ZERO);
    writer.db.execute_batch("DROP TABLE steps").unwrap();
    let (replies, answers): (Vec<_>, Vec<_>) = (0..2).map(|_| bounded(1)).unzip();
    let requests = replies.into_iter();
    writer.serve(
        requests
            .map(|reply| Request::Prepare(many_steps(job), reply))
            .collect(),
    );
    for answer in answers {
        let error = answer.recv().unwrap().unwrap_err();
        assert!(error.to_string().contains("no such table"), "{error}");
    }
}

#[test]
fn a_full_disk_is_waited_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let wait = Duration::from_millis(500);
    let (mut writer, id) = full_writer(dir.path(), wait);
    let timed = |writer: &mut Writer, records| {
        let began = Instant::now();
        (prepare(writer, records), began.elapsed())
    };
    let (first, waited) = timed(&mut writer, many_steps(id));
    assert!(first.is_err() && waited >= wait, "{first:?}, {waited:?}");
    // A job that is there already is found without a write, which proves nothing.
    let (reply, answer) = bounded(1);
    writer.serve(vec![Request::OpenJob(Box::new(job("a")), false, reply)]);
    answer.recv().unwrap().unwrap();
    let (again, waited) = timed(&mut writer, many_steps(id));
    assert!(again.is_err() && waited < wait, "{again:?}, {waited:?}");
    // Neither do marks, which fit into the pages that there are.
    let changes = writer.db.total_changes();
    writer.serve(vec![Request::Unlogged(id, 1)]);
    writer.serve(vec![Request::Delivered(id, 0, 0)]);
    assert!(writer.db.total_changes() > changes && writer.delivered.is_empty());
    let (again, waited) = timed(&mut writer, many_steps(id));
    assert!(again.is_err() && waited < wait, "{again:?}, {waited:?}");

    free(&writer);
    prepare(&mut writer, many_steps(id)).unwrap();
    assert_eq!(writer.full_since, None);
}

#[test]
fn marks_that_could_not_be_written_are_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, id) = full_writer(dir.path(), Duration::ZERO);
    free(&writer);
    prepare(&mut writer, vec![step(id, 0, "x"), step(id, 1, "x")]).unwrap();
    let pages: u32 = writer
        .db
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    writer
        .db
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let delivered = |writer: &Writer| {
        let shown = LogReader::open(&writer.path).unwrap().unwrap();
        let shown = shown.steps(&Query::default()).unwrap();
        shown.iter().map(|row| row.step).collect::<Vec<_>>()
    };
    // In one group with what does not fit.
    let (reply, _answer) = bounded(1);
    let more = (2..1000).map(|n| step(id, n, "x")).collect();
    writer.serve(vec![
        Request::Delivered(id, 0, 1),
        Request::Prepare(more, reply),
    ]);
    assert!(delivered(&writer).is_empty());
    free(&writer);
    writer.serve(vec![Request::Delivered(id, 0, 0)]);
    assert_eq!(delivered(&writer), [0, 1]);
    assert!(writer.delivered.is_empty());
}

#[test]
fn steps_without_a_record_are_counted_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, id) = full_writer(dir.path(), Duration::ZERO);
    let unlogged = |writer: &Writer| {
        let jobs = LogReader::open(&writer.path).unwrap().unwrap();
        jobs.jobs(None).unwrap()[0].unlogged_steps
    };
    prepare(&mut writer, many_steps(id)).unwrap_err();
    // In one group with what does not fit, their count can't be written either.
    let (reply, _answer) = bounded(1);
    writer.serve(vec![
        Request::Unlogged(id, 1000),
        Request::Prepare(many_steps(id), reply),
    ]);
    assert_eq!(unlogged(&writer), 0);
    free(&writer);
    for _ in 0..2 {
        // The second time, they are counted already.
        prepare(&mut writer, vec![step(id, 1000, "x")]).unwrap();
        assert_eq!(unlogged(&writer), 1000);
    }
}

/// Opens a job as one that goes on without records does.
fn open_later(
    writer: &mut Writer,
    run: &str,
    resumed: bool,
    decoder: &str,
) -> (JobKey, Option<String>) {
    let (reply, answer) = bounded(1);
    let record = JobRecord {
        decoder: decoder.into(),
        ..job(run)
    };
    let record = Box::new(record);
    writer.serve(vec![Request::OpenJob(record.clone(), resumed, reply)]);
    let why = answer.recv().unwrap().unwrap_err();
    assert!(matches!(why, StepLogError::Full { .. }), "{why}");
    let (reply, answer) = bounded(1);
    writer.serve(vec![Request::OpenLater(record, resumed, why, reply)]);
    answer.recv().unwrap().unwrap()
}

#[test]
fn a_job_that_opens_on_a_full_disk_is_recorded_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, first) = full_writer(dir.path(), Duration::ZERO);
    fill(&mut writer);
    let (resumed, before) = open_later(&mut writer, "a", true, "d");
    assert_eq!(before.as_deref(), Some("d"));
    let (again, _) = open_later(&mut writer, "a", true, "d");
    let (other, before) = open_later(&mut writer, "b", false, "d");
    assert_eq!(before, None);
    let (same, _) = open_later(&mut writer, "b", false, "d");
    // As if they were there already.
    assert_eq!(
        [resumed, again, other, same].map(|key| key.attempt),
        [1, 2, 0, 0]
    );
    for key in [resumed, again, other, same] {
        prepare(&mut writer, vec![step(key.job, 0, "x")]).unwrap_err();
        writer.serve(vec![Request::Unlogged(key.job, 1)]);
    }
    free(&writer);
    prepare(&mut writer, vec![step(other.job, 1, "x")]).unwrap();
    writer.serve(vec![Request::Delivered(other.job, 0, 1)]);
    let error = prepare(&mut writer, vec![step(same.job, 1, "y")]).unwrap_err();
    assert!(matches!(error, StepLogError::Mismatch { .. }), "{error}");

    let reader = LogReader::open(&writer.path).unwrap().unwrap();
    let mut jobs = reader.jobs(None).unwrap();
    jobs.retain(|job| job.record.run != "filler");
    let shown = jobs
        .iter()
        .map(|job| (&*job.record.run, job.attempt, job.unlogged_steps));
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [("a", 0, 0), ("a", 1, 1), ("a", 2, 1), ("b", 0, 2)]
    );
    assert!(jobs[1..].iter().all(|job| job.started_ms > 0));
    let steps = reader.steps(&Query::default()).unwrap();
    let shown = steps.iter().map(|row| (&*row.run, row.step));
    assert_eq!(shown.collect::<Vec<_>>(), [("b", 1)]);
    assert_eq!(jobs[0].job, first);
}

/// Another decoder begins another attempt, as it does where there is room.
#[test]
fn a_late_job_with_another_decoder_has_the_attempt_that_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = full_writer(dir.path(), Duration::ZERO);
    fill(&mut writer);
    let opened = [("GPU", "d"), ("GPU", "GPU"), ("CPU", "GPU")].map(|(decoder, before)| {
        let (key, found) = open_later(&mut writer, "a", false, decoder);
        assert_eq!(found.as_deref(), Some(before));
        key
    });
    assert_eq!(opened.map(|key| key.attempt), [1, 1, 2]);
    free(&writer);
    for key in opened {
        prepare(&mut writer, vec![step(key.job, 0, "x")]).unwrap();
    }
    let reader = LogReader::open(&writer.path).unwrap().unwrap();
    let jobs = reader.jobs(Some("a")).unwrap();
    let found: Vec<_> = jobs
        .iter()
        .map(|job| (job.attempt, job.record.decoder.as_str()))
        .collect();
    assert_eq!(found, [(0, "d"), (1, "GPU"), (2, "CPU")]);
}
