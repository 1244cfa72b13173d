//! The compiled kernels, as they are handed to the driver.
//!
//! Enters: a device's compute capability, its driver's version. Leaves: the image that runs there. Made by
//! `kernels/compile.py`, which `make check` runs again and compares. Never: a compiler at run time,
//! except the driver's own for PTX.

/// A module's image, for `cuModuleLoadData` of a driver of [`DRIVER_MIN`] or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedded {
    /// Machine code for this architecture, such as `sm_90`.
    Cubin(&'static str, &'static [u8]),
    /// Text that the driver compiles when it is loaded (0.1 to 1 s, once: drivers cache it), with
    /// a zero at its end.
    Ptx(&'static str, &'static [u8]),
}

impl Embedded {
    /// The architecture it was compiled for.
    pub fn architecture(&self) -> &'static str {
        match self {
            Embedded::Cubin(name, _) | Embedded::Ptx(name, _) => name,
        }
    }

    /// What the driver is given.
    pub fn bytes(&self) -> &'static [u8] {
        match self {
            Embedded::Cubin(_, bytes) | Embedded::Ptx(_, bytes) => bytes,
        }
    }
}

/// The least version of the driver, as `cuDriverGetVersion` gives it: CUDA 13.0's, which compiled
/// the images. Older ones refuse its PTX (version 9.0), and probably its machine code, whose ELF
/// header has an ABI (0x41, version 8) that CUDA 12 does not write. That is read from the files and
/// the documentation: no image has been loaded by any driver, for want of a GPU.
pub const DRIVER_MIN: u32 = 13_000;

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoImage {
    /// Devices below compute capability 8.0 have none.
    #[error(
        "the device's compute capability is {major}.{minor}, and the kernels need 8.0 (A100) or \
         later: decode on CPU cores"
    )]
    Device {
        /// Of the device.
        major: u32,
        /// Of the device.
        minor: u32,
    },
    /// Drivers below [`DRIVER_MIN`] are given none.
    #[error(
        "the driver offers CUDA {}.{}, and the kernels need 13.0: install NVIDIA's driver 580 or \
         later; until then, decode on CPU cores",
        .found / 1000,
        .found % 1000 / 10
    )]
    Driver {
        /// The driver's version.
        found: u32,
    },
}

/// Bytes from an address on that suits any word that a driver reads of an ELF file in place.
#[repr(C, align(64))]
struct Aligned<Bytes>(Bytes);

const SM_80: &[u8] = &Aligned(*include_bytes!("../embedded/sm_80.cubin")).0;
const SM_90: &[u8] = &Aligned(*include_bytes!("../embedded/sm_90.cubin")).0;
const SM_100: &[u8] = &Aligned(*include_bytes!("../embedded/sm_100.cubin")).0;
const COMPUTE_80: &[u8] = &Aligned(*include_bytes!("../embedded/compute_80.ptx")).0;

/// The image for a device of this compute capability, under a driver of this version
/// (`cuDriverGetVersion`'s: 13000 is CUDA 13.0). Machine code runs on its own major version from its
/// minor version on, though not on the integrated devices 8.7 (Orin) and 10.1 (Thor); all others
/// get PTX.
pub fn image_for(major: u32, minor: u32, driver: u32) -> Result<Embedded, NoImage> {
    match (major, minor) {
        (..=7, _) => Err(NoImage::Device { major, minor }),
        _ if driver < DRIVER_MIN => Err(NoImage::Driver { found: driver }),
        (8, 7) | (10, 1) => Ok(Embedded::Ptx("compute_80", COMPUTE_80)),
        (8, _) => Ok(Embedded::Cubin("sm_80", SM_80)),
        (9, _) => Ok(Embedded::Cubin("sm_90", SM_90)),
        (10, _) => Ok(Embedded::Cubin("sm_100", SM_100)),
        _ => Ok(Embedded::Ptx("compute_80", COMPUTE_80)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_gets_what_runs_there() {
        for (capability, expected) in [
            ((8, 0), "sm_80"),
            ((8, 6), "sm_80"),
            ((8, 7), "compute_80"),
            ((8, 9), "sm_80"),
            ((9, 0), "sm_90"),
            ((10, 0), "sm_100"),
            ((10, 1), "compute_80"),
            ((10, 3), "sm_100"),
            ((11, 0), "compute_80"),
            ((12, 0), "compute_80"),
        ] {
            let image = image_for(capability.0, capability.1, 13_010).unwrap();
            assert_eq!(image.architecture(), expected, "{capability:?}");
            assert_eq!(image.bytes().as_ptr().addr() % 64, 0, "{expected}");
            match image {
                // EM_CUDA, little-endian ELF of 64 bits.
                Embedded::Cubin(_, bytes) => {
                    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
                    // Why older drivers are given none.
                    assert_eq!(bytes[7..9], [0x41, 8]);
                    assert_eq!(bytes[18..20], 190u16.to_le_bytes());
                }
                Embedded::Ptx(_, bytes) => assert_eq!(bytes.last(), Some(&0)),
            }
        }
    }

    #[test]
    fn what_runs_nowhere_is_refused() {
        let check = |(major, minor), driver, expected: &str| {
            let refused = image_for(major, minor, driver).unwrap_err();
            assert_eq!(refused.to_string(), expected);
        };
        let device = "the device's compute capability is 7.5, and the kernels need 8.0 (A100) or \
                      later: decode on CPU cores";
        check((7, 5), 13_000, device);
        // A newer driver would not help.
        check((7, 5), 12_080, device);
        for capability in [(8, 0), (8, 7), (9, 0), (10, 3), (12, 0)] {
            check(
                capability,
                12_090,
                "the driver offers CUDA 12.9, and the kernels need 13.0: install NVIDIA's driver \
                 580 or later; until then, decode on CPU cores",
            );
            image_for(capability.0, capability.1, DRIVER_MIN).unwrap();
        }
    }
}
