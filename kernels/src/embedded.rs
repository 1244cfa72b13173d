//! The compiled kernels, as they are handed to the driver.
//!
//! Enters: a device's compute capability. Leaves: the image that runs there. Made by
//! `kernels/compile.py`, which `make check` runs again and compares. Never: a compiler at run time,
//! except the driver's own for PTX.

/// A module's image, for `cuModuleLoadData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedded {
    /// Machine code for this architecture, such as `sm_90`.
    Cubin(&'static str, &'static [u8]),
    /// Text that the driver compiles when it is loaded (0.1 to 1 s, once: drivers cache it), with
    /// a zero at its end. Drivers older than CUDA 13.0's (580) refuse it.
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

/// Devices below compute capability 8.0 have no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the device's compute capability is {major}.{minor}, and the kernels need 8.0 (A100) or later: \
     decode on CPU cores"
)]
pub struct TooOld {
    /// Of the device.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
}

const SM_80: &[u8] = include_bytes!("../embedded/sm_80.cubin");
const SM_90: &[u8] = include_bytes!("../embedded/sm_90.cubin");
const SM_100: &[u8] = include_bytes!("../embedded/sm_100.cubin");
const COMPUTE_80: &[u8] = include_bytes!("../embedded/compute_80.ptx");

/// The image for a device. Machine code runs on its own major version from its minor version on,
/// though not on the integrated devices 8.7 (Orin) and 10.1 (Thor); all others get PTX.
pub fn image_for(major: u32, minor: u32) -> Result<Embedded, TooOld> {
    match (major, minor) {
        (..=7, _) => Err(TooOld { major, minor }),
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
            let image = image_for(capability.0, capability.1).unwrap();
            assert_eq!(image.architecture(), expected, "{capability:?}");
            match image {
                // EM_CUDA, little-endian ELF of 64 bits.
                Embedded::Cubin(_, bytes) => {
                    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
                    assert_eq!(bytes[18..20], 190u16.to_le_bytes());
                }
                Embedded::Ptx(_, bytes) => assert_eq!(bytes.last(), Some(&0)),
            }
        }
        assert_eq!(
            image_for(7, 5).unwrap_err().to_string(),
            "the device's compute capability is 7.5, and the kernels need 8.0 (A100) or later: \
             decode on CPU cores"
        );
    }
}
