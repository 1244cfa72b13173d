//! Memory that the kernel reads into: one arena of slabs per reader, and one-off blocks.
//!
//! Enters: sizes. Leaves: page-aligned addresses. Never: hands the same slab out twice;
//! never unmaps an arena while a [`Lease`] on it is alive; never lets an address be used for
//! something else that the kernel may still write to.
//!
//! Of a ring that broke, nobody learns any more which reads are done: the kernel ends them some
//! time after the ring is closed, and says nowhere when. Their memory is given back all the same,
//! and only its addresses stay reserved: reads that copy fail at an address without memory, and
//! those that don't have pinned the pages, which the kernel frees after them.

use std::alloc::Layout;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::config::{Config, SLAB_ALIGN};

/// The slabs of one reader, and which of them are free.
#[derive(Debug)]
pub(crate) struct Pool {
    base: NonNull<u8>,
    arena_bytes: usize,
    slab_bytes: usize,
    // Last in, first out: the slab that was in use last is the one still in the CPU's
    // caches.
    free: Mutex<Vec<u32>>,
    returned: Condvar,
    // Read in `drop` alone, which comes after all else: relaxed.
    abandoned: AtomicBool,
}

// SAFETY: the mapping is plain anonymous memory, valid from any thread. Which thread may
// touch which slab is settled by leases: a slab number is in `free` or in one lease.
unsafe impl Send for Pool {}
// SAFETY: as above; the shared fields are a mutex and numbers that never change.
unsafe impl Sync for Pool {}

impl Pool {
    /// Maps the arena. `None` where the kernel refuses the memory.
    pub(crate) fn new(config: &Config) -> Option<Arc<Pool>> {
        let arena_bytes = config.arena_bytes() as usize;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches
        // no memory that anyone else uses.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                arena_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .ok()?;
        // Fewer TLB misses and fewer pages to pin; a kernel that has no huge pages to
        // give leaves small ones.
        // SAFETY: the range is the mapping just made; the advice changes no contents.
        unsafe { rustix::mm::madvise(base, arena_bytes, Advice::LinuxHugepage) }.ok();
        Some(Arc::new(Pool {
            base: NonNull::new(base.cast())?,
            arena_bytes,
            slab_bytes: config.slab_bytes as usize,
            free: Mutex::new((0..config.slab_count).rev().collect()),
            returned: Condvar::new(),
            abandoned: AtomicBool::new(false),
        }))
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        // The list is whole after every statement, so a panic elsewhere can't spoil it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slabs that nobody holds. Only the reader takes slabs, so for it this number can
    /// only grow until it takes the next.
    pub(crate) fn free_count(&self) -> usize {
        self.free().len()
    }

    /// Takes the slab that was given back last, and beside it so many that lie idle.
    pub(crate) fn take(self: &Arc<Pool>, beside: usize) -> Option<Lease> {
        let mut free = self.free();
        let rest = free.len().checked_sub(beside + 1)?;
        let slab = free.pop()?;
        Some(Lease {
            pool: Arc::clone(self),
            slab,
            beside: free.split_off(rest),
        })
    }

    /// Waits until `count` slabs are free, `timeout` at most.
    pub(crate) fn wait_free(&self, count: usize, timeout: Duration) {
        let free = self.free();
        let waited = self
            .returned
            .wait_timeout_while(free, timeout, |free| free.len() < count);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The whole arena, for the kernel to register.
    pub(crate) fn arena(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.base.as_ptr().cast(),
            iov_len: self.arena_bytes,
        }
    }

    pub(crate) fn slab_bytes(&self) -> usize {
        self.slab_bytes
    }

    pub(crate) fn slab_count(&self) -> usize {
        self.arena_bytes / self.slab_bytes
    }

    /// Has the arena's addresses stay reserved for good: the kernel may write there.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Relaxed) {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            let base = self.base.as_ptr().cast();
            // SAFETY: the mapping is ours, whole, and nobody of us uses it any more, as below; the
            // new one in its place has no memory. Where there is none, the old one stays.
            unsafe {
                rustix::mm::mmap_anonymous(base, self.arena_bytes, ProtFlags::empty(), flags)
            }
            .ok();
            return;
        }
        // SAFETY: the mapping is ours, whole, and unmapped only here; no lease is left,
        // because each holds an `Arc` of this pool.
        unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.arena_bytes) }.ok();
    }
}

/// One slab in use, and others that lie idle with it; dropping it, from any thread, gives them back.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    slab: u32,
    beside: Vec<u32>,
}

impl Lease {
    /// The slab's first byte; valid for the pool's `slab_bytes` while the lease lives.
    pub(crate) fn base(&self) -> *mut u8 {
        let offset = self.slab as usize * self.pool.slab_bytes;
        // SAFETY: slab numbers are below `slab_count`, so the offset is inside the arena.
        unsafe { self.pool.base.as_ptr().add(offset) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut free = self.pool.free();
        free.append(&mut self.beside);
        free.push(self.slab);
        drop(free);
        self.pool.returned.notify_one();
    }
}

/// A one-off block for an extent larger than a slab, aligned like one.
#[derive(Debug)]
pub(crate) struct Aligned {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block is plain heap memory with a single owner.
unsafe impl Send for Aligned {}
// SAFETY: shared references only read.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// Allocates `bytes` (at least 1), not initialised. `None` where memory is short.
    pub(crate) fn new(bytes: usize) -> Option<Aligned> {
        let bytes = NonZeroUsize::new(bytes).map_or(1, NonZeroUsize::get);
        let layout = Layout::from_size_align(bytes, SLAB_ALIGN as usize).ok()?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) })?;
        Some(Aligned { base, layout })
    }

    /// The block's first byte; valid for the bytes asked for while the block lives.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Gives back the memory, and never the addresses: the kernel may write there.
    pub(crate) fn abandon(self) {
        let block = std::mem::ManuallyDrop::new(self);
        let whole_pages = block.layout.size() / SLAB_ALIGN as usize * SLAB_ALIGN as usize;
        // SAFETY: the pages are within the block, which is plain heap memory that nobody of us
        // reads any more.
        unsafe {
            let base = block.base.as_ptr().cast();
            rustix::mm::madvise(base, whole_pages, Advice::LinuxDontNeed)
        }
        .ok();
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(slab_count: u32) -> Arc<Pool> {
        let config = Config {
            slab_bytes: 8192,
            slab_count,
            ..Config::for_lengths(1, 1 << 20)
        };
        Pool::new(&config).unwrap()
    }

    #[test]
    fn slabs_are_disjoint_aligned_and_reused_last_first() {
        let pool = pool(3);
        let leases: Vec<_> = (0..3).map(|_| pool.take(0).unwrap()).collect();
        assert!(pool.take(0).is_none());
        let mut bases: Vec<_> = leases.iter().map(|lease| lease.base() as usize).collect();
        let order = bases.clone();
        bases.sort_unstable();
        assert!(bases.iter().all(|base| base.is_multiple_of(4096)));
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] == 8192));
        for lease in leases {
            drop(lease);
        }
        // The one given back last comes first.
        let again = pool.take(0).unwrap();
        assert_eq!(again.base() as usize, order[2]);
        assert_eq!(pool.free_count(), 2);
    }

    #[test]
    fn a_waiter_sees_a_slab_given_back_by_another_thread() {
        let pool = pool(1);
        let lease = pool.take(0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                drop(lease);
            });
            pool.wait_free(1, Duration::from_secs(30));
            assert_eq!(pool.free_count(), 1);
        });
    }

    /// What may be done at an address of this process, in the kernel's letters.
    fn permissions(base: *mut u8) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let hex = |text: &str| usize::from_str_radix(text, 16).unwrap();
        // `7f0000000000-7f0000002000 rw-p 00000000 00:00 0` (proc(5)).
        let line = maps.lines().find(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            (hex(start)..hex(end)).contains(&(base as usize))
        });
        line.map_or("none", |line| line.split(' ').nth(1).unwrap())
            .into()
    }

    #[test]
    fn an_abandoned_arena_gives_back_its_memory_and_keeps_its_addresses() {
        let pool = pool(64);
        let lease = pool.take(0).unwrap();
        let base = pool.base.as_ptr();
        pool.abandon();
        drop(pool);
        // Somebody still reads.
        // SAFETY: the lease has all of its slab.
        unsafe { lease.base().write_bytes(7, 8192) };
        assert_eq!(permissions(base), "rw-p");
        drop(lease);
        assert_eq!(permissions(base), "---p");
    }

    /// What the kernel does that holds a read without anybody to hear of its end.
    #[test]
    fn a_read_into_an_abandoned_arena_fails() {
        let Ok(mut ring) = io_uring::IoUring::new(2) else {
            eprintln!("skipped: no io_uring here");
            return;
        };
        let pool = pool(1);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let fd = io_uring::types::Fd(std::os::fd::AsRawFd::as_raw_fd(&reader));
        let read = io_uring::opcode::Read::new(fd, pool.base.as_ptr(), 4096).build();
        // SAFETY: the address is never used for anything else.
        unsafe { ring.submission().push(&read) }.unwrap();
        ring.submit().unwrap();
        pool.abandon();
        drop(pool);
        std::io::Write::write_all(&mut writer, &[7; 4096]).unwrap();
        ring.submit_and_wait(1).unwrap();
        let answer = ring.completion().next().unwrap();
        assert_eq!(answer.result(), -libc::EFAULT);
    }

    #[test]
    fn an_abandoned_block_gives_back_its_memory() {
        let bytes = 1 << 20;
        let block = Aligned::new(bytes).unwrap();
        let base = block.base();
        // SAFETY: the block has so many bytes.
        unsafe { base.write_bytes(7, bytes) };
        block.abandon();
        // SAFETY: the addresses are never freed.
        let bytes = unsafe { std::slice::from_raw_parts(base, bytes) };
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}
