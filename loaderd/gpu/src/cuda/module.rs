//! The compiled kernels on a device, and how they are started.
//!
//! Enters: an image of [`loaderd_kernels`], a grid, arguments. Leaves: work queued on a stream.
//! Never: a look at what a kernel did; errors of its own come with a later call on the stream.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use loaderd_kernels::Embedded;
use loaderd_kernels::launch::Launch;

use super::api::Opaque;
use super::{Context, Stream};
use crate::error::GpuError;

/// An image that the driver has loaded. Dropped with its last function, it is unloaded.
pub struct Module {
    loaded: Arc<Loaded>,
}

struct Loaded {
    context: Context,
    raw: Opaque,
}

// SAFETY: modules belong to no thread; `raw` is never followed by us.
unsafe impl Send for Loaded {}
// SAFETY: as above; nothing here changes after it was made.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: loaded by `Context::load`, and unloaded once, here.
            unsafe { (self.context.driver().api.module_unload)(self.raw) };
        }
    }
}

impl Context {
    /// Loads compiled kernels. Takes milliseconds, and up to a second where the driver has to
    /// compile PTX first.
    pub fn load(&self, image: &Embedded) -> Result<Module, GpuError> {
        let driver = self.driver();
        let _current = self.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a live pointer; an embedded image is a whole cubin, which says its own
        // length, or PTX with a zero at its end.
        driver.check("cuModuleLoadData", unsafe {
            (driver.api.module_load_data)(&mut raw, image.bytes().as_ptr().cast::<c_void>())
        })?;
        Ok(Module {
            loaded: Arc::new(Loaded {
                context: self.clone(),
                raw,
            }),
        })
    }
}

impl Module {
    /// The kernel of this name.
    pub fn function(&self, entry: &'static str) -> Result<Function, GpuError> {
        let driver = self.loaded.context.driver();
        let _current = self.loaded.context.enter()?;
        let name = CString::new(entry).expect("entry points have no zero in their names");
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a live pointer, the module is loaded, and `name` ends in a zero.
        driver.check("cuModuleGetFunction", unsafe {
            (driver.api.module_get_function)(&mut raw, self.loaded.raw, name.as_ptr())
        })?;
        Ok(Function {
            module: self.loaded.clone(),
            entry,
            raw,
        })
    }
}

/// A kernel.
pub struct Function {
    module: Arc<Loaded>,
    entry: &'static str,
    raw: Opaque,
}

// SAFETY: functions belong to no thread, and may be started by several; `raw` is never followed
// by us.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Queues a run of the kernel.
    ///
    /// # Safety
    ///
    /// `arguments` point to live values, as many and of the types that the kernel takes; they are
    /// read before this returns. Addresses among them are of memory that the device can reach, of
    /// the size that the kernel believes it has, until `stream` is done.
    pub unsafe fn launch(
        &self,
        launch: &Launch,
        arguments: &mut [*mut c_void],
        stream: &Stream,
    ) -> Result<(), GpuError> {
        assert_eq!(launch.entry, self.entry, "another kernel's grid");
        let context = &self.module.context;
        let driver = context.driver();
        let _current = context.enter()?;
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the function is of a loaded module; the caller answers for the arguments.
        driver.check("cuLaunchKernel", unsafe {
            (driver.api.launch_kernel)(
                self.raw,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                0,
                stream.raw_in(context),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}
