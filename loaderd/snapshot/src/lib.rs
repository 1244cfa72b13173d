//! Lance datasets: open, pin, select, page map, slow path, ingest.
//!
//! Enters: a URI, a version, a filter and columns. Leaves: a [`Snapshot`] that says, for every
//! selected row, where its payload lies (`loaderd-read`'s extents), what its small columns, lists
//! and texts hold, and that reads through Lance whatever is not in its page map. This is the only
//! crate that names lance; it never decodes an image, never decides an order, and knows a page map
//! only through `loaderd-pagemap`.
//!
//! Everything here blocks, and runs on a small tokio runtime of its own (two workers, sixteen
//! blocking threads), so callers must not be inside an async task. Lance has a pool besides it,
//! for filters and decoding: `LANCE_CPU_THREADS` bounds that one and `LANCE_IO_THREADS` its reads
//! in flight; a process that wants other values sets them before it first opens a dataset.
//!
//! ```text
//! location, request → dataset → protect → scan → build → snapshot        ingest
//!             tiled                locate, fixed, gather    slow         tile
//! ```

mod column;
mod error;
mod field;
mod location;
mod request;
mod value;

mod absent;
mod dataset;
mod protect;
mod runtime;

mod build;
mod fixed;
mod gather;
mod locate;
mod scan;

mod slow;
mod snapshot;

mod ingest;
mod tile;
mod tiled;

pub use column::FieldInfo;
pub use error::SnapshotError;
pub use field::{BytesLayout, DType, FieldKind, FixedKind, RaggedKind};
pub use ingest::{
    IngestOptions, IngestReport, IngestRow, TableOptions, TableReport, classes_key, dataset_rows,
    ingest, ingest_table,
};
pub use loaderd_pagemap::{MapError, Variable};
pub use protect::{Protect, Protection, PrunedTag, prune_tags};
pub use request::{ColumnRef, SnapshotRequest, VersionRef};
pub use runtime::is_lances_panic;
pub use snapshot::{Payload, Snapshot};
pub use tile::{SameFn, Tile, TileCounts, TileFn, TileOptions, TileReport, tile_column};
pub use tiled::{TILED_OF_KEY, UntiledSample, sample_column, sample_untiled};
pub use value::decode_value;

/// Format of the page maps that this version writes and reads.
pub const PAGE_MAP_FORMAT: u32 = loaderd_pagemap::FORMAT;

/// The version of Lance that is built in, such as `14.0.2`.
pub fn lance_version() -> String {
    lance_table::format::WriterVersion::default().version
}
