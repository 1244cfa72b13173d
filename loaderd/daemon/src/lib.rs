//! The daemon's stages, in the order in which data passes them.
//!
//! The binary `loaderd` is a thin shell over this library; the benches and the tests
//! drive it in their own process.

// What tests in the crate share with those beside it calls it by its name.
#[cfg(test)]
extern crate self as loaderd;

pub mod source;

pub mod gpu;
pub mod job;
pub mod jobs;

mod batch;
mod completion;
mod cuts;
pub mod engine;
pub mod memory;
pub mod slots;

pub mod feed;
pub mod steplog;

pub mod server;
mod session;

pub mod synthetic;

pub mod cli;
pub mod clock;
pub mod histogram;
pub mod machine;
mod size;

/// Writes a line to the standard error, which is the daemon's log. In a file it begins with the
/// local time, as in `loaderd log`; terminals are read at once, and a supervisor's journal has
/// times of its own. What can't be written is lost: the log may lie on the very disk that is
/// full, and nobody's batches depend on it.
pub fn note(text: impl std::fmt::Display) {
    use std::io::Write;
    let stderr = std::io::stderr();
    let is_file = rustix::fs::fstat(&stderr)
        .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_file());
    let line = if is_file {
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
        format!("{now} {text}\n")
    } else {
        format!("{text}\n")
    };
    let _ = (&stderr).write_all(line.as_bytes());
}

/// From here on a panic of any thread, which is a bug, ends the process at once, behind its
/// message. A daemon without one of its threads would leave its clients waiting for ever; of one
/// that is gone they hear (`DaemonDied`), and resume from their last checkpoint. Only the GPU unit's
/// threads (`gpu-…`) may panic: the unit gives up then, and its images go to the CPU cores. And so
/// may Lance, over a file that is damaged: who waits for it then gets an error.
pub fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("gpu-")) {
            return;
        }
        #[cfg(feature = "lance")]
        if loaderd_snapshot::is_lances_panic(panic) {
            note("loaderd: lance panicked, see above; whoever waits for it gets an error");
            return;
        }
        note("loaderd: this is a bug of loaderd's, please report it with the lines above");
        std::process::abort();
    }));
}
