//! Batches on the GPU's JPEG engines.
//!
//! Enters: a batch. Leaves: work queued for all of it, or, where nvJPEG refuses a batch, for
//! halves of it, down to the one picture that it refuses. Never: a look into a JPEG.

use std::ops::Range;

use super::batch::{Decode, Work};
use crate::error::GpuError;
use crate::nvjpeg::BatchDecoder;

pub(super) struct EngineLane {
    pub(super) decoder: BatchDecoder,
}

impl Decode for EngineLane {
    unsafe fn decode(&mut self, work: &mut Work<'_>) -> Result<(), GpuError> {
        let all = 0..work.encoded.len();
        // SAFETY: as the caller says.
        unsafe { self.part(work, all) }
    }
}

impl EngineLane {
    /// # Safety
    ///
    /// As for [`Decode::decode`], of these pictures. The stream is done with what was decoded
    /// before.
    unsafe fn part(&mut self, work: &mut Work<'_>, part: Range<usize>) -> Result<(), GpuError> {
        let encoded = &work.encoded[part.clone()];
        let destinations = &work.destinations()[part.clone()];
        // SAFETY: destinations are idle device memory of their own, and stay, like the bytes,
        // until the stream is done, which the caller has seen of the batch before.
        let queued = unsafe { (self.decoder).decode(encoded, destinations, &[], work.stream) };
        match queued {
            Ok(()) => Ok(()),
            Err(error @ GpuError::Nvjpeg { .. }) if part.len() == 1 => {
                work.refuse(part.start, Some(error));
                work.wait()
            }
            Err(GpuError::Nvjpeg { .. }) => {
                // Some may have been decoded: without new poison, a skipped one would go unseen.
                work.poison(part.clone())?;
                let middle = part.start + part.len() / 2;
                // SAFETY: the poison lies there, and the stream was waited for, before each half.
                unsafe {
                    self.part(work, part.start..middle)?;
                    work.wait()?;
                    self.part(work, middle..part.end)
                }
            }
            Err(dead) => Err(dead),
        }
    }
}
