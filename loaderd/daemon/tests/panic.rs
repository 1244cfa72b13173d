//! A thread that panics takes the whole process along, in a process of its own.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set where this program runs as the process that is to end.
const ENDING: &str = "LOADERD_TEST_PANICS";

#[test]
fn a_panic_of_any_thread_ends_the_process() {
    if std::env::var_os(ENDING).is_some() {
        loaderd::abort_on_panic();
        std::thread::spawn(|| panic!("a decode worker's bug"));
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("a_panic_of_any_thread_ends_the_process")
        .env(ENDING, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let mut text = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{text}");
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}: {text}");
    assert!(text.contains("a decode worker's bug"), "{text}");
    assert!(text.contains("panic.rs:"), "{text}");
    assert!(text.contains("please report it"), "{text}");
}
