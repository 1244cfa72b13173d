//! nvJPEG's handle on one device, and what is made with it.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;

use super::api::{Api, BITSTREAM_STRICT, Opaque, UPSAMPLING_WITH_INTERPOLATION};
use super::{Backend, Nvjpeg};
use crate::cuda::{Context, Entered};
use crate::error::GpuError;

/// The GPU's JPEG engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engines {
    /// How many there are.
    pub count: u32,
    /// Cores in each.
    pub cores_each: u32,
}

/// nvJPEG on one device, with one backend.
pub struct Handle {
    library: Arc<Nvjpeg>,
    context: Context,
    backend: Backend,
    interpolates: bool,
    raw: Opaque,
}

// SAFETY: nvJPEG's documentation ("Thread Safety") names the types of which each thread must
// have its own, and the handle is not among them; `raw` is never followed by us.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Makes a handle on the context's device. Fails where the device, or its driver, has no
    /// such backend. Takes up to some hundred milliseconds.
    pub fn new(
        library: &Arc<Nvjpeg>,
        backend: Backend,
        context: &Context,
    ) -> Result<Arc<Handle>, GpuError> {
        // An older nvJPEG knows no such flag; what else is wrong is said a second time.
        Handle::make(library, backend, context, UPSAMPLING_WITH_INTERPOLATION)
            .or_else(|_| Handle::plain(library, backend, context))
    }

    /// As [`new`](Self::new), but one that repeats chroma, as nvJPEG does unless it is told
    /// otherwise: to compare with.
    pub fn plain(
        library: &Arc<Nvjpeg>,
        backend: Backend,
        context: &Context,
    ) -> Result<Arc<Handle>, GpuError> {
        Handle::make(library, backend, context, 0)
    }

    /// As [`new`](Self::new), but one that is told to refuse what does not follow JPEG's
    /// specification by the letter, where nvJPEG otherwise tries to decode it: to compare with.
    pub fn strict(
        library: &Arc<Nvjpeg>,
        backend: Backend,
        context: &Context,
    ) -> Result<Arc<Handle>, GpuError> {
        let flags = UPSAMPLING_WITH_INTERPOLATION | BITSTREAM_STRICT;
        Handle::make(library, backend, context, flags)
    }

    fn make(
        library: &Arc<Nvjpeg>,
        backend: Backend,
        context: &Context,
        flags: c_uint,
    ) -> Result<Arc<Handle>, GpuError> {
        let _current = context.enter()?;
        let (null, mut raw) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: null allocators stand for nvJPEG's own; `raw` is a live pointer.
        let status = unsafe { (library.api.create)(backend.number(), null, null, flags, &mut raw) };
        library.check("nvjpegCreateEx", status)?;
        Ok(Arc::new(Handle {
            library: library.clone(),
            context: context.clone(),
            backend,
            interpolates: flags & UPSAMPLING_WITH_INTERPOLATION != 0,
            raw,
        }))
    }

    /// What it was made with.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether subsampled chroma is interpolated, as libjpeg does it. An nvJPEG that does not know
    /// how repeats it, and its pixels differ more from the CPU's.
    pub fn interpolates(&self) -> bool {
        self.interpolates
    }

    /// The context that it was made in, and that its streams must be of.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The GPU's JPEG engines; meaningful where the backend is [`Backend::Hardware`].
    pub fn engines(&self) -> Result<Engines, GpuError> {
        let _current = self.enter()?;
        let (mut count, mut cores_each): (c_uint, c_uint) = (0, 0);
        // SAFETY: both are live ints.
        self.check("nvjpegGetHardwareDecoderInfo", unsafe {
            (self.api().get_hardware_decoder_info)(self.raw, &mut count, &mut cores_each)
        })?;
        Ok(Engines { count, cores_each })
    }

    pub(super) fn api(&self) -> &Api {
        &self.library.api
    }

    pub(super) fn raw(&self) -> Opaque {
        self.raw
    }

    pub(super) fn enter(&self) -> Result<Entered<'_>, GpuError> {
        self.context.enter()
    }

    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), GpuError> {
        self.library.check(call, status)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(_current) = self.enter() {
            // SAFETY: made by `new`, destroyed once; what was made with it holds it, and is gone.
            unsafe { (self.api().destroy)(self.raw) };
        }
    }
}

/// A thing of nvJPEG's that was made with a handle, and is destroyed by a function of its own.
pub(super) struct Owned {
    handle: Arc<Handle>,
    raw: Opaque,
    destroy: unsafe extern "C" fn(Opaque) -> c_int,
}

// SAFETY: nvJPEG's things belong to no thread, as long as one uses them at a time, which the
// `&mut self` of their owners' methods sees to; `raw` is never followed by us.
unsafe impl Send for Owned {}

impl Owned {
    /// `make` calls nvJPEG with a place for the pointer, in the handle's context.
    pub(super) fn new(
        handle: &Arc<Handle>,
        call: &'static str,
        make: impl FnOnce(&Api, Opaque, *mut Opaque) -> c_int,
        destroy: unsafe extern "C" fn(Opaque) -> c_int,
    ) -> Result<Owned, GpuError> {
        let _current = handle.enter()?;
        let mut raw = std::ptr::null_mut();
        handle.check(call, make(handle.api(), handle.raw(), &mut raw))?;
        Ok(Owned {
            handle: handle.clone(),
            raw,
            destroy,
        })
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(super) fn raw(&self) -> Opaque {
        self.raw
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Ok(_current) = self.handle.enter() {
            // SAFETY: `raw` was made by the function that `destroy` belongs to, and is
            // destroyed once, here.
            unsafe { (self.destroy)(self.raw) };
        }
    }
}
