//! The writer on whole and on full databases.

use super::super::{LogReader, Query, file_in};
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
        path,
        closing: Arc::new(AtomicBool::new(false)),
        full_wait,
        full_since: None,
        full_said: false,
        delivered: Vec::new(),
        unlogged: BTreeMap::new(),
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
    assert_eq!(no_room(&rusqlite::Error::InvalidQuery), None);
    writer.db.execute_batch("DROP TABLE steps").unwrap();
    let error = prepare(&mut writer, many_steps(job)).unwrap_err();
    assert!(matches!(error, StepLogError::Sqlite { .. }), "{error}");
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
