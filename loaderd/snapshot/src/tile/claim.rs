//! Who tiles what: one run a column, several columns of a dataset side by side, and nobody else while
//! originals are dropped, which rewrites files that hold other columns too.
//!
//! Enters: a dataset, a column. Leaves: a claim that ends with the run, however it ends, or a
//! refusal at once. Claims are locks of the system: they bind the runs of one machine.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{TileOptions, refused};
use crate::SnapshotError;
use crate::location::Location;

/// What a run holds while it works.
pub(super) struct Claim {
    /// Locked: the column is ours.
    _column: File,
    path: PathBuf,
    /// The folder of the versions, locked together with other runs, or alone. None where the file
    /// system has no locks for folders.
    _dataset: Option<File>,
}

impl Claim {
    pub(super) fn take(location: &Location, options: &TileOptions) -> Result<Self, SnapshotError> {
        let folder = &options.state_dir;
        std::fs::create_dir_all(folder)
            .map_err(|e| SnapshotError::record("create the state folder", folder, e))?;
        let refused = |why: &str| Err(refused(location, &options.column, why));
        let key = serde_json::json!([location.uri(), options.column]);
        let name = blake3::hash(key.to_string().as_bytes()).to_hex();
        let path = folder.join(format!("{}.lock", &name[..32]));
        let column = locked(&path, || ())
            .map_err(|e| SnapshotError::record("lock the column with", &path, e))?;
        let Some(column) = column else {
            return refused("another loaderd is at it: wait for that one");
        };
        let mut claim = Self {
            _column: column,
            path,
            _dataset: None,
        };
        let is_alone = options.drop_original.is_some();
        let operation = match is_alone {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        let versions = location.path().join("_versions");
        let dataset = File::open(versions).ok();
        match dataset.as_ref().map(|folder| flock(folder, operation)) {
            Some(Ok(())) => {
                claim._dataset = dataset;
                Ok(claim)
            }
            Some(Err(Errno::WOULDBLOCK)) if is_alone => refused(
                "its original can't be dropped while another loaderd tiles a column of this dataset: wait for that one",
            ),
            Some(Err(Errno::WOULDBLOCK)) => refused(
                "another loaderd is about to drop the originals of a column of this dataset: wait for that one",
            ),
            // What can't be locked is not locked: a commit still sees what others have changed.
            _ => Ok(claim),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // It is empty; whoever waits for its lock sees that it is gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The file at `path`, created where it is missing, with a lock that nobody else has; none where
/// somebody has it. `opened` is called in the moment between opening and locking, in which whoever
/// had the lock may finish and remove the file: then its successor is tried.
fn locked(path: &Path, mut opened: impl FnMut()) -> std::io::Result<Option<File>> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path)?;
        opened();
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mine = file.metadata()?;
        match std::fs::metadata(path) {
            Ok(found) if (found.dev(), found.ino()) == (mine.dev(), mine.ino()) => {
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut first = locked(&path, || ()).unwrap();
        assert!(first.is_some());
        assert!(locked(&path, || ()).unwrap().is_none());
        // The first one is done in the moment in which the second has opened the file; a third one
        // may come at once, or not.
        for is_followed in [false, true] {
            let mut third = None;
            let mut calls = 0;
            let second = locked(&path, || {
                calls += 1;
                if calls == 1 {
                    std::fs::remove_file(&path).unwrap();
                    first = None;
                    third = is_followed.then(|| locked(&path, || ()).unwrap().unwrap());
                }
            });
            let second = second.unwrap();
            assert_eq!(second.is_none(), is_followed);
            assert_eq!(calls, 2);
            first = second.or(third);
            assert!(first.is_some() && locked(&path, || ()).unwrap().is_none());
        }
    }
}
