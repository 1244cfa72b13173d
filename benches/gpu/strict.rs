//! What nvJPEG refuses when it is told to keep to JPEG's letter (`NVJPEG_FLAGS_BITSTREAM_STRICT`).
//!
//! Enters: whole pictures and damaged ones. Leaves: for each of the unit's lanes, which whole ones
//! are refused for that alone, and which damaged ones are, usually and then. Never: a look at the
//! pixels; a verdict on whether the unit should ask for it.

use std::path::Path;

use anyhow::Result;
use loaderd_gpu::nvjpeg::Handle;
use loaderd_gpu::routing::{Route, route};
use serde_json::{Value, json};

use crate::device::{Gpu, Lane, mended};
use crate::photos::{ALL, DAMAGED, KINDS, PHOTOS, Photo, Photos};
use crate::pixels::decode;

/// Asks both lanes; one that is not there says why.
///
/// # Errors
/// Where pictures can't be read.
pub(crate) fn ask(gpu: &Gpu, pictures: &Path) -> Result<Value> {
    let read = |folder| Ok::<_, anyhow::Error>(Photos::read(&pictures.join(folder))?.files);
    let mut whole = read(KINDS)?;
    whole.extend(read(PHOTOS)?);
    let damaged = read(DAMAGED)?;
    let ask = |lane| {
        lane_of(gpu, lane, &whole, &damaged)
            .unwrap_or_else(|error| json!({"why_not": format!("{error:#}")}))
    };
    Ok(json!({"hardware": ask(Lane::Hardware), "phases": ask(Lane::Phases)}))
}

fn lane_of(gpu: &Gpu, lane: Lane, whole: &[Photo], damaged: &[Photo]) -> Result<Value> {
    let takes = |photo: &&Photo| match route(&photo.jpeg, &ALL).route {
        Route::Engine => true,
        Route::Cuda => lane == Lane::Phases,
        Route::Cpu => false,
    };
    let (whole, damaged) = (whole.iter().filter(takes), damaged.iter().filter(takes));
    let files: Vec<&Photo> = whole.clone().chain(damaged).collect();
    let count = whole.count();
    let pass = |is_strict| {
        let make = if is_strict {
            Handle::strict
        } else {
            Handle::new
        };
        let handle = make(&gpu.library, lane.backend(), &gpu.context).map_err(mended)?;
        let refused = |photo: &&Photo| Ok(decode(gpu, &handle, lane, photo)?.err());
        files.iter().map(refused).collect::<Result<Vec<_>>>()
    };
    let (usual, strict) = (pass(false)?, pass(true)?);
    let of = |index: usize| {
        let (usual, strict) = (&usual[index], &strict[index]);
        json!({"name": files[index].name, "usual": usual, "strict": strict})
    };
    let refused: Vec<Value> = (0..count)
        .filter(|&index| usual[index].is_none() && strict[index].is_some())
        .map(of)
        .collect();
    Ok(json!({
        "whole": count,
        "whole_refused": refused,
        "damaged": (count..files.len()).map(of).collect::<Vec<_>>(),
    }))
}
