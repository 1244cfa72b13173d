//! The contract between daemon and client: what they say, over what, and what they share.
//!
//! In the order of data: [`paths`] tells both where to meet, [`socket`] carries
//! [`message`]s and descriptors, [`layout`] says what lies where in a slot, [`ragged`]
//! where the columns lie whose rows differ in length, [`segment`] is the memory that
//! holds the slots, and [`receipt`] is what a client makes sure of before it looks.
//!
//! This crate knows nothing of datasets, images, Python or GPUs, starts no threads and
//! keeps no state of slots: that lives in the daemon alone.

pub mod paths;

mod frame;
mod listener;
pub mod socket;

pub mod message;

pub mod layout;
pub mod ragged;
pub mod segment;

pub mod receipt;

mod error;

pub use error::WireError;
pub use layout::{DType, Layout, Ragged, Tensor};
pub use message::{PROTOCOL, ToClient, ToDaemon};
pub use segment::Segment;
pub use socket::{Channel, Listener, Peer, Received};
