//! The device that is measured, and what nvJPEG has on it.
//!
//! Enters: where libraries may lie. Leaves: a context on the first device, nvJPEG, its backends,
//! each error with its mend. Never: a second device.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use loaderd_gpu::cuda::{Context, Driver};
use loaderd_gpu::nvjpeg::{Backend, Handle, Nvjpeg};
use loaderd_gpu::{GpuError, Places};
use serde_json::{Value, json};

/// A way to decode with nvJPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lane {
    /// The JPEG engines, in batches.
    Hardware,
    /// CUDA cores, in batches.
    Cuda,
    /// CUDA cores and the host, image by image.
    Phases,
}

impl Lane {
    pub(crate) fn backend(self) -> Backend {
        match self {
            Lane::Hardware => Backend::Hardware,
            Lane::Cuda | Lane::Phases => Backend::GpuHybrid,
        }
    }
}

/// The first device.
pub(crate) struct Gpu {
    pub(crate) context: Context,
    pub(crate) library: Arc<Nvjpeg>,
}

impl Gpu {
    /// Opens driver, device and nvJPEG: up to a second.
    ///
    /// # Errors
    /// Where one of them can't be used, with the mend.
    pub(crate) fn open(places: &Places) -> Result<Gpu> {
        let driver = Driver::open(places).map_err(mended)?;
        let library = Nvjpeg::open(places, Some(driver.version())).map_err(mended)?;
        let context = driver.context(0).map_err(mended)?;
        Ok(Gpu { context, library })
    }

    /// `is_plain`: chroma is repeated, as nvJPEG does by default, and not interpolated.
    pub(crate) fn handle(&self, lane: Lane, is_plain: bool) -> Result<Arc<Handle>> {
        let make = if is_plain { Handle::plain } else { Handle::new };
        make(&self.library, lane.backend(), &self.context).map_err(mended)
    }
}

/// The error with its mend.
pub(crate) fn mended(error: GpuError) -> anyhow::Error {
    anyhow!("{error}; mend: {}", error.mend())
}

/// What nvJPEG has here.
///
/// # Errors
/// Where devices can't be listed.
pub(crate) fn engines(gpu: &Gpu) -> Result<Value> {
    let devices = gpu.context.driver().devices().map_err(mended)?;
    let device = devices.first().ok_or_else(|| anyhow!("no device"))?;
    let hardware = Handle::new(&gpu.library, Backend::Hardware, &gpu.context);
    let hardware = match hardware.and_then(|handle| handle.engines()) {
        Ok(engines) => json!({"engines": engines.count, "cores_each": engines.cores_each}),
        Err(error) => json!({"why_not": error.to_string()}),
    };
    let cuda = match Handle::new(&gpu.library, Backend::GpuHybrid, &gpu.context) {
        Ok(_) => Value::Null,
        Err(error) => json!(error.to_string()),
    };
    let [major, minor, patch] = gpu.library.version();
    Ok(json!({
        "device": device.name,
        "capability": device.capability,
        "memory_bytes": device.memory_bytes,
        "copy_engines": device.copy_engines,
        "driver": gpu.context.driver().version().to_string(),
        "nvjpeg": format!("{major}.{minor}.{patch}"),
        "nvjpeg_built_for": gpu.library.built_for().to_string(),
        "nvjpeg_path": gpu.library.path(),
        "hardware": hardware,
        "cuda_why_not": cuda,
    }))
}
