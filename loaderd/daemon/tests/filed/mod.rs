//! A dataset whose images lie in a file, and a client of a session that reads it, without Lance.
//!
//! Enters: encoded images, and a job that was opened on a source in memory. Leaves: the same job
//! on the file, and digests of whole epochs. For tests of the reading in and beside the crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use loaderd::engine::{Engine, Event, SessionHandle};
use loaderd::gpu::{Gpu, Options};
use loaderd::job::Job;
use loaderd::memory::SlotMemory;
use loaderd::source::{ColumnRef, Payload, Source, SourceError, Variable};
use loaderd::steplog::{StepLog, file_in};
use loaderd_decode::Limits;
use loaderd_read::{Extent, FileSet, Mode};
use loaderd_wire::message::{Decode, FailureKind, OpenRequest};
use loaderd_wire::segment::Segment;
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(60);

/// A source whose images lie in a file, and all else in memory.
struct Filed {
    inner: Box<dyn Source>,
    files: Arc<FileSet>,
    images: Vec<Extent>,
    typical_length: u32,
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
        self.typical_length
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

/// What sessions of one folder share.
pub(crate) struct Node {
    engine: Engine,
    log: Arc<StepLog>,
    gpu: Arc<Gpu>,
    folder: PathBuf,
    files: Arc<FileSet>,
    /// Where each image lies.
    pub(crate) images: Vec<Extent>,
    /// Bytes of an image that readers are made for.
    pub(crate) typical_length: u32,
}

impl Node {
    /// Writes the images to a file in `folder`.
    pub(crate) fn new(folder: &Path, encoded: &[Vec<u8>]) -> Node {
        let (mut data, mut images) = (Vec::new(), Vec::new());
        for image in encoded {
            images.push(Extent {
                offset: data.len() as u64,
                length: image.len() as u32,
                file: 0,
            });
            data.extend(image);
        }
        let path = folder.join("data");
        fs::write(&path, &data).unwrap();
        // The source in memory, which gives all but the images, wants one.
        fs::create_dir(folder.join("pictures")).unwrap();
        fs::write(folder.join("pictures/0.jpg"), &encoded[0]).unwrap();
        let gpu = Gpu::new(Options {
            decode: Decode::Cpu,
            ..Options::default()
        });
        let memory = SlotMemory::new(1 << 30);
        let typical_length = images.iter().map(|image| image.length).max();
        Node {
            typical_length: typical_length.unwrap_or(0),
            engine: Engine::start(2, Limits::default(), memory, None, gpu.clone()).unwrap(),
            log: Arc::new(StepLog::open(&file_in(folder), None).unwrap()),
            gpu,
            folder: folder.into(),
            files: Arc::new(FileSet::open(vec![path]).unwrap()),
            images,
        }
    }

    /// A job of a run, shuffled, in batches of two.
    pub(crate) fn job(&self, run: &str, transforms: Value) -> Job {
        self.job_of(run, json!({"image": transforms}))
    }

    /// As above, of columns with these transforms: `image`, and `mask`, which has the same bytes.
    pub(crate) fn job_of(&self, run: &str, transform: Value) -> Job {
        let pictures = self.folder.join("pictures").display().to_string();
        let columns: Vec<&String> = transform.as_object().unwrap().keys().collect();
        let request: OpenRequest = serde_json::from_value(json!({
            "uri": format!("memory:rows={},images={pictures},masks={pictures}", self.images.len()),
            "columns": columns, "transform": transform,
            "batch_size": 2, "shuffle": true, "rank": 0, "world_size": 1,
        }))
        .unwrap();
        let open = || Job::open(&request, run, &self.log, &self.gpu).unwrap();
        let mut job = open();
        job.source = Box::new(Filed {
            inner: open().source,
            files: self.files.clone(),
            images: self.images.clone(),
            typical_length: self.typical_length,
        });
        job
    }

    /// A session of a job, with three slots.
    pub(crate) fn client(&self, job: Job) -> Client {
        let segment = Arc::new(Segment::create(job.layout.slot_bytes, 3).unwrap());
        let (sender, events) = mpsc::channel();
        let opened = self.engine.session(
            Arc::new(job),
            0,
            segment.clone(),
            self.log.clone(),
            Mode::Auto,
            Box::new(move |event| sender.send(event).is_ok()),
        );
        let (session, reading) = opened.unwrap();
        Client {
            session,
            reads_with: reading.unwrap().how,
            events,
            segment,
        }
    }
}

/// A session, and who takes its batches.
pub(crate) struct Client {
    /// Its controls.
    pub(crate) session: SessionHandle,
    /// How it reads, in words.
    pub(crate) reads_with: String,
    events: mpsc::Receiver<Event>,
    segment: Arc<Segment>,
}

impl Client {
    /// Digests of an epoch's batches, in order; or the failure that ends it. `at_step` is called
    /// with the number of each within the epoch before it is released.
    pub(crate) fn epoch(
        &self,
        (stream, epoch): (u64, u64),
        at_step: impl Fn(u64),
    ) -> Result<Vec<blake3::Hash>, (FailureKind, String)> {
        self.session.start(stream, epoch, 0).unwrap();
        let mut batches = Vec::new();
        loop {
            match self.events.recv_timeout(WAIT).unwrap() {
                Event::Ready(ready, _) => {
                    // One of a stream before may have been under way.
                    if ready.stream == stream {
                        let bytes = self.segment.slot_bytes() as usize;
                        // SAFETY: the slot is leased, and written to only once that is released.
                        let slot = unsafe {
                            std::slice::from_raw_parts(self.segment.slot_ptr(ready.slot), bytes)
                        };
                        batches.push(blake3::hash(slot));
                        at_step(ready.epoch_step);
                    }
                    self.session.release(ready.lease).unwrap();
                }
                Event::EndOfEpoch { stream: of, .. } if of == stream => return Ok(batches),
                Event::EndOfEpoch { .. } => {}
                Event::Failed(failure) => return Err((failure.kind, failure.message)),
            }
        }
    }
}
