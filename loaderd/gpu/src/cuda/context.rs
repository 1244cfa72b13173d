//! A device's primary context, and what lives in it: streams, registered host memory.
//!
//! A context is current for one thread at a time and place: each call here that needs one
//! makes it current, and puts back what was there before.

use std::ffi::{c_int, c_ulonglong, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::Driver;
use super::api::{
    MEMHOSTREGISTER_DEVICEMAP, MEMHOSTREGISTER_PORTABLE, Opaque, STREAM_NON_BLOCKING,
};
use crate::error::GpuError;

/// A device's primary context; clones share it. The last one gives it back.
#[derive(Clone)]
pub struct Context {
    retained: Arc<Retained>,
}

struct Retained {
    driver: Arc<Driver>,
    device: c_int,
    raw: Opaque,
}

// SAFETY: the driver's functions may be called by any thread, and a context may be current for
// any thread ("CUDA Driver API", context management); `raw` is never followed by us.
unsafe impl Send for Retained {}
// SAFETY: as above; nothing here changes after it was made.
unsafe impl Sync for Retained {}

impl Drop for Retained {
    fn drop(&mut self) {
        // SAFETY: retained once, by `Context::retain`, and released once, here. An error leaves
        // the context until the process ends, and there is nobody to tell.
        unsafe { (self.driver.api.primary_ctx_release)(self.device) };
    }
}

impl Context {
    pub(super) fn retain(driver: Arc<Driver>, ordinal: u32) -> Result<Context, GpuError> {
        let (mut device, mut raw): (c_int, Opaque) = (0, std::ptr::null_mut());
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: `device` is a live int.
        driver.check("cuDeviceGet", unsafe {
            (driver.api.device_get)(&mut device, ordinal)
        })?;
        // SAFETY: `raw` is a live pointer; the driver has named `device`.
        driver.check("cuDevicePrimaryCtxRetain", unsafe {
            (driver.api.primary_ctx_retain)(&mut raw, device)
        })?;
        Ok(Context {
            retained: Arc::new(Retained {
                driver,
                device,
                raw,
            }),
        })
    }

    /// The driver below.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.retained.driver
    }

    pub(super) fn device(&self) -> c_int {
        self.retained.device
    }

    /// Makes the context current for this thread until the answer is dropped. Answers are to be
    /// dropped in reverse order, which is ours to see to.
    pub(crate) fn enter(&self) -> Result<Entered<'_>, GpuError> {
        let driver = self.driver();
        // SAFETY: the context is retained as long as `self`.
        driver.check("cuCtxPushCurrent", unsafe {
            (driver.api.ctx_push_current)(self.retained.raw)
        })?;
        Ok(Entered {
            driver,
            _of_this_thread: PhantomData,
        })
    }

    /// A stream that waits for no other.
    pub fn stream(&self) -> Result<Stream, GpuError> {
        let driver = self.driver();
        let _current = self.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a live pointer, and a context is current.
        driver.check("cuStreamCreate", unsafe {
            (driver.api.stream_create)(&mut raw, STREAM_NON_BLOCKING)
        })?;
        Ok(Stream {
            context: self.clone(),
            raw,
        })
    }

    /// Pins host memory, so that the device reads and writes it without a copy between. Takes
    /// time by its size (the driver touches each page).
    ///
    /// # Safety
    ///
    /// `[start, start + bytes)` is mapped, and stays so until the answer is dropped.
    pub unsafe fn register(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<Registered, GpuError> {
        let driver = self.driver();
        let _current = self.enter()?;
        // SAFETY: the caller says that the range is mapped; the driver refuses what it can't pin.
        driver.check("cuMemHostRegister", unsafe {
            (driver.api.mem_host_register)(
                start.as_ptr().cast::<c_void>(),
                bytes,
                MEMHOSTREGISTER_PORTABLE | MEMHOSTREGISTER_DEVICEMAP,
            )
        })?;
        Ok(Registered {
            context: self.clone(),
            start,
        })
    }
}

/// A context that is current for this thread.
#[must_use = "the context is current only until this is dropped"]
pub(crate) struct Entered<'a> {
    driver: &'a Driver,
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pushed by this thread, which this value has not left; `popped` is live.
        unsafe { (self.driver.api.ctx_pop_current)(&mut popped) };
    }
}

/// A queue of work on a device, in order. Dropped, it is destroyed when its work is done.
pub struct Stream {
    context: Context,
    raw: Opaque,
}

// SAFETY: streams may be used by any thread, and by several; `raw` is never followed by us.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Blocks until all work queued before is done. Its errors are those of that work.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        // SAFETY: the stream lives as long as `self`.
        driver.check("cuStreamSynchronize", unsafe {
            (driver.api.stream_synchronize)(self.raw)
        })
    }

    /// Its pointer, for work in `context`, which must be its own.
    pub(crate) fn raw_in(&self, context: &Context) -> Opaque {
        let own = self.context.retained.raw;
        assert_eq!(own, context.retained.raw, "a stream of another device");
        self.raw
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: made by `Context::stream`, and destroyed once, here.
            unsafe { (self.context.driver().api.stream_destroy)(self.raw) };
        }
    }
}

/// Host memory that is pinned until this is dropped, which must be before it is unmapped.
pub struct Registered {
    context: Context,
    start: NonNull<u8>,
}

// SAFETY: registrations belong to no thread; `start` is only handed back.
unsafe impl Send for Registered {}
// SAFETY: as above; nothing can be done through a shared reference.
unsafe impl Sync for Registered {}

impl Registered {
    /// The address that the device knows the memory's first byte by.
    pub fn device_address(&self) -> Result<u64, GpuError> {
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        let mut address: c_ulonglong = 0;
        // SAFETY: `address` is live, and the memory is registered; no flags are defined.
        driver.check("cuMemHostGetDevicePointer", unsafe {
            (driver.api.mem_host_get_device_pointer)(
                &mut address,
                self.start.as_ptr().cast::<c_void>(),
                0,
            )
        })?;
        Ok(address)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: registered by `Context::register`, and taken back once, here.
            unsafe {
                (self.context.driver().api.mem_host_unregister)(
                    self.start.as_ptr().cast::<c_void>(),
                )
            };
        }
    }
}
