//! `loaderd doctor` on machines that refuse: each test runs it in a process whose kernel,
//! limits or folders lack something, and reads the verdict and the mend.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use restrict::{limit, no_locked_memory, no_ring};

// One helper for both crates: what a kernel refuses is the same for either.
#[path = "../../read/tests/restrict/mod.rs"]
mod restrict;

struct Report {
    succeeded: bool,
    errors: String,
    json: Value,
}

impl Report {
    /// Verdict, what was found, and the mend (empty where there is none).
    fn check(&self, name: &str) -> (&str, &str, &str) {
        let checks = self.json["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no check {name}: {}", self.json));
        let text = |field: &str| check[field].as_str().unwrap_or_default();
        (text("verdict"), text("found"), text("mend"))
    }
}

/// Runs it with folders below `home`, after `restrict`.
fn doctor(home: &Path, restrict: fn() -> io::Result<()>, arguments: &[&str]) -> Report {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loaderd"));
    command
        .args(["doctor", "--json"])
        .args(arguments)
        .env("LOADERD_STATE", home.join("state"))
        .env("LOADERD_CACHE", home.join("cache"))
        .env("LOADERD_SOCKET", home.join("socket"))
        .env_remove("JSIMD_FORCENONE")
        .current_dir(home);
    // SAFETY: `restrict` makes system calls only, which is allowed between fork and exec.
    unsafe { command.pre_exec(restrict) };
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    Report {
        succeeded: output.status.success(),
        json: serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}")),
        errors,
    }
}

fn nothing() -> io::Result<()> {
    Ok(())
}

#[test]
fn it_looks_at_everything_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let report = doctor(home.path(), nothing, &[]);
    let names: Vec<&str> = report.json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in [
        "kernel",
        "io_uring",
        "memlock",
        "memfd",
        "huge_pages",
        "descriptors",
        "cores",
        "memory",
        "dataset",
        "state",
        "cache",
        "temporary",
        "runtime",
        "daemon",
        "jpeg",
        "lance",
        "python",
        "gpu_driver",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert_eq!(report.check("memfd").0, "ok");
    assert_eq!(report.check("state").0, "ok", "{:?}", report.check("state"));
    assert!(report.check("daemon").1.starts_with("none runs"));
    assert!(report.json["versions"]["protocol"].is_u64());
    assert_eq!(
        report.json["versions"]["loaderd"],
        env!("CARGO_PKG_VERSION")
    );
    for folder in ["state", "cache"] {
        let left: Vec<_> = fs::read_dir(home.path().join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // For people: a line per check, and one that sums up.
    let output = Command::new(env!("CARGO_BIN_EXE_loaderd"))
        .arg("doctor")
        .env("LOADERD_STATE", home.path().join("state"))
        .env("LOADERD_CACHE", home.path().join("cache"))
        .env("LOADERD_SOCKET", home.path().join("socket"))
        .current_dir(home.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in names {
        let line = text.lines().filter(|line| line.starts_with(name)).count();
        assert!(line == 1, "{name}: {text}");
    }
}

#[test]
fn a_small_memlock_limit_costs_little() {
    let home = tempfile::tempdir().unwrap();
    let report = doctor(home.path(), no_locked_memory, &[]);
    if report.check("io_uring").0 != "ok" {
        eprintln!("skipped: no ring here: {}", report.check("io_uring").1);
        return;
    }
    let (verdict, found, _) = report.check("memlock");
    assert_eq!(verdict, "ok");
    assert!(found.contains("64.00 KiB may be locked"), "{found}");
    assert!(found.contains("16.00 MiB"), "{found}");
    assert!(found.contains("about 1 µs"), "{found}");
    assert!(found.contains("LimitMEMLOCK"), "{found}");
    assert!(report.check("io_uring").1.contains("not registered"));
    assert!(report.succeeded, "{}", report.errors);
}

#[test]
fn few_descriptors_fail() {
    let home = tempfile::tempdir().unwrap();
    let report = doctor(home.path(), || limit(libc::RLIMIT_NOFILE, 24), &[]);
    let (verdict, found, mend) = report.check("descriptors");
    assert_eq!((verdict, found), ("failed", "24 open files"));
    assert!(mend.contains("ulimit -n"), "{mend}");
    assert!(!report.succeeded);
    assert!(
        report.errors.contains("descriptors failed"),
        "{}",
        report.errors
    );
}

#[test]
fn a_dataset_of_many_files_needs_descriptors() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("set/data");
    fs::create_dir_all(&data).unwrap();
    fs::create_dir(home.path().join("set/_versions")).unwrap();
    for n in 0..100 {
        fs::write(data.join(n.to_string()), [0; 5000]).unwrap();
    }
    // The folder only looks like a dataset: what Lance says of it is not asked here.
    let report = doctor(home.path(), || limit(libc::RLIMIT_NOFILE, 250), &["set"]);
    let (verdict, found, mend) = report.check("descriptors");
    assert_eq!(verdict, "slow", "{found}");
    assert!(found.contains("100 files take 264"), "{found}");
    assert!(mend.contains("compact"), "{mend}");
    assert!(
        report
            .check("page_cache")
            .1
            .contains("a session would read")
    );
}

#[test]
fn a_refused_ring_is_slow_and_says_why() {
    let home = tempfile::tempdir().unwrap();
    let report = doctor(home.path(), no_ring, &[]);
    let (verdict, found, mend) = report.check("io_uring");
    assert_eq!(verdict, "slow");
    assert!(found.contains("io_uring refused: EPERM"), "{found}");
    assert!(found.contains("pread"), "{found}");
    let switched_off = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .is_ok_and(|value| value.trim() != "0");
    let expected = if switched_off { "sysctl" } else { "seccomp" };
    assert!(mend.contains(expected), "{mend}");
    assert!(report.succeeded, "{}", report.errors);
}

#[test]
fn folders_that_cannot_be_written_fail() {
    for (name, way_out) in [("state", "LOADERD_STATE"), ("cache", "LOADERD_CACHE")] {
        let home = tempfile::tempdir().unwrap();
        // A file in the folder's place: root, too, is refused.
        fs::write(home.path().join(name), "").unwrap();
        let report = doctor(home.path(), nothing, &[]);
        let (verdict, found, mend) = report.check(name);
        assert_eq!(verdict, "failed", "{found}");
        assert!(found.contains(home.path().to_str().unwrap()), "{found}");
        assert!(mend.contains(way_out), "{mend}");
        assert!(!report.succeeded);
    }
}

#[test]
fn a_step_log_of_a_later_version_fails() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("state")).unwrap();
    let log = rusqlite::Connection::open(home.path().join("state/steps.sqlite")).unwrap();
    log.pragma_update(None, "user_version", 1000).unwrap();
    drop(log);
    let report = doctor(home.path(), nothing, &[]);
    let (verdict, found, _) = report.check("state");
    assert_eq!(verdict, "failed");
    assert!(found.contains("schema 1000"), "{found}");
}

#[test]
fn a_dataset_that_is_not_there_fails() {
    let home = tempfile::tempdir().unwrap();
    for place in ["gone.lance", "s3://bucket/set.lance"] {
        let report = doctor(home.path(), nothing, &[place]);
        assert_eq!(report.check("dataset").0, "failed");
        assert!(!report.succeeded);
    }
}

#[test]
fn a_folder_without_a_dataset_is_not_taken_for_one() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("sets")).unwrap();
    let report = doctor(home.path(), nothing, &["sets"]);
    let (verdict, found, mend) = report.check("dataset");
    assert_eq!(verdict, "missing", "{found}");
    assert!(found.contains("no Lance dataset"), "{found}");
    assert!(mend.contains("_versions"), "{mend}");
}
