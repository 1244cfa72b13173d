//! Whether a decode waits for what its stream was given before, and is waited for by what comes
//! after.
//!
//! Enters: a photo, a device. Leaves: in how many of some trials the decoded pixels were
//! overwritten by work that had been queued before them, for which H100's JPEG engines are known;
//! and in how many a copy that was queued behind the decode was made before it was done. Never: a
//! conclusion; loaderd waits on the host before a decode, and looks for poison behind it, whatever
//! comes out.

use std::time::Instant;

use anyhow::Result;
use loaderd_gpu::nvjpeg::{BatchDecoder, Destination};
use serde_json::{Value, json};

use crate::device::{Gpu, Lane, mended};
use crate::photos::Photo;

const BUSY_FILLS: usize = 64;
/// What the work before the decode writes to its destination.
const EARLIER: u8 = 7;

/// Asks of both backends. `busy_bytes` of memory are filled again and again, so that the stream
/// has something to do.
///
/// # Errors
/// Where memory is short, or a call other than making the backend fails.
pub(crate) fn ask(gpu: &Gpu, photo: &Photo, rounds: u32, busy_bytes: usize) -> Result<Value> {
    let mut answer = json!({});
    for lane in [Lane::Hardware, Lane::Cuda] {
        let name = format!("{lane:?}").to_lowercase();
        answer[name] = match gpu.handle(lane, false) {
            Ok(_) => of_lane(gpu, photo, lane, rounds, busy_bytes)?,
            Err(error) => json!({"why_not": error.to_string()}),
        };
    }
    Ok(answer)
}

fn of_lane(gpu: &Gpu, photo: &Photo, lane: Lane, rounds: u32, busy_bytes: usize) -> Result<Value> {
    let stream = gpu.context.stream().map_err(mended)?;
    let mut decoder = BatchDecoder::new(&gpu.handle(lane, false)?).map_err(mended)?;
    let bytes = photo.pitch() * photo.height as usize;
    let mut busy = gpu.context.allocate(busy_bytes).map_err(mended)?;
    let mut out = gpu.context.allocate(bytes).map_err(mended)?;
    let destination = Destination {
        address: out.address(),
        pitch_bytes: photo.pitch(),
    };
    let mut decode = || {
        // SAFETY: this breaks the rule that no earlier work of the stream uses the destination,
        // which is the question: both write bytes into an allocation that outlives them, and
        // nothing follows from what is found there. The stream is synchronised before the next.
        unsafe { decoder.decode(&[&photo.jpeg], &[destination], &[], &stream) }.map_err(mended)
    };
    // Once, so that what is set up at first use takes no part.
    decode()?;
    stream.synchronize().map_err(mended)?;
    let (mut overtook, mut busy_ms) = (0, 0.0f64);
    for _ in 0..rounds {
        let began = Instant::now();
        // SAFETY: the stream is waited for below, whatever fails before.
        let queued = (0..BUSY_FILLS)
            .try_for_each(|_| unsafe { busy.fill(0, &stream) })
            .and_then(|()| unsafe { out.fill(EARLIER, &stream) });
        let queued = queued.map_err(mended).and_then(|()| decode());
        stream.synchronize().map_err(mended)?;
        queued?;
        busy_ms = busy_ms.max(began.elapsed().as_secs_f64() * 1e3);
        let mut found = vec![0; bytes];
        out.read(0, &mut found, &stream).map_err(mended)?;
        overtook += u32::from(found.iter().all(|&byte| byte == EARLIER));
    }
    let (mut early, mut copied) = (0, gpu.context.pinned(bytes).map_err(mended)?);
    for _ in 0..rounds {
        // SAFETY: the stream is waited for before anything else.
        unsafe { out.fill(EARLIER, &stream) }.map_err(mended)?;
        stream.synchronize().map_err(mended)?;
        let queued = decode().and_then(|()| {
            // SAFETY: both outlive the stream's work, which is waited for below.
            unsafe { out.copy_to(&mut copied, 0, bytes, &stream) }.map_err(mended)
        });
        stream.synchronize().map_err(mended)?;
        queued?;
        let mut found = vec![0; bytes];
        out.read(0, &mut found, &stream).map_err(mended)?;
        early += u32::from(found != copied.bytes());
    }
    Ok(json!({
        "rounds": rounds,
        "overtook": overtook,
        "copied_early": early,
        "busy_ms_max": busy_ms,
    }))
}
