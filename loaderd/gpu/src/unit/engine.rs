//! Batches on the GPU's JPEG engines.
//!
//! Enters: a batch. Leaves: work queued for all of it, or, where nvJPEG refuses a batch, for those
//! that it says it takes, and else for halves, down to the one picture that it refuses. Never: a
//! look into a JPEG of our own.

use super::batch::{Decode, Work};
use crate::error::GpuError;
use crate::nvjpeg::{BatchDecoder, Destination, JpegStream};

pub(super) struct EngineLane {
    pub(super) decoder: BatchDecoder,
    /// To ask nvJPEG about a picture, where a batch was refused: the header alone has sent it here.
    pub(super) jpeg: JpegStream,
}

impl Decode for EngineLane {
    unsafe fn decode(&mut self, work: &mut Work<'_>) -> Result<(), GpuError> {
        let all: Vec<usize> = (0..work.encoded.len()).collect();
        // SAFETY: as the caller says.
        let Some(error) = (unsafe { self.queue(work, &all) })? else {
            return Ok(());
        };
        let taken = self.supported(work, &all, &error)?;
        if taken.len() == all.len() {
            // SAFETY: as the caller says; what the refused batch left is poisoned anew.
            return unsafe { self.halves(work, &all, error) };
        }
        Self::poison(work, &all)?;
        // SAFETY: the poison lies there, and the stream was waited for.
        unsafe { self.part(work, &taken) }
    }
}

impl EngineLane {
    /// Queues some of the pictures; where nvJPEG refuses them, says why.
    ///
    /// # Safety
    ///
    /// Here and below: as for [`Decode::decode`], of these pictures. The stream is done with what
    /// was decoded before.
    unsafe fn queue(
        &mut self,
        work: &Work<'_>,
        part: &[usize],
    ) -> Result<Option<GpuError>, GpuError> {
        let encoded: Vec<&[u8]> = part.iter().map(|&index| work.encoded[index]).collect();
        let destinations = part.iter().map(|&index| work.destinations()[index]);
        let destinations: Vec<Destination> = destinations.collect();
        // SAFETY: destinations are idle device memory of their own, and stay, like the bytes,
        // until the stream is done, which the caller has seen of the batch before.
        match unsafe { (self.decoder).decode(&encoded, &destinations, &[], work.stream) } {
            Ok(()) => Ok(None),
            Err(error @ GpuError::Nvjpeg { .. }) => Ok(Some(error)),
            Err(dead) => Err(dead),
        }
    }

    /// Those that nvJPEG says the engines take; the others are refused, for `error`.
    fn supported(
        &mut self,
        work: &mut Work<'_>,
        part: &[usize],
        error: &GpuError,
    ) -> Result<Vec<usize>, GpuError> {
        let mut taken = Vec::with_capacity(part.len());
        for &index in part {
            let parsed = self.jpeg.parse_header(work.encoded[index]);
            match parsed.and_then(|jpeg| jpeg.is_supported(None)) {
                Ok(true) => taken.push(index),
                Ok(false) | Err(GpuError::Nvjpeg { .. }) => {
                    work.refuse(index, Some(error.clone()));
                }
                Err(dead) => return Err(dead),
            }
        }
        Ok(taken)
    }

    /// # Safety
    ///
    /// See [`queue`](Self::queue).
    unsafe fn part(&mut self, work: &mut Work<'_>, part: &[usize]) -> Result<(), GpuError> {
        if part.is_empty() {
            return Ok(());
        }
        // SAFETY: as the caller says.
        match unsafe { self.queue(work, part) }? {
            None => Ok(()),
            // SAFETY: as above.
            Some(error) => unsafe { self.halves(work, part, error) },
        }
    }

    /// A part was refused, for `error`: its halves, where it has any.
    ///
    /// # Safety
    ///
    /// See [`queue`](Self::queue).
    unsafe fn halves(
        &mut self,
        work: &mut Work<'_>,
        part: &[usize],
        error: GpuError,
    ) -> Result<(), GpuError> {
        if let [index] = part {
            work.refuse(*index, Some(error));
            return work.wait();
        }
        Self::poison(work, part)?;
        let (first, second) = part.split_at(part.len() / 2);
        // SAFETY: the poison lies there, and the stream was waited for, before each half.
        unsafe {
            self.part(work, first)?;
            work.wait()?;
            self.part(work, second)
        }
    }

    /// Some may have been decoded: without new poison, a skipped one would go unseen. Those between
    /// were refused before, and may be poisoned as well.
    fn poison(work: &mut Work<'_>, part: &[usize]) -> Result<(), GpuError> {
        match part {
            [] => Ok(()),
            [first, .., last] => work.poison(*first..last + 1),
            [one] => work.poison(*one..one + 1),
        }
    }
}
