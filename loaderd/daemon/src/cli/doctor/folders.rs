//! The folders that loaderd writes to: state, cache, temporary, runtime.
//!
//! Enters: the environment, through the rules that daemon and client follow. Leaves:
//! checks. Each folder is tried as a session uses it, and trial files are removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use loaderd_wire::paths;
use loaderd_wire::socket::Listener;

use super::dataset::file_system;
use super::{Check, Verdict};
use crate::cli::{Socket, size};
use crate::steplog::{self, LogReader, StepLog};

/// Less than this free is as good as full, in bytes.
const FREE_MIN: u64 = 16 << 20;
/// Less than this free is soon full, in bytes.
const FREE_WISHED: u64 = 256 << 20;
/// What the trial writes, in bytes.
const TRIAL_BYTES: usize = 1 << 20;

pub(super) fn checks(socket: &Socket) -> Vec<Check> {
    vec![state(), cache(), temporary(), runtime(socket)]
}

/// A name that no one else uses at the same time.
fn trial_file(folder: &Path, ending: &str) -> PathBuf {
    folder.join(format!("doctor-{}{ending}", std::process::id()))
}

/// Makes a step log beside the real one, and looks at the real one.
fn state() -> Check {
    const MEND: &str = "free some space, or give a folder on a local disk that this user may write to: LOADERD_STATE";
    let folder = match paths::state_dir() {
        Ok(folder) => folder,
        Err(error) => return Check::failed("state", error.to_string(), MEND),
    };
    let path = trial_file(&folder, ".sqlite");
    let made = StepLog::open(&path, None).map(drop);
    for ending in ["sqlite", "sqlite-wal", "sqlite-shm"] {
        let _ = fs::remove_file(path.with_extension(ending));
    }
    let read = made.and_then(|()| LogReader::open(&steplog::file_in(&folder)));
    match read {
        Err(error) => Check::failed("state", error.to_string(), MEND),
        Ok(log) => {
            let log = match log {
                Some(_) => "step log",
                None => "no step log yet",
            };
            space("state", &folder, log, MEND)
        }
    }
}

fn cache() -> Check {
    const MEND: &str = "free some space, or give another folder: LOADERD_CACHE";
    let tried = || -> Result<PathBuf> {
        let folder = paths::cache_dir()?;
        try_write(&folder)?;
        Ok(folder)
    };
    match tried() {
        Ok(folder) => space("cache", &folder, "page maps, 16 bytes a row and more", MEND),
        Err(error) => Check::failed("cache", format!("{error:#}"), MEND),
    }
}

/// Sessions write nothing there; ingest and some queries may.
fn temporary() -> Check {
    const MEND: &str = "free some space, or give another folder: TMPDIR";
    let folder = std::env::temp_dir();
    let check = match try_write(&folder) {
        Ok(()) => space("temporary", &folder, "for large queries only", MEND),
        Err(error) => Check::slow("temporary", format!("{error:#}"), MEND),
    };
    Check {
        verdict: check.verdict.min(Verdict::Slow),
        ..check
    }
}

fn try_write(folder: &Path) -> Result<()> {
    let path = trial_file(folder, ".tmp");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[42; TRIAL_BYTES])?;
        file.sync_data()
    });
    let _ = fs::remove_file(&path);
    written.with_context(|| format!("can't write to {}", folder.display()))
}

/// Judges a folder that can be written to by what is free there.
fn space(name: &'static str, folder: &Path, what: &str, mend: &str) -> Check {
    let shown = folder.display();
    let kind = file_system(&fs::canonicalize(folder).unwrap_or(folder.into()))
        .map_or(String::new(), |(kind, _)| format!(" on {kind}"));
    let free = match rustix::fs::statvfs(folder) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => return Check::failed(name, format!("{shown}: {error}"), mend),
    };
    let found = format!("{shown}{kind}: {what}, {} free", size::show(free));
    if free < FREE_MIN {
        Check::failed(name, found, mend)
    } else if free < FREE_WISHED {
        Check::slow(name, found, mend)
    } else {
        Check::ok(name, found)
    }
}

/// Listens for a moment beside the place where the daemon does.
fn runtime(socket: &Socket) -> Check {
    const MEND: &str =
        "set LOADERD_SOCKET to a short path in a folder that this user alone may write to";
    let tried = || -> Result<PathBuf> {
        let path = socket.path()?;
        let folder = path.parent().context("the socket's path has no folder")?;
        // As the daemon does.
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        Listener::bind(&trial_file(folder, ""))?;
        Ok(path)
    };
    match tried() {
        Ok(path) => Check::ok("runtime", format!("socket at {}", path.display())),
        Err(error) => Check::failed("runtime", format!("{error:#}"), MEND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        try_write(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = format!("{:#}", try_write(&file).unwrap_err());
        assert!(error.contains("Not a directory"), "{error}");
    }
}
