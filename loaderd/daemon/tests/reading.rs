//! A session whose ring breaks: a process of its own, in which no other ring is.

mod filed;

use std::fs;
use std::os::fd::AsRawFd;

use filed::Node;
use loaderd_decode::encode::Encoder;
use loaderd_wire::message::FailureKind;
use serde_json::json;

const ROWS: u64 = 64;

/// Has an empty file take the place of this process's one ring. False where there is none.
fn break_ring() -> bool {
    let rings: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            let is_ring = target.to_string_lossy().contains("[io_uring]");
            is_ring.then(|| entry.file_name().to_str().unwrap().parse().unwrap())
        })
        .collect();
    let null = fs::File::open("/dev/null").unwrap();
    for &ring in &rings {
        // SAFETY: both are open descriptors of this process; who has the second gets errors of
        // the kernel's from now on.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), ring) }, ring);
    }
    rings.len() == 1
}

#[test]
fn a_ring_that_breaks_ends_the_epoch_and_not_the_session() {
    let picture = |number: u64| {
        let pixels: Vec<u8> = (0..64 * 48 * 3u64)
            .map(|at| ((at * (number + 3)) >> 5) as u8)
            .collect();
        Encoder::default().encode(&pixels, 64, 48).unwrap()
    };
    let encoded: Vec<Vec<u8>> = (0..ROWS).map(picture).collect();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(folder.path(), &encoded);
    let crop = json!([{"name": "CenterCrop", "size": [32, 32]}]);
    let client = node.client(node.job("a", crop));
    if !client.reads_with.contains("io_uring") {
        eprintln!(
            "skipped: a ring that breaks, because there is none here: {}",
            client.reads_with
        );
        return;
    }
    let whole = client.epoch((1, 0), |_| {}).unwrap();
    assert_eq!(whole.len() as u64, ROWS / 2);
    for stream in [2, 4, 6] {
        let broken = client.epoch((stream, 0), |step| {
            if step == stream {
                assert!(break_ring(), "there is another ring");
            }
        });
        let (kind, message) = broken.unwrap_err();
        assert_eq!(kind, FailureKind::Io, "{message}");
        for part in ["io_uring stopped working", "--read-mode=pread"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(client.epoch((stream + 1, 0), |_| {}).unwrap(), whole);
    }
}
