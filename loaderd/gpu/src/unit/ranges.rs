//! Registered host memory: where the device has it, and how many pictures are on their way there.
//!
//! Enters: what was pinned, addresses. Leaves: the device's addresses for them. Never: an address
//! outside of what was registered, memory let go that the device may still write to.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::lane::Shared;
use super::queue::lock;
use crate::cuda;
use crate::error::GpuError;

/// How often it is asked whether the device answers still.
const NAP: Duration = Duration::from_millis(100);

/// All ranges of a unit.
#[derive(Default)]
pub(super) struct Ranges {
    list: Mutex<Vec<Range>>,
    /// Told when a range has no picture any more.
    idle: Condvar,
}

struct Range {
    start: usize,
    bytes: usize,
    device: u64,
    /// Pictures on their way there.
    busy: usize,
}

/// A finished image's place, which keeps its range.
pub(super) struct Place {
    pub(super) device: u64,
    /// Where its range starts: no two overlap, because the driver registers no page twice.
    start: usize,
}

impl Place {
    /// Where its range starts.
    pub(super) fn range(&self) -> usize {
        self.start
    }
}

/// Registered memory. Dropped, it waits until no picture is on its way there, and lets it go: so
/// never drop it in a picture's `done` while others of the same memory have yet to come. Where the
/// device does not answer, it stays registered for ever.
pub struct Registered {
    /// Let go after `drop` has waited.
    pinned: ManuallyDrop<cuda::Registered>,
    shared: Arc<Shared>,
    start: usize,
}

impl Ranges {
    /// The place of `bytes` bytes from `out` on. None where not all of them are registered.
    pub(super) fn take(&self, out: NonNull<u8>, bytes: u64) -> Option<Place> {
        let out = out.as_ptr() as usize;
        let mut list = lock(&self.list);
        let range = (list.iter_mut())
            .find(|range| out >= range.start && out - range.start < range.bytes)?;
        let from = out - range.start;
        if bytes > (range.bytes - from) as u64 {
            return None;
        }
        range.busy += 1;
        Some(Place {
            device: range.device + from as u64,
            start: range.start,
        })
    }

    /// Nothing is on its way there any more.
    pub(super) fn leave(&self, place: Place) {
        let mut list = lock(&self.list);
        let range = list.iter_mut().find(|range| range.start == place.start);
        let range = range.expect("a range stays until its pictures have left");
        range.busy -= 1;
        if range.busy == 0 {
            self.idle.notify_all();
        }
    }
}

impl Registered {
    pub(super) fn new(
        shared: &Arc<Shared>,
        pinned: cuda::Registered,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<Registered, GpuError> {
        let start = start.as_ptr() as usize;
        let device = pinned.device_address()?;
        lock(&shared.ranges.list).push(Range {
            start,
            bytes,
            device,
            busy: 0,
        });
        Ok(Registered {
            pinned: ManuallyDrop::new(pinned),
            shared: shared.clone(),
            start,
        })
    }

    /// Waits until nothing is on its way there, and forgets the range; false where the device does
    /// not answer.
    fn is_idle(&self) -> bool {
        let ranges = &self.shared.ranges;
        let mut is_silent = false;
        loop {
            let mut list = lock(&ranges.list);
            let index = list.iter().position(|range| range.start == self.start);
            let index = index.expect("taken out once, here");
            if list[index].busy == 0 {
                list.swap_remove(index);
                return true;
            }
            if is_silent {
                return false;
            }
            // Pictures that are given back leave, for which they need the list.
            drop(ranges.idle.wait_timeout(list, NAP));
            is_silent = self.shared.is_silent();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.is_idle() {
            // SAFETY: dropped once, here, and looked at by nobody after that.
            unsafe { ManuallyDrop::drop(&mut self.pinned) };
        }
    }
}
