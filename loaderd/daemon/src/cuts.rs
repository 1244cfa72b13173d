//! Where the segments of a dataset's JPEGs lie, learned as they are read, so that later only a
//! crop's are.
//!
//! Enters: an image's bytes, the first time that they are read; later its row. Leaves: its index
//! ([`loaderd_decode::cut`]), from a file in the cache folder that jobs and daemons share. Never: a
//! reason to fail. An entry that is torn, of another image or lost is no entry, and then the image
//! is read whole.
//!
//! The file has one entry a row of a selection's column: a checksum over the place of the image in
//! its file and the index (BLAKE3, four bytes), and the index. It is read and written, not mapped,
//! so that a full disk is an error and not a signal.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use loaderd_decode::cut::{INDEX_BYTES, Index};
use loaderd_read::Extent;

const ENDING: &str = "cuts";
/// Another text for every change of what an entry means.
const FORMAT: &str = "cuts 1";
const SUM_BYTES: usize = 4;
const ENTRY_BYTES: usize = SUM_BYTES + INDEX_BYTES;
/// Rows of a column of which indices are kept: beyond, the file would be larger than 1 GiB, and
/// not stay in memory.
const ROWS_MAX: u64 = 1 << 24;
/// All such files together take at most so much of the folder, in bytes; the oldest go first.
const FOLDER_BYTES_MAX: u64 = 4 << 30;
/// So many images without an index, and none with one: these are no tiled images.
const MISSES_MAX: u32 = 1000;

/// The indices of one column's images.
#[derive(Debug)]
pub(crate) struct Cuts {
    path: PathBuf,
    /// Made with the first index.
    file: OnceLock<File>,
    /// Images so far of which none could be cut.
    misses: AtomicU32,
    /// Nothing more is learned: there is nothing to learn, or no room.
    ended: AtomicBool,
}

impl Cuts {
    /// Those of so many rows, which these texts tell from all others: a version, a selection, a
    /// column. None where there are too many rows. Makes no file yet.
    pub(crate) fn of(folder: &Path, key: &[&str], rows: u64) -> Option<Cuts> {
        if rows > ROWS_MAX {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for text in [FORMAT].iter().chain(key) {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let stem = &hasher.finalize().to_hex()[..32];
        let path = folder.join(format!("{stem}.{ENDING}"));
        let file = OnceLock::new();
        if let Ok(found) = OpenOptions::new().read(true).write(true).open(&path) {
            let _ = file.set(found);
        }
        Some(Cuts {
            path,
            file,
            misses: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// The index of a row's image, where it is known. May read from the disk.
    pub(crate) fn find(&self, row: u64, extent: &Extent) -> Option<Index> {
        let mut entry = [0; ENTRY_BYTES];
        let file = self.file.get()?;
        file.read_exact_at(&mut entry, row * ENTRY_BYTES as u64)
            .ok()?;
        let index = entry.last_chunk()?;
        let is_whole = entry[..SUM_BYTES] == checksum(extent, index);
        is_whole.then(|| Index::from_bytes(index)).flatten()
    }

    /// Whether indices are still wanted.
    pub(crate) fn learns(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Keeps the index of a row's image, if it has one, from its bytes.
    pub(crate) fn learn(&self, row: u64, extent: &Extent, encoded: &[u8]) {
        let Some(index) = Index::of(encoded) else {
            if self.misses.fetch_add(1, Ordering::Relaxed) >= MISSES_MAX
                && self.file.get().is_none()
            {
                self.ended.store(true, Ordering::Relaxed);
            }
            return;
        };
        if let Err(error) = self.write(row, extent, &index)
            && !self.ended.swap(true, Ordering::Relaxed)
        {
            crate::note(format_args!(
                "loaderd: {}: {error}: images will go on being read whole; free some space, or give another folder \
                 with LOADERD_CACHE",
                self.path.display()
            ));
        }
    }

    fn write(&self, row: u64, extent: &Extent, index: &Index) -> io::Result<()> {
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let made = self.make()?;
                self.file.get_or_init(|| made)
            }
        };
        let index = index.to_bytes();
        let mut entry = [0; ENTRY_BYTES];
        entry[..SUM_BYTES].copy_from_slice(&checksum(extent, &index));
        entry[SUM_BYTES..].copy_from_slice(&index);
        file.write_all_at(&entry, row * ENTRY_BYTES as u64)
    }

    fn make(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
            evict(folder, FOLDER_BYTES_MAX);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.open(&self.path)
    }
}

/// Never 0, which is what a hole of the file holds.
fn checksum(extent: &Extent, index: &[u8; INDEX_BYTES]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&extent.offset.to_le_bytes());
    hasher.update(&extent.length.to_le_bytes());
    hasher.update(index);
    let mut sum = *hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .expect("32 bytes");
    sum[0] |= 1;
    sum
}

/// Removes the files that were not written for longest until `bytes_max` are left. Who has one open
/// keeps it.
fn evict(folder: &Path, bytes_max: u64) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
        .filter_map(|path| {
            let found = fs::metadata(&path).ok()?;
            Some((found.modified().ok()?, found.blocks() * 512, path))
        })
        .collect();
    files.sort_unstable();
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in files {
        if total <= bytes_max {
            break;
        }
        if fs::remove_file(&path).is_ok() {
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use loaderd_decode::encode::Encoder;
    use loaderd_decode::{Limits, tile};

    use super::*;

    const ROWS: u64 = 1000;

    fn extent(offset: u64) -> Extent {
        Extent {
            offset,
            length: 9000,
            file: 1,
        }
    }

    fn jpegs() -> (Vec<u8>, Vec<u8>) {
        let pixels: Vec<u8> = (0..200 * 300 * 3u32)
            .map(|n| ((n * n) >> 9) as u8)
            .collect();
        let plain = Encoder::default().encode(&pixels, 300, 200).unwrap();
        let tiled = tile::tile(&plain, &Limits::default()).unwrap().jpeg;
        (plain, tiled)
    }

    #[test]
    fn what_was_learned_is_found_by_all_that_read_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let open = |key: &[&str]| Cuts::of(folder.path(), key, ROWS).unwrap();
        let (plain, tiled) = jpegs();
        let cuts = open(&["version", "column"]);
        assert_eq!(cuts.find(5, &extent(1)), None);
        cuts.learn(5, &extent(1), &tiled);
        cuts.learn(6, &extent(2), &plain);
        let index = Index::of(&tiled);
        for cuts in [&cuts, &open(&["version", "column"])] {
            assert_eq!(cuts.find(5, &extent(1)), index);
            assert_eq!(cuts.find(5, &extent(2)), None, "another image");
            let longer = Extent {
                length: 9001,
                ..extent(1)
            };
            assert_eq!(cuts.find(5, &longer), None, "another image there");
            assert_eq!(cuts.find(4, &extent(1)), None, "a hole");
            assert_eq!(cuts.find(6, &extent(2)), None, "can't be cut");
            assert_eq!(cuts.find(ROWS - 1, &extent(1)), None, "beyond the end");
        }
        assert_eq!(open(&["version2", "column"]).find(5, &extent(1)), None);
        assert_eq!(open(&["versio", "ncolumn"]).find(5, &extent(1)), None);
        assert!(Cuts::of(folder.path(), &["version"], ROWS_MAX + 1).is_none());
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (_, tiled) = jpegs();
        let cuts = Cuts::of(folder.path(), &["a"], ROWS).unwrap();
        cuts.learn(0, &extent(1), &tiled);
        for at in 0..ENTRY_BYTES {
            let mut bytes = fs::read(&cuts.path).unwrap();
            bytes[at] ^= 0x10;
            fs::write(&cuts.path, &bytes).unwrap();
            assert_eq!(cuts.find(0, &extent(1)), None, "byte {at}");
            bytes[at] ^= 0x10;
            fs::write(&cuts.path, &bytes).unwrap();
        }
        assert!(cuts.find(0, &extent(1)).is_some());
        fs::write(&cuts.path, []).unwrap();
        assert_eq!(cuts.find(0, &extent(1)), None);
    }

    #[test]
    fn untiled_images_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, _) = jpegs();
        let cuts = Cuts::of(folder.path(), &["a"], 1 << 20).unwrap();
        for row in 0..=u64::from(MISSES_MAX) {
            assert!(cuts.learns());
            cuts.learn(row, &extent(1), &plain);
        }
        assert!(!cuts.learns());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Workers that have begun to learn when it ends say nothing more. What is said is read from a
    /// process of its own.
    #[test]
    fn no_room_ends_it_which_is_said_once() {
        const SAYING: &str = "LOADERD_TEST_SAYS";
        if std::env::var_os(SAYING).is_none() {
            let said = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("cuts::tests::no_room_ends_it_which_is_said_once")
                .env(SAYING, "1")
                .output()
                .unwrap();
            let text = String::from_utf8(said.stderr).unwrap();
            assert!(said.status.success(), "{text}");
            let lines = text.lines().filter(|line| line.contains("read whole"));
            assert_eq!(lines.count(), 1, "{text}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (_, tiled) = jpegs();
        let not_a_folder = folder.path().join("file");
        fs::write(&not_a_folder, "").unwrap();
        let cuts = Cuts::of(&not_a_folder, &["a"], ROWS).unwrap();
        for row in 0..3 {
            cuts.learn(row, &extent(1), &tiled);
            assert!(!cuts.learns());
            assert_eq!(cuts.find(row, &extent(1)), None);
        }
    }

    #[test]
    fn the_oldest_files_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = |n: u64| folder.path().join(format!("{n}.{ENDING}"));
        for n in 0..3 {
            fs::write(path(n), vec![1; 8192]).unwrap();
            let file = File::options().write(true).open(path(n)).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + n);
            file.set_modified(time).unwrap();
        }
        fs::write(folder.path().join("0.map"), vec![1; 8192]).unwrap();
        evict(folder.path(), 2 * 8192);
        let left = [0, 1, 2].map(|n| path(n).exists());
        assert_eq!(left, [false, true, true]);
        assert!(folder.path().join("0.map").exists());
    }
}
