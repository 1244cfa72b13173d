//! Messages of both directions, as JSON.
//!
//! Enters: a frame's body. What is taken for a message must be one: it is written again
//! and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_wire::{ToClient, ToDaemon};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|body: &[u8]| {
    again::<ToDaemon>(body);
    again::<ToClient>(body);
});

fn again<M: Serialize + DeserializeOwned>(body: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<M>(body) {
        let written = serde_json::to_vec(&message).expect("a message is plain data");
        // Not compared as a whole: floats of the opaque parts need not survive bit by bit.
        serde_json::from_slice::<M>(&written).expect("what we write we can read");
    }
}
