//! What a bench ran on, and what memory it took.
//!
//! Enters: a folder. Leaves: the processor, kernel and file system in words, for the answer; the
//! highest anonymous memory seen. Never: anything that depends on the work measured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor model.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Type of the file system that holds the data.
    pub file_system: String,
}

impl Machine {
    /// This machine, with the file system of `folder`.
    pub fn here(folder: &Path) -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                Some(
                    line.strip_prefix("model name")?
                        .split_once(':')?
                        .1
                        .trim()
                        .into(),
                )
            })
            .unwrap_or_else(|| std::env::consts::ARCH.into());
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
        let file_system = read("/proc/self/mounts")
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                let (place, kind) = (fields.next()?, fields.next()?);
                folder
                    .starts_with(place)
                    .then(|| (place.len(), kind.to_owned()))
            })
            // The deepest mount, and of several at one place the last.
            .max_by_key(|(depth, _)| *depth)
            .map_or_else(|| "unknown".into(), |(_, kind)| kind);
        Machine {
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system,
        }
    }
}

/// A line of /proc/self/status that is in kB, in bytes: `VmHWM`, `RssAnon`. 0 where it is not.
pub fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    value.unwrap_or(0) * 1024
}

/// Watches the process's anonymous memory, heap and stacks, on a thread of its own. Unlike the
/// kernel's high-water mark it leaves out the pages of mapped files.
pub struct MemoryWatch {
    before: u64,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl MemoryWatch {
    /// Starts now.
    pub fn start() -> MemoryWatch {
        let before = status_bytes("RssAnon");
        let peak = Arc::new(AtomicU64::new(before));
        let stop = Arc::new(AtomicBool::new(false));
        let (its_peak, its_stop) = (peak.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            // Relaxed: one number and one flag, and `stop` joins before it reads.
            while !its_stop.load(Ordering::Relaxed) {
                its_peak.fetch_max(status_bytes("RssAnon"), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        MemoryWatch {
            before,
            peak,
            stop,
            thread,
        }
    }

    /// Bytes by which anonymous memory was above that at the start, at its highest.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("watching memory does not panic");
        self.peak
            .load(Ordering::Relaxed)
            .max(status_bytes("RssAnon"))
            - self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_seen_while_it_is_held() {
        const BYTES: usize = 64 << 20;
        let watch = MemoryWatch::start();
        let block = std::hint::black_box(vec![1_u8; BYTES]);
        std::thread::sleep(LOOK_EVERY * 10);
        drop(block);
        let peak = watch.stop();
        // Other tests come and go in this process meanwhile.
        assert!(peak > BYTES as u64 / 2, "{peak} bytes seen");
        assert!(status_bytes("VmHWM") > BYTES as u64);
        assert_eq!(status_bytes("NoSuchLine"), 0);
    }

    #[test]
    fn this_machine_has_a_name() {
        let machine = Machine::here(Path::new("/proc"));
        assert!(!machine.processor.is_empty() && machine.cores > 0);
        assert_eq!(machine.file_system, "proc");
    }
}
