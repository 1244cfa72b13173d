//! A session whose ring breaks: a process of its own, in which no other ring is.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use loaderd::engine::{Engine, Event, SessionHandle};
use loaderd::gpu::{Gpu, Options};
use loaderd::job::Job;
use loaderd::memory::SlotMemory;
use loaderd::source::{ColumnRef, Payload, Source, SourceError, Variable};
use loaderd::steplog::{StepLog, file_in};
use loaderd_decode::Limits;
use loaderd_decode::encode::Encoder;
use loaderd_read::{Extent, FileSet, Mode};
use loaderd_wire::message::{Decode, FailureKind, OpenRequest};
use loaderd_wire::segment::Segment;
use serde_json::json;

const ROWS: u64 = 64;
const WAIT: Duration = Duration::from_secs(60);

/// A source whose images lie in a file, and all else in memory.
struct Filed {
    inner: Box<dyn Source>,
    files: Arc<FileSet>,
    images: Vec<Extent>,
}

impl Source for Filed {
    fn uri(&self) -> &str {
        self.inner.uri()
    }
    fn version(&self) -> u64 {
        self.inner.version()
    }
    fn tag(&self) -> Option<&str> {
        self.inner.tag()
    }
    fn identity(&self) -> &str {
        self.inner.identity()
    }
    fn rows(&self) -> u64 {
        self.inner.rows()
    }
    fn selection_hash(&self) -> &str {
        self.inner.selection_hash()
    }
    fn row_address(&self, index: u64) -> u64 {
        self.inner.row_address(index)
    }
    fn row_id(&self, index: u64) -> u64 {
        self.inner.row_id(index)
    }
    fn folder(&self) -> Option<PathBuf> {
        self.inner.folder()
    }
    fn files(&self) -> Option<&Arc<FileSet>> {
        Some(&self.files)
    }
    fn payload(&self, _column: usize, index: u64) -> Payload {
        Payload::Extent(self.images[index as usize])
    }
    fn typical_length(&self) -> u32 {
        self.inner.typical_length()
    }
    fn variable(&self, column: usize, index: u64) -> Variable<'_> {
        self.inner.variable(column, index)
    }
    fn variable_typical(&self, column: usize) -> u32 {
        self.inner.variable_typical(column)
    }
    fn fixed_nulls(&self, column: usize) -> u64 {
        self.inner.fixed_nulls(column)
    }
    fn is_valid(&self, column: ColumnRef, index: u64) -> Option<bool> {
        self.inner.is_valid(column, index)
    }
    fn fixed(&self, column: usize, index: u64) -> Option<&[u8]> {
        self.inner.fixed(column, index)
    }
    fn read_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        self.inner.read_slow(column, indices)
    }
    fn read_variable_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        self.inner.read_variable_slow(column, indices)
    }
    fn read_fixed_slow(
        &self,
        column: usize,
        indices: &[u64],
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        self.inner.read_fixed_slow(column, indices, out)
    }
    fn classes(&self, column: &str) -> Option<Vec<String>> {
        self.inner.classes(column)
    }
    fn check(&self) -> Result<(), SourceError> {
        self.inner.check()
    }
    fn notices(&self) -> Vec<String> {
        self.inner.notices()
    }
    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
}

/// Has an empty file take the place of this process's one ring. False where there is none.
fn break_ring() -> bool {
    let rings: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            let is_ring = target.to_string_lossy().contains("[io_uring]");
            is_ring.then(|| entry.file_name().to_str().unwrap().parse().unwrap())
        })
        .collect();
    let null = fs::File::open("/dev/null").unwrap();
    for &ring in &rings {
        // SAFETY: both are open descriptors of this process; who has the second gets errors of
        // the kernel's from now on.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), ring) }, ring);
    }
    rings.len() == 1
}

struct Client {
    session: SessionHandle,
    events: mpsc::Receiver<Event>,
    segment: Arc<Segment>,
}

impl Client {
    /// Pixels of an epoch's batches, in order; or the failure that ends it. `at_step` is called
    /// with the number of each before it is released.
    fn epoch(
        &self,
        stream: u64,
        at_step: impl Fn(u64),
    ) -> Result<Vec<Vec<u8>>, (FailureKind, String)> {
        self.session.start(stream, 0, 0).unwrap();
        let mut batches = Vec::new();
        loop {
            match self.events.recv_timeout(WAIT).unwrap() {
                Event::Ready(ready, _) => {
                    let bytes = self.segment.slot_bytes() as usize;
                    // SAFETY: the slot is leased, and written to only once that is released.
                    let slot = unsafe {
                        std::slice::from_raw_parts(self.segment.slot_ptr(ready.slot), bytes)
                    };
                    batches.push(slot.to_vec());
                    at_step(ready.step);
                    self.session.release(ready.lease).unwrap();
                }
                Event::EndOfEpoch { .. } => return Ok(batches),
                Event::Failed(failure) => return Err((failure.kind, failure.message)),
            }
        }
    }
}

#[test]
fn a_ring_that_breaks_ends_the_epoch_and_not_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let (mut data, mut images) = (Vec::new(), Vec::new());
    for number in 0..ROWS {
        let pixels: Vec<u8> = (0..64 * 48 * 3u64)
            .map(|at| (at * (number + 3) >> 5) as u8)
            .collect();
        let jpeg = Encoder::default().encode(&pixels, 64, 48).unwrap();
        images.push(Extent {
            offset: data.len() as u64,
            length: jpeg.len() as u32,
            file: 0,
        });
        data.extend(jpeg);
    }
    let path = folder.path().join("data");
    fs::write(&path, &data).unwrap();
    fs::write(pictures.join("0.jpg"), &data[..images[0].length as usize]).unwrap();

    let gpu = Gpu::new(Options {
        decode: Decode::Cpu,
        ..Options::default()
    });
    let log = Arc::new(StepLog::open(&file_in(folder.path()), None).unwrap());
    let request: OpenRequest = serde_json::from_value(json!({
        "uri": format!("memory:rows={ROWS},images={}", pictures.display()),
        "columns": ["image"],
        "transform": {"image": [{"name": "CenterCrop", "size": [32, 32]}]},
        "batch_size": 2, "shuffle": true, "rank": 0, "world_size": 1,
    }))
    .unwrap();
    let mut job = Job::open(&request, "a", &log, &gpu).unwrap();
    let memory = Job::open(&request, "a", &log, &gpu).unwrap().source;
    job.source = Box::new(Filed {
        inner: memory,
        files: Arc::new(FileSet::open(vec![path]).unwrap()),
        images,
    });
    let engine = Engine::start(2, Limits::default(), SlotMemory::new(1 << 30), None, gpu).unwrap();
    let segment = Arc::new(Segment::create(job.layout.slot_bytes, 3).unwrap());
    let (sender, events) = mpsc::channel();
    let outlet = Box::new(move |event| sender.send(event).is_ok());
    let opened = engine.session(Arc::new(job), 0, segment.clone(), log, Mode::Auto, outlet);
    let (session, reading) = opened.unwrap();
    let reading = reading.unwrap().how;
    if !reading.contains("io_uring") {
        eprintln!("skipped: a ring that breaks, because there is none here: {reading}");
        return;
    }
    let client = Client {
        session,
        events,
        segment,
    };
    let whole = client.epoch(1, |_| {}).unwrap();
    assert_eq!(whole.len() as u64, ROWS / 2);
    for stream in [2, 4, 6] {
        let broken = client.epoch(stream, |step| {
            if step == stream {
                assert!(break_ring(), "there is another ring");
            }
        });
        let (kind, message) = broken.unwrap_err();
        assert_eq!(kind, FailureKind::Io, "{message}");
        for part in ["io_uring stopped working", "--read-mode=pread"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(client.epoch(stream + 1, |_| {}).unwrap(), whole);
    }
}
