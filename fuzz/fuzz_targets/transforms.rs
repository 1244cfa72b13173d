//! Transform lists, as a client sends them.
//!
//! Enters: JSON. A list that is accepted has a canonical form, which means the same, and
//! an output whose bytes can be counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_decode::{Options, Pipeline};
use serde_json::Value;

fuzz_target!(|text: &[u8]| {
    let Ok(list) = serde_json::from_slice::<Value>(text) else {
        return;
    };
    let Ok(pipeline) = Pipeline::parse(&list, Options::default()) else {
        return;
    };
    assert!(pipeline.output().bytes() > 0);
    let canonical: Value = serde_json::from_str(&pipeline.canonical()).expect("it is JSON");
    let again = Pipeline::parse(&canonical["transforms"], Options::default())
        .expect("the canonical form is a list like any other");
    assert_eq!(again.output(), pipeline.output());
    assert_eq!(again.draws(), pipeline.draws());
});
