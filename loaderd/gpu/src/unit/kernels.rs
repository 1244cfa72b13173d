//! The kernels by name, with the arguments that each takes.

use std::ffi::c_void;

use loaderd_kernels::{Batch, launch};

use crate::cuda::{Function, Module, Stream};
use crate::error::GpuError;

/// The kernels, loaded on one device. `pictures`, `images`, `tables` and `survivors` are addresses
/// of the device's, as [`launch`] says what lies there.
pub(super) struct Kernels {
    weigh: Function,
    finish: Function,
    poison: Function,
    verify: Function,
}

/// A kernel's argument: what it points to is read during the launch.
fn argument<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

impl Kernels {
    pub(super) fn of(module: &Module) -> Result<Kernels, GpuError> {
        Ok(Kernels {
            weigh: module.function("loaderd_weigh")?,
            finish: module.function("loaderd_finish")?,
            poison: module.function("loaderd_poison")?,
            verify: module.function("loaderd_verify")?,
        })
    }

    /// # Safety
    ///
    /// Here and below: `count` descriptors that were laid out lie at the address given, and what
    /// they name, like all other addresses, is the device's to read and write until `stream` is
    /// done.
    pub(super) unsafe fn poison(
        &self,
        mut pictures: u64,
        count: u32,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let arguments = &mut [argument(&mut pictures)];
        // SAFETY: the arguments are those that `launch::poison` names; the caller answers for the rest.
        unsafe { (self.poison).launch(&launch::poison(count), arguments, stream) }
    }

    /// # Safety
    ///
    /// As for [`poison`](Self::poison).
    pub(super) unsafe fn verify(
        &self,
        mut pictures: u64,
        count: u32,
        mut survivors: u64,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let arguments = &mut [argument(&mut pictures), argument(&mut survivors)];
        // SAFETY: as above, of `launch::verify`.
        unsafe { (self.verify).launch(&launch::verify(count), arguments, stream) }
    }

    /// # Safety
    ///
    /// As for [`poison`](Self::poison).
    pub(super) unsafe fn weigh(
        &self,
        mut images: u64,
        count: u32,
        mut tables: u64,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let arguments = &mut [argument(&mut images), argument(&mut tables)];
        // SAFETY: as above, of `launch::weigh`.
        unsafe { (self.weigh).launch(&launch::weigh(count), arguments, stream) }
    }

    /// # Safety
    ///
    /// As for [`poison`](Self::poison).
    pub(super) unsafe fn finish(
        &self,
        mut images: u64,
        count: u32,
        mut tables: u64,
        mut batch: Batch,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let launch = launch::finish(count, &batch);
        let arguments = &mut [
            argument(&mut images),
            argument(&mut tables),
            argument(&mut batch),
        ];
        // SAFETY: as above, of `launch::finish`; the batch has the layout of `types.h`.
        unsafe { self.finish.launch(&launch, arguments, stream) }
    }
}
