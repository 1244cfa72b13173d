//! Host memory of our own that is pinned: what copies to and from a device start from and end in.
//!
//! The driver's own pinned memory may be write-combined, which is slow to read; ours never is.

use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

use super::{Context, Registered};
use crate::error::GpuError;

/// Pinned host memory, zero at first.
pub struct Pinned {
    // Dropped in this order: a registration before what it pins.
    _registered: Registered,
    mapping: Mapping,
}

impl Context {
    /// Maps and pins `bytes` bytes, at least one, at a page's start.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        let mapping = Mapping::new(bytes)?;
        // SAFETY: the mapping is dropped after the registration; see the fields.
        let registered = unsafe { self.register(mapping.start, bytes) }?;
        Ok(Pinned {
            _registered: registered,
            mapping,
        })
    }
}

impl Pinned {
    /// Its bytes. Copies that were queued must be done, as those who queue them promise.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, readable and writable for as long as `self`, and nobody else's: queued
        // copies are done, as `DeviceMemory::copy_from` and `copy_to` ask for.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.as_ptr(), self.mapping.bytes) }
    }

    /// The address of byte `from`, of a run of `len` bytes.
    pub(super) fn address(&self, from: usize, len: usize) -> NonNull<u8> {
        let end = from.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.mapping.bytes),
            "beyond the end"
        );
        // SAFETY: within the mapping, as was just seen.
        unsafe { self.mapping.start.add(from) }
    }
}

struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: memory that belongs to no thread; it is looked at through `&mut Pinned` only.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> Result<Mapping, GpuError> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory in use.
        let start =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags) };
        let start = start.map_err(|errno| GpuError::System {
            what: "mmap",
            reason: errno.to_string(),
        })?;
        Ok(Mapping {
            start: NonNull::new(start.cast()).expect("the kernel maps nothing at 0"),
            bytes,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once, and nobody keeps a pointer into it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
