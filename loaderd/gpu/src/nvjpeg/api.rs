//! The functions and structs of nvJPEG that we use, as nvjpeg.h of CUDA 12 and 13 declares
//! them. Its enums are ints to us, so that no number of a later version does harm.

use std::ffi::{c_int, c_uchar, c_uint, c_void};

use super::Destination;
use crate::library::functions;

/// `nvjpegHandle_t` and all other handles, and `cudaStream_t`: pointers that only the
/// libraries follow.
pub(crate) type Opaque = *mut c_void;

/// `NVJPEG_OUTPUT_RGBI`: interleaved RGB in the first channel.
pub(crate) const OUTPUT_RGBI: c_int = 5;

/// `nvjpegImage_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Image {
    channel: [*mut c_uchar; 4],
    pitch: [usize; 4],
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
        create = "nvjpegCreateEx": fn(c_int, *mut c_void, *mut c_void, c_uint, *mut Opaque);
        destroy = "nvjpegDestroy": fn(Opaque);
        get_hardware_decoder_info = "nvjpegGetHardwareDecoderInfo":
            fn(Opaque, *mut c_uint, *mut c_uint);

        state_create = "nvjpegJpegStateCreate": fn(Opaque, *mut Opaque);
        state_destroy = "nvjpegJpegStateDestroy": fn(Opaque);
        batched_initialize = "nvjpegDecodeBatchedInitialize":
            fn(Opaque, Opaque, c_int, c_int, c_int);
        batched_pre_allocate = "nvjpegDecodeBatchedPreAllocate":
            fn(Opaque, Opaque, c_int, c_int, c_int, c_int, c_int);
        batched = "nvjpegDecodeBatched":
            fn(Opaque, Opaque, *const *const c_uchar, *const usize, *mut Image, Opaque);
        batched_ex = "nvjpegDecodeBatchedEx":
            fn(Opaque, Opaque, *const *const c_uchar, *const usize, *mut Image, *mut Opaque, Opaque);
        batched_supported = "nvjpegDecodeBatchedSupported": fn(Opaque, Opaque, *mut c_int);
        batched_supported_ex = "nvjpegDecodeBatchedSupportedEx":
            fn(Opaque, Opaque, Opaque, *mut c_int);

        stream_create = "nvjpegJpegStreamCreate": fn(Opaque, *mut Opaque);
        stream_destroy = "nvjpegJpegStreamDestroy": fn(Opaque);
        stream_parse = "nvjpegJpegStreamParse":
            fn(Opaque, *const c_uchar, usize, c_int, c_int, Opaque);
        stream_parse_header = "nvjpegJpegStreamParseHeader":
            fn(Opaque, *const c_uchar, usize, Opaque);
        stream_encoding = "nvjpegJpegStreamGetJpegEncoding": fn(Opaque, *mut c_int);
        stream_dimensions = "nvjpegJpegStreamGetFrameDimensions":
            fn(Opaque, *mut c_uint, *mut c_uint);
        stream_components = "nvjpegJpegStreamGetComponentsNum": fn(Opaque, *mut c_uint);
        stream_subsampling = "nvjpegJpegStreamGetChromaSubsampling": fn(Opaque, *mut c_int);

        params_create = "nvjpegDecodeParamsCreate": fn(Opaque, *mut Opaque);
        params_destroy = "nvjpegDecodeParamsDestroy": fn(Opaque);
        params_output_format = "nvjpegDecodeParamsSetOutputFormat": fn(Opaque, c_int);
        params_scale_factor = "nvjpegDecodeParamsSetScaleFactor": fn(Opaque, c_int);

        decoder_create = "nvjpegDecoderCreate": fn(Opaque, c_int, *mut Opaque);
        decoder_destroy = "nvjpegDecoderDestroy": fn(Opaque);
        decoder_supported = "nvjpegDecoderJpegSupported":
            fn(Opaque, Opaque, Opaque, *mut c_int);
        decoder_state_create = "nvjpegDecoderStateCreate": fn(Opaque, Opaque, *mut Opaque);
        pinned_create = "nvjpegBufferPinnedCreate": fn(Opaque, *mut c_void, *mut Opaque);
        pinned_destroy = "nvjpegBufferPinnedDestroy": fn(Opaque);
        device_create = "nvjpegBufferDeviceCreate": fn(Opaque, *mut c_void, *mut Opaque);
        device_destroy = "nvjpegBufferDeviceDestroy": fn(Opaque);
        attach_pinned = "nvjpegStateAttachPinnedBuffer": fn(Opaque, Opaque);
        attach_device = "nvjpegStateAttachDeviceBuffer": fn(Opaque, Opaque);
        decode_host = "nvjpegDecodeJpegHost": fn(Opaque, Opaque, Opaque, Opaque, Opaque);
        decode_transfer = "nvjpegDecodeJpegTransferToDevice":
            fn(Opaque, Opaque, Opaque, Opaque, Opaque);
        decode_device = "nvjpegDecodeJpegDevice": fn(Opaque, Opaque, Opaque, *mut Image, Opaque);
    }
}
