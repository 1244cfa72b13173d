//! Extents of files to bytes, with as little CPU per byte as the kernel allows.
//!
//! Enters: a [`FileSet`] (the data files of one snapshot, held open) and [`Extent`]s with
//! tags. Leaves: a [`Buffer`] per extent, exactly its bytes, in a slab that goes back to
//! the reader when the buffer is dropped. Never: knows what the bytes mean, orders or
//! merges reads, starts queues between threads, or reads through Lance.
//!
//! ```text
//! Extent ─► Reader: round out, take a slab ─► Engine: io_uring │ pread ─► Buffer
//! ```
//!
//! One [`Reader`] serves one thread. Which engine it stands on is settled once, by the
//! ladder in `engine`: ring reads into registered slabs, plain ring reads where the
//! kernel refuses to lock the slabs, threads with `pread` where it refuses io_uring.
//! [`Reader::engine`] says what was chosen, and why.

// What the caller chooses, and what can go wrong.
mod config;
mod error;

// What is read, and whether past the page cache.
mod files;

mod direct;

// Into which memory, by whom, and in whose name.
mod memory;

mod engine;
mod reader;

// What leaves.
mod buffer;

pub use buffer::Buffer;
pub use config::{Config, Mode, SLAB_ALIGN};
pub use engine::{Backend, EngineReport};
pub use error::ReadError;
pub use files::FileSet;
pub use reader::{Reader, Stats};

/// Where one row's bytes lie: 16 bytes, as the page map stores them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(C)]
pub struct Extent {
    /// First byte, counted from the start of the file. Any alignment.
    pub offset: u64,
    /// Bytes; 0 is fine and reads nothing.
    pub length: u32,
    /// Position of the file in the [`FileSet`].
    pub file: u32,
}
