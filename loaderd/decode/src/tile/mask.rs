//! A PNG of class numbers → the same file with its values as runs besides.
//!
//! Enters: the bytes of one PNG. Leaves: the file with one private chunk more, right before the
//! image data, or why there is none. Never: another pixel, a chunk of the file changed or moved,
//! or a file that any reader of PNGs would show otherwise.

use super::{Differs, NotTiled};
use crate::error::DecodeError;
use crate::limits::Limits;
use crate::opened::Region;
use crate::png::runs::{NAME, Writer};
use crate::png::{Chunk, FRAME_BYTES, Layout, SIGNATURE_BYTES};
use zlib_rs::crc32::crc32;

/// Of so many pixels there may be one run on average: with more, sampling runs would gain little.
const PIXELS_A_RUN: u64 = 8;

/// The runs may have so many times the file's bytes.
const FILE_SIZES: usize = 4;

/// What [`tiled_form`](super::tiled_form) says of masks. Takes about as long as decoding one whole.
pub(super) fn tile(encoded: &[u8], limits: &Limits) -> Result<Vec<u8>, NotTiled> {
    let layout = Layout::of(encoded)?;
    let kind = |what| Err(NotTiled::Kind { what });
    if layout.check_values().is_err() {
        return Err(NotTiled::NotMask);
    }
    if !layout.is_in_order() {
        return kind("an interlaced PNG");
    }
    let header = layout.header();
    limits.check_pixels(&header)?;
    layout.check_data()?;
    // Runs that are damaged are replaced, as those of another picture are.
    if matches!(layout.runs(), Ok(Some(_))) {
        return Err(NotTiled::Already);
    }
    let pixels_share = (header.pixels() / PIXELS_A_RUN * 2) as usize;
    let runs_bytes_max = pixels_share.min(encoded.len() * FILE_SIZES);
    // The chunk is held three times, and once more in the file.
    let chunk_bytes = u64::from(header.height) * 2 + runs_bytes_max as u64;
    limits.check_scratch(&header, layout.scratch_bytes() + 4 * chunk_bytes)?;
    let whole = whole(&layout);
    let mut writer = Writer::new(header.height, runs_bytes_max);
    layout.show_values(&whole, &mut Vec::new(), |_, row| {
        writer.push(&row[..header.width as usize]);
    })?;
    let Some(body) = writer.finish(layout.picture()) else {
        return kind("a PNG of many runs");
    };
    let summed = [&NAME[..], &body].concat();
    let mut file = Vec::with_capacity(encoded.len() + FRAME_BYTES + body.len());
    file.extend_from_slice(&encoded[..SIGNATURE_BYTES]);
    let mut is_written = false;
    let (chunks, behind) = chunks(encoded);
    for (chunk, bytes) in chunks {
        if &chunk.name == b"IDAT" && !is_written {
            file.extend_from_slice(&(body.len() as u32).to_be_bytes());
            file.extend_from_slice(&summed);
            file.extend_from_slice(&crc32(0, &summed).to_be_bytes());
            is_written = true;
        }
        // One of an earlier picture goes.
        if chunk.name != NAME {
            file.extend_from_slice(bytes);
        }
    }
    file.extend_from_slice(behind);
    Ok(file)
}

/// Decodes the original's values whole, and compares every one with the tiled file's runs, and all
/// other chunks byte for byte.
pub(super) fn verify(original: &[u8], tiled: &[u8], limits: &Limits) -> Result<(), Differs> {
    let undecodable = |which| move |error| Differs::Undecodable { which, error };
    let differ = |what| Err(Differs::Content { what });
    let (chunks_of_one, behind_one) = chunks(original);
    let (chunks_of_other, behind_other) = chunks(tiled);
    let others = |(chunk, bytes): (Chunk<'_>, _)| (chunk.name != NAME).then_some(bytes);
    if !chunks_of_one
        .filter_map(others)
        .eq(chunks_of_other.filter_map(others))
        || behind_one != behind_other
    {
        return differ("chunks");
    }
    let layout = Layout::of(original).map_err(undecodable("original"))?;
    let tiled_layout = Layout::of(tiled).map_err(undecodable("tiled file"))?;
    let header = layout.header();
    let fits = || -> Result<(), DecodeError> {
        layout.check_values()?;
        limits.check_pixels(&header)?;
        layout.check_data()?;
        limits.check_scratch(&header, layout.scratch_bytes())
    };
    fits().map_err(undecodable("original"))?;
    let runs = tiled_layout.runs().map_err(undecodable("tiled file"))?;
    let Some(mut runs) = runs else {
        return Err(Differs::NoRuns);
    };
    let whole = whole(&layout);
    let mut line = vec![0; header.width as usize];
    let mut outcome = Ok(());
    let mut compare = |y, values: &[u8]| {
        let row = runs.row(y);
        let filled = runs.fill(row, &whole, &mut line);
        let width = header.width as usize;
        match filled {
            _ if outcome.is_err() => {}
            Err(error) => outcome = Err(undecodable("tiled file")(error)),
            Ok(()) if line[..width] != values[..width] => outcome = differ("values"),
            Ok(()) => {}
        }
    };
    layout
        .show_values(&whole, &mut Vec::new(), &mut compare)
        .map_err(undecodable("original"))?;
    outcome
}

fn whole(layout: &Layout<'_>) -> Region {
    let header = layout.header();
    Region {
        left: 0,
        right: header.width,
        top: 0,
        bottom: header.height,
    }
}

/// A PNG's chunks with their bytes up to the end of the picture, and what lies behind that.
fn chunks(encoded: &[u8]) -> (impl Iterator<Item = (Chunk<'_>, &[u8])>, &[u8]) {
    let whole = encoded.get(SIGNATURE_BYTES..).unwrap_or_default();
    let walk = move || {
        let (mut rest, mut ended) = (whole, false);
        std::iter::from_fn(move || {
            let chunk = Chunk::first_of(rest).filter(|_| !ended)?;
            let (bytes, behind) = rest.split_at(FRAME_BYTES + chunk.body.len());
            (rest, ended) = (behind, &chunk.name == b"IEND");
            Some((chunk, bytes))
        })
    };
    let bytes: usize = walk().map(|(_, bytes)| bytes.len()).sum();
    (walk(), &whole[bytes..])
}
