//! What the benches that need Lance share: the same images in several datasets, and the ways to
//! read them.
//!
//! Enters: a folder for data, and pictures or none. Leaves: datasets on disk, and rows and bytes
//! handed over. Never: judges; each bench states its own targets.
//!
//! ```text
//! images → datasets → paths        loaderd-measure: cold or warm, at what cost, where
//! ```

pub mod images;

pub mod datasets;

pub mod paths;

pub use loaderd_measure::{
    cache, data_folder, machine, meter, options, reader, report, say, write_json,
};
