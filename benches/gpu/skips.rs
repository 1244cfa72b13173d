//! What nvJPEG makes of damaged images in a batch, and of the batch after.
//!
//! Enters: the damaged pictures, a lane. Leaves: of each, between good ones, what the call said
//! and how much of it was written; whether the good ones beside it were; and whether a good
//! batch afterwards is whole. Never: the claim that an error was the image's.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use loaderd_gpu::cuda::{DeviceMemory, Stream};
use loaderd_gpu::nvjpeg::{BatchDecoder, Destination, Handle};
use serde_json::{Value, json};

use crate::device::{Gpu, Lane, mended};
use crate::kinds;
use crate::photos::{DAMAGED, Photo, Photos, files_of, read, stem};

const POISON: u8 = 0xab;
/// Room for a damaged image that says it is twice as large as it was, both ways.
const ROOM_BYTES: usize = 1000 * 750 * 3;
/// Good, damaged, good.
const BATCH: usize = 3;

/// Asks with each damaged picture.
///
/// # Errors
/// Where the lane is not there, or even good images fail in the beginning.
pub(crate) fn ask(gpu: &Gpu, pictures: &Path, lane: Lane) -> Result<Value> {
    let good = Photos::kind(pictures, kinds::PLAIN)?;
    let handle = gpu.handle(lane, false)?;
    let mut bench = Bench::new(gpu, &handle)?;
    let whole = bench.batch(&[&good.jpeg; BATCH], &good)?;
    let mut each = Vec::new();
    for path in files_of(&pictures.join(DAMAGED))? {
        let bad = read(&path)?;
        if !bad.starts_with(&[0xff, 0xd8]) {
            // No JPEG by its first marker: loaderd hands none of these to nvJPEG.
            continue;
        }
        // A new state for each: what one does to its state is not the next one's.
        bench.decoder = BatchDecoder::new(&handle).map_err(mended)?;
        let found = bench.batch(&[&good.jpeg, &bad, &good.jpeg], &good);
        let after = bench.batch(&[&good.jpeg; BATCH], &good);
        let name = stem(&path);
        match found.and_then(|found| Ok((found, after?))) {
            Ok((found, after)) => {
                each.push(json!({"name": name, "found": found, "after": after}));
            }
            Err(error) => {
                // The context is of no more use, and so is what would follow.
                each.push(json!({"name": name, "device_failed": error.to_string()}));
                break;
            }
        }
    }
    Ok(json!({"lane": format!("{lane:?}").to_lowercase(), "good": whole, "damaged": each}))
}

struct Bench {
    decoder: BatchDecoder,
    memory: DeviceMemory,
    stream: Stream,
}

impl Bench {
    fn new(gpu: &Gpu, handle: &Arc<Handle>) -> Result<Bench> {
        Ok(Bench {
            decoder: BatchDecoder::new(handle).map_err(mended)?,
            memory: gpu.context.allocate(BATCH * ROOM_BYTES).map_err(mended)?,
            stream: gpu.context.stream().map_err(mended)?,
        })
    }

    /// Status and written shares of a batch whose images are all taken for `good`'s size.
    fn batch(&mut self, encoded: &[&[u8]; BATCH], good: &Photo) -> Result<Value> {
        // SAFETY: the stream is waited for before anything else.
        unsafe { self.memory.fill(POISON, &self.stream) }.map_err(mended)?;
        self.stream.synchronize().map_err(mended)?;
        let destinations: Vec<Destination> = (0..BATCH)
            .map(|image| Destination {
                address: self.memory.address() + (image * ROOM_BYTES) as u64,
                pitch_bytes: 2 * good.pitch(),
            })
            .collect();
        // SAFETY: the stream is idle, images and memory outlive it, and each image has room for
        // rows twice as long, and twice as many, as the good one's, which no damage exceeds.
        let status = unsafe {
            self.decoder
                .decode(encoded, &destinations, &[], &self.stream)
        };
        // An error of the device's stays with the context; there is nothing to go on with.
        self.stream.synchronize().map_err(mended)?;
        let mut written = Vec::new();
        for image in 0..BATCH {
            let mut found = vec![0; 2 * good.pitch() * good.height as usize];
            self.memory
                .read(image * ROOM_BYTES, &mut found, &self.stream)
                .map_err(mended)?;
            let rows = found.chunks_exact(2 * good.pitch());
            let bytes = rows.flat_map(|row| &row[..good.width as usize * 3]);
            let (mut count, mut all) = (0usize, 0usize);
            for &byte in bytes {
                count += usize::from(byte != POISON);
                all += 1;
            }
            written.push((count as f64 / all as f64 * 1e3).round() / 1e3);
        }
        Ok(json!({"status": status.err().map(|error| error.to_string()), "written": written}))
    }
}
