//! Reads through one io_uring.
//!
//! Enters: reads into the arena or one-off memory. Leaves: answers from the completion
//! queue. Never: spins, polls, or needs a kernel thread: the kernel is entered once for
//! a group of submissions and the wait for their completions.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{Builder, EnterFlags, IoUring, cqueue, opcode, squeue};

use super::{Answer, Engine, RawRead};
use crate::files::FileSet;
use crate::memory::Pool;

/// The longest that a wait which the kernel cut short pauses before it asks again.
const PAUSE: Duration = Duration::from_millis(1);

/// Reads that a buffered ring starts at a time. Cached pages are copied while the
/// kernel takes the reads on, so the fewer at a time, the fewer slabs are in use, and
/// these stay in the CPU's caches.
const GROUP_BUFFERED: usize = 8;

/// A ring with its files and, where the kernel allowed it, its buffers registered.
pub(super) struct Uring {
    ring: IoUring,
    descriptors: Vec<i32>,
    files_registered: bool,
    arena_registered: bool,
    direct: bool,
    // The ring starts disabled where the kernel binds it to one thread, so that this is
    // the thread that reads, not the one that made the reader.
    enabled: bool,
    // Taken by the kernel and not yet answered.
    under_way: usize,
    // What the descriptors and registered memory belong to; last, so dropped after the
    // ring.
    _files: Arc<FileSet>,
    _pool: Arc<Pool>,
}

impl Uring {
    /// Sets up a ring for `queue_depth` reads at a time. An error means that there is no
    /// usable io_uring here.
    pub(super) fn new(
        files: Arc<FileSet>,
        pool: Arc<Pool>,
        direct: bool,
        queue_depth: u32,
    ) -> io::Result<Uring> {
        let (ring, enabled) = build(queue_depth)?;
        if !ring.params().is_feature_ext_arg() {
            let message = "it can't wait with a timeout before Linux 5.11";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        Ok(Uring {
            ring,
            descriptors: files.raw_descriptors(direct),
            files_registered: false,
            arena_registered: false,
            direct,
            enabled,
            under_way: 0,
            _files: files,
            _pool: pool,
        })
    }

    /// Registers the file set's descriptors, which spares each read a look-up.
    pub(super) fn register_files(&mut self) -> io::Result<()> {
        if self.descriptors.is_empty() {
            return Ok(());
        }
        self.ring.submitter().register_files(&self.descriptors)?;
        self.files_registered = true;
        Ok(())
    }

    /// Registers the arena, which pins its pages once instead of at each read.
    pub(super) fn register_arena(&mut self) -> io::Result<()> {
        let arena = self._pool.arena();
        // SAFETY: the arena stays mapped while `_pool` holds it, which is longer than the
        // ring lives.
        unsafe { self.ring.submitter().register_buffers(&[arena]) }?;
        self.arena_registered = true;
        Ok(())
    }

    fn entry(&self, read: &RawRead) -> squeue::Entry {
        let RawRead {
            offset,
            target,
            length,
            ..
        } = *read;
        let fixed = Fixed(read.file);
        let plain = Fd(self.descriptors[read.file as usize]);
        let entry = match (
            self.arena_registered && read.in_arena,
            self.files_registered,
        ) {
            (true, true) => opcode::ReadFixed::new(fixed, target, length, 0)
                .offset(offset)
                .build(),
            (true, false) => opcode::ReadFixed::new(plain, target, length, 0)
                .offset(offset)
                .build(),
            (false, true) => opcode::Read::new(fixed, target, length)
                .offset(offset)
                .build(),
            (false, false) => opcode::Read::new(plain, target, length)
                .offset(offset)
                .build(),
        };
        entry.user_data(read.token.into())
    }

    /// Hands `submit` queued reads to the kernel, and waits for an answer if `timeout` is
    /// not zero. Interruptions and timeouts are no errors.
    fn enter(&mut self, submit: usize, timeout: Duration) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        // Always GETEVENTS: a ring with deferred work completes nothing without it.
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let want = u32::from(!timeout.is_zero());
        // SAFETY: `args` is what EXT_ARG announces, and lives across the call with the
        // timespec it points to. Queued entries name memory that `queue`'s caller keeps
        // valid until their answers.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter(submit as u32, want, flags.bits(), Some(&args))
        };
        match entered {
            Ok(submitted) => self.under_way += submitted,
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => {}
                // Short of memory, or completions to be fetched first: ask again.
                Some(libc::EAGAIN | libc::EBUSY) => std::thread::sleep(PAUSE.min(timeout)),
                _ => return Err(error),
            },
        }
        Ok(())
    }

    fn reap(&mut self, answers: &mut Vec<Answer>) {
        let before = answers.len();
        answers.extend(self.ring.completion().map(|entry: cqueue::Entry| Answer {
            token: entry.user_data() as u32,
            result: u32::try_from(entry.result()).map_err(|_| -entry.result()),
        }));
        self.under_way -= answers.len() - before;
    }
}

impl Engine for Uring {
    unsafe fn queue(&mut self, read: RawRead) {
        let entry = self.entry(&read);
        // SAFETY: this function's own contract covers the entry's memory.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "more reads queued than the queue depth");
    }

    fn wait(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let before = answers.len();
        let mut left = timeout;
        loop {
            let queued = self.ring.submission().len();
            self.enter(queued, left)?;
            self.reap(answers);
            left = deadline.saturating_duration_since(Instant::now());
            if answers.len() > before || left.is_zero() {
                return Ok(());
            }
        }
    }

    fn group(&self) -> usize {
        if self.direct {
            usize::MAX
        } else {
            GROUP_BUFFERED
        }
    }

    fn close(&mut self) -> bool {
        // What was queued and never submitted, the kernel has not seen and never will.
        let mut answers = Vec::new();
        while self.under_way > 0 {
            if self.enter(0, Duration::from_secs(1)).is_err() {
                return false;
            }
            self.reap(&mut answers);
            answers.clear();
        }
        true
    }
}

/// Builds the ring with the best set-up flags that the kernel knows. The second value
/// is false where the ring must be enabled before its first use.
fn build(queue_depth: u32) -> io::Result<(IoUring, bool)> {
    // Completions run when this thread asks for them, instead of interrupting it, and no
    // lock is needed for a ring that one thread uses (Linux 6.1).
    let mut one_thread: Builder = IoUring::builder();
    (one_thread.setup_single_issuer())
        .setup_defer_taskrun()
        .setup_r_disabled();
    // Completions wait for the next system call instead of interrupting (Linux 5.19).
    let mut cooperative: Builder = IoUring::builder();
    cooperative.setup_coop_taskrun();
    let rungs = [
        (one_thread, false),
        (cooperative, true),
        (IoUring::builder(), true),
    ];
    let mut last = None;
    for (mut builder, enabled) in rungs {
        match builder.dontfork().build(queue_depth) {
            Ok(ring) => return Ok((ring, enabled)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}
