//! Tiled images of which only what a crop takes is read: the pixels are those of the whole.

use loaderd_decode::tile;
use loaderd_wire::message::OnBadSample;
use serde_json::Value;

use super::filed::{Client, Node};
use super::*;
use crate::cuts::Cuts;

const ROWS: u64 = 16;
const EPOCHS: u64 = 4;

/// A tiled picture that takes so many bytes that its header and a crop are two reads.
fn picture(number: u64) -> Vec<u8> {
    let (mut state, mut pixels) = (number + 1, Vec::new());
    for _ in 0..520 * 400 * 3 {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(number | 1);
        pixels.push((state >> 56) as u8);
    }
    let plain = Encoder::default().encode(&pixels, 520, 400).unwrap();
    tile::tile(&plain, &decode::Limits::default()).unwrap().jpeg
}

fn crops() -> Value {
    json!([
        {"name": "RandomResizedCrop", "size": [32, 32], "scale": [0.02, 0.1]},
        {"name": "RandomHorizontalFlip"},
    ])
}

/// Digests of the first epochs' batches, and how many bytes each epoch read.
fn epochs(client: &Client, from: u64) -> (Vec<Vec<blake3::Hash>>, Vec<u64>) {
    let (mut pixels, mut bytes) = (Vec::new(), Vec::new());
    for epoch in 0..EPOCHS {
        let before = client.session.read_bytes();
        pixels.push(client.epoch((from + epoch, epoch), |_| {}).unwrap());
        bytes.push(client.session.read_bytes() - before);
    }
    (pixels, bytes)
}

#[test]
fn parts_of_images_have_the_pixels_of_the_whole() {
    let encoded: Vec<Vec<u8>> = (0..ROWS).map(picture).collect();
    let all: u64 = encoded.iter().map(|image| image.len() as u64).sum();
    assert!(all / ROWS > 100 << 10, "{all} bytes");
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(folder.path(), &encoded);
    let session = |run: &str, cuts: Option<Cuts>| {
        let mut job = node.job(run, crops());
        job.cuts = vec![cuts];
        node.client(job)
    };
    let cuts = |name: &str| Cuts::of(&folder.path().join("cuts"), &[name], ROWS);

    let (whole, bytes) = epochs(&session("whole", None), 1);
    assert_eq!(bytes, [all; EPOCHS as usize]);

    let client = session("parts", cuts("own"));
    let (parts, bytes) = epochs(&client, 1);
    let how = &client.reads_with;
    assert_eq!(parts, whole, "{how}");
    assert_eq!(bytes[0], all, "{how}");
    assert!(bytes[1..].iter().all(|bytes| bytes * 2 < all), "{bytes:?}");
    // Many streams that end in the middle cost no slot.
    for stream in 10..30 {
        client.session.start(stream, stream % EPOCHS, 0).unwrap();
    }
    assert_eq!(epochs(&client, 30).0, whole);

    // Each has another image's index, so that what is read is not what is looked for.
    let wrong = cuts("wrong").unwrap();
    for (row, extent) in node.images.iter().enumerate() {
        let other = &encoded[(row + 1) % encoded.len()];
        wrong.learn(row as u64, extent, other);
    }
    let (parts, bytes) = epochs(&session("wrong", Some(wrong)), 1);
    assert_eq!(parts, whole);
    assert!(bytes.iter().all(|&bytes| bytes > all), "{bytes:?}");
}

/// Readers have room for two reads: headers, crops, whole images and replacements share it, and
/// what one image holds is what another waits for.
#[test]
fn images_in_two_reads_never_wait_for_each_other() {
    let mut encoded: Vec<Vec<u8>> = (0..ROWS).map(picture).collect();
    for image in encoded.iter_mut().step_by(4) {
        image.truncate(image.len() - 5000);
    }
    let all: u64 = encoded.iter().map(|image| image.len() as u64).sum();
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new(folder.path(), &encoded);
    node.typical_length = 1 << 30;
    let mut job = node.job("two", crops());
    job.cuts = vec![Cuts::of(folder.path(), &["two"], ROWS)];
    job.request.on_bad_sample = OnBadSample::Replace;
    let client = node.client(job);
    for from in (1..40).step_by(EPOCHS as usize) {
        let (batches, bytes) = epochs(&client, from);
        assert!(
            batches
                .iter()
                .all(|batches| batches.len() as u64 == ROWS / 2)
        );
        // A quarter of the rows are read whole, in vain, and others replace them.
        assert!(
            from == 1 || bytes.iter().all(|&bytes| bytes < all),
            "{bytes:?}"
        );
    }
}
