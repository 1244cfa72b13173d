//! The functions and structs of nvJPEG that we use, as nvjpeg.h of CUDA 12 and 13 declares
//! them. Its enums are ints to us, so that no number of a later version does harm. `headers.py`
//! compares all of it with the header: a quoted name is the header's for what follows it.

use std::ffi::{c_int, c_uchar, c_uint, c_void};

use super::Destination;
use crate::library::functions;

/// What only the libraries follow.
pub(crate) type Opaque = *mut c_void;
/// `nvjpegHandle_t`
type Handle = Opaque;
/// `nvjpegJpegState_t`
type State = Opaque;
/// `nvjpegJpegStream_t`
type JpegStream = Opaque;
/// `nvjpegDecodeParams_t`
type Params = Opaque;
/// `nvjpegJpegDecoder_t`
type Decoder = Opaque;
/// `nvjpegBufferPinned_t`
type PinnedBuffer = Opaque;
/// `nvjpegBufferDevice_t`
type DeviceBuffer = Opaque;
/// `nvjpegDevAllocator_t`: none of ours.
type DeviceAllocator = c_void;
/// `nvjpegPinnedAllocator_t`: none of ours.
type PinnedAllocator = c_void;
/// `cudaStream_t`, which is the driver's stream.
type Stream = Opaque;

/// `NVJPEG_OUTPUT_RGBI`: interleaved RGB in the first channel.
pub(crate) const OUTPUT_RGBI: c_int = 5;
/// `NVJPEG_BACKEND_GPU_HYBRID`
pub(crate) const BACKEND_GPU_HYBRID: c_int = 2;
/// `NVJPEG_BACKEND_HARDWARE`
pub(crate) const BACKEND_HARDWARE: c_int = 3;
/// `NVJPEG_FLAGS_BITSTREAM_STRICT`
pub(crate) const BITSTREAM_STRICT: c_uint = 1 << 2;
/// `NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION`, of nvJPEG 12.1 and later.
pub(crate) const UPSAMPLING_WITH_INTERPOLATION: c_uint = 1 << 5;

/// Parts of a version.
pub(crate) mod property {
    use super::c_int;

    /// `MAJOR_VERSION`
    pub(crate) const MAJOR: c_int = 0;
    /// `MINOR_VERSION`
    pub(crate) const MINOR: c_int = 1;
    /// `PATCH_LEVEL`
    pub(crate) const PATCH: c_int = 2;
}

/// What a call returns that failed.
pub(crate) mod status {
    use super::c_int;

    /// `NVJPEG_STATUS_NOT_INITIALIZED`
    pub(crate) const NOT_INITIALIZED: c_int = 1;
    /// `NVJPEG_STATUS_INVALID_PARAMETER`
    pub(crate) const INVALID_PARAMETER: c_int = 2;
    /// `NVJPEG_STATUS_BAD_JPEG`
    pub(crate) const BAD_JPEG: c_int = 3;
    /// `NVJPEG_STATUS_JPEG_NOT_SUPPORTED`
    pub(crate) const JPEG_NOT_SUPPORTED: c_int = 4;
    /// `NVJPEG_STATUS_ALLOCATOR_FAILURE`
    pub(crate) const ALLOCATOR_FAILURE: c_int = 5;
    /// `NVJPEG_STATUS_EXECUTION_FAILED`
    pub(crate) const EXECUTION_FAILED: c_int = 6;
    /// `NVJPEG_STATUS_ARCH_MISMATCH`
    pub(crate) const ARCH_MISMATCH: c_int = 7;
    /// `NVJPEG_STATUS_INTERNAL_ERROR`
    pub(crate) const INTERNAL_ERROR: c_int = 8;
    /// `NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED`
    pub(crate) const IMPLEMENTATION_NOT_SUPPORTED: c_int = 9;
    /// `NVJPEG_STATUS_INCOMPLETE_BITSTREAM`
    pub(crate) const INCOMPLETE_BITSTREAM: c_int = 10;
}

/// `nvjpegImage_t`; its members' names beside ours.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Image {
    channel: [*mut c_uchar; 4], // `channel`
    pitch: [usize; 4],          // `pitch`
}

impl Image {
    pub(crate) fn of(destination: &Destination) -> Image {
        let null = std::ptr::null_mut();
        let first = destination.address as usize as *mut c_uchar;
        Image {
            channel: [first, null, null, null],
            pitch: [destination.pitch_bytes, 0, 0, 0],
        }
    }
}

functions! {
    /// nvjpeg.h: each type below is the one declared there.
    struct Api {
        get_property = "nvjpegGetProperty": fn(c_int, *mut c_int);
        get_cudart_property = "nvjpegGetCudartProperty": fn(c_int, *mut c_int);
        create = "nvjpegCreateEx": fn(c_int, *mut DeviceAllocator, *mut PinnedAllocator, c_uint, *mut Handle);
        destroy = "nvjpegDestroy": fn(Handle);
        get_hardware_decoder_info = "nvjpegGetHardwareDecoderInfo":
            fn(Handle, *mut c_uint, *mut c_uint);

        state_create = "nvjpegJpegStateCreate": fn(Handle, *mut State);
        state_destroy = "nvjpegJpegStateDestroy": fn(State);
        batched_initialize = "nvjpegDecodeBatchedInitialize":
            fn(Handle, State, c_int, c_int, c_int);
        batched_pre_allocate = "nvjpegDecodeBatchedPreAllocate":
            fn(Handle, State, c_int, c_int, c_int, c_int, c_int);
        batched = "nvjpegDecodeBatched":
            fn(Handle, State, *const *const c_uchar, *const usize, *mut Image, Stream);
        batched_ex = "nvjpegDecodeBatchedEx":
            fn(Handle, State, *const *const c_uchar, *const usize, *mut Image, *mut Params, Stream);
        batched_supported = "nvjpegDecodeBatchedSupported": fn(Handle, JpegStream, *mut c_int);
        batched_supported_ex = "nvjpegDecodeBatchedSupportedEx":
            fn(Handle, JpegStream, Params, *mut c_int);

        stream_create = "nvjpegJpegStreamCreate": fn(Handle, *mut JpegStream);
        stream_destroy = "nvjpegJpegStreamDestroy": fn(JpegStream);
        stream_parse = "nvjpegJpegStreamParse":
            fn(Handle, *const c_uchar, usize, c_int, c_int, JpegStream);
        stream_parse_header = "nvjpegJpegStreamParseHeader":
            fn(Handle, *const c_uchar, usize, JpegStream);
        stream_encoding = "nvjpegJpegStreamGetJpegEncoding": fn(JpegStream, *mut c_int);
        stream_dimensions = "nvjpegJpegStreamGetFrameDimensions":
            fn(JpegStream, *mut c_uint, *mut c_uint);
        stream_components = "nvjpegJpegStreamGetComponentsNum": fn(JpegStream, *mut c_uint);
        stream_subsampling = "nvjpegJpegStreamGetChromaSubsampling": fn(JpegStream, *mut c_int);

        params_create = "nvjpegDecodeParamsCreate": fn(Handle, *mut Params);
        params_destroy = "nvjpegDecodeParamsDestroy": fn(Params);
        params_output_format = "nvjpegDecodeParamsSetOutputFormat": fn(Params, c_int);
        params_scale_factor = "nvjpegDecodeParamsSetScaleFactor": fn(Params, c_int);

        decoder_create = "nvjpegDecoderCreate": fn(Handle, c_int, *mut Decoder);
        decoder_destroy = "nvjpegDecoderDestroy": fn(Decoder);
        decoder_supported = "nvjpegDecoderJpegSupported":
            fn(Decoder, JpegStream, Params, *mut c_int);
        decoder_state_create = "nvjpegDecoderStateCreate": fn(Handle, Decoder, *mut State);
        pinned_create = "nvjpegBufferPinnedCreate": fn(Handle, *mut PinnedAllocator, *mut PinnedBuffer);
        pinned_destroy = "nvjpegBufferPinnedDestroy": fn(PinnedBuffer);
        device_create = "nvjpegBufferDeviceCreate": fn(Handle, *mut DeviceAllocator, *mut DeviceBuffer);
        device_destroy = "nvjpegBufferDeviceDestroy": fn(DeviceBuffer);
        attach_pinned = "nvjpegStateAttachPinnedBuffer": fn(State, PinnedBuffer);
        attach_device = "nvjpegStateAttachDeviceBuffer": fn(State, DeviceBuffer);
        decode_host = "nvjpegDecodeJpegHost": fn(Handle, Decoder, State, Params, JpegStream);
        decode_transfer = "nvjpegDecodeJpegTransferToDevice":
            fn(Handle, Decoder, State, JpegStream, Stream);
        decode_device = "nvjpegDecodeJpegDevice": fn(Handle, Decoder, State, *mut Image, Stream);
    }
}
