//! The page map: everything that a step needs to know about its rows, in one memory-mapped file.
//!
//! Enters: what a scan finds, row by row. Leaves: lookups by row index without a heap, shared by
//! every process that maps the file. It never names Lance, and it never reads what a place points
//! at.
//!
//! ```text
//! 0        header, 64 bytes: magic, format, places and sizes of what follows, one hash over all
//! 4096     sections, page-aligned, sparse where less was written than reserved:
//!            extents    16 B a row and bytes column: offset u64, length u32, file u32
//!            fixed      the rows of a small dense column
//!            nulls      a bit a row of a dense column that has some, up to the last
//!            entries    8 B a row and variable column, and 8 B more: where its value begins, 62
//!                       bits; the highest bit says null, the one below it that it is not here
//!            values     the values of a variable column
//!            addresses  u64 a row, or runs (first index u64, first value u64)
//!            ids        the same
//! tail     hashes: xxh3 of every 4 MiB of every section; then the description as JSON
//! ```
//!
//! Numbers are little-endian. A map is written to a temporary name and renamed when it is whole;
//! after that nobody writes to it.

mod error;
mod format;
mod lengths;

mod columns;
mod writer;

mod cache;
mod reader;

#[cfg(test)]
mod tests;

pub use cache::{Cache, Target};
pub use columns::{NullsWriter, ValuesWriter};
pub use error::MapError;
pub use format::{
    Description, FORMAT, FileRef, KeyColumns, MapKey, Nulls, Numbers, Place, Section, Values,
    Variable,
};
pub use lengths::Lengths;
pub use reader::PageMap;
pub use writer::{MapWriter, NumbersWriter, SectionWriter};
