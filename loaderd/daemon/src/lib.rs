//! The daemon's stages, in the order in which data passes them.
//!
//! The binary `loaderd` is a thin shell over this library; the benches and the tests
//! drive it in their own process.

pub mod source;

pub mod job;
pub mod jobs;

mod batch;
mod completion;
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
