//! Our own reader on one file, and the order in which its rows are read.
//!
//! Enters: a file, extents in order. Leaves: their bytes, as soon as they are there. Never: an
//! engine other than the one that benches are about.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use loaderd_plan::Order;
use loaderd_read::{Backend, Buffer, Config, Extent, FileSet, Mode, Reader, Stats};

/// Bytes of slabs: what the daemon gives its own readers.
const SLAB_MEMORY_MAX: u64 = 16 << 20;
const WAIT: Duration = Duration::from_secs(60);

/// `rows` rows in the order of `epoch`, cut into windows, each sorted.
pub fn shuffled(rows: u64, epoch: u64, window: u64) -> Vec<u64> {
    let order = Order::shuffled(rows, 0, epoch);
    let mut numbers: Vec<u64> = (0..rows).map(|at| order.row_at(at)).collect();
    for window in numbers.chunks_mut(window as usize) {
        window.sort_unstable();
    }
    numbers
}

/// Our reader on one file.
pub struct OneFile(Reader);

impl OneFile {
    /// For extents of up to `bytes_max` bytes.
    ///
    /// # Errors
    /// Where the machine or the file refuses `mode`, or io_uring.
    pub fn open(path: &Path, mode: Mode, bytes_max: u32) -> Result<OneFile> {
        let files = Arc::new(FileSet::open(vec![path.into()])?);
        let config = Config {
            mode,
            ..config(bytes_max)
        };
        let reader = Reader::new(files, config)?;
        let backend = reader.engine().backend;
        ensure!(
            backend == Backend::UringFixed,
            "the reader stands on {}",
            reader.engine()
        );
        Ok(OneFile(reader))
    }

    /// What it stands on, in words.
    pub fn engine(&self) -> String {
        self.0.engine().to_string()
    }

    /// Counts since it was opened.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Reads all extents, each under its tag, and calls `take` with what came, in any order.
    ///
    /// # Errors
    /// The first read or `take` that fails.
    pub fn read(
        &mut self,
        extents: impl Iterator<Item = (u64, Extent)>,
        take: &mut dyn FnMut(u64, Buffer) -> Result<()>,
    ) -> Result<()> {
        for (tag, extent) in extents {
            while !self.0.submit(tag, extent) {
                self.complete(take)?;
            }
        }
        while self.0.in_flight() > 0 {
            self.complete(take)?;
        }
        Ok(())
    }

    fn complete(&mut self, take: &mut dyn FnMut(u64, Buffer) -> Result<()>) -> Result<()> {
        let mut failed = Ok(());
        self.0.complete(WAIT, &mut |tag, result| {
            let done = result.map_err(Into::into);
            let done = done.and_then(|buffer| take(tag, buffer));
            if failed.is_ok() {
                failed = done;
            }
        })?;
        failed
    }
}

/// Reads that it has in flight at most, for extents of up to `bytes_max` bytes.
pub fn queue_depth(bytes_max: u32) -> u32 {
    config(bytes_max).queue_depth
}

fn config(bytes_max: u32) -> Config {
    Config::for_lengths(bytes_max, SLAB_MEMORY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_sorted_and_complete() {
        let rows = shuffled(100, 1, 8);
        assert!(rows.chunks(8).all(<[u64]>::is_sorted));
        assert!(!rows.is_sorted());
        assert_ne!(rows, shuffled(100, 2, 8));
        let mut all = rows;
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100));
    }

    #[test]
    fn every_extent_comes_once_and_faults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, Vec::from_iter((0..4 * 4096).map(|at| at as u8))).unwrap();
        let Ok(mut file) = OneFile::open(&path, Mode::Buffered, 1000) else {
            eprintln!("skipped: no io_uring with registered buffers here");
            return;
        };
        let extents = |last: u64| {
            (0..last).map(|tag| {
                let extent = Extent {
                    offset: tag * 7,
                    length: 1000,
                    file: 0,
                };
                (tag, extent)
            })
        };
        let mut seen = [0; 900];
        let mut take = |tag: u64, bytes: Buffer| {
            assert!(
                bytes
                    .iter()
                    .zip(tag * 7..)
                    .all(|(&byte, at)| byte == at as u8)
            );
            seen[tag as usize] += 1;
            Ok(())
        };
        file.read(extents(900), &mut take).unwrap();
        assert_eq!(seen, [1; 900]);
        let mut take = |tag, _| {
            ensure!(tag != 5, "not that one");
            Ok(())
        };
        let error = file.read(extents(9), &mut take).unwrap_err();
        assert_eq!(error.to_string(), "not that one");
    }
}
