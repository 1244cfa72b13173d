//! Lance datasets: open, pin, select, page map, slow path, ingest.
//!
//! In: a URI, a version, a filter and columns. Out: a [`Snapshot`] that says, for every selected
//! row, where its payload lies (`loaderd-read`'s extents), what its small columns hold, and that
//! reads through Lance whatever has no extent. This is the only crate that names lance; it never
//! decodes an image and never decides an order.
//!
//! Everything here blocks, and runs on a small tokio runtime of its own (two workers, sixteen
//! blocking threads), so callers must not be inside an async task. Lance has a pool besides it,
//! for filters and decoding: `LANCE_CPU_THREADS` bounds that one and `LANCE_IO_THREADS` its reads
//! in flight; a process that wants other values sets them before it first opens a dataset.
//!
//! ```text
//! location → dataset → protect → scan (locate, fixed) → map → snapshot (slow)        ingest
//! ```

mod error;
mod field;
mod location;

mod dataset;
mod protect;
mod runtime;

mod fixed;
mod locate;
mod map;
mod scan;

mod slow;
mod snapshot;

mod ingest;

pub use error::SnapshotError;
pub use field::{BytesLayout, DType, FieldInfo, FieldKind, FixedKind};
pub use ingest::{
    IngestOptions, IngestReport, IngestRow, TableOptions, TableReport, classes_key, dataset_rows,
    ingest, ingest_table,
};
pub use protect::{Protect, Protection, PrunedTag, prune_tags};
pub use snapshot::{Payload, Snapshot, SnapshotRequest, VersionRef};
