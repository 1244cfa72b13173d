//! Slots whose tensors are gone, until the GPU has read them.
//!
//! Enters: what is left of batches, at any time and on any thread. Leaves: slots given back,
//! once all work is done that the GPU had been given by then. PyTorch records no event for
//! pinned memory that it did not allocate, so after `x.cuda(non_blocking=True); del x` the copy
//! may still be to come.
//!
//! The event is recorded by the next thread that asks for a batch, before it waits for one, and
//! neither when the tensor dies nor by the reaper's own thread: cuCtxRecordEvent (and
//! cuCtxSynchronize) breaks any capture of a CUDA graph that is under way in its context, and
//! the driver tells of single streams only whether they capture. The thread that asks for a
//! batch can say of its own stream that it does not. No slot is missed before: only who asks
//! for a batch needs one; a bell ends the wait of one who has asked already. The program order
//! makes it right: the copy was queued before the tensor died, and the tensor died before the
//! event was recorded.
//!
//! Slots whose tensors die after anybody asked for the last batch stay here with their memory:
//! who could fence them safely never comes.
//!
//! It never blocks who lets go of a tensor, and never waits for the GPU but on its own thread,
//! save a tenth of a second at most before slots are pinned.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, process, ptr, thread};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::cuda::{Context, CudaError, Driver, Event};
use crate::lease::Remains;

/// The process's own, once a libcuda was found in it. What it points to is never freed. No
/// lock, which a forked child might inherit locked. Publishes the reaper to who loads it:
/// release and acquire.
static REAPER: AtomicPtr<Reaper> = AtomicPtr::new(ptr::null_mut());

/// How long to wait for the event that is recorded to try it out. One that is still to come
/// then is in order, behind work that takes longer.
const TRIAL: Duration = Duration::from_millis(100);
/// Between two attempts while something is in the way that passes.
const RETRY: Duration = Duration::from_millis(100);

/// One per process, with a thread that waits for events. Both stay.
pub(crate) struct Reaper {
    driver: Arc<Driver>,
    /// A forked child has a copy without the thread, which it leaves alone.
    pid: u32,
    /// Primary contexts that were ever found active.
    contexts: Mutex<Vec<Context>>,
    state: Mutex<State>,
    /// Something was fenced.
    wake: Condvar,
    /// Rings (an eventfd that can be read) from when a slot was taken over until the next fence;
    /// there once the thread runs. Rung and silenced under the lock of `state`.
    bell: OnceLock<OwnedFd>,
}

/// Bounded by the slots of all sessions, each of which is here at most once.
#[derive(Default)]
struct State {
    /// No event was recorded after them.
    unfenced: Vec<Remains>,
    /// In the order of recording.
    fenced: VecDeque<Fenced>,
    /// What the user should know and was not told.
    said: Option<String>,
    /// A broken context stays broken: it is said once.
    has_said: bool,
}

struct Fenced {
    /// One per context.
    marks: Vec<Mark>,
    remains: Vec<Remains>,
}

/// What to wait for in a context.
enum Mark {
    Event(Event),
    /// All its work: no event could be recorded, although it may go on.
    Context(Context),
}

impl Reaper {
    /// This process's, where CUDA is loaded in it. Never blocks.
    pub(crate) fn of_process() -> Option<&'static Reaper> {
        let before = REAPER.load(Ordering::Acquire);
        if let Some(reaper) = Reaper::known() {
            return Some(reaper);
        }
        let made = Box::into_raw(Box::new(Reaper {
            driver: Driver::loaded()?,
            pid: process::id(),
            contexts: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
            bell: OnceLock::new(),
        }));
        // What was there is the parent's, with memory that is not a child's to unmap. Where
        // another thread comes first, its reaper counts, and ours is a few bytes for good.
        let _ = REAPER.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire);
        Reaper::known()
    }

    /// As `of_process`, where that has found one: nothing is looked for.
    pub(crate) fn known() -> Option<&'static Reaper> {
        // SAFETY: null, or made from a box by `of_process` and never freed.
        let known = unsafe { REAPER.load(Ordering::Acquire).as_ref() };
        known.filter(|reaper| reaper.is_ours())
    }

    fn is_ours(&self) -> bool {
        self.pid == process::id()
    }

    /// Whether this driver can tell when a context's work is done.
    pub(crate) fn can_watch(&self) -> bool {
        self.driver.records_contexts()
    }

    /// The primary contexts that are active now.
    pub(crate) fn contexts(&self) -> Vec<Context> {
        let active = self.driver.active_devices();
        let mut known = lock(&self.contexts);
        for &device in &active {
            if known.iter().all(|context| context.device != device) {
                known.extend(Context::of(&self.driver, device));
            }
        }
        let is_active = |context: &&Context| active.contains(&context.device);
        known.iter().filter(is_active).cloned().collect()
    }

    /// Finds out whether events can be recorded in all `contexts`, and waited for; `false` while
    /// one of `streams` is being captured. Blocks for at most about [`TRIAL`].
    pub(crate) fn try_out(&self, contexts: &[Context], streams: &[u64]) -> Result<bool, CudaError> {
        if contexts.iter().any(|context| context.is_capturing(streams)) {
            return Ok(false);
        }
        let _relaxed = self.driver.relax();
        let events = contexts.iter().map(Context::record);
        let events = events.collect::<Result<Vec<Event>, CudaError>>()?;
        let started = Instant::now();
        for event in events {
            let mut has_come = event.has_come()?;
            while !has_come && started.elapsed() < TRIAL {
                thread::sleep(Duration::from_micros(200));
                has_come = event.has_come()?;
            }
            if has_come {
                event.wait()?;
            }
        }
        Ok(true)
    }

    /// Starts the thread, unless it runs.
    pub(crate) fn run(&'static self) -> io::Result<()> {
        if self.bell.get().is_none() {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let name = "loaderd-reaper".into();
            thread::Builder::new()
                .name(name)
                .spawn(|| self.give_back())?;
            // Two that start at once make two threads, which share the work.
            let _ = self.bell.set(bell);
        }
        Ok(())
    }

    /// Takes over a slot without tensors. Never blocks: nobody calls CUDA while holding the
    /// lock.
    pub(crate) fn take(&self, remains: Remains) {
        let mut state = lock(&self.state);
        state.unfenced.push(remains);
        if let (1, Some(bell)) = (state.unfenced.len(), self.bell.get()) {
            // Full only after 2^64 - 2 rings.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Waits until `other` can be read, or a slot was taken over, or for `timeout`; whether one
    /// was taken over that nobody has tried to fence yet.
    pub(crate) fn wait_beside(&self, other: BorrowedFd<'_>, timeout: Duration) -> bool {
        let bell = self
            .bell
            .get()
            .expect("it runs since before slots are watched");
        let mut both = [
            PollFd::from_borrowed_fd(other, PollFlags::IN),
            PollFd::new(bell, PollFlags::IN),
        ];
        // A time beyond the kernel's range is as good as for ever. A signal ends the wait early,
        // and the caller looks again.
        let timeout = Timespec::try_from(timeout).ok();
        poll(&mut both, timeout.as_ref()).is_ok() && both[1].revents().contains(PollFlags::IN)
    }

    /// Slots that were taken over, and no event recorded behind them.
    pub(crate) fn unfenced(&self) -> usize {
        lock(&self.state).unfenced.len()
    }

    /// Records events behind the work of all contexts, for the slots that were taken over by
    /// now; nothing where there are none, or where a capture is known to be under way. Returns
    /// what the user should know. Takes some microseconds a context.
    pub(crate) fn fence(&self, streams: &[u64]) -> Option<String> {
        let (said, remains) = {
            let mut state = lock(&self.state);
            if let Some(bell) = self.bell.get() {
                // Nothing to read where it does not ring.
                let _ = rustix::io::read(bell, &mut [0u8; 8]);
            }
            (state.said.take(), mem::take(&mut state.unfenced))
        };
        if remains.is_empty() {
            return said;
        }
        let recorded = self.record(streams);
        let mut state = lock(&self.state);
        match recorded {
            Ok(Some(marks)) => {
                state.fenced.push_back(Fenced { marks, remains });
                self.wake.notify_one();
                said
            }
            Ok(None) => {
                state.unfenced.extend(remains);
                said
            }
            Err(error) => {
                state.unfenced.extend(remains);
                said.or_else(|| error.disturbed_capture().then(|| disturbed(&error)))
            }
        }
    }

    /// What to wait for in each context that still works; `None` while a capture is under way.
    /// An error is one that passes.
    fn record(&self, streams: &[u64]) -> Result<Option<Vec<Mark>>, CudaError> {
        let contexts = self.contexts();
        if contexts.iter().any(|context| context.is_capturing(streams)) {
            return Ok(None);
        }
        let _relaxed = self.driver.relax();
        let mut marks = Vec::with_capacity(contexts.len());
        for context in contexts {
            match context.record() {
                Ok(event) => marks.push(Mark::Event(event)),
                Err(error) if error.passes() => return Err(error),
                Err(error) if error.is_sticky() => self.gave_up(&error),
                Err(_) => marks.push(Mark::Context(context)),
            }
        }
        Ok(Some(marks))
    }

    /// The thread: waits for events, and gives back what was behind them.
    fn give_back(&self) {
        let _relaxed = self.driver.relax();
        loop {
            let Fenced { marks, remains } = self.next();
            for mark in marks {
                self.wait_for(mark);
            }
            for remains in remains {
                remains.give_back_reaped();
            }
        }
    }

    /// Until the work behind a mark is done, or the context of no use.
    fn wait_for(&self, mark: Mark) {
        let context = match &mark {
            Mark::Context(context) => context,
            Mark::Event(event) => match event.wait() {
                Ok(()) => return,
                Err(error) if error.is_sticky() => return self.gave_up(&error),
                Err(_) => &event.context,
            },
        };
        // The last word on a context.
        while let Err(error) = context.synchronize() {
            if !error.passes() {
                return self.gave_up(&error);
            }
            thread::sleep(RETRY);
        }
    }

    fn next(&self) -> Fenced {
        let mut state = lock(&self.state);
        loop {
            if let Some(fenced) = state.fenced.pop_front() {
                return fenced;
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The driver no longer runs a context's work, so there is none to wait for.
    fn gave_up(&self, error: &CudaError) {
        let mut state = lock(&self.state);
        if !mem::replace(&mut state.has_said, true) {
            state.said = Some(format!(
                "the GPU gave up ({error}): slots go back without waiting for it"
            ));
        }
    }
}

/// What the user should know when a capture was open that we were not told of.
pub(crate) fn disturbed(error: &CudaError) -> String {
    format!(
        "{error}: a CUDA graph was being captured while a batch was asked for, on a stream other \
         than the caller's, and that capture is lost: ask for no batch in any thread meanwhile, or \
         take pin_memory=False"
    )
}

/// Nothing here is left half-changed by a panic, so a poisoned lock is a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
