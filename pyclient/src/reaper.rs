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
//! for a batch needs one. The program order makes it right: the copy was queued before the
//! tensor died, and the tensor died before the event was recorded.
//!
//! It never blocks who lets go of a tensor, and never waits for the GPU but on its own thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{io, mem, process, thread};

use crate::cuda::{Context, CudaError, Driver, Event};
use crate::lease::Remains;

/// The process's own, once a libcuda was found in it.
static REAPER: Mutex<Option<Arc<Reaper>>> = Mutex::new(None);

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
    runs: OnceLock<()>,
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
    events: Vec<Event>,
    remains: Vec<Remains>,
}

impl Reaper {
    /// This process's, where CUDA is loaded in it. Never blocks.
    pub(crate) fn of_process() -> Option<Arc<Reaper>> {
        // Whoever holds it is about to make what we want: the next look finds it.
        let mut known = REAPER.try_lock().ok()?;
        if let Some(reaper) = known.as_ref().filter(|reaper| reaper.is_ours()) {
            return Some(Arc::clone(reaper));
        }
        let reaper = Arc::new(Reaper {
            driver: Driver::loaded()?,
            pid: process::id(),
            contexts: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
            runs: OnceLock::new(),
        });
        // The parent's, with memory that is not a child's to unmap.
        mem::forget(known.replace(Arc::clone(&reaper)));
        Some(reaper)
    }

    /// As `of_process`, where that has found one: nothing is looked for.
    pub(crate) fn known() -> Option<Arc<Reaper>> {
        let known = REAPER.try_lock().ok()?;
        known.clone().filter(|reaper| reaper.is_ours())
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

    /// Starts the thread, unless it runs.
    pub(crate) fn run(self: &Arc<Reaper>) -> io::Result<()> {
        if self.runs.get().is_none() {
            let reaper = Arc::clone(self);
            let name = "loaderd-reaper".into();
            thread::Builder::new()
                .name(name)
                .spawn(move || reaper.give_back())?;
            // Two that start at once make two threads, which share the work.
            let _ = self.runs.set(());
        }
        Ok(())
    }

    /// Takes over a slot without tensors. Never blocks: nobody calls CUDA while holding the
    /// lock.
    pub(crate) fn take(&self, remains: Remains) {
        lock(&self.state).unfenced.push(remains);
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
            (state.said.take(), mem::take(&mut state.unfenced))
        };
        if remains.is_empty() {
            return said;
        }
        let recorded = self.record(streams);
        let mut state = lock(&self.state);
        match recorded {
            Ok(Some(events)) => {
                state.fenced.push_back(Fenced { events, remains });
                self.wake.notify_one();
                said
            }
            Ok(None) => {
                state.unfenced.extend(remains);
                said
            }
            Err(error) => {
                state.unfenced.extend(remains);
                let disturbed = error.disturbed_capture().then(|| {
                    format!(
                        "{error}: a CUDA graph was captured in one thread while another asked for \
                         a batch: ask for none meanwhile, or take pin_memory=False"
                    )
                });
                said.or(disturbed)
            }
        }
    }

    /// An event per context that still works; `None` while a capture is under way. An error is
    /// one that passes.
    fn record(&self, streams: &[u64]) -> Result<Option<Vec<Event>>, CudaError> {
        let contexts = self.contexts();
        if contexts.iter().any(|context| context.is_capturing(streams)) {
            return Ok(None);
        }
        let _relaxed = self.driver.relax();
        let mut events = Vec::with_capacity(contexts.len());
        for context in &contexts {
            match context.record() {
                Ok(event) => events.push(event),
                Err(error) if error.passes() => return Err(error),
                Err(error) => self.gave_up(&error),
            }
        }
        Ok(Some(events))
    }

    /// The thread: waits for events, and gives back what was behind them.
    fn give_back(&self) {
        let _relaxed = self.driver.relax();
        loop {
            let Fenced { events, remains } = self.next();
            for event in events {
                if let Err(error) = event.wait() {
                    self.gave_up(&error);
                }
            }
            for remains in remains {
                remains.give_back_reaped();
            }
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

/// Nothing here is left half-changed by a panic, so a poisoned lock is a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
