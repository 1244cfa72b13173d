//! Trials of what loaderd needs of a device, done as a session would and undone at once.

use std::ffi::{c_int, c_ulonglong, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::Context;
use super::api::{AllocationProperties, GRANULARITY_MINIMUM, HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
use crate::error::GpuError;

impl Context {
    /// Pins shared memory of `bytes` bytes (in a memfd, as slots are), and lets it go. Blocks
    /// as long as that takes.
    pub fn try_registration(&self, bytes: usize) -> Result<(), GpuError> {
        let mapped = Mapped::new(bytes)?;
        // SAFETY: `mapped` is unmapped after the registration has been dropped, here below.
        let registered = unsafe { self.register(mapped.start, bytes) }?;
        drop(registered);
        drop(mapped);
        Ok(())
    }

    /// Allocates the least amount of device memory that can be shared with other processes,
    /// exports it as a file descriptor, and frees both. Returns that amount in bytes.
    pub fn try_export(&self) -> Result<usize, GpuError> {
        let driver = self.driver();
        let properties = AllocationProperties::exportable(self.device());
        let _current = self.enter()?;
        let (mut bytes, mut handle): (usize, c_ulonglong) = (0, 0);
        // SAFETY: `bytes` is a live size_t, and `properties` a live struct of cuda.h's layout.
        driver.check("cuMemGetAllocationGranularity", unsafe {
            (driver.api.mem_get_allocation_granularity)(
                &mut bytes,
                &properties,
                GRANULARITY_MINIMUM,
            )
        })?;
        // SAFETY: as above; no flags are defined.
        driver.check("cuMemCreate", unsafe {
            (driver.api.mem_create)(&mut handle, bytes, &properties, 0)
        })?;
        let mut descriptor: c_int = -1;
        // SAFETY: for this kind of handle, the driver writes an int; `handle` was just made.
        let code = unsafe {
            (driver.api.mem_export_to_shareable_handle)(
                (&raw mut descriptor).cast::<c_void>(),
                handle,
                HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                0,
            )
        };
        let exported = driver.check("cuMemExportToShareableHandle", code);
        if exported.is_ok() && descriptor >= 0 {
            // SAFETY: the driver has made it for us, and nobody else closes it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
        // SAFETY: made above, and released once.
        let released = driver.check("cuMemRelease", unsafe { (driver.api.mem_release)(handle) });
        exported.and(released).map(|()| bytes)
    }
}

/// Shared memory without a name.
struct Mapped {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapped {
    fn new(bytes: usize) -> Result<Mapped, GpuError> {
        let refused = |what| {
            move |errno: rustix::io::Errno| GpuError::System {
                what,
                reason: errno.to_string(),
            }
        };
        let file = rustix::fs::memfd_create("loaderd-trial", MemfdFlags::CLOEXEC)
            .map_err(refused("memfd_create"))?;
        rustix::fs::ftruncate(&file, bytes as u64).map_err(refused("ftruncate"))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory in use.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let start = start.map_err(refused("mmap"))?;
        Ok(Mapped {
            start: NonNull::new(start.cast()).expect("the kernel maps nothing at 0"),
            bytes,
        })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once, and nobody keeps a pointer into it. An error
        // would be one of our own arguments.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
