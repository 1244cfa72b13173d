//! The page cache: files out of it, into it, and what of them is in it.
//!
//! Enters: paths. Leaves: the resident share, so that "cold" and "warm" are measured and not
//! believed. Never: changes a file.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise, fsync};

const LOAD_BYTES: usize = 4 << 20;
/// Bytes of a file that are mapped at once to look at its pages.
const LOOK_BYTES: u64 = 1 << 30;

/// Writes the files back and drops them from the page cache; with `drop_all`, everything else
/// too, which needs root. Returns the share of their bytes that stayed, 0 to 1.
///
/// # Errors
/// Where a file can't be opened or synced, or the kernel refuses.
pub fn evict(files: &[PathBuf], drop_all: bool) -> Result<f64> {
    for path in files {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        fsync(&file).with_context(|| format!("syncing {}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed)
            .with_context(|| format!("dropping {} from the page cache", path.display()))?;
    }
    if drop_all {
        std::fs::write("/proc/sys/vm/drop_caches", "1")
            .context("writing /proc/sys/vm/drop_caches, which needs root (see --drop-caches)")?;
    }
    resident(files)
}

/// Reads the files once, so that the page cache has them. Returns the share that it kept.
///
/// # Errors
/// Where a file can't be read.
pub fn load(files: &[PathBuf]) -> Result<f64> {
    let mut buffer = vec![0; LOAD_BYTES];
    for path in files {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        while file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?
            > 0
        {}
    }
    resident(files)
}

/// The share of the files' pages that is in the page cache, 0 to 1; 0 for no pages.
///
/// # Errors
/// Where a file can't be opened or mapped.
pub fn resident(files: &[PathBuf]) -> Result<f64> {
    let (mut pages, mut present) = (0, 0);
    for path in files {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let size = file.metadata()?.len();
        let mut offset = 0;
        while offset < size {
            let length = (size - offset).min(LOOK_BYTES);
            let found = look(&file, offset, length as usize)
                .with_context(|| format!("looking for {} in the page cache", path.display()))?;
            pages += found.len();
            present += found.iter().filter(|page| **page & 1 == 1).count();
            offset += length;
        }
    }
    Ok(if pages == 0 {
        0.0
    } else {
        present as f64 / pages as f64
    })
}

/// One byte a page, whose lowest bit says whether it is resident: mincore(2).
fn look(file: &File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let page = rustix::param::page_size();
    let mut pages = vec![0; length.div_ceil(page)];
    // SAFETY: a new mapping of `length` bytes at an address of the kernel's choice, of a file
    // that is open; nothing is read through it.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            offset as libc::off_t,
        )
    };
    ensure!(
        address != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: the range is the mapping made above, and `pages` has a byte for each of its pages.
    let status = unsafe { libc::mincore(address, length, pages.as_mut_ptr()) };
    let error = std::io::Error::last_os_error();
    // SAFETY: the mapping made above, which nothing points into.
    unsafe { libc::munmap(address, length) };
    ensure!(status == 0, "mincore: {error}");
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_in_and_out() {
        // Beside the test itself: a file system in memory, as /tmp may be, keeps all its pages.
        let test = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(test.parent().unwrap()).unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, vec![7; (3 << 20) + 5]).unwrap();
        let files = [path];
        assert!(load(&files).unwrap() > 0.99);
        let stayed = evict(&files, false).unwrap();
        assert!(
            stayed < 0.01,
            "{stayed} of the file stayed in the page cache"
        );
        assert!(load(&files).unwrap() > 0.99);
        assert_eq!(resident(&[]).unwrap(), 0.0);
    }
}
