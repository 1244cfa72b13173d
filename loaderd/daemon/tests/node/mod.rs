//! An engine with sessions of its own, without a socket, and pictures to feed it.
//!
//! Enters: a request, and how the stand-ins behave. Leaves: what a client would have got in an
//! epoch, and what the step log says of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use loaderd::engine::{Engine, Event, SessionHandle, Timings};
use loaderd::gpu::{Gpu, Options};
use loaderd::job::Job;
use loaderd::memory::SlotMemory;
use loaderd::steplog::{BadRow, LogReader, Query, StepLog, file_in};
use loaderd::synthetic::Frame;
use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::tile;
use loaderd_gpu::unit::Settings;
use loaderd_read::Mode;
use loaderd_wire::layout::Tensor;
use loaderd_wire::message::{Decode, Failure, OpenRequest, Ready};
use loaderd_wire::ragged::Span;
use loaderd_wire::segment::Segment;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::connect::{Fault, Standins};

/// Far beyond what any of this takes.
const WAIT: Duration = Duration::from_secs(60);
const SLOTS: u32 = 3;

/// A folder of pictures.
pub(crate) struct Photos {
    folder: TempDir,
    count: u64,
}

impl Photos {
    /// JPEGs for the engines, for CUDA cores and for the CPU, and a PNG among them.
    pub(crate) fn every_kind() -> Photos {
        let base = Encoder::default();
        let sampled = |subsampling| Encoder {
            subsampling,
            ..base
        };
        let tiled = |width, height, seed| {
            let jpeg = jpeg(&sampled(Subsampling::S420), width, height, seed);
            tile::tile(&jpeg, &Default::default()).unwrap().jpeg
        };
        let scanned = |scans| Encoder { scans, ..base };
        Photos::of(vec![
            // Engines.
            jpeg(&base, 120, 90, 1),
            jpeg(&sampled(Subsampling::S444), 97, 131, 2),
            jpeg(&sampled(Subsampling::S422), 128, 96, 3),
            jpeg(&sampled(Subsampling::Grey), 110, 85, 4),
            tiled(128, 128, 5),
            turned(&jpeg(&base, 101, 77, 6), 6),
            turned(&tiled(144, 112, 7), 3),
            // CUDA cores: too small, and coarse chroma.
            jpeg(&base, 60, 50, 8),
            jpeg(&sampled(Subsampling::S411), 120, 90, 9),
            // The CPU.
            jpeg(&scanned(Scans::Progressive), 120, 90, 10),
            jpeg(&scanned(Scans::Arithmetic), 120, 90, 11),
            jpeg(
                &Encoder {
                    colours: Colours::Cmyk,
                    ..base
                },
                90,
                80,
                12,
            ),
            Frame::draw(1, 1).drivable_png(),
        ])
    }

    /// Good ones, and JPEGs that look like good ones to who reads the header only.
    pub(crate) fn with_damage() -> Photos {
        let base = Encoder::default();
        let short = |seed| {
            let whole = jpeg(&base, 120, 90, seed);
            [&whole[..whole.len() / 2], &[0xff, 0xd9]].concat()
        };
        let good = (0..6).map(|seed| jpeg(&base, 120, 90, seed));
        Photos::of(good.chain([short(7), short(8)]).collect())
    }

    /// Good ones, of which nvJPEG leaves out some, and fails at others.
    pub(crate) fn that_fail() -> Photos {
        let base = Encoder::default();
        let files = (0..9).map(|seed| {
            let jpeg = jpeg(&base, 120, 90, seed);
            match seed {
                3 => Fault::Skip.put(&jpeg),
                7 => Fault::Fail.put(&jpeg),
                _ => jpeg,
            }
        });
        Photos::of(files.collect())
    }

    /// Street frames with masks, and a picture whose mask has another size.
    pub(crate) fn with_masks() -> Photos {
        let frames: Vec<Frame> = (0..3).map(|number| Frame::draw(1, number)).collect();
        let encoder = Encoder::default();
        let mut files: Vec<_> = (frames.iter())
            .map(|frame| frame.jpeg(&encoder).unwrap())
            .collect();
        files[0] = tile::tile(&files[0], &Default::default()).unwrap().jpeg;
        files.push(jpeg(&encoder, 120, 90, 1));
        let photos = Photos::of(files);
        let masks = photos.folder.path().join("masks");
        std::fs::create_dir(&masks).unwrap();
        for number in 0..4 {
            let mask = frames[number % 3].drivable_png();
            std::fs::write(masks.join(format!("{number:03}")), mask).unwrap();
        }
        photos
    }

    fn of(files: Vec<Vec<u8>>) -> Photos {
        let folder = tempfile::tempdir().unwrap();
        for (number, file) in files.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number:03}")), file).unwrap();
        }
        Photos {
            folder,
            count: files.len() as u64,
        }
    }

    /// How often each of them is in an epoch.
    pub(crate) fn rounds(&self) -> u64 {
        6
    }

    pub(crate) fn rows(&self) -> u64 {
        self.count * self.rounds()
    }
}

fn pixels(width: u32, height: u32, channels: u32, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let samples = (0..height * width * channels).map(|at| {
        let (x, y, channel) = (at / channels % width, at / channels / width, at % channels);
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wave = (x * (3 + channel) + y * (5 - channel)) % 256;
        let edge = u32::from((x / 9 + y / 7 + channel).is_multiple_of(3)) * 90;
        (wave / 2 + edge + (state >> 28)).min(255) as u8
    });
    samples.collect()
}

fn jpeg(encoder: &Encoder, width: u32, height: u32, seed: u32) -> Vec<u8> {
    let pixels = pixels(width, height, encoder.channels() as u32, seed);
    encoder.encode(&pixels, width, height).unwrap()
}

/// With an EXIF block that asks for this orientation.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = (block.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &block, &jpeg[2..]].concat()
}

/// An epoch of the pictures, with boxes that follow them; `changes` are to the request.
pub(crate) fn request(photos: &Photos, changes: Value) -> OpenRequest {
    let folder = photos.folder.path();
    let mut uri = format!("memory:rows={},images={}", photos.rows(), folder.display());
    let masks = folder.join("masks");
    if masks.exists() {
        uri = format!("{uri},masks={}", masks.display());
    }
    let mut request = json!({
        "uri": uri, "columns": ["image", "boxes", "label"], "batch_size": 7, "shuffle": true,
        "seed": 5, "rank": 0, "world_size": 1, "run": "a",
        "transform": {
            "image": [
                {"name": "RandomResizedCrop", "size": [48, 52], "scale": [0.2, 1.0],
                 "ratio": [0.75, 1.3], "interpolation": "bilinear"},
                {"name": "RandomHorizontalFlip", "p": 0.5},
                {"name": "Normalize", "mean": [0.5], "std": [0.2, 0.3, 0.4], "dtype": "float16"},
            ],
            "boxes": [{"name": "BoundingBoxes", "follows": "image"}],
        },
    });
    for (name, value) in changes.as_object().unwrap() {
        request[name] = value.clone();
    }
    if !request["columns"]
        .as_array()
        .unwrap()
        .contains(&"boxes".into())
    {
        request["transform"]
            .as_object_mut()
            .unwrap()
            .remove("boxes");
    }
    serde_json::from_value(request).unwrap()
}

/// A daemon without its door.
pub(crate) struct Node {
    engine: Engine,
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) timings: Arc<Timings>,
    standins: Option<Standins>,
    log: Arc<StepLog>,
    _state: TempDir,
}

impl Node {
    /// On CPU cores alone.
    pub(crate) fn cpu() -> Node {
        Node::new(
            2,
            Options {
                decode: Decode::Cpu,
                ..Options::default()
            },
            None,
        )
    }

    /// With a GPU; `defines` are macros of its stand-ins, which are built for this node alone,
    /// because they count.
    pub(crate) fn with(test: &str, defines: &[&str], threads: usize, settings: Settings) -> Node {
        static BUILT: AtomicU64 = AtomicU64::new(0);
        let test = format!("engine-{test}-{}", BUILT.fetch_add(1, Ordering::Relaxed));
        let standins = Standins::build(&test, defines);
        let options = Options {
            settings,
            places: standins.places(),
            ..Options::default()
        };
        Node::new(threads, options, Some(standins))
    }

    fn new(threads: usize, options: Options, standins: Option<Standins>) -> Node {
        let state = tempfile::tempdir().unwrap();
        let log = StepLog::open(&file_in(state.path()), None).unwrap();
        let gpu = Gpu::new(options);
        let timings = Arc::new(Timings::default());
        let engine = Engine::start(
            threads,
            Default::default(),
            SlotMemory::new(1 << 30),
            Some(timings.clone()),
            gpu.clone(),
        );
        Node {
            engine: engine.unwrap(),
            gpu,
            timings,
            standins,
            log: Arc::new(log),
            _state: state,
        }
    }

    /// From now on, every call of the GPU's driver fails.
    pub(crate) fn break_gpu(&self) {
        const ILLEGAL_ADDRESS: i32 = 700;
        let standins = self.standins.as_ref().expect("a GPU");
        standins.break_device(ILLEGAL_ADDRESS);
    }

    /// Ranges of host memory that the GPU knows.
    pub(crate) fn registered(&self) -> usize {
        self.standins.as_ref().expect("a GPU").registered()
    }

    /// From now on, the GPU does nothing, or goes on.
    pub(crate) fn hang_gpu(&self, does: bool) {
        self.standins.as_ref().expect("a GPU").hang(does);
    }

    pub(crate) fn session(&self, request: &OpenRequest) -> Result<Session<'_>, Failure> {
        let run = request.run.as_deref().unwrap();
        self.rank(Job::open(request, run, &self.log, &self.gpu)?.into())
    }

    /// A session of a job that is open.
    pub(crate) fn rank(&self, job: Arc<Job>) -> Result<Session<'_>, Failure> {
        let segment = Arc::new(Segment::create(job.layout.slot_bytes, SLOTS).unwrap());
        let (events, inbox) = unbounded();
        let outlet = Box::new(move |event| events.send(event).is_ok());
        let (handle, _) = self.engine.session(
            job.clone(),
            0,
            segment.clone(),
            self.log.clone(),
            Mode::Auto,
            outlet,
        )?;
        Ok(Session {
            node: self,
            handle,
            job,
            segment,
            inbox,
            streams: AtomicU64::new(0),
        })
    }

    /// An epoch of a session.
    pub(crate) fn epoch(&self, request: &OpenRequest) -> Epoch {
        self.session(request).unwrap().epoch()
    }

    /// Why there is no session.
    pub(crate) fn refused(&self, request: &OpenRequest) -> String {
        match self.session(request) {
            Ok(_) => panic!("it was opened"),
            Err(failure) => failure.message,
        }
    }
}

/// A session and its client.
pub(crate) struct Session<'a> {
    node: &'a Node,
    handle: SessionHandle,
    pub(crate) job: Arc<Job>,
    segment: Arc<Segment>,
    inbox: Receiver<Event>,
    streams: AtomicU64,
}

/// What a client got in an epoch, and what the step log says of it.
#[derive(PartialEq)]
pub(crate) struct Epoch {
    /// By batch and column, what the slot held.
    batches: Vec<Vec<Vec<u8>>>,
    /// By step, the digest of its rows, and the bad ones.
    records: Vec<(u64, String, Vec<BadRow>)>,
    pub(crate) bad_rows: u32,
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, columns) in self.batches.iter().enumerate() {
            let sums = columns.iter().map(|bytes| {
                let sum = bytes.iter().fold(0u32, |sum, &byte| {
                    sum.wrapping_mul(31).wrapping_add(byte.into())
                });
                format!("{sum:08x}")
            });
            writeln!(f, "batch {number}: {}", sums.collect::<Vec<_>>().join(" "))?;
        }
        write!(f, "{:?}, {} bad rows", self.records, self.bad_rows)
    }
}

impl Session<'_> {
    /// Begins a stream.
    pub(crate) fn start(&self) -> u64 {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        self.handle.start(stream, 0, 0).unwrap();
        stream
    }

    /// All of an epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch_with(|_| {})
    }

    /// All of an epoch; calls `after` with the number of batches received, after each.
    pub(crate) fn epoch_with(&self, after: impl Fn(usize)) -> Epoch {
        let stream = self.start();
        let mut epoch = Epoch {
            batches: Vec::new(),
            records: Vec::new(),
            bad_rows: 0,
        };
        loop {
            match self.inbox.recv_timeout(WAIT).expect("no batch") {
                Event::Ready(ready, oversize) => {
                    assert!(oversize.is_none(), "slots have room");
                    if ready.stream == stream {
                        epoch.batches.push(self.columns(&ready));
                        epoch.bad_rows += ready.bad_rows;
                        self.handle.delivered(ready.lease).unwrap();
                        after(epoch.batches.len());
                    }
                    self.handle.release(ready.lease).unwrap();
                }
                Event::EndOfEpoch { stream: ended, .. } if ended == stream => break,
                Event::EndOfEpoch { .. } => {}
                Event::Failed(failure) => panic!("{}", failure.message),
            }
        }
        epoch.records = self.records();
        epoch
    }

    /// By state: free, filling, ready, leased.
    pub(crate) fn slots(&self) -> [u32; 4] {
        self.handle.slots()
    }

    /// Why the epoch ends early.
    pub(crate) fn failure(&self) -> Failure {
        self.start();
        loop {
            match self.inbox.recv_timeout(WAIT).expect("no batch") {
                Event::Ready(ready, _) => self.handle.release(ready.lease).unwrap(),
                Event::Failed(failure) => return failure,
                Event::EndOfEpoch { .. } => panic!("nothing was wrong"),
            }
        }
    }

    fn columns(&self, ready: &Ready) -> Vec<Vec<u8>> {
        let mut ragged = ready.ragged.iter();
        let columns = self.job.layout.tensors.iter().map(|tensor: &Tensor| {
            if tensor.ragged.is_none() {
                let bytes = tensor.row_bytes() * u64::from(ready.rows);
                return self.bytes(ready.slot, tensor.offset, bytes);
            }
            let part = ragged.next().expect("one each");
            let offsets = part.offsets.iter().map(|span| (span, 8));
            let arrays = offsets.chain([(&part.values, tensor.row_bytes())]);
            let arrays = arrays.map(|(span, size): (&Span, u64)| {
                self.bytes(ready.slot, span.at, span.count * size)
            });
            arrays.collect::<Vec<_>>().concat()
        });
        columns.collect()
    }

    fn bytes(&self, slot: u32, offset: u64, bytes: u64) -> Vec<u8> {
        assert!(offset + bytes <= self.segment.slot_bytes());
        // SAFETY: within the slot, which is ours until it is released.
        unsafe {
            let start = self.segment.slot_ptr(slot).add(offset as usize);
            std::slice::from_raw_parts(start, bytes as usize).to_vec()
        }
    }

    fn records(&self) -> Vec<(u64, String, Vec<BadRow>)> {
        let reader = LogReader::open(self.node.log.path()).unwrap().unwrap();
        let all = Query {
            prepared: true,
            ..Query::default()
        };
        let rows = reader.steps(&all).unwrap();
        let own = rows
            .into_iter()
            .filter(|row| row.job == self.job.key.job)
            .map(|row| (row.step, row.digest, row.bad));
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|(step, ..)| *step);
        own
    }
}
