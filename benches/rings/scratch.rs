//! The file that is read: bytes that follow from their place, so that whoever reads them can be
//! checked without a second copy.
//!
//! Enters: a folder and a number of rows. Leaves: a file with the rows one behind the other, and
//! their extents in a shuffled order. Never: reads.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use loaderd_measure::reader::shuffled;
use loaderd_read::Extent;

/// Bytes of a row: a small photo, and no multiple of a block.
pub(crate) const ROW_BYTES: u32 = 110_000;
/// The file ends on a multiple of this, so that reads with O_DIRECT can be rounded out.
const BLOCK: u64 = 4096;

/// A file of rows.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    pub(crate) rows: u64,
}

impl Scratch {
    /// The file in `folder` with room for `rows` rows, written unless it is there already.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(crate) fn ensure(folder: &Path, rows: u64) -> Result<Scratch> {
        let path = folder.join(format!("rings-{rows}.bin"));
        let scratch = Scratch { path, rows };
        let size = (rows * u64::from(ROW_BYTES)).next_multiple_of(BLOCK);
        let found = std::fs::metadata(&scratch.path).map_or(0, |found| found.len());
        if found != size {
            let path = &scratch.path;
            eprintln!("writing {} ({} MB)", path.display(), size / 1_000_000);
            // Under another name first: a file that was not finished is not taken for one.
            let part = path.with_extension("part");
            write(&part, size).with_context(|| format!("writing {}", part.display()))?;
            std::fs::rename(&part, path).with_context(|| format!("naming {}", path.display()))?;
        }
        Ok(scratch)
    }

    /// All rows in the order of `epoch`, cut into windows, each in the order of the file.
    pub(crate) fn extents(&self, epoch: u64, window: u64) -> Vec<Extent> {
        let rows = shuffled(self.rows, epoch, window);
        let extent = |row: u64| Extent {
            offset: row * u64::from(ROW_BYTES),
            length: ROW_BYTES,
            file: 0,
        };
        rows.into_iter().map(extent).collect()
    }
}

/// Whether `bytes` are what was written at `offset`, a multiple of 8.
pub(crate) fn right(offset: u64, bytes: &[u8]) -> bool {
    let first = offset / 8;
    let words = bytes.chunks(8).zip(first..);
    offset.is_multiple_of(8)
        && words
            .into_iter()
            .all(|(found, index)| word(index).to_le_bytes().starts_with(found))
}

fn write(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for index in 0..size / 8 {
        file.write_all(&word(index).to_le_bytes())?;
    }
    file.into_inner()?.sync_all()
}

/// Word `index` of the file: splitmix64's finaliser, so that no two blocks are alike.
fn word(index: u64) -> u64 {
    let x = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_once_and_its_bytes_known() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::ensure(folder.path(), 5).unwrap();
        let file = std::fs::read(&scratch.path).unwrap();
        assert!(file.len().is_multiple_of(BLOCK as usize));
        let extents = scratch.extents(1, 2);
        let distinct: HashSet<u64> = extents.iter().map(|extent| extent.offset).collect();
        assert_eq!(distinct.len(), 5);
        assert!(extents[0].offset < extents[1].offset);
        for extent in extents {
            let start = extent.offset as usize;
            let row = &file[start..start + extent.length as usize];
            assert!(right(extent.offset, row));
            assert!(!right(extent.offset + 8, row));
        }
    }
}
