//! The folder of page maps: names, temporary files, eviction.
//!
//! Enters: a key. Leaves: an open map, or a place to write one to. Several processes share a folder
//! without talking to each other: a map appears whole by rename, a temporary file is locked while
//! its writer lives, and removing a map takes nothing from those that have it mapped.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::format::MapKey;
use super::reader::PageMap;
use crate::MapError;

const MAP_ENDING: &str = "map";
const TEMP_ENDING: &str = "tmp";
/// A younger temporary file may be one that its writer has not locked yet.
const SWEEP_AGE: Duration = Duration::from_secs(10);

/// A folder of page maps.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Creates the folder where there is none, and sweeps what killed writers left.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self, MapError> {
        fs::create_dir_all(folder)
            .map_err(|e| MapError::cache("create the cache folder", folder, e))?;
        let cache = Self {
            folder: folder.to_owned(),
        };
        cache.sweep();
        Ok(cache)
    }

    /// The map for `key`, where there is a good one. A bad one is removed.
    ///
    /// # Errors
    /// Where there is one that cannot be opened.
    pub fn find(&self, key: &MapKey) -> Result<Option<PageMap>, MapError> {
        let path = self.path(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(MapError::cache("open the page map", path, e)),
        };
        let map = PageMap::open(&file, &path)
            .map_err(|e| MapError::cache("map the page map", &path, e))?
            .filter(|map| map.description().key == *key);
        match &map {
            // The time of the last use is what eviction goes by. A folder that others own may not
            // let us set it; the map is as good.
            Some(_) => drop(file.set_modified(SystemTime::now())),
            None => drop(fs::remove_file(&path)),
        }
        Ok(map)
    }

    /// A place to write the map for `key`.
    ///
    /// # Errors
    /// Where no file can be made in the folder.
    pub fn target(&self, key: &MapKey) -> Result<Target, MapError> {
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        let (file, temp) = loop {
            // Only uniqueness matters, no other memory hangs on it.
            let n = WRITERS.fetch_add(1, Ordering::Relaxed);
            let temp = self.folder.join(format!(
                "{}.{}.{n}.{TEMP_ENDING}",
                key.stem(),
                std::process::id()
            ));
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create_new(true);
            match options.open(&temp) {
                Ok(file) => break (file, temp),
                // Of a container or machine that shares the folder, where processes have the same
                // numbers.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(MapError::cache("create the temporary file", &temp, e)),
            }
        };
        // Where the file system has no locks, an old temporary file may be swept under its writer,
        // which then fails to rename it and says so.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Target {
            file,
            temp,
            path: self.path(key),
            published: false,
        })
    }

    /// Removes the maps that were not used for longest until `bytes_max` are left, but never `keep`.
    pub fn evict(&self, bytes_max: u64, keep: &MapKey) {
        let keep = self.path(keep);
        let mut maps: Vec<(SystemTime, u64, PathBuf)> = self
            .files(MAP_ENDING)
            .filter_map(|path| {
                let found = fs::metadata(&path).ok()?;
                // Maps are sparse: what counts is what they take on the disk.
                Some((found.modified().ok()?, found.blocks() * 512, path))
            })
            .collect();
        maps.sort_unstable();
        let mut total: u64 = maps.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in maps {
            if total <= bytes_max {
                break;
            }
            if path != keep && fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, key: &MapKey) -> PathBuf {
        self.folder.join(format!("{}.{MAP_ENDING}", key.stem()))
    }

    fn sweep(&self) {
        for path in self.files(TEMP_ENDING) {
            let Ok(file) = File::open(&path) else {
                continue;
            };
            let age = file
                .metadata()
                .and_then(|found| found.modified())
                .ok()
                .and_then(|time| time.elapsed().ok())
                .unwrap_or_default();
            if age > SWEEP_AGE && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn files(&self, ending: &'static str) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(move |path| path.extension().is_some_and(|found| found == ending))
    }
}

/// A temporary file that becomes a map, or goes.
pub struct Target {
    file: File,
    temp: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Target {
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What a failed write means; `bytes` is what the map takes at most.
    pub(crate) fn failed(&self, error: io::Error, bytes: u64) -> MapError {
        let (path, need_bytes) = (self.temp.parent().unwrap_or(&self.temp).to_owned(), bytes);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                MapError::Full { path, need_bytes }
            }
            io::ErrorKind::FileTooLarge => MapError::FileSizeLimit { path, need_bytes },
            _ => MapError::cache("write the page map", &self.temp, error),
        }
    }

    pub(crate) fn publish(mut self) -> Result<(), MapError> {
        fs::rename(&self.temp, &self.path)
            .map_err(|e| MapError::cache("name the page map", &self.path, e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temp);
        }
    }
}
