//! The crate against Lance itself: every way in which Lance stores a value, read both ways.
//!
//! One binary, because linking Lance takes longer than all of these tests.

mod common;
mod model;

mod cache;
mod columns;
mod errors;
mod ingest;
mod layouts;
mod matrix;
mod mutations;
mod protect;
mod selection;
mod table;
mod tiled;
mod troubles;
mod variable;
