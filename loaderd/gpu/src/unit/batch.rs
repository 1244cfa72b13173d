//! A thread of a lane: batch by batch, from the queue to the slots.
//!
//! Enters: a lane's queue, a decoder, memory, the kernels. Leaves: finished images, and an outcome
//! for each picture. Never: scratch memory that is decoded into while anything else makes use of
//! it, by the host's own knowledge.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::kernels::Kernels;
use super::lane::{Shared, decoder_of};
use super::queue::{Held, lock};
use super::scratch::Scratch;
use super::{Outcome, Refusal};
use crate::cuda::{Context, Event, Stream};
use crate::error::GpuError;
use crate::nvjpeg::Destination;
use crate::routing::Route;

/// Pictures that a thread sees refused in a row until it takes the decoder for one that decodes
/// nothing.
const FUTILE: u64 = 512;

/// A decoder of batches: the engines' or CUDA cores'.
pub(super) trait Decode: Send + 'static {
    /// Decodes the pictures to where they belong, or queues that on the bench's stream. A picture
    /// that can't be decoded is [refused](Work::refuse), and costs the others nothing.
    ///
    /// An error is the device's death. After any return, work may be under way, on the bench's
    /// stream only.
    ///
    /// # Safety
    ///
    /// The destinations are poisoned, and idle, as the host has seen; what was decoded before is
    /// done; all of `work` stays until the bench's stream is done.
    unsafe fn decode(&mut self, work: &mut Work<'_>) -> Result<(), GpuError>;
}

/// A batch to decode.
pub(super) struct Work<'a> {
    pub(super) encoded: &'a [&'a [u8]],
    pub(super) stream: &'a Stream,
    scratch: &'a Scratch,
    kernels: &'a Kernels,
    event: &'a mut Event,
    refused: &'a mut [bool],
    last: &'a mut Option<GpuError>,
}

impl Work<'_> {
    pub(super) fn destinations(&self) -> &[Destination] {
        self.scratch.destinations()
    }

    /// Columns and rows that there is room for at destination `index`.
    pub(super) fn size(&self, index: usize) -> (u32, u32) {
        self.scratch.size(index)
    }

    /// `why` is nvJPEG's error, where it gave one.
    pub(super) fn refuse(&mut self, index: usize, why: Option<GpuError>) {
        self.refused[index] = true;
        if why.is_some() {
            *self.last = why;
        }
    }

    /// Waits until the bench's stream is done.
    pub(super) fn wait(&mut self) -> Result<(), GpuError> {
        self.event.wait_for(self.stream)
    }

    /// Poisons some pictures anew, and waits until that is done.
    pub(super) fn poison(&mut self, pictures: Range<usize>) -> Result<(), GpuError> {
        self.wait()?;
        let (first, count) = (self.scratch.picture(pictures.start), pictures.len() as u32);
        // SAFETY: the batch's descriptors lie on the device, and its pixels are idle.
        unsafe { self.kernels.poison(first, count, self.stream) }?;
        self.wait()
    }
}

/// What a thread of a lane has for itself.
pub(super) struct Bench {
    // The stream is waited for before anything goes: see `drop`.
    stream: Stream,
    event: Event,
    scratch: Scratch,
    kernels: Arc<Kernels>,
    refused: Vec<bool>,
    /// The last error of nvJPEG's for a picture.
    last: Option<GpuError>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A dead device's stream is done as well.
        let _ = self.stream.synchronize();
    }
}

/// How long the parts of a batch took: until it was decoded or queued, until it was finished.
struct Times {
    begun: Instant,
    decoded: Instant,
}

impl Bench {
    pub(super) fn new(
        context: &Context,
        scratch: Scratch,
        kernels: &Arc<Kernels>,
    ) -> Result<Bench, GpuError> {
        Ok(Bench {
            stream: context.stream()?,
            event: context.event()?,
            scratch,
            kernels: kernels.clone(),
            refused: Vec::new(),
            last: None,
        })
    }

    /// Decodes and finishes a batch. On an error, the stream is done as well.
    fn go(&mut self, decoder: &mut impl Decode, held: &[Held]) -> Result<Times, GpuError> {
        let gone = self.steps(decoder, held);
        if gone.is_err() {
            // What was queued before the error may still write to slots.
            let _ = self.stream.synchronize();
        }
        gone
    }

    fn steps(&mut self, decoder: &mut impl Decode, held: &[Held]) -> Result<Times, GpuError> {
        let begun = Instant::now();
        let count = held.len() as u32;
        self.refused.clear();
        self.refused.resize(held.len(), false);
        // SAFETY: the stream is done with the batch before, and whoever looks at this one's memory
        // does so in this function, after waiting for the stream.
        unsafe { self.scratch.place(held, &self.stream) }?;
        // SAFETY: `place` has laid out what lies there, as the stream comes to it; outputs are
        // registered memory of the size that the batch has, and nobody else's.
        unsafe {
            (self.kernels).poison(self.scratch.picture(0), count, &self.stream)?;
            for group in self.scratch.groups() {
                let (images, count) = self.scratch.images(group);
                (self.kernels).weigh(images, count, group.tables, &self.stream)?;
            }
        }
        // The engines don't wait for the stream: the host does, in their place.
        self.event.wait_for(&self.stream)?;

        let encoded: Vec<&[u8]> = (held.iter())
            .map(|one| (*one.picture().encoded).as_ref())
            .collect();
        let mut work = Work {
            encoded: &encoded,
            stream: &self.stream,
            scratch: &self.scratch,
            kernels: &self.kernels,
            event: &mut self.event,
            refused: &mut self.refused,
            last: &mut self.last,
        };
        // SAFETY: the destinations were poisoned, and the stream waited for; all of the batch stays
        // until it has been waited for again.
        unsafe { decoder.decode(&mut work) }?;
        let decoded = Instant::now();

        // SAFETY: as above; the kernels' work comes after the decoder's on the same stream.
        unsafe {
            let (pictures, survivors) = (self.scratch.picture(0), self.scratch.survivors());
            (self.kernels).verify(pictures, count, survivors, &self.stream)?;
            for group in self.scratch.groups() {
                let (images, count) = self.scratch.images(group);
                (self.kernels).finish(images, count, group.tables, group.batch, &self.stream)?;
            }
            self.scratch.fetch_survivors(&self.stream)?;
        }
        // From here on, scratch memory is idle, and finished images lie in their places.
        self.event.wait_for(&self.stream)?;
        Ok(Times { begun, decoded })
    }

    fn outcome(&mut self, index: usize) -> Outcome {
        if self.refused[index] {
            Outcome::Refused(Refusal::Decoder)
        } else if self.scratch.is_left_out(index) {
            Outcome::Refused(Refusal::Skipped)
        } else {
            Outcome::Finished
        }
    }
}

/// A thread's whole life.
pub(super) fn run(shared: &Shared, route: Route, bench: Bench, decoder: impl Decode) {
    let Some(lane) = shared.lane(route) else {
        return;
    };
    let _witness = Witness { shared };
    // Watched until all is given back to the device.
    let watch = lane.watch();
    // Pictures go after the bench, which waits for the device, where a panic ends both.
    let mut held = Vec::with_capacity(lane.queue.bounds().batch);
    let (mut decoder, mut bench) = (decoder, bench);
    let mut futile = 0;
    // The first has to wait for what driver and nvJPEG load only when it is asked for.
    let mut is_first = true;
    while lane.queue.gather(&mut held) {
        watch.begin(&held);
        let gone = bench.go(&mut decoder, &held);
        watch.end();
        let dead = gone.is_err();
        match gone {
            Ok(times) => {
                let now = Instant::now();
                let decode = times.decoded.duration_since(times.begun);
                lane.counters
                    .batch(decode, now.duration_since(times.decoded));
                if !std::mem::replace(&mut is_first, false) {
                    lock(&lane.pace).add(now.duration_since(times.begun), now);
                }
            }
            Err(error) => shared.die(error),
        }
        // All of them before the first `done`, which may be the last to hold their memory.
        held.iter_mut().for_each(Held::leave);
        for (index, one) in held.drain(..).enumerate() {
            let outcome = match dead {
                true => Outcome::Refused(Refusal::Device),
                false => bench.outcome(index),
            };
            futile = match outcome {
                Outcome::Finished => 0,
                Outcome::Refused(_) => futile + 1,
            };
            one.done(outcome);
        }
        if futile >= FUTILE {
            let why = GpuError::Futile {
                decoder: decoder_of(route),
                pictures: futile,
                last: bench.last.take().map(Box::new),
            };
            shared.give_up(route, why);
        }
    }
    watch.begin(&[]);
}

/// Sees to it that no picture waits for a thread that panicked.
struct Witness<'a> {
    shared: &'a Shared,
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.die(GpuError::Panicked);
        }
    }
}
