//! Which decoder a job gets: CPU cores, or the node's GPU beside them.
//!
//! Enters: the daemon's options, and what jobs ask for. Leaves: a [`Decoder`] for each job, with
//! its name for the step log. The decode unit is started for the first job that can use it,
//! because a context takes memory on the GPU, and is shared by all. Never: an image.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use loaderd_decode as decode;
use loaderd_gpu::unit::{Counts, Report, Settings, Unit};
use loaderd_gpu::{GpuError, Places, cuda};
use loaderd_wire::message::{Decode, Failure, FailureKind, GpuStatus};

use crate::job::failure;
use crate::size;

/// How long the driver may take to set up a device. A wedged one never answers.
const START_WAIT: Duration = Duration::from_secs(30);

/// What the daemon was told about GPUs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where images are decoded by jobs that say `auto`; `cpu` keeps all jobs off the GPU.
    pub decode: Decode,
    /// Which device, as `CUDA_VISIBLE_DEVICES` numbers them, and how much of its memory.
    pub settings: Settings,
    /// Where its libraries may lie.
    pub places: Places,
}

/// The node's GPU, once somebody has asked for it. See the module.
pub struct Gpu {
    options: Options,
    state: Mutex<State>,
    /// What a CPU core takes for an image beside it, of late, in ns; 0 where none was decoded.
    on_cpu_ns: AtomicU64,
}

#[derive(Default)]
struct State {
    unit: Option<Arc<Unit>>,
    /// The driver did not answer, and is not asked again: it may hold whoever does.
    is_silent: bool,
    /// What was said last in the daemon's log, where news are said once.
    said: String,
}

/// What decodes a job's images.
#[derive(Clone)]
pub struct Decoder {
    /// Names and versions.
    pub name: String,
    /// The GPU's unit, which the daemon owns, and whether images wait for room there.
    pub(crate) unit: Option<(Weak<Unit>, bool)>,
    /// How it came about, where that is no matter of course.
    pub notices: Vec<String>,
    /// What of that the user should see without asking.
    pub warnings: Vec<String>,
}

impl Decoder {
    /// CPU cores alone.
    pub fn cpu() -> Decoder {
        Decoder {
            name: decode::version(),
            unit: None,
            notices: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Gpu {
    /// Starts nothing yet.
    pub fn new(options: Options) -> Arc<Gpu> {
        Arc::new(Gpu {
            options,
            state: Mutex::default(),
            on_cpu_ns: AtomicU64::new(0),
        })
    }

    /// A CPU core has decoded an image of a session that decodes on the GPU as well.
    pub(crate) fn decoded_on_cpu(&self, took: Duration) {
        let took = (took.as_nanos() as u64).max(1);
        let usual = self.on_cpu_ns.load(Ordering::Relaxed);
        let usual = if usual == 0 { took } else { usual };
        // A mean of about the last sixteen. A number alone, and one that is lost does no harm.
        self.on_cpu_ns
            .store((15 * usual + took) / 16, Ordering::Relaxed);
    }

    /// What that takes, of late; `None` where none was decoded.
    pub(crate) fn on_cpu(&self) -> Option<Duration> {
        let usual = self.on_cpu_ns.load(Ordering::Relaxed);
        (usual > 0).then(|| Duration::from_nanos(usual))
    }

    /// What decodes the images of a job that asks for `wanted`. `has_work`: it has images that
    /// a GPU can finish. Blocks while the unit starts, up to [`START_WAIT`].
    ///
    /// Fails where the GPU was asked for in so many words, and can't be had.
    pub(crate) fn decoder(&self, wanted: Decode, has_work: bool) -> Result<Decoder, Failure> {
        let wanted = match (wanted, self.options.decode) {
            (Decode::Gpu, Decode::Cpu) => {
                return Err(refusal("this daemon was started with --decode cpu"));
            }
            (Decode::Auto, daemons) => daemons,
            (jobs, _) => jobs,
        };
        match wanted {
            Decode::Cpu => Ok(Decoder::cpu()),
            Decode::Auto if !has_work => Ok(Decoder::cpu()),
            Decode::Gpu if !has_work => Ok(Decoder {
                notices: vec![
                    "decode=\"gpu\": no column here is for a GPU: it takes images that are cropped, resized, flipped \
                     and normalised, and CPU cores take all others"
                        .into(),
                ],
                ..Decoder::cpu()
            }),
            wanted => match (self.unit(), wanted) {
                (Ok(unit), _) => Ok(Decoder {
                    name: format!("{}; {}", name(unit.report()), decode::version()),
                    notices: std::iter::once(found(unit.report()))
                        .chain(unit.report().notes.clone())
                        .collect(),
                    unit: Some((Arc::downgrade(&unit), wanted == Decode::Gpu)),
                    warnings: Vec::new(),
                }),
                (Err(why), Decode::Gpu) => Err(refusal(&why)),
                // Nobody misses a GPU where none is plugged in.
                (Err(why), _) => Ok(Decoder {
                    notices: match self.is_expected() {
                        true => vec![format!("decoding on CPU cores: {why}")],
                        false => Vec::new(),
                    },
                    ..Decoder::cpu()
                }),
            },
        }
    }

    /// What `loaderd status` shows of it; `None` before anybody has asked for it.
    pub fn status(&self) -> Option<GpuStatus> {
        // Who starts the unit holds the lock, and status waits for nobody.
        let Ok(state) = self.state.try_lock() else {
            return Some(GpuStatus {
                found: "starting".into(),
                decoded: 0,
                refused: 0,
            });
        };
        let Counts { engine, cuda } = match &state.unit {
            Some(unit) => unit.counts(),
            None => Counts::default(),
        };
        (!state.said.is_empty()).then(|| GpuStatus {
            found: state.said.clone(),
            decoded: engine.finished + cuda.finished,
            refused: engine.refused.iter().chain(&cuda.refused).sum(),
        })
    }

    /// Says once in the daemon's log that the unit, or one of its decoders, has failed, where it
    /// has.
    pub(crate) fn look_after(&self, unit: &Unit) {
        if let Some(news) = news(unit) {
            self.lock().say(news);
        }
    }

    /// Ends the unit: what it holds is finished or given back before this returns, save what a
    /// device has that does not answer.
    pub(crate) fn end(&self) {
        let unit = self.lock().unit.take();
        drop(unit);
    }

    /// The unit, started where it is not; else why there is none, with the mend.
    fn unit(&self) -> Result<Arc<Unit>, String> {
        // Held meanwhile, so that sessions that come together start one unit.
        let mut state = self.lock();
        if let Some(unit) = state.unit.clone() {
            if let Some(news) = news(&unit) {
                state.say(news);
            }
            return match unit.failure() {
                None => Ok(unit),
                Some(error) => Err(format!(
                    "the GPU has failed: {error}; {}, and start the daemon anew (`loaderd stop`)",
                    error.mend()
                )),
            };
        }
        let why = match self.start(&mut state) {
            Ok(unit) => {
                state.say(found(unit.report()));
                state.unit = Some(unit.clone());
                return Ok(unit);
            }
            Err(why) => why,
        };
        match self.is_expected() {
            true => state.say(format!("decoding on CPU cores: {why}")),
            false => state.say("decoding on CPU cores: no GPU here".into()),
        }
        Err(why)
    }

    fn start(&self, state: &mut State) -> Result<Arc<Unit>, String> {
        let silent = || {
            format!(
                "the GPU's driver does not answer ({} s); see whether `nvidia-smi` answers, then start the daemon anew \
                 (`loaderd stop`)",
                START_WAIT.as_secs()
            )
        };
        if state.is_silent {
            return Err(silent());
        }
        let (sender, started) = bounded(1);
        let Options {
            settings, places, ..
        } = self.options.clone();
        std::thread::Builder::new()
            .name("gpu-start".into())
            .spawn(move || {
                // A unit that comes too late ends here.
                let _ = sender.send(Unit::start(&places, &settings));
            })
            .map_err(|error| format!("no thread to be had: {error}"))?;
        match started.recv_timeout(START_WAIT) {
            Ok(Ok(unit)) => Ok(Arc::new(unit)),
            Ok(Err(error)) => Err(in_words(&error)),
            Err(RecvTimeoutError::Disconnected) => Err("its start has panicked".into()),
            Err(RecvTimeoutError::Timeout) => {
                state.is_silent = true;
                Err(silent())
            }
        }
    }

    /// A GPU is plugged in, or its driver's library was named.
    fn is_expected(&self) -> bool {
        self.options.places.libcuda.is_some() || cuda::is_plugged_in(Path::new("/"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn say(&mut self, text: String) {
        if self.said != text {
            crate::note(format_args!("loaderd: {text}"));
            self.said = text;
        }
    }
}

/// What has gone wrong since the unit was started.
fn news(unit: &Unit) -> Option<String> {
    let (what, error, whose) = match (unit.failure(), unit.lost().pop()) {
        (Some(error), _) => ("the GPU has failed", error, "images"),
        (None, Some(error)) => ("one of the GPU's decoders is given up", error, "its images"),
        (None, None) => return None,
    };
    let mend = error.mend();
    Some(format!(
        "{what}: {error}: {whose} are decoded on CPU cores; {mend}"
    ))
}

/// The decoder's name: all that may make a difference to a pixel.
fn name(report: &Report) -> String {
    let [major, minor, patch] = report.nvjpeg_version;
    let lanes = match (&report.engines, report.cuda) {
        (Some(_), true) => "JPEG engines and CUDA cores",
        (Some(_), false) => "JPEG engines",
        (None, _) => "CUDA cores",
    };
    let chroma = match report.interpolates {
        true => "",
        false => ", chroma not interpolated",
    };
    format!(
        "nvJPEG {major}.{minor}.{patch} on {lanes} of {} (driver for CUDA {}{chroma})",
        report.device.name, report.driver
    )
}

/// The name, and what it takes.
pub(crate) fn found(report: &Report) -> String {
    let engines = match &report.engines {
        None => String::new(),
        Some(engines) => format!(", {} engines", engines.count),
    };
    format!(
        "decoding with {}: GPU {}{engines}, kernels for {}, {} of its memory, pictures of up to {}; nvJPEG is {}",
        name(report),
        report.device.ordinal,
        report.kernels,
        size::show(report.memory_bytes),
        size::show(report.picture_bytes),
        report.nvjpeg,
    )
}

/// An error and its mend.
pub(crate) fn in_words(error: &GpuError) -> String {
    format!("{error}; {}", error.mend())
}

/// The GPU was asked for, and can't be had.
pub(crate) fn refusal(why: &str) -> Failure {
    failure(
        FailureKind::Request,
        format!(
            "decode=\"gpu\": {why}; decode=\"auto\" decodes on CPU cores where no GPU can be used, and `loaderd doctor` \
             tells more"
        ),
    )
}
