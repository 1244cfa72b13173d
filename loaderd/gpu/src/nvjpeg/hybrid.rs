//! Decoding one image in phases, on host and CUDA cores: for what the engines don't take.

use std::ffi::c_int;
use std::sync::Arc;

use super::api::Image;
use super::handle::{Handle, Owned};
use super::stream::{Params, ParsedJpeg, Scale};
use super::{Backend, Destination};
use crate::cuda::Stream;
use crate::error::GpuError;

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    OnHost,
    OnDevice,
}

/// A decoder with its state and buffers, for one image at a time. To overlap the host's phase
/// of an image with the device's of another, use two.
pub struct HybridDecoder {
    // Fields are dropped in this order: a state before the buffers that are attached to it,
    // and these before the decoder.
    state: Owned,
    _pinned: Owned,
    _device: Owned,
    decoder: Owned,
    params: Params,
    phase: Phase,
}

impl HybridDecoder {
    /// Makes a decoder whose Huffman codes are read on the GPU.
    pub fn new(handle: &Arc<Handle>) -> Result<HybridDecoder, GpuError> {
        let api = handle.api();
        let null = std::ptr::null_mut();
        let decoder = Owned::new(
            handle,
            "nvjpegDecoderCreate",
            // SAFETY: here and below, the handle's context is current, and pointers to be
            // filled in are live; null allocators stand for nvJPEG's own.
            |api, handle, raw| unsafe {
                (api.decoder_create)(handle, Backend::GpuHybrid.number(), raw)
            },
            api.decoder_destroy,
        )?;
        let params = Params::new(handle, Scale::Full)?;
        let pinned = Owned::new(
            handle,
            "nvjpegBufferPinnedCreate",
            // SAFETY: as above.
            |api, handle, raw| unsafe { (api.pinned_create)(handle, null, raw) },
            api.pinned_destroy,
        )?;
        let device = Owned::new(
            handle,
            "nvjpegBufferDeviceCreate",
            // SAFETY: as above.
            |api, handle, raw| unsafe { (api.device_create)(handle, null, raw) },
            api.device_destroy,
        )?;
        // Last, so that it goes first where an error leaves early: see the fields.
        let state = Owned::new(
            handle,
            "nvjpegDecoderStateCreate",
            // SAFETY: as above.
            |api, handle, raw| unsafe { (api.decoder_state_create)(handle, decoder.raw(), raw) },
            api.state_destroy,
        )?;
        let _current = handle.enter()?;
        // SAFETY: both were made above, and the buffer outlives the state.
        handle.check("nvjpegStateAttachPinnedBuffer", unsafe {
            (api.attach_pinned)(state.raw(), pinned.raw())
        })?;
        // SAFETY: as above.
        handle.check("nvjpegStateAttachDeviceBuffer", unsafe {
            (api.attach_device)(state.raw(), device.raw())
        })?;
        Ok(HybridDecoder {
            state,
            _pinned: pinned,
            _device: device,
            decoder,
            params,
            phase: Phase::Idle,
        })
    }

    /// Whether it decodes this one.
    pub fn is_supported(&self, jpeg: &ParsedJpeg<'_>) -> Result<bool, GpuError> {
        let handle = self.decoder.handle();
        let mut answer: c_int = -1;
        let _current = handle.enter()?;
        // SAFETY: all were made with the same library; `answer` is a live int.
        handle.check("nvjpegDecoderJpegSupported", unsafe {
            (handle.api().decoder_supported)(
                self.decoder.raw(),
                jpeg.raw(),
                self.params.raw(),
                &mut answer,
            )
        })?;
        // "sets is_supported value to 0 if decoder is capable" (nvjpeg.h).
        Ok(answer == 0)
    }

    /// The first phase: what the host has to do. Blocks until it is done, and begins anew
    /// whatever came before. The JPEG must have been parsed whole.
    ///
    /// # Safety
    ///
    /// The stream that the image before was decoded on is done with it.
    pub unsafe fn host(&mut self, jpeg: &ParsedJpeg<'_>) -> Result<(), GpuError> {
        assert!(jpeg.is_whole, "only the header was parsed");
        self.phase = Phase::Idle;
        let handle = self.decoder.handle();
        let _current = handle.enter()?;
        // SAFETY: all were made with the same library, and `jpeg` holds its bytes.
        handle.check("nvjpegDecodeJpegHost", unsafe {
            (handle.api().decode_host)(
                handle.raw(),
                self.decoder.raw(),
                self.state.raw(),
                self.params.raw(),
                jpeg.raw(),
            )
        })?;
        self.phase = Phase::OnHost;
        Ok(())
    }

    /// The second phase: queues the copy to the device.
    ///
    /// # Safety
    ///
    /// `jpeg` is the one of the first phase, and stays until `stream` is done with this.
    pub unsafe fn transfer(
        &mut self,
        jpeg: &ParsedJpeg<'_>,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        assert_eq!(self.phase, Phase::OnHost, "the host's phase comes first");
        self.phase = Phase::Idle;
        let handle = self.decoder.handle();
        let _current = handle.enter()?;
        // SAFETY: as above; the caller answers for the rest.
        handle.check("nvjpegDecodeJpegTransferToDevice", unsafe {
            (handle.api().decode_transfer)(
                handle.raw(),
                self.decoder.raw(),
                self.state.raw(),
                jpeg.raw(),
                stream.raw_in(handle.context()),
            )
        })?;
        self.phase = Phase::OnDevice;
        Ok(())
    }

    /// The third phase: queues what the device does.
    ///
    /// # Safety
    ///
    /// Until `stream`, which is the one of the second phase, is done with this, the destination
    /// is device memory with room for the image's rows, of which nobody else makes use.
    pub unsafe fn device(
        &mut self,
        destination: &Destination,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        assert_eq!(self.phase, Phase::OnDevice, "the transfer comes first");
        self.phase = Phase::Idle;
        let handle = self.decoder.handle();
        let _current = handle.enter()?;
        let mut image = Image::of(destination);
        // SAFETY: as above; nvJPEG reads `image` during the call only.
        handle.check("nvjpegDecodeJpegDevice", unsafe {
            (handle.api().decode_device)(
                handle.raw(),
                self.decoder.raw(),
                self.state.raw(),
                &mut image,
                stream.raw_in(handle.context()),
            )
        })
    }
}
