//! The decoder: any bytes under several transform lists.
//!
//! Enters: a byte that chooses the list, and whether the file is an image or a mask, one that
//! seeds the draws, and the file. Decoding twice, over different old contents and with other scratch memory, must end the same
//! way: a difference is memory that was never written.
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
    if choice & 0x40 != 0 {
        return sample(&pipeline, *seed, encoded);
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
