//! Memory of a device, to decode into and to look at what was written.

use std::ffi::{c_ulonglong, c_void};

use super::{Context, Pinned, Stream};
use crate::error::GpuError;

/// Memory of a device. Dropped, it is freed: the driver "may" wait for work under way (cuda.h), so
/// whoever queued some waits before.
pub struct DeviceMemory {
    context: Context,
    address: c_ulonglong,
    bytes: usize,
}

impl Context {
    /// Allocates memory of the device, aligned to 256 bytes at least. Its contents are
    /// whatever was there.
    pub fn allocate(&self, bytes: usize) -> Result<DeviceMemory, GpuError> {
        let driver = self.driver();
        let _current = self.enter()?;
        let mut address = 0;
        // SAFETY: `address` is a live CUdeviceptr.
        driver.check("cuMemAlloc", unsafe {
            (driver.api.mem_alloc)(&mut address, bytes)
        })?;
        Ok(DeviceMemory {
            context: self.clone(),
            address,
            bytes,
        })
    }
}

impl DeviceMemory {
    /// Where it begins, for the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues setting every byte to `value`.
    ///
    /// # Safety
    ///
    /// Until `stream` is done, this is not dropped.
    pub unsafe fn fill(&mut self, value: u8, stream: &Stream) -> Result<(), GpuError> {
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        // SAFETY: the range is this allocation's, and the caller answers for the time.
        driver.check("cuMemsetD8Async", unsafe {
            (driver.api.memset_d8_async)(
                self.address,
                value,
                self.bytes,
                stream.raw_in(&self.context),
            )
        })
    }

    /// Queues a copy of `len` bytes of `source`, from byte 0 on, to the beginning of this.
    ///
    /// # Safety
    ///
    /// Until `stream` is done, nobody looks at or frees `source`, and this is not dropped.
    pub unsafe fn copy_from(
        &mut self,
        source: &Pinned,
        len: usize,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        assert!(len <= self.bytes, "beyond the end");
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        // SAFETY: both ranges are in bounds; the caller answers for the time.
        driver.check("cuMemcpyHtoDAsync", unsafe {
            (driver.api.memcpy_htod_async)(
                self.address,
                source.address(0, len).as_ptr().cast::<c_void>(),
                len,
                stream.raw_in(&self.context),
            )
        })
    }

    /// Queues a copy of the `len` bytes from byte `from` on, to the same place in `target`.
    ///
    /// # Safety
    ///
    /// Until `stream` is done, nobody looks at or frees `target`, and this is not dropped.
    pub unsafe fn copy_to(
        &self,
        target: &mut Pinned,
        from: usize,
        len: usize,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let end = from.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.bytes), "beyond the end");
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        // SAFETY: as above.
        driver.check("cuMemcpyDtoHAsync", unsafe {
            (driver.api.memcpy_dtoh_async)(
                target.address(from, len).as_ptr().cast::<c_void>(),
                self.address + from as c_ulonglong,
                len,
                stream.raw_in(&self.context),
            )
        })
    }

    /// Copies what begins at byte `from` to `out`, after what was queued on `stream` before.
    /// Blocks until both are done.
    pub fn read(&self, from: usize, out: &mut [u8], stream: &Stream) -> Result<(), GpuError> {
        let end = from.checked_add(out.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "beyond the end");
        let driver = self.context.driver();
        let _current = self.context.enter()?;
        // SAFETY: both ranges are as long as `out`, and in bounds; `out` is borrowed until the
        // stream is done, below.
        let queued = driver.check("cuMemcpyDtoHAsync", unsafe {
            (driver.api.memcpy_dtoh_async)(
                out.as_mut_ptr().cast::<c_void>(),
                self.address + from as c_ulonglong,
                out.len(),
                stream.raw_in(&self.context),
            )
        });
        queued.and(stream.synchronize())
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: allocated by `Context::allocate`, and freed once, here.
            unsafe { (self.context.driver().api.mem_free)(self.address) };
        }
    }
}
