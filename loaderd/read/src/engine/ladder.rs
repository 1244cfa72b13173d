//! The ladder: the best engine that this machine allows, and why it is no better one.
//!
//! Enters: a file set, slabs, a configuration. Leaves: an engine and its report. Never:
//! climbs down in silence.

use std::io;
use std::sync::Arc;

use super::pread::PreadPool;
use super::uring::Uring;
use super::{Backend, Engine, EngineReport};
use crate::files::{FileSet, files_open_max};
use crate::memory::Pool;
use crate::{Config, Mode, ReadError};

/// Where the ladder may start, and what may be registered. Everything in production;
/// the tests start on each rung.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) best: Backend,
    pub(crate) register_files: bool,
    /// `None` follows the mode.
    pub(crate) direct: Option<bool>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            best: Backend::UringFixed,
            register_files: true,
            direct: None,
        }
    }
}

/// Climbs down from `limits.best` to the first rung that holds.
pub(crate) fn climb(
    files: &Arc<FileSet>,
    pool: &Arc<Pool>,
    config: &Config,
    limits: Limits,
) -> Result<(Box<dyn Engine>, EngineReport), ReadError> {
    let mut reasons = Vec::new();
    let direct = wants_direct(files, config.mode, limits.direct, &mut reasons)?;
    let align = match files.direct() {
        Ok(opened) if direct => opened.align,
        _ => 1,
    };
    let mut report = EngineReport {
        backend: Backend::Pread,
        files_registered: false,
        direct,
        align,
        reasons,
    };
    if config.mode != Mode::Pread && limits.best < Backend::Pread {
        match ring(files, pool, config, limits, &mut report) {
            Ok(engine) => return Ok((engine, report)),
            Err(error) => report.reasons.insert(0, refusal(&error)),
        }
    }
    let engine = PreadPool::new(Arc::clone(files), direct, config.queue_depth)?;
    Ok((Box::new(engine), report))
}

/// Whether to read with O_DIRECT; an error where that is insisted on and can't be.
fn wants_direct(
    files: &FileSet,
    mode: Mode,
    forced: Option<bool>,
    reasons: &mut Vec<String>,
) -> Result<bool, ReadError> {
    let insisted = match mode {
        Mode::Direct => Some(true),
        Mode::Buffered => Some(false),
        Mode::Auto | Mode::Pread => forced,
    };
    let Some(direct) = insisted else {
        let choice = files.choice();
        reasons.push(choice.reason.clone());
        return Ok(choice.direct);
    };
    if direct && let Err(refused) = files.direct() {
        return Err(ReadError::Direct {
            path: refused.path.clone(),
            reason: refused.reason.clone(),
        });
    }
    Ok(direct)
}

/// The two ring rungs: they share the ring, and differ in whether the arena is registered.
fn ring(
    files: &Arc<FileSet>,
    pool: &Arc<Pool>,
    config: &Config,
    limits: Limits,
    report: &mut EngineReport,
) -> io::Result<Box<dyn Engine>> {
    let mut ring = Uring::new(
        Arc::clone(files),
        Arc::clone(pool),
        report.direct,
        config.queue_depth,
    )?;
    report.backend = Backend::UringPlain;
    if limits.best == Backend::UringFixed {
        match ring.register_arena() {
            Ok(()) => report.backend = Backend::UringFixed,
            Err(error) => report.reasons.push(format!(
                "buffers not registered: {}, {} to lock, memlock limit {}",
                error_name(&error),
                kib(config.arena_bytes()),
                memlock_max().map_or("none".into(), kib),
            )),
        }
    }
    if limits.register_files {
        match ring.register_files() {
            Ok(()) => report.files_registered = true,
            Err(error) => report.reasons.push(format!(
                "files not registered: {}, {} files, limit {} open files",
                error_name(&error),
                files.len(),
                files_open_max(),
            )),
        }
    }
    Ok(Box::new(ring))
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes / 1024)
}

fn memlock_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// Why there is no ring, with the switch that most often is the cause.
fn refusal(error: &io::Error) -> String {
    let mut text = format!("io_uring refused: {}", error_name(error));
    let switch = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match switch.as_deref().map(str::trim) {
        Ok("0") if error.raw_os_error() == Some(libc::EPERM) => {
            text += ", a seccomp filter, as containers have by default";
        }
        Ok("0") | Err(_) => {}
        Ok(value) => text += &format!(", kernel.io_uring_disabled={value}"),
    }
    text
}

/// The error's symbol where it is one that rings are refused with, else its message.
fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::ENOSYS) => "ENOSYS".into(),
        Some(libc::EINVAL) => "EINVAL".into(),
        Some(libc::ENOMEM) => "ENOMEM".into(),
        Some(libc::EMFILE) => "EMFILE".into(),
        _ => error.to_string(),
    }
}
