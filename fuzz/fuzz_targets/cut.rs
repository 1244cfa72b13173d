//! The cut: any bytes as a JPEG, and any region of it.
//!
//! Enters: four bytes that choose the region, and the file. Cutting must not panic, nor
//! write more than the file has; and where the whole file decodes, so does the cut, to the
//! same pixels. That a cut decodes whose file does not is no fault: what it leaves out
//! may be broken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_decode::cut::{Cuttable, Region};
use loaderd_decode::{Decoder, Limits, Options};

const LIMITS: Limits = Limits {
    pixels_max: 1 << 18,
    scans_max: 20,
    scratch_bytes_max: 8 << 20,
};

fuzz_target!(|data: &[u8]| {
    let [left, columns, top, rows, encoded @ ..] = data else {
        return;
    };
    let Some(cuttable) = Cuttable::of(encoded) else {
        return;
    };
    let (width, height) = cuttable.size();
    let ((left, right), (top, bottom)) = (span(width, *left, *columns), span(height, *top, *rows));
    let region = Region {
        left,
        right,
        top,
        bottom,
    };
    for eighths in [1, 2, 4] {
        let scaled = |side: u32| (side * eighths).div_ceil(8);
        let window = cuttable.window(
            &Region {
                left: left * eighths / 8,
                right: scaled(right),
                top: top * eighths / 8,
                bottom: scaled(bottom),
            },
            eighths,
        );
        assert!(window.width <= width && window.height <= height);
        assert!(window.region.right <= scaled(window.width));
        assert!(window.region.bottom <= scaled(window.height));
    }
    let window = cuttable.window(&region, 8);
    let mut cut = Vec::new();
    let complete = cuttable.cut(&window, &mut cut).is_some();
    assert_eq!(complete, cuttable.is_complete());
    if !complete {
        return;
    }
    assert!(cut.len() <= encoded.len());
    let mut decoder = Decoder::new(LIMITS);
    let Ok(whole) = decoder.decode_full(encoded, stored()) else {
        return;
    };
    let part = decoder
        .decode_full(&cut, stored())
        .expect("a part of what decodes");
    assert_eq!((part.width, part.height), (window.width, window.height));
    assert!(part.rows_of(&window.region).eq(whole.rows_of(&region)));
});

fn stored() -> Options {
    Options {
        exif_orientation: false,
        ..Options::default()
    }
}

/// A part of `side` pixels, not empty.
fn span(side: u32, from: u8, length: u8) -> (u32, u32) {
    let from = u32::from(from) * side / 256;
    (from, from + 1 + u32::from(length) * (side - from) / 257)
}
