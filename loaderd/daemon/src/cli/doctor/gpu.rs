//! The GPU half: driver, devices, nvJPEG, and trials of what sharing batches with one takes.
//!
//! Enters: what a daemon would be told of GPUs. Leaves: checks. Sessions do without a GPU, so
//! that none of these fails; where none is plugged in, nothing is amiss. Trials are done on the
//! device that decodes, and undone. They are done in a thread, which a driver may hold for ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use loaderd_gpu::cuda::{self, ComputeMode, Context, Device, Driver, Mps};
use loaderd_gpu::nvjpeg::{Backend, Handle, Nvjpeg};
use loaderd_gpu::unit::Unit;
use loaderd_gpu::{GpuError, Places, Version};
use loaderd_wire::message::Decode;

use super::Check;
use crate::cli::size;
use crate::gpu::{self, Options};

/// Shared memory for the trial of pinning, in bytes.
const PINNED_BYTES: usize = 1 << 20;
const ON_CPU: &str = "images are decoded on CPU cores";

/// Names of the checks, in their order.
const NAMES: [&str; 7] = [
    "gpu_driver",
    "gpu_devices",
    "nvjpeg",
    "gpu_pinned",
    "gpu_export",
    "mps",
    "gpu_decode",
];

/// What was found, the last of it that the driver does not answer where it doesn't within
/// `wait`. Its thread is left to it then, and so is false returned: the process can't count
/// on leaving in the usual way, by which the driver's library would be asked as well.
pub(super) fn checks(options: Options, wait: Duration) -> (Vec<Check>, bool) {
    let (sender, found) = mpsc::channel();
    std::thread::spawn(move || look(&options, &sender));
    let end = Instant::now() + wait;
    let mut checks = Vec::new();
    loop {
        match found.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(check) => checks.push(check),
            Err(RecvTimeoutError::Disconnected) => return (checks, true),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    // After the last one, only the context is given back, of which nothing is reported.
    if let Some(name) = NAMES.get(checks.len()) {
        checks.push(Check::missing(
            name,
            format!(
                "the driver does not answer ({} s): {ON_CPU}",
                wait.as_secs()
            ),
            "see whether `nvidia-smi` answers, and the kernel's log (`dmesg`); reset the GPU, or \
             restart the machine",
        ));
    }
    (checks, false)
}

fn look(options: &Options, checks: &Sender<Check>) {
    let places = &options.places;
    // Who listens no more has said so.
    let say = |check| {
        let _ = checks.send(check);
    };
    let driver = match Driver::open(places) {
        Ok(driver) => driver,
        Err(error) => {
            let is_wanted = places.libcuda.is_some() || cuda::is_plugged_in(Path::new("/"));
            return say(without(&error, is_wanted));
        }
    };
    let found = format!("CUDA {} by {}", driver.version(), driver.library());
    say(Check::ok("gpu_driver", found));
    let all = match driver.devices() {
        Ok(all) => devices(&all),
        Err(error) => return say(missing("gpu_devices", &error)),
    };
    let context = match driver.context(options.settings.device) {
        Ok(context) => context,
        Err(error) => return say(no_context(&all, &error)),
    };
    say(all);
    say(nvjpeg(places, driver.version(), &context));
    say(pinned(&context));
    say(export(&context));
    say(mps(&Mps::of_process()));
    say(decoding(options));
}

/// `all`: the devices, the chosen one of which gives no context.
fn no_context(all: &Check, error: &GpuError) -> Check {
    let found = format!("{}: {error}", all.found);
    Check::missing("gpu_devices", found, error.mend())
}

/// `is_wanted`: a GPU is plugged in, or the driver's library was named.
fn without(error: &GpuError, is_wanted: bool) -> Check {
    if is_wanted {
        let check = missing("gpu_driver", error);
        let found = format!("{}: {ON_CPU}", check.found);
        return Check { found, ..check };
    }
    Check::ok("gpu_driver", format!("no GPU here: {ON_CPU}"))
}

fn missing(name: &'static str, error: &GpuError) -> Check {
    Check::missing(name, error.to_string(), error.mend())
}

fn devices(all: &[Device]) -> Check {
    let each: Vec<String> = all.iter().map(describe).collect();
    let found = each.join("; ");
    let is = |mode| all.iter().any(|device| device.mode == mode);
    if is(ComputeMode::Prohibited) {
        return Check::missing("gpu_devices", found, "nvidia-smi -c DEFAULT");
    }
    if is(ComputeMode::ExclusiveProcess) {
        return Check::missing(
            "gpu_devices",
            found,
            "daemon and training need the GPU both: `nvidia-smi -c DEFAULT`, or use MPS",
        );
    }
    Check::ok("gpu_devices", found)
}

fn describe(device: &Device) -> String {
    let mode = match device.mode {
        ComputeMode::Shared => "",
        ComputeMode::ExclusiveProcess => ", for one process at a time",
        ComputeMode::Prohibited => ", takes no process",
        ComputeMode::Unknown(_) => ", in an unknown compute mode",
    };
    format!(
        "{} {}{} (capability {}.{}, {}, {} multiprocessors, {} copy engines{mode})",
        device.ordinal,
        device.name,
        if device.is_part() {
            ", a part of a GPU"
        } else {
            ""
        },
        device.capability.0,
        device.capability.1,
        size::show(device.memory_bytes),
        device.multiprocessors,
        device.copy_engines,
    )
}

fn nvjpeg(places: &Places, driver: Version, context: &Context) -> Check {
    let library = match Nvjpeg::open(places, Some(driver)) {
        Ok(library) => library,
        Err(error) => return missing("nvjpeg", &error),
    };
    let [major, minor, patch] = library.version();
    let version = format!("{major}.{minor}.{patch} for CUDA {}", library.built_for());
    let engines = engines(&library, context);
    let cuda = Handle::new(&library, Backend::GpuHybrid, context);
    // An error names the library itself.
    let (found, mend) = match (engines, cuda) {
        (Ok(engines), Ok(_)) => {
            let path = library.path();
            (format!("{engines}, and CUDA cores, by {path}"), None)
        }
        (Err(error), Ok(_)) => (without_engines(&error), None),
        (_, Err(error)) => (error.to_string(), Some(error.mend())),
    };
    let found = format!("{version}: {found}");
    match mend {
        None => Check::ok("nvjpeg", found),
        Some(mend) => Check::missing("nvjpeg", found, mend),
    }
}

/// No failure: many a GPU has none. What hides those of others is said.
fn without_engines(error: &GpuError) -> String {
    let mend = error.mend();
    format!("CUDA cores, but no JPEG engines: {error}; {mend}")
}

/// The JPEG engines in words.
fn engines(library: &Arc<Nvjpeg>, context: &Context) -> Result<String, GpuError> {
    let engines = Handle::new(library, Backend::Hardware, context)?.engines()?;
    Ok(match engines.cores_each {
        1 => format!("{} JPEG engines", engines.count),
        cores => format!("{} JPEG engines of {cores} cores", engines.count),
    })
}

fn pinned(context: &Context) -> Check {
    match context.try_registration(PINNED_BYTES) {
        Ok(()) => Check::ok("gpu_pinned", "shared memory can be pinned for the GPU"),
        Err(error) => missing("gpu_pinned", &error),
    }
}

fn export(context: &Context) -> Check {
    match context.try_export() {
        Ok(bytes) => Check::ok(
            "gpu_export",
            format!(
                "device memory can be shared by descriptor, in pieces of {}",
                size::show(bytes as u64)
            ),
        ),
        Err(error) => missing("gpu_export", &error),
    }
}

/// What a session would decode with, set up as a daemon does it.
fn decoding(options: &Options) -> Check {
    if options.decode == Decode::Cpu {
        return Check::ok("gpu_decode", format!("LOADERD_DECODE is cpu: {ON_CPU}"));
    }
    match Unit::start(&options.places, &options.settings) {
        Ok(unit) => Check::ok("gpu_decode", gpu::found(unit.report())),
        Err(error) => Check::missing("gpu_decode", format!("{error}: {ON_CPU}"), error.mend()),
    }
}

fn mps(found: &Mps) -> Check {
    const START: &str = "start it (`nvidia-cuda-mps-control -d`), or unset CUDA_MPS_PIPE_DIRECTORY";
    match found {
        Mps::None => Check::ok("mps", "not used"),
        Mps::Runs { folder, pid } => {
            let pid = pid.map_or(String::new(), |pid| format!(", pid {pid}"));
            Check::ok("mps", format!("runs{pid}, at {}", folder.display()))
        }
        Mps::Gone { folder } => Check::missing(
            "mps",
            format!("its daemon at {} is gone", folder.display()),
            format!("{START}, and remove that folder"),
        ),
        Mps::Absent { folder } => Check::missing(
            "mps",
            format!(
                "CUDA_MPS_PIPE_DIRECTORY is {}, without a daemon",
                folder.display()
            ),
            START,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_machine_without_a_gpu_is_told_from_one_whose_driver_is_missing() {
        let error = GpuError::NoDriver {
            library: "libcuda.so.1".into(),
            reason: "not found".into(),
        };
        let calm = without(&error, false);
        assert_eq!((calm.verdict, calm.mend), (Verdict::Ok, None));
        assert_eq!(calm.found, "no GPU here: images are decoded on CPU cores");
        let wanted = without(&error, true);
        assert_eq!(wanted.verdict, Verdict::Missing);
        assert_eq!(
            wanted.found,
            "libcuda.so.1 can't be opened: not found: images are decoded on CPU cores"
        );
        assert!(wanted.mend.unwrap().contains("--gpus all"));
    }

    #[test]
    fn engines_that_a_container_hides_have_a_mend() {
        let error = GpuError::Nvjpeg {
            call: "nvjpegCreateEx",
            name: "NVJPEG_STATUS_ARCH_MISMATCH",
            status: 7,
            library: "libnvjpeg.so.13".into(),
        };
        let said = without_engines(&error);
        assert!(said.contains("no JPEG engines: nvjpegCreateEx"), "{said}");
        assert!(said.contains("compute,utility,video"), "{said}");
    }

    #[test]
    fn devices_that_can_not_be_shared_have_a_mend() {
        let device = |mode| Device {
            ordinal: 0,
            name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".into(),
            capability: (9, 0),
            memory_bytes: 10 << 30,
            multiprocessors: 16,
            mode,
            copy_engines: 1,
            registers_host_memory: true,
            exports_descriptors: true,
        };
        let shared = devices(&[device(ComputeMode::Shared)]);
        assert_eq!(
            shared.found,
            "0 NVIDIA H100 80GB HBM3 MIG 1g.10gb, a part of a GPU (capability 9.0, 10.00 GiB, \
             16 multiprocessors, 1 copy engines)"
        );
        assert_eq!(shared.verdict, Verdict::Ok);
        for mode in [ComputeMode::ExclusiveProcess, ComputeMode::Prohibited] {
            let check = devices(&[device(ComputeMode::Shared), device(mode)]);
            assert_eq!(check.verdict, Verdict::Missing);
            assert!(check.mend.unwrap().contains("nvidia-smi -c DEFAULT"));
        }
    }

    #[test]
    fn an_mps_daemon_that_is_gone_has_a_mend() {
        let folder = Path::new("/run/mps").to_owned();
        let runs = Mps::Runs {
            folder: folder.clone(),
            pid: Some(7),
        };
        assert_eq!(mps(&runs).found, "runs, pid 7, at /run/mps");
        for found in [
            Mps::Gone {
                folder: folder.clone(),
            },
            Mps::Absent { folder },
        ] {
            let check = mps(&found);
            assert_eq!(check.verdict, Verdict::Missing);
            assert!(check.mend.unwrap().contains("nvidia-cuda-mps-control -d"));
        }
        assert_eq!(mps(&Mps::None).verdict, Verdict::Ok);
    }
}
