//! The daemon's stages, in the order in which data passes them.
//!
//! The binary `loaderd` is a thin shell over this library; the benches and the tests
//! drive it in their own process.

// What tests in the crate share with those beside it calls it by its name.
#[cfg(test)]
extern crate self as loaderd;

pub mod source;

pub mod gpu;
pub mod job;
pub mod jobs;

mod batch;
mod completion;
mod cuts;
pub mod engine;
pub mod memory;
pub mod slots;

pub mod feed;
pub mod steplog;

pub mod server;
mod session;

pub mod synthetic;

pub mod cli;
pub mod clock;
pub mod histogram;
pub mod machine;

/// Writes a line to the standard error, which is the daemon's log. What can't be written is
/// lost: the log may lie on the very disk that is full, and nobody's batches depend on it.
pub fn note(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
