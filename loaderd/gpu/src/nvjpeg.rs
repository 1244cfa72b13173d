//! nvJPEG, found and loaded at run time, behind owners that destroy what they made.
//!
//! Enters: [`Places`], a [`Context`](crate::cuda::Context), encoded bytes, places in device
//! memory. Leaves: pixels there, once the stream is done. Never: a choice of decoder, memory
//! for pixels, or trust that a success means that every image was written: some drivers
//! skip images and report success, so whoever decodes must look.
//!
//! **Threads.** A [`Handle`] may be used by several threads; a [`JpegStream`], a decoder's
//! state and its buffers by one at a time (nvJPEG's documentation, "Thread Safety"). So the
//! first is `Sync`, and the others take `&mut self`.
//!
//! **Context.** A handle belongs to the device that was current when it was made. Each call
//! makes its context current, and puts back what was there before.
//!
//! **Bytes and destinations** of a decode must stay until its stream is done; on H100 the
//! hardware decoder is known to start before work that was queued earlier in the stream is
//! done, so wait on the host until destinations are idle.

mod api;
mod batch;
mod handle;
mod hybrid;
mod stream;

use std::ffi::{OsStr, c_int};
use std::sync::Arc;

use crate::Version;
use crate::error::GpuError;
use crate::library::{self, SUCCESS};
use crate::places::Places;

use api::property;
pub(crate) use api::status;
pub use batch::BatchDecoder;
pub use handle::{Engines, Handle};
pub use hybrid::HybridDecoder;
pub use stream::{Frame, JpegStream, Params, ParsedJpeg, Scale};

/// An implementation (`nvjpegBackend_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// CUDA, with the Huffman codes read on the GPU where that is possible.
    GpuHybrid,
    /// The GPU's JPEG engines.
    Hardware,
}

impl Backend {
    fn number(self) -> c_int {
        match self {
            Backend::GpuHybrid => api::BACKEND_GPU_HYBRID,
            Backend::Hardware => api::BACKEND_HARDWARE,
        }
    }
}

/// Chroma subsampling as nvJPEG names it (`nvjpegChromaSubsampling_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsampling {
    /// 4:4:4, `NVJPEG_CSS_444`.
    S444 = 0,
    /// 4:2:2, `NVJPEG_CSS_422`.
    S422 = 1,
    /// 4:2:0, `NVJPEG_CSS_420`.
    S420 = 2,
    /// 4:4:0, `NVJPEG_CSS_440`.
    S440 = 3,
    /// 4:1:1, `NVJPEG_CSS_411`.
    S411 = 4,
    /// 4:1:0, `NVJPEG_CSS_410`.
    S410 = 5,
    /// One component, `NVJPEG_CSS_GRAY`.
    Grey = 6,
}

impl Subsampling {
    const ALL: [Subsampling; 7] = [
        Subsampling::S444,
        Subsampling::S422,
        Subsampling::S420,
        Subsampling::S440,
        Subsampling::S411,
        Subsampling::S410,
        Subsampling::Grey,
    ];

    fn number(self) -> c_int {
        self as c_int
    }

    fn of(number: c_int) -> Option<Subsampling> {
        Subsampling::ALL
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// Where an image goes: interleaved RGB, a byte a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The first pixel's address in device memory.
    pub address: u64,
    /// Bytes from a row to the next, at least three times the image's columns.
    pub pitch_bytes: usize,
}

/// nvJPEG's library. It stays loaded until the process ends.
pub struct Nvjpeg {
    api: api::Api,
    path: String,
    version: [u32; 3],
    built_for: Version,
}

impl Nvjpeg {
    /// Opens the candidate of `places` that has the highest version, the first of these, among
    /// those that are whole, and were not built for a CUDA of a later major version than `driver`,
    /// where that is given. Makes nothing on any device, and works without one.
    pub fn open(places: &Places, driver: Option<Version>) -> Result<Arc<Nvjpeg>, GpuError> {
        let mut tried = Vec::new();
        let mut best: Option<Nvjpeg> = None;
        for candidate in places.nvjpeg() {
            match Nvjpeg::load(&candidate, driver) {
                Ok(found) if best.as_ref().is_none_or(|it| it.version < found.version) => {
                    best = Some(found);
                }
                Ok(_) => {}
                Err(reason) => tried.push(format!("{}: {reason}", candidate.to_string_lossy())),
            }
        }
        if let Some(best) = best {
            return Ok(Arc::new(best));
        }
        if tried.is_empty() {
            tried.push("no toolkit, no Python environment that has it".into());
        }
        Err(GpuError::NoNvjpeg { tried })
    }

    fn load(candidate: &OsStr, driver: Option<Version>) -> Result<Nvjpeg, String> {
        let opened = library::Library::open(candidate)?;
        let api = api::Api::of(&opened).map_err(|symbol| format!("it lacks {symbol}"))?;
        let part = |function: unsafe extern "C" fn(c_int, *mut c_int) -> c_int, which| {
            let mut value: c_int = -1;
            // SAFETY: `value` is a live int; both functions need no handle and no device.
            let status = unsafe { function(which, &mut value) };
            match u32::try_from(value) {
                Ok(value) if status == SUCCESS => Ok(value),
                _ => Err("it does not say its version".to_owned()),
            }
        };
        let version = [
            part(api.get_property, property::MAJOR)?,
            part(api.get_property, property::MINOR)?,
            part(api.get_property, property::PATCH)?,
        ];
        let built_for = Version {
            major: part(api.get_cudart_property, property::MAJOR)?,
            minor: part(api.get_cudart_property, property::MINOR)?,
        };
        if let Some(driver) = driver
            && built_for.major > driver.major
        {
            return Err(format!(
                "built for CUDA {built_for}, and the driver offers {driver}"
            ));
        }
        Ok(Nvjpeg {
            api,
            path: candidate.to_string_lossy().into_owned(),
            version,
            built_for,
        })
    }

    /// The file, or the name by which the loader found it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its own version: major, minor, patch.
    pub fn version(&self) -> [u32; 3] {
        self.version
    }

    /// The CUDA that it was built for. A driver of that major version runs it.
    pub fn built_for(&self) -> Version {
        self.built_for
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), GpuError> {
        if status == SUCCESS {
            return Ok(());
        }
        Err(GpuError::Nvjpeg {
            call,
            name: status_name(status),
            status,
            library: self.path.clone(),
        })
    }
}

impl std::fmt::Debug for Nvjpeg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nvjpeg({}, {:?})", self.path, self.version)
    }
}

/// nvJPEG's name for a status (`nvjpegStatus_t`).
fn status_name(number: c_int) -> &'static str {
    match number {
        status::NOT_INITIALIZED => "NVJPEG_STATUS_NOT_INITIALIZED",
        status::INVALID_PARAMETER => "NVJPEG_STATUS_INVALID_PARAMETER",
        status::BAD_JPEG => "NVJPEG_STATUS_BAD_JPEG",
        status::JPEG_NOT_SUPPORTED => "NVJPEG_STATUS_JPEG_NOT_SUPPORTED",
        status::ALLOCATOR_FAILURE => "NVJPEG_STATUS_ALLOCATOR_FAILURE",
        status::EXECUTION_FAILED => "NVJPEG_STATUS_EXECUTION_FAILED",
        status::ARCH_MISMATCH => "NVJPEG_STATUS_ARCH_MISMATCH",
        status::INTERNAL_ERROR => "NVJPEG_STATUS_INTERNAL_ERROR",
        status::IMPLEMENTATION_NOT_SUPPORTED => "NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED",
        status::INCOMPLETE_BITSTREAM => "NVJPEG_STATUS_INCOMPLETE_BITSTREAM",
        _ => "a status that nvjpeg.h of CUDA 13 does not have",
    }
}
