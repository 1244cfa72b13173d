//! The few functions of the CUDA driver that pinned slots need, where this process has them.
//!
//! Enters: a libcuda that somebody else has loaded and initialised. Leaves: its active primary
//! contexts, and events in them. Never: a library loaded, the driver initialised or a context
//! made by us; a process without CUDA stays one. `loaderd/gpu/headers.py` compares all that is
//! declared here with cuda.h: a quoted name is the header's for what follows it.
//!
//! References are to the "CUDA Driver API" manual, whose sections are named after functions.

use std::ffi::{CStr, OsString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_LAZY};

/// `RTLD_NOLOAD` of dlfcn.h: opens what is loaded already, and nothing else.
const RTLD_NOLOAD: c_int = 4;
/// `CU_MEMHOSTREGISTER_PORTABLE`: pinned for all contexts, also those to come.
const PORTABLE: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC` and `CU_EVENT_DISABLE_TIMING`: who waits for it sleeps.
const EVENT_FLAGS: c_uint = 3;
/// `CU_STREAM_LEGACY`, the stream that waits for all blocking ones.
const STREAM_LEGACY: u64 = 1;
/// `CU_STREAM_CAPTURE_STATUS_NONE`
const NOT_CAPTURING: c_int = 0;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`
const RELAXED: c_int = 2;
/// `CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES`
const USES_HOST_PAGE_TABLES: c_int = 100;
/// `CUDA_SUCCESS`
const SUCCESS: c_int = 0;
/// `CUDA_ERROR_OUT_OF_MEMORY`
const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NOT_READY`: of an event that is still to come.
const NOT_READY: c_int = 600;
/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`, the first of nine that tell of a capture.
const CAPTURE_UNSUPPORTED: c_int = 900;
/// `CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD`, the last of them.
const CAPTURE_WRONG_THREAD: c_int = 908;
/// Errors after which a context runs nothing any more: all of which cuda.h says that the process
/// must be ended, and those of a context or driver that is no more. Of memory that is broken it
/// says nothing, so the context itself is asked.
const STICKY: [c_int; 15] = [
    4,   // `CUDA_ERROR_DEINITIALIZED`
    226, // `CUDA_ERROR_CONTAINED`
    700, // `CUDA_ERROR_ILLEGAL_ADDRESS`
    702, // `CUDA_ERROR_LAUNCH_TIMEOUT`
    709, // `CUDA_ERROR_CONTEXT_IS_DESTROYED`
    710, // `CUDA_ERROR_ASSERT`
    714, // `CUDA_ERROR_HARDWARE_STACK_ERROR`
    715, // `CUDA_ERROR_ILLEGAL_INSTRUCTION`
    716, // `CUDA_ERROR_MISALIGNED_ADDRESS`
    717, // `CUDA_ERROR_INVALID_ADDRESS_SPACE`
    718, // `CUDA_ERROR_INVALID_PC`
    719, // `CUDA_ERROR_LAUNCH_FAILED`
    721, // `CUDA_ERROR_TENSOR_MEMORY_LEAK`
    810, // `CUDA_ERROR_MPS_CLIENT_TERMINATED`
    911, // `CUDA_ERROR_EXTERNAL_DEVICE`
];

/// What only the driver follows.
type Opaque = *mut c_void;
/// `CUcontext`
type RawContext = Opaque;
/// `CUevent`
type RawEvent = Opaque;
/// `CUstream`
type RawStream = Opaque;

/// Function pointers by name: a struct that is whole, or was not made.
macro_rules! functions {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident = $symbol:literal : fn($($kind:ty),* $(,)?);)* }) => {
        $(#[$meta])*
        struct $name {
            $($field: unsafe extern "C" fn($($kind),*) -> c_int,)*
        }

        impl $name {
            fn of(library: &Library) -> Option<$name> {
                Some($name {
                    $($field: {
                        // SAFETY: cuda.h of CUDA 12 and 13 declares `symbol` with this type;
                        // `Driver` keeps the library open.
                        *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }.ok()?
                    },)*
                })
            }
        }
    };
}

functions! {
    struct Api {
        get_error_name = "cuGetErrorName": fn(c_int, *mut *const c_char);
        device_get_count = "cuDeviceGetCount": fn(*mut c_int);
        device_get = "cuDeviceGet": fn(*mut c_int, c_int);
        device_get_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
        primary_ctx_get_state = "cuDevicePrimaryCtxGetState": fn(c_int, *mut c_uint, *mut c_int);
        primary_ctx_retain = "cuDevicePrimaryCtxRetain": fn(*mut RawContext, c_int);
        ctx_push_current = "cuCtxPushCurrent_v2": fn(RawContext);
        ctx_pop_current = "cuCtxPopCurrent_v2": fn(*mut RawContext);
        ctx_synchronize = "cuCtxSynchronize": fn();
        mem_host_register = "cuMemHostRegister_v2": fn(*mut c_void, usize, c_uint);
        mem_host_unregister = "cuMemHostUnregister": fn(*mut c_void);
        event_create = "cuEventCreate": fn(*mut RawEvent, c_uint);
        event_query = "cuEventQuery": fn(RawEvent);
        event_synchronize = "cuEventSynchronize": fn(RawEvent);
        event_destroy = "cuEventDestroy_v2": fn(RawEvent);
        stream_is_capturing = "cuStreamIsCapturing": fn(RawStream, *mut c_int);
        exchange_capture_mode = "cuThreadExchangeStreamCaptureMode": fn(*mut c_int);
    }
}

functions! {
    /// From CUDA 12.5 on.
    struct Recording {
        ctx_record_event = "cuCtxRecordEvent": fn(RawContext, RawEvent);
    }
}

/// What a call of the driver's returned.
#[derive(Debug, Clone)]
pub(crate) struct CudaError {
    call: &'static str,
    name: String,
    code: c_int,
}

impl CudaError {
    /// Whether the same call may succeed later: a stream is being captured, or memory is short.
    pub(crate) fn passes(&self) -> bool {
        self.code == OUT_OF_MEMORY || is_of_capture(self.code)
    }

    /// Whether the context is of no use from now on, so that its work has ended. Of all other
    /// errors nothing is known.
    pub(crate) fn is_sticky(&self) -> bool {
        STICKY.contains(&self.code)
    }

    /// Whether a capture has been disturbed.
    pub(crate) fn disturbed_capture(&self) -> bool {
        is_of_capture(self.code)
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.call, self.name, self.code)
    }
}

fn is_of_capture(code: c_int) -> bool {
    (CAPTURE_UNSUPPORTED..=CAPTURE_WRONG_THREAD).contains(&code)
}

/// The driver, as this process has it loaded.
pub(crate) struct Driver {
    api: Api,
    recording: Option<Recording>,
    /// Never closed: the driver keeps threads and exit handlers of its own.
    _library: mem::ManuallyDrop<Library>,
}

impl Driver {
    /// The driver that somebody has loaded: `LOADERD_LIBCUDA`, else `libcuda.so.1`. `None` where
    /// nobody has, or where it lacks functions that all drivers since CUDA 12.0 have.
    pub(crate) fn loaded() -> Option<Arc<Driver>> {
        let given = std::env::var_os("LOADERD_LIBCUDA").filter(|name| !name.is_empty());
        let name = given.unwrap_or_else(|| OsString::from("libcuda.so.1"));
        // SAFETY: nothing is loaded, so no initialiser runs.
        let library = unsafe { Library::open(Some(name), RTLD_LAZY | RTLD_NOLOAD) }.ok()?;
        let api = Api::of(&library)?;
        Some(Arc::new(Driver {
            recording: Recording::of(&library),
            api,
            _library: mem::ManuallyDrop::new(library),
        }))
    }

    /// Whether all work of a context can be waited for without a word to its streams.
    pub(crate) fn records_contexts(&self) -> bool {
        self.recording.is_some()
    }

    /// The devices whose primary context is active. Each costs one call that changes nothing;
    /// none are there before somebody has initialised CUDA (cuDevicePrimaryCtxGetState).
    pub(crate) fn active_devices(&self) -> Vec<c_int> {
        let mut count = 0;
        // SAFETY: `count` is a live int.
        if unsafe { (self.api.device_get_count)(&mut count) } != SUCCESS {
            return Vec::new();
        }
        let is_active = |ordinal: c_int| {
            let (mut device, mut flags, mut active) = (0, 0, 0);
            // SAFETY: all three are live, and the second call gets what the first has named.
            let code = unsafe {
                match (self.api.device_get)(&mut device, ordinal) {
                    SUCCESS => (self.api.primary_ctx_get_state)(device, &mut flags, &mut active),
                    code => code,
                }
            };
            (code == SUCCESS && active != 0).then_some(device)
        };
        (0..count).filter_map(is_active).collect()
    }

    /// Lets this thread make calls beside captures of others until the answer is dropped, as
    /// cuThreadExchangeStreamCaptureMode offers. Without it, making an event or pinning memory
    /// while another thread captures would break that capture.
    pub(crate) fn relax(&self) -> Relaxed<'_> {
        Relaxed {
            driver: self,
            before: self.exchange_capture_mode(RELAXED),
        }
    }

    /// The thread's mode before; `None` where it could not be changed.
    fn exchange_capture_mode(&self, mode: c_int) -> Option<c_int> {
        let mut mode = mode;
        // SAFETY: `mode` is a live int with a number of the enum.
        let code = unsafe { (self.api.exchange_capture_mode)(&mut mode) };
        (code == SUCCESS).then_some(mode)
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == SUCCESS {
            return Ok(());
        }
        let mut name: *const c_char = ptr::null();
        // SAFETY: `name` is a live pointer; the driver takes any number, and on success gives a
        // terminated string that lives as long as the library.
        let name = unsafe {
            match (self.api.get_error_name)(code, &mut name) {
                SUCCESS if !name.is_null() => CStr::from_ptr(name).to_string_lossy().into_owned(),
                _ => "an error that the driver has no name for".into(),
            }
        };
        Err(CudaError { call, name, code })
    }
}

/// See [`Driver::relax`].
pub(crate) struct Relaxed<'a> {
    driver: &'a Driver,
    before: Option<c_int>,
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            self.driver.exchange_capture_mode(before);
        }
    }
}

/// A device's primary context, which stays as long as the process: what is pinned belongs to it.
#[derive(Clone)]
pub(crate) struct Context {
    driver: Arc<Driver>,
    /// As the driver names it.
    pub(crate) device: c_int,
    raw: RawContext,
}

// SAFETY: a context may be made current by any thread, and by several (cuCtxPushCurrent); `raw`
// is never followed by us.
unsafe impl Send for Context {}
// SAFETY: as above; nothing here changes after it was made.
unsafe impl Sync for Context {}

impl Context {
    /// The context of a device of [`Driver::active_devices`].
    pub(crate) fn of(driver: &Arc<Driver>, device: c_int) -> Result<Context, CudaError> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a live pointer; the driver has named `device`.
        driver.check("cuDevicePrimaryCtxRetain", unsafe {
            (driver.api.primary_ctx_retain)(&mut raw, device)
        })?;
        Ok(Context {
            driver: Arc::clone(driver),
            device,
            raw,
        })
    }

    /// Whether the device reads memory that is not pinned as it reads pinned memory: beside the
    /// program, and not within the call that copies (Grace Hopper does).
    pub(crate) fn reads_all_memory(&self) -> bool {
        let mut value = 0;
        // SAFETY: `value` is a live int.
        let code = unsafe {
            (self.driver.api.device_get_attribute)(&mut value, USES_HOST_PAGE_TABLES, self.device)
        };
        code == SUCCESS && value != 0
    }

    /// Pins host memory. Takes time by its size (the driver touches each page).
    ///
    /// # Safety
    /// `[start, start + bytes)` is mapped, and stays so until [`Context::unregister`].
    pub(crate) unsafe fn register(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let driver = &self.driver;
        let _relaxed = driver.relax();
        self.within(|| {
            // SAFETY: the caller says that the range is mapped; the driver refuses what it can't
            // pin.
            let code =
                unsafe { (driver.api.mem_host_register)(start.as_ptr().cast(), bytes, PORTABLE) };
            driver.check("cuMemHostRegister", code)
        })
    }

    /// Takes a registration back. An error leaves it to the process's end.
    pub(crate) fn unregister(&self, start: NonNull<u8>) {
        let driver = &self.driver;
        let _relaxed = driver.relax();
        let _ = self.within(|| {
            // SAFETY: the driver refuses what is not the start of a registration.
            let code = unsafe { (driver.api.mem_host_unregister)(start.as_ptr().cast()) };
            driver.check("cuMemHostUnregister", code)
        });
    }

    /// Whether a stream is known to be captured: one of `streams`, or any that waits for the
    /// legacy default stream. Disturbs none (cuStreamIsCapturing).
    pub(crate) fn is_capturing(&self, streams: &[u64]) -> bool {
        let api = &self.driver.api;
        let asked = self.within(|| {
            let captures = streams.iter().chain([&STREAM_LEGACY]).any(|&stream| {
                let mut status = 0;
                // SAFETY: `status` is a live int; streams are the framework's own, and alive.
                let code = unsafe { (api.stream_is_capturing)(stream as RawStream, &mut status) };
                is_of_capture(code) || (code == SUCCESS && status != NOT_CAPTURING)
            });
            Ok(captures)
        });
        asked.unwrap_or(false)
    }

    /// An event that comes when all work is done that the context was given by now, on whatever
    /// stream (cuCtxRecordEvent). "If the specified context has a stream in the capture mode
    /// [...] the call will invalidate all the conflicting captures": ask `is_capturing` before.
    pub(crate) fn record(&self) -> Result<Event, CudaError> {
        let driver = &self.driver;
        let recording = driver.recording.as_ref().expect("asked for before pinning");
        self.within(|| {
            let mut raw = ptr::null_mut();
            // SAFETY: `raw` is a live pointer, and a context is current.
            let code = unsafe { (driver.api.event_create)(&mut raw, EVENT_FLAGS) };
            driver.check("cuEventCreate", code)?;
            let event = Event {
                context: self.clone(),
                raw,
            };
            // SAFETY: the event was made in this context.
            let code = unsafe { (recording.ctx_record_event)(self.raw, event.raw) };
            driver.check("cuCtxRecordEvent", code)?;
            Ok(event)
        })
    }

    /// Blocks until all work is done that the context was given by now, and breaks captures as
    /// `record` does: for what no event could be recorded behind.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        let driver = &self.driver;
        self.within(|| {
            // SAFETY: a context is current.
            let code = unsafe { (driver.api.ctx_synchronize)() };
            driver.check("cuCtxSynchronize", code)
        })
    }

    /// Runs `call` with the context current for this thread, and puts back what was.
    fn within<T>(&self, call: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
        let driver = &self.driver;
        // SAFETY: the context was retained, and is never released.
        driver.check("cuCtxPushCurrent", unsafe {
            (driver.api.ctx_push_current)(self.raw)
        })?;
        let result = call();
        let mut popped = ptr::null_mut();
        // SAFETY: pushed above, by this thread; `popped` is live.
        unsafe { (driver.api.ctx_pop_current)(&mut popped) };
        result
    }
}

/// See [`Context::record`].
pub(crate) struct Event {
    pub(crate) context: Context,
    raw: RawEvent,
}

// SAFETY: events may be used by any thread; `raw` is never followed by us.
unsafe impl Send for Event {}

impl Event {
    /// Whether the work is done. Never blocks.
    pub(crate) fn has_come(&self) -> Result<bool, CudaError> {
        let driver = &self.context.driver;
        self.context.within(|| {
            // SAFETY: the event lives as long as `self`.
            match unsafe { (driver.api.event_query)(self.raw) } {
                NOT_READY => Ok(false),
                code => driver.check("cuEventQuery", code).map(|()| true),
            }
        })
    }

    /// Blocks until the work is done. An error is that of the work, or of the context.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        let driver = &self.context.driver;
        self.context.within(|| {
            // SAFETY: the event lives as long as `self`.
            let code = unsafe { (driver.api.event_synchronize)(self.raw) };
            driver.check("cuEventSynchronize", code)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let driver = &self.context.driver;
        let _ = self.context.within(|| {
            // SAFETY: made by `record`, and destroyed once, here.
            let code = unsafe { (driver.api.event_destroy)(self.raw) };
            driver.check("cuEventDestroy", code)
        });
    }
}
