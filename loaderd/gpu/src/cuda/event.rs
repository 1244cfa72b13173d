//! A place in a stream that the host can wait for, without keeping a core busy.

use super::api::{EVENT_BLOCKING_SYNC, EVENT_DISABLE_TIMING, Opaque};
use super::{Context, Stream};
use crate::error::GpuError;

/// A mark that is set in a stream, and waited for. One is used again and again.
pub struct Event {
    context: Context,
    raw: Opaque,
}

// SAFETY: events belong to no thread; `raw` is never followed by us.
unsafe impl Send for Event {}

impl Context {
    /// An event whose waiters sleep.
    pub fn event(&self) -> Result<Event, GpuError> {
        let driver = self.driver();
        let _current = self.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a live pointer, and a context is current.
        driver.check("cuEventCreate", unsafe {
            (driver.api.event_create)(&mut raw, EVENT_BLOCKING_SYNC | EVENT_DISABLE_TIMING)
        })?;
        Ok(Event {
            context: self.clone(),
            raw,
        })
    }
}

impl Event {
    /// Blocks until all that was queued on `stream` before is done, asleep. Errors are those of
    /// that work, or of any work in the context before.
    pub fn wait_for(&mut self, stream: &Stream) -> Result<(), GpuError> {
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        // SAFETY: both live as long as their owners, and are of one context.
        driver.check("cuEventRecord", unsafe {
            (driver.api.event_record)(self.raw, stream.raw_in(&self.context))
        })?;
        // SAFETY: as above.
        driver.check("cuEventSynchronize", unsafe {
            (driver.api.event_synchronize)(self.raw)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: made by `Context::event`, and destroyed once, here.
            unsafe { (self.context.driver().api.event_destroy)(self.raw) };
        }
    }
}
