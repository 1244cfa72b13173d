//! The plan of a training job: which row stands where, which rank takes it in
//! which step, and how a job goes on after an interruption.
//!
//! Enters: a number of rows, a seed, an epoch, batch and world sizes, and the facts
//! that name the data. Leaves: row numbers within the selection, shares of a step,
//! random draws, cursors and their differences. It is pure arithmetic: it never
//! reads or writes anything, never blocks, holds no lock, starts no thread, knows no
//! dataset format, and allocates nothing per row. Integers alone decide every
//! result, so all machines agree on it.

pub mod draws;
pub mod order;
pub mod steps;

pub mod fingerprint;

pub mod cursor;

pub mod error;

#[cfg(test)]
mod statistics;

pub use cursor::{CURSOR_FORMAT, Cursor};
pub use draws::{Draws, replacement};
pub use error::PlanError;
pub use fingerprint::{Difference, Fingerprint};
pub use order::Order;
pub use steps::{Share, Steps, StepsConfig};
