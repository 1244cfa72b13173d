//! Data files out of the page cache, and into it.
//!
//! Enters: files. Leaves: a note on how far it went. It changes no file, and what it does
//! to the cache other readers of the files feel too.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};
use loaderd_read::FileSet;

use crate::cli::size;
use crate::machine::Memory;

/// Drops the files from the page cache, as far as the kernel does so.
pub(super) fn drop_files(files: &FileSet) -> String {
    let total = files.total_bytes();
    if let Err(error) = files.evict() {
        return format!("cold: not cold: the page cache can't be dropped: {error}");
    }
    match files.cached_bytes() {
        None => format!("cold: {} dropped from the page cache", size::show(total)),
        Some(left) if left > total / 10 => format!(
            "cold: not cold: {} of {} stay in memory: their file system lies there, or someone has them mapped",
            size::show(left),
            size::show(total)
        ),
        Some(left) => format!(
            "cold: dropped from the page cache, {} of {} left",
            size::show(left),
            size::show(total)
        ),
    }
}

/// Reads the files into the page cache, where they fit.
pub(super) fn fill_from(files: &FileSet) -> Result<String> {
    let total = files.total_bytes();
    let free = Memory::read().map_or(0, |memory| memory.free());
    if total > free / 2 {
        return Ok(format!(
            "warm: not warm: {} of data, and {} of free memory to cache them in",
            size::show(total),
            size::show(free)
        ));
    }
    let mut buffer = vec![0; 1 << 20];
    for file in 0..files.len() as u32 {
        let path = files.path(file);
        // Descriptors of our own: those of the set say that reading ahead is no use.
        let mut opened = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        while opened
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?
            > 0
        {}
    }
    Ok(format!(
        "warm: {} read into the page cache",
        size::show(total)
    ))
}
