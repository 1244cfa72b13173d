//! The ladder on machines that refuse: each test runs its body in a child process whose
//! kernel refuses to lock memory, to set up a ring, or to open many files.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use loaderd_read::{Backend, Buffer, Config, Extent, FileSet, Mode, ReadError, Reader};

use restrict::{limit, no_locked_memory, no_ring};

mod restrict;

const CHILD: &str = "LOADERD_READ_TEST_CHILD";

/// Runs the test called `name` again in a child process after `restrict`, and there
/// `body`.
fn in_child(name: &str, restrict: fn() -> io::Result<()>, body: fn()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1");
    // SAFETY: `restrict` makes system calls only, which is allowed between fork and exec.
    unsafe { command.pre_exec(restrict) };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

/// Makes a file of 1 MB, and a reader that must find the right bytes in it.
fn read_back(folder: &Path) -> Reader {
    let path = folder.join("data");
    let content: Vec<u8> = (0..1_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&path, &content).unwrap();
    let files = Arc::new(FileSet::open(vec![path]).unwrap());
    let config = Config {
        mode: Mode::Auto,
        ..Config::for_lengths(100_000, 16 << 20)
    };
    let mut reader = Reader::new(files, config).unwrap();
    let extents: Vec<_> = (0..9)
        .map(|n| Extent {
            offset: n * 100_003,
            length: 99_999,
            file: 0,
        })
        .collect();
    for (tag, &extent) in extents.iter().enumerate() {
        assert!(reader.submit(tag as u64, extent));
    }
    let mut seen = 0;
    while seen < extents.len() {
        let mut done = |tag: u64, result: Result<Buffer, ReadError>| {
            let start = extents[tag as usize].offset as usize;
            assert_eq!(&*result.unwrap(), &content[start..][..99_999]);
        };
        let count = reader.complete(Duration::from_secs(60), &mut done).unwrap();
        assert!(count > 0, "hangs");
        seen += count;
    }
    reader
}

#[test]
fn without_locked_memory_the_ring_reads_into_plain_slabs() {
    in_child(
        "without_locked_memory_the_ring_reads_into_plain_slabs",
        no_locked_memory,
        || {
            let folder = tempfile::tempdir().unwrap();
            let reader = read_back(folder.path());
            let report = reader.engine();
            if report.backend == Backend::Pread {
                eprintln!("skipped: {report}");
                return;
            }
            assert_eq!(report.backend, Backend::UringPlain);
            let text = report.to_string();
            assert!(text.contains("buffers not registered: ENOMEM"), "{text}");
            assert!(text.contains("memlock limit 64 KiB"), "{text}");
        },
    );
}

#[test]
fn without_io_uring_threads_read() {
    in_child("without_io_uring_threads_read", no_ring, || {
        let folder = tempfile::tempdir().unwrap();
        let reader = read_back(folder.path());
        let report = reader.engine();
        assert_eq!(report.backend, Backend::Pread);
        let text = report.to_string();
        assert!(text.starts_with("pread pool, "), "{text}");
        assert!(text.contains("(io_uring refused: EPERM"), "{text}");
    });
}

#[test]
fn too_many_files_says_how_many_are_needed() {
    in_child(
        "too_many_files_says_how_many_are_needed",
        || limit(libc::RLIMIT_NOFILE, 40),
        || {
            let folder = tempfile::tempdir().unwrap();
            let paths = |count: usize| -> Vec<_> {
                (0..count)
                    .map(|n| {
                        let path = folder.path().join(n.to_string());
                        std::fs::write(&path, [0; 5000]).unwrap();
                        path
                    })
                    .collect()
            };
            let error = FileSet::open(paths(100)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("limit of 40 open files"), "{text}");
            assert!(text.contains("need 200"), "{text}");
            // Enough for the files, not for a second descriptor each: buffered then.
            let files = Arc::new(FileSet::open(paths(25)).unwrap());
            let config = Config::for_lengths(5000, 1 << 20);
            let reader = Reader::new(Arc::clone(&files), config).unwrap();
            let text = reader.engine().to_string();
            assert!(!reader.engine().direct, "{text}");
            assert!(text.contains("50 are needed"), "{text}");
            let insisting = Config {
                mode: Mode::Direct,
                ..config
            };
            let error = Reader::new(files, insisting).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        },
    );
}
