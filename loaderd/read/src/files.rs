//! The data files of one snapshot, open for the whole run.
//!
//! Enters: paths. Leaves: descriptors and sizes, shared by all readers through an `Arc`.
//! Never: writes data, closes a file before the set is dropped, or looks at a path twice: a
//! clean-up that unlinks a file takes nothing away from a set that has it open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Advice, Mode as FileMode, OFlags};

use crate::ReadError;
use crate::direct::{self, Choice, DirectFiles, DirectRefused};

/// Data files, held open for reading. The n-th is what [`Extent::file`](crate::Extent)
/// n means. Shared by readers (`Arc`); memory and descriptors go when the last is gone.
#[derive(Debug)]
pub struct FileSet {
    files: Vec<DataFile>,
    // Second descriptors with O_DIRECT, opened when a reader first wants them.
    direct: OnceLock<Result<DirectFiles, DirectRefused>>,
    // Asked once, so that all readers of a job read in the same way.
    choice: OnceLock<Choice>,
}

#[derive(Debug)]
struct DataFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl FileSet {
    /// Opens all `paths`, in their order.
    ///
    /// Errors name the path; where the limit on open files is met, they name the limit
    /// and the number needed (two a file: O_DIRECT has descriptors of its own).
    pub fn open(paths: Vec<PathBuf>) -> Result<FileSet, ReadError> {
        let needed = 2 * paths.len() as u64;
        let files = paths
            .into_iter()
            .map(|path| match open_one(&path) {
                Ok((file, size)) => Ok(DataFile { path, file, size }),
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    Err(ReadError::TooManyFiles {
                        path,
                        limit: files_open_max(),
                        needed,
                    })
                }
                Err(source) => Err(ReadError::Open { path, source }),
            })
            .collect::<Result<_, _>>()?;
        Ok(FileSet {
            files,
            direct: OnceLock::new(),
            choice: OnceLock::new(),
        })
    }

    /// Files in the set.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether the set has no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The path that `file` was opened under. Panics where `file` is out of range.
    pub fn path(&self, file: u32) -> &Path {
        &self.files[file as usize].path
    }

    /// Bytes of `file` when it was opened. Panics where `file` is out of range.
    pub fn size(&self, file: u32) -> u64 {
        self.files[file as usize].size
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// About how many bytes of all files the page cache holds. `None` where the kernel
    /// does not say: before Linux 6.5, and to those who could not write the files.
    pub fn cached_bytes(&self) -> Option<u64> {
        direct::cached_bytes(self)
    }

    /// Asks the kernel to forget what it has cached of all files, for measurements. Pages
    /// that someone has mapped stay, and all of a file system in memory: see
    /// [`FileSet::cached_bytes`]. Blocks until what was just written is on the disk.
    pub fn evict(&self) -> io::Result<()> {
        for data in &self.files {
            // Pages that are not on the disk yet can't be dropped.
            data.file.sync_data()?;
            rustix::fs::fadvise(&data.file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Bytes of `file` now, for error messages.
    pub(crate) fn size_now(&self, file: u32) -> u64 {
        let data = &self.files[file as usize];
        data.file.metadata().map_or(data.size, |now| now.len())
    }

    /// The buffered descriptor of `file`.
    pub(crate) fn descriptor(&self, file: u32) -> BorrowedFd<'_> {
        self.files[file as usize].file.as_fd()
    }

    /// The O_DIRECT descriptors, opened on the first call.
    pub(crate) fn direct(&self) -> Result<&DirectFiles, &DirectRefused> {
        self.direct.get_or_init(|| DirectFiles::open(self)).as_ref()
    }

    /// Whether `Mode::Auto` reads with O_DIRECT, and why; settled on the first call.
    pub(crate) fn choice(&self) -> &Choice {
        self.choice.get_or_init(|| direct::choose(self))
    }

    /// What the engine reads from, in the order of the set.
    pub(crate) fn raw_descriptors(&self, direct: bool) -> Vec<i32> {
        if direct && let Ok(files) = self.direct() {
            return files.raw_descriptors();
        }
        let files = self.files.iter();
        files.map(|data| data.file.as_raw_fd()).collect()
    }
}

fn open_one(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, FileMode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // Shuffled rows: reading ahead would fetch bytes that nobody asked for. Only advice,
    // so a file system that does not take it changes nothing.
    rustix::fs::fadvise(&file, 0, None, Advice::Random).ok();
    Ok((file, metadata.len()))
}

/// RLIMIT_NOFILE, or `u64::MAX` where there is none.
pub(crate) fn files_open_max() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("gone.lance");
        let error = FileSet::open(vec![missing.clone()]).unwrap_err();
        assert!(error.to_string().contains("gone.lance"), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
        let error = FileSet::open(vec![folder.path().into()]).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn evicted_files_are_no_longer_cached() {
        // Where this test was built: a temporary folder often lies in memory, and stays there.
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        let built = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(built.parent().unwrap()).unwrap();
        let kind = rustix::fs::statfs(folder.path()).unwrap().f_type;
        let path = folder.path().join("data");
        std::fs::write(&path, vec![7; 4 << 20]).unwrap();
        let files = FileSet::open(vec![path]).unwrap();
        let Some(before) = files.cached_bytes().filter(|_| kind != TMPFS_MAGIC) else {
            eprintln!("skipped: the kernel does not say what is cached, or all of it is");
            return;
        };
        assert_eq!(before, 4 << 20);
        files.evict().unwrap();
        let after = files.cached_bytes().unwrap();
        assert!(after < before / 10, "{after} bytes are still cached");
    }

    #[test]
    fn sizes_and_paths_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..3)
            .map(|n| {
                let path = folder.path().join(n.to_string());
                std::fs::write(&path, vec![0; 10 * n]).unwrap();
                path
            })
            .collect();
        let files = FileSet::open(paths.clone()).unwrap();
        assert_eq!(files.len(), 3);
        for n in 0..3 {
            assert_eq!(files.size(n), 10 * u64::from(n));
            assert_eq!(files.path(n), paths[n as usize]);
        }
        assert_eq!(files.total_bytes(), 30);
    }
}
