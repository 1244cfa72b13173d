//! nvJPEG decoding whole photos into device memory, and nothing else: the rate that loaderd's is
//! compared with.
//!
//! Enters: photos in memory, a way to decode them. Leaves: images/s, CPU time an image, and how
//! many images were not written although all calls succeeded. Never: a crop, a resize, a copy to
//! the host.

use std::time::Duration;

use anyhow::{Result, ensure};
use loaderd_gpu::cuda::{DeviceMemory, Stream};
use loaderd_gpu::nvjpeg::{BatchDecoder, Destination, HybridDecoder, JpegStream, Subsampling};
use serde_json::{Value, json};

use crate::device::{Gpu, Lane, mended};
use crate::photos::{Photo, Photos};
use crate::race::{race, rates};

/// Device memory of a state at most.
const STATE_BYTES_MAX: usize = 4 << 30;
/// What destinations hold before anything is decoded.
const POISON: u8 = 0xab;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) lane: Lane,
    /// Images of a batch; of phases, those on their way in a thread.
    pub(crate) batch: usize,
    /// Threads, each with a state, a stream and memory of its own.
    pub(crate) states: usize,
    /// Chroma is repeated, as nvJPEG does by default, and not interpolated.
    pub(crate) is_plain: bool,
}

/// Measures one way.
///
/// # Errors
/// Where the backend is not there, or a call fails.
pub(crate) fn measure(gpu: &Gpu, photos: &Photos, way: Way, seconds: Duration) -> Result<Value> {
    ensure!(
        way.batch > 0 && way.states > 0,
        "a batch and a state at least"
    );
    let raced = race(
        way.states,
        seconds,
        |number| State::new(gpu, photos, way, number),
        |state| state.step(photos),
        |state| state.unwritten(photos),
    )?;
    let unwritten: usize = raced.ends.iter().sum();
    let mut answer = rates(&raced.sample, &raced.step_ms);
    answer["lane"] = json!(format!("{:?}", way.lane).to_lowercase());
    answer["is_plain"] = json!(way.is_plain);
    answer["batch"] = json!(way.batch);
    answer["states"] = json!(way.states);
    answer["unwritten_in_last_batches"] = json!(unwritten);
    Ok(answer)
}

/// What a thread decodes with.
struct State {
    decoders: Decoders,
    memory: DeviceMemory,
    stream: Stream,
    /// Where an image of the batch goes, whichever it is.
    room_bytes: usize,
    batch: usize,
    /// The next batch begins with this photo.
    next: usize,
    /// The photos of the batch before, in their order.
    last: Vec<usize>,
}

enum Decoders {
    Batch(BatchDecoder),
    /// One for each image on its way, whose stream is done with it before it is used again.
    Phases(Vec<(HybridDecoder, JpegStream, Stream)>),
}

impl State {
    fn new(gpu: &Gpu, photos: &Photos, way: Way, number: usize) -> Result<State> {
        let handle = gpu.handle(way.lane, way.is_plain)?;
        let stream = gpu.context.stream().map_err(mended)?;
        let room_bytes = photos.largest_bytes().next_multiple_of(256);
        ensure!(
            room_bytes * way.batch <= STATE_BYTES_MAX,
            "batches of {} photos as large as these take more than 4 GiB",
            way.batch
        );
        let mut memory = gpu
            .context
            .allocate(room_bytes * way.batch)
            .map_err(mended)?;
        // SAFETY: the stream is waited for before anything else.
        unsafe { memory.fill(POISON, &stream) }.map_err(mended)?;
        // The engines don't wait for it.
        stream.synchronize().map_err(mended)?;
        let decoders = if way.lane == Lane::Phases {
            let one = |_| {
                let decoder = HybridDecoder::new(&handle).map_err(mended)?;
                let jpeg = JpegStream::new(&handle).map_err(mended)?;
                Ok((decoder, jpeg, gpu.context.stream().map_err(mended)?))
            };
            Decoders::Phases((0..way.batch).map(one).collect::<Result<_>>()?)
        } else {
            let mut decoder = BatchDecoder::new(&handle).map_err(mended)?;
            let side = |of: fn(&Photo) -> u32| photos.files.iter().map(of).max().unwrap_or(1);
            let (width, height) = (side(|photo| photo.width), side(|photo| photo.height));
            // A help where it is offered; what it can't allocate ahead it does as it goes.
            let _ = decoder.pre_allocate(way.batch, width, height, Subsampling::S444);
            Decoders::Batch(decoder)
        };
        Ok(State {
            decoders,
            memory,
            stream,
            room_bytes,
            batch: way.batch,
            next: number * photos.files.len() / way.states,
            last: Vec::new(),
        })
    }

    fn step(&mut self, photos: &Photos) -> Result<(u64, u64)> {
        let count = photos.files.len();
        self.last = (0..self.batch)
            .map(|image| (self.next + image) % count)
            .collect();
        self.next = (self.next + self.batch) % count;
        let chosen: Vec<&Photo> = self
            .last
            .iter()
            .map(|&index| &photos.files[index])
            .collect();
        let destinations: Vec<Destination> = (chosen.iter().enumerate())
            .map(|(image, photo)| Destination {
                address: self.memory.address() + (image * self.room_bytes) as u64,
                pitch_bytes: photo.pitch(),
            })
            .collect();
        match &mut self.decoders {
            Decoders::Batch(decoder) => {
                let encoded: Vec<&[u8]> =
                    chosen.iter().map(|photo| photo.jpeg.as_slice()).collect();
                // SAFETY: the stream is synchronised after each batch, here below and before the
                // first; photos and memory outlive it, and each image has room of its own.
                unsafe { decoder.decode(&encoded, &destinations, &[], &self.stream) }
                    .map_err(mended)?;
                self.stream.synchronize().map_err(mended)?;
            }
            Decoders::Phases(each) => {
                let images = each.iter_mut().zip(&chosen).zip(&destinations);
                for (((decoder, jpeg, stream), photo), destination) in images {
                    stream.synchronize().map_err(mended)?;
                    let parsed = jpeg.parse(&photo.jpeg).map_err(mended)?;
                    // SAFETY: the decoder's stream is done with the image before; the parsed
                    // bytes stay, and the destination is this decoder's alone.
                    unsafe {
                        decoder.host(&parsed).map_err(mended)?;
                        decoder.transfer(&parsed, stream).map_err(mended)?;
                        decoder.device(destination, stream).map_err(mended)?;
                    }
                }
            }
        }
        let bytes = chosen.iter().map(|photo| photo.jpeg.len() as u64).sum();
        Ok((chosen.len() as u64, bytes))
    }

    /// Images of the last batch whose last row is poison.
    fn unwritten(mut self, photos: &Photos) -> Result<usize> {
        // What was there before the last batch would pass for it.
        self.wait()?;
        // SAFETY: the stream is waited for before anything else.
        unsafe { self.memory.fill(POISON, &self.stream) }.map_err(mended)?;
        self.stream.synchronize().map_err(mended)?;
        self.step(photos)?;
        self.wait()?;
        let mut unwritten = 0;
        for (image, &index) in self.last.iter().enumerate() {
            let photo = &photos.files[index];
            let mut row = vec![0; photo.width as usize * 3];
            let from = image * self.room_bytes + photo.pitch() * (photo.height as usize - 1);
            self.memory
                .read(from, &mut row, &self.stream)
                .map_err(mended)?;
            unwritten += usize::from(row.iter().all(|&byte| byte == POISON));
        }
        Ok(unwritten)
    }

    fn wait(&self) -> Result<()> {
        if let Decoders::Phases(each) = &self.decoders {
            for (_, _, stream) in each {
                stream.synchronize().map_err(mended)?;
            }
        }
        self.stream.synchronize().map_err(mended)
    }
}
