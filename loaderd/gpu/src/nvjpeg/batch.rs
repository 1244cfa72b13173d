//! Decoding batches: by the GPU's JPEG engines, or by CUDA kernels for the whole batch.

use std::ffi::c_int;
use std::sync::Arc;

use super::api::{Image, OUTPUT_RGBI};
use super::handle::{Handle, Owned};
use super::stream::Params;
use super::{Destination, Subsampling};
use crate::cuda::Stream;
use crate::error::GpuError;

/// Threads of nvJPEG's own: none but the caller's.
const CPU_THREADS: c_int = 1;

/// A state that decodes one batch at a time.
pub struct BatchDecoder {
    state: Owned,
    /// The batch size that the state was set up for; `None` at first, and after an error.
    size: Option<usize>,
    data: Vec<*const u8>,
    lengths: Vec<usize>,
    images: Vec<Image>,
    params: Vec<super::api::Opaque>,
}

// SAFETY: the vectors hold pointers only during `decode`, which takes `&mut self`, and are
// read by nobody after it; the rest is `Send`.
unsafe impl Send for BatchDecoder {}

impl BatchDecoder {
    /// Makes a state.
    pub fn new(handle: &Arc<Handle>) -> Result<BatchDecoder, GpuError> {
        let state = Owned::new(
            handle,
            "nvjpegJpegStateCreate",
            // SAFETY: both come from the handle, whose context is current.
            |api, handle, raw| unsafe { (api.state_create)(handle, raw) },
            handle.api().state_destroy,
        )?;
        Ok(BatchDecoder {
            state,
            size: None,
            data: Vec::new(),
            lengths: Vec::new(),
            images: Vec::new(),
            params: Vec::new(),
        })
    }

    /// Allocates what batches of `images` images up to `width` x `height` take, so that no
    /// decode has to.
    pub fn pre_allocate(
        &mut self,
        images: usize,
        width: u32,
        height: u32,
        subsampling: Subsampling,
    ) -> Result<(), GpuError> {
        self.set_up(images)?;
        let handle = self.state.handle();
        let _current = handle.enter()?;
        // SAFETY: the state was made with this handle; the rest are numbers.
        handle.check("nvjpegDecodeBatchedPreAllocate", unsafe {
            (handle.api().batched_pre_allocate)(
                handle.raw(),
                self.state.raw(),
                int(images),
                int(width as usize),
                int(height as usize),
                subsampling.number(),
                OUTPUT_RGBI,
            )
        })
    }

    /// Queues a batch. An error is the whole batch's, and the next one begins anew; a success
    /// says that work was queued, not that each image was written.
    ///
    /// `params` are none, or one for each image. Blocks while the bytes are read and sent,
    /// which is most of the host's part.
    ///
    /// # Safety
    ///
    /// The stream of the batch before is done with it. Until `stream` is done with this one,
    /// neither the state nor any of `params` is dropped, all of `encoded` stays as it is, and
    /// each destination is device memory with room for its image's rows, of which nobody else
    /// makes use: neither other threads nor work queued before, on this stream or another.
    pub unsafe fn decode(
        &mut self,
        encoded: &[&[u8]],
        destinations: &[Destination],
        params: &[&Params],
        stream: &Stream,
    ) -> Result<(), GpuError> {
        assert_eq!(encoded.len(), destinations.len());
        assert!(params.is_empty() || params.len() == encoded.len());
        self.set_up(encoded.len())?;
        self.data.clear();
        self.data.extend(encoded.iter().map(|bytes| bytes.as_ptr()));
        self.lengths.clear();
        self.lengths.extend(encoded.iter().map(|bytes| bytes.len()));
        self.images.clear();
        self.images.extend(destinations.iter().map(Image::of));
        self.params.clear();
        self.params.extend(params.iter().map(|params| params.raw()));
        // Reset to its size below, when it went well.
        let size = self.size.take();
        let (handle, state) = (self.state.handle(), self.state.raw());
        let _current = handle.enter()?;
        let (data, lengths) = (self.data.as_ptr(), self.lengths.as_ptr());
        let images = self.images.as_mut_ptr();
        if params.is_empty() {
            // SAFETY: the three arrays have as many entries as the batch was set up for, and
            // the caller answers for what they point to.
            handle.check("nvjpegDecodeBatched", unsafe {
                (handle.api().batched)(
                    handle.raw(),
                    state,
                    data,
                    lengths,
                    images,
                    stream.raw_in(handle.context()),
                )
            })?;
        } else {
            // SAFETY: as above, of four arrays; `params` holds what the fourth points to.
            handle.check("nvjpegDecodeBatchedEx", unsafe {
                (handle.api().batched_ex)(
                    handle.raw(),
                    state,
                    data,
                    lengths,
                    images,
                    self.params.as_mut_ptr(),
                    stream.raw_in(handle.context()),
                )
            })?;
        }
        self.size = size;
        Ok(())
    }

    /// Readies the state for batches of `images` images, where it isn't: the size is another,
    /// or the last batch failed.
    fn set_up(&mut self, images: usize) -> Result<(), GpuError> {
        if self.size == Some(images) {
            return Ok(());
        }
        self.size = None;
        let handle = self.state.handle();
        let _current = handle.enter()?;
        // SAFETY: the state was made with this handle; the rest are numbers.
        handle.check("nvjpegDecodeBatchedInitialize", unsafe {
            (handle.api().batched_initialize)(
                handle.raw(),
                self.state.raw(),
                int(images),
                CPU_THREADS,
                OUTPUT_RGBI,
            )
        })?;
        self.size = Some(images);
        Ok(())
    }
}

/// Sizes beyond an int are nvJPEG's to refuse.
fn int(size: usize) -> c_int {
    c_int::try_from(size).unwrap_or(c_int::MAX)
}
