//! What can go wrong while reading, with the facts that lead to a way out.
//!
//! Never: a verdict about a sample. Every error here is about files, the kernel or the
//! configuration, so the daemon raises it; none is a "bad sample".

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A data file can't be opened or examined.
    #[error("can't open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process may not hold that many files open.
    #[error(
        "can't open {path}: the limit of {limit} open files is reached, and this dataset's \
         data files need {needed}: raise it with `ulimit -n`, or compact the dataset"
    )]
    TooManyFiles {
        /// The file that was one too many.
        path: PathBuf,
        /// RLIMIT_NOFILE.
        limit: u64,
        /// Descriptors that the file set asks for.
        needed: u64,
    },
    /// O_DIRECT was insisted on.
    #[error("can't read {path} with O_DIRECT: {reason}; use mode `auto` or `buffered`")]
    Direct {
        /// The file that refuses.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value of [`Config`](crate::Config) out of bounds.
    #[error("{name} is {found}, must be {bound}")]
    Config {
        /// The field, or the product of fields.
        name: &'static str,
        /// The value.
        found: u64,
        /// The bound, in words.
        bound: &'static str,
    },
    /// Memory for slabs, or for an extent larger than a slab, was refused.
    #[error("can't allocate {bytes} bytes to read into")]
    Memory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The threads of the pread pool can't be started.
    #[error("can't start reader thread {index} of {count}: {source}")]
    Threads {
        /// Threads already running.
        index: usize,
        /// Threads wanted.
        count: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// A read failed, after retries where these could help.
    #[error("can't read {length} bytes at offset {offset} of {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The extent's offset.
        offset: u64,
        /// The extent's length.
        length: u32,
        /// What the kernel said last.
        source: io::Error,
    },
    /// The extent reaches beyond the end of the file.
    #[error(
        "{path} ends at {size}, before the {length} bytes at offset {offset}: the file was \
         cut short or replaced after the dataset was opened"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The extent's offset.
        offset: u64,
        /// The extent's length.
        length: u32,
        /// The file's size now, in bytes.
        size: u64,
    },
    /// The extent names a file that is not in the set.
    #[error("an extent names file {file}, but the set has {count}")]
    NoSuchFile {
        /// The number in the extent.
        file: u32,
        /// Files in the set.
        count: usize,
    },
    /// The ring belongs to the thread that used it first.
    #[error("this reader was first used by another thread; make one reader per thread")]
    WrongThread,
    /// The kernel refused to take or wait for reads; the reader can't go on.
    #[error("io_uring stopped working: {source}")]
    Ring {
        /// What the kernel said.
        source: io::Error,
    },
}
