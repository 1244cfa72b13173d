//! O_DIRECT: whether the files allow it, at which alignment, and whether it is wise.
//!
//! Enters: a file set. Leaves: second descriptors with their alignment, and the choice
//! that `Mode::Auto` follows. Never: changes what the page cache holds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode as FileMode, OFlags, StatxFlags};

use crate::config::SLAB_ALIGN;
use crate::files::{FileSet, files_open_max};
use crate::memory::Aligned;

/// Alignment where the kernel does not say (`STATX_DIOALIGN` is Linux 6.1).
const ALIGN_UNKNOWN: u32 = 4096;

/// The O_DIRECT descriptors of a file set.
#[derive(Debug)]
pub(crate) struct DirectFiles {
    files: Vec<File>,
    /// What offsets and lengths must be multiples of, for all files, in bytes; a power
    /// of two.
    pub(crate) align: u32,
}

/// The first file that does not allow O_DIRECT, and why.
#[derive(Debug)]
pub(crate) struct DirectRefused {
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

impl DirectFiles {
    pub(crate) fn open(set: &FileSet) -> Result<DirectFiles, DirectRefused> {
        let mut files = Vec::with_capacity(set.len());
        let mut align = 512;
        for index in 0..set.len() as u32 {
            let refused = |reason: String| DirectRefused {
                path: set.path(index).into(),
                reason,
            };
            let stated = stated_align(set.descriptor(index)).map_err(&refused)?;
            let file = reopen_direct(set.descriptor(index)).map_err(|error| {
                refused(match error.raw_os_error() {
                    Some(libc::EINVAL) => "the file system does not have it".into(),
                    Some(libc::EMFILE) => format!(
                        "the limit of {} open files is reached, {} are needed (`ulimit -n`)",
                        files_open_max(),
                        2 * set.len()
                    ),
                    _ => error.to_string(),
                })
            })?;
            let file_align = stated.unwrap_or(ALIGN_UNKNOWN);
            if stated.is_none() {
                try_read(&file, file_align).map_err(|error| {
                    refused(format!("a read of {file_align} bytes failed: {error}"))
                })?;
            }
            align = align.max(file_align);
            files.push(file);
        }
        Ok(DirectFiles { files, align })
    }

    pub(crate) fn raw_descriptors(&self) -> Vec<i32> {
        self.files.iter().map(|file| file.as_raw_fd()).collect()
    }
}

/// Opens the same inode again, whatever its path leads to by now.
fn reopen_direct(file: BorrowedFd<'_>) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
    Ok(rustix::fs::open(path, flags, FileMode::empty())?.into())
}

/// What the kernel says about a file's alignment: `None` where it says nothing.
fn stated_align(file: BorrowedFd<'_>) -> Result<Option<u32>, String> {
    let flags = StatxFlags::DIOALIGN;
    let Ok(stat) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, flags) else {
        return Ok(None);
    };
    if stat.stx_mask & flags.bits() == 0 {
        return Ok(None);
    }
    let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    if offset == 0 {
        return Err("the file system does not have it for this file".into());
    }
    if memory > SLAB_ALIGN || !offset.is_power_of_two() {
        return Err(format!(
            "it asks for memory aligned to {memory} and offsets to {offset}, slabs are \
             aligned to {SLAB_ALIGN}"
        ));
    }
    Ok(Some(offset))
}

fn try_read(file: &File, align: u32) -> io::Result<()> {
    let memory = Aligned::new(align as usize).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: `memory` is `align` bytes long, is ours alone, and outlives the call.
    let read = unsafe { libc::pread(file.as_raw_fd(), memory.base().cast(), align as usize, 0) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether `Mode::Auto` reads with O_DIRECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) direct: bool,
    pub(crate) reason: String,
}

/// What the choice rests on.
struct Facts {
    /// Bytes of all files.
    total: u64,
    /// MemAvailable in bytes, `None` where it can't be read.
    available: Option<u64>,
    /// Estimated bytes of the files in the page cache, `None` where the kernel does not
    /// say.
    cached: Option<u64>,
}

/// Gathers the facts about `set` and applies the rule.
pub(crate) fn choose(set: &FileSet) -> Choice {
    if let Err(refused) = set.direct() {
        let reason = format!(
            "O_DIRECT refused for {}: {}",
            refused.path.display(),
            refused.reason
        );
        return Choice {
            direct: false,
            reason,
        };
    }
    rule(&Facts {
        total: set.total_bytes(),
        available: memory_available(),
        cached: cached_bytes(set),
    })
}

/// The rule. A buffered read copies every byte, and costs about four times the CPU of
/// a direct one when the page is not cached; it saves the disk only when it is.
///
/// 1. Nine tenths of the data are cached: buffered, whatever the size.
/// 2. The data are larger than half of the free memory: direct; they would push each
///    other out of the cache before they are read again.
/// 3. Less than half of the data are cached: direct.
/// 4. Else, and where the kernel says nothing about cached pages: buffered.
fn rule(facts: &Facts) -> Choice {
    let Facts {
        total,
        available,
        cached,
    } = *facts;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let state = match cached {
        Some(cached) => format!("about {} of {} cached", mib(cached), mib(total)),
        None => format!("{} of data", mib(total)),
    };
    let choice = |direct: bool, reason: String| Choice { direct, reason };
    if cached.is_some_and(|cached| cached / 9 >= total / 10) {
        return choice(false, state);
    }
    if let Some(available) = available.filter(|available| total > available / 2) {
        return choice(true, format!("{state}, {} of memory free", mib(available)));
    }
    let little = cached.is_some_and(|cached| cached < total / 2);
    choice(little, state)
}

/// MemAvailable of /proc/meminfo, in bytes.
fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Estimates how many bytes of `set` the page cache holds, from at most about 64 windows
/// of 16 MiB spread evenly over its bytes. `None` where the kernel lacks `cachestat`
/// (Linux 6.5) or keeps it from us (later kernels ask for ownership or write access).
pub(crate) fn cached_bytes(set: &FileSet) -> Option<u64> {
    const WINDOW: u64 = 16 << 20;
    const WINDOWS: u64 = 64;
    let total = set.total_bytes();
    let stride = (total / WINDOWS).max(WINDOW);
    let (mut looked_at, mut cached) = (0u64, 0u64);
    // The next window's start, counted over all files in a row.
    let mut next = 0u64;
    let mut file_start = 0u64;
    for file in 0..set.len() as u32 {
        let file_end = file_start + set.size(file);
        while next < file_end {
            let offset = next - file_start;
            let length = WINDOW.min(file_end - next);
            // Pages are counted whole, so a file's tail may count for more than it is.
            cached += cachestat(set.descriptor(file), offset, length)?.min(length);
            looked_at += length;
            next += stride;
        }
        file_start = file_end;
    }
    if looked_at == 0 {
        return Some(0);
    }
    Some((u128::from(cached) * u128::from(total) / u128::from(looked_at)) as u64)
}

/// Cached bytes in a range of a file, by `cachestat(2)`.
fn cachestat(file: BorrowedFd<'_>, offset: u64, length: u64) -> Option<u64> {
    // The number is the same on every architecture that the io-uring crate supports.
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [offset, length];
    // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted: pages.
    let mut pages = [0u64; 5];
    // SAFETY: `struct cachestat_range` is two u64, `struct cachestat` five; both arrays
    // live across the call, and the kernel writes only the second.
    let failed = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_fd().as_raw_fd(),
            range.as_ptr(),
            pages.as_mut_ptr(),
            0u32,
        )
    };
    (failed == 0).then(|| pages[0] * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        const GIB: u64 = 1 << 30;
        let check = |total: u64, available: Option<u64>, cached: Option<u64>, direct: bool| {
            let choice = rule(&Facts {
                total,
                available,
                cached,
            });
            assert_eq!(choice.direct, direct, "{choice:?}");
        };
        // All cached, even where it is much of the memory.
        check(10 * GIB, Some(12 * GIB), Some(10 * GIB), false);
        check(10 * GIB, Some(12 * GIB), Some(9 * GIB + 1), false);
        // Too large to be cached.
        check(10 * GIB, Some(12 * GIB), Some(6 * GIB), true);
        check(10 * GIB, Some(12 * GIB), None, true);
        // It would fit: what is there already decides.
        check(10 * GIB, Some(100 * GIB), Some(4 * GIB), true);
        check(10 * GIB, Some(100 * GIB), Some(6 * GIB), false);
        check(10 * GIB, Some(100 * GIB), None, false);
        check(10 * GIB, None, None, false);
        check(0, Some(GIB), Some(0), false);
    }

    #[test]
    fn a_file_just_written_counts_as_cached() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &vec![7; 3 << 20]).unwrap();
        let set = FileSet::open(vec![file.path().into()]).unwrap();
        // Older kernels say nothing; where they do, it must be right.
        if let Some(cached) = cached_bytes(&set) {
            assert_eq!(cached, 3 << 20);
            assert!(!set.choice().direct, "{:?}", set.choice());
        }
        assert!(memory_available().unwrap() > 1 << 20);
    }

    #[test]
    fn unlinked_files_still_open_with_o_direct() {
        // Where the file system has no O_DIRECT, it must at least be that which it says.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 8192]).unwrap();
        let set = FileSet::open(vec![file.path().into()]).unwrap();
        drop(file);
        if let Err(refused) = set.direct() {
            assert!(!refused.reason.contains("No such file"), "{refused:?}");
        }
    }
}
