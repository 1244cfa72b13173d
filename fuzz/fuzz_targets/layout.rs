//! Layouts, as a client gets them from a daemon it can't trust.
//!
//! Enters: JSON. A layout that passes the client's check has every dense tensor within the
//! slot, and ragged columns of values that have a size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_wire::Layout;

fuzz_target!(|text: &[u8]| {
    let Ok(layout) = serde_json::from_slice::<Layout>(text) else {
        return;
    };
    if layout.check().is_ok() {
        for tensor in &layout.tensors {
            if tensor.ragged.is_some() {
                assert!(tensor.row_bytes() > 0);
                continue;
            }
            let rows = u128::from(tensor.row_bytes()) * u128::from(layout.batch_size);
            assert!(u128::from(tensor.offset) + rows <= u128::from(layout.slot_bytes));
        }
    }
});
