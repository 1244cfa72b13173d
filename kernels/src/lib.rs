//! Decoded pictures in GPU memory → finished images: the kernels, compiled ahead, and their twin.
//!
//! Enters: descriptors of pictures, crops and outputs; a device's compute capability. Leaves: the
//! module image for the device, entry points with their grids, and, on the CPU, the bytes that a
//! GPU would write. The CUDA sources are in `src/cuda`; `compile.py` makes `embedded/` of them.
//! Never: a call into CUDA, a library that is linked, or a compiler that a user needs.

pub mod launch;
pub mod twin;

mod descriptor;
mod embedded;

pub use descriptor::{
    Axis, Batch, DescriptorError, Element, Filter, Image, Order, Picture, SIDE_MAX, lay_out,
};
pub use embedded::{Embedded, TooOld, image_for};
