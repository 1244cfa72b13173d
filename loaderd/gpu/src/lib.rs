//! The GPU's libraries, loaded at run time, and which JPEG goes where.
//!
//! Enters: the machine, and JPEGs. Leaves: devices and what they can do, nvJPEG's decoders behind
//! safe owners, a [`routing`] for each JPEG, and [units](mod@unit) that decode and finish them.
//! Nothing is linked: the same binary works with and without a GPU, and what is missing is a
//! [`GpuError`] with its mend. Never: a panic because a library is absent, old or strange; threads
//! or batches outside of a unit.

mod error;
mod library;
mod places;

pub mod cuda;
pub mod nvjpeg;
pub mod routing;
pub mod unit;

pub use error::GpuError;
pub use places::Places;

/// A version of CUDA, such as 12.4: what a driver offers, or a library was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
