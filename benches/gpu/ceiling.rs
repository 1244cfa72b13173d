//! nvJPEG decoding whole photos into device memory, and nothing else: the rate that loaderd's is
//! compared with.
//!
//! Enters: photos in memory, a way to decode them. Leaves: images/s, CPU time an image, how much of
//! it goes into the call and into the wait behind it, and how many images were not written although
//! all calls succeeded. Never: a crop, a resize, a copy to the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use loaderd_gpu::cuda::{DeviceMemory, Pinned, Stream};
use loaderd_gpu::nvjpeg::{
    BatchDecoder, Destination, Handle, HybridDecoder, JpegStream, Subsampling,
};
use loaderd_measure::meter::thread_cpu;
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
    /// All states are of one handle, as the unit's are, rather than each of its own.
    pub(crate) has_one_handle: bool,
    /// Encoded images lie in pinned memory, which the unit's do not.
    pub(crate) is_pinned: bool,
    /// Each batch has another number of images than the one before, as the unit's have.
    pub(crate) is_ragged: bool,
}

/// Batches of so many sizes, one after the other, where they are ragged.
const RAGGED_SIZES: usize = 4;

/// Measures one way.
///
/// # Errors
/// Where the backend is not there, or a call fails.
pub(crate) fn measure(gpu: &Gpu, photos: &Photos, way: Way, seconds: Duration) -> Result<Value> {
    ensure!(
        way.batch > 0 && way.states > 0,
        "a batch and a state at least"
    );
    let handle = || gpu.handle(way.lane, way.is_plain);
    let shared = way.has_one_handle.then(handle).transpose()?;
    let raced = race(
        way.states,
        seconds,
        |number| {
            let handle = shared.clone().map_or_else(handle, Ok)?;
            State::new(gpu, &handle, photos, way, number)
        },
        |state| state.step(photos),
        |state| Ok((state.spent, state.unwritten(photos)?)),
    )?;
    let unwritten: usize = raced.ends.iter().map(|(_, unwritten)| unwritten).sum();
    let mut answer = rates(&raced.sample, &raced.step_ms);
    let each = |of: fn(&Spent) -> Duration| {
        let all: Duration = raced.ends.iter().map(|(spent, _)| of(spent)).sum();
        let images: u64 = raced.ends.iter().map(|(spent, _)| spent.images).sum();
        json!(all.as_secs_f64() * 1e6 / images.max(1) as f64)
    };
    if way.lane != Lane::Phases {
        answer["call_us_per_image"] = each(|spent| spent.call);
        answer["call_cpu_us_per_image"] = each(|spent| spent.call_cpu);
        answer["wait_us_per_image"] = each(|spent| spent.wait);
        answer["wait_cpu_us_per_image"] = each(|spent| spent.wait_cpu);
    }
    answer["has_one_handle"] = json!(way.has_one_handle);
    answer["is_pinned"] = json!(way.is_pinned);
    answer["is_ragged"] = json!(way.is_ragged);
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
    /// Batches so far, where each is to be of another size.
    ragged: Option<usize>,
    /// The encoded photos, and where each begins. After the stream, which reads there.
    pinned: Option<(Pinned, Vec<usize>)>,
    spent: Spent,
}

/// What batches took of their thread, warm-up included.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    images: u64,
    /// Within nvJPEG's call, and of that on a core.
    call: Duration,
    call_cpu: Duration,
    /// Until the stream was done.
    wait: Duration,
    wait_cpu: Duration,
}

enum Decoders {
    Batch(BatchDecoder),
    /// One for each image on its way, whose stream is done with it before it is used again.
    Phases(Vec<(HybridDecoder, JpegStream, Stream)>),
}

impl State {
    fn new(
        gpu: &Gpu,
        handle: &Arc<Handle>,
        photos: &Photos,
        way: Way,
        number: usize,
    ) -> Result<State> {
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
                let decoder = HybridDecoder::new(handle).map_err(mended)?;
                let jpeg = JpegStream::new(handle).map_err(mended)?;
                Ok((decoder, jpeg, gpu.context.stream().map_err(mended)?))
            };
            Decoders::Phases((0..way.batch).map(one).collect::<Result<_>>()?)
        } else {
            let mut decoder = BatchDecoder::new(handle).map_err(mended)?;
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
            ragged: way.is_ragged.then_some(0),
            pinned: way.is_pinned.then(|| pin(gpu, photos)).transpose()?,
            spent: Spent::default(),
        })
    }

    fn step(&mut self, photos: &Photos) -> Result<(u64, u64)> {
        let count = photos.files.len();
        let batch = match &mut self.ragged {
            None => self.batch,
            Some(before) => {
                *before += 1;
                self.batch.saturating_sub(*before % RAGGED_SIZES).max(1)
            }
        };
        self.last = (0..batch)
            .map(|image| (self.next + image) % count)
            .collect();
        self.next = (self.next + batch) % count;
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
                let encoded: Vec<&[u8]> = match &mut self.pinned {
                    None => chosen.iter().map(|photo| photo.jpeg.as_slice()).collect(),
                    Some((memory, starts)) => {
                        let all: &[u8] = memory.bytes();
                        (self.last.iter().zip(&chosen))
                            .map(|(&index, photo)| &all[starts[index]..][..photo.jpeg.len()])
                            .collect()
                    }
                };
                let (began, began_cpu) = (Instant::now(), thread_cpu());
                // SAFETY: the stream is synchronised after each batch, here below and before the
                // first; photos and memory outlive it, and each image has room of its own.
                let queued = unsafe { decoder.decode(&encoded, &destinations, &[], &self.stream) };
                let (called, called_cpu) = (began.elapsed(), thread_cpu());
                self.stream.synchronize().map_err(mended)?;
                queued.map_err(mended)?;
                let spent = &mut self.spent;
                spent.images += chosen.len() as u64;
                spent.call += called;
                spent.call_cpu += called_cpu.saturating_sub(began_cpu);
                spent.wait += began.elapsed().saturating_sub(called);
                spent.wait_cpu += thread_cpu().saturating_sub(called_cpu);
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

/// The encoded photos in pinned memory, one behind the other, and where each begins.
fn pin(gpu: &Gpu, photos: &Photos) -> Result<(Pinned, Vec<usize>)> {
    let bytes = photos.files.iter().map(|photo| photo.jpeg.len()).sum();
    let mut memory = gpu.context.pinned(bytes).map_err(mended)?;
    let (mut starts, mut end) = (Vec::new(), 0);
    for photo in &photos.files {
        memory.bytes()[end..][..photo.jpeg.len()].copy_from_slice(&photo.jpeg);
        starts.push(end);
        end += photo.jpeg.len();
    }
    Ok((memory, starts))
}
