//! Transforms that only move pixels, as proptest draws them.
//!
//! Enters: proptest's runner. Leaves: parts of a list. Never: a whole list.

use proptest::prelude::*;
use serde_json::{Value, json};

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
