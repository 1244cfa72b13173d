//! What the kernel offers: rings, locked memory, shared memory, huge pages.
//!
//! Enters: nothing. Leaves: checks. The ring is tried as a session makes it, by reading
//! this program's own file and comparing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use loaderd_read::{Backend, Config, EngineReport, Extent, FileSet, Mode, Reader};
use loaderd_wire::segment::Segment;

use super::Check;
use super::resources::{Limits, amount};
use crate::cli::size;
use crate::engine::{GPU_SLAB_MEMORY_MAX, SLAB_MEMORY_MAX};

/// A usual length of an encoded image, in bytes.
const IMAGE_BYTES: u32 = 128 << 10;
/// How long a trial read may take.
pub(super) const READ_WAIT: Duration = Duration::from_secs(20);
/// A slot for the trial of shared memory, in bytes.
const SLOT_BYTES: u64 = 1 << 20;

pub(super) fn checks(limits: &Limits) -> Vec<Check> {
    let read = read_this_program();
    vec![
        kernel(),
        io_uring(&read),
        memlock(&read, limits),
        memfd(),
        huge_pages(),
    ]
}

/// The release of the kernel, in words and as a number.
fn kernel() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version < (5, 15) {
        return Check::slow("kernel", found, "Linux 5.15 or later reads at less cost");
    }
    Check::ok("kernel", found)
}

/// Reads through the ladder of engines, as a session does.
fn read_this_program() -> Result<EngineReport> {
    let path = std::env::current_exe().context("finding this program's file")?;
    let files = FileSet::open(vec![path])?;
    trial(Arc::new(files), Mode::Buffered)
}

/// Reads a few extents of the first file in the given mode, and compares them with what
/// an ordinary read says.
pub(super) fn trial(files: Arc<FileSet>, mode: Mode) -> Result<EngineReport> {
    let config = Config {
        mode,
        ..Config::for_lengths(IMAGE_BYTES, SLAB_MEMORY_MAX)
    };
    let expected = File::open(files.path(0))?;
    let size = files.size(0);
    let mut reader = Reader::new(files, config)?;
    let length = (size / 4).clamp(1, u64::from(IMAGE_BYTES).min(size));
    let extents: Vec<Extent> = (0..8)
        .map(|n| Extent {
            offset: (size - length) / 8 * n,
            length: length as u32,
            file: 0,
        })
        .collect();
    for (tag, &extent) in extents.iter().enumerate() {
        ensure!(reader.submit(tag as u64, extent), "the reader took no read");
    }
    let (since, mut done, mut wrong) = (Instant::now(), 0, None);
    while done < extents.len() {
        ensure!(
            since.elapsed() < READ_WAIT,
            "no answer to a read in {} s",
            READ_WAIT.as_secs()
        );
        done += reader.complete(Duration::from_secs(1), &mut |tag, result| {
            let extent = extents[tag as usize];
            let mut bytes = vec![0; extent.length as usize];
            match result {
                Err(error) => wrong = Some(error.to_string()),
                Ok(read) => {
                    let same = expected
                        .read_exact_at(&mut bytes, extent.offset)
                        .is_ok_and(|()| *read == *bytes);
                    if !same {
                        wrong = Some(format!("wrong bytes at offset {}", extent.offset));
                    }
                }
            }
        })?;
    }
    ensure!(wrong.is_none(), wrong.unwrap_or_default());
    Ok(reader.engine().clone())
}

fn io_uring(read: &Result<EngineReport>) -> Check {
    let report = match read {
        Ok(report) => report,
        Err(error) => {
            return Check::failed(
                "io_uring",
                format!("a trial read failed: {error:#}"),
                "see which of the checks below says why; `--read-mode pread` does without io_uring",
            );
        }
    };
    let why = report.reasons.first().cloned().unwrap_or_default();
    match report.backend {
        Backend::UringFixed => Check::ok("io_uring", "reads into registered buffers"),
        // The next check says why.
        Backend::UringPlain => Check::ok("io_uring", "reads into buffers that are not registered"),
        Backend::Pread => Check::slow(
            "io_uring",
            format!("{why}: reading with a pool of pread threads"),
            ring_mend(&why, disabled()),
        ),
    }
}

/// The sysctl that refuses rings, where it does.
fn disabled() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(text.trim().to_owned()).filter(|value| value != "0")
}

fn ring_mend(why: &str, disabled: Option<String>) -> &'static str {
    if disabled.is_some() {
        "sysctl kernel.io_uring_disabled=0"
    } else if why.contains("EPERM") || why.contains("EACCES") {
        "let io_uring_setup, io_uring_enter and io_uring_register through the seccomp filter or \
         security module (docker: --security-opt seccomp=PROFILE)"
    } else if why.contains("ENOSYS") {
        "a kernel from 5.1 on with CONFIG_IO_URING; gVisor and WSL 1 have none"
    } else if why.contains("ENOMEM") {
        "raise the memlock limit: `ulimit -l`, LimitMEMLOCK= of systemd, --ulimit memlock=-1 of docker"
    } else if why.contains("EMFILE") {
        "raise the limit on open files: `ulimit -n`, LimitNOFILE= of systemd"
    } else {
        "see the kernel's log (`dmesg`)"
    }
}

fn memlock(read: &Result<EngineReport>, limits: &Limits) -> Check {
    let registers = size::show(SLAB_MEMORY_MAX);
    let limit = limits.memlock;
    let on_gpu = size::show(GPU_SLAB_MEMORY_MAX);
    let found = format!(
        "{limit} may be locked, a session registers {registers} ({on_gpu} on a GPU; more for large images)"
    );
    match read.as_ref().map(|report| report.backend) {
        // By `loaderd bench` of photos of 100 KB from the page cache, under 8 MiB and without a limit.
        Ok(Backend::UringPlain) => Check::ok(
            "memlock",
            format!(
                "{found}, for all of a user's sessions together: reads go into buffers that are not registered, which \
                 costs about 1 µs of CPU time an image (`ulimit -l`, LimitMEMLOCK= of systemd or --ulimit \
                 memlock=-1 of docker raise the limit)"
            ),
        ),
        Ok(Backend::UringFixed) => {
            let room = match limit.hard {
                _ if limits.locks_freely => "as privileged processes do, without limit".to_owned(),
                None => "without limit".to_owned(),
                Some(hard) => format!("enough for {} sessions", hard / SLAB_MEMORY_MAX),
            };
            Check::ok("memlock", format!("{found}: {room}"))
        }
        // Threads lock nothing.
        _ => Check::ok("memlock", format!("{found} where it has a ring")),
    }
}

/// Makes a segment, hands its descriptor over, and maps it again, as daemon and client do.
fn memfd() -> Check {
    let trial = || -> Result<()> {
        let daemon = Segment::create(SLOT_BYTES, 2)?;
        let client = Segment::from_fd(daemon.fd().try_clone_to_owned()?, SLOT_BYTES, 2)?;
        // SAFETY: both mappings live, the slot is in range, and this thread alone uses them.
        let seen = unsafe {
            daemon.slot_ptr(1).write_volatile(42);
            client.slot_ptr(1).read_volatile()
        };
        ensure!(seen == 42, "a write to shared memory was not seen");
        Ok(())
    };
    match trial() {
        Ok(()) => Check::ok("memfd", "made, sealed, and mapped twice"),
        Err(error) => Check::failed(
            "memfd",
            format!("shared memory for batches can't be made: {error:#}"),
            "let memfd_create and fcntl through the seccomp filter; free some memory",
        ),
    }
}

fn huge_pages() -> Check {
    let setting = |name: &str| {
        let text =
            fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}")).ok()?;
        chosen(&text).map(str::to_owned)
    };
    let shared = setting("shmem_enabled").unwrap_or_else(|| "never".into());
    let slots = match shared.as_str() {
        "always" | "within_size" | "force" => "huge",
        _ => "small",
    };
    match setting("enabled").as_deref() {
        Some("always" | "madvise") => Check::ok(
            "huge_pages",
            format!("for read buffers; slots lie in {slots} pages (shmem_enabled is {shared})"),
        ),
        other => Check::slow(
            "huge_pages",
            format!(
                "none for read buffers (transparent_hugepage/enabled is {}); slots lie in {slots} pages",
                other.unwrap_or("not there")
            ),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

/// Which of `always [madvise] never` is in force.
fn chosen(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

impl std::fmt::Display for super::resources::Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&amount(self.hard.map(size::show)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_mend() {
        for (why, disabled, expected) in [
            ("io_uring refused: EPERM", Some("2".into()), "sysctl"),
            ("io_uring refused: EPERM, a seccomp filter", None, "seccomp"),
            ("io_uring refused: ENOSYS", None, "CONFIG_IO_URING"),
            ("io_uring refused: ENOMEM", None, "memlock"),
            ("io_uring refused: EMFILE", None, "ulimit -n"),
            ("io_uring refused: odd", None, "dmesg"),
        ] {
            let mend = ring_mend(why, disabled);
            assert!(mend.contains(expected), "{why}: {mend}");
        }
    }

    #[test]
    fn the_setting_in_brackets_is_in_force() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("madvise"), None);
    }

    #[test]
    fn small_files_can_be_tried_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for size in [1, 3, 5000, 1_000_000] {
            fs::write(file.path(), vec![7; size]).unwrap();
            let files = FileSet::open(vec![file.path().into()]).unwrap();
            trial(Arc::new(files), Mode::Auto).unwrap();
        }
    }
}
