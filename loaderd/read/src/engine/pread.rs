//! Reads by a few threads that call `pread`, for kernels and containers without io_uring.
//!
//! Enters: reads. Leaves: answers, in the order in which they finish. Never: more threads
//! than `THREADS_MAX`, or a thread that outlives the engine.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Answer, Engine, RawRead};
use crate::ReadError;
use crate::files::FileSet;

/// A thread blocks for each read, so this is the depth that the disk sees.
const THREADS_MAX: usize = 16;

/// The pool. Threads share one queue of reads and one of answers.
pub(super) struct PreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    work_came: Condvar,
    answer_came: Condvar,
    descriptors: Vec<i32>,
    // Keeps the descriptors open.
    _files: Arc<FileSet>,
}

#[derive(Default)]
struct State {
    reads: VecDeque<RawRead>,
    answers: Vec<Answer>,
    closing: bool,
}

// SAFETY: the raw targets in it are exclusively the pool's from `queue` until their
// answers, by `queue`'s contract, so a thread of the pool may write to them.
unsafe impl Send for State {}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every statement, so a panic elsewhere can't spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does.
    fn run(&self) {
        let mut state = self.state();
        loop {
            if state.closing {
                return;
            }
            let Some(read) = state.reads.pop_front() else {
                let waited = self.work_came.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let answer = self.pread(&read);
            state = self.state();
            state.answers.push(answer);
            self.answer_came.notify_one();
        }
    }

    fn pread(&self, read: &RawRead) -> Answer {
        // SAFETY: the target is valid for `length` bytes and ours alone until the answer,
        // by `queue`'s contract.
        let got = unsafe {
            libc::pread(
                self.descriptors[read.file as usize],
                read.target.cast(),
                read.length as usize,
                read.offset as libc::off_t,
            )
        };
        let failed = || {
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)
        };
        Answer {
            token: read.token,
            result: u32::try_from(got).map_err(|_| failed()),
        }
    }
}

impl PreadPool {
    /// Starts at most `queue_depth` threads.
    pub(super) fn new(
        files: Arc<FileSet>,
        direct: bool,
        queue_depth: u32,
    ) -> Result<PreadPool, ReadError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work_came: Condvar::new(),
            answer_came: Condvar::new(),
            descriptors: files.raw_descriptors(direct),
            _files: files,
        });
        let mut pool = PreadPool {
            shared,
            threads: Vec::new(),
        };
        let count = (queue_depth as usize).min(THREADS_MAX);
        for index in 0..count {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name("loaderd-pread".into())
                .stack_size(64 << 10)
                .spawn(move || shared.run());
            match thread {
                Ok(thread) => pool.threads.push(thread),
                Err(source) => {
                    pool.close();
                    return Err(ReadError::Threads {
                        index,
                        count,
                        source,
                    });
                }
            }
        }
        Ok(pool)
    }
}

impl Engine for PreadPool {
    unsafe fn queue(&mut self, read: RawRead) {
        self.shared.state().reads.push_back(read);
        self.shared.work_came.notify_one();
    }

    fn wait(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<()> {
        let state = self.shared.state();
        let waited = self
            .shared
            .answer_came
            .wait_timeout_while(state, timeout, |state| state.answers.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        answers.append(&mut state.answers);
        Ok(())
    }

    fn group(&self) -> usize {
        usize::MAX
    }

    fn close(&mut self) -> bool {
        // Reads that no thread has begun are dropped; those under way are waited for.
        self.shared.state().closing = true;
        self.shared.work_came.notify_all();
        for thread in self.threads.drain(..) {
            // A thread has no code that panics; were it so, it would no longer read.
            thread.join().ok();
        }
        true
    }
}
