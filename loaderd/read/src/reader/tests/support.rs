//! What the reader's tests stand on: known files, all engines, and an engine that fails.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Answer, Engine, Limits, RawRead};
use crate::{Backend, Buffer, Config, Extent, FileSet, Mode, ReadError, Reader};

pub(super) const SLAB: u32 = 64 << 10;
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator of test data (Marsaglia's xorshift64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Files with known bytes.
pub(super) struct Data {
    _folder: tempfile::TempDir,
    pub(super) paths: Vec<PathBuf>,
    contents: Vec<Vec<u8>>,
}

impl Data {
    pub(super) fn new(sizes: &[usize]) -> Data {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut data = Data {
            paths: Vec::new(),
            contents: Vec::new(),
            _folder: folder,
        };
        for (index, &size) in sizes.iter().enumerate() {
            let path = data._folder.path().join(format!("{index}.lance"));
            let content: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            data.paths.push(path);
            data.contents.push(content);
        }
        data
    }

    pub(super) fn open(&self) -> Arc<FileSet> {
        Arc::new(FileSet::open(self.paths.clone()).unwrap())
    }

    pub(super) fn bytes(&self, extent: Extent) -> &[u8] {
        let start = extent.offset as usize;
        &self.contents[extent.file as usize][start..][..extent.length as usize]
    }

    pub(super) fn extent(&self, file: u32, random: &mut Random, length_max: u64) -> Extent {
        let size = self.contents[file as usize].len() as u64;
        let length = random.below(length_max.min(size) + 1);
        Extent {
            offset: random.below(size - length + 1),
            length: length as u32,
            file,
        }
    }
}

/// One rung, direct or buffered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) limits: Limits,
}

pub(super) fn config(queue_depth: u32, slab_count: u32) -> Config {
    Config {
        mode: Mode::Auto,
        queue_depth,
        slab_bytes: SLAB,
        slab_count,
    }
}

/// Runs `body` over all engines that this machine has; says which it leaves out.
pub(super) fn over_all_engines(body: impl Fn(Kind)) {
    let data = Data::new(&[8192]);
    let rungs = [
        (Backend::UringFixed, true),
        (Backend::UringFixed, false),
        (Backend::UringPlain, true),
        (Backend::UringPlain, false),
        (Backend::Pread, false),
    ];
    for (best, register_files) in rungs {
        for direct in [true, false] {
            let limits = Limits {
                best,
                register_files,
                direct: Some(direct),
            };
            let found = Reader::with_limits(data.open(), config(1, 1), limits);
            match found.map(|reader| reader.engine().clone()) {
                Err(error) => eprintln!("skipped {limits:?}: {error}"),
                Ok(report) if report.backend != best => eprintln!("skipped {limits:?}: {report}"),
                Ok(report) => {
                    assert_eq!(report.files_registered, register_files, "{report}");
                    assert_eq!(report.direct, direct, "{report}");
                    body(Kind { limits });
                }
            }
        }
    }
}

impl Kind {
    pub(super) fn reader(self, files: Arc<FileSet>, config: Config) -> Reader {
        Reader::with_limits(files, config, self.limits).unwrap()
    }
}

/// Reads all extents, with their positions as tags, and drops each buffer at once.
pub(super) fn read_all(
    reader: &mut Reader,
    extents: &[Extent],
    mut check: impl FnMut(usize, Result<Buffer, ReadError>),
) {
    let started = Instant::now();
    let (mut next, mut seen) = (0, 0);
    while seen < extents.len() {
        while next < extents.len() && reader.submit(next as u64, extents[next]) {
            next += 1;
        }
        let mut done = |tag, result| check(tag as usize, result);
        seen += reader.complete(PATIENCE, &mut done).unwrap();
        assert!(started.elapsed() < PATIENCE, "hangs at {seen}");
    }
    assert_eq!(reader.in_flight(), 0);
}

/// Reads one extent.
pub(super) fn read_one(reader: &mut Reader, extent: Extent) -> Result<Buffer, ReadError> {
    let mut only = None;
    read_all(reader, &[extent], |_, result| only = Some(result));
    only.unwrap()
}

/// What goes wrong with a read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Errno(i32),
    /// Only the first bytes, at most this many, are read.
    Short(u32),
}

/// A real engine that fails as told: the n-th try of a read at an offset meets the n-th
/// fault.
pub(super) struct Faulty {
    pub(super) inner: Box<dyn Engine>,
    pub(super) faults: Vec<Fault>,
    pub(super) tries: HashMap<u32, usize>,
    pub(super) answers: Vec<Answer>,
}

impl Engine for Faulty {
    unsafe fn queue(&mut self, read: RawRead) {
        let tries = self.tries.entry(read.token).or_default();
        let fault = self.faults.get(*tries);
        *tries += 1;
        let length = match fault {
            Some(&Fault::Errno(errno)) => {
                self.answers.push(Answer {
                    token: read.token,
                    result: Err(errno),
                });
                return;
            }
            Some(&Fault::Short(length)) => read.length.min(length),
            None => read.length,
        };
        // SAFETY: the same read or a shorter one, under the caller's own promise.
        unsafe { self.inner.queue(RawRead { length, ..read }) }
    }

    fn wait(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<()> {
        if self.answers.is_empty() {
            return self.inner.wait(timeout, answers);
        }
        answers.append(&mut self.answers);
        self.inner.wait(Duration::ZERO, answers)
    }

    fn group(&self) -> usize {
        self.inner.group()
    }

    fn close(&mut self) -> bool {
        self.inner.close()
    }
}
