//! Tiling: any bytes as a file.
//!
//! Enters: any bytes, of which a PNG is taken for a mask. What is tiled must hold what the original does, and be tiled or
//! tileable itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_decode::Limits;
use loaderd_decode::tile::{NotTiled, is_tiled, tiled_form, verify};

const LIMITS: Limits = Limits {
    pixels_max: 1 << 18,
    scans_max: 20,
    scratch_bytes_max: 8 << 20,
};

fuzz_target!(|encoded: &[u8]| {
    if let Ok(tiled) = tiled_form(encoded, &LIMITS) {
        verify(encoded, &tiled, &LIMITS).expect("the same picture");
        assert!(!is_tiled(encoded));
        // It may be divided better still, where progressive coding was much smaller.
        let again = tiled_form(&tiled, &LIMITS);
        assert!(again.is_ok() || again == Err(NotTiled::Already));
    }
});
