//! Frames: bytes as a hostile peer may send them, in two pieces.
//!
//! Enters: a byte that says where the pieces part, and the stream. It must end in messages,
//! garbage or the connection's end: no panic, no endless loop, no wait.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use loaderd_wire::{Channel, ToClient, ToDaemon, WireError};
use serde::de::DeserializeOwned;

/// More would fill the socket's buffer, and nobody reads while we write.
const STREAM_BYTES_MAX: usize = 32 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    if stream.len() <= STREAM_BYTES_MAX {
        let cut = usize::from(cut).min(stream.len());
        receive::<ToDaemon>(stream, cut);
        receive::<ToClient>(stream, cut);
    }
});

fn receive<M: DeserializeOwned>(stream: &[u8], cut: usize) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let channel = Channel::from_fd(ours.into());
    let mut frames = 0;
    let mut rest = Some(&stream[cut..]);
    theirs.write_all(&stream[..cut]).expect("room for it");
    loop {
        match channel.receive::<M>(Some(Duration::ZERO)) {
            Ok(received) => assert!(received.fds.is_empty()),
            // Of a body that is no message; the frame is taken all the same.
            Err(WireError::Garbage { .. }) => {}
            Err(WireError::Timeout { .. }) => {
                let rest = rest.take().expect("the end was announced");
                theirs.write_all(rest).expect("room for it");
                theirs
                    .shutdown(std::net::Shutdown::Write)
                    .expect("it is connected");
                continue;
            }
            Err(WireError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
        frames += 1;
        // A stream that is broken for good answers with the same error for ever.
        if frames > stream.len() / 8 + 1 {
            break;
        }
    }
}
