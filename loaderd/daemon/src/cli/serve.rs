//! `loaderd serve`: the daemon in the foreground.
//!
//! Enters: arguments, the environment, signals. Leaves: a [`Config`] that was checked once, and a
//! server that runs until a signal ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use loaderd_decode::Limits;
use loaderd_gpu::Places;
use loaderd_gpu::unit::Settings;
use loaderd_read::Mode;
use loaderd_wire::message::Decode;
use loaderd_wire::paths;

use super::{Socket, size};
use crate::gpu;
use crate::machine::Memory;
use crate::server::{Config, Server};

/// Signals that ask a process to end.
pub(super) const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
/// So many decode threads a core are not wondered at: some may wait for files.
const THREADS_A_CORE: usize = 2;
/// Of an image that is decoded whole: three channels.
const PIXEL_BYTES: u64 = 3;

/// Arguments of `loaderd serve`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Exit after this many seconds without a connection [default: never]
    #[arg(long, value_name = "SECONDS")]
    idle_exit: Option<u64>,
    #[command(flatten)]
    tuning: Tuning,
    /// Where the caller sends this output, to be named in error messages
    #[arg(long, value_name = "PATH", hide = true)]
    log_file: Option<PathBuf>,
}

/// What `serve` and `bench` have in common.
#[derive(clap::Args)]
pub(super) struct Tuning {
    /// Number of decode threads [default: the cores that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    decode_threads: Option<u16>,
    /// How data files are read: auto, direct (O_DIRECT), buffered, pread (no io_uring)
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = parse_mode)]
    read_mode: Mode,
    /// Memory for the batch slots of all sessions, e.g. 4G [default: half of the free
    /// memory, within cgroup limits]
    #[arg(long, value_name = "SIZE", value_parser = some_size)]
    slot_memory: Option<u64>,
    /// Largest image that is decoded, in pixels (width x height of its header)
    #[arg(long, value_name = "PIXELS", default_value_t = Limits::default().pixels_max,
        value_parser = clap::value_parser!(u64).range(1..))]
    image_pixels_max: u64,
    #[command(flatten)]
    gpu: GpuArguments,
}

/// Whether images are decoded on a GPU, and on which.
#[derive(clap::Args, Default)]
pub(super) struct GpuArguments {
    /// Where images are decoded: auto (on a GPU if there is one, the overflow on CPU cores), cpu
    /// (never on a GPU), gpu (an error if no GPU can be used). Applies to jobs with
    /// decode="auto"; cpu applies to all jobs [default: LOADERD_DECODE, else auto]
    #[arg(long, value_name = "WHERE", value_parser = parse_decode)]
    decode: Option<Decode>,
    /// GPU index, counted within CUDA_VISIBLE_DEVICES [default: LOADERD_GPU, else 0]
    #[arg(long, value_name = "N")]
    gpu: Option<u32>,
    /// Maximum GPU memory for images being decoded, e.g. 512M [default: LOADERD_GPU_MEMORY,
    /// else 1G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    gpu_memory: Option<u64>,
}

impl GpuArguments {
    pub(super) fn options(&self) -> Result<gpu::Options> {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
        let settings = Settings::default();
        Ok(gpu::Options {
            decode: given(self.decode, "LOADERD_DECODE", parse_decode)?.unwrap_or_default(),
            settings: Settings {
                device: given(self.gpu, "LOADERD_GPU", number)?.unwrap_or(settings.device),
                memory: given(self.gpu_memory, "LOADERD_GPU_MEMORY", size::parse)?
                    .unwrap_or(settings.memory),
                ..settings
            },
            places: Places::of_process(),
        })
    }
}

/// An argument, or the environment's variable in its place.
fn given<T>(
    argument: Option<T>,
    variable: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>> {
    match (argument, std::env::var(variable)) {
        (None, Ok(text)) if !text.is_empty() => {
            let value = parse(&text).map_err(|error| anyhow!("{variable}: {error}"))?;
            Ok(Some(value))
        }
        (argument, _) => Ok(argument),
    }
}

fn some_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        0 => Err("no batch fits into 0 bytes: give at least what one slot takes, e.g. 512M".into()),
        bytes => Ok(bytes),
    }
}

fn parse_decode(text: &str) -> Result<Decode, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("`{text}` is none of auto, cpu, gpu"))
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    serde_json::from_value(text.into())
        .map_err(|_| format!("`{text}` is none of auto, direct, buffered, pread"))
}

impl Tuning {
    /// What was asked for and this machine can't give, in words. No error: machines of several sizes
    /// may share one command, and what is not there is refused when a session needs it.
    pub(super) fn doubts(&self, cores: usize, memory: Option<&Memory>) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some(threads) = self.decode_threads.map(usize::from)
            && threads > cores * THREADS_A_CORE
        {
            doubts.push(format!(
                "--decode-threads {threads} on {cores} cores: more threads than cores decode no faster, and each has \
                 memory of its own"
            ));
        }
        let Some(memory) = memory else {
            return doubts;
        };
        let (most, free) = (memory.most(), memory.free());
        let has = match memory.limit {
            Some(limit) if limit < memory.total => {
                format!("the {} of this control group's limit", size::show(most))
            }
            _ => format!("the {} that this machine has", size::show(most)),
        };
        if let Some(slots) = self.slot_memory {
            let shown = size::show(slots);
            if slots > most {
                doubts.push(format!(
                    "--slot-memory {shown} is more than {has}: sessions will be refused when memory runs short, not at \
                     this limit"
                ));
            } else if slots > free {
                doubts.push(format!(
                    "--slot-memory {shown} is more than is free now ({}): sessions are refused until there is enough",
                    size::show(free)
                ));
            }
        }
        let pixels = self.image_pixels_max;
        let image = pixels.saturating_mul(PIXEL_BYTES);
        if image > most {
            doubts.push(format!(
                "--image-pixels-max {pixels}: such an image takes {}, more than {has}",
                size::show(image)
            ));
        }
        doubts
    }

    /// Tells whoever starts it.
    pub(super) fn say_doubts(&self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for doubt in self.doubts(cores, Memory::read().as_ref()) {
            crate::note(format_args!("loaderd: {doubt}"));
        }
    }

    /// The daemon's configuration.
    pub(super) fn config(&self, socket: PathBuf) -> Result<Config> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Config {
            socket,
            state_dir: paths::state_dir()?,
            idle_exit: None,
            decode_threads: self.decode_threads.map_or(cores, usize::from),
            read_mode: self.read_mode,
            slot_memory_max: match self.slot_memory {
                Some(bytes) => bytes,
                None => default_slot_memory()
                    .context("/proc/meminfo has no MemAvailable: give --slot-memory")?,
            },
            image_limits: Limits {
                pixels_max: self.image_pixels_max,
                ..Limits::default()
            },
            log_file: None,
            gpu: self.gpu.options()?,
            timings: None,
        })
    }
}

/// Memory for slots where none is given, in bytes.
pub(super) fn default_slot_memory() -> Option<u64> {
    Some(Memory::read()?.free() / 2)
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let config = Config {
        idle_exit: arguments.idle_exit.map(Duration::from_secs),
        log_file: arguments.log_file.clone(),
        ..arguments.tuning.config(arguments.socket.path()?)?
    };
    arguments.tuning.say_doubts();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in ENDING {
        // SIGHUP is of a terminal that closes, which `nohup` has us outlive.
        if signal == libc::SIGHUP && is_ignored(signal) {
            continue;
        }
        signal_hook::flag::register(signal, stop.clone()).context("installing signal handlers")?;
    }
    let (socket, threads, slot_memory) = (
        config.socket.display().to_string(),
        config.decode_threads,
        size::show(config.slot_memory_max),
    );
    raise_limits();
    let server = Server::bind(config)?;
    crate::note(format_args!(
        "loaderd {}: serving at {socket}, {threads} decode threads, up to {slot_memory} of slots",
        env!("CARGO_PKG_VERSION")
    ));
    server.run(&stop)?;
    crate::note("loaderd: stopped");
    Ok(())
}

pub(super) fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeros are a valid `sigaction`, here a place for the answer, and without a new
    // action the call changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Takes what the hard limits allow: descriptors for datasets of many files, locked memory
/// for registered buffers. What is missing all the same is reported where it is needed.
pub(super) fn raise_limits() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    for resource in [Resource::Nofile, Resource::Memlock] {
        let mut limit = getrlimit(resource);
        limit.current = limit.maximum;
        let _ = setrlimit(resource, limit);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        tuning: Tuning,
    }

    fn parse(line: &str) -> Result<Tuning, String> {
        let words = std::iter::once("serve").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(line.tuning)
    }

    #[test]
    fn what_the_machine_cannot_give_is_told() {
        let machine = Memory {
            total: 16 << 30,
            available: 8 << 30,
            limit: None,
            headroom: None,
        };
        let group = Memory {
            limit: Some(4 << 30),
            headroom: Some(3 << 30),
            ..machine
        };
        for (line, memory, expected) in [
            ("", machine, None),
            ("--slot-memory 8G", machine, None),
            (
                "--slot-memory 10T",
                machine,
                Some("the 16.00 GiB that this machine has"),
            ),
            (
                "--slot-memory 12G",
                machine,
                Some("more than is free now (8.00 GiB)"),
            ),
            (
                "--slot-memory 8G",
                group,
                Some("the 4.00 GiB of this control group's limit"),
            ),
            ("--decode-threads 8", machine, None),
            ("--decode-threads 1000", machine, Some("1000 on 4 cores")),
            (
                "--image-pixels-max 99999999999",
                machine,
                Some("such an image takes 279.40 GiB"),
            ),
        ] {
            let doubts = parse(line).unwrap().doubts(4, Some(&memory));
            assert_eq!(
                doubts.len(),
                usize::from(expected.is_some()),
                "{line}: {doubts:?}"
            );
            for (doubt, expected) in doubts.iter().zip(expected) {
                assert!(doubt.contains(expected), "{line}: {doubt}");
            }
        }
    }

    #[test]
    fn what_can_never_work_is_refused() {
        for line in [
            "--slot-memory 0",
            "--decode-threads 0",
            "--decode-threads 10000",
            "--image-pixels-max 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
