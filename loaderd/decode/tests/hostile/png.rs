//! PNGs.

use std::time::Instant;

use loaderd_decode::{Decoder, Limits, Options, Pipeline};
use zlib_rs::DeflateConfig;

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

/// A picture, its compressed data, and its pixels.
fn sample() -> (Png, Vec<u8>, Vec<u8>) {
    let rgb = files::picture(17, 13, 3, 5);
    let png = Png::rgb(17, 13, &rgb);
    let data = files::zlib(&png.filtered());
    (png, data, rgb)
}

fn whole(file: &[u8]) -> Result<Vec<u8>, String> {
    let image = Decoder::new(Limits::default()).decode_full(file, Options::default());
    image
        .map(|image| image.rgb)
        .map_err(|error| error.to_string())
}

/// Wherever encoders part the stream, its first two bytes and its end included.
#[test]
fn data_may_be_split_anywhere() {
    let (png, data, rgb) = sample();
    for at in 0..=data.len() {
        let (before, behind) = data.split_at(at);
        let file = png.file_of([before, behind]);
        assert_eq!(whole(&file), Ok(rgb.clone()), "at {at}");
        let file = png.file_of([before, &[], &[], behind, &[]]);
        assert_eq!(whole(&file), Ok(rgb.clone()), "empty chunks at {at}");
    }
    assert_eq!(whole(&png.file_of(data.chunks(1))), Ok(rgb));
    let error = whole(&png.file_of([&[][..], &[]])).unwrap_err();
    assert!(error.contains("cannot hold"), "{error}");
}

/// Chunks whose sums are right hold a stream that is not all there. What is missing behind the
/// last pixel is not missed: the end's mark, and the sum, which the chunks' own make
/// superfluous.
#[test]
fn streams_that_are_cut_are_refused() {
    let (png, data, rgb) = sample();
    let mut refused = 0;
    for length in 1..data.len() {
        match whole(&png.file_of([&data[..length]])) {
            Ok(pixels) => assert_eq!(pixels, rgb),
            Err(error) => {
                assert!(error.contains("end early"), "{error}");
                refused = length;
            }
        }
    }
    assert!(refused >= data.len() - 4 - 4, "{refused} of {}", data.len());
    let mut other_sum = data.clone();
    *other_sum.last_mut().unwrap() ^= 1;
    assert_eq!(whole(&png.file_of([&other_sum[..]])), Ok(rgb.clone()));
    // Bytes behind the stream, in its chunk or in others.
    let more = [&data[..], &[0xff; 300]].concat();
    assert_eq!(whole(&png.file_of([&more[..]])), Ok(rgb.clone()));
    assert_eq!(whole(&png.file_of([&data[..], &data])), Ok(rgb));
}

/// The stream's first two bytes: method and window, check and dictionary.
#[test]
fn other_streams_are_refused() {
    let (png, data, rgb) = sample();
    for first in 0..=u16::MAX {
        let mut data = data.clone();
        data[..2].copy_from_slice(&first.to_be_bytes());
        let [method, flags] = first.to_be_bytes();
        let is_zlib = method & 15 == 8 && method >> 4 < 8 && flags & 32 == 0;
        let expected = if is_zlib && first % 31 == 0 {
            Ok(rgb.clone())
        } else {
            let found = format!("image data that begin with {method:02x} {flags:02x}");
            Err(format!("corrupt PNG: {found}"))
        };
        assert_eq!(whole(&png.file_of([&data[..]])), expected);
    }
}

/// A small header before a stream of 64 MB: what no row needs is not decompressed.
#[test]
fn data_behind_the_last_row_are_left_alone() {
    let mut rows = Png::rgb(8, 8, &[0; 192]).filtered();
    rows.resize(64 << 20, 0);
    let file = Png::rgb(8, 8, &[0; 192]).file_of([&files::zlib(&rows)[..]]);
    let clock = Instant::now();
    for _ in 0..1000 {
        let mut decoder = Decoder::new(Limits::default());
        decode(&mut decoder, &file, 1).unwrap();
        assert!(decoder.scratch_bytes() < 1 << 18);
    }
    // A thousand times 64 MB would take minutes; their sum is 64 KB a time.
    assert!(clock.elapsed() < TIME_MAX);
}

/// Pictures of several pieces, whose copies reach back over their bounds, through windows of
/// every size; rows longer than a piece; and passes that end within one.
#[test]
fn pieces_are_joined() {
    let check = |width: u32, height: u32, interlaced: bool| {
        let mut rgb = files::picture(width, height, 3, 11);
        // Each third of the picture begins with a copy of what lies as far back as windows reach.
        for from in [rgb.len() / 3, rgb.len() / 3 * 2] {
            rgb.copy_within(from - 30_000..from - 15_000, from);
        }
        let mut png = Png::rgb(width, height, &rgb);
        png.interlaced = interlaced;
        let rows = png.filtered();
        for window_bits in 9..=15 {
            let config = DeflateConfig {
                window_bits,
                level: 6,
                ..DeflateConfig::default()
            };
            let data = files::zlib_by(&rows, config);
            assert_eq!(data[0] >> 4, window_bits as u8 - 8);
            for split in [8192, usize::MAX] {
                let found = whole(&png.file_of(data.chunks(split)));
                assert!(found.as_ref() == Ok(&rgb), "{width}x{height} {window_bits}");
            }
        }
    };
    check(301, 523, false);
    check(301, 523, true);
    check(70_001, 4, false);
    check(45_001, 5, true);
}
