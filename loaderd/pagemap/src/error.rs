//! What can go wrong with the folder of page maps, and with a map in use.
//!
//! Enters: the disk's failures, and damage. Leaves: one enum.

use std::io;
use std::path::PathBuf;

/// Everything that this crate can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The page map on disk does not hold what was written to it.
    #[error("the page map {} is damaged ({detail}): delete it and open the dataset again, it is rebuilt then", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not match.
        detail: String,
    },
    /// The cache folder cannot be used.
    #[error("cannot {action} {}: {source}", .path.display())]
    Cache {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk filled up while a page map was written. The part written is removed.
    #[error("no space left for a page map in {} (about {need_bytes} bytes are needed): free some, or name another cache folder", .path.display())]
    Full {
        /// The cache folder.
        path: PathBuf,
        /// Upper bound of the map's size in bytes.
        need_bytes: u64,
    },
    /// A page map would become larger than files of this process may. The part written is removed.
    #[error("file size limit reached (ulimit -f) by a page map in {} (about {need_bytes} bytes are needed): raise it where loaderd starts", .path.display())]
    FileSizeLimit {
        /// The cache folder.
        path: PathBuf,
        /// Upper bound of the map's size in bytes.
        need_bytes: u64,
    },
}

impl MapError {
    pub(crate) fn cache(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Cache {
            action,
            path: path.into(),
            source,
        }
    }
}
