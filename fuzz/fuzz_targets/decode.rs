//! The decoder: any bytes under several transform lists.
//!
//! Enters: a byte that chooses the list, and whether the file is an image, a mask or what a mask's
//! runs are, one that seeds the draws, and the file. Decoding twice, over different old contents and with other
//! scratch memory, must end the same way: a difference is memory that was never written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loaderd_decode::{Decoder, Limits, Options, Pipeline};
use loaderd_plan::Draws;
use serde_json::json;

const LIMITS: Limits = Limits {
    pixels_max: 1 << 20,
    scans_max: 20,
    scratch_bytes_max: 16 << 20,
};

fuzz_target!(|data: &[u8]| {
    let [choice, seed, encoded @ ..] = data else {
        return;
    };
    let pipeline = pipeline(*choice);
    match choice & 0x60 {
        0x40 => return sample(&pipeline, *seed, encoded),
        // Hardly any change of a file has the right sums.
        0x60 => return sample(&pipeline, *seed, &mask_with(encoded)),
        _ => {}
    }
    let decode = |decoder: &mut Decoder, old: u8| {
        let mut draws = Draws::new(u64::from(*seed), 0, 0, 0);
        let mut out = vec![old; pipeline.output().bytes() as usize];
        let decoded = decoder.decode(&pipeline, encoded, &mut draws, &mut out);
        decoded.map(|_| out).map_err(|error| error.to_string())
    };
    let mut decoder = Decoder::new(LIMITS);
    let first = decode(&mut decoder, 0x00);
    assert!(first == decode(&mut decoder, 0xff), "used scratch memory");
    assert!(
        first == decode(&mut Decoder::new(LIMITS), 0x55),
        "new scratch memory"
    );
});

/// The file as a mask.
fn sample(pipeline: &Pipeline, seed: u8, encoded: &[u8]) {
    let [height, width] = pipeline.size();
    let sample = |decoder: &mut Decoder, old: u8| {
        let mut draws = Draws::new(u64::from(seed), 0, 0, 0);
        let mut out = vec![old; (height * width) as usize];
        let sampled = decoder.decode_mask(pipeline, encoded, &mut draws, 0xee, &mut out);
        sampled.map(|_| out).map_err(|error| error.to_string())
    };
    let mut decoder = Decoder::new(LIMITS);
    let first = sample(&mut decoder, 0x00);
    assert!(first == sample(&mut decoder, 0xff), "used scratch memory");
    assert!(
        first == sample(&mut Decoder::new(LIMITS), 0x55),
        "new scratch memory"
    );
}

/// A mask of 5 x 4 zeros in 4 bits, with these runs.
fn mask_with(runs: &[u8]) -> Vec<u8> {
    let header = chunk(b"IHDR", &[0, 0, 0, 5, 0, 0, 0, 4, 4, 0, 0, 0, 0]);
    let mut rows = b"\x78\x01\x01\x10\x00\xef\xff".to_vec();
    rows.extend([0; 16 + 4]);
    let data = chunk(b"IDAT", &rows);
    let sums = [&header[header.len() - 4..], &data[data.len() - 4..]].concat();
    let body = [&[1], &crc(&sums).to_be_bytes()[..], runs].concat();
    let parts = [
        &b"\x89PNG\r\n\x1a\n"[..],
        &header,
        &chunk(b"ldRN", &body),
        &data,
    ];
    [&parts.concat()[..], &chunk(b"IEND", b"")].concat()
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let summed = [&name[..], body].concat();
    let length = (body.len() as u32).to_be_bytes();
    [&length[..], &summed, &crc(&summed).to_be_bytes()].concat()
}

/// The sum of a chunk (PNG, third edition, annex D), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (sum & 1) * 0xedb8_8320;
        }
    }
    !sum
}

fn pipeline(choice: u8) -> Pipeline {
    let transforms = match choice % 6 {
        0 => json!([{"name": "RandomResizedCrop", "size": [24, 32]}]),
        1 => json!([{"name": "RandomResizedCrop", "size": [8, 8], "scale": [0.001, 1.0]},
                    {"name": "RandomHorizontalFlip"}]),
        2 => json!([{"name": "Resize", "size": 20}, {"name": "CenterCrop", "size": [16, 16]}]),
        3 => json!([{"name": "CenterCrop", "size": [40, 40]},
                    {"name": "ToDtype", "dtype": "float16", "scale": true}]),
        4 => json!([{"name": "Resize", "size": [64, 3]}]),
        _ => json!([{"name": "RandomResizedCrop", "size": [16, 16]},
                    {"name": "Normalize", "mean": [0.5], "std": [0.25]}]),
    };
    let options = Options {
        fast_dct: choice & 0x80 != 0,
        ..Options::default()
    };
    Pipeline::parse(&transforms, options).expect("these lists are right")
}
