//! nvJPEG's pixels beside the CPU decoder's, whole images, kind by kind.
//!
//! Enters: the kinds, a lane. Leaves: of each kind that the lane takes, the mean and the largest
//! difference in grey levels; of the others, nvJPEG's word. Never: a crop or a resize, so what
//! differs is the decoders' alone.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use loaderd_decode::{Decoder, Limits, Options};
use loaderd_gpu::nvjpeg::{BatchDecoder, Destination, Handle, HybridDecoder, JpegStream};
use loaderd_gpu::routing::route;
use serde_json::{Value, json};

use crate::device::{Gpu, Lane, mended};
use crate::photos::{ALL, KINDS, Photo, Photos};

const POISON: u8 = 0xab;

/// Compares all kinds.
///
/// # Errors
/// Where the lane is not there, or the device fails.
pub(crate) fn compare(gpu: &Gpu, pictures: &Path, lane: Lane, is_plain: bool) -> Result<Value> {
    let handle = gpu.handle(lane, is_plain)?;
    let mut decoder = Decoder::new(Limits::default());
    let mut each = Vec::new();
    let upright = Options {
        exif_orientation: false,
        ..Options::default()
    };
    for photo in Photos::read(&pictures.join(KINDS))?.files {
        let decision = route(&photo.jpeg, &ALL);
        let mut said = json!({"name": photo.name, "route": decision.route.word()});
        match decode(gpu, &handle, lane, &photo)? {
            Err(why) => said["why_not"] = json!(why),
            Ok(found) => {
                let cpu = decoder.decode_full(&photo.jpeg, upright)?;
                let (mut sum, mut most) = (0u64, 0u8);
                for (a, b) in found.iter().zip(&cpu.rgb) {
                    let difference = a.abs_diff(*b);
                    sum += u64::from(difference);
                    most = most.max(difference);
                }
                said["mean"] = json!(sum as f64 / cpu.rgb.len() as f64);
                said["most"] = json!(most);
            }
        }
        each.push(said);
    }
    Ok(json!({"lane": format!("{lane:?}").to_lowercase(), "is_plain": is_plain, "kinds": each}))
}

/// RGB without gaps, or why nvJPEG does not decode it.
///
/// # Errors
/// Where the device fails.
pub(crate) fn decode(
    gpu: &Gpu,
    handle: &Arc<Handle>,
    lane: Lane,
    photo: &Photo,
) -> Result<Result<Vec<u8>, String>> {
    let stream = gpu.context.stream().map_err(mended)?;
    let mut jpeg = JpegStream::new(handle).map_err(mended)?;
    let parsed = match jpeg.parse(&photo.jpeg) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (pitch, row) = (photo.pitch(), photo.width as usize * 3);
    let mut memory = gpu
        .context
        .allocate(pitch * photo.height as usize)
        .map_err(mended)?;
    // SAFETY: the stream is waited for before anything else.
    unsafe { memory.fill(POISON, &stream) }.map_err(mended)?;
    stream.synchronize().map_err(mended)?;
    let destination = Destination {
        address: memory.address(),
        pitch_bytes: pitch,
    };
    let status = if lane == Lane::Phases {
        let mut decoder = HybridDecoder::new(handle).map_err(mended)?;
        if decoder.is_supported(&parsed) != Ok(true) {
            return Ok(Err("not supported".into()));
        }
        // SAFETY: the decoder is new, the bytes stay, and the memory is this image's alone.
        let status = unsafe {
            decoder
                .host(&parsed)
                .and_then(|()| decoder.transfer(&parsed, &stream))
                .and_then(|()| decoder.device(&destination, &stream))
        };
        stream.synchronize().map_err(mended)?;
        status
    } else {
        if parsed.is_supported(None) != Ok(true) {
            return Ok(Err("not supported".into()));
        }
        let mut decoder = BatchDecoder::new(handle).map_err(mended)?;
        // SAFETY: the state is new, the bytes stay, and the memory is this image's alone.
        let status = unsafe { decoder.decode(&[&photo.jpeg], &[destination], &[], &stream) };
        stream.synchronize().map_err(mended)?;
        status
    };
    if let Err(error) = status {
        return Ok(Err(error.to_string()));
    }
    let mut padded = vec![0; pitch * photo.height as usize];
    memory.read(0, &mut padded, &stream).map_err(mended)?;
    let rows = padded.chunks_exact(pitch).flat_map(|line| &line[..row]);
    Ok(Ok(rows.copied().collect()))
}
