//! What the driver says of a device.

use std::ffi::{CStr, c_char, c_int};

use super::Driver;
use super::api::{attribute, compute_mode};
use crate::error::GpuError;

/// Room for a device's name, with its end.
const NAME_BYTES: usize = 256;

/// Who may use a device (`CUcomputemode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeMode {
    /// Any number of processes.
    Shared,
    /// One process, which is the MPS server where that runs.
    ExclusiveProcess,
    /// None.
    Prohibited,
    /// A number that cuda.h of CUDA 13 does not have.
    Unknown(i32),
}

impl ComputeMode {
    fn of(number: c_int) -> ComputeMode {
        match number {
            compute_mode::DEFAULT => ComputeMode::Shared,
            compute_mode::PROHIBITED => ComputeMode::Prohibited,
            compute_mode::EXCLUSIVE_PROCESS => ComputeMode::ExclusiveProcess,
            other => ComputeMode::Unknown(other),
        }
    }
}

/// A device, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number in this process, from 0.
    pub ordinal: u32,
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, major and minor: (9, 0) for an H100.
    pub capability: (u32, u32),
    /// All its memory, in bytes.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Who may use it.
    pub mode: ComputeMode,
    /// Engines that copy beside running kernels.
    pub copy_engines: u32,
    /// Whether it can read host memory that was registered.
    pub registers_host_memory: bool,
    /// Whether its memory can be allocated so that it may be exported as a file descriptor.
    pub exports_descriptors: bool,
}

impl Device {
    pub(super) fn read(driver: &Driver, ordinal: c_int) -> Result<Device, GpuError> {
        let api = &driver.api;
        let mut device = 0;
        // SAFETY: `device` is a live int.
        driver.check("cuDeviceGet", unsafe {
            (api.device_get)(&mut device, ordinal)
        })?;
        let mut name = [0 as c_char; NAME_BYTES];
        // SAFETY: `name` has room for as many bytes as are said, one less than it has, so
        // that it ends in a NUL in any case.
        driver.check("cuDeviceGetName", unsafe {
            (api.device_get_name)(name.as_mut_ptr(), NAME_BYTES as c_int - 1, device)
        })?;
        // SAFETY: `name` is terminated, as above.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        let mut memory_bytes = 0usize;
        // SAFETY: `memory_bytes` is a live size_t.
        driver.check("cuDeviceTotalMem", unsafe {
            (api.device_total_mem)(&mut memory_bytes, device)
        })?;
        let number = |which: c_int| {
            let mut value = 0;
            // SAFETY: `value` is a live int.
            driver
                .check("cuDeviceGetAttribute", unsafe {
                    (api.device_get_attribute)(&mut value, which, device)
                })
                .map(|()| value)
        };
        let count = |which| number(which).map(|value| value.max(0) as u32);
        let is = |which| number(which).map(|value| value != 0);
        Ok(Device {
            ordinal: ordinal as u32,
            name: name.to_string_lossy().into_owned(),
            capability: (
                count(attribute::COMPUTE_CAPABILITY_MAJOR)?,
                count(attribute::COMPUTE_CAPABILITY_MINOR)?,
            ),
            memory_bytes: memory_bytes as u64,
            multiprocessors: count(attribute::MULTIPROCESSOR_COUNT)?,
            mode: ComputeMode::of(number(attribute::COMPUTE_MODE)?),
            copy_engines: count(attribute::ASYNC_ENGINE_COUNT)?,
            registers_host_memory: is(attribute::HOST_REGISTER_SUPPORTED)?,
            exports_descriptors: is(attribute::VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)?
                && is(attribute::HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)?,
        })
    }

    /// Whether this is a part of a GPU (MIG). The driver tells by the name alone.
    pub fn is_part(&self) -> bool {
        self.name.contains(" MIG ")
    }
}
