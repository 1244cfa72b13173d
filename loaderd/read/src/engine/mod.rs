//! What carries reads to the kernel: the trait, its backends, and what was chosen.
//!
//! Enters: single reads, already aligned, into memory that the reader owns. Leaves: one
//! answer each: bytes read, or an error number. Never: retries, splits or aligns reads,
//! or knows about extents; that is the reader's.

mod ladder;
mod pread;
mod uring;

use std::fmt;
use std::io;
use std::time::Duration;

pub(crate) use ladder::{Limits, climb};

/// One read, as an engine sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRead {
    /// Comes back in the answer.
    pub(crate) token: u32,
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) target: *mut u8,
    /// Bytes, at most 1 GiB.
    pub(crate) length: u32,
    /// The target lies in the arena, which may be registered.
    pub(crate) in_arena: bool,
}

/// What became of one read: bytes, or an error number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) token: u32,
    pub(crate) result: Result<u32, i32>,
}

/// A backend. Dropping it without [`Engine::close`] is a bug of ours: reads could still
/// write to their targets.
pub(crate) trait Engine: Send {
    /// Takes a read on. Never blocks, never enters the kernel for long. The caller keeps
    /// no more reads under way than the queue depth that the engine was made for.
    ///
    /// # Safety
    ///
    /// `target` is valid for writes of `length` bytes, and nobody else touches them, until
    /// the read's answer has come or `close` has returned true. `file` is in the file set.
    unsafe fn queue(&mut self, read: RawRead);

    /// Starts all queued reads; waits until one answer is there or `timeout` is over, and
    /// appends the answers. An error means that the engine can't go on.
    fn wait(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<()>;

    /// How many reads to start before looking for answers.
    fn group(&self) -> usize;

    /// Ends all reads, waiting for those that can't be stopped. False where it could not:
    /// then the addresses of their targets must never be used again.
    fn close(&mut self) -> bool;
}

/// The rungs of the ladder, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// io_uring, `READ_FIXED` into registered slabs.
    UringFixed,
    /// io_uring, plain reads into the same slabs.
    UringPlain,
    /// Threads with `pread`.
    Pread,
}

/// What a reader stands on. `Display` gives one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineReport {
    /// The rung.
    pub backend: Backend,
    /// Whether files are registered with the ring, which spares a look-up a read.
    pub files_registered: bool,
    /// Whether reads bypass the page cache.
    pub direct: bool,
    /// What offsets and lengths are rounded out to, in bytes; 1 when buffered.
    pub align: u32,
    /// Why it is not a better rung, and why direct or buffered; may be empty.
    pub reasons: Vec<String>,
}

impl fmt::Display for EngineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.backend, self.files_registered) {
            (Backend::UringFixed, true) => "io_uring, registered buffers and files",
            (Backend::UringFixed, false) => "io_uring, registered buffers",
            (Backend::UringPlain, true) => "io_uring, registered files",
            (Backend::UringPlain, false) => "io_uring",
            (Backend::Pread, _) => "pread pool",
        })?;
        f.write_str(if self.direct {
            ", O_DIRECT"
        } else {
            ", buffered"
        })?;
        if !self.reasons.is_empty() {
            write!(f, " ({})", self.reasons.join("; "))?;
        }
        Ok(())
    }
}
