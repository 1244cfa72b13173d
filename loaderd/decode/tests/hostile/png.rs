//! PNGs.

use std::time::Instant;

use loaderd_decode::{Decoder, Limits, Options, Pipeline};

use crate::files::{self, Png};
use crate::{TIME_MAX, check_refused as check, decode};

/// Image data of a PNG are summed: no flipped bit there is taken for a pixel.
#[test]
fn flipped_png_data_are_refused() {
    let mut decoder = Decoder::new(Limits::default());
    let whole = Png::rgb(40, 30, &[77; 3600]).file();
    let start = whole.windows(4).position(|name| name == b"IDAT").unwrap();
    for at in start + 4..whole.len() - 12 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let error = decode(&mut decoder, &bytes, 1).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}

#[test]
fn headers_cannot_ask_for_memory() {
    let sized = |width, height, colour, depth, interlaced| {
        let mut png = Png::new(width, height, colour, depth, Vec::new());
        png.interlaced = interlaced;
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        file.extend(png.header());
        file.extend(files::png_chunk(b"IDAT", &files::zlib(&[0; 5000])));
        file.extend(files::png_chunk(b"IEND", b""));
        file
    };
    // One row that deflate could hold, of more bytes than are allowed.
    let mut wide = sized(100_000_000, 1, 6, 8, false);
    let data = files::png_chunk(b"IDAT", &[0; 400_000]);
    wide.splice(wide.len() - 12..wide.len() - 12, data);
    check(&sized(60_000, 60_000, 2, 8, false), "more than the limit");
    check(
        &sized(i32::MAX as u32, i32::MAX as u32, 6, 16, true),
        "more than the limit",
    );
    check(&sized(u32::MAX, 1, 0, 1, false), "a size of");
    check(&wide, "scratch memory");
    check(&sized(9_000, 9_000, 6, 16, true), "cannot hold");
    check(&sized(9_000, 9_000, 0, 1, false), "cannot hold");
    check(&sized(200, 200, 0, 1, false), "end early");
}

/// A few kilobytes that honestly hold 64 megapixels.
#[test]
fn a_png_of_zeros_is_decoded_piece_by_piece() {
    let png = Png::new(8000, 8000, 0, 1, Vec::new());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(png.header());
    file.extend(files::png_chunk(
        b"IDAT",
        &files::zlib(&vec![0; 8000 * 1001]),
    ));
    file.extend(files::png_chunk(b"IEND", b""));
    assert!(file.len() < 20_000);
    let crop = serde_json::json!([{"name": "CenterCrop", "size": [8, 8]}]);
    let crop = Pipeline::parse(&crop, Options::default()).unwrap();
    let mut decoder = Decoder::new(Limits {
        scratch_bytes_max: 1 << 20,
        ..Limits::default()
    });
    let clock = Instant::now();
    let mut out = vec![7; 192];
    decoder
        .decode(&crop, &file, &mut std::iter::empty(), &mut out)
        .unwrap();
    assert_eq!(out, [0; 192]);
    assert!(decoder.scratch_bytes() < 1 << 18);
    assert!(clock.elapsed() < TIME_MAX);
}
