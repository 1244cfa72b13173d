//! The memory that daemon and client share: one sealed memfd per session.
//!
//! Enters: slot size and count, or a descriptor from the daemon. Leaves: pointers to
//! slots. It never knows which slot is in use by whom (the daemon does), and nothing of
//! it has a name in any file system: the memory goes when the last descriptor and the
//! last mapping go.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    ftruncate, memfd_create,
};
use rustix::io::Errno;

use crate::error::WireError;
use crate::layout::SLOT_ALIGN;

/// Neither side can pull memory away from under the other, or take the promise back.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// What is allocated or mapped in one go: of the order of 100 ms where the kernel zeroes slowly.
pub const PIECE_BYTES: u64 = 64 << 20;

/// Slots of one session, mapped for reading and writing.
///
/// Send and Sync: it hands out raw pointers only, and who may touch a slot when is
/// agreed by messages. The mapping lasts until the value is dropped; share it with an
/// `Arc`.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    fd: OwnedFd,
    slot_bytes: u64,
    slot_count: u32,
}

impl Segment {
    /// Makes a segment and touches all of it, so that a lack of memory shows here and
    /// not as a signal in the middle of a batch. Takes as long as zeroing the memory does.
    ///
    /// `slot_bytes` is a multiple of [`SLOT_ALIGN`]. Contents are zero.
    pub fn create(slot_bytes: u64, slot_count: u32) -> Result<Segment, WireError> {
        Segment::create_watched(slot_bytes, slot_count, |_| Ok(()))
    }

    /// The same, for who can't wait as long as many GiB may take: before every piece of at
    /// most [`PIECE_BYTES`], `watch` is told how many bytes are done. Its error ends it, and
    /// all memory goes back; the first call is before there is any.
    pub fn create_watched<E: From<WireError>>(
        slot_bytes: u64,
        slot_count: u32,
        mut watch: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Segment, E> {
        let bytes = total_bytes(slot_bytes, slot_count)?;
        watch(0)?;
        let memory = |source: io::Error| WireError::SegmentMemory {
            bytes,
            slot_bytes,
            slot_count,
            source,
        };
        let fd = create_memfd().map_err(|errno| memory(errno.into()))?;
        ftruncate(&fd, bytes).map_err(|errno| memory(errno.into()))?;
        fcntl_add_seals(&fd, SEALS).map_err(WireError::io("sealing the segment"))?;
        let map = map(&fd, bytes).map_err(memory)?;
        let mut done = 0;
        loop {
            let piece = PIECE_BYTES.min(bytes - done);
            populate(&map, &fd, done, piece).map_err(memory)?;
            done += piece;
            if done == bytes {
                break;
            }
            watch(done)?;
        }
        Ok(Segment {
            map,
            fd,
            slot_bytes,
            slot_count,
        })
    }

    /// Maps a segment that came with a message.
    ///
    /// The descriptor is refused unless it is sealed and exactly as large as announced:
    /// a file that can shrink would turn a read into SIGBUS.
    pub fn from_fd(fd: OwnedFd, slot_bytes: u64, slot_count: u32) -> Result<Segment, WireError> {
        Segment::from_fd_watched(fd, slot_bytes, slot_count, || Ok(()))
    }

    /// The same, for who can't wait for the page tables of many GiB: before every piece of at
    /// most [`PIECE_BYTES`] but the first, `watch` may end it with an error.
    pub fn from_fd_watched<E: From<WireError>>(
        fd: OwnedFd,
        slot_bytes: u64,
        slot_count: u32,
        mut watch: impl FnMut() -> Result<(), E>,
    ) -> Result<Segment, E> {
        let bytes = total_bytes(slot_bytes, slot_count)?;
        let foreign = |what: String| WireError::SegmentForeign { what };
        let seals = fcntl_get_seals(&fd)
            .map_err(|errno| foreign(format!("it has no seals to ask for ({errno})")))?;
        if !seals.contains(SEALS) {
            return Err(foreign(format!("it is sealed with {seals:?} only")).into());
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(foreign("it is sealed against writing".into()).into());
        }
        let found = fstat(&fd).map_err(WireError::io("fstat"))?.st_size;
        if u64::try_from(found).ok() != Some(bytes) {
            return Err(foreign(format!(
                "it has {found} bytes, {slot_count} slots of {slot_bytes} bytes were announced"
            ))
            .into());
        }
        let map = map(&fd, bytes).map_err(|source| WireError::Io {
            what: "mapping the segment",
            source,
        })?;
        for from in (0..bytes).step_by(PIECE_BYTES as usize) {
            if from > 0 {
                watch()?;
            }
            // The pages exist; this only fills the page tables ahead of the first batch, so
            // where the kernel can't, the first pass over the slots does.
            let piece = PIECE_BYTES.min(bytes - from) as usize;
            let _ = map.advise_range(Advice::PopulateWrite, from as usize, piece);
        }
        Ok(Segment {
            map,
            fd,
            slot_bytes,
            slot_count,
        })
    }

    /// The memfd, to be sent along with a message.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Start of a slot: [`Segment::slot_bytes`] bytes, valid while the segment lives,
    /// aligned to [`SLOT_ALIGN`]. Panics unless `slot` is below [`Segment::slot_count`].
    ///
    /// The other process can write there too: never make a reference to these bytes
    /// unless the messages say that the slot is yours.
    pub fn slot_ptr(&self, slot: u32) -> *mut u8 {
        assert!(
            slot < self.slot_count,
            "slot {slot} of {} slots",
            self.slot_count
        );
        // The product is below the size of a mapping that exists, so it fits.
        self.map
            .as_mut_ptr()
            .wrapping_add((u64::from(slot) * self.slot_bytes) as usize)
    }

    /// Bytes of one slot.
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// Number of slots.
    pub fn slot_count(&self) -> u32 {
        self.slot_count
    }
}

fn total_bytes(slot_bytes: u64, slot_count: u32) -> Result<u64, WireError> {
    slot_bytes
        .checked_mul(u64::from(slot_count))
        .filter(|&bytes| bytes > 0 && bytes <= isize::MAX as u64)
        .filter(|_| slot_bytes.is_multiple_of(SLOT_ALIGN))
        .ok_or(WireError::SegmentShape {
            slot_bytes,
            slot_count,
            align: SLOT_ALIGN,
        })
}

fn create_memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels from 6.3 may be set to refuse memfds that could be executed; older ones
    // don't know the flag.
    match memfd_create(c"loaderd-slots", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(c"loaderd-slots", flags),
        result => result,
    }
}

/// Has the kernel allocate a part of the segment.
fn populate(map: &MmapRaw, fd: &OwnedFd, from: u64, bytes: u64) -> io::Result<()> {
    match map.advise_range(Advice::PopulateWrite, from as usize, bytes as usize) {
        // Linux before 5.14 has no MADV_POPULATE_WRITE; allocating the file is as good.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            Ok(fallocate(fd, FallocateFlags::empty(), from, bytes)?)
        }
        result => result,
    }
}

fn map(fd: &OwnedFd, bytes: u64) -> io::Result<MmapRaw> {
    let map = MmapOptions::new()
        .len(bytes as usize)
        .map_raw(fd.as_raw_fd())?;
    // A core is written before a process's connections end: not with many GiB of pixels.
    let _ = map.advise(Advice::DontDump);
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 2 * SLOT_ALIGN;

    fn reopened(segment: &Segment) -> OwnedFd {
        segment.fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn both_sides_see_the_same_bytes() {
        let daemon = Segment::create(SLOT, 3).unwrap();
        let client = Segment::from_fd(reopened(&daemon), SLOT, 3).unwrap();
        for slot in 0..3 {
            // SAFETY: both mappings live, the slot is in range, and one thread uses them.
            unsafe {
                daemon
                    .slot_ptr(slot)
                    .write_bytes(slot as u8 + 1, SLOT as usize);
                let seen = std::slice::from_raw_parts(client.slot_ptr(slot), SLOT as usize);
                assert!(seen.iter().all(|&byte| byte == slot as u8 + 1));
            }
        }
        assert_eq!(client.slot_ptr(1) as usize % SLOT_ALIGN as usize, 0);
    }

    #[test]
    fn the_mapping_outlives_the_other_side() {
        let daemon = Segment::create(SLOT, 1).unwrap();
        let client = Segment::from_fd(reopened(&daemon), SLOT, 1).unwrap();
        // SAFETY: the mapping lives and one thread uses it.
        unsafe { daemon.slot_ptr(0).write(42) };
        drop(daemon);
        // SAFETY: the client's own mapping still lives.
        assert_eq!(unsafe { client.slot_ptr(0).read() }, 42);
    }

    #[test]
    fn nobody_can_resize_or_unseal() {
        let segment = Segment::create(SLOT, 2).unwrap();
        assert_eq!(ftruncate(segment.fd(), SLOT), Err(Errno::PERM));
        assert_eq!(ftruncate(segment.fd(), 3 * SLOT), Err(Errno::PERM));
        assert_eq!(
            fcntl_add_seals(segment.fd(), SealFlags::WRITE),
            Err(Errno::PERM)
        );
    }

    #[test]
    fn foreign_descriptors_are_refused() {
        let check = |fd: OwnedFd, expected: &str| {
            let error = Segment::from_fd(fd, SLOT, 2).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let unsealed = create_memfd().unwrap();
        ftruncate(&unsealed, 2 * SLOT).unwrap();
        check(unsealed, "sealed with");
        check(tempfile::tempfile().unwrap().into(), "no seals");
        check(
            reopened(&Segment::create(SLOT, 1).unwrap()),
            "2 slots of 8192 bytes were announced",
        );
        let unwritable = create_memfd().unwrap();
        ftruncate(&unwritable, 2 * SLOT).unwrap();
        fcntl_add_seals(&unwritable, SEALS | SealFlags::WRITE).unwrap();
        check(unwritable, "against writing");
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (slot_bytes, slot_count) in [(0, 1), (SLOT, 0), (100, 2), (1 << 62, 4), (u64::MAX, 2)] {
            let result = Segment::create(slot_bytes, slot_count);
            assert!(
                matches!(result, Err(WireError::SegmentShape { .. })),
                "{slot_bytes} × {slot_count}: {result:?}"
            );
        }
    }

    #[test]
    fn lack_of_memory_is_an_error_that_names_the_bytes() {
        // 2 EiB: more than the address space of any machine.
        let error = Segment::create(1 << 60, 2).unwrap_err();
        assert!(matches!(error, WireError::SegmentMemory { .. }), "{error}");
        assert!(error.to_string().contains("2305843009213693952 bytes"));
    }

    #[test]
    fn who_watches_can_end_it_between_pieces() {
        let slot_bytes = 2 * PIECE_BYTES + SLOT;
        let mut told = Vec::new();
        let error = Segment::create_watched(slot_bytes, 1, |done| {
            told.push(done);
            match told.len() {
                3 => Err(Box::<dyn std::error::Error>::from("enough")),
                _ => Ok(()),
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "enough");
        assert_eq!(told, [0, PIECE_BYTES, 2 * PIECE_BYTES]);
    }

    #[test]
    fn who_maps_can_end_it_between_pieces() {
        let slot_bytes = 2 * PIECE_BYTES + SLOT;
        let daemon = Segment::create(slot_bytes, 1).unwrap();
        let map = |calls_max: u32| {
            let mut calls = 0;
            let segment = Segment::from_fd_watched(reopened(&daemon), slot_bytes, 1, || {
                calls += 1;
                match calls > calls_max {
                    true => Err(Box::<dyn std::error::Error>::from("enough")),
                    false => Ok(()),
                }
            });
            (segment, calls)
        };
        let (ended, calls) = map(1);
        assert_eq!(
            (ended.unwrap_err().to_string().as_str(), calls),
            ("enough", 2)
        );
        let (mapped, calls) = map(2);
        assert_eq!(calls, 2);
        // All of it is in the page tables.
        let mapped = mapped.unwrap();
        let start = format!("{:x}-", mapped.slot_ptr(0) as usize);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, ours) = maps.split_once(&start).unwrap();
        let resident = ours.lines().find(|line| line.starts_with("Rss:")).unwrap();
        let expected = format!(" {} kB", slot_bytes / 1024);
        assert!(resident.ends_with(&expected), "{resident}");
    }

    #[test]
    fn all_of_it_is_there() {
        let segment = Segment::create(PIECE_BYTES + SLOT, 1).unwrap();
        let blocks = fstat(segment.fd()).unwrap().st_blocks as u64;
        assert_eq!(blocks * 512, PIECE_BYTES + SLOT);
    }

    #[test]
    #[should_panic(expected = "slot 2 of 2 slots")]
    fn a_slot_out_of_range_panics() {
        Segment::create(SLOT, 2).unwrap().slot_ptr(2);
    }
}
