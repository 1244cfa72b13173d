//! Slots as pinned memory, which the GPU reads beside the program.
//!
//! Enters: a session's slots, and whether the user wants them pinned. Leaves: slots that are
//! registered with CUDA, and watched by the reaper from just before then on. It decides nothing
//! before a context is active in this process, and never makes one.

use std::process;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::cuda::{Context, CudaError};
use crate::lease::Slots;
use crate::reaper::{Reaper, disturbed};

const UNPINNED: &str = "slots stay unpinned";
const UNWATCHED: &str = "this driver can't say when the GPU has read them";

/// What was decided about a session's slots.
#[derive(Default)]
pub(crate) struct Pinning {
    /// Who gets slots without tensors. Known before the slots are registered: from then on the
    /// GPU may read a slot whose tensor another thread drops.
    reaper: OnceLock<&'static Reaper>,
    /// Empty as long as nothing is decided.
    outcome: OnceLock<Outcome>,
    /// Held by who decides.
    deciding: Mutex<()>,
}

enum Outcome {
    /// They stay as they are, and this is why.
    Refused(String),
    /// The GPU may read them while the program goes on.
    Watched {
        /// `None` where the GPU reads all memory like that, and pinning is not wanted.
        registered: Option<Registered>,
    },
}

impl Pinning {
    /// Whether all was decided that ever will be.
    pub(crate) fn is_decided(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Why the slots stay unpinned.
    pub(crate) fn refused(&self) -> Option<String> {
        match self.outcome.get() {
            Some(Outcome::Refused(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// Whether the slots are registered.
    pub(crate) fn is_pinned(&self) -> bool {
        let registered = |outcome: &Outcome| match outcome {
            Outcome::Watched { registered } => registered.is_some(),
            Outcome::Refused(_) => false,
        };
        self.outcome.get().is_some_and(registered)
    }

    /// Who gets slots without tensors; `None` where the GPU reads none beside the program.
    pub(crate) fn reaper(&self) -> Option<&'static Reaper> {
        let refused = matches!(self.outcome.get(), Some(Outcome::Refused(_)));
        self.reaper.get().copied().filter(|_| !refused)
    }
}

/// Slots that are pinned, until this is dropped; in a forked child, which has no CUDA, they are
/// none of its business.
struct Registered {
    context: Context,
    start: NonNull<u8>,
    pid: u32,
}

// SAFETY: registrations belong to no thread; `start` is only handed back.
unsafe impl Send for Registered {}
// SAFETY: as above; nothing can be done through a shared reference.
unsafe impl Sync for Registered {}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.pid == process::id() {
            self.context.unregister(self.start);
        }
    }
}

/// Where slots would be pinned now.
pub(crate) struct Place {
    reaper: &'static Reaper,
    /// The active ones, at least one.
    contexts: Vec<Context>,
}

/// `None` as long as there is nothing to decide.
pub(crate) fn place(wanted: bool) -> Option<Place> {
    let reaper = Reaper::of_process()?;
    let contexts = reaper.contexts();
    let is_due = if wanted {
        !contexts.is_empty()
    } else {
        contexts.iter().any(Context::reads_all_memory)
    };
    is_due.then_some(Place { reaper, contexts })
}

/// Decides, unless one of `streams` is being captured. Returns why they stay unpinned. Blocks as
/// long as pinning takes.
pub(crate) fn pin(slots: &Slots, place: &Place, wanted: bool, streams: &[u64]) -> Option<String> {
    let pinning = &slots.pinning;
    let deciding = pinning.deciding.lock();
    let _deciding = deciding.unwrap_or_else(PoisonError::into_inner);
    if pinning.is_decided() {
        return pinning.refused();
    }
    let Place { reaper, contexts } = place;
    let tried = reaper
        .can_watch()
        .then(|| reaper.try_out(contexts, streams));
    let outcome = match tried {
        None => Err(format!(
            "{UNWATCHED} (it lacks cuCtxRecordEvent): install NVIDIA's driver 555 or later"
        )),
        Some(Ok(false)) => return None,
        // Not for ever: the next look tries again.
        Some(Err(error)) if error.disturbed_capture() => {
            return Some(format!("{UNPINNED}: {}", disturbed(&error)));
        }
        Some(Err(error)) => Err(format!("{UNWATCHED} ({error}): restart the process")),
        Some(Ok(true)) => register(slots, reaper, &contexts[0], wanted),
    };
    let outcome = match outcome {
        Ok(registered) => Outcome::Watched { registered },
        Err(why) => Outcome::Refused(format!("{UNPINNED}: {why}")),
    };
    // Empty, as `deciding` is held.
    let _ = pinning.outcome.set(outcome);
    pinning.refused()
}

/// Has the slots watched, then pins them.
fn register(
    slots: &Slots,
    reaper: &'static Reaper,
    context: &Context,
    wanted: bool,
) -> Result<Option<Registered>, String> {
    reaper
        .run()
        .map_err(|error| format!("no thread can be started: {error}"))?;
    let _ = slots.pinning.reaper.set(reaper);
    if !wanted {
        return Ok(None);
    }
    let segment = &slots.segment;
    let bytes = segment.slot_bytes() * u64::from(segment.slot_count());
    let start = NonNull::new(segment.slot_ptr(0)).expect("the kernel maps nothing at 0");
    // In one go, however long it takes: between two pieces another thread may begin to copy from the
    // first, which a refusal of the second, or Ctrl-C, would then have to unpin under the GPU.
    // SAFETY: the segment is mapped, and dropped after the registration: see `Slots`.
    unsafe { context.register(start, bytes as usize) }.map_err(|error| refused(&error))?;
    Ok(Some(Registered {
        context: context.clone(),
        start,
        pid: process::id(),
    }))
}

fn refused(error: &CudaError) -> String {
    format!(
        "{error}: free some memory; a container or virtual machine may forbid its driver to pin \
         memory. Copies to the GPU take longer, and go through the driver's own memory"
    )
}
