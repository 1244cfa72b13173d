//! What can be wrong with a GPU and its libraries, with the facts and the way out.

use crate::Version;
use crate::cuda::result;
use crate::nvjpeg::status;

/// Why a GPU, or nvJPEG, can't be used. Displayed, it says what was found; [`mend`](Self::mend)
/// says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The driver's library can't be opened.
    #[error("{library} can't be opened: {reason}")]
    NoDriver {
        /// Its name, or the path that was given.
        library: String,
        /// The loader's words.
        reason: String,
    },
    /// The driver is older than what we ask for.
    #[error("{library} offers CUDA {found}, and {least} is the least")]
    DriverTooOld {
        /// The driver's library.
        library: String,
        /// What it offers.
        found: Version,
        /// What is needed.
        least: Version,
    },
    /// The driver's library lacks a function.
    #[error("{library} lacks {symbol}")]
    DriverSymbol {
        /// The driver's library.
        library: String,
        /// The function's name.
        symbol: &'static str,
    },
    /// A call of the driver's failed.
    #[error("{call}: {name} ({code}), by {library}")]
    Driver {
        /// The function called.
        call: &'static str,
        /// The driver's name for the error.
        name: String,
        /// Its number.
        code: i32,
        /// The driver's library.
        library: String,
    },
    /// No nvJPEG was found that could be used.
    #[error("no nvJPEG: {}", tried.join("; "))]
    NoNvjpeg {
        /// What was tried, and why it was not taken.
        tried: Vec<String>,
    },
    /// A call of nvJPEG's failed.
    #[error("{call}: {name} ({status}), by {library}")]
    Nvjpeg {
        /// The function called.
        call: &'static str,
        /// nvJPEG's name for the status.
        name: &'static str,
        /// Its number.
        status: i32,
        /// The library's file.
        library: String,
    },
    /// There are no kernels for the device, or its driver.
    #[error("{0}")]
    NoKernels(loaderd_kernels::NoImage),
    /// Neither of nvJPEG's decoders can be used.
    #[error("nvJPEG decodes nothing here: {}", reasons.join("; "))]
    NoDecoder {
        /// Why, decoder by decoder.
        reasons: Vec<String>,
    },
    /// A decoder has refused whatever it was given.
    #[error(
        "{decoder}: nvJPEG has refused {pictures} pictures in a row{}",
        of_last(last)
    )]
    Futile {
        /// Which of nvJPEG's.
        decoder: &'static str,
        /// How many.
        pictures: u64,
        /// The last error that it gave for one; none where it said nothing, or reported successes.
        last: Option<Box<GpuError>>,
    },
    /// A batch was begun, and no end is in sight.
    #[error("{decoder}: a batch has no end after {seconds} s: the device does not answer")]
    Silent {
        /// Which of nvJPEG's.
        decoder: &'static str,
        /// Since it was begun.
        seconds: u64,
    },
    /// A thread of ours has panicked.
    #[error("a thread that decodes on the GPU has panicked")]
    Panicked,
    /// What a unit may take of the device's memory is not enough.
    #[error("{found} bytes of GPU memory are too few, {least} are the least")]
    Memory {
        /// What it may take.
        found: u64,
        /// What it needs.
        least: u64,
    },
    /// The kernel refused something.
    #[error("{what}: {reason}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The kernel's words.
        reason: String,
    },
}

impl GpuError {
    /// The way out, as a sentence without a period.
    pub fn mend(&self) -> &'static str {
        match self {
            GpuError::NoDriver { .. } => {
                "install NVIDIA's driver, 525 or later; in a container, run it with `--gpus all`; \
                 LOADERD_LIBCUDA names a libcuda elsewhere"
            }
            GpuError::DriverTooOld { .. } => {
                "install NVIDIA's driver 525 or later (580 or later for CUDA 13)"
            }
            GpuError::DriverSymbol { .. } => {
                "install NVIDIA's driver anew: this library is none of theirs, or not whole; unset \
                 LOADERD_LIBCUDA"
            }
            GpuError::Driver { code, call, .. } => driver_mend(*code, call),
            GpuError::NoNvjpeg { .. } => {
                "pip install nvidia-nvjpeg (CUDA 13) or nvidia-nvjpeg-cu12 into the environment \
                 that trains, or name the file with LOADERD_NVJPEG"
            }
            GpuError::Nvjpeg { status, .. } => nvjpeg_mend(*status),
            GpuError::NoKernels(_) => {
                "decode on CPU cores, or update the driver to 580 or later where it is older"
            }
            GpuError::NoDecoder { .. } => {
                "see `nvidia-smi`; name another nvJPEG with LOADERD_NVJPEG; or decode on CPU cores"
            }
            GpuError::Futile { .. } => {
                "name another nvJPEG with LOADERD_NVJPEG; until then, CPU cores decode instead"
            }
            GpuError::Silent { .. } => {
                "see whether `nvidia-smi` answers, and the kernel's log (`dmesg`); reset the GPU, or \
                 restart the machine"
            }
            GpuError::Panicked => "report it, with the words on stderr",
            GpuError::Memory { .. } => "give it that much, or decode on CPU cores",
            GpuError::System { .. } => {
                "free some memory; let memfd_create through the seccomp filter"
            }
        }
    }
}

fn of_last(last: &Option<Box<GpuError>>) -> String {
    (last.as_ref()).map_or_else(String::new, |error| format!("; its last error: {error}"))
}

fn driver_mend(code: i32, call: &str) -> &'static str {
    match code {
        result::INVALID_VALUE | result::OUT_OF_MEMORY if call == "cuMemHostRegister" => {
            "free some memory; a container or virtual machine may forbid its driver to pin memory"
        }
        result::OUT_OF_MEMORY => "free memory on the GPU: `nvidia-smi` shows who has it",
        result::STUB_LIBRARY => {
            "this is the toolkit's stub: take its folder off LD_LIBRARY_PATH, and install \
             NVIDIA's driver"
        }
        result::DEVICE_UNAVAILABLE => {
            "another process has the GPU for itself, or it takes none: `nvidia-smi -c DEFAULT`, \
             or use MPS"
        }
        result::NO_DEVICE => {
            "no GPU is given to this process: see CUDA_VISIBLE_DEVICES; in a container, run it \
             with `--gpus all`"
        }
        result::NOT_PERMITTED | result::NOT_SUPPORTED => {
            "this GPU, or how it is handed to this machine, does not offer that"
        }
        result::SYSTEM_NOT_READY => {
            "start the fabric manager: `systemctl start nvidia-fabricmanager`"
        }
        result::SYSTEM_DRIVER_MISMATCH => {
            "the kernel's driver and libcuda are of different versions: restart the machine, or \
             the container after the host's driver was changed"
        }
        result::COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "remove the CUDA compatibility package, or install a driver that it knows"
        }
        result::MPS_CONNECTION_FAILED..=result::MPS_CLIENT_TERMINATED => {
            "start the MPS control daemon anew (`nvidia-cuda-mps-control -d`), or unset \
             CUDA_MPS_PIPE_DIRECTORY"
        }
        result::UNKNOWN => "load the driver's module (`nvidia-modprobe -u -c 0`), and see `dmesg`",
        _ => "see `nvidia-smi` and the kernel's log (`dmesg`)",
    }
}

fn nvjpeg_mend(status: i32) -> &'static str {
    match status {
        status::BAD_JPEG | status::JPEG_NOT_SUPPORTED | status::INCOMPLETE_BITSTREAM => {
            "such an image is decoded on the CPU instead"
        }
        status::ALLOCATOR_FAILURE => "free memory on the GPU: `nvidia-smi` shows who has it",
        status::EXECUTION_FAILED | status::INTERNAL_ERROR => {
            "see `nvidia-smi`; a driver older than the library gives this as well: update it, or \
             name an older nvJPEG with LOADERD_NVJPEG"
        }
        status::ARCH_MISMATCH | status::IMPLEMENTATION_NOT_SUPPORTED => {
            "on A100, H100 and later, in a container: \
             NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; other GPUs have no such decoder"
        }
        _ => "name another nvJPEG with LOADERD_NVJPEG",
    }
}
