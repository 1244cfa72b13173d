//! Pictures on CUDA cores, one by one, with the host's help.
//!
//! Enters: a batch. Leaves: its pictures, decoded: two at a time, so that the host reads one while
//! the device decodes another. Never: work left under way on a stream of its own.

use super::batch::{Decode, Work};
use crate::cuda::{Context, Event, Stream};
use crate::error::GpuError;
use crate::nvjpeg::{Handle, HybridDecoder, JpegStream};
use std::sync::Arc;

pub(super) struct CudaLane {
    desks: [Desk; 2],
}

/// A decoder, and what belongs to it.
struct Desk {
    // The stream is waited for before the decoder goes: see `drop`.
    stream: Stream,
    event: Event,
    decoder: HybridDecoder,
    jpeg: JpegStream,
}

impl Drop for Desk {
    fn drop(&mut self) {
        // A dead device's stream is done as well.
        let _ = self.stream.synchronize();
    }
}

impl CudaLane {
    pub(super) fn new(handle: &Arc<Handle>, context: &Context) -> Result<CudaLane, GpuError> {
        let desk = || {
            Ok(Desk {
                stream: context.stream()?,
                event: context.event()?,
                decoder: HybridDecoder::new(handle)?,
                jpeg: JpegStream::new(handle)?,
            })
        };
        Ok(CudaLane {
            desks: [desk()?, desk()?],
        })
    }
}

impl Decode for CudaLane {
    unsafe fn decode(&mut self, work: &mut Work<'_>) -> Result<(), GpuError> {
        for index in 0..work.encoded.len() {
            let desk = &mut self.desks[index % 2];
            let queued = desk.event.wait_for(&desk.stream).and_then(|()| {
                // SAFETY: the desk's stream was waited for; the rest is as the caller says.
                unsafe { desk.decode(work, index) }
            });
            match queued {
                Ok(true) => {}
                Ok(false) => work.refuse(index, None),
                Err(error @ GpuError::Nvjpeg { .. }) => work.refuse(index, Some(error)),
                Err(dead) => return self.leave(Err(dead)),
            }
        }
        self.leave(Ok(()))
    }
}

impl CudaLane {
    /// Waits for both streams, whatever came before.
    fn leave(&mut self, so_far: Result<(), GpuError>) -> Result<(), GpuError> {
        let waits = self
            .desks
            .each_mut()
            .map(|desk| desk.event.wait_for(&desk.stream));
        waits
            .into_iter()
            .fold(so_far, |so_far, wait| so_far.and(wait))
    }
}

impl Desk {
    /// Queues a picture; false where nvJPEG does not decode its kind, or takes it for another size
    /// than there is room for.
    ///
    /// # Safety
    ///
    /// The stream is done with the picture before, the destination is idle, and it and the bytes
    /// stay until the stream has been waited for.
    unsafe fn decode(&mut self, work: &Work<'_>, index: usize) -> Result<bool, GpuError> {
        let jpeg = self.jpeg.parse(work.encoded[index])?;
        let frame = jpeg.frame()?;
        if (frame.width, frame.height) != work.size(index) || !self.decoder.is_supported(&jpeg)? {
            return Ok(false);
        }
        // SAFETY: the stream is done with the picture before; what `jpeg` stands for is kept by
        // the desk, and read anew only after a wait.
        unsafe {
            self.decoder.host(&jpeg)?;
            self.decoder.transfer(&jpeg, &self.stream)?;
            (self.decoder).device(&work.destinations()[index], &self.stream)?;
        }
        Ok(true)
    }
}
