//! A buffer on a page boundary, as O_DIRECT wants it, that tokio-uring takes.
//!
//! Enters: a size. Leaves: memory that stays where it is when its owner moves. Never: grows.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use tokio_uring::buf::{IoBuf, IoBufMut};

const ALIGN: usize = 4096;

/// A block of zeroed memory on a page boundary.
pub(crate) struct Block {
    base: NonNull<u8>,
    layout: Layout,
}

impl Block {
    /// `bytes` bytes, more than none.
    pub(crate) fn new(bytes: usize) -> Block {
        let layout = Layout::from_size_align(bytes, ALIGN).expect("a size that fits in memory");
        assert!(bytes > 0);
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Block { base, layout }
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation has this size, was zeroed, and lives as long as `self`; the
        // kernel writes to it only while tokio-uring owns the block.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: the memory is an allocation of its own, which does not move with the block, and all of
// it is initialised from the start.
unsafe impl IoBuf for Block {
    fn stable_ptr(&self) -> *const u8 {
        self.base.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.layout.size()
    }

    fn bytes_total(&self) -> usize {
        self.layout.size()
    }
}

// SAFETY: as above; whoever holds the block owns the memory alone.
unsafe impl IoBufMut for Block {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.base.as_ptr()
    }

    unsafe fn set_init(&mut self, _: usize) {}
}
