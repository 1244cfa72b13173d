//! A JPEG's header as nvJPEG reads it, and the parameters of a decode.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;

use super::api::OUTPUT_RGBI;
use super::handle::{Handle, Owned};
use super::{Backend, Subsampling};
use crate::error::GpuError;

/// Room for what nvJPEG reads from one JPEG at a time (`nvjpegJpegStream_t`).
pub struct JpegStream {
    owned: Owned,
}

impl JpegStream {
    /// Makes one, for the handle given.
    pub fn new(handle: &Arc<Handle>) -> Result<JpegStream, GpuError> {
        let owned = Owned::new(
            handle,
            "nvjpegJpegStreamCreate",
            // SAFETY: both come from the handle, whose context is current.
            |api, handle, raw| unsafe { (api.stream_create)(handle, raw) },
            handle.api().stream_destroy,
        )?;
        Ok(JpegStream { owned })
    }

    /// Reads the header of `encoded`: enough to ask what it holds, and who decodes it.
    pub fn parse_header<'a>(&'a mut self, encoded: &'a [u8]) -> Result<ParsedJpeg<'a>, GpuError> {
        self.read(encoded, false)
    }

    /// Reads all of `encoded`, without a copy, for a decode in phases.
    pub fn parse<'a>(&'a mut self, encoded: &'a [u8]) -> Result<ParsedJpeg<'a>, GpuError> {
        self.read(encoded, true)
    }

    fn read<'a>(
        &'a mut self,
        encoded: &'a [u8],
        is_whole: bool,
    ) -> Result<ParsedJpeg<'a>, GpuError> {
        let (handle, stream) = (self.owned.handle(), self.owned.raw());
        let (api, raw) = (handle.api(), handle.raw());
        let (data, length) = (encoded.as_ptr(), encoded.len());
        let current = handle.enter()?;
        // SAFETY: here and below, `encoded` is borrowed for as long as the answer, which alone
        // uses the stream.
        let header = || unsafe { (api.stream_parse_header)(raw, data, length, stream) };
        // SAFETY: as above; neither metadata nor the bytes themselves are copied.
        let whole = || unsafe { (api.stream_parse)(raw, data, length, 0, 0, stream) };
        if is_whole {
            handle.check("nvjpegJpegStreamParse", whole())?;
        } else {
            handle.check("nvjpegJpegStreamParseHeader", header())?;
        }
        drop(current);
        Ok(ParsedJpeg {
            stream: self,
            _encoded: encoded,
            is_whole,
        })
    }
}

/// What nvJPEG says of a JPEG's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The frame header's marker, without its first byte: 0xc0 is baseline.
    pub marker: u8,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Components.
    pub components: u32,
    /// Chroma subsampling; `None` where it is none of ours (4:1:0 of another kind, or unknown).
    pub subsampling: Option<Subsampling>,
}

/// A JPEG that a [`JpegStream`] has read.
pub struct ParsedJpeg<'a> {
    pub(super) stream: &'a JpegStream,
    // The stream points into it.
    _encoded: &'a [u8],
    /// Whether more than the header was read.
    pub(super) is_whole: bool,
}

impl ParsedJpeg<'_> {
    pub(super) fn raw(&self) -> super::api::Opaque {
        self.stream.owned.raw()
    }

    /// What the frame header says.
    pub fn frame(&self) -> Result<Frame, GpuError> {
        let (handle, raw) = (self.stream.owned.handle(), self.raw());
        let api = handle.api();
        let _current = handle.enter()?;
        let (mut encoding, mut subsampling): (c_int, c_int) = (0, -1);
        let (mut width, mut height, mut components): (c_uint, c_uint, c_uint) = (0, 0, 0);
        // SAFETY: here and below, the stream was parsed, and the others are live ints.
        handle.check("nvjpegJpegStreamGetJpegEncoding", unsafe {
            (api.stream_encoding)(raw, &mut encoding)
        })?;
        // SAFETY: as above.
        handle.check("nvjpegJpegStreamGetFrameDimensions", unsafe {
            (api.stream_dimensions)(raw, &mut width, &mut height)
        })?;
        // SAFETY: as above.
        handle.check("nvjpegJpegStreamGetComponentsNum", unsafe {
            (api.stream_components)(raw, &mut components)
        })?;
        // SAFETY: as above.
        handle.check("nvjpegJpegStreamGetChromaSubsampling", unsafe {
            (api.stream_subsampling)(raw, &mut subsampling)
        })?;
        Ok(Frame {
            marker: u8::try_from(encoding).unwrap_or(0),
            width,
            height,
            components,
            subsampling: Subsampling::of(subsampling),
        })
    }

    /// Whether the handle's backend decodes this one in a batch, with these parameters where
    /// some are given. Header-level routing is a guess that saves this call; its word counts.
    pub fn is_supported(&self, params: Option<&Params>) -> Result<bool, GpuError> {
        let handle = self.stream.owned.handle();
        let mut answer: c_int = -1;
        let _current = handle.enter()?;
        match params {
            // SAFETY: the stream was parsed with the same handle; `answer` is a live int.
            None => handle.check("nvjpegDecodeBatchedSupported", unsafe {
                (handle.api().batched_supported)(handle.raw(), self.raw(), &mut answer)
            })?,
            // SAFETY: as above.
            Some(params) => handle.check("nvjpegDecodeBatchedSupportedEx", unsafe {
                (handle.api().batched_supported_ex)(
                    handle.raw(),
                    self.raw(),
                    params.raw(),
                    &mut answer,
                )
            })?,
        }
        // "sets is_supported value to 0 if decoder is capable" (nvjpeg.h).
        Ok(answer == 0)
    }
}

/// By how much an image is shrunk while it is decoded, by the hardware engines only
/// (`nvjpegScaleFactor_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Not at all, `NVJPEG_SCALE_NONE`.
    Full = 0,
    /// To a half, `NVJPEG_SCALE_1_BY_2`.
    Half = 1,
    /// To a quarter, `NVJPEG_SCALE_1_BY_4`.
    Quarter = 2,
    /// To an eighth, `NVJPEG_SCALE_1_BY_8`.
    Eighth = 3,
}

/// Parameters of a decode to interleaved RGB.
pub struct Params {
    owned: Owned,
}

impl Params {
    /// Makes some. Scales other than [`Scale::Full`] are for [`Backend::Hardware`].
    pub fn new(handle: &Arc<Handle>, scale: Scale) -> Result<Params, GpuError> {
        let owned = Owned::new(
            handle,
            "nvjpegDecodeParamsCreate",
            // SAFETY: both come from the handle, whose context is current.
            |api, handle, raw| unsafe { (api.params_create)(handle, raw) },
            handle.api().params_destroy,
        )?;
        let current = handle.enter()?;
        // SAFETY: made above.
        handle.check("nvjpegDecodeParamsSetOutputFormat", unsafe {
            (handle.api().params_output_format)(owned.raw(), OUTPUT_RGBI)
        })?;
        if handle.backend() == Backend::Hardware {
            // SAFETY: as above.
            handle.check("nvjpegDecodeParamsSetScaleFactor", unsafe {
                (handle.api().params_scale_factor)(owned.raw(), scale as c_int)
            })?;
        }
        drop(current);
        Ok(Params { owned })
    }

    pub(super) fn raw(&self) -> super::api::Opaque {
        self.owned.raw()
    }
}
