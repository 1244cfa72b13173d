//! What tests draw: numbers from a seed, and transforms that only move pixels.
//!
//! Enters: a seed, or proptest's runner. Leaves: numbers, parts of a list. Never: a whole list.

#![allow(dead_code, reason = "each test file uses its part of these")]

use proptest::prelude::*;
use serde_json::{Value, json};

/// The same numbers for the same seed.
pub(crate) fn noise(seed: u32) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state ^ state >> 15)
    })
}

/// Moves that may stand anywhere, also on either side of a resize.
pub(crate) fn moves() -> impl Strategy<Value = Vec<Value>> {
    let side = || 1..90u32;
    let one = prop_oneof![
        (side(), side()).prop_map(|(h, w)| json!({"name": "CenterCrop", "size": [h, w]})),
        (side(), side(), 0..9u32).prop_map(|(h, w, padding)| json!({
            "name": "RandomCrop", "size": [h, w], "padding": [padding, 0, 3, 1],
            "pad_if_needed": true,
        })),
        [0..9u32, 0..9, 0..9, 0..9].prop_map(|sides| json!({"name": "Pad", "padding": sides})),
        Just(json!({"name": "RandomHorizontalFlip"})),
        Just(json!({"name": "RandomVerticalFlip"})),
    ];
    prop::collection::vec(one, 0..4)
}
