//! Many sessions on one pool, in one process: what ThreadSanitizer looks at, since the reader
//! of a slot is a thread here.

use std::path::Path;
use std::sync::mpsc;

use loaderd_decode::encode::Encoder;
use loaderd_wire::message::OpenRequest;
use serde_json::json;

use super::*;
use crate::gpu::Options;
use crate::steplog::{LogReader, Query, file_in};
use crate::synthetic::Frame;

mod cuts;
#[path = "../../tests/filed/mod.rs"]
mod filed;

const ROWS: u64 = 120;
const PICTURES: u64 = 6;
/// The picture that can't be decoded.
const BROKEN: u64 = 4;
const WAIT: Duration = Duration::from_secs(60);

/// Pictures of one grey each, told by their number.
fn draw(folder: &Path) {
    let pixels = |number: u64| vec![(40 * number + 10) as u8; 48 * 40 * 3];
    for number in 0..PICTURES {
        let mut data = Encoder::default().encode(&pixels(number), 48, 40).unwrap();
        if number == BROKEN {
            data.truncate(data.len() / 2);
        }
        std::fs::write(folder.join(format!("{number}.jpg")), data).unwrap();
    }
}

fn request(folder: &Path, rank: u32, policy: &str, more: &str) -> OpenRequest {
    let crop = json!({
        "name": "RandomResizedCrop", "size": [16, 16], "scale": [0.1, 1.0], "ratio": [0.75, 1.5],
        "interpolation": "bilinear",
    });
    serde_json::from_value(json!({
        "uri": format!("memory:rows={ROWS},images={}{more}", folder.display()),
        "columns": ["image", "label", "text", "_valid"],
        "transform": {"image": [crop, {"name": "RandomHorizontalFlip", "p": 0.5}]},
        "batch_size": 4, "shuffle": true, "rank": rank, "world_size": 2,
        "on_bad_sample": policy,
    }))
    .unwrap()
}

/// A client of one session, with its three slots.
struct Client {
    handle: SessionHandle,
    job: Arc<Job>,
    rank: u32,
    segment: Arc<Segment>,
    log: Arc<StepLog>,
    events: mpsc::Receiver<Event>,
    held: Vec<u64>,
}

impl Client {
    fn new(engine: &Engine, job: Arc<Job>, rank: u32, log: Arc<StepLog>) -> Client {
        let segment = Arc::new(Segment::create(job.layout.slot_bytes, 3).unwrap());
        let (sender, events) = mpsc::channel();
        let outlet = Box::new(move |event| sender.send(event).is_ok());
        let (handle, _) = engine
            .session(
                job.clone(),
                rank,
                segment.clone(),
                log.clone(),
                Mode::Auto,
                outlet,
            )
            .unwrap();
        Client {
            handle,
            job,
            rank,
            segment,
            log,
            events,
            held: Vec::new(),
        }
    }

    /// Bytes of the first `rows` rows of a column.
    fn column(&self, slot: u32, name: &str, rows: u32) -> &[u8] {
        let tensor = self.job.layout.tensors.iter().find(|one| one.name == name);
        let tensor = tensor.unwrap();
        let length = tensor.row_bytes() as usize * rows as usize;
        // SAFETY: the tensor lies within the slot by the layout that made it, and the engine
        // writes to it only once its lease was released.
        unsafe {
            let start = self.segment.slot_ptr(slot).add(tensor.offset as usize);
            std::slice::from_raw_parts(start, length)
        }
    }

    /// Takes a batch: labels of its valid rows, whose pictures are looked at. `None` at the
    /// epoch's end.
    fn take(&mut self, stream: u64) -> Option<(u64, Vec<u64>)> {
        loop {
            match self.events.recv_timeout(WAIT).unwrap() {
                Event::Failed(failure) => panic!("{failure:?}"),
                Event::EndOfEpoch { stream: of, .. } if of == stream => return None,
                Event::EndOfEpoch { .. } => {}
                Event::Ready(ready, _) if ready.stream != stream => {
                    self.handle.release(ready.lease).unwrap();
                }
                Event::Ready(ready, _) => {
                    let handed = self.handle.delivered(ready.lease).unwrap().unwrap();
                    self.log.delivered(self.job.key.job, self.rank, handed.step);
                    let labels = self.look(&ready);
                    // One is kept, so that slots go round out of order.
                    self.held.push(ready.lease);
                    if self.held.len() == 2 {
                        self.handle.release(self.held.remove(0)).unwrap();
                    }
                    return Some((ready.step, labels));
                }
            }
        }
    }

    fn look(&self, ready: &Ready) -> Vec<u64> {
        let labels = self.column(ready.slot, "label", ready.rows);
        let images = self.column(ready.slot, "image", ready.rows);
        let valid = self.column(ready.slot, "_valid", ready.rows);
        let pixels = images.len() / ready.rows as usize;
        let mut seen = Vec::new();
        for (row, label) in labels.chunks_exact(8).enumerate() {
            let label = u64::from_le_bytes(label.try_into().unwrap());
            let grey = match valid[row] {
                1 => 40 * (label % PICTURES) + 10,
                _ => 0,
            };
            let image = &images[row * pixels..][..pixels];
            let is_right = image.iter().all(|&value| grey.abs_diff(value.into()) <= 2);
            assert!(is_right, "label {label}, valid {}: {image:?}", valid[row]);
            if valid[row] == 1 {
                seen.push(label);
            }
        }
        seen
    }
}

#[test]
fn sessions_share_a_pool_and_each_gets_its_own_rows() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    draw(&pictures);
    let path = file_in(folder.path());
    let log = Arc::new(StepLog::open(&path, None).unwrap());
    let memory = SlotMemory::new(1 << 30);
    let gpu = Gpu::new(Options::default());
    let limits = decode::Limits::default();
    let engine = Engine::start(3, limits, memory.clone(), None, gpu.clone()).unwrap();

    let runs = [("zero", ""), ("replace", ""), ("zero", ",slow")];
    let all: Vec<(usize, u64, Vec<u64>)> = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for (run, (policy, more)) in runs.into_iter().enumerate() {
            let opened = Job::open(
                &request(&pictures, 0, policy, more),
                &format!("{run}"),
                &log,
                &gpu,
            );
            let job = Arc::new(opened.unwrap());
            for rank in 0..2 {
                let (engine, job, log) = (&engine, job.clone(), log.clone());
                clients.push(scope.spawn(move || {
                    let mut client = Client::new(engine, job, rank, log);
                    client.handle.start(1, 0, 0).unwrap();
                    let mut taken: Vec<_> = (0..5).map(|_| client.take(1).unwrap()).collect();
                    // Goes back in the middle of the stream, and sees the same again.
                    client.handle.start(2, 0, 3).unwrap();
                    let again = [client.take(2).unwrap(), client.take(2).unwrap()];
                    assert_eq!(again[..], taken[3..]);
                    taken.extend(std::iter::from_fn(|| client.take(2)));
                    // Leaves with batches on their way.
                    client.handle.start(3, 1, 0).unwrap();
                    client.take(3).unwrap();
                    taken
                        .into_iter()
                        .map(|(step, rows)| (run, step, rows))
                        .collect::<Vec<_>>()
                }));
            }
        }
        clients
            .into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect()
    });
    drop(engine);
    drop(log);
    assert_eq!(memory.used(), 0);

    for (run, (policy, _)) in runs.into_iter().enumerate() {
        let mine = all.iter().filter(|(of, ..)| *of == run);
        let mut rows: Vec<u64> = mine.flat_map(|(_, _, rows)| rows.clone()).collect();
        rows.sort_unstable();
        let intact: Vec<u64> = (0..ROWS).filter(|row| row % PICTURES != BROKEN).collect();
        if policy == "zero" {
            assert_eq!(rows, intact, "{run}");
        } else {
            assert_eq!(rows.len() as u64, ROWS, "{run}");
            assert!(intact.iter().all(|row| rows.contains(row)), "{run}");
        }
        // Fifteen steps of the first epoch and one of the second, of both ranks.
        let reader = LogReader::open(&path).unwrap().unwrap();
        let query = Query {
            run: Some(format!("{run}")),
            ..Query::default()
        };
        assert_eq!(reader.steps(&query).unwrap().len(), 32, "{run}");
    }
}

/// Else zeros or other rows would take the place of a dataset whose disk or network fails.
#[test]
fn a_file_that_can_t_be_read_is_no_bad_sample() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    draw(&pictures);
    let failing = pictures.join("3.jpg");
    std::fs::remove_file(&failing).unwrap();
    // There is nothing at this process's address 0.
    std::os::unix::fs::symlink("/proc/self/mem", &failing).unwrap();
    let log = Arc::new(StepLog::open(&file_in(folder.path()), None).unwrap());
    let gpu = Gpu::new(Options::default());
    let memory = SlotMemory::new(1 << 30);
    let engine = Engine::start(2, decode::Limits::default(), memory, None, gpu.clone()).unwrap();
    for policy in ["zero", "replace"] {
        let request = serde_json::from_value(json!({
            "uri": format!("memory:rows={PICTURES},images={}", pictures.display()),
            "columns": ["path"], "transform": {"path": [{"name": "CenterCrop", "size": [8, 8]}]},
            "batch_size": PICTURES, "rank": 0, "world_size": 1, "on_bad_sample": policy,
        }));
        let job = Job::open(&request.unwrap(), policy, &log, &gpu).unwrap();
        let client = Client::new(&engine, Arc::new(job), 0, log.clone());
        client.handle.start(1, 0, 0).unwrap();
        let Event::Failed(why) = client.events.recv_timeout(WAIT).unwrap() else {
            panic!("a batch");
        };
        assert_eq!(why.kind, FailureKind::Io, "{why:?}");
        for part in ["row address 3", "3.jpg: Input/output error"] {
            assert!(why.message.contains(part), "{why:?}");
        }
    }
}

#[test]
fn only_a_missing_ring_is_warned_of() {
    let check = |backend, mode, expected| {
        let report = loaderd_read::EngineReport {
            backend,
            files_registered: true,
            direct: false,
            align: 1,
            reasons: vec![],
        };
        assert_eq!(
            Reading::new(&report, mode).degraded,
            expected,
            "{backend:?}"
        );
    };
    check(Backend::UringFixed, Mode::Auto, false);
    check(Backend::UringPlain, Mode::Auto, false);
    check(Backend::Pread, Mode::Auto, true);
    check(Backend::Pread, Mode::Pread, false);
}

/// Workers get several masks at once, and batches are none the larger for it: the last of a read
/// wait for no others.
#[test]
fn masks_that_are_read_wait_for_no_others() {
    let frames = (0..6).map(|number| Frame::draw(1, number).drivable_png());
    let folder = tempfile::tempdir().unwrap();
    let node = filed::Node::new(folder.path(), &frames.collect::<Vec<_>>());
    let transform = json!({
        "image": [{"name": "CenterCrop", "size": [32, 32]}],
        "mask": [{"name": "Mask", "follows": "image", "fill": 0}],
    });
    let client = node.client(node.job_of("masks", transform));
    let epochs = [1, 2].map(|stream| client.epoch((stream, 0), |_| {}).unwrap());
    assert_eq!(epochs[0].len(), 3, "{}", client.reads_with);
    assert_eq!(epochs[0], epochs[1]);
}
