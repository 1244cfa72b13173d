//! The reader: extents in, buffers out, for one thread.
//!
//! Enters: extents with the caller's tags. Leaves: buffers or errors with the same tags,
//! in the order in which the disk answers. Here reads are rounded out to what O_DIRECT
//! asks for, continued where the kernel answers short, and tried again where that can
//! help. Never: blocks in `submit`, holds more than `queue_depth` reads, reorders, or
//! looks at the bytes.

mod read;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::read::{Memory, Read, pause};
use crate::engine::{Answer, Engine, EngineReport, Limits, RawRead, climb};
use crate::memory::{Aligned, Pool};
use crate::{Buffer, Config, Extent, FileSet, ReadError};

/// The longest single read handed to the kernel; more is read in turns. Below the
/// kernel's own limit of 2 GiB less a page, and a multiple of any alignment.
const READ_BYTES_MAX: usize = 1 << 30;

/// A wait is cut to this, so that adding it to the clock can't overflow.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Reads extents through one engine. One per reader thread: `Send`, so that it may be
/// made elsewhere, but the thread that calls [`Reader::complete`] first must be the one
/// that goes on and drops it. Dropping it waits for the reads under way; buffers that it
/// has handed out live on.
pub struct Reader {
    engine: Box<dyn Engine>,
    report: EngineReport,
    files: Arc<FileSet>,
    pool: Arc<Pool>,
    // One per read between `submit` and its answer; the index is the engine's token.
    reads: Vec<Option<Read>>,
    tokens_free: Vec<u32>,
    // Submitted, not yet with the engine. A slab is taken only on the way there, so that
    // the slab used last is used next.
    waiting: VecDeque<u32>,
    // That they will take.
    waiting_slabs: usize,
    // That the read refused last would take.
    wanted_slabs: usize,
    // To be tried again, and when.
    delayed: Vec<(Instant, u32)>,
    // Done, not yet handed out.
    finished: VecDeque<(u64, Result<Buffer, ReadError>)>,
    // Kept to spare an allocation a call.
    answers: Vec<Answer>,
    with_engine: usize,
    stats: Stats,
}

/// Counts since the reader was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Extents handed out whole.
    pub reads: u64,
    /// Extents that ended in an error.
    pub errors: u64,
    /// Bytes of the extents handed out.
    pub bytes_asked: u64,
    /// Bytes that the kernel delivered for all reads: also what rounding out added.
    pub bytes_read: u64,
    /// Reads issued again, after a short answer or an error that may pass.
    pub retries: u64,
    /// Extents larger than a slab, read into memory of their own.
    pub oversize_reads: u64,
    /// Times that `submit` returned false: ordinary backpressure.
    pub submits_refused: u64,
}

impl Reader {
    /// Takes the slabs and sets up the best engine that `config.mode` and this machine
    /// allow.
    ///
    /// Errors: a configuration out of bounds, `Mode::Direct` where a file does not allow
    /// it, or no memory. A kernel without io_uring is no error.
    pub fn new(files: Arc<FileSet>, config: Config) -> Result<Reader, ReadError> {
        Reader::with_limits(files, config, Limits::default())
    }

    pub(crate) fn with_limits(
        files: Arc<FileSet>,
        config: Config,
        limits: Limits,
    ) -> Result<Reader, ReadError> {
        config.validate()?;
        let bytes = config.arena_bytes();
        let pool = Pool::new(&config).ok_or(ReadError::Memory { bytes })?;
        let (engine, report) = climb(&files, &pool, &config, limits)?;
        Ok(Reader::from_parts(
            files,
            pool,
            engine,
            report,
            config.queue_depth,
        ))
    }

    /// Puts a reader together around any engine.
    pub(crate) fn from_parts(
        files: Arc<FileSet>,
        pool: Arc<Pool>,
        engine: Box<dyn Engine>,
        report: EngineReport,
        queue_depth: u32,
    ) -> Reader {
        Reader {
            engine,
            report,
            files,
            pool,
            reads: (0..queue_depth).map(|_| None).collect(),
            tokens_free: (0..queue_depth).rev().collect(),
            waiting: VecDeque::new(),
            waiting_slabs: 0,
            wanted_slabs: 1,
            delayed: Vec::new(),
            finished: VecDeque::new(),
            answers: Vec::new(),
            with_engine: 0,
            stats: Stats::default(),
        }
    }

    /// What this reader stands on, and why.
    pub fn engine(&self) -> &EngineReport {
        &self.report
    }

    /// Queues one read; `tag` comes back with its result. Never blocks, does no I/O: the
    /// read starts with the next [`Reader::complete`].
    ///
    /// Returns false, and queues nothing, where `queue_depth` reads are in flight or too few
    /// slabs are free: call `complete`, or drop buffers, first. An extent that can't be
    /// read is still taken: its error comes through `complete`.
    #[must_use = "a refused read must be submitted again"]
    pub fn submit(&mut self, tag: u64, extent: Extent) -> bool {
        let depth = self.reads.len();
        let slabs = (self.pool.slab_bytes(), self.pool.slab_count());
        let read = Read::new(tag, extent, self.report.align, slabs);
        let is_room = self.pool.free_count() >= self.waiting_slabs + read.slabs;
        if self.in_flight() >= depth || !is_room {
            self.stats.submits_refused += 1;
            self.wanted_slabs = read.slabs;
            return false;
        }
        match self.check(extent) {
            Err(error) => self.finish(tag, Err(error)),
            Ok(()) if extent.length == 0 => self.finish(tag, Ok(Vec::new().into())),
            Ok(()) => {
                let token = self.tokens_free.pop();
                let token = token.expect("a token is free while in_flight < queue_depth");
                self.waiting_slabs += read.slabs;
                self.reads[token as usize] = Some(read);
                self.waiting.push_back(token);
            }
        }
        true
    }

    /// Reads submitted whose results have not been handed out.
    pub fn in_flight(&self) -> usize {
        self.reads.len() - self.tokens_free.len() + self.finished.len()
    }

    /// Starts what was submitted and waits until at least one read is done, for `timeout`
    /// at most; calls `done(tag, result)` for each that is. Returns how many.
    ///
    /// Blocks in the kernel, without spinning; a `timeout` of zero only looks. With
    /// nothing in flight it waits until there are slabs for the extent that was refused last, or for
    /// any, and returns 0. An `Err` from this
    /// function itself means that the reader can't go on; errors of single reads go to
    /// `done`.
    pub fn complete(
        &mut self,
        timeout: Duration,
        done: &mut dyn FnMut(u64, Result<Buffer, ReadError>),
    ) -> Result<usize, ReadError> {
        let timeout = timeout.min(WAIT_MAX);
        if self.in_flight() == 0 {
            self.pool.wait_free(self.wanted_slabs, timeout);
            return Ok(0);
        }
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            self.requeue_due(now);
            self.start(self.engine.group());
            // More to start, or something to hand out: only look.
            let wait = match self.finished.is_empty() && self.waiting.is_empty() {
                true => self.next_due().map_or(deadline, |due| due.min(deadline)) - now,
                false => Duration::ZERO,
            };
            if self.with_engine > 0 {
                self.engine
                    .wait(wait, &mut self.answers)
                    .map_err(engine_error)?;
                let mut answers = std::mem::take(&mut self.answers);
                answers.drain(..).for_each(|answer| self.settle(answer));
                self.answers = answers;
            } else if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            if !self.finished.is_empty() {
                break;
            }
            if self.waiting.is_empty() && Instant::now() >= deadline {
                return Ok(0);
            }
        }
        let count = self.finished.len();
        while let Some((tag, result)) = self.finished.pop_front() {
            done(tag, result);
        }
        Ok(count)
    }

    /// Counts since the reader was made.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What can be said about an extent without reading.
    fn check(&self, extent: Extent) -> Result<(), ReadError> {
        let Extent {
            offset,
            length,
            file,
        } = extent;
        if file as usize >= self.files.len() {
            return Err(ReadError::NoSuchFile {
                file,
                count: self.files.len(),
            });
        }
        let end = offset.checked_add(length.into());
        if length > 0 && end.is_none_or(|end| end > self.files.size(file)) {
            return Err(self.truncated(extent));
        }
        Ok(())
    }

    /// Hands at most `group` waiting reads to the engine.
    fn start(&mut self, group: usize) {
        for _ in 0..group.min(self.waiting.len()) {
            let Some(token) = self.waiting.pop_front() else {
                return;
            };
            let read = (self.reads[token as usize].as_mut()).expect("waiting reads are there");
            self.waiting_slabs -= read.slabs;
            let lease = self.pool.take(read.slabs - 1);
            let lease = lease.expect("submit keeps slabs free for each waiting read");
            let one_off = if read.span > self.pool.slab_bytes() {
                self.stats.oversize_reads += 1;
                let Some(block) = Aligned::new(read.span) else {
                    let (tag, bytes) = (read.tag, read.span as u64);
                    self.forget(token);
                    self.finish(tag, Err(ReadError::Memory { bytes }));
                    continue;
                };
                Some(block)
            } else {
                None
            };
            read.memory = Some(Memory { lease, one_off });
            self.issue(token);
        }
    }

    /// Hands a read that has its memory to the engine, from where it stands.
    fn issue(&mut self, token: u32) {
        let read = (self.reads[token as usize].as_mut()).expect("issued reads are there");
        // Go on from the last aligned byte; a little may be read twice.
        let align = self.report.align as usize;
        read.issued_from = read.arrived / align * align;
        let memory = read.memory.as_ref().expect("start gave it memory");
        let raw = RawRead {
            token,
            file: read.extent.file,
            offset: read.start + read.issued_from as u64,
            // SAFETY: `issued_from` is at most `span`, the size of this memory.
            target: unsafe { memory.base().add(read.issued_from) },
            length: (read.span - read.issued_from).min(READ_BYTES_MAX) as u32,
            in_arena: memory.one_off.is_none(),
        };
        self.with_engine += 1;
        // SAFETY: the memory is `span` bytes from its base, so the target has room for
        // `length`. The read owns it and stays in `reads` until its answer, or until
        // `drop` has closed the engine; `check` has seen the file's number.
        unsafe { self.engine.queue(raw) }
    }

    /// Takes in one answer: done, to be continued, to be tried again, or failed.
    fn settle(&mut self, answer: Answer) {
        self.with_engine -= 1;
        let token = answer.token;
        let read = (self.reads[token as usize].as_mut()).expect("answers are to reads");
        let extent = read.extent;
        let bytes = match answer.result {
            Ok(bytes) => bytes,
            Err(errno) => return self.try_again(token, errno),
        };
        self.stats.bytes_read += u64::from(bytes);
        let arrived = read.issued_from + bytes as usize;
        if arrived >= read.lead + extent.length as usize {
            self.hand_out(token);
        } else if arrived > read.arrived {
            read.arrived = arrived;
            self.stats.retries += 1;
            self.issue(token);
        } else if self.files.size_now(extent.file) < extent.offset + u64::from(extent.length) {
            let error = self.truncated(extent);
            self.fail(token, error);
        } else {
            // Not a byte further, though the file goes on: as odd as an I/O error.
            self.try_again(token, libc::EIO);
        }
    }

    /// After a failed try: another one, later, where that can help.
    fn try_again(&mut self, token: u32, errno: i32) {
        let read = (self.reads[token as usize].as_mut()).expect("answers are to reads");
        let extent = read.extent;
        if let Some(pause) = pause(errno, read.failures) {
            read.failures += 1;
            self.stats.retries += 1;
            self.delayed.push((Instant::now() + pause, token));
            return;
        }
        let error = ReadError::Io {
            path: self.files.path(extent.file).into(),
            offset: extent.offset,
            length: extent.length,
            source: io::Error::from_raw_os_error(errno),
        };
        self.fail(token, error);
    }

    fn hand_out(&mut self, token: u32) {
        let read = self.forget(token);
        let length = read.extent.length;
        let memory = read.memory.expect("an answered read has memory");
        self.stats.bytes_asked += u64::from(length);
        // SAFETY: the kernel has written all bytes up to `lead + length` and has answered
        // its last read into this memory.
        let buffer =
            unsafe { Buffer::from_read(memory.lease, memory.one_off, read.lead, length as usize) };
        self.finish(read.tag, Ok(buffer));
    }

    fn fail(&mut self, token: u32, error: ReadError) {
        let tag = self.forget(token).tag;
        self.finish(tag, Err(error));
    }

    /// Takes a read off the books.
    fn forget(&mut self, token: u32) -> Read {
        self.tokens_free.push(token);
        let read = self.reads[token as usize].take();
        read.expect("a read is forgotten once")
    }

    fn finish(&mut self, tag: u64, result: Result<Buffer, ReadError>) {
        match result {
            Ok(_) => self.stats.reads += 1,
            Err(_) => self.stats.errors += 1,
        }
        self.finished.push_back((tag, result));
    }

    /// Issues again the reads whose pause is over.
    fn requeue_due(&mut self, now: Instant) {
        while let Some(index) = self.delayed.iter().position(|(due, _)| *due <= now) {
            let (_, token) = self.delayed.swap_remove(index);
            self.issue(token);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.delayed.iter().map(|(due, _)| *due).min()
    }

    fn truncated(&self, extent: Extent) -> ReadError {
        ReadError::Truncated {
            path: self.files.path(extent.file).into(),
            offset: extent.offset,
            length: extent.length,
            size: self.files.size_now(extent.file),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.engine.close() {
            return;
        }
        // The kernel may still write into this memory. Happens where the ring broke, or another
        // thread drops the reader than the one that used it.
        self.pool.abandon();
        let reads = self.reads.iter_mut().filter_map(Option::take);
        for memory in reads.filter_map(|read| read.memory) {
            if let Some(block) = memory.one_off {
                block.abandon();
            }
        }
    }
}

fn engine_error(source: io::Error) -> ReadError {
    match source.raw_os_error() {
        Some(libc::EEXIST) => ReadError::WrongThread,
        _ => ReadError::Ring { source },
    }
}
