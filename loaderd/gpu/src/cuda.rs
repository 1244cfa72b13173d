//! The CUDA driver: whether it is there, its devices, and trials of what loaderd needs of it.
//!
//! Enters: [`Places`]. Leaves: a [`Driver`], its [`Device`]s, a [`Context`] on one of them, and
//! what lives in it: streams, events, memory, loaded kernels. Nothing is set up on a device before
//! [`Driver::context`]. Never: the CUDA runtime.
//!
//! We bind the few functions that we call ourselves. Generated bindings make a Rust enum of
//! `CUresult`, and a newer driver that returns a number from outside it is undefined behaviour.

mod api;
mod context;
mod device;
mod event;
mod memory;
mod module;
mod mps;
mod pinned;
mod trials;

use std::ffi::{CStr, c_char, c_int};
use std::path::Path;
use std::sync::Arc;

use crate::Version;
use crate::error::GpuError;
use crate::library::{Library, SUCCESS};
use crate::places::Places;

pub(crate) use api::result;
pub(crate) use context::Entered;
pub use context::{Context, Registered, Stream};
pub use device::{ComputeMode, Device};
pub use event::Event;
pub use memory::DeviceMemory;
pub use module::{Function, Module};
pub use mps::Mps;
pub use pinned::Pinned;

/// The least that a driver must offer: nvJPEG 12 needs it, and so do all functions called here.
pub const VERSION_MIN: Version = Version {
    major: 12,
    minor: 0,
};

/// The driver's library, opened and initialised. It stays loaded until the process ends.
pub struct Driver {
    api: api::Api,
    library: String,
    version: Version,
}

impl Driver {
    /// Opens and initialises the driver. Takes some milliseconds, and up to a second where the
    /// driver has to wake a device first.
    ///
    /// Fails where there is no driver, where it is older than [`VERSION_MIN`], and where it
    /// can't be initialised, which is also how it says that there is no device.
    pub fn open(places: &Places) -> Result<Arc<Driver>, GpuError> {
        let name = places.driver();
        let library = name.to_string_lossy().into_owned();
        let opened = Library::open(&name).map_err(|reason| GpuError::NoDriver {
            library: library.clone(),
            reason,
        })?;
        // Before anything else: an old driver lacks functions, and its age says why.
        let version = version_of(&opened, &library)?;
        if version < VERSION_MIN {
            return Err(GpuError::DriverTooOld {
                library,
                found: version,
                least: VERSION_MIN,
            });
        }
        let driver = match api::Api::of(&opened) {
            Ok(api) => Driver {
                api,
                library,
                version,
            },
            Err(symbol) => return Err(GpuError::DriverSymbol { library, symbol }),
        };
        // SAFETY: takes a number that must be 0, and may be called by any thread, repeatedly.
        driver.check("cuInit", unsafe { (driver.api.init)(0) })?;
        Ok(Arc::new(driver))
    }

    /// The library's name, or its path where that was given.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// The CUDA version that the driver offers.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The devices that this process may use, as `CUDA_VISIBLE_DEVICES` numbers them. Makes no
    /// context, and takes no memory on any of them.
    pub fn devices(&self) -> Result<Vec<Device>, GpuError> {
        let mut count = 0;
        // SAFETY: `count` is a live int.
        self.check("cuDeviceGetCount", unsafe {
            (self.api.device_get_count)(&mut count)
        })?;
        (0..count)
            .map(|ordinal| Device::read(self, ordinal))
            .collect()
    }

    /// The primary context of device `ordinal`, made by its first user: some hundred
    /// milliseconds, and some hundred megabytes on the device until the last owner is gone.
    /// nvJPEG, like all that stands on the CUDA runtime, uses the same one.
    pub fn context(self: &Arc<Driver>, ordinal: u32) -> Result<Context, GpuError> {
        Context::retain(self.clone(), ordinal)
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), GpuError> {
        if code == SUCCESS {
            return Ok(());
        }
        Err(GpuError::Driver {
            call,
            name: self.name_of(code),
            code,
            library: self.library.clone(),
        })
    }

    fn name_of(&self, code: c_int) -> String {
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: `name` is a live pointer; the driver takes any number.
        let status = unsafe { (self.api.get_error_name)(code, &mut name) };
        if status != SUCCESS || name.is_null() {
            return "an error that the driver has no name for".into();
        }
        // SAFETY: on success it is a terminated string that lives as long as the library.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_string_lossy().into_owned()
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({}, CUDA {})", self.library, self.version)
    }
}

/// The driver's version, by the one function that any driver has.
fn version_of(opened: &Library, library: &str) -> Result<Version, GpuError> {
    let missing = |symbol| GpuError::DriverSymbol {
        library: library.to_owned(),
        symbol,
    };
    let early = api::Early::of(opened).map_err(missing)?;
    let mut number = 0;
    // SAFETY: `number` is a live int; this may be called before cuInit.
    let code = unsafe { (early.driver_get_version)(&mut number) };
    if code != SUCCESS || number < 0 {
        return Err(GpuError::Driver {
            call: "cuDriverGetVersion",
            name: "it does not say its version".into(),
            code,
            library: library.to_owned(),
        });
    }
    // 1000 times major plus 10 times minor (cuda.h, cuDriverGetVersion).
    Ok(Version {
        major: number as u32 / 1000,
        minor: number as u32 % 1000 / 10,
    })
}

/// Whether one of NVIDIA's GPUs is plugged in, as the PCI bus below `root` (usually `/`) has
/// it, whatever drivers there are; or as the driver's own device files have it, where a container
/// shows no bus.
pub fn is_plugged_in(root: &Path) -> bool {
    let entries = |folder| std::fs::read_dir(root.join(folder));
    let is_device = |name: &str| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut files = entries("dev").into_iter().flatten().flatten();
    if files.any(|file| is_device(&file.file_name().to_string_lossy())) {
        return true;
    }
    let mut devices = (entries("sys/bus/pci/devices").into_iter())
        .flatten()
        .flatten();
    devices.any(|device| {
        let says = |file: &str, value: &str| {
            std::fs::read_to_string(device.path().join(file))
                .is_ok_and(|text| text.starts_with(value))
        };
        // Display controllers (class 03) of vendor 10de; its sound and network cards are not.
        says("vendor", "0x10de") && says("class", "0x03")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_told_from_its_sound_card() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_plugged_in(root.path()));
        let plug = |slot: &str, vendor: &str, class: &str| {
            let folder = root.path().join("sys/bus/pci/devices").join(slot);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("vendor"), vendor).unwrap();
            std::fs::write(folder.join("class"), class).unwrap();
        };
        plug("0000:01:00.1", "0x10de\n", "0x040300\n");
        plug("0000:02:00.0", "0x1002\n", "0x030000\n");
        assert!(!is_plugged_in(root.path()));
        plug("0000:01:00.0", "0x10de\n", "0x030200\n");
        assert!(is_plugged_in(root.path()));
    }

    #[test]
    fn a_gpu_without_a_bus_has_its_drivers_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dev")).unwrap();
        for (name, is_one) in [
            ("nvidiactl", false),
            ("nvidia-uvm", false),
            ("nvidia3", true),
        ] {
            std::fs::write(root.path().join("dev").join(name), "").unwrap();
            assert_eq!(is_plugged_in(root.path()), is_one, "{name}");
        }
    }
}
