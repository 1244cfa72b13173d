//! Slots as pinned memory, which the GPU reads beside the program.
//!
//! Enters: a session's slots, and whether the user wants them pinned. Leaves: slots that are
//! registered with CUDA, and watched by the reaper from then on. It decides nothing before a
//! context is active in this process, and never makes one.

use std::process;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::cuda::{Context, CudaError};
use crate::lease::Slots;
use crate::reaper::Reaper;

/// What was decided about a session's slots, once.
pub(crate) enum Pinning {
    /// They stay as they are, and the user was told why.
    Refused,
    /// The GPU may read them while the program goes on.
    Watched {
        reaper: Arc<Reaper>,
        /// `None` where the GPU reads all memory like that, and pinning is not wanted.
        registered: Option<Registered>,
    },
}

/// Slots that are pinned, until this is dropped; in a forked child, which has no CUDA, they are
/// none of its business.
pub(crate) struct Registered {
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

/// Whether the slots are registered.
pub(crate) fn is_pinned(slots: &Slots) -> bool {
    matches!(
        slots.pinning.get(),
        Some(Pinning::Watched {
            registered: Some(_),
            ..
        })
    )
}

/// Decides as soon as a context is active; returns why they stay unpinned, the one time that it
/// finds so. Blocks as long as pinning takes.
pub(crate) fn pin(slots: &Slots, wanted: bool) -> Option<String> {
    if slots.pinning.get().is_some() {
        return None;
    }
    let reaper = Reaper::of_process()?;
    let contexts = reaper.contexts();
    let context = contexts.first()?;
    if !wanted && !contexts.iter().any(Context::reads_all_memory) {
        return None;
    }
    let mut said = None;
    slots
        .pinning
        .get_or_init(|| match decide(slots, wanted, &reaper, context) {
            Ok(registered) => Pinning::Watched { reaper, registered },
            Err(why) => {
                said = Some(format!("slots stay unpinned: {why}"));
                Pinning::Refused
            }
        });
    said
}

fn decide(
    slots: &Slots,
    wanted: bool,
    reaper: &Arc<Reaper>,
    context: &Context,
) -> Result<Option<Registered>, String> {
    if !reaper.can_watch() {
        return Err(
            "this driver can't say when the GPU has read them (it lacks cuCtxRecordEvent): install \
             NVIDIA's driver 555 or later"
                .into(),
        );
    }
    reaper
        .run()
        .map_err(|error| format!("no thread can be started: {error}"))?;
    if !wanted {
        return Ok(None);
    }
    let segment = &slots.segment;
    let bytes = segment.slot_bytes() * u64::from(segment.slot_count());
    let start = NonNull::new(segment.slot_ptr(0)).expect("the kernel maps nothing at 0");
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
