//! The publisher: one thread a session that hands finished batches to the client.
//!
//! Enters: finished batches, in any order. Leaves: events in step order, each batch only
//! after its record is in the step log. It alone ends a stream early, and the session where the GPU
//! has some of its images and does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use loaderd_wire::message::{Failure, OnLogError};

use super::{Event, Finished, Handed, Lent, Outlet, Session};
use crate::batch::Batch;
use crate::clock;
use crate::steplog::{StepLog, StepLogError};

/// How often a session that waits for the GPU asks whether that answers.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct Publisher {
    session: Arc<Session>,
    log: Arc<StepLog>,
    outlet: Outlet,
    /// The stream that is being published, and its next step.
    stream: u64,
    next: u64,
    /// Finished batches that wait for an earlier one.
    waiting: BTreeMap<u64, Arc<Batch>>,
}

impl Publisher {
    pub(super) fn new(session: Arc<Session>, log: Arc<StepLog>, outlet: Outlet) -> Publisher {
        Publisher {
            session,
            log,
            outlet,
            stream: 0,
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Runs until it is told to quit.
    pub(super) fn run(mut self, inbox: &Receiver<Finished>) {
        let patience = match self.session.on_gpu {
            Some(_) => LOOK,
            None => Duration::MAX,
        };
        loop {
            let first = match inbox.recv_timeout(patience) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.look();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for finished in std::iter::once(first).chain(inbox.try_iter()) {
                match finished {
                    Finished::Quit => return,
                    Finished::Batch(batch) => self.take(batch),
                }
            }
            self.publish();
        }
    }

    /// Takes in a finished batch; those of older streams are dropped.
    fn take(&mut self, batch: Arc<Batch>) {
        if self.stream != self.session.stream.load(Ordering::Relaxed) {
            // What waits belongs to a stream that has ended; its slots are wanted.
            for (_, old) in std::mem::take(&mut self.waiting) {
                self.abandon(&old);
            }
        }
        if !self.session.is_current(&batch) {
            self.abandon(&batch);
            return;
        }
        if batch.stream != self.stream {
            self.stream = batch.stream;
            self.next = batch.stream_start;
        }
        self.waiting.insert(batch.epoch_step, batch);
    }

    /// Publishes every batch whose turn it is.
    fn publish(&mut self) {
        let mut turn = Vec::new();
        while let Some(batch) = self.waiting.remove(&(self.next + turn.len() as u64)) {
            turn.push(batch);
        }
        self.next += turn.len() as u64;
        let failed = turn.iter().position(|batch| batch.failure().is_some());
        let rest = failed.map(|at| turn.split_off(at)).unwrap_or_default();
        if !turn.is_empty() && !self.log_and_send(&turn) {
            rest.iter().for_each(|batch| self.abandon(batch));
            return;
        }
        if let Some(failure) = rest.first().and_then(|batch| batch.failure()) {
            self.end_stream(failure, &rest);
        }
    }

    /// Has the batches logged, then hands them to the client. False when the stream ended.
    fn log_and_send(&mut self, turn: &[Arc<Batch>]) -> bool {
        let records = turn.iter().map(|batch| batch.record()).collect();
        // After the last look-up, which the records make: a damaged page map gives no rows
        // worth recording.
        if let Err(error) = self.session.job.source.check() {
            self.end_stream(error.into(), turn);
            return false;
        }
        let logged = self.log.prepare(records);
        let is_logged = logged.is_ok();
        if let Err(error) = logged {
            // Other rows than before are no matter of what can be written.
            let are_other = matches!(error, StepLogError::Mismatch { .. });
            if are_other || self.session.job.request.on_log_error == OnLogError::Stop {
                self.end_stream(error.into(), turn);
                return false;
            }
            self.log
                .unlogged(self.session.job.key.job, turn.len() as u64);
        }
        for batch in turn {
            if !self.session.is_current(batch) {
                self.abandon(batch);
                continue;
            }
            let (segment, memory) = match batch.take_oversize() {
                Some(oversize) => {
                    self.session.oversize.fetch_add(1, Ordering::Relaxed);
                    (Some(oversize.segment), Some(Arc::new(oversize.reserved)))
                }
                None => (None, None),
            };
            let lent = Lent {
                handed: Handed {
                    step: batch.step(),
                    is_logged,
                },
                _memory: memory,
            };
            let lease = self.session.lock().slots.publish(batch.slot, lent);
            let mut ready = batch.ready(lease, clock::monotonic_ns());
            ready.oversize = segment.as_ref().map(|segment| segment.slot_bytes());
            if !(self.outlet)(Event::Ready(ready, segment)) {
                return false;
            }
            if batch.epoch_step + 1 == self.session.job.steps.count() {
                (self.outlet)(Event::EndOfEpoch {
                    stream: batch.stream,
                    epoch: batch.epoch,
                });
            }
        }
        true
    }

    /// Ends the session where the GPU has some of its images and does not answer. Their slots stay
    /// as they are, because it may yet write to them.
    fn look(&mut self) {
        let stream = self.session.stream.load(Ordering::Relaxed);
        if stream == 0 {
            return;
        }
        let on_gpu = self.session.on_gpu.as_ref();
        if let Some(failure) = on_gpu.and_then(|it| it.stuck(&self.session.segment)) {
            // Maybe none of its batches has come here.
            self.stream = stream;
            self.end(&[]);
            (self.outlet)(Event::Failed(failure));
        }
    }

    /// Ends the current stream with a failure; its batches are dropped.
    fn end_stream(&mut self, failure: Failure, batches: &[Arc<Batch>]) {
        self.end(batches);
        (self.outlet)(Event::Failed(Failure {
            stream: Some(self.stream),
            ..failure
        }));
    }

    fn end(&mut self, batches: &[Arc<Batch>]) {
        let stream = self.stream;
        // No stream counts from here on, unless the client has started the next already.
        let _ =
            self.session
                .stream
                .compare_exchange(stream, 0, Ordering::Relaxed, Ordering::Relaxed);
        for batch in batches {
            self.abandon(batch);
        }
        for (_, batch) in std::mem::take(&mut self.waiting) {
            self.abandon(&batch);
        }
    }

    fn abandon(&self, batch: &Batch) {
        self.session.lock().slots.abandon(batch.slot);
        self.session.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use loaderd_decode::Limits;
    use loaderd_read::Mode;
    use loaderd_wire::message::{Decode, FailureKind};
    use loaderd_wire::segment::Segment;
    use serde_json::json;

    use super::*;
    use crate::engine::{Engine, SessionHandle};
    use crate::gpu::{Gpu, Options};
    use crate::job::{Job, failure};
    use crate::memory::SlotMemory;
    use crate::steplog::file_in;

    const WAIT: Duration = Duration::from_secs(20);

    /// A session of its own daemon, and what that is made of. What is dropped first comes first.
    struct Opened {
        session: SessionHandle,
        _engine: Engine,
        events: crossbeam_channel::Receiver<Event>,
        job: Arc<Job>,
        segment: Arc<Segment>,
        log: Arc<StepLog>,
        folder: tempfile::TempDir,
    }

    fn open(slots: u32, on_log_error: &str) -> Opened {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(StepLog::open(&file_in(folder.path()), None).unwrap());
        let request = json!({
            "uri": "memory:rows=4", "columns": ["label"], "batch_size": 1, "rank": 0,
            "world_size": 1, "on_log_error": on_log_error,
        });
        let request = serde_json::from_value(request).unwrap();
        let gpu = Gpu::new(Options {
            decode: Decode::Cpu,
            ..Options::default()
        });
        let job = Arc::new(Job::open(&request, "a", &log, &gpu).unwrap());
        let segment = Arc::new(Segment::create(job.layout.slot_bytes, slots).unwrap());
        let engine =
            Engine::start(1, Limits::default(), SlotMemory::new(1 << 30), None, gpu).unwrap();
        let (sender, events) = crossbeam_channel::unbounded();
        let (session, _) = engine
            .session(
                job.clone(),
                0,
                segment.clone(),
                log.clone(),
                Mode::Auto,
                Box::new(move |event| sender.send(event).is_ok()),
            )
            .unwrap();
        Opened {
            session,
            _engine: engine,
            events,
            job,
            segment,
            log,
            folder,
        }
    }

    /// From now on no step can be recorded.
    fn break_log(folder: &Path) {
        change_log(folder, "DROP TABLE steps");
    }

    fn change_log(folder: &Path, by: &str) {
        let other = rusqlite::Connection::open(file_in(folder)).unwrap();
        other.busy_timeout(WAIT).unwrap();
        other.execute_batch(by).unwrap();
    }

    #[test]
    fn batches_without_a_record_are_known_when_they_are_handed_out() {
        let opened = open(1, "continue");
        let session = &opened.session;
        session.start(1, 0, 0).unwrap();
        // With one slot, the next batch is made when this one is released.
        let handed_out = || {
            let Event::Ready(ready, _) = opened.events.recv_timeout(WAIT).unwrap() else {
                panic!("no batch");
            };
            let handed = session.delivered(ready.lease).unwrap();
            (ready.lease, handed.unwrap())
        };
        let (lease, first) = handed_out();
        assert_eq!((first.step, first.is_logged), (0, true));
        break_log(opened.folder.path());
        session.release(lease).unwrap();
        let (_, second) = handed_out();
        assert_eq!((second.step, second.is_logged), (1, false));
    }

    /// It is no fault of the disk's, so that going on without records is no way out.
    #[test]
    fn a_step_with_other_rows_than_before_is_not_published() {
        let opened = open(1, "continue");
        opened.session.start(1, 0, 0).unwrap();
        let Event::Ready(first, _) = opened.events.recv_timeout(WAIT).unwrap() else {
            panic!("no batch");
        };
        change_log(opened.folder.path(), "UPDATE steps SET digest = 'other'");
        opened.session.release(first.lease).unwrap();
        opened.session.start(2, 0, 0).unwrap();
        loop {
            match opened.events.recv_timeout(WAIT).unwrap() {
                Event::Failed(why) => {
                    assert_eq!(why.kind, FailureKind::StepLog, "{why:?}");
                    assert!(why.message.contains("with other rows"), "{why:?}");
                    break;
                }
                // Under way before the stream ended.
                Event::Ready(ready, _) if ready.stream == 1 => {
                    opened.session.release(ready.lease).unwrap();
                }
                event => panic!("{event:?}"),
            }
        }
    }

    impl Opened {
        /// A publisher beside the session's own, and what it tells.
        fn publisher(&self) -> (Publisher, crossbeam_channel::Receiver<Event>) {
            let (outlet, events) = crossbeam_channel::unbounded();
            let outlet = Box::new(move |event| outlet.send(event).is_ok());
            let session = self.session.session.clone();
            (Publisher::new(session, self.log.clone(), outlet), events)
        }

        /// A batch of a stream from its first step on, in a slot of its own.
        fn batch(&self, stream: u64, step: u64) -> Arc<Batch> {
            let slot = self.session.session.lock().slots.acquire().unwrap();
            Arc::new(Batch::new(
                self.job.clone(),
                self.segment.clone(),
                slot,
                (stream, 0),
                (0, step, 0),
                true,
                std::iter::once((step, step)),
            ))
        }

        fn begin(&self, stream: u64) {
            let session = &self.session.session;
            session.stream.store(stream, Ordering::Relaxed);
        }
    }

    /// A slot that is lost here would be missed for as long as the session lives.
    #[test]
    fn every_slot_comes_free_where_one_batch_fails_and_those_before_it_have_no_record() {
        let opened = open(3, "stop");
        break_log(opened.folder.path());
        opened.begin(1);
        let (mut publisher, events) = opened.publisher();
        for step in 0..3 {
            let batch = opened.batch(1, step);
            if step == 1 {
                batch.fail(failure(FailureKind::BadSample, "bad"));
            }
            publisher.take(batch);
        }
        publisher.publish();
        let Event::Failed(why) = events.recv_timeout(WAIT).unwrap() else {
            panic!("it goes on");
        };
        assert_eq!(why.kind, FailureKind::StepLog, "{why:?}");
        assert_eq!(opened.session.slots(), [3, 0, 0, 0]);
    }

    /// As above, wherever the batches of a stream are when the next one begins.
    #[test]
    fn every_slot_of_a_stream_that_was_left_comes_free() {
        let opened = open(3, "stop");
        let (mut publisher, events) = opened.publisher();
        opened.begin(1);
        // They wait for the first step, and one is still being decoded.
        publisher.take(opened.batch(1, 1));
        publisher.take(opened.batch(1, 2));
        let late = opened.batch(1, 0);
        opened.begin(2);
        publisher.take(late);
        publisher.publish();
        assert_eq!(opened.session.slots(), [3, 0, 0, 0]);
        // Its turn has come, and it is being recorded.
        publisher.take(opened.batch(2, 0));
        opened.begin(3);
        publisher.publish();
        assert_eq!(opened.session.slots(), [3, 0, 0, 0]);
        assert!(events.is_empty());
        // Another comes only once those that waited are unwanted.
        publisher.take(opened.batch(3, 1));
        opened.begin(4);
        publisher.take(opened.batch(4, 0));
        publisher.publish();
        assert_eq!(opened.session.slots(), [2, 0, 1, 0]);
        assert!(matches!(events.try_recv(), Ok(Event::Ready(ready, _)) if ready.stream == 4));
    }
}
