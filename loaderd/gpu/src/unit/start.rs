//! Setting a unit up: what is there, which lanes it gives, memory, threads.
//!
//! Enters: where libraries may lie, settings. Leaves: a running unit, or the first thing that is
//! wrong. Never: a byte of the device's more than the settings allow, or less than a batch needs.

use std::sync::Arc;

use loaderd_kernels::image_for;

use super::batch::{Bench, Decode, run};
use super::engine::EngineLane;
use super::hybrid::CudaLane;
use super::kernels::Kernels;
use super::lane::{Lane, Shared};
use super::queue::Bounds;
use super::scratch::Scratch;
use super::{Report, Settings, Unit};
use crate::cuda::{Context, Driver};
use crate::error::GpuError;
use crate::nvjpeg::{Backend, BatchDecoder, Engines, Handle, JpegStream, Nvjpeg, Subsampling};
use crate::places::Places;
use crate::routing::{Abilities, Route};

/// Pictures of a batch for each engine's core, where the settings say nothing.
const PICTURES_A_CORE: u32 = 4;
/// Least room for pictures and weights of a batch: one of a megapixel fits.
const PIXEL_BYTES_MIN: u64 = 4 << 20;
/// What nvJPEG allocates for each picture of a batch before the first comes; more is allocated
/// when a larger one does.
const PRE_ALLOCATED: (u32, u32) = (512, 512);
/// The first major version of nvJPEG that "no longer crashes or exhibits undefined behavior when
/// decoding malformed or truncated bitstreams" (release notes of CUDA 13.0).
const NVJPEG_ROBUST: u32 = 13;
/// Most pictures of a batch.
const BATCH_MAX: u32 = 1024;

/// A lane to be: what its threads need, and how much.
struct Plan<D> {
    batch: usize,
    decoders: Vec<D>,
}

/// The engines' plan, what they are, and whether memory was allocated for them.
type EnginePlan = (Plan<EngineLane>, Engines, Arc<Handle>, Result<(), GpuError>);

pub(super) fn start(places: &Places, settings: &Settings) -> Result<Unit, GpuError> {
    let driver = Driver::open(places)?;
    let context = driver.context(settings.device)?;
    let devices = driver.devices()?;
    let device = devices[settings.device as usize].clone();
    let (major, minor) = device.capability;
    let version = driver.version();
    let image = image_for(major, minor, 1000 * version.major + 10 * version.minor)
        .map_err(GpuError::NoKernels)?;
    let kernels = Arc::new(Kernels::of(&context.load(&image)?)?);

    let nvjpeg = Nvjpeg::open(places, Some(version))?;
    let mut notes = Vec::new();
    let mut or_note = |lane: &str, error: GpuError| {
        notes.push(format!("{lane}: {error}; {}", error.mend()));
    };
    let (mut engines, mut interpolates) = (None, true);
    let engine = match plan_engines(&nvjpeg, &context, settings) {
        Ok((plan, found, handle, pre_allocated)) => {
            engines = Some(found);
            if let Err(error) = pre_allocated {
                or_note("engines, at the start", error);
            }
            interpolates &= handle.interpolates();
            Some(plan)
        }
        Err(error) => {
            or_note("engines", error);
            None
        }
    };
    let cuda = match plan_cuda(&nvjpeg, &context, settings) {
        Ok((plan, handle)) => {
            interpolates &= handle.interpolates();
            Some(plan)
        }
        Err(error) => {
            or_note("CUDA cores", error);
            None
        }
    };
    if engine.is_none() && cuda.is_none() {
        return Err(GpuError::NoDecoder { reasons: notes });
    }

    if nvjpeg.version()[0] < NVJPEG_ROBUST {
        notes.push(format!(
            "nvJPEG {}: versions before {NVJPEG_ROBUST}.0 may crash at damaged JPEGs, and take the daemon along; pip \
             install nvidia-nvjpeg, or decode on CPU cores where files are not to be trusted",
            nvjpeg.version().map(|part| part.to_string()).join(".")
        ));
    }

    let share = Share::of(settings, &engine, &cuda)?;
    let bounds = |batch: usize| Bounds {
        batch,
        bytes: share.pixel_bytes(batch),
        waiting: batch * settings.queued_batches.max(1) as usize,
        linger: settings.linger,
    };
    let lane = |batch: Option<usize>| batch.map(|batch| Lane::new(bounds(batch)));
    let batches = [
        engine.as_ref().map(|plan| plan.batch),
        cuda.as_ref().map(|plan| plan.batch),
    ];
    let picture_bytes = batches
        .into_iter()
        .flatten()
        .map(|batch| share.pixel_bytes(batch));
    let report = Report {
        device,
        driver: version,
        nvjpeg: nvjpeg.path().to_owned(),
        nvjpeg_version: nvjpeg.version(),
        interpolates,
        kernels: image.architecture(),
        engines,
        cuda: cuda.is_some(),
        memory_bytes: share.each * share.benches,
        picture_bytes: picture_bytes.max().unwrap_or(0),
        notes,
    };
    // From here on, dropping it ends what was started.
    let mut unit = Unit {
        shared: Arc::new(Shared::new(
            lane(batches[0]),
            lane(batches[1]),
            settings.silence,
        )),
        threads: Vec::new(),
        report,
        abilities: Abilities {
            engines: engine.is_some(),
            cuda: cuda.is_some(),
            progressive: settings.progressive && cuda.is_some(),
        },
        context,
    };
    unit.add(Route::Engine, engine, &share, &kernels)?;
    unit.add(Route::Cuda, cuda, &share, &kernels)?;
    Ok(unit)
}

fn plan_engines(
    nvjpeg: &Arc<Nvjpeg>,
    context: &Context,
    settings: &Settings,
) -> Result<EnginePlan, GpuError> {
    let handle = Handle::new(nvjpeg, Backend::Hardware, context)?;
    let engines = handle.engines()?;
    let cores = engines.count.max(1) * engines.cores_each.max(1);
    let batch = settings.engine_batch.unwrap_or(PICTURES_A_CORE * cores);
    let batch = batch.clamp(1, BATCH_MAX) as usize;
    let mut pre_allocated = Ok(());
    let decoders = (0..settings.engine_batches.max(1)).map(|_| {
        let mut decoder = BatchDecoder::new(&handle)?;
        let (width, height) = PRE_ALLOCATED;
        // Without it, the first batches take longer. Batches are mixed: 4:4:4 takes the most.
        let allocated = decoder.pre_allocate(batch, width, height, Subsampling::S444);
        pre_allocated = pre_allocated.clone().and(allocated);
        let jpeg = JpegStream::new(&handle)?;
        Ok(EngineLane { decoder, jpeg })
    });
    let decoders = decoders.collect::<Result<_, _>>()?;
    Ok((Plan { batch, decoders }, engines, handle, pre_allocated))
}

fn plan_cuda(
    nvjpeg: &Arc<Nvjpeg>,
    context: &Context,
    settings: &Settings,
) -> Result<(Plan<CudaLane>, Arc<Handle>), GpuError> {
    let handle = Handle::new(nvjpeg, Backend::GpuHybrid, context)?;
    let batch = settings.cuda_batch.clamp(1, BATCH_MAX) as usize;
    let decoders = (0..settings.cuda_batches.max(1)).map(|_| CudaLane::new(&handle, context));
    let decoders = decoders.collect::<Result<_, _>>()?;
    Ok((Plan { batch, decoders }, handle))
}

/// How the device's memory is shared out: each thread has the same.
struct Share {
    benches: u64,
    /// Bytes of each.
    each: u64,
}

impl Share {
    fn of(
        settings: &Settings,
        engine: &Option<Plan<EngineLane>>,
        cuda: &Option<Plan<CudaLane>>,
    ) -> Result<Share, GpuError> {
        let engine = engine
            .as_ref()
            .map(|plan| (plan.batch, plan.decoders.len()));
        let cuda = cuda.as_ref().map(|plan| (plan.batch, plan.decoders.len()));
        let lanes: Vec<(usize, usize)> = [engine, cuda].into_iter().flatten().collect();
        let benches: u64 = lanes.iter().map(|(_, threads)| *threads as u64).sum();
        let fixed = (lanes.iter()).map(|(batch, _)| Scratch::fixed_bytes(*batch) as u64);
        let each_least = fixed.max().unwrap_or(0) + PIXEL_BYTES_MIN;
        // A multiple of what pictures are aligned to.
        let each = settings.memory / benches / 256 * 256;
        if each < each_least {
            return Err(GpuError::Memory {
                found: settings.memory,
                least: benches * each_least,
            });
        }
        Ok(Share { benches, each })
    }

    /// What is left of a thread's memory for pictures and their weights.
    fn pixel_bytes(&self, batch: usize) -> u64 {
        self.each - Scratch::fixed_bytes(batch) as u64
    }
}

impl Unit {
    /// Allocates what a lane's threads need, and starts them.
    fn add<D: Decode>(
        &mut self,
        route: Route,
        plan: Option<Plan<D>>,
        share: &Share,
        kernels: &Arc<Kernels>,
    ) -> Result<(), GpuError> {
        let Some(Plan { batch, decoders }) = plan else {
            return Ok(());
        };
        for (number, decoder) in decoders.into_iter().enumerate() {
            let scratch = Scratch::new(&self.context, batch, share.each as usize)?;
            let bench = Bench::new(&self.context, scratch, kernels)?;
            let shared = self.shared.clone();
            let name = format!("gpu-{}-{number}", route.word().to_lowercase());
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || run(&shared, route, bench, decoder));
            self.threads.push(thread.map_err(|error| GpuError::System {
                what: "a thread",
                reason: error.to_string(),
            })?);
        }
        Ok(())
    }
}
