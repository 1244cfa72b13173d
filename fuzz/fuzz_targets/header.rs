//! Image headers, as they lie in a dataset.
//!
//! Enters: any bytes. A header must have pixels, and an image that decodes has the size
//! that its header announces. How a JPEG is coded fits what its header says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_decode::coding::Coding;
use loaderd_decode::{Decoder, Limits, Options, probe};

fuzz_target!(|encoded: &[u8]| {
    let header = probe(encoded);
    if let Ok(header) = &header {
        assert!(header.pixels() > 0);
        if let Some(coding) = Coding::of(encoded) {
            assert_eq!((coding.width, coding.height), (header.width, header.height));
        }
    }
    let limits = Limits {
        pixels_max: 1 << 18,
        scans_max: 20,
        scratch_bytes_max: 8 << 20,
    };
    if let Ok(image) = Decoder::new(limits).decode_full(encoded, Options::default()) {
        let header = header.expect("what decodes has a header");
        assert!(header.pixels() <= limits.pixels_max);
        assert_eq!(
            image.rgb.len() as u64,
            u64::from(image.width) * u64::from(image.height) * 3
        );
    }
});
