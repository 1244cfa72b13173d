//! The programs that must fit together: daemon, decoder, Lance, Python package.
//!
//! Enters: the socket, and this program. Leaves: checks and versions.

use std::fs;
use std::path::Path;
use std::time::Duration;

use loaderd_wire::WireError;
use loaderd_wire::message::{FailureKind, PROTOCOL, ToClient};
use loaderd_wire::socket::Channel;
use serde_json::{Value, json};

use super::Check;
use crate::cli::{Socket, greet};
use crate::steplog;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long a daemon may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

pub(super) fn checks(socket: &Socket) -> Vec<Check> {
    let mut checks = Vec::new();
    // Where there is no path, the check before says why.
    if let Ok(path) = socket.path() {
        checks.push(daemon(&path));
    }
    checks.extend([jpeg(), lance(), python()]);
    checks
}

/// Versions of all that is written or spoken, for the JSON report.
pub(super) fn versions() -> Value {
    let (lance, page_map_format) = lance_versions().unzip();
    json!({
        "loaderd": VERSION,
        "protocol": PROTOCOL,
        "step_log_schema": steplog::SCHEMA,
        "libjpeg_turbo": loaderd_decode::libjpeg_turbo_version(),
        "lance": lance,
        "page_map_format": page_map_format,
    })
}

/// Greets the daemon that serves this user, where one runs.
fn daemon(path: &Path) -> Check {
    let ours = format!(
        "this is {VERSION}, protocol {PROTOCOL}, step log schema {}",
        steplog::SCHEMA
    );
    let channel = match Channel::connect(path) {
        Ok(channel) => channel,
        Err(WireError::Connect { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Check::ok(
                "daemon",
                format!("none runs, the first loader starts one; {ours}"),
            );
        }
        Err(error) => {
            return Check::failed(
                "daemon",
                error.to_string(),
                "set LOADERD_SOCKET to a short path in a folder of your own",
            );
        }
    };
    let pid = channel.peer().map_or(0, |peer| peer.pid);
    let answer = greet(&channel, ANSWER_WAIT);
    let kill = format!("kill {pid}: the next loader starts this version");
    match answer {
        Ok(ToClient::Welcome {
            protocol, version, ..
        }) if protocol != PROTOCOL => Check::failed(
            "daemon",
            format!("version {version} runs, pid {pid}, and speaks protocol {protocol}; {ours}"),
            kill,
        ),
        Ok(ToClient::Welcome { version, .. }) if version == VERSION => {
            Check::ok("daemon", format!("runs, pid {pid}; {ours}"))
        }
        Ok(ToClient::Welcome { version, .. }) => Check::slow(
            "daemon",
            format!("version {version} runs, pid {pid}; {ours}"),
            "loaderd stop: the next loader starts this version",
        ),
        Ok(ToClient::Failed(failure)) if failure.kind == FailureKind::Protocol => {
            Check::failed("daemon", format!("pid {pid}: {}", failure.message), kill)
        }
        Ok(ToClient::Failed(failure)) => Check::failed(
            "daemon",
            format!("pid {pid}: {}", failure.message),
            "close a connection, or wait until it has left",
        ),
        Err(error @ (WireError::Timeout { .. } | WireError::Closed)) => Check::failed(
            "daemon",
            format!("pid {pid} does not answer: {error}"),
            format!("kill -9 {pid}: the next loader starts another"),
        ),
        Ok(_) | Err(_) => Check::failed(
            "daemon",
            format!(
                "pid {pid}, at {}, is no loaderd that this one understands",
                path.display()
            ),
            "choose another socket with LOADERD_SOCKET, or end that process",
        ),
    }
}

fn jpeg() -> Check {
    let decoder = loaderd_decode::version();
    match loaderd_decode::simd() {
        Some(simd) => Check::ok("jpeg", format!("{decoder}, {simd}")),
        None => Check::slow(
            "jpeg",
            format!("{decoder}, without SIMD"),
            "unset JSIMD_FORCENONE; build with nasm installed",
        ),
    }
}

/// Lance's version and the page map's format.
#[cfg(feature = "lance")]
fn lance_versions() -> Option<(String, u32)> {
    Some((
        loaderd_snapshot::lance_version(),
        loaderd_snapshot::PAGE_MAP_FORMAT,
    ))
}

#[cfg(not(feature = "lance"))]
fn lance_versions() -> Option<(String, u32)> {
    None
}

fn lance() -> Check {
    match lance_versions() {
        Some((version, format)) => Check::ok(
            "lance",
            format!("{version} built in, page map format {format}"),
        ),
        None => Check::missing(
            "lance",
            "not built in: this program reads only memory: sources",
            "build with the feature `lance`, which is on by default",
        ),
    }
}

/// The client's package of the environment that this program is installed in.
fn python() -> Check {
    let prefix = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.to_owned()))
        .unwrap_or_default();
    match installed(&prefix) {
        Some(version) if version == VERSION => Check::ok(
            "python",
            format!("package {version} in {}", prefix.display()),
        ),
        Some(version) => Check::failed(
            "python",
            format!(
                "package {version} in {}, and this is {VERSION}",
                prefix.display()
            ),
            "install one wheel, which holds both",
        ),
        None => Check::missing(
            "python",
            format!("no package beside this program, in {}", prefix.display()),
            "pip install the wheel into the environment that trains, and run its own `loaderd doctor`",
        ),
    }
}

/// The package's version, from the metadata below `prefix`.
fn installed(prefix: &Path) -> Option<String> {
    let children = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let lib = prefix.join("lib");
    children(&lib)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|python| children(&python.path().join("site-packages")).collect::<Vec<_>>())
        .find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("loaderd-")?.strip_suffix(".dist-info")?;
            Some(version.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_found_beside_its_program() {
        let prefix = tempfile::tempdir().unwrap();
        assert_eq!(installed(prefix.path()), None);
        let packages = prefix.path().join("lib/python3.12/site-packages");
        for folder in ["loaderd", "other-1.0.dist-info", "loaderd-0.9.0.dist-info"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        assert_eq!(installed(prefix.path()).as_deref(), Some("0.9.0"));
    }
}
