//! Frames under all that a stream socket and a hostile peer can do to them.

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loaderd_wire::socket::{FRAME_BYTES_MAX, FRAME_FDS_MAX};
use loaderd_wire::{Channel, ToDaemon, WireError};
use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

const LONG: Option<Duration> = Some(Duration::from_secs(10));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn pair() -> (Channel, Channel) {
    let (a, b) = UnixStream::pair().unwrap();
    (Channel::from_fd(a.into()), Channel::from_fd(b.into()))
}

/// A channel, and the bare socket at its other end.
fn half() -> (Channel, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    (Channel::from_fd(a.into()), b)
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"LDR1".to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn file_with(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

fn text_of(fd: OwnedFd) -> String {
    let mut file = File::from(fd);
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_wire_format_is_pinned() {
    let (channel, mut raw) = half();
    channel.send(&ToDaemon::Release { lease: 7 }, &[]).unwrap();
    drop(channel);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"LDR1\x1c\0\0\0{\"type\":\"release\",\"lease\":7}");
}

#[test]
fn descriptors_arrive_with_their_own_message() {
    let (a, b) = pair();
    let first = file_with("first");
    let second = file_with("second");
    a.send(&0, &[]).unwrap();
    a.send(&1, &[first.as_fd()]).unwrap();
    a.send(&2, &[]).unwrap();
    a.send(&3, &[second.as_fd(), first.as_fd()]).unwrap();
    for (number, expected) in [vec![], vec!["first"], vec![], vec!["second", "first"]]
        .into_iter()
        .enumerate()
    {
        let received = b.receive::<usize>(LONG).unwrap();
        assert_eq!(received.message, number);
        for fd in &received.fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        let texts: Vec<String> = received.fds.into_iter().map(text_of).collect();
        assert_eq!(texts, expected);
    }
}

#[test]
fn the_most_descriptors_fit_even_with_a_large_body() {
    let (a, b) = pair();
    let file = file_with("x");
    let text = "y".repeat(FRAME_BYTES_MAX - 2);
    std::thread::scope(|scope| {
        scope.spawn(|| a.send(&text, &[file.as_fd(); FRAME_FDS_MAX]).unwrap());
        let received = b.receive::<String>(LONG).unwrap();
        assert_eq!(received.message.len(), text.len());
        assert_eq!(received.fds.len(), FRAME_FDS_MAX);
    });
}

#[test]
fn bodies_over_the_bound_are_refused_on_both_sides() {
    let (a, mut raw) = half();
    let text = "y".repeat(FRAME_BYTES_MAX - 1);
    assert!(matches!(
        a.send(&text, &[]),
        Err(WireError::TooLarge { .. })
    ));
    raw.write_all(b"LDR1\x01\0\x40\0").unwrap();
    let error = a.receive::<Value>(LONG).unwrap_err();
    assert!(error.to_string().contains("4194305 bytes"), "{error}");
    // Frame boundaries are lost: what follows is not read as a message.
    raw.write_all(&frame(b"1")).unwrap();
    assert!(matches!(
        a.receive::<Value>(LONG),
        Err(WireError::Garbage { .. })
    ));
}

/// Bytes with descriptors, as only a peer that is none of ours sends them.
fn send_raw(raw: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(
        raw,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn descriptors_out_of_place_are_refused() {
    let file = file_with("x");
    let check = |bytes: [&[u8]; 2], fds: &[BorrowedFd<'_>], expected: &str| {
        let (channel, mut raw) = half();
        raw.write_all(bytes[0]).unwrap();
        send_raw(&raw, bytes[1], fds);
        for _ in 0..2 {
            let error = channel.receive::<Value>(LONG).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    };
    let frame = frame(b"[1]");
    let (header, body) = frame.split_at(8);
    check([header, body], &[file.as_fd()], "in the middle of a frame");
    check(
        [&[], &frame],
        &[file.as_fd(); FRAME_FDS_MAX + 1],
        "more than 8 descriptors",
    );
}

#[test]
fn a_message_in_part_survives_a_timeout() {
    let (channel, mut raw) = half();
    let bytes = frame(br#"{"a":[1,2,3]}"#);
    for byte in &bytes[..bytes.len() - 1] {
        raw.write_all(&[*byte]).unwrap();
        assert!(matches!(
            channel.receive::<Value>(NOW),
            Err(WireError::Timeout { .. })
        ));
    }
    raw.write_all(&bytes[bytes.len() - 1..]).unwrap();
    let received = channel.receive::<Value>(NOW).unwrap();
    assert_eq!(received.message, json!({"a": [1, 2, 3]}));
}

#[test]
fn timeouts_last_as_long_as_asked() {
    let (channel, _raw) = half();
    let started = Instant::now();
    let timeout = Duration::from_millis(50);
    assert!(matches!(
        channel.receive::<Value>(Some(timeout)),
        Err(WireError::Timeout { .. })
    ));
    assert!(started.elapsed() >= timeout);
}

#[test]
fn last_words_are_heard_before_the_end() {
    let (a, b) = pair();
    a.send(&"sorry", &[]).unwrap();
    // Unread data of ours makes the kernel report a reset instead of an end.
    b.send(&"unread", &[]).unwrap();
    assert!(!b.is_closed());
    drop(a);
    assert!(b.is_closed());
    assert_eq!(b.receive::<String>(LONG).unwrap().message, "sorry");
    assert!(matches!(b.receive::<String>(LONG), Err(WireError::Closed)));
    assert!(matches!(b.send(&1, &[]), Err(WireError::Closed)));
    assert!(matches!(b.post(&1), Err(WireError::Closed)));
}

#[test]
fn an_end_in_mid_frame_is_an_end() {
    let (channel, mut raw) = half();
    raw.write_all(b"LDR1\x05\0\0\0ab").unwrap();
    drop(raw);
    assert!(matches!(
        channel.receive::<Value>(LONG),
        Err(WireError::Closed)
    ));
}

#[test]
fn shutdown_wakes_a_receiver() {
    let (a, _b) = pair();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| a.receive::<Value>(None));
        std::thread::sleep(Duration::from_millis(20));
        a.shutdown();
        assert!(matches!(receiver.join().unwrap(), Err(WireError::Closed)));
    });
}

#[test]
fn posting_never_blocks_and_loses_nothing() {
    let (a, b) = pair();
    let count = 50_000u32;
    let started = Instant::now();
    for number in 0..count {
        a.post(&number).unwrap();
    }
    // Nobody reads: the peer's buffer is full long before the last one.
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(matches!(
        a.receive::<Value>(NOW),
        Err(WireError::Timeout { .. })
    ));
    std::thread::scope(|scope| {
        scope.spawn(|| a.send(&count, &[]).unwrap());
        for number in 0..=count {
            assert_eq!(b.receive::<u32>(LONG).unwrap().message, number);
        }
    });
}

#[test]
fn frames_of_many_senders_never_interleave() {
    let (a, b) = pair();
    let senders = 4u64;
    let each = 500u64;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let a = &a;
            scope.spawn(move || {
                for number in 0..each {
                    let message =
                        json!([sender, number, "x".repeat((number * 37 % 3000) as usize)]);
                    if number % 2 == 0 {
                        a.send(&message, &[]).unwrap();
                    } else {
                        a.post(&message).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                a.flush().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut next = [0u64; 4];
        for _ in 0..senders * each {
            let (sender, number, _) = b.receive::<(usize, u64, String)>(LONG).unwrap().message;
            // One sender's sends and posts can't overtake each other: a send takes what
            // is posted along.
            assert_eq!(number, next[sender], "sender {sender}");
            next[sender] += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #[test]
    fn frames_survive_any_cut(
        texts in prop::collection::vec(".{0,200}", 1..8),
        cuts in prop::collection::vec(1usize..64, 1..64),
    ) {
        let (channel, mut raw) = half();
        let bytes: Vec<u8> = texts
            .iter()
            .flat_map(|text| frame(&serde_json::to_vec(text).unwrap()))
            .collect();
        let mut received = Vec::new();
        let take = |received: &mut Vec<String>| loop {
            match channel.receive::<String>(NOW) {
                Ok(message) => received.push(message.message),
                Err(WireError::Timeout { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        };
        let mut rest = &bytes[..];
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            raw.write_all(now).unwrap();
            take(&mut received);
            rest = later;
        }
        raw.write_all(rest).unwrap();
        take(&mut received);
        prop_assert_eq!(received, texts);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        with_magic in any::<bool>(),
        length in prop::option::of(0u32..400),
    ) {
        let (channel, mut raw) = half();
        if with_magic {
            raw.write_all(b"LDR1").unwrap();
            if let Some(length) = length {
                raw.write_all(&length.to_le_bytes()).unwrap();
            }
        }
        raw.write_all(&bytes).unwrap();
        drop(raw);
        // Every call takes a frame or ends it, so this ends, with an end or an error.
        loop {
            match channel.receive::<ToDaemon>(NOW) {
                Ok(_) => {}
                Err(WireError::Closed | WireError::Garbage { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn any_json_makes_a_round_trip(text in ".*", number in any::<i64>(), list in prop::collection::vec(any::<u32>(), 0..50)) {
        let (a, b) = pair();
        let message = json!({"text": text, "number": number, "list": list});
        a.send(&message, &[]).unwrap();
        prop_assert_eq!(b.receive::<Value>(LONG).unwrap().message, message);
    }
}
